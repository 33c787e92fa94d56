"""A coordinator that lies about keys, rounds and drop-outs. Each node is told something else;
after every attack the adversary computes what it can, and has nothing but one sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from adversary import Heard
from consortium import RUN_KEY, Consortium, Entropy, key_of

from shared_model import canonical, protocol, protocol_open
from shared_model.protocol import EpochKeyEntry, TrainRequest
from shared_model.protocol_sum import Agreement, EpochKey, SharesReply
from shared_model.secure_sum import keys as sum_keys
from shared_model.secure_sum.submission import row_bytes

World = Callable[..., Consortium]


def refusals(heard: Mapping[str, Heard]) -> set[str]:
    """Reasons of all answers; "" stands for one that was no refusal."""
    return {item.refused for item in heard.values()}


def said(world: Consortium, site: str) -> str:
    """Last line of a hospital's own log about a refusal."""
    return str(world.logged(site)[-1]["message"])


def assert_nothing_opened(world: Consortium) -> None:
    assert world.adversary.opened == []
    assert world.adversary.learned(world.truth) == []


# Keys


def mallorys_key(world: Consortium, label: str = "mallory") -> bytes:
    """A key pair of the coordinator's; it keeps the private half."""
    private = sum_keys.new_epoch_key(Entropy(label))
    world.adversary.private_keys.append(private)
    return sum_keys.public_key(private)


def swapped(
    world: Consortium, victim: str, signature: str | None = None
) -> tuple[EpochKeyEntry, ...]:
    """All epoch keys, the victim's exchanged for the coordinator's own."""
    own = mallorys_key(world).hex()
    return tuple(
        EpochKeyEntry(site=item.site, public_key=own, signature=signature or item.signature)
        if item.site == victim
        else item
        for item in world.epoch_keys
    )


def test_coordinator_that_swaps_an_epoch_key_is_refused_by_everybody(consortium: World) -> None:
    """The key of one site is exchanged for all others; its old signature does not fit."""
    world = consortium(3)
    request = world.request(1, plan={"epoch_keys": swapped(world, "s01")})
    heard = world.submit(request)
    assert heard["s00"].refused == heard["s02"].refused == "secure-sum"
    assert "s01" in said(world, "s00")
    assert heard["s01"].refused == "secure-sum"  # it does not know its own key
    assert_nothing_opened(world)
    assert [hospital.trained for hospital in world.hospitals.values()] == [0, 0, 0]


def test_coordinator_that_swaps_a_key_for_one_node_only_is_refused_by_it(consortium: World) -> None:
    """The others are told the truth; the round cannot be opened without the one."""
    world = consortium(3)
    lied = world.request(1, plan={"epoch_keys": swapped(world, "s01")})
    honest = world.request(1)
    assert refusals(world.submit(lied, ["s00"])) == {"secure-sum"}
    assert refusals(world.submit(honest, ["s01", "s02"])) == {""}
    # s00 has submitted nothing, so there is no head of its ledger that anybody could agree to
    assert refusals(world.agree(honest, world.names, ["s01", "s02"])) == {"ledger"}
    assert refusals(world.open(honest, world.names, ["s01", "s02"])) == {"secure-sum"}
    assert_nothing_opened(world)


def test_swapped_key_with_a_signature_of_somebody_else_is_refused(consortium: World) -> None:
    """Signed by a colluder, by the run key, or by the site itself in another epoch."""
    world = consortium(4, threshold=3, colluders=("s03",))
    old = {item.site: item for item in world.epoch_keys}
    world.new_epoch()
    statement = EpochKey(
        site="s01",
        epoch=world.epoch,
        roster_digest=world.signed.roster.digest,
        public_key=mallorys_key(world).hex(),
    )
    for key in (world.adversary.identities["s03"], RUN_KEY):
        signature = protocol.seal(statement, key)[: protocol.SIGNATURE_BYTES].hex()
        request = world.request(1, plan={"epoch_keys": swapped(world, "s01", signature)})
        assert refusals(world.submit(request, ["s00", "s02"])) == {"secure-sum"}
        assert "s01" in said(world, "s00")
    replayed = tuple(old["s01"] if item.site == "s01" else item for item in world.epoch_keys)
    request = world.request(1, plan={"epoch_keys": replayed})
    assert refusals(world.submit(request, ["s00", "s02"])) == {"secure-sum"}
    assert_nothing_opened(world)


