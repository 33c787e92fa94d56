"""The seeded bugs are importable beside the tests."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

with warnings.catch_warnings():
    # Typer imports names that Click 8.3 deprecates; nothing of ours does.
    warnings.simplefilter("ignore", DeprecationWarning)
    import typer.testing  # noqa: F401
