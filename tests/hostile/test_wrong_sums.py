"""A coordinator that publishes another sum than it was sent, and the limits of what that shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from consortium import RUN_KEY, Consortium

from shared_model import canonical, protocol
from shared_model.protocol import TrainRequest
from shared_model.protocol_sum import CloseReply, Statement, SumReceipt
from shared_model.secure_sum.numbers import pack, unpack
from shared_model.secure_sum.primitives import Words
from shared_model.secure_sum.verification import (
    challenge,
    put_on,
    seeds_of,
    statement_bytes,
    subset_sums,
)
from shared_model.verify_body import verify_body

World = Callable[..., Consortium]
SURVIVORS = ("s00", "s01", "s03")


def opened_round(consortium: World, **options: object) -> tuple[Consortium, TrainRequest]:
    """n = 4, t = 3; s02 dropped out; the sum of the others is in clear."""
    world = consortium(4, threshold=3, **options)
    request = world.request(1)
    world.submit(request, SURVIVORS)
    world.agree(request, SURVIVORS)
    world.open(request, SURVIVORS)
    return world, request


def restated(statement: Statement, total: Words, **changes: object) -> Statement:
    """The statement of another sum, or with any field changed."""
    digest = canonical.digest(pack(total, statement.modulus_bits))
    return statement.model_copy(update={"sum_digest": digest, **changes})


def headers_of(heard: Mapping[str, object]) -> dict[str, bytes]:
    return {site: item.header for site, item in heard.items()}  # type: ignore[attr-defined]


def receipts(
    world: Consortium,
    request: TrainRequest,
    statement: Statement,
    total: Words,
    answers: Mapping[str, bytes],
) -> list[str]:
    """What each honest survivor says to the published sum: "" is a receipt."""
    data = statement_bytes(statement)
    packed = pack(total, statement.modulus_bits)
    body = verify_body(data, packed, [answers[site] for site in statement.survivors])
    sites = [site for site in statement.survivors if site in world.hospitals]
    heard = world.verify(request, data, body, sites)
    for item in heard.values():
        assert item.refused or isinstance(item.answer, SumReceipt)
    return [item.refused for item in heard.values()]


def assert_only_the_sum(world: Consortium) -> None:
    honest = [site for site in SURVIVORS if site in world.hospitals]
    assert world.adversary.learned(world.truth) == [world.adversary.places(*honest)]


def test_true_sum_gets_a_receipt_of_every_survivor(consortium: World) -> None:
    """The control: the exchange that the next tests corrupt does work."""
    world, request = opened_round(consortium)
    statement, total = world.published(request, SURVIVORS)
    answers = headers_of(world.close(request, statement_bytes(statement), SURVIVORS))
    assert receipts(world, request, statement, total, answers) == ["", "", ""]
    assert_only_the_sum(world)


@pytest.mark.parametrize("error", ["one unit", "top bit", "two swapped", "all zero", "scaled"])
def test_wrong_published_sum_gets_no_receipt(consortium: World, error: str) -> None:
    """Every survivor refuses, whatever is wrong, with answers to the wrong statement itself."""
    world, request = opened_round(consortium)
    true, total = world.published(request, SURVIVORS)
    wrong = total.copy()
    modulus = np.uint32((1 << true.modulus_bits) - 1)
    match error:
        case "one unit":
            wrong[700] = (wrong[700] + np.uint32(1)) & modulus
        case "top bit":
            wrong[3] ^= np.uint32(1 << (true.modulus_bits - 1))
        case "two swapped":
            wrong[[5, 6]] = wrong[[6, 5]]
        case "all zero":
            wrong[:] = 0
        case "scaled":
            wrong = (wrong * np.uint32(3)) & modulus
    statement = restated(true, wrong)
    heard = world.close(request, statement_bytes(statement), SURVIVORS)
    assert receipts(world, request, statement, wrong, headers_of(heard)) == ["secure-sum"] * 3
    for site in SURVIVORS:
        assert any(item.get("alarm") == "secure-sum" for item in world.logged(site))
    # nor with answers to the true statement, or with the true sum under the wrong statement
    honest = headers_of(world.close(request, statement_bytes(true), SURVIVORS))
    assert receipts(world, request, statement, wrong, honest) == ["secure-sum"] * 3
    assert receipts(world, request, statement, total, headers_of(heard)) == ["secure-sum"] * 3
    assert_only_the_sum(world)


def test_missing_or_exchanged_answers_get_no_receipt(consortium: World) -> None:
    """One answer left out, one twice, two exchanged, one signed by the coordinator."""
    world, request = opened_round(consortium)
    statement, total = world.published(request, SURVIVORS)
    data = statement_bytes(statement)
    true = headers_of(world.close(request, data, SURVIVORS))
    forged = protocol.seal(
        CloseReply(
            run=request.run,
            round=request.round,
            site="s01",
            transcript=statement.transcript,
            statement_digest=canonical.digest(data),
            sums=tuple([0] * 128),
        ),
        RUN_KEY,
    )
    for answers in (
        [true["s00"], true["s01"]],
        [true["s00"], true["s00"], true["s03"]],
        [true["s01"], true["s00"], true["s03"]],
        [true["s00"], forged, true["s03"]],
    ):
        body = verify_body(data, pack(total, statement.modulus_bits), answers)
        heard = world.verify(request, data, body, SURVIVORS)
        assert {item.refused for item in heard.values()} == {"secure-sum"}
    assert "s01" in str(world.logged("s00")[-1]["message"])
    assert_only_the_sum(world)


def test_statement_about_other_seeds_or_survivors_is_not_answered(consortium: World) -> None:
    """Each survivor checks what it knows: its seeds, its submission, U, the round."""
    world, request = opened_round(consortium)
    true, total = world.published(request, SURVIVORS)
    other = canonical.digest(b"other")
    wrong_self = (other, *true.self_seeds[1:])
    wrong_pair = ((other,), *true.pair_seeds[1:])
    for changes in (
        {"self_seeds": wrong_self},
        {"pair_seeds": wrong_pair},
        {"submissions": (other, *true.submissions[1:])},
        {"padded": true.padded * 2},
        {"modulus_bits": true.modulus_bits - 1},
        {"round": 2},
        {"transcript": other},
    ):
        statement = statement_bytes(restated(true, total, **changes))
        assert world.close(request, statement, ["s00"])["s00"].refused == "secure-sum"
    fewer = restated(
        true,
        total,
        survivors=("s00", "s01"),
        submissions=true.submissions[:2],
        self_seeds=true.self_seeds[:2],
        pair_seeds=((true.pair_seeds[0][0], other), (true.pair_seeds[1][0], other)),
    )
    assert world.close(request, statement_bytes(fewer), ["s00"])["s00"].refused == "secure-sum"
    assert_only_the_sum(world)


def test_answers_are_sums_that_the_coordinator_can_compute_itself(consortium: World) -> None:
    """The exchange tells nothing new: each answer follows from the masked vector of trip 1."""
    world, request = opened_round(consortium)
    statement, _ = world.published(request, SURVIVORS)
    data = statement_bytes(statement)
    newest = world.adversary.newest(world.transcript(request).digest)
    for site, heard in world.close(request, data, SURVIVORS).items():
        assert isinstance(heard.answer, CloseReply)
        vector = unpack(newest[site].submission.packed, statement.modulus_bits, statement.padded)
        asked = challenge(
            bytes.fromhex(statement.transcript),
            bytes.fromhex(canonical.digest(data)),
            statement.padded,
        )
        assert heard.answer.sums == subset_sums(asked, vector, statement.modulus_bits)
    assert_only_the_sum(world)


def test_closing_exchange_before_an_opening_gives_nothing(consortium: World) -> None:
    """Statements with guessed seeds: the nodes refuse, and nothing of a vector is in clear."""
    world = consortium(4, threshold=3)
    request = world.request(1)
    world.submit(request)
    world.agree(request, world.names)
    transcript = world.transcript(request)
    total = np.zeros(transcript.numbers.padded, dtype=np.uint32)
    headers = world.adversary.header_digests(transcript.digest)
    guessed = Statement(
        run=request.run,
        round=request.round,
        transcript=transcript.digest.hex(),
        participants=world.names,
        survivors=world.names,
        submissions=tuple(headers[site] for site in world.names),
        modulus_bits=transcript.numbers.modulus_bits,
        padded=transcript.numbers.padded,
        sum_digest=canonical.digest(pack(total, transcript.numbers.modulus_bits)),
        self_seeds=tuple(canonical.digest(site.encode()) for site in world.names),
        pair_seeds=(),
    )
    heard = world.close(request, statement_bytes(guessed), world.names)
    assert {item.refused for item in heard.values()} == {"secure-sum"}
    assert world.adversary.learned(world.truth) == []


def test_colluder_that_answers_to_suit_passes_the_exchange_and_fails_the_audit(
    consortium: World,
) -> None:
    """The stated limit: one dishonest survivor can absorb any error. The signed submissions, added
    again, do not give that sum."""
    world, request = opened_round(consortium, colluders=("s03",))
    true, total = world.published(request, SURVIVORS)
    wrong = total.copy()
    wrong[:10] = (wrong[:10] + np.uint32(12345)) & np.uint32((1 << true.modulus_bits) - 1)
    statement = restated(true, wrong)
    data = statement_bytes(statement)
    heard = world.close(request, data, ["s00", "s01"])
    asked = challenge(
        bytes.fromhex(statement.transcript),
        bytes.fromhex(canonical.digest(data)),
        statement.padded,
    )
    masked = wrong.copy()
    put_on(masked, seeds_of(statement))
    masked &= np.uint32((1 << statement.modulus_bits) - 1)
    modulus = 1 << statement.modulus_bits
    given = [item.answer.sums for item in heard.values()]  # type: ignore[attr-defined]
    suit = tuple(
        (wanted - sum(row)) % modulus
        for wanted, row in zip(
            subset_sums(asked, masked, statement.modulus_bits),
            zip(*given, strict=True),
            strict=True,
        )
    )
    answer = CloseReply(
        run=request.run,
        round=request.round,
        site="s03",
        transcript=statement.transcript,
        statement_digest=canonical.digest(data),
        sums=suit,
    )
    answers = headers_of(heard) | {"s03": protocol.seal(answer, world.adversary.identities["s03"])}
    assert receipts(world, request, statement, wrong, answers) == ["", ""]
    _, added_again = world.published(request, SURVIVORS)
    assert canonical.digest(pack(added_again, true.modulus_bits)) != statement.sum_digest
    assert_only_the_sum(world)


def test_second_receipt_for_another_sum_is_a_conflict(consortium: World) -> None:
    """A node that found one sum right signs no other one of the round."""
    world, request = opened_round(consortium)
    statement, total = world.published(request, SURVIVORS)
    answers = headers_of(world.close(request, statement_bytes(statement), SURVIVORS))
    assert receipts(world, request, statement, total, answers) == ["", "", ""]
    other = restated(statement, np.zeros_like(total))
    assert set(receipts(world, request, other, np.zeros_like(total), answers)) == {"conflict"}
    assert_only_the_sum(world)
