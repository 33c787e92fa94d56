"""Hospitals that send garbage, or collude: the real loop names them, the others are summed, and the
liar (whose keys the adversary has) learns nothing more than the sum of the honest ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from consortium import Consortium, Entropy, key_of
from loop import Fate, Lie, Played, Told, all_arrives, assert_exact_or_closed, play, signed_anew

from shared_model import canonical, protocol
from shared_model.protocol_sum import agreed_digest
from shared_model.secure_sum import shamir
from shared_model.secure_sum import submission as submission_module
from shared_model.secure_sum.keys import Member
from shared_model.secure_sum.submission import Submission, row_bytes, seal_submission
from shared_model.secure_sum.transcript import Transcript, of_request

LIAR = "s01"
SMALL_ORDER = bytes(32)


@pytest.fixture
def world(tmp_path: Path) -> Consortium:
    """n = 4, t = 3: a round survives one site; the loop begins the epoch."""
    return Consortium(tmp_path / "world", 4, threshold=3)


def lies_in(kind: str, lie: Lie, number: int = 1) -> Lie:
    """The liar lies to one kind of message of one round, and is honest otherwise."""

    def told(what: Told) -> tuple[bytes, bytes] | None:
        return lie(what) if (what.site, what.kind, what.round) == (LIAR, kind, number) else None

    return told


def run_with(world: Consortium, lie: Lie, fate: Fate = all_arrives, **options: Any) -> Played:
    return play(world, lie=lie, fate=fate, liars=[LIAR], **options)


def assert_only_honest_sum(played: Played, number: int = 1) -> None:
    """What adversary and liar have of a round: the sum of the honest survivors, or nothing."""
    world, item = played.world, played.round(number)
    learned = world.adversary.learned(world.truth, number=number)
    honest = [site for site in item.survivors if site != LIAR]
    if item.outcome == "closed":
        honest_sum = [world.adversary.places(*honest, number=number)] if honest else []
        assert learned in ([], honest_sum)
    else:
        assert learned == [world.adversary.places(*honest, number=number)]


def transcript_of(world: Consortium, told: Told) -> Transcript:
    request = protocol.TrainRequest.model_validate_json(told.asked[protocol.SIGNATURE_BYTES :])
    return of_request(request, world.weights)


def resealed(world: Consortium, told: Told) -> bytes:
    """The liar's submission made again, with whatever is patched in its making."""
    request = protocol.TrainRequest.model_validate_json(told.asked[protocol.SIGNATURE_BYTES :])
    transcript = of_request(request, world.weights)
    public = {item.site: bytes.fromhex(item.public_key) for item in request.sum.epoch_keys}
    roster_digest = request.sum.roster_digest
    key = world.node(LIAR).epochs.key(request.sum.epoch, roster_digest)
    member = Member(LIAR, key, public, bytes.fromhex(roster_digest), request.sum.epoch)
    vector = np.zeros(transcript.numbers.padded, dtype=np.uint32)
    return seal_submission(vector, member, transcript, Entropy("the liar's"))


# Trip 1


@pytest.mark.parametrize("length", [-1, 1, -32, None])
def test_submission_of_a_wrong_length_is_named_and_left_out(
    world: Consortium, length: int | None
) -> None:
    """A byte too few or too many, a commitment missing, no body at all."""

    def lie(told: Told) -> tuple[bytes, bytes]:
        if length is None:
            return signed_anew(told, b"")
        body = told.body[:length] if length < 0 else told.body + bytes(length)
        return signed_anew(told, body)

    played = run_with(world, lies_in("train-request", lie))
    assert played.named() == {LIAR}
    assert played.round().survivors == ("s00", "s02", "s03")
    assert_exact_or_closed(played, 1)


