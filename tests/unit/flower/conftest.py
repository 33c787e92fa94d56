"""Flower and Typer warn about themselves when they are imported; that is not ours to fix."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "ledger"))

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import client.app  # noqa: F401
    import server.run_process  # noqa: F401
    import simulations.in_process_grid  # noqa: F401
