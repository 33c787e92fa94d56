"""`--help` answers at once: what a command needs is imported when it runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "scipy", "matplotlib", "ray", "sklearn", "flwr", "pandas", "pyarrow", "umap")


@pytest.mark.parametrize("commands", ["client.cli", "server.cli", "auditor.cli", "simulations.cli"])
def test_a_command_line_is_there_without_its_heavy_libraries(commands: str) -> None:
    """Importing the commands imports none of them."""
    code = f"import sys, {commands}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