@pytest.mark.parametrize("size", [protocol.MAX_HEADER_BYTES + 1, 4 * 1024 * 1024])
def test_oversized_messages_are_named_and_left_out(world: Consortium, size: int) -> None:
    """A header beyond the bound, a body that is many times as long as it may be."""

    def lie(told: Told) -> tuple[bytes, bytes]:
        if size > 1024 * 1024:
            return signed_anew(told, bytes(size))
        return told.header + bytes(size), told.body

    played = run_with(world, lies_in("train-request", lie))
    assert played.named() == {LIAR}
    assert played.round().survivors == ("s00", "s02", "s03")
    assert_exact_or_closed(played, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"weight": 1},
        {"declared_patients": 100_000},
        {"transcript": canonical.digest(b"another")},
        {"request_digest": canonical.digest(b"another")},
        {"site": "s00"},
        {"round": 7},
        {"run": "autumn"},
        {"kind_of_my_own": 1},
    ],
)
def test_submission_that_says_something_else_is_named_and_left_out(
    world: Consortium, changes: dict[str, Any]
) -> None:
    """Another weight, number, transcript, request, site, round, run, an unknown field."""
    played = run_with(world, lies_in("train-request", lambda told: signed_anew(told, **changes)))
    assert played.named() == {LIAR}
    assert played.round().survivors == ("s00", "s02", "s03")
    assert_exact_or_closed(played, 1)


def test_submission_of_another_protocol_version_is_left_out_and_told_as_that(
    world: Consortium,
) -> None:
    """No incident: an honest hospital that was not upgraded does the same (ADR 23)."""
    played = run_with(world, lies_in("train-request", lambda told: signed_anew(told, version=2)))
    assert played.named() == set()
    assert {one.site: one.ending for one in played.round().absent} == {LIAR: "refused"}
    assert played.round().survivors == ("s00", "s02", "s03")
    assert_exact_or_closed(played, 1)


def test_submission_signed_with_another_key_is_named_and_left_out(world: Consortium) -> None:
    """The message of a stranger, and one of s00 sent in the liar's place."""
    messages: dict[str, tuple[bytes, bytes]] = {}

    def lie(told: Told) -> tuple[bytes, bytes] | None:
        if told.kind == "train-request":
            messages[told.site] = told.header, told.body
            if told.site == LIAR:
                return messages["s00"]
        return None

    played = run_with(world, lie)
    assert played.named() == {LIAR}
    assert played.round().survivors == ("s00", "s02", "s03")
    assert_exact_or_closed(played, 1)


def test_wrong_commitment_to_a_self_seed_closes_the_round_and_bars_the_liar(
    world: Consortium,
) -> None:
    """Its seed, put together from good shares, is not the one that it committed to: named, not
    asked again; the next round is summed without it."""

    def lie(told: Told) -> tuple[bytes, bytes]:
        transcript = transcript_of(world, told)
        place = transcript.numbers.packed_bytes + 32
        body = bytearray(told.body)
        body[place : place + 32] = bytes(32)
        return signed_anew(told, bytes(body))

    played = run_with(world, lies_in("train-request", lie))
    assert played.round().outcome == "closed"
    assert played.round().barred == (LIAR,)
    assert played.named() == {LIAR}
    assert played.round(2).participants == ("s00", "s02", "s03")
    assert_only_honest_sum(played, 1)
    assert assert_exact_or_closed(played, 2)


def test_shares_on_no_polynomial_close_the_round_and_bar_the_liar(world: Consortium) -> None:
    """Every share is the committed one, but together they give another seed."""
    real = shamir.split

    def crooked(secrets: Any, *rest: Any) -> Any:
        shares = real(secrets, *rest)
        shares[:, 0] ^= np.arange(1, len(shares) + 1, dtype=np.uint8)[:, None] * 3 + 1
        return shares

    def lie(told: Told) -> tuple[bytes, bytes]:
        with patch.object(submission_module.shamir, "split", crooked):
            return signed_anew(told, resealed(world, told))

    played = run_with(world, lies_in("train-request", lie))
    assert played.round().barred == (LIAR,)
    assert played.named() == {LIAR}
    assert_only_honest_sum(played, 1)
    assert assert_exact_or_closed(played, 2)


