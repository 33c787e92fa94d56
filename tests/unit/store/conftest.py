"""Tests of the store run on a plain and on an encrypted one where that is cheap."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import at_rest

from client.store_key import CREDENTIAL, StoreKey


@pytest.fixture(params=["plain", "encrypted"])
def store_key(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[StoreKey | None]:
    """The key in use, None for a plain store; commands get it as a systemd credential."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    if request.param == "plain":
        yield None
        return
    folder = tmp_path_factory.mktemp("credentials")
    (folder / CREDENTIAL).write_bytes(at_rest.STORE_KEY.secret)
    (folder / CREDENTIAL).chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    at_rest.use(at_rest.STORE_KEY)
    yield at_rest.STORE_KEY
    at_rest.use(None)
