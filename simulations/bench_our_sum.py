"""A round of our secure sum as plain functions: all sites and the coordinator in one process.

Counted for a site: its key of the epoch and the secrets of its pairs; quantising, masking, sharing
and sealing its submission; opening its rows. For the coordinator: lengths and commitments, the
seeds, the sum and its mean. Counted apart: signing, hashing and encoding the messages of all trips
and checking them, every signature included. Not counted: training, the model on its way to the
sites, files. An epoch serves many rounds, but all of it is counted in this one, as Flower makes its
keys anew in every round.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared_model import canonical, protocol, protocol_open, signing
from shared_model.errors import PeerFault
from shared_model.ledger import LedgerHead, sign_head
from shared_model.protocol import EpochKeyEntry, LedgerNote, PrivacyStatement, TrainReply
from shared_model.protocol_base import SignedMessage
from shared_model.protocol_sum import (
    Agreement,
    EpochKey,
    OpenRequest,
    SharesReply,
    agreed_digest,
    epoch_key_statement,
)
from shared_model.secure_sum import keys, numbers, opening, unmask, verification
from shared_model.secure_sum.submission import Submission, seal_submission
from shared_model.secure_sum.transcript import Transcript

ROUND_TRIPS = 3
NORM_BOUND = 1.0
WEIGHT = 8
"""Of every site: the largest weight, which costs most bits."""
RUN, ROUND, EPOCH = "bench", 1, 1
_D = "0" * 64

Vector = npt.NDArray[np.float32]


@dataclass
class Spent:
    """CPU seconds, all threads counted, and bytes of one round.

    client_s, server_s: the secure sum itself, of all sites together and of the coordinator; what
    Flower's functions do too. client_messages_s, server_messages_s: signatures, digests and
    encoding of all messages, which Flower leaves to its transport. sent_bytes: what the sites sent
    in the three trips beside their packed vectors.
    """

    client_s: float = 0.0
    server_s: float = 0.0
    client_messages_s: float = 0.0
    server_messages_s: float = 0.0
    sent_bytes: int = 0
    packed_bytes: int = 0
    clipped: int = 0
    values: int = 0

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Add the block's seconds to `client`, `server`, `client_messages` or `server_messages`."""
        start = time.process_time()
        yield
        name = f"{what}_s"
        setattr(self, name, getattr(self, name) + time.process_time() - start)


@dataclass
class Site:
    """One pretend hospital of a round."""

    name: str
    identity: Ed25519PrivateKey = field(repr=False, default_factory=Ed25519PrivateKey.generate)
    member: keys.Member = field(repr=False, init=False)

    @property
    def public(self) -> bytes:
        return signing.public_bytes(self.identity)