def test_row_that_does_not_open_is_named_by_its_receiver_and_costs_nothing(
    world: Consortium,
) -> None:
    """Garbage for s02 only: it says that the row of s01 is unreadable; three others have shares."""

    def lie(told: Told) -> tuple[bytes, bytes]:
        transcript = transcript_of(world, told)
        size = row_bytes(transcript)
        body = bytearray(told.body)
        start = len(body) - size * (len(transcript.participants) - transcript.index("s02"))
        body[start + size - 40 : start + size] = bytes(40)
        return signed_anew(told, bytes(body))

    played = run_with(world, lies_in("train-request", lie))
    assert played.accused() == {("s02", LIAR)}
    assert played.counted() == set()
    assert played.round().survivors == world.names
    assert_only_honest_sum(played)
    assert played.record.state == "finished"


@pytest.mark.parametrize(
    ("n", "t", "spoiled", "barred", "outcome"),
    [
        (7, 5, 6, True, "closed"),
        (7, 5, 3, True, "closed"),
        (7, 5, 2, False, "closed"),
        (7, 5, 1, False, "aggregated"),
        (5, 4, 2, False, "closed"),
    ],
)
def test_rows_that_open_for_too_few_stop_one_round_and_no_run(
    tmp_path: Path, n: int, t: int, spoiled: int, barred: bool, outcome: str
) -> None:
    """Two may collude: a dealer that more than two cannot read is barred, and the run goes on
    without it. Where no more than two cannot, they may be the liars: if t shares of its seed are
    not left (its own node signs nothing of this), it is left out of the next round, unblamed."""
    fresh = Consortium(tmp_path / "more", n, threshold=t)
    assert fresh.signed.roster.collusion_bound == 2

    def lie(told: Told) -> tuple[bytes, bytes]:
        transcript = transcript_of(fresh, told)
        size, count = row_bytes(transcript), len(transcript.participants)
        body = bytearray(told.body)
        others = [site for site in transcript.participants if site != LIAR]
        for site in others[:spoiled]:
            body[len(body) - size * (count - transcript.index(site) - 1) - 1] ^= 1
        return signed_anew(told, bytes(body))

    played = run_with(
        fresh,
        lambda told: (
            lie(told)
            if (told.site, told.kind) == (LIAR, "train-request") and told.body
            else None  # or its node refuses: what it said of its ledger is not in its ledger
        ),
        rounds=2,
    )
    first = played.round()
    assert played.record.state == "finished"
    assert LIAR in {dealer for _, dealer in played.accused()}
    assert first.barred == ((LIAR,) if barred else ())
    assert played.counted() == ({LIAR} if barred else set())
    assert first.outcome == outcome
    if outcome == "closed":
        assert first.reason == "not-opened"
        assert LIAR not in played.round(2).participants
    assert_only_honest_sum(played)


def test_share_that_is_not_the_committed_one_is_named_by_its_receiver(world: Consortium) -> None:
    """The row opens, and what is in it does not fit the commitments under the same seal."""
    real = submission_module.share_commitments

    def crooked(transcript: Any, dealer: str, receiver: str, shares: list[bytes]) -> list[bytes]:
        found = real(transcript, dealer, receiver, shares)
        return [bytes(32), *found[1:]] if receiver == "s02" else found

    def lie(told: Told) -> tuple[bytes, bytes]:
        with patch.object(submission_module, "share_commitments", crooked):
            return signed_anew(told, resealed(world, told))

    played = run_with(world, lies_in("train-request", lie))
    assert played.accused() == {("s02", LIAR)}
    assert "the share of s01 is not the committed" in played.round().incidents[0].reason
    assert played.record.state == "finished"
    assert_only_honest_sum(played)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_updates_that_are_not_finite_or_huge_do_not_poison_or_refuse(
    world: Consortium, value: float
) -> None:
    """An honest hospital whose training went wrong: its node answers, the sum is exact and finite;
    neither message nor refusal tells of it, its own log does."""

    def change(update: np.ndarray) -> np.ndarray:
        update = update.copy()
        update[3, :5] = value
        return update

    world.hospitals["s02"].change = change
    played = play(world)
    assert assert_exact_or_closed(played, 1)
    assert played.round().survivors == world.names
    assert played.named() == set()
    assert all(np.isfinite(array).all() for array in played.folder.weights(played.record).values())
    notes = [item for item in world.hospitals["s02"].log if item["outcome"] == "quantised"]
    assert notes[0]["non_finite"] == (5 if not np.isfinite(value) else 0)
    assert notes[0]["scaled"] == bool(np.isfinite(value))


