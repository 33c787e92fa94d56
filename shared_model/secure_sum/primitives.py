"""Hashes, key derivation and keystreams of the secure sum; all inputs length-prefixed and tagged.

Sources: HKDF RFC 5869, AES-CTR SP 800-38A. Exact bytes: docs/secure-sum-wire.md.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared_model.errors import OurMistake

Words = npt.NDArray[np.uint32]

PREFIX = b"fedprint-sum-1"
SEED_BYTES = 32
DIGEST_BYTES = 32
_CHUNK_WORDS = 1 << 16
"""Keystream words made at once when they are only to be added: they stay in the cache."""
_CHUNK_BYTES = 4 * _CHUNK_WORDS
_ZEROS = memoryview(bytes(_CHUNK_BYTES))
_HEAD_BYTES = 32


def framed(*parts: bytes | str) -> bytes:
    """Parts with their lengths before them: no two different sequences give the same bytes."""
    pieces = []
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        pieces += [len(data).to_bytes(8, "big"), data]
    return b"".join(pieces)


def tagged_hash(tag: str, *parts: bytes | str) -> bytes:
    """SHA-256 over the prefix, the tag and the parts; 32 bytes."""
    return hashlib.sha256(framed(PREFIX, tag, *parts)).digest()


def derive(secret: bytes, salt: bytes, tag: str, *parts: bytes | str) -> bytes:
    """HKDF-SHA256; 32 bytes."""
    return HKDF(hashes.SHA256(), SEED_BYTES, salt, framed(PREFIX, tag, *parts)).derive(secret)


def keystream(seed: bytes, words: int) -> Words:
    """AES-256-CTR keystream from counter 0 as little-endian uint32, (words,).

    A seed is used for one keystream only.

    Raises:
        OurMistake: the seed has not 32 bytes.
    """
    found: Words = np.empty(words, dtype="<u4")
    data = found.view(np.uint8).data
    stream = _Stream(seed)
    for start in range(0, len(data), _CHUNK_BYTES):
        stream.into(data[start : start + _CHUNK_BYTES])
    return found


def add_keystream(vector: Words, seed: bytes, *, subtract: bool = False) -> None:
    """`vector` plus (or minus) the keystream of the seed, mod 2^32, in place."""
    stream = _Stream(seed)
    buffer: Words = np.empty(min(len(vector), _CHUNK_WORDS), dtype="<u4")
    data = buffer.view(np.uint8).data
    combine = np.subtract if subtract else np.add
    for start in range(0, len(vector), _CHUNK_WORDS):
        part = vector[start : start + _CHUNK_WORDS]
        if len(part) < len(buffer):
            buffer, data = buffer[: len(part)], data[: part.nbytes]
        stream.into(data)
        combine(part, buffer, out=part)


class _Stream:
    """The keystream of one seed, in order.

    Only blocks 0 and 1 come from the cipher's CTR mode. AES-GCM with a nonce of zeros enciphers
    with the counter blocks 2, 3, ... (SP 800-38D, section 7.1: GCTR from inc32(J0), J0 = 1): the
    same blocks, up to 2^32 of them, and OpenSSL makes them 2.5 times as fast where the processor
    has VAES. The tag is never made.
    """

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise OurMistake("A seed has 32 bytes.")
        key = algorithms.AES256(seed)
        self._head = Cipher(key, modes.CTR(bytes(16))).encryptor().update(bytes(_HEAD_BYTES))
        self._encryptor = Cipher(key, modes.GCM(bytes(12))).encryptor()

    def into(self, data: memoryview) -> None:
        """Fill the next bytes, at most a chunk; all calls but the last fill a whole one."""
        if self._head:
            head, self._head = self._head[: len(data)], b""
            data[: len(head)] = head
            data = data[len(head) :]
        self._encryptor.update_into(_ZEROS[: len(data)], data)
