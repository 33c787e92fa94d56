"""Is the published sum the sum of what was submitted? 128 random subset sums say so.

For each of 128 random subsets of the coordinates the survivors' answers, minus the opened masks,
must equal the published sum's: a sum that differs anywhere passes one subset with probability 1/2,
all with 2^-128, **if every survivor answers honestly** (a random linear check in the manner of
Freivalds 1977). It proves the sum of what was submitted, not that the submissions are good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from shared_model import canonical
from shared_model.errors import FedprintError, OurMistake, PeerFault, Refused
from shared_model.protocol_sum import SUBSETS, Statement
from shared_model.secure_sum.numbers import pack
from shared_model.secure_sum.opening import Seeds
from shared_model.secure_sum.primitives import Words, keystream, tagged_hash
from shared_model.secure_sum.submission import Submission, pair_commitment, self_commitment
from shared_model.secure_sum.transcript import Transcript
from shared_model.secure_sum.unmask import take_off

_BYTES = SUBSETS // 8
_PIECE = 1 << 20
"""Coordinates whose subset sums are exact in float64: 2^20 values below 2^32 stay below 2^53."""


@dataclass(frozen=True)
class Challenge:
    """Which coordinates are in which subset: bit b of member[g, e] is for subset 8 g + b.

    member: uint8 (16, padded).
    """

    member: npt.NDArray[np.uint8] = field(repr=False)


def challenge(transcript: bytes, statement_digest: bytes, padded: int) -> Challenge:
    """The subsets that follow from transcript and statement (32 raw bytes each)."""
    key = tagged_hash("challenge", transcript, statement_digest)
    stream = keystream(key, _BYTES * padded // 4).view(np.uint8)
    return Challenge(stream.reshape(_BYTES, padded))


def subset_sums(asked: Challenge, vector: Words, modulus_bits: int) -> tuple[int, ...]:
    """Sums of a vector over the 128 subsets, mod 2^m.

    Args:
        vector: uint32 (padded,), masked or not.

    Raises:
        OurMistake: another length.
    """
    padded = asked.member.shape[1]
    if vector.shape != (padded,):
        raise OurMistake("The vector has another size than the challenge.")
    totals = [0] * SUBSETS
    for start in range(0, padded, _PIECE):
        values = vector[start : start + _PIECE].astype(np.float64)
        for group in range(_BYTES):
            # by pattern of eight bits first, then eight short sums: one pass instead of eight
            by_pattern = np.bincount(
                asked.member[group, start : start + _PIECE], weights=values, minlength=256
            )
            for bit in range(8):
                chosen = by_pattern[(np.arange(256) >> bit) & 1 == 1]
                totals[8 * group + bit] += sum(int(value) for value in chosen)
    return tuple(total % (1 << modulus_bits) for total in totals)


def make_statement(
    transcript: Transcript,
    survivors: tuple[str, ...],
    submissions: tuple[str, ...],
    total: Words,
    seeds: Seeds,
) -> Statement:
    """What the coordinator publishes about a round's sum.

    Args:
        submissions: digests of the headers of the survivors' replies, in their order.
    """
    dropped = transcript.dropped(survivors)
    return Statement(
        run=transcript.run,
        round=transcript.round,
        transcript=transcript.digest.hex(),
        participants=transcript.participants,
        survivors=survivors,
        submissions=submissions,
        modulus_bits=transcript.numbers.modulus_bits,
        padded=transcript.numbers.padded,
        sum_digest=canonical.digest(pack(total, transcript.numbers.modulus_bits)),
        self_seeds=tuple(seeds.self_seeds[site].hex() for site in survivors),
        pair_seeds=tuple(
            tuple(seeds.pair_seeds[site, gone].hex() for gone in dropped) for site in survivors
        )
        if dropped
        else (),
    )


def statement_bytes(statement: Statement) -> bytes:
    """Canonical bytes of a statement."""
    return canonical.encode(statement.model_dump(mode="json"))


def read_statement(data: bytes) -> Statement:
    """Parse hostile bytes.

    Raises:
        PeerFault: of "coordinator"; not a statement, or not in its canonical spelling.
    """
    try:
        statement = Statement.model_validate_json(data)
        same = statement_bytes(statement) == data
    except (ValidationError, FedprintError, ValueError, RecursionError) as error:
        raise PeerFault("This is not the statement of a sum.", site="coordinator") from error
    if not same:
        raise PeerFault("The statement is not in its canonical spelling.", site="coordinator")
    return statement


def seeds_of(statement: Statement) -> Seeds:
    """The opened seeds of a statement."""
    return Seeds(
        {
            site: bytes.fromhex(seed)
            for site, seed in zip(statement.survivors, statement.self_seeds, strict=True)
        },
        {
            (site, gone): bytes.fromhex(seed)
            for site, row in zip(statement.survivors, statement.pair_seeds, strict=False)
            for gone, seed in zip(statement.dropped, row, strict=True)
        },
    )


def check_own(
    statement: Statement, own: Submission, header_digest: str, signed: tuple[str, ...]
) -> None:
    """The statement tells the truth about one survivor.

    Args:
        own: what this site submitted. header_digest: of its reply.
        signed: the survivors that it has signed.

    Raises:
        Refused: reason "secure-sum"; another round, set of survivors, submission or seed.
    """
    transcript, site = own.transcript, own.dealer
    digest = transcript.digest
    found = (statement.run, statement.round, statement.transcript, statement.participants)
    ours: tuple[Any, ...] = (transcript.run, transcript.round, digest.hex(),
                             transcript.participants)  # fmt: skip
    numbers = transcript.numbers
    if found != ours or (statement.modulus_bits, statement.padded) != (
        numbers.modulus_bits,
        numbers.padded,
    ):
        raise _refused("It is about another round.")
    if statement.survivors != signed or site not in signed:
        raise _refused("It names other survivors than this site has signed.")
    if statement.submissions[signed.index(site)] != header_digest:
        raise _refused("It names another submission of this site.")
    seeds = seeds_of(statement)
    if self_commitment(digest, site, seeds.self_seeds[site]) != own.self_commitment:
        raise _refused("It names another self seed of this site.")
    for gone in statement.dropped:
        seed = seeds.pair_seeds[site, gone]
        if pair_commitment(digest, site, gone, seed) != own.pair_commitment(gone):
            raise _refused("It names another pair seed of this site.")


def check_equation(
    statement: Statement,
    answers: Mapping[str, tuple[int, ...]],
    total: Words,
) -> None:
    """The published sum against the survivors' answers.

    Args:
        answers: survivor -> 128 subset sums of what it submitted, signatures checked.
        total: the published sum, uint32 (padded,).

    Raises:
        Refused: reason "secure-sum"; an answer is missing, the vector is not the one that the
            statement names, or the sums differ.
    """
    if set(answers) != set(statement.survivors):
        raise _refused("Answers of survivors are missing.")
    if total.shape != (statement.padded,) or (
        canonical.digest(pack(total, statement.modulus_bits)) != statement.sum_digest
    ):
        raise _refused("The published sum is not the one that it names.")
    asked = challenge(
        bytes.fromhex(statement.transcript),
        bytes.fromhex(canonical.digest(statement_bytes(statement))),
        statement.padded,
    )
    masked = total.copy()
    put_on(masked, seeds_of(statement))
    masked &= np.uint32((1 << statement.modulus_bits) - 1)
    expected = subset_sums(asked, masked, statement.modulus_bits)
    modulus = 1 << statement.modulus_bits
    found = tuple(sum(row) % modulus for row in zip(*answers.values(), strict=True))
    if found != expected:
        raise _refused("The published sum is not the sum of what was submitted.")


def put_on(total: Words, seeds: Seeds) -> None:
    """Add the opened masks to a sum again, mod 2^32, in place: what the submissions add up to."""
    np.negative(total, out=total)
    take_off(total, seeds)
    np.negative(total, out=total)


def _refused(message: str) -> Refused:
    return Refused(
        f"The statement of the sum is wrong. {message}",
        reason="secure-sum",
        do="Do not use this model; show the node's log to the consortium's auditor.",
    )