# Trip 2


def test_agreement_to_something_else_is_named(world: Consortium) -> None:
    """Another set, another transcript; t others have agreed, so the round is summed."""
    for place, changes in enumerate(
        (
            {"agreed": agreed_digest(("s00", LIAR, "s02"), tuple(["0" * 64] * 3), ())},
            {"transcript": canonical.digest(b"another")},
            {"round": 2},
        )
    ):
        fresh = world if not place else Consortium(world.root / str(place), 4, threshold=3)
        told = lies_in("agree-request", lambda told, c=changes: signed_anew(told, **c))
        played = run_with(fresh, told)
        assert played.named() == {LIAR}
        assert assert_sum_with_the_liar(played)


def assert_sum_with_the_liar(played: Played) -> bool:
    """The liar sent a true vector: there is a sum, and of it only the honest part is learned."""
    assert played.round().outcome == "aggregated"
    assert LIAR in played.round().survivors
    assert_only_honest_sum(played)
    return True


# Trip 3


@pytest.mark.parametrize("what", ["random", "zeros", "swapped", "short", "long", "empty"])
def test_garbage_shares_are_named_and_the_others_are_enough(world: Consortium, what: str) -> None:
    """Every opened value is held against its commitment: the round is summed without the liar's."""

    def lie(told: Told) -> tuple[bytes, bytes]:
        body = {
            "random": Entropy("garbage")(len(told.body)),
            "zeros": bytes(len(told.body)),
            "swapped": told.body[32:64] + told.body[:32] + told.body[64:],
            "short": told.body[:-1],
            "long": told.body + bytes(32),
            "empty": b"",
        }[what]
        return signed_anew(told, body)

    played = run_with(world, lies_in("open-request", lie))
    assert played.named() == {LIAR}
    assert assert_sum_with_the_liar(played)


def test_garbage_pair_seed_with_a_dropped_site_is_named_and_rebuilt(world: Consortium) -> None:
    """n = 5, t = 3, s04 drops out: the liar opens a wrong pair seed with it; the others' shares
    give the right one."""
    fresh = Consortium(world.root / "five", 5, threshold=3, colluding_sites=0)

    def lie(told: Told) -> tuple[bytes, bytes]:
        return signed_anew(told, told.body[:-32] + bytes(32))

    played = run_with(
        fresh,
        lies_in("open-request", lie),
        lambda site, kind, number: "unsent" if (site, kind) == ("s04", "train-request") else "",
    )
    assert played.named() == {LIAR}
    assert played.round().survivors == ("s00", LIAR, "s02", "s03")
    assert played.round().outcome == "aggregated"


def test_liar_that_calls_every_row_unreadable_frames_nobody_and_stops_nothing(
    world: Consortium,
) -> None:
    """It is said who says so, and three others open; no dealer is barred."""

    def lie(told: Told) -> tuple[bytes, bytes]:
        return signed_anew(told, b"", unreadable=list(world.names))

    played = run_with(world, lies_in("open-request", lie))
    assert played.round().barred == ()
    assert played.accused() == {(LIAR, site) for site in world.names}
    assert played.counted() == set()
    assert assert_sum_with_the_liar(played)


