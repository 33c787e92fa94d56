"""`bench store` runs and prints its figures."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from simulations.cli import app


def test_bench_store_prints_the_promised_figures() -> None:
    """Ratios of encrypted over plain, as JSON; it tells on stderr what it does."""
    done = CliRunner().invoke(app, ["bench", "store", "--quick", "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["figures"]
    assert found["read_ratio_encrypted"] > 0.0
    assert 1.0 < found["size_ratio_encrypted"] < 1.02
    assert found["windows_per_s_encrypted"] > 0.0
    assert "reading from both" in done.stderr
