"""One round of the secure sum among a few keys: all messages really signed, no network, no node."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared_model import canonical, protocol, roster, signing
from shared_model import weights as weights_io
from shared_model.protocol import EpochKeyEntry, SumPlan, TrainRequest
from shared_model.protocol_sum import (
    Agreement,
    CloseReply,
    EpochKey,
    SumReceipt,
    agreed_digest,
)
from shared_model.roster import Roster
from shared_model.secure_sum.keys import Member, new_epoch_key, public_key
from shared_model.secure_sum.numbers import Numbers, flatten, pack, quantise
from shared_model.secure_sum.opening import open_rows, read_shares, rebuild_seeds, rows_body
from shared_model.secure_sum.submission import Submission, seal_submission
from shared_model.secure_sum.transcript import Transcript
from shared_model.secure_sum.unmask import sum_of
from shared_model.secure_sum.verification import (
    challenge,
    make_statement,
    statement_bytes,
    subset_sums,
)
from shared_model.server_step import model_after
from shared_model.weights import Weights

NORM_BOUND = 4.0
BITS = 20
Keys = Callable[[str], Ed25519PrivateKey]


@dataclass
class Epoch:
    """Everybody's key of one epoch of one roster."""

    roster: Roster
    number: int
    keys: Keys
    private: dict[str, object] = field(default_factory=dict)
    entries: tuple[EpochKeyEntry, ...] = ()

    @classmethod
    def of(cls, roster: Roster, number: int, keys: Keys) -> Epoch:
        epoch = cls(roster, number, keys)
        entries = []
        for site in roster.names:
            private = new_epoch_key(os.urandom)
            epoch.private[site] = private
            message = EpochKey(
                site=site,
                epoch=number,
                roster_digest=roster.digest,
                public_key=public_key(private).hex(),
            )
            signature = protocol.seal(message, keys(site))[: protocol.SIGNATURE_BYTES]
            entries.append(
                EpochKeyEntry(site=site, public_key=message.public_key, signature=signature.hex())
            )
        epoch.entries = tuple(entries)
        return epoch

    def plan(self, sites: Sequence[str], dimension: int, **changes: object) -> SumPlan:
        total = sum(self.roster.entry(site).weight for site in sites)
        numbers = Numbers.of(dimension, total, NORM_BOUND, BITS)
        values: dict[str, object] = {
            "aggregation": "secure-sum",
            "roster_digest": self.roster.digest,
            "threshold": self.roster.threshold,
            "epoch": self.number,
            "epoch_keys": self.entries,
            "dimension": dimension,
            "bits": BITS,
            "modulus_bits": numbers.modulus_bits,
            "norm_bound": NORM_BOUND,
        }
        return SumPlan(**{**values, **changes})

    def member(self, site: str) -> Member:
        return Member(
            site=site,
            key=self.private[site],
            public_keys={entry.site: bytes.fromhex(entry.public_key) for entry in self.entries},
            roster_digest=bytes.fromhex(self.roster.digest),
            epoch=self.number,
        )


def roster_of(
    sites: Sequence[str],
    declared: Mapping[str, int],
    keys: Keys,
    threshold: int,
    version: int = 1,
) -> Roster:
    @dataclass(frozen=True)
    class Enrolled:
        site: str
        identity_key: str
        declared_patients: int

    return roster.draft(
        [Enrolled(s, signing.public_bytes(keys(s)).hex(), declared[s]) for s in sites],
        version,
        threshold,
        valid_from="2026-01-01",
        valid_until="2126-01-01",
    )


@dataclass
class Summed:
    """What is left of a round: bodies, sum, statement, and what the sites signed about them."""

    packed: bytes
    statement: bytes
    agreements: dict[str, bytes]
    answers: dict[str, bytes]
    receipts: dict[str, bytes]
    model: Weights


def submit(epoch: Epoch, site: str, transcript: Transcript, update: Weights) -> bytes:
    """Body of a submission."""
    quantised = quantise(
        flatten(update),
        transcript.numbers,
        transcript.rotation_seed,
        transcript.weight(site),
        os.urandom(32),
    )
    return seal_submission(quantised.vector, epoch.member(site), transcript, os.urandom)


def finish(
    epoch: Epoch,
    request: TrainRequest,
    transcript: Transcript,
    headers: Mapping[str, bytes],
    bodies: Mapping[str, bytes],
    before: Weights,
    trained: Sequence[str],
) -> Summed:
    """Trips 2 and 3 and the closing exchange among the sites that submitted."""
    survivors = tuple(sorted(headers))
    digests = tuple(protocol.header_digest(headers[site]) for site in survivors)
    submissions = {s: Submission.parse(bodies[s], transcript, s) for s in survivors}
    about = {"run": request.run, "round": request.round, "transcript": transcript.digest.hex()}
    replies = [
        protocol.TrainReply.model_validate_json(headers[site][protocol.SIGNATURE_BYTES :])
        for site in survivors
    ]
    agreed = agreed_digest(survivors, digests, [reply.ledger for reply in replies])
    agreements = {
        site: protocol.seal(
            Agreement(**about, site=site, agreed=agreed),
            epoch.keys(site),
        )
        for site in survivors
    }
    shares = {}
    for site in survivors:
        opened = open_rows(
            epoch.member(site), transcript, survivors, (), rows_body(submissions, site)
        )
        shares[site] = read_shares(opened.body, transcript, survivors, (), site)
    seeds = rebuild_seeds(transcript, survivors, shares, submissions)
    total = sum_of(((s, submissions[s].packed) for s in survivors), transcript, seeds)
    statement = statement_bytes(make_statement(transcript, survivors, digests, total, seeds))
    digest = canonical.digest(statement)
    numbers = transcript.numbers
    asked = challenge(transcript.digest, bytes.fromhex(digest), numbers.padded)
    after = model_after(request, transcript, survivors, total, before, trained)
    model_out = weights_io.digest(after)
    answers, receipts = {}, {}
    for site in survivors:
        own = _unpacked(submissions[site])
        answers[site] = protocol.seal(
            CloseReply(
                **about,
                site=site,
                statement_digest=digest,
                sums=subset_sums(asked, own, numbers.modulus_bits),
            ),
            epoch.keys(site),
        )
        receipts[site] = protocol.seal(
            SumReceipt(**about, site=site, statement_digest=digest, model_out=model_out),
            epoch.keys(site),
        )
    return Summed(
        packed=pack(total, numbers.modulus_bits),
        statement=statement,
        agreements=agreements,
        answers=answers,
        receipts=receipts,
        model=after,
    )


def _unpacked(submission: Submission) -> np.ndarray:
    from shared_model.secure_sum.numbers import unpack

    numbers = submission.transcript.numbers
    return unpack(submission.packed, numbers.modulus_bits, numbers.padded)
