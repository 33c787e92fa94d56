"""A stream under a passphrase: scrypt, then AES-256-GCM in chunks that cannot be moved or cut off.

    fedprint-backup-1\\n    magic
    salt                   16 bytes
    prefix                 7 bytes
    chunk, chunk, ...      64 KiB each but the last, and a tag of 16 bytes

The nonce of a chunk is prefix, number (4 bytes) and 1 for the last chunk, else 0 (the STREAM
construction of Hoang, Reyhanitabar, Rogaway and Vizar); magic, salt and prefix are associated data.
The cost of scrypt is the version's: no file can ask for more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from shared_model.errors import OurMistake, Refused

MAGIC = b"fedprint-backup-1\n"
SALT_BYTES, PREFIX_BYTES, TAG_BYTES = 16, 7, 16
HEADER_BYTES = len(MAGIC) + SALT_BYTES + PREFIX_BYTES
CHUNK_BYTES = 64 * 1024
SHORTEST_PASSPHRASE = 12
"""Characters."""
_LAST_CHUNK = 2**32 - 1


def check_passphrase(passphrase: str) -> None:
    """Raises `OurMistake` if it is short."""
    if len(passphrase) < SHORTEST_PASSPHRASE:
        raise OurMistake(
            f"A passphrase has {SHORTEST_PASSPHRASE} characters at least.",
            do="Take six random words, and keep them where the backup is not.",
        )


def _cipher(passphrase: str, salt: bytes) -> AESGCM:
    # 128 MiB and about half a second for each guess
    kdf = Scrypt(salt=salt, length=32, n=2**17, r=8, p=1)
    return AESGCM(kdf.derive(passphrase.encode()))


class SealedWriter:
    """Encrypts what is written. `finish` must be called: without it the stream is cut off."""

    def __init__(self, stream: BinaryIO, passphrase: str, entropy: Callable[[int], bytes]) -> None:
        check_passphrase(passphrase)
        salt, self._prefix = entropy(SALT_BYTES), entropy(PREFIX_BYTES)
        self._header = MAGIC + salt + self._prefix
        self._cipher = _cipher(passphrase, salt)
        self._stream, self._waiting, self._number = stream, bytearray(), 0
        stream.write(self._header)

    def write(self, data: bytes) -> int:
        self._waiting += data
        while len(self._waiting) > CHUNK_BYTES:  # the last chunk, which may be whole, waits
            self._seal(bytes(self._waiting[:CHUNK_BYTES]), last=False)
            del self._waiting[:CHUNK_BYTES]
        return len(data)

    def finish(self) -> None:
        """Write the last chunk."""
        self._seal(bytes(self._waiting), last=True)

    def _seal(self, chunk: bytes, *, last: bool) -> None:
        nonce = _nonce(self._prefix, self._number, last)
        self._stream.write(self._cipher.encrypt(nonce, chunk, self._header))
        self._number += 1


class SealedReader:
    """Decrypts; nothing comes out of a chunk that does not authenticate.

    Raises:
        Refused: wrong passphrase, or changed, cut off or lengthened (reason "backup").
    """

    def __init__(self, stream: BinaryIO, passphrase: str) -> None:
        self._header = stream.read(HEADER_BYTES)
        if len(self._header) != HEADER_BYTES or not self._header.startswith(MAGIC):
            raise damaged("it is no encrypted backup")
        salt = self._header[len(MAGIC) : len(MAGIC) + SALT_BYTES]
        self._prefix = self._header[-PREFIX_BYTES:]
        self._cipher = _cipher(passphrase, salt)
        self._stream, self._number, self._open = stream, 0, bytearray()
        self._next = stream.read(CHUNK_BYTES + TAG_BYTES)
        self._ended = False

    def read(self, size: int) -> bytes:
        """So many bytes, fewer only at the end."""
        while len(self._open) < size and not self._ended:
            self._more()
        data = bytes(self._open[:size])
        del self._open[:size]
        return data

    def _more(self) -> None:
        chunk, self._next = self._next, self._stream.read(CHUNK_BYTES + TAG_BYTES)
        self._ended = not self._next
        nonce = _nonce(self._prefix, self._number, self._ended)
        try:
            self._open += self._cipher.decrypt(nonce, chunk, self._header)
        except InvalidTag as error:
            if self._number == 0:
                raise Refused(
                    "The passphrase is wrong, or the backup is damaged at its beginning.",
                    reason="backup",
                    do="Type the passphrase that it was made with.",
                ) from error
            raise damaged("it was changed or cut off") from error
        self._number += 1


def damaged(what: str) -> Refused:
    """The fault of a backup that is not as it was made."""
    return Refused(
        f"This backup cannot be used: {what}.", reason="backup", do="Take another copy of it."
    )


def _nonce(prefix: bytes, number: int, last: bool) -> bytes:
    if number > _LAST_CHUNK:
        raise OurMistake("A backup has at most 256 TiB.")
    return prefix + number.to_bytes(4, "big") + bytes([last])