def test_colluder_with_two_keys_of_one_epoch_splits_the_round_and_no_more(
    consortium: World,
) -> None:
    """It signs one key for some nodes and another for the rest: two transcripts, and neither has
    t agreements."""
    world = consortium(5, threshold=4, colluders=("s04",))
    second = world.colluders_key("s04", world.epoch, world.signed, mallorys_key(world, "second"))
    other = tuple(second if item.site == "s04" else item for item in world.epoch_keys)
    first, split = world.request(1), world.request(1, plan={"epoch_keys": other})
    world.submit(first, ["s00", "s01", "s04"])
    world.submit(split, ["s02", "s03"])
    for request, sites in ((first, ["s00", "s01"]), (split, ["s02", "s03"])):
        world.agree(request, world.names, sites)
        assert refusals(world.open(request, world.names, sites)) == {"secure-sum"}
    assert_nothing_opened(world)


# Transcripts


@pytest.mark.parametrize("what", ["participants", "model", "training", "round", "run"])
def test_nodes_that_were_told_different_rounds_make_no_sum(consortium: World, what: str) -> None:
    """Another P, model, configuration, round or run for one node: its agreements fit nowhere."""
    world = consortium(5, threshold=4)
    odd_model = {"head": world.model["head"] + 1}
    request = world.request(2)
    other = {
        "participants": lambda: world.request(2, ("s00", "s01", "s02", "s03")),
        "model": lambda: world.request(2, model=odd_model),
        "training": lambda: world.request(2, minimum_contributors=4),
        "round": lambda: world.request(3),
        "run": lambda: world.request(2, run="autumn"),
    }[what]()
    model = odd_model if what == "model" else None
    assert refusals(world.submit(other, ["s00", "s01"], model=model)) == {""}
    assert refusals(world.submit(request, ["s02", "s03", "s04"])) == {""}
    survivors = ("s00", "s01", "s02", "s03")
    world.agree(other, survivors, ["s00", "s01"])
    world.agree(request, survivors, ["s02", "s03"])
    assert refusals(world.agree(request, survivors, ["s00"])) == {"secure-sum"}
    everything = {
        **world.agreements(world.agree_request(request, survivors)),
        **world.agreements(world.agree_request(other, survivors)),
    }
    assert set(everything) == set(survivors)
    for asked, sites in ((other, ["s00", "s01"]), (request, ["s02", "s03"])):
        heard = world.open(asked, survivors, sites, agreements=everything)
        assert refusals(heard) == {"secure-sum"}
    assert "s02 has" in said(world, "s00")
    assert "s00 has" in said(world, "s02")
    assert_nothing_opened(world)


def test_same_round_with_another_participant_set_is_refused(consortium: World) -> None:
    """Each node answers one request per round; the second is a conflict, and nothing is trained."""
    world = consortium(5, threshold=3, colluding_sites=0)
    first = world.request(1)
    survivors = world.names
    world.submit(first)
    world.agree(first, survivors)
    world.open(first, survivors)
    second = world.request(1, ("s00", "s01", "s02", "s03"))
    assert refusals(world.submit(second)) == {"conflict"}
    assert [hospital.trained for hospital in world.hospitals.values()] == [1] * 5
    assert any(item.get("alarm") == "secure-sum" for item in world.logged("s00"))
    assert world.adversary.learned(world.truth) == [world.adversary.places(*survivors)]


def test_round_that_was_not_opened_cannot_be_asked_again_with_fewer_sites(
    consortium: World,
) -> None:
    """All agreed, nobody opened; then the same round without one site: refused, not retried."""
    world = consortium(5, threshold=3, colluding_sites=0)
    first = world.request(1)
    world.submit(first)
    world.agree(first, world.names)
    again = world.request(1, ("s00", "s01", "s02", "s03"))
    assert refusals(world.submit(again)) == {"conflict"}
    assert refusals(world.agree(first, ("s00", "s01", "s02"))) == {"conflict"}
    assert refusals(world.open(first, ("s00", "s01", "s02"))) == {"conflict"}
    assert_nothing_opened(world)


# Replays


