"""Small files of the node that are functions of patients: sealed like the window store, if it is.

    write_own(home, path, "personal head", body)     # plain, mode 0600, where the store is plain
    body = read_own(home, path, "personal head", LIMIT)

AES-256-GCM; the key is HKDF-SHA256 of the hospital's store key with 32 random bytes of this one
writing, so a nonce of zeros seals one message. Kind and file name are associated data: a file opens
only as what it was written, under its own name. Nothing that sends reads such a file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.home import NodeHome
from client.store_key import StoreKey, key_of
from shared_model import canonical
from shared_model.errors import OurMistake, Refused
from shared_model.files import read_regular, write_atomic

SALT_BYTES = 32
_NONCE = bytes(12)
_LABEL = b"fedprint own file 1: "
AGAIN = "Remove it and make it again."


class _Envelope(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["sealed-1"]
    salt: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    sealed: Annotated[str, Field(pattern=r"^([0-9a-f]{2}){16,}$")]


def write_own(home: NodeHome, path: Path, kind: str, body: bytes) -> bool:
    """Write JSON `body`, sealed if the node has a store key; whole or not at all, mode 0600.

    Returns:
        Whether it is sealed.

    Raises:
        OurMistake: a key is configured and cannot be used, or the file cannot be written.
    """
    key = key_of(home)
    if key is not None:
        salt = os.urandom(SALT_BYTES)
        sealed = _cipher(key, salt).encrypt(_NONCE, body, _bound(kind, path))
        made = _Envelope(format="sealed-1", salt=salt.hex(), sealed=sealed.hex())
        body = canonical.encode(made.model_dump())
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(path, body, mode=0o600)
    except OSError as error:
        raise OurMistake(
            f"{path} cannot be written: {os.strerror(error.errno or 0)}.",
            do="Free room or correct the folder's owner.",
        ) from error
    return key is not None


def read_own(home: NodeHome, path: Path, kind: str, limit_bytes: int) -> bytes:
    """What `write_own` wrote.

    Raises:
        Refused: no regular file, too large, sealed without its key, plain although there is a key
            (reason "store-key"), or not what was written (reason "files").
        OurMistake: a key is configured and cannot be used.
    """
    data, key = read_regular(path, 2 * limit_bytes + 1024), key_of(home)
    envelope = _envelope_of(data, path.name)
    if envelope is None and key is None:
        return data
    if envelope is None or key is None:
        told = "not encrypted, but a store key is" if key else "encrypted, but no store key is"
        raise Refused(f"{path.name} is {told} configured.", reason="store-key", do=AGAIN)
    try:
        cipher = _cipher(key, bytes.fromhex(envelope.salt))
        return cipher.decrypt(_NONCE, bytes.fromhex(envelope.sealed), _bound(kind, path))
    except InvalidTag as error:
        raise Refused(
            f"{path.name} is not what was written here, or of another store key.",
            reason="files",
            do=AGAIN,
        ) from error


def _envelope_of(data: bytes, name: str) -> _Envelope | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise Refused(f"{name} is not JSON.", reason="files", do=AGAIN) from None
    if not isinstance(value, dict) or value.get("format") != "sealed-1":
        return None
    try:
        return _Envelope.model_validate(value)
    except ValidationError as error:
        raise Refused(f"{name} is no sealed file.", reason="files", do=AGAIN) from error


def _cipher(key: StoreKey, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(hashes.SHA256(), 32, salt, _LABEL).derive(key.secret))


def _bound(kind: str, path: Path) -> bytes:
    return canonical.encode([kind, path.name])
