"""The window store plain or encrypted, as the fixture `store_key` has it for the present test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from client.store import WindowStore
from client.store_key import StoreKey
from client.store_write import StoreWriter

STORE_KEY = StoreKey(bytes(range(100, 132)), "a test")
_in_use: list[StoreKey | None] = [None]


def use(key: StoreKey | None) -> None:
    _in_use[:] = [key]


def opened(path: Path, **options: Any) -> WindowStore:
    return WindowStore.open(path, _in_use[0], **options)


def writing(path: Path, key: bytes, **options: Any) -> StoreWriter:
    """`key` is the pseudonym key."""
    return StoreWriter(path, key, _in_use[0], **options)