def test_replayed_messages_give_the_same_bytes_or_nothing(consortium: World) -> None:
    """Every message of a finished round once more, also after the next round began."""
    world = consortium(4, threshold=3)
    survivors = ("s00", "s01", "s02")
    request = world.request(1)
    world.submit(request, survivors)
    world.agree(request, survivors)
    world.open(request, survivors)
    answers = [item for item in world.adversary.heard if item.site in survivors]
    world.submit(world.request(2), world.names)
    for item in answers:
        again = world.say_bytes(item.site, item.request, item.asked)
        assert again.refused or (again.header, again.body) == (item.header, item.body)
    assert [world.hospitals[site].trained for site in survivors] == [2, 2, 2]
    first = {
        place: 1
        for place, seen in enumerate(world.adversary.targets())
        if seen.transcript.round == 1
    }
    assert world.adversary.learned(world.truth) == [first]


def test_agreements_of_an_earlier_round_open_nothing_in_a_later_one(consortium: World) -> None:
    """t old agreements for the same set of sites; the node names the first that does not fit."""
    world = consortium(4, threshold=3)
    survivors = ("s00", "s01", "s02")
    for number in (1, 2):
        world.submit(world.request(number), survivors)
    # of round 1 nobody signs any more: round 2 began
    assert refusals(world.agree(world.request(1), survivors)) == {"late"}
    world.agree(world.request(2), survivors)
    world.submit(world.request(3), survivors)
    request = world.request(3)
    old = world.agreements(world.agree_request(world.request(2), survivors))
    assert len(old) == 3
    world.agree(request, survivors, ["s00"])
    assert refusals(world.open(request, survivors, ["s00"], agreements=old)) == {"secure-sum"}
    assert "s00 has agreed to something else" in said(world, "s00")
    assert_nothing_opened(world)


def test_late_agree_and_open_of_an_older_round_are_refused(consortium: World) -> None:
    """Two rounds are not open at once: round 1 was not agreed on before round 2 began."""
    world = consortium(3)
    first = world.request(1)
    world.submit(first)
    world.submit(world.request(2))
    assert refusals(world.agree(first, world.names)) == {"late"}
    assert refusals(world.open(first, world.names)) == {"secure-sum"}
    assert_nothing_opened(world)


# Drop-outs that are none


def test_one_node_shown_as_survivor_to_some_and_as_dropped_to_others(consortium: World) -> None:
    """n = 4, t = 3: one set has three agreements and is opened; the other one never."""
    world = consortium(4, threshold=3)
    request = world.request(1)
    world.submit(request)
    with_it, without = ("s00", "s01", "s02"), ("s01", "s02", "s03")
    world.agree(request, with_it, ["s00", "s01"])
    world.agree(request, without, ["s02", "s03"])
    for survivors in (with_it, without):
        assert refusals(world.open(request, survivors)) == {"secure-sum", "conflict"}
        assert refusals(world.agree(request, survivors)) == {"", "conflict"}
    mixed = {
        **world.agreements(world.agree_request(request, with_it)),
        **world.agreements(world.agree_request(request, without)),
    }
    for survivors in (with_it, without):
        names = {site: mixed[site] for site in survivors}
        heard = world.open(request, survivors, agreements=names)
        assert refusals(heard) == {"secure-sum", "conflict"}
    assert_nothing_opened(world)


def test_different_survivor_sets_for_different_nodes_open_nothing(consortium: World) -> None:
    """The attack of three parts that needs no colluder: nothing is opened to anybody."""
    world = consortium(5, threshold=3, colluding_sites=0)
    request = world.request(1)
    world.submit(request)
    parts = {
        ("s00", "s01", "s02"): ["s00"],
        ("s01", "s02", "s03"): ["s01", "s02"],
        ("s00", "s03", "s04"): ["s03", "s04"],
    }
    for survivors, shown in parts.items():
        assert refusals(world.agree(request, survivors, shown)) == {""}
    for survivors, shown in parts.items():
        assert refusals(world.open(request, survivors, shown, missing=survivors)) == {"secure-sum"}
    assert_nothing_opened(world)


def test_three_disjoint_survivor_sets_are_below_the_threshold(consortium: World) -> None:
    """Six sites in three pairs; and in sets filled up to the threshold, each shown to one pair."""
    world = consortium(6, threshold=4)
    request = world.request(1)
    world.submit(request)
    pairs = [("s00", "s01"), ("s02", "s03"), ("s04", "s05")]
    for pair in pairs:
        assert refusals(world.agree(request, pair)) == {"threshold"}
    for place, pair in enumerate(pairs):
        filled = tuple(sorted({*pair, *pairs[(place + 1) % 3]}))
        assert refusals(world.agree(request, filled, pair)) == {""}
        assert refusals(world.open(request, filled, pair)) == {"secure-sum"}
    assert_nothing_opened(world)