def test_same_garbage_with_three_sites_closes_the_round_and_names_the_liar(
    tmp_path: Path,
) -> None:
    """n = t = 3: every share is needed; the round is closed, nothing is learned."""
    fresh = Consortium(tmp_path / "three", 3)
    lie = lies_in("open-request", lambda told: signed_anew(told, bytes(len(told.body))))
    played = run_with(fresh, lie, max_failed_rounds=1)
    assert played.round().outcome == "closed"
    assert played.named() == {LIAR}
    assert_only_honest_sum(played)


# Duplicates and late ones


def test_duplicate_and_late_messages_change_nothing(world: Consortium) -> None:
    """The liar answers every message of round 2 with what it said to that of round 1, and each trip
    of round 1 with what it said in the trip before."""
    said: dict[tuple[str, int], tuple[bytes, bytes]] = {}
    before = {"agree-request": "train-request", "open-request": "agree-request"}

    def lie(told: Told) -> tuple[bytes, bytes] | None:
        if told.site != LIAR or told.kind not in {"train-request", *before}:
            return None
        said[told.kind, told.round] = told.header, told.body
        if told.round == 1 and told.kind in before:
            return said[before[told.kind], 1]
        return said.get((told.kind, 1)) if told.round == 2 else None

    played = run_with(world, lie, rounds=3)
    assert [item.outcome for item in played.record.rounds] == ["aggregated"] * 3
    assert [LIAR in played.round(number).survivors for number in (1, 2, 3)] == [True, False, True]
    assert played.named(1) == played.named(2) == {LIAR}
    assert played.named(3) == set()
    for number in (1, 2, 3):
        assert_only_honest_sum(played, number)


@pytest.mark.parametrize("after_s", [8, 70])
@pytest.mark.parametrize("kind", ["train-request", "agree-request", "open-request"])
def test_answers_that_come_late_change_nothing(world: Consortium, kind: str, after_s: int) -> None:
    """After the grace, or after the deadline of its trip: in round 1 and in both that follow there
    is one exact sum each, and nobody is blamed for being slow."""

    def fate(site: str, asked: str, number: int) -> str:
        return f"late {after_s}" if (site, asked, number) == (LIAR, kind, 1) else ""

    played = play(world, rounds=3, fate=fate)
    assert [item.outcome for item in played.record.rounds] == ["aggregated"] * 3
    late_submission = kind == "train-request" and after_s == 70
    assert (LIAR in played.round().survivors) != late_submission
    for number in (1, 2, 3):
        assert_exact_or_closed(played, number)
        assert played.named(number) == set()


def test_refusal_of_one_round_does_not_count_in_another(world: Consortium) -> None:
    """An old refusal, replayed in every trip, is named and takes nobody else out."""

    def lie(told: Told) -> tuple[bytes, bytes]:
        refusal = protocol.Refusal(
            run="spring",
            round=9,
            site=LIAR,
            request_digest=canonical.digest(b"old"),
            reason="budget",
        )
        return protocol.seal(refusal, key_of(LIAR)), b""

    played = run_with(world, lies_in("train-request", lie), rounds=2)
    assert [item.outcome for item in played.record.rounds] == ["aggregated"] * 2
    assert played.named(1) == {LIAR}
    assert LIAR in played.round(2).participants
    assert_only_honest_sum(played, 2)


# Epoch keys


def epoch_lie(world: Consortium, key: Callable[[bytes], bytes]) -> Lie:
    """The liar signs another public key, made from that of s00, as its own."""
    seen: dict[str, str] = {}

    def lie(told: Told) -> tuple[bytes, bytes] | None:
        if told.kind != "epoch-request":
            return None
        seen[told.site] = str(told.said["public_key"])
        if told.site != LIAR:
            return None
        return signed_anew(told, public_key=key(bytes.fromhex(seen["s00"])).hex())

    return lie


