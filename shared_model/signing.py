"""Ed25519 signatures over typed, length-prefixed bytes, and the key files that make them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared_model import canonical
from shared_model.canonical import digest
from shared_model.errors import OurMistake, Refused
from shared_model.files import sync_folder

_PREFIX = b"fedprint-1"


def _framed(tag: str, body: bytes) -> bytes:
    """Length-prefix every part, so that no two (tag, body) pairs give the same bytes."""
    parts = (_PREFIX, tag.encode(), body)
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def sign(key: Ed25519PrivateKey, tag: str, body: bytes) -> bytes:
    """64-byte signature over the type tag and the body."""
    return key.sign(_framed(tag, body))


def verify(public_key: bytes, tag: str, body: bytes, signature: bytes) -> None:
    """Check a signature made by `sign`.

    Args:
        public_key: 32 raw bytes.

    Raises:
        Refused: wrong key, tag, body or signature (reason "signature").
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, _framed(tag, body))
    except (InvalidSignature, ValueError) as error:
        raise Refused("The signature does not verify.", reason="signature") from error


def signed_document(kind: str, content: dict[str, Any], key: Ed25519PrivateKey) -> bytes:
    """A file that people hand over: flat JSON of the content and `signature`, with tag `kind`."""
    signature = sign(key, kind, canonical.encode(content))
    document = {**content, "signature": signature.hex()}
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """32 raw bytes of the public key."""
    return key.public_key().public_bytes_raw()


def key_digest(public_key: bytes) -> str:
    """SHA-256 of the raw public key: what people compare."""
    return digest(public_key)


def create_key_file(path: Path) -> Ed25519PrivateKey:
    """Make a key from OS entropy and write it as PKCS8 PEM, mode 0600; never overwrites.

    Raises:
        OurMistake: the file exists.
    """
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_secret(path, pem)
    return key


def write_secret(path: Path, data: bytes) -> None:
    """Write a new file with mode 0600 from its first byte; never overwrites.

    On the disk when this returns: what is made with a key must not outlive it in a power cut.

    Raises:
        OurMistake: the file exists.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise OurMistake(f"{path} exists already; a key is never overwritten.") from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        path.unlink()
        raise
    sync_folder(path.parent)


def load_key_file(path: Path) -> Ed25519PrivateKey:
    """Read a key written by `create_key_file`.

    Raises:
        OurMistake: absent, readable by others, or not an Ed25519 key.
    """
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except OSError as error:
        raise OurMistake(
            f"The key file {path} cannot be read: {error.strerror}.",
            do="Name a key file that is there, and that you may read.",
        ) from error
    if mode & 0o077:
        raise OurMistake(f"Others may read the key file {path}.", do=f"Run: chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except ValueError as error:
        raise OurMistake(f"{path} is not a PEM key.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise OurMistake(f"{path} is not an Ed25519 key.")
    return key
