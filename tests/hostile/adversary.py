"""The adversary: coordinator and colluders together. It keeps everything it saw, and computes.

Seeds are recognised by the commitments that honest sites publish: whatever 32 bytes it holds or
can derive, by whichever name and from whichever message, is tried against every commitment of
every honest submission. So it needs no assumption about what an attack was meant to give.

    adversary.hear(...)                 every answer
    adversary.known_seeds(submission)   all that it can open of one submission
    adversary.stripped(submission)      the vector less every mask that it knows
    adversary.learned(truth)            combinations of submissions that it has in clear
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from shared_model import canonical, protocol, protocol_open
from shared_model.errors import FedprintError
from shared_model.protocol import Refusal, TrainReply, TrainRequest
from shared_model.protocol_base import SignedMessage
from shared_model.protocol_sum import (
    Agreement,
    CloseReply,
    EpochKey,
    SharesReply,
    SumReceipt,
)
from shared_model.roster import Roster
from shared_model.secure_sum import shamir
from shared_model.secure_sum.numbers import unpack
from shared_model.secure_sum.primitives import derive, keystream, tagged_hash
from shared_model.secure_sum.submission import Submission, associated_data
from shared_model.secure_sum.transcript import Transcript, of_request

ANSWERS: dict[str, type[SignedMessage]] = {
    protocol.kind_of(model): model
    for model in (TrainReply, EpochKey, Agreement, SharesReply, CloseReply, SumReceipt, Refusal)
}
SIGNED_COMBINATIONS = 6
"""Up to so many submissions are combined with coefficients -1, 0, 1; more only with 0, 1."""


EVERY_NAME = 5
"""Up to so many participants every opened piece is tried as a share of every receiver; beyond, as
one of whoever opened it (the trials grow with the fifth power)."""


@dataclass(frozen=True)
class Heard:
    """One answer of a site. request, asked: header and body of what it answers."""

    site: str
    request: bytes = field(repr=False)
    asked: bytes = field(repr=False)
    answer: SignedMessage
    header: bytes = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def refused(self) -> str:
        """The word of a refusal, "" if it is none."""
        return self.answer.reason if isinstance(self.answer, Refusal) else ""


@dataclass(frozen=True)
class Seen:
    """A submission that the adversary holds. epoch_keys: public keys of its round, by site."""

    submission: Submission
    header: bytes = field(repr=False)
    own: bool
    epoch_keys: Mapping[str, bytes] = field(repr=False)

    @property
    def dealer(self) -> str:
        return self.submission.dealer

    @property
    def transcript(self) -> Transcript:
        return self.submission.transcript

    @property
    def body_digest(self) -> str:
        return canonical.digest(bytes(self.submission.body))


@dataclass
class Adversary:
    """identities: colluders' identity keys. private_keys: every X25519 key that it has made."""

    identities: dict[str, Ed25519PrivateKey] = field(repr=False)
    roster: Roster
    private_keys: list[X25519PrivateKey] = field(default_factory=list, repr=False)
    epoch_key: dict[str, X25519PrivateKey] = field(default_factory=dict, repr=False)
    heard: list[Heard] = field(default_factory=list, repr=False)
    submissions: list[Seen] = field(default_factory=list, repr=False)
    opened: list[tuple[str, bytes]] = field(default_factory=list, repr=False)
    """(opener, 32 bytes): every piece of every answer of trip 3."""
    given: set[bytes] = field(default_factory=set, repr=False)
    """Seeds that it should not have: the control of the tests hands some to it."""

    def hear(
        self, site: str, request: bytes, asked: bytes, reply: tuple[bytes, bytes], own: bool = False
    ) -> Heard:
        """Keep an answer. own: of a colluder, who has nothing to find."""
        header, body = reply
        kind = str(protocol_open.readable(header)["kind"])
        answer = ANSWERS[kind].model_validate_json(header[protocol.SIGNATURE_BYTES :])
        found = Heard(site, request, asked, answer, header, body)
        self.heard.append(found)
        if isinstance(answer, TrainReply) and not any(
            (item.dealer, item.body_digest) == (site, canonical.digest(body))
            for item in self.submissions
        ):
            self._keep(found, own)
        if isinstance(answer, SharesReply):
            self.opened += [(site, body[at : at + 32]) for at in range(0, len(body), 32)]
        return found

    def header_digests(self, transcript: bytes) -> dict[str, str]:
        """Of the newest submission of each site on this transcript."""
        return {
            site: protocol.header_digest(seen.header)
            for site, seen in self.newest(transcript).items()
        }

    def newest(self, transcript: bytes) -> dict[str, Seen]:
        return {
            item.dealer: item for item in self.submissions if item.transcript.digest == transcript
        }

    def targets(self) -> list[Seen]:
        """Submissions of honest sites."""
        return [item for item in self.submissions if not item.own]

    def _keep(self, heard: Heard, own: bool) -> None:
        request = TrainRequest.model_validate_json(heard.request[protocol.SIGNATURE_BYTES :])
        weights = dict.fromkeys(request.sites, 1) | self.roster.weights
        transcript = of_request(request, weights)
        try:
            submission = Submission.parse(heard.body, transcript, heard.site)
        except FedprintError:
            return  # a colluder's garbage
        keys = {item.site: bytes.fromhex(item.public_key) for item in request.sum.epoch_keys}
        self.submissions.append(Seen(submission, heard.header, own, keys))

    # What it can open

    def known_seeds(self) -> dict[int, dict[str | None, bytes]]:
        """For each target (its place): the seeds it knows; None is the self seed, else a peer.

        Found seeds are tried at the other submissions too, until nothing new is found.
        """
        targets = self.targets()
        shares = [self._shares(seen) for seen in targets]
        known: dict[int, dict[str | None, bytes]] = {place: {} for place in range(len(targets))}
        pool = {piece for _, piece in self.opened} | self.given
        for place, seen in enumerate(targets):
            pool |= self._derived(seen)
            for held in shares[place].values():
                if len(held) >= 2:
                    pool |= _rebuilt(held, seen.transcript.threshold)
        for place, seen in enumerate(targets):
            for name, commitment in _commitments(seen):
                for seed in pool:
                    if _committed(seen, name, seed) == commitment:
                        known[place][name] = seed
        return known

    def _shares(self, seen: Seen) -> dict[str | None, dict[int, bytes]]:
        """Shares of each secret of a submission: opened by anybody, or from rows that open."""
        transcript, dealer = seen.transcript, seen.dealer
        names: list[str | None] = [None, *transcript.peers(dealer)]
        held: dict[str | None, dict[int, bytes]] = {name: {} for name in names}
        for receiver in transcript.participants:
            place = transcript.index(receiver)
            row = self._open_row(seen, receiver)
            for number, name in enumerate(names):
                if row is not None:
                    held[name][place] = row[32 * number : 32 * number + 32]
                    continue
                commitment = seen.submission.share_commitment(receiver, name)
                for opener, piece in self.opened:
                    if opener != receiver and len(transcript.participants) > EVERY_NAME:
                        continue
                    if _share_committed(transcript, dealer, name, receiver, piece) == commitment:
                        held[name][place] = piece
        return held

    def _open_row(self, seen: Seen, receiver: str) -> bytes | None:
        """A row of the submission under any key of the adversary, played as any receiver."""
        transcript, dealer = seen.transcript, seen.dealer
        row, salt = seen.submission.row(receiver), seen.submission.salt
        size = 32 * len(transcript.participants)
        data = associated_data(transcript.digest, dealer, receiver, row[:size])
        for secret in self._secrets(seen, receiver):
            key = derive(secret, transcript.digest, "share", dealer, receiver, salt)
            try:
                return ChaCha20Poly1305(key).decrypt(bytes(12), row[size:], data)
            except InvalidTag:
                continue
        return None

    def _secrets(self, seen: Seen, peer: str) -> Iterator[bytes]:
        """Pair secrets of dealer and peer, if one of the adversary's keys stood for the peer's."""
        transcript = seen.transcript
        low, high = sorted((seen.dealer, peer))
        for private in self.private_keys:
            for public in {seen.epoch_keys[seen.dealer], seen.epoch_keys.get(peer, b"")} - {b""}:
                try:
                    shared = private.exchange(X25519PublicKey.from_public_bytes(public))
                except ValueError:
                    shared = bytes(32)
                yield derive(
                    shared,
                    bytes.fromhex(transcript.roster_digest),
                    "pair",
                    transcript.epoch.to_bytes(8, "big"),
                    low,
                    high,
                )

    def _derived(self, seen: Seen) -> set[bytes]:
        """Pair seeds from the adversary's own keys."""
        digest = seen.transcript.digest
        return {
            derive(secret, digest, "mask")
            for peer in seen.transcript.peers(seen.dealer)
            for secret in self._secrets(seen, peer)
        }

    # What it makes of it

    def stripped(self) -> list[np.ndarray]:
        """Every target's vector less all masks that are known, uint32 (padded,) mod 2^m."""
        known = self.known_seeds()
        found = []
        for place, seen in enumerate(self.targets()):
            numbers = seen.transcript.numbers
            vector = unpack(seen.submission.packed, numbers.modulus_bits, numbers.padded)
            for name, seed in known[place].items():
                words = keystream(seed, numbers.padded)
                vector = vector + words if name and name < seen.dealer else vector - words
            found.append(vector & np.uint32((1 << numbers.modulus_bits) - 1))
        return found

    def learned(
        self, truth: Mapping[str, np.ndarray], *, number: int | None = None
    ) -> list[dict[int, int]]:
        """Combinations (place of a target -> coefficient) that it has in clear.

        Of all others its best guess must be noise: no coordinate right beyond chance, and the
        error spread evenly over Z mod 2^m.

        Args:
            truth: body digest -> the vector under the masks.
            number: look at combinations within this round only.
        """
        places = [
            place
            for place, seen in enumerate(self.targets())
            if number in (None, seen.transcript.round)
        ]
        if not places:
            return []
        stripped = self.stripped()
        targets = [self.targets()[place] for place in places]
        vectors = [stripped[place] for place in places]
        modulus = min(seen.transcript.numbers.modulus_bits for seen in targets)
        error = [
            vector.astype(np.int64) - truth[seen.body_digest].astype(np.int64)
            for vector, seen in zip(vectors, targets, strict=True)
        ]
        signed = len(targets) <= SIGNED_COMBINATIONS
        found: list[tuple[int, ...]] = []
        noise: list[tuple[tuple[int, ...], np.ndarray]] = []
        for combination in itertools.product((-1, 0, 1) if signed else (0, 1), repeat=len(targets)):
            first = next((value for value in combination if value), 0)
            if first != 1:  # zero, or the negative of another
                continue
            total = sum(a * e for a, e in zip(combination, error, strict=True) if a)
            residue = np.mod(total, 1 << modulus)
            if residue.any():
                noise.append((combination, residue))
            else:
                found.append(combination)
        # a sum in clear gives the lowest bit of each signed sum of the same vectors
        parities = {tuple(abs(a) for a in combination) for combination in found}
        for combination, residue in noise:
            assert_is_noise(
                residue, modulus, lowest=tuple(abs(a) for a in combination) not in parities
            )
        return [{place: a for place, a in zip(places, row, strict=True) if a} for row in found]

    def places(self, *sites: str, number: int | None = None) -> dict[int, int]:
        """The combination that is the sum of these sites' newest submissions (of a round)."""
        places = {
            seen.dealer: place
            for place, seen in enumerate(self.targets())
            if number in (None, seen.transcript.round)
        }
        return {places[site]: 1 for site in sorted(sites, key=lambda name: places[name])}