@pytest.mark.parametrize("spelling", ["copied", "copied with the top bit set", "small order"])
def test_colluder_that_gives_a_key_that_is_not_its_own_is_named(
    world: Consortium, spelling: str
) -> None:
    """The key of s00, the same with the bit that X25519 ignores, a point that everybody shares a
    secret with: the liar is named, takes no part, and the others are summed."""

    def key(other: bytes) -> bytes:
        if spelling == "small order":
            return SMALL_ORDER
        return other[:31] + bytes([other[31] | 0x80]) if "top bit" in spelling else other

    named: list[str] = []
    played = run_with(world, epoch_lie(world, key), heard=named)
    assert LIAR in named
    assert played.round().survivors == ("s00", "s02", "s03")
    assert assert_exact_or_closed(played, 1)


def test_colluder_with_a_copied_key_finds_no_pair_seed(tmp_path: Path) -> None:
    """Where a coordinator lets the copy pass, by its other spelling: the names are in the
    derivation, so that the copy gives no seed of the pair, and not the colluder's own either."""
    world = Consortium(tmp_path / "copy", 4, threshold=3, colluders=("s03",))
    world.new_epoch()
    copied = bytes.fromhex(world.epoch_keys[0].public_key)
    twisted = copied[:31] + bytes([copied[31] | 0x80])
    entry = world.colluders_key("s03", world.epoch, world.signed, twisted)
    keys = (*world.epoch_keys[:3], entry)
    request = world.request(1, plan={"epoch_keys": keys})
    heard = world.submit(request, world.honest)
    if {item.refused for item in heard.values()} == {""}:
        survivors = ("s00", "s01", "s02")
        world.agree(request, survivors)
        world.open(request, survivors)
        assert world.adversary.learned(world.truth) == [world.adversary.places(*survivors)]
    else:
        assert world.adversary.learned(world.truth) == []


def test_small_order_key_is_refused_by_every_node_before_it_trains(tmp_path: Path) -> None:
    """A hostile coordinator passes on a point of small order: no node answers, each names the
    colluder."""
    world = Consortium(tmp_path / "small", 4, threshold=3, colluders=("s03",))
    world.new_epoch()
    entry = world.colluders_key("s03", world.epoch, world.signed, SMALL_ORDER)
    request = world.request(1, plan={"epoch_keys": (*world.epoch_keys[:3], entry)})
    heard = world.submit(request, world.honest)
    assert {item.refused for item in heard.values()} == {"secure-sum"}
    assert "s03" in str(world.logged("s00")[-1]["message"])
    assert [hospital.trained for hospital in world.hospitals.values()] == [0, 0, 0]
    assert world.adversary.learned(world.truth) == []


# The closing exchange


def test_wrong_answer_of_a_survivor_leaves_the_sum_unverified(world: Consortium) -> None:
    """One false subset sum: no receipt is given to a sum that the answers do not bear out."""

    def lie(told: Told) -> tuple[bytes, bytes]:
        sums = list(told.said["sums"])
        sums[5] = (sums[5] + 1) % 2**20
        return signed_anew(told, sums=sums)

    heard: list[str] = []
    played = run_with(world, lies_in("close-request", lie), heard=heard)
    assert played.round().outcome == "aggregated"
    assert played.folder.closing(1).state == "unverified"
    assert played.folder.closing(1).receipts == {}
    assert LIAR in heard
    assert LIAR not in played.folder.closing(1).answers
    assert_only_honest_sum(played)


def test_submission_parser_names_the_dealer(world: Consortium) -> None:
    """The core's own fault: every length but the right one."""
    from shared_model.errors import PeerFault

    world.new_epoch()
    request = world.request(1)
    heard = world.submit(request)
    transcript, body = world.transcript(request), heard["s00"].body
    for wrong in (b"", body[:-1], body + b"x", body[: transcript.numbers.packed_bytes]):
        with pytest.raises(PeerFault) as caught:
            Submission.parse(wrong, transcript, "s00")
        assert caught.value.site == "s00"
    with pytest.raises(PeerFault) as caught:
        Submission.parse(body, transcript, "s77")
    assert caught.value.site == "s77"