class OurRound:
    """One round among `count` sites; submissions lie in `folder`, one vector at a time in memory.

    After `run`: `spent`, `mean` (float64 (dimension,)), and what `verify` and `sum_again` need.
    """

    def __init__(self, count: int, dimension: int, threshold: int, folder: Path) -> None:
        self.sites = {f"h{index:03}": Site(f"h{index:03}") for index in range(count)}
        self.threshold, self.folder = threshold, folder
        self.numbers = numbers.Numbers.of(dimension, count * WEIGHT, NORM_BOUND)
        self.coordinator = Ed25519PrivateKey.generate()
        self.spent = Spent(packed_bytes=self.numbers.packed_bytes)
        self.mean: npt.NDArray[np.float64] = np.zeros(0)

    def run(
        self, update_of: Callable[[int], Vector], dropped: frozenset[int] = frozenset()
    ) -> None:
        """Add the updates of all sites but those at positions `dropped`, which never submit."""
        self.transcript = self._epoch()
        self.digest = self.transcript.digest.hex()
        names = tuple(self.sites)
        self.survivors = tuple(n for place, n in enumerate(names) if place not in dropped)
        headers: dict[str, bytes] = {}
        self.submissions: dict[str, Submission] = {}
        for place, name in enumerate(names):
            if place not in dropped:
                headers[name] = self._submit(name, update_of(place))
        digests = tuple(canonical.digest(headers[name]) for name in self.survivors)
        self.header_digests = digests
        request = self._agree(digests)
        found: dict[str, opening.SharesOf] = {}
        for name in self.survivors:
            found[name] = self._open(name, request)
        with self.spent.on("server"):
            self.seeds = opening.rebuild_seeds(
                self.transcript, self.survivors, found, self.submissions
            )
            self.total = self.sum_again()
            weight = WEIGHT * len(self.survivors)
            self.mean = numbers.mean_of(
                self.total, self.numbers, self.transcript.rotation_seed, weight
            )

    def sum_again(self) -> npt.NDArray[np.uint32]:
        """The coordinator's sum from the stored submissions, read one at a time."""
        return unmask.sum_of(self._stored(), self.transcript, self.seeds)

    def verify(self) -> float:
        """The closing exchange; CPU seconds of one site (both of its answers).

        Raises:
            Refused: the equation does not hold.
        """
        statement = verification.make_statement(
            self.transcript, self.survivors, self.header_digests, self.total, self.seeds
        )
        data = verification.statement_bytes(statement)
        bits, padded = self.numbers.modulus_bits, self.numbers.padded
        answers: dict[str, tuple[int, ...]] = {}
        spent = 0.0
        for name, own in self.submissions.items():
            start = time.process_time()
            seen = verification.read_statement(data)
            place = self.survivors.index(name)
            verification.check_own(seen, own, self.header_digests[place], self.survivors)
            digest = bytes.fromhex(canonical.digest(data))
            asked = verification.challenge(self.transcript.digest, digest, padded)
            vector = numbers.unpack(own.packed, bits, padded)
            answers[name] = verification.subset_sums(asked, vector, bits)
            spent += time.process_time() - start
        spent /= len(answers)
        start = time.process_time()
        verification.check_equation(statement, answers, self.total)
        return spent + time.process_time() - start

    def _epoch(self) -> Transcript:
        """Every site's key of the epoch, signed; the coordinator checks it, then every site."""
        private = {}
        entries = []
        for name, site in self.sites.items():
            with self.spent.on("client"):
                private[name] = keys.new_epoch_key(os.urandom)
                public = keys.public_key(private[name]).hex()
            with self.spent.on("client_messages"):
                header = protocol.seal(
                    EpochKey(site=name, epoch=EPOCH, roster_digest=_D, public_key=public),
                    site.identity,
                )
            with self.spent.on("server_messages"):
                protocol_open.open_answer_of(header, site.public, EpochKey, site=name)
            signature = header[: protocol.SIGNATURE_BYTES].hex()
            entries.append(EpochKeyEntry(site=name, public_key=public, signature=signature))
        known = {name: site.public for name, site in self.sites.items()}
        for name, site in self.sites.items():
            with self.spent.on("client_messages"):
                public_keys = {}
                for entry in entries:
                    signing.verify(
                        known[entry.site],
                        "epoch-key",
                        epoch_key_statement(entry, EPOCH, _D),
                        bytes.fromhex(entry.signature),
                    )
                    public_keys[entry.site] = bytes.fromhex(entry.public_key)
            with self.spent.on("client"):
                site.member = keys.Member(name, private[name], public_keys, bytes(32), EPOCH)
        return Transcript(
            run=RUN,
            round=ROUND,
            participants=tuple(self.sites),
            model_digest=_D,
            configuration_digest=_D,
            numbers=self.numbers,
            roster_digest=_D,
            epoch=EPOCH,
            epoch_keys_digest=canonical.digest_of([entry.public_key for entry in entries]),
            threshold=self.threshold,
            weights=(WEIGHT,) * len(self.sites),
            mode="local",
        )

    def _submit(self, name: str, update: Vector) -> bytes:
        """Trip 1 of one site; its body goes to the folder."""
        site, seed = self.sites[name], self.transcript.rotation_seed
        with self.spent.on("client"):
            made = numbers.quantise(update, self.numbers, seed, WEIGHT, os.urandom(32))
            body = seal_submission(made.vector, site.member, self.transcript, os.urandom)
        with self.spent.on("client_messages"):
            reply = TrainReply(
                run=RUN,
                round=ROUND,
                site=name,
                request_digest=_D,
                transcript=self.digest,
                body_digest=canonical.digest(body),
                declared_patients=100,
                weight=WEIGHT,
                noise="none: a benchmark",
                private=False,
                privacy=PrivacyStatement(epsilon=None, delta=1e-5),
                ledger=LedgerNote(**self._head(name).model_dump(), entries=()),
                software="bench",
            )
            header = protocol.seal(reply, site.identity)
        self.spent.clipped += made.clipped
        self.spent.values += len(made.vector)
        with self.spent.on("server_messages"):
            answer = _expected(
                TrainReply, protocol_open.open_answer(header, site.public, site=name)
            )
            protocol_open.check_body(answer.body_digest, body, site=name)
        with self.spent.on("server"):
            Submission.parse(body, self.transcript, name)
        path = self.folder / name
        path.write_bytes(body)
        with path.open("rb") as stream:
            stored = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        self.submissions[name] = Submission.parse(stored, self.transcript, name)
        self.spent.sent_bytes += len(header) + len(body) - self.numbers.packed_bytes
        return header

    def _head(self, name: str) -> LedgerHead:
        """A head of a ledger; there is no ledger in this bench."""
        return sign_head(self.sites[name].identity, name, 1, _D)

    @cached_property
    def _heads(self) -> tuple[LedgerHead, ...]:
        return tuple(self._head(name) for name in self.survivors)

    def _agree(self, digests: tuple[str, ...]) -> OpenRequest:
        """Trip 2: everybody signs the survivors; the coordinator checks it."""
        signed: dict[str, bytes] = {}
        heads = self._heads
        for name in self.survivors:
            site = self.sites[name]
            with self.spent.on("client_messages"):
                agreed = agreed_digest(self.survivors, digests, heads)
                signed[name] = protocol.seal(
                    Agreement(
                        run=RUN,
                        round=ROUND,
                        site=name,
                        transcript=self.digest,
                        agreed=agreed,
                    ),
                    site.identity,
                )
            with self.spent.on("server_messages"):
                expected = agreed_digest(self.survivors, digests, heads)
                self._check_agreement(name, signed[name], expected)
            self.spent.sent_bytes += len(signed[name])
        signers = self.survivors[: self.threshold]
        return OpenRequest(
            run=RUN,
            round=ROUND,
            transcript=self.digest,
            survivors=self.survivors,
            submissions=digests,
            missing=(),
            signers=signers,
            agreements=tuple(signed[name].hex() for name in signers),
            body_digest=_D,
        )

    def _open(self, name: str, request: OpenRequest) -> opening.SharesOf:
        """Trip 3 of one site, and the check of what it opened."""
        site = self.sites[name]
        with self.spent.on("server"):
            rows = opening.rows_body(self.submissions, name)
        with self.spent.on("server_messages"):
            asked = request.model_copy(update={"body_digest": canonical.digest(rows)})
            sent = protocol.seal(asked, self.coordinator)
        with self.spent.on("client_messages"):
            key = signing.public_bytes(self.coordinator)
            seen = protocol_open.open_signed(sent, key, OpenRequest, site=protocol.COORDINATOR)
            protocol_open.check_body(seen.body_digest, rows, site=protocol.COORDINATOR)
            agreed = agreed_digest(seen.survivors, seen.submissions, self._heads)
            for signer, agreement in zip(seen.signers, seen.agreements, strict=True):
                self._check_agreement(signer, bytes.fromhex(agreement), agreed)
        with self.spent.on("client"):
            opened = opening.open_rows(
                site.member, self.transcript, seen.survivors, seen.missing, rows
            )
        with self.spent.on("client_messages"):
            header = protocol.seal(
                SharesReply(
                    run=RUN,
                    round=ROUND,
                    site=name,
                    transcript=self.digest,
                    request_digest=canonical.digest(sent),
                    unreadable=opened.unreadable,
                    accused=opened.accused,
                    body_digest=canonical.digest(opened.body),
                ),
                site.identity,
            )
        self.spent.sent_bytes += len(header) + len(opened.body)
        with self.spent.on("server_messages"):
            reply = _expected(
                SharesReply,
                protocol_open.open_answer_of(header, site.public, SharesReply, site=name),
            )
            protocol_open.check_body(reply.body_digest, opened.body, site=name)
        with self.spent.on("server"):
            shares = opening.read_shares(opened.body, self.transcript, self.survivors, (), name)
            opening.check_shares(shares, name, self.submissions)
        return shares

    def _check_agreement(self, signer: str, header: bytes, agreed: str) -> None:
        """The signer's signature, and that it signed these survivors."""
        public = self.sites[signer].public
        answer = protocol_open.open_answer_of(header, public, Agreement, site=signer)
        if _expected(Agreement, answer).agreed != agreed:
            raise PeerFault(f"{signer} signed other survivors.", site=signer)

    def _stored(self) -> Iterator[tuple[str, bytes]]:
        """Packed vectors of the survivors, read from their files one by one."""
        for name in self.survivors:
            with (self.folder / name).open("rb") as stream:
                yield name, stream.read(self.numbers.packed_bytes)


_M = TypeVar("_M", bound=SignedMessage)


def _expected(kind: type[_M], answer: SignedMessage) -> _M:
    if not isinstance(answer, kind):
        raise PeerFault(f"This is no {protocol.kind_of(kind)}.", site="bench")
    return answer
