"""Canonical encoding and digests: the same value gives the same bytes on every machine."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from shared_model.errors import OurMistake


def encode(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8, finite numbers only.

    Raises:
        OurMistake: the value has a non-finite number, a non-string key or a type JSON lacks.
    """
    _check(value)
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(data: bytes) -> str:
    """SHA-256 of the bytes, 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of the canonical encoding of a value."""
    return digest(encode(value))


def _check(value: Any) -> None:
    if value is None or isinstance(value, bool | int | str):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise OurMistake("A non-finite number cannot be encoded.")
        return
    if isinstance(value, list | tuple):
        for item in value:
            _check(item)
        return
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise OurMistake("Only string keys can be encoded.")
            _check(item)
        return
    raise OurMistake(f"A value of type {type(value).__name__} cannot be encoded.")
