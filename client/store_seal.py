"""How the window store is encrypted: AES-256-GCM, keys by HKDF-SHA256 from the hospital's key.

    cipher = StoreCipher.fresh(secret)            # a new store; its salt is drawn here
    data = cipher.seal_manifest(body)             # manifest.json
    part = cipher.part(part_id)                   # every part has a key of its own
    sealed = part.encrypt("signal.bin", 0, window)   # record 0 of that file: ciphertext and tag

No nonce can come twice under one key. A part's key is bound to its random 128-bit identifier, which
is drawn when the part is begun and never used again; within a part the nonce is file and position,
and a file is written once, from its beginning to its end. A manifest's key is bound to 32 random
bytes drawn for that one writing, and seals one message. Part, file and position are associated data
as well: a record opens only in its own place.
"""

from __future__ import annotations

import hmac
import json
import os
from dataclasses import dataclass, field
from typing import Annotated, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client import store_format as fmt
from shared_model import canonical
from shared_model.errors import Refused

SEALED_FORMAT = 2
SALT_BYTES = 32
WRITE_BYTES = 32
CHECK_BYTES = 16
_LABEL = b"fedprint window store 2: "
_FILE_NUMBER = {name: number for number, name in enumerate(fmt.PART_FILES)}
_MANIFEST_NONCE = bytes(12)
"""Its key seals one message only."""


class Envelope(BaseModel):
    """manifest.json of an encrypted store; everything but `sealed` is associated data.

    salt: of the store, for its life. key_check: tells a wrong key at once. write: drawn for this
    writing. All in small hexadecimal digits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[2]
    cipher: Literal["AES-256-GCM"]
    salt: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    key_check: fmt.Hex32
    write: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    sealed: Annotated[str, Field(pattern=r"^([0-9a-f]{2})+$", min_length=2 * fmt.TAG_BYTES)]

    @property
    def associated(self) -> bytes:
        return canonical.encode(self.model_dump(mode="json", exclude={"sealed"}))


def envelope_of(data: bytes) -> Envelope | None:
    """The envelope in the bytes of manifest.json; None if they claim to be none.

    Raises:
        DataFault: they claim to be one, and are not, byte for byte (cause "store").
    """
    try:
        body = json.loads(data) if len(data) <= fmt.MAX_JSON_BYTES else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or body.get("format") != SEALED_FORMAT:
        return None
    try:
        envelope = Envelope.model_validate(body)
    except ValidationError as error:
        raise fmt.damaged("manifest.json is no envelope of an encrypted store") from error
    if canonical.encode(body) != data:
        raise fmt.damaged("manifest.json is not as it was written")
    return envelope


class PartCipher:
    """Seals and opens the records of one part; its key serves this part only."""

    def __init__(self, part_id: str, key: bytes) -> None:
        self._id = part_id
        self._bound = b"fedprint part" + bytes.fromhex(part_id)
        self._aead = AESGCM(key)

    def encrypt(self, name: str, record: int, data: bytes | memoryview) -> bytes:
        """Ciphertext and tag of the record at this position; each position is sealed once."""
        place = _place(name, record)
        return self._aead.encrypt(place, data, self._bound + place)

    def decrypt(self, name: str, record: int, sealed: bytes | memoryview) -> bytes:
        """What was sealed at this position.

        Raises:
            DataFault: it is not what was sealed in this place, or not by this key (cause "store").
        """
        place = _place(name, record)
        try:
            return self._aead.decrypt(place, sealed, self._bound + place)
        except InvalidTag as error:
            raise fmt.damaged(
                f"part {self._id}, {name}: record {record} is not what was written"
            ) from error

    def decrypt_all(self, name: str, sealed: bytes) -> bytes:
        """Content of a whole file.

        Raises:
            DataFault: see `decrypt`.
        """
        view, step = memoryview(sealed), fmt.RECORD_BYTES[name] + fmt.TAG_BYTES
        return b"".join(
            self.decrypt(name, number, view[first : first + step])
            for number, first in enumerate(range(0, len(sealed), step))
        )


@dataclass(frozen=True)
class StoreCipher:
    """The hospital's key together with one store's salt. secret: store_key.KEY_BYTES."""

    secret: bytes = field(repr=False)
    salt: bytes

    @classmethod
    def fresh(cls, secret: bytes) -> StoreCipher:
        """For a store that is begun, or encrypted, now."""
        return cls(secret, os.urandom(SALT_BYTES))

    @classmethod
    def of(cls, envelope: Envelope, secret: bytes) -> StoreCipher:
        """For the store with this envelope.

        Raises:
            Refused: the key is another store's (reason "store-key").
        """
        cipher = cls(secret, bytes.fromhex(envelope.salt))
        if not hmac.compare_digest(cipher.key_check, envelope.key_check):
            raise Refused(
                "The window store was encrypted with another key than the one configured.",
                reason="store-key",
                do="Restore the key that belongs to this store (see: [store] of node.toml).",
            )
        return cipher

    @property
    def key_check(self) -> str:
        return self._derive(b"key check", CHECK_BYTES).hex()

    def part(self, part_id: str) -> PartCipher:
        """For a part, by its identifier of 32 hexadecimal digits."""
        return PartCipher(part_id, self._derive(b"part" + bytes.fromhex(part_id), 32))

    def seal_manifest(self, body: bytes) -> bytes:
        """manifest.json with this content, under a key that is used this once."""
        write = os.urandom(WRITE_BYTES)
        header = Envelope(
            format=2,
            cipher="AES-256-GCM",
            salt=self.salt.hex(),
            key_check=self.key_check,
            write=write.hex(),
            sealed="00" * fmt.TAG_BYTES,
        )
        aead = AESGCM(self._derive(b"manifest" + write, 32))
        sealed = aead.encrypt(_MANIFEST_NONCE, body, header.associated)
        full = header.model_copy(update={"sealed": sealed.hex()})
        return canonical.encode(full.model_dump(mode="json"))

    def open_manifest(self, envelope: Envelope) -> bytes:
        """Content of a manifest.

        Raises:
            DataFault: it is not what was sealed (cause "store").
        """
        aead = AESGCM(self._derive(b"manifest" + bytes.fromhex(envelope.write), 32))
        try:
            return aead.decrypt(
                _MANIFEST_NONCE, bytes.fromhex(envelope.sealed), envelope.associated
            )
        except InvalidTag as error:
            raise fmt.damaged("manifest.json is not what was written") from error

    def _derive(self, purpose: bytes, size: int) -> bytes:
        return HKDF(hashes.SHA256(), size, self.salt, _LABEL + purpose).derive(self.secret)


def _place(name: str, record: int) -> bytes:
    """12 bytes that are unique for every record of a part: file, position."""
    return _FILE_NUMBER[name].to_bytes(4, "big") + record.to_bytes(8, "big")
