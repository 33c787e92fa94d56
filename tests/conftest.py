"""Fixtures of every test: one thread for torch, and the real recordings where they are present."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

# A shell that starts the tests in the background makes them, and every process that they start,
# deaf to SIGINT; then no Ctrl-C test could pass. Children get the default for a handler set here.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _threads_of_torch() -> Iterator[None]:
    """As many after a test as before: a sum's bits depend on them, and a command run within this
    process (`fedprint-lab warm-start`) leaves its own number."""
    known = "torch" in sys.modules
    before = sys.modules["torch"].get_num_threads() if known else int(os.environ["OMP_NUM_THREADS"])
    yield
    if "torch" in sys.modules and sys.modules["torch"].get_num_threads() != before:
        sys.modules["torch"].set_num_threads(before)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real recordings (`FEDPRINT_DATA`, default ../shared/data); skips if absent."""
    path = Path(os.environ.get("FEDPRINT_DATA", ROOT.parent / "shared" / "data"))
    if not (path / "README.md").is_file():
        pytest.skip(f"real recordings are absent: {path} (set FEDPRINT_DATA)")
    return path
