"""Fixtures of every test: one thread for torch, and the real recordings where they are present."""

from __future__ import annotations

import os
import signal
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


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real recordings (`FEDPRINT_DATA`, default ../shared/data); skips if absent."""
    path = Path(os.environ.get("FEDPRINT_DATA", ROOT.parent / "shared" / "data"))
    if not (path / "README.md").is_file():
        pytest.skip(f"real recordings are absent: {path} (set FEDPRINT_DATA)")
    return path
