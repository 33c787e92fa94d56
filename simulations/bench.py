"""fedprint-lab bench NAME: speed figures, never in timed tests."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

import typer

from shared_model import terminal
from shared_model.errors import OurMistake

BENCHES = {
    "ingest": "simulations.bench_ingest:figures",
}


def run_bench(name: str) -> dict[str, Any]:
    """Run one benchmark: {"name", "figures", "machine", "versions"}."""
    if name not in BENCHES:
        raise OurMistake(f"No benchmark {name!r}.", do=f"Choose from: {', '.join(BENCHES)}.")
    module, function = BENCHES[name].split(":")
    measure: Callable[[], dict[str, float]] = getattr(importlib.import_module(module), function)
    return {
        "name": name,
        "figures": measure(),
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "versions": {
            package: version(package) for package in ("fedprint", "numpy", "scipy", "torch", "flwr")
        },
    }


def register(app: typer.Typer) -> None:
    """Add `bench` to the lab's commands."""

    @app.command()
    def bench(
        name: Annotated[str, typer.Argument(help=f"One of: {', '.join(BENCHES)}.")],
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    ) -> None:
        """Measure speed; comparisons run both sides interleaved and report ratios of medians.

        Example: fedprint-lab bench ingest --json
        """
        result = run_bench(name)
        if as_json:
            terminal.print_json(result)
            return
        rows = [{"figure": key, "value": value} for key, value in result["figures"].items()]
        terminal.show(f"bench {name}", rows, as_json=False)
