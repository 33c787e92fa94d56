"""Epoch keys and what pairs of sites derive from them.

X25519 RFC 7748. The private key of an epoch is the only long-lived secret of a site in the secure
sum; everything else of a round follows from it and the transcript. It is erased with its epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from shared_model.errors import OurMistake, PeerFault
from shared_model.secure_sum.primitives import derive

Entropy = Callable[[int], bytes]
"""`os.urandom`; in tests something that repeats."""

KEY_BYTES = 32


def new_epoch_key(entropy: Entropy) -> X25519PrivateKey:
    """A fresh X25519 key."""
    return X25519PrivateKey.from_private_bytes(entropy(KEY_BYTES))


def public_key(key: X25519PrivateKey) -> bytes:
    """32 raw bytes."""
    return key.public_key().public_bytes_raw()


_FIELD = 2**255 - 19
_PROBE = bytes([1]) * KEY_BYTES


def is_public_key(data: bytes) -> bool:
    """Whether these bytes are a public key that X25519 can use, in its one spelling.

    Not: values of 2^255 - 19 and above, which stand for the same point as a smaller one (RFC 7748,
    section 5), so that a copied key would look like another; nor points of small order, with which
    every shared secret is zero.
    """
    if len(data) != KEY_BYTES or int.from_bytes(data, "little") >= _FIELD:
        return False
    try:
        X25519PrivateKey.from_private_bytes(_PROBE).exchange(
            X25519PublicKey.from_public_bytes(data)
        )
    except ValueError:
        return False
    return True


@dataclass
class Member:
    """One site in one epoch: its private key and everybody's verified public keys.

    public_keys: site -> 32 raw bytes, this site's own included; the caller has verified their
    signatures against the approved roster. roster_digest: 32 raw bytes.

    Raises:
        OurMistake: the own public key is not the one of the private key.
    """

    site: str
    key: X25519PrivateKey = field(repr=False)
    public_keys: Mapping[str, bytes] = field(repr=False)
    roster_digest: bytes
    epoch: int
    _pair_secrets: dict[str, bytes] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.public_keys.get(self.site) != public_key(self.key):
            raise OurMistake("The epoch key of this site is not the one that the others see.")

    def pair_secret(self, peer: str) -> bytes:
        """Secret of this site and `peer` for this epoch; 32 bytes.

        Raises:
            PeerFault: the peer has no key, or one that leads to a secret of zeros.
        """
        found = self._pair_secrets.get(peer)
        if found is None:
            found = self._agree(peer)
            self._pair_secrets[peer] = found
        return found

    def _agree(self, peer: str) -> bytes:
        try:
            shared = self.key.exchange(X25519PublicKey.from_public_bytes(self.public_keys[peer]))
        except (KeyError, ValueError) as error:
            raise PeerFault(
                f"{peer} has no usable key of this epoch.",
                site=peer,
                do="Leave the site out, or begin a new epoch.",
            ) from error
        low, high = sorted((self.site, peer))
        epoch = self.epoch.to_bytes(8, "big")
        return derive(shared, self.roster_digest, "pair", epoch, low, high)

    def pair_seed(self, peer: str, transcript: bytes) -> bytes:
        """Seed of the pairwise mask of this site and `peer` in one round; 32 bytes."""
        return derive(self.pair_secret(peer), transcript, "mask")

    def share_key(self, dealer: str, receiver: str, transcript: bytes, salt: bytes) -> bytes:
        """Key of the sealed shares from dealer to receiver, one of which is this site; 32 bytes.

        Used for one sealing only: the salt is fresh for every submission.

        Raises:
            OurMistake: this site is neither of them.
        """
        if self.site not in (dealer, receiver):
            raise OurMistake("Shares of others are none of this site's business.")
        peer = receiver if dealer == self.site else dealer
        return derive(self.pair_secret(peer), transcript, "share", dealer, receiver, salt)
