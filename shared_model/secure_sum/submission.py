"""Trip 1: the masked vector, sealed shares of everything that hides it, and commitments.

What leaves of a site's vector is uniformly distributed to whoever lacks its self seed, and to
whoever lacks one pair seed of it with an honest survivor (Bonawitz et al. 2017, section 4; there
the shares are of the key, here of every pair seed).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from shared_model.errors import OurMistake, PeerFault
from shared_model.secure_sum import shamir
from shared_model.secure_sum.keys import Entropy, Member
from shared_model.secure_sum.numbers import pack, packed_words
from shared_model.secure_sum.primitives import (
    DIGEST_BYTES,
    PREFIX,
    SEED_BYTES,
    Words,
    add_keystream,
    framed,
    tagged_hash,
)
from shared_model.secure_sum.shamir import MAX_RECEIVERS
from shared_model.secure_sum.transcript import Transcript

SALT_BYTES = 32
TAG_BYTES = 16
NONCE = bytes(12)
"""Every sealing key is used once."""


def seal_submission(
    vector: Words, member: Member, transcript: Transcript, entropy: Entropy
) -> bytes:
    """Body of a submission.

    Args:
        vector: uint32 (padded,), weight x q mod 2^m; it is masked **in place** and worth nothing
            afterwards.
        entropy: the operating system's.

    Raises:
        PeerFault: a participant has no usable key.
        OurMistake: the vector has another size, or this site takes no part.
    """
    transcript.index(member.site)
    if vector.shape != (transcript.numbers.padded,):
        raise OurMistake("The vector has another size than the round's parameters say.")
    me, peers, digest = member.site, transcript.peers(member.site), transcript.digest
    pair_seeds = {peer: member.pair_seed(peer, digest) for peer in peers}
    self_seed, salt = entropy(SEED_BYTES), entropy(SALT_BYTES)
    secrets = [self_seed, *pair_seeds.values()]
    count = len(secrets)
    shares = shamir.split(
        np.frombuffer(b"".join(secrets), dtype=np.uint8).reshape(count, SEED_BYTES),
        transcript.threshold,
        len(transcript.participants),
        entropy(count * (transcript.threshold - 1) * SEED_BYTES),
    )
    mask(vector, me, self_seed, pair_seeds)
    vector &= np.uint32((1 << transcript.numbers.modulus_bits) - 1)
    packed = packed_words(vector, transcript.numbers.modulus_bits)
    parts: list[bytes | memoryview] = [
        packed.data.cast("B"),
        salt,
        self_commitment(digest, me, self_seed),
        *(pair_commitment(digest, me, peer, seed) for peer, seed in pair_seeds.items()),
    ]
    for index, receiver in enumerate(transcript.participants):
        plain = shares[index].tobytes()
        row = [plain[at : at + SEED_BYTES] for at in range(0, len(plain), SEED_BYTES)]
        committed = b"".join(share_commitments(transcript, me, receiver, row))
        key = member.share_key(me, receiver, digest, salt)
        sealed = ChaCha20Poly1305(key).encrypt(
            NONCE, plain, associated_data(digest, me, receiver, committed)
        )
        parts += [committed, sealed]
    return b"".join(parts)


def unmasked_submission(vector: Words, transcript: Transcript) -> bytes:
    """Body of a submission whose masks are off: simulations only. The packed vector alone."""
    return pack(vector, transcript.numbers.modulus_bits)


def mask(vector: Words, site: str, self_seed: bytes, pair_seeds: dict[str, bytes]) -> None:
    """Add all masks of a site to its vector, mod 2^32, in place."""
    add_keystream(vector, self_seed)
    for peer, seed in pair_seeds.items():
        add_keystream(vector, seed, subtract=peer < site)


def self_commitment(transcript: bytes, dealer: str, seed: bytes) -> bytes:
    """Commitment to a self seed."""
    return tagged_hash("self-seed", transcript, dealer, seed)


def pair_commitment(transcript: bytes, dealer: str, peer: str, seed: bytes) -> bytes:
    """Commitment of `dealer` to its pair seed with `peer`."""
    return tagged_hash("pair-seed", transcript, dealer, peer, seed)


def share_commitments(
    transcript: Transcript, dealer: str, receiver: str, shares: list[bytes]
) -> list[bytes]:
    """Commitments to the shares for one receiver, in the order of the dealer's secrets."""
    # the tagged hash of each share; what goes before the shares is framed once for all of them
    after = framed(receiver) + SEED_BYTES.to_bytes(8, "big")
    before = framed(PREFIX, "share-of-pair", transcript.digest, dealer)
    starts = [framed(PREFIX, "share-of-self", transcript.digest, dealer) + after]
    starts += [before + _framed_name(peer) + after for peer in transcript.peers(dealer)]
    return [
        hashlib.sha256(start + share).digest() for start, share in zip(starts, shares, strict=True)
    ]