def test_colluders_within_the_bound_get_one_sum_whatever_the_sets(consortium: World) -> None:
    """n = 5, t = 4, two colluders, the most that the bound allows: one set with two honest sites
    is opened, and no play with a second set gives anything more."""
    world = consortium(5, threshold=4, colluders=("s03", "s04"), colluding_sites=2)
    request = world.request(1)
    world.submit(request)
    first, second = ("s00", "s01", "s03", "s04"), ("s00", "s02", "s03", "s04")
    world.agree(request, first, ["s00", "s01"])
    world.agree(request, second, ["s02"])
    assert refusals(world.open(request, first, missing=first)) == {""}
    assert refusals(world.open(request, second, missing=second)) == {"conflict", "secure-sum"}
    assert world.adversary.learned(world.truth) == [world.adversary.places("s00", "s01")]


def test_one_agreement_shown_under_several_names_counts_once(consortium: World) -> None:
    """Copies of one site's agreement, a colluder's under an honest name, too few of them."""
    world = consortium(5, threshold=4, colluders=("s04",))
    request = world.request(1)
    world.submit(request)
    survivors = ("s00", "s01", "s02", "s04")
    world.agree(request, survivors, ["s00", "s01"])
    message = world.agree_request(request, survivors)
    true = world.agreements(message)
    assert set(true) == {"s00", "s01", "s04"}
    forged = [
        true | {"s02": true["s00"]},
        true | {"s02": true["s04"]},
        true | {"s02": world.colluders_agreement("s04", message, site="s02")},
        true | {"s02": protocol.seal(Agreement.model_validate(
            {**protocol_open.readable(true["s00"]), "site": "s02"}), RUN_KEY)},
        true,
    ]  # fmt: skip
    for agreements in forged:
        assert refusals(world.open(request, survivors, ["s00"], agreements=agreements)) == {
            "secure-sum"
        }
        if agreements is not true:
            assert "s02 has" in said(world, "s00")
    opening, body = world.open_request(request, survivors, "s00", agreements=true)
    signers = opening.model_dump(mode="json")
    for names in (["s00", "s01", "s03", "s04"], ["s00", "s01", "s01", "s04"]):
        headers = [true.get(name, true["s04"]).hex() for name in names]
        raw = {**signers, "signers": names, "agreements": headers}
        assert world.say_raw("s00", raw, body).refused == "version"
    assert_nothing_opened(world)


def test_same_survivors_with_other_submissions_are_another_set(consortium: World) -> None:
    """Each node is shown its own digest and wrong ones of the others: no two agree."""
    world = consortium(4, threshold=3)
    request = world.request(1)
    world.submit(request)
    own = world.adversary.header_digests(world.transcript(request).digest)
    agreements = {}
    for site in world.names:
        wrong = {name: canonical.digest(site.encode()) for name in world.names if name != site}
        message = world.agree_request(request, world.names, wrong)
        assert world.say(site, message).refused == ""
        agreements |= world.agreements(message)
    assert set(agreements) == set(world.names)
    for site in world.names:
        wrong = {name: canonical.digest(site.encode()) for name in world.names if name != site}
        message = world.agree_request(request, world.names, wrong)
        heard = world.open(request, world.names, [site], message=message, agreements=agreements)
        assert refusals(heard) == {"secure-sum"}
    message = world.agree_request(request, world.names, {"s00": own["s01"]})
    assert world.say("s00", message).refused == "conflict"
    assert_nothing_opened(world)


def test_node_signs_no_set_without_itself_or_with_strangers(consortium: World) -> None:
    """Not in U, or U not within P: no agreement, and no opening with those of the others."""
    world = consortium(5, threshold=3, colluding_sites=0)
    request = world.request(1, ("s00", "s01", "s02", "s03"))
    world.submit(request)
    assert refusals(world.agree(request, ("s01", "s02", "s03"), ["s00"])) == {"secure-sum"}
    assert refusals(world.agree(request, ("s00", "s01", "s02", "s04"), ["s00"])) == {"secure-sum"}
    survivors = ("s01", "s02", "s03")
    world.agree(request, survivors)
    assert refusals(world.open(request, survivors, ["s00"])) == {"secure-sum"}
    assert_nothing_opened(world)