def assert_is_noise(residue: np.ndarray, modulus_bits: int, *, lowest: bool = True) -> None:
    """A guess less the truth, mod 2^m, tells nothing: uniform in its top, middle and low bits."""
    count = residue.size
    assert int(np.count_nonzero(residue == 0)) <= 1
    for shift in (modulus_bits - 3, modulus_bits // 2, *((0,) if lowest else ())):
        cells = np.bincount((residue >> shift) & 7, minlength=8)
        assert float(np.sum((cells - count / 8) ** 2) / (count / 8)) < 60.0  # 7 degrees: p 1e-10


def _commitments(seen: Seen) -> Iterator[tuple[str | None, bytes]]:
    yield None, seen.submission.self_commitment
    for peer in seen.transcript.peers(seen.dealer):
        yield peer, seen.submission.pair_commitment(peer)


def _committed(seen: Seen, name: str | None, seed: bytes) -> bytes:
    if name is None:
        return tagged_hash("self-seed", seen.transcript.digest, seen.dealer, seed)
    return tagged_hash("pair-seed", seen.transcript.digest, seen.dealer, name, seed)


def _share_committed(
    transcript: Transcript, dealer: str, name: str | None, receiver: str, share: bytes
) -> bytes:
    if name is None:
        return tagged_hash("share-of-self", transcript.digest, dealer, receiver, share)
    return tagged_hash("share-of-pair", transcript.digest, dealer, name, receiver, share)


def _rebuilt(held: Mapping[int, bytes], threshold: int) -> set[bytes]:
    """What these shares interpolate to: all of them, and the first t."""
    chosen = dict(itertools.islice(sorted(held.items()), threshold))
    return {shamir.rebuild(dict(held)), shamir.rebuild(chosen)}