@lru_cache(maxsize=2 * MAX_RECEIVERS)
def _framed_name(site: str) -> bytes:
    return framed(site)


def associated_data(transcript: bytes, dealer: str, receiver: str, committed: bytes) -> bytes:
    """What the seal of a row authenticates besides the shares."""
    return framed(PREFIX, "share", transcript, dealer, receiver, committed)


def row_bytes(transcript: Transcript) -> int:
    """Length of one receiver's row: commitments and sealed shares."""
    return len(transcript.participants) * (DIGEST_BYTES + SEED_BYTES) + TAG_BYTES


@dataclass(frozen=True)
class Submission:
    """The parsed body of a masked submission; hostile until its values are checked."""

    dealer: str
    transcript: Transcript
    body: bytes | memoryview = field(repr=False)

    @classmethod
    def parse(cls, body: bytes | memoryview, transcript: Transcript, dealer: str) -> Submission:
        """Check the length, from which all positions follow.

        Raises:
            PeerFault: of the dealer; another length.
        """
        submission = cls(dealer, transcript, body)
        count = len(transcript.participants)
        wanted = submission._rows_at + count * row_bytes(transcript)
        if dealer not in transcript.participants or len(body) != wanted:
            raise PeerFault(f"The submission of {dealer} has a wrong length.", site=dealer)
        return submission

    @property
    def packed(self) -> memoryview:
        """The packed masked vector."""
        return memoryview(self.body)[: self.transcript.numbers.packed_bytes]

    @property
    def salt(self) -> bytes:
        """Fresh bytes in every sealing key of this submission."""
        return self._at(self.transcript.numbers.packed_bytes, SALT_BYTES)

    @property
    def self_commitment(self) -> bytes:
        return self._at(self._commitments_at, DIGEST_BYTES)

    def pair_commitment(self, peer: str) -> bytes:
        """The dealer's commitment to its pair seed with `peer`."""
        place = 1 + self.transcript.peers(self.dealer).index(peer)
        return self._at(self._commitments_at + place * DIGEST_BYTES, DIGEST_BYTES)

    def row(self, receiver: str) -> bytes:
        """Commitments to the receiver's shares, then the sealed shares."""
        size = row_bytes(self.transcript)
        return self._at(self._rows_at + self.transcript.index(receiver) * size, size)

    def share_commitment(self, receiver: str, peer: str | None) -> bytes:
        """Commitment to the receiver's share of the self seed (None) or of the seed with a peer."""
        place = 0 if peer is None else 1 + self.transcript.peers(self.dealer).index(peer)
        start = self._rows_at + self.transcript.index(receiver) * row_bytes(self.transcript)
        return self._at(start + place * DIGEST_BYTES, DIGEST_BYTES)

    @property
    def _commitments_at(self) -> int:
        return self.transcript.numbers.packed_bytes + SALT_BYTES

    @property
    def _rows_at(self) -> int:
        return self._commitments_at + len(self.transcript.participants) * DIGEST_BYTES

    def _at(self, start: int, size: int) -> bytes:
        return bytes(memoryview(self.body)[start : start + size])