def test_growing_lists_of_missing_sites_open_no_second_sum(consortium: World) -> None:
    """After an honest opening every list of missing survivors is tried at every node."""
    world = consortium(5, threshold=3, colluding_sites=0)
    request = world.request(1)
    world.submit(request)
    survivors = ("s00", "s01", "s02")
    world.agree(request, survivors)
    for missing in ((), ("s00",), ("s00", "s01"), survivors):
        assert refusals(world.open(request, survivors, missing=missing)) == {""}
    assert world.adversary.learned(world.truth) == [world.adversary.places(*survivors)]


# Rows


def row_of(world: Consortium, request: TrainRequest, dealer: str, receiver: str) -> bytes:
    """Salt and row of a dealer's submission for a receiver, as an open request carries it."""
    submission = world.adversary.newest(world.transcript(request).digest)[dealer].submission
    return submission.salt + submission.row(receiver)


@pytest.mark.parametrize("how", ["as another dealer's", "of another receiver", "of another round"])
def test_reflected_shares_do_not_open(consortium: World, how: str) -> None:
    """A row shown as another dealer's, another receiver's, or from another round is unreadable at
    every node, which names it; nothing is learned."""
    world = consortium(3)
    earlier = world.request(1)
    world.submit(earlier)
    request = world.request(2)
    world.submit(request)
    world.agree(request, world.names)
    following = {"s00": "s01", "s01": "s02", "s02": "s00"}
    for site in world.names:
        source = earlier if how == "of another round" else request
        rows = {}
        for dealer in world.names:
            shown = following[dealer] if how == "as another dealer's" else dealer
            target = following[site] if how == "of another receiver" else site
            rows[dealer] = row_of(world, source, shown, target)
        answer = world.open(request, world.names, [site], rows=rows)[site].answer
        assert isinstance(answer, SharesReply)
        assert answer.unreadable == world.names
        assert any(
            item.get("unreadable") == list(world.names) for item in world.hospitals[site].log
        )
    assert_nothing_opened(world)


def test_rows_of_garbage_open_nothing(consortium: World) -> None:
    """Zeros, truncated rows, one flipped bit in salt, commitments, or seal."""
    world = consortium(3)
    request = world.request(1)
    world.submit(request)
    world.agree(request, world.names)
    size = row_bytes(world.transcript(request))
    for place in (0, 40, 32 + size - 1):
        rows = {}
        for dealer in world.names:
            piece = bytearray(row_of(world, request, dealer, "s00"))
            piece[place] ^= 1
            rows[dealer] = bytes(piece)
        world.open(request, world.names, ["s00"], rows=rows)
    short = {dealer: bytes(size) for dealer in world.names}
    assert refusals(world.open(request, world.names, ["s01"], rows=short)) == {"secure-sum"}
    assert_nothing_opened(world)


def test_messages_of_somebody_else_are_refused(consortium: World) -> None:
    """Sealed by a colluder instead of the coordinator, or with a body that was not signed."""
    world = consortium(4, threshold=3, colluders=("s03",))
    request = world.request(1)
    for key in (world.adversary.identities["s03"], key_of("nobody")):
        heard = world.say_bytes("s00", protocol.seal(request, key), b"")
        assert heard.refused == "signature"
    assert world.say("s00", request, b"another model").refused == "model"
    world.submit(request)
    survivors = world.names
    world.agree(request, survivors)
    opening, body = world.open_request(request, survivors, "s00")
    assert world.say("s00", opening, body + b"x").refused == "secure-sum"
    assert_nothing_opened(world)


def test_list_with_two_equal_keys_is_no_message(consortium: World) -> None:
    """One site's key under the name of another, with the signature of either."""
    world = consortium(3)
    request = world.request(1).model_dump(mode="json")
    first, second, third = request["sum"]["epoch_keys"]
    for signature in (first["signature"], second["signature"]):
        copied = {**second, "public_key": first["public_key"], "signature": signature}
        raw = {**request, "sum": {**request["sum"], "epoch_keys": [first, copied, third]}}
        for site in world.names:
            assert world.say_raw(site, raw).refused == "version"
    assert_nothing_opened(world)
