"""fedprint-lab bench NAME: speed figures, never in timed tests."""

from __future__ import annotations

import importlib
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from shared_model import outputs, terminal
from shared_model.errors import OurMistake


@dataclass(frozen=True)
class Measured:
    """What a benchmark gives that has more to say than figures.

    figures: None is "not measured", and a note says why. weights: digest of each model that was
    measured, by its name. devices: what computed, in words. packages: others than those of every
    benchmark whose versions matter.
    """

    figures: Mapping[str, float | None]
    weights: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    devices: str = "cpu"
    packages: tuple[str, ...] = ()


Figures = Callable[[bool, Callable[[str], None]], Mapping[str, float] | Measured]
"""(quick, tell) -> figures; `tell` says on stderr what is being done."""

PACKAGES = ("fedprint", "numpy", "scipy", "torch", "flwr", "cryptography")
BENCHES = {
    "ingest": "simulations.bench_ingest:figures",
    "secure-sum": "simulations.bench_secure_sum:figures",
    "round": "simulations.bench_round:figures",
    "noise": "simulations.bench_noise:figures",
    "distributed-utility": "simulations.bench_distributed:figures",
    "dp-step": "simulations.bench_dp_step:figures",
    "store": "simulations.bench_store:figures",
    "simulator": "simulations.bench_simulator:figures",
    "onnx": "simulations.bench_onnx:figures",
    "encoder": "simulations.bench_encoder:figures",
}


def run_bench(
    name: str, *, quick: bool = False, tell: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Run one benchmark: {"name", "quick", "figures", "notes", "weights", "machine", "versions"}.

    Args:
        quick: small sizes, to see that it runs; the bars are for the full sizes.
        tell: called with what is being done.
    """
    if name not in BENCHES:
        raise OurMistake(f"No benchmark {name!r}.", do=f"Choose from: {', '.join(BENCHES)}.")
    module, function = BENCHES[name].split(":")
    measure: Figures = getattr(importlib.import_module(module), function)
    found = measure(quick, tell or (lambda _: None))
    if not isinstance(found, Measured):
        found = Measured(found)
    return {
        "name": name,
        "quick": quick,
        "figures": dict(found.figures),
        "notes": list(found.notes),
        "weights": dict(found.weights),
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "threads": os.environ.get("OMP_NUM_THREADS", "as many as cores"),
            "devices": found.devices,
        },
        "versions": {package: version(package) for package in (*PACKAGES, *found.packages)},
    }


def register(app: typer.Typer) -> None:
    """Add `bench` to the lab's commands."""

    @app.command()
    def bench(
        name: Annotated[str, typer.Argument(help=f"One of: {', '.join(BENCHES)}.")],
        quick: Annotated[bool, typer.Option(help="Small sizes, to see that it runs.")] = False,
        output: Annotated[
            Path | None,
            typer.Option(
                "-o",
                "--output",
                callback=outputs.folder,
                help="Folder for measured-bench-NAME.json.",
            ),
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    ) -> None:
        """Measure speed; comparisons run both sides interleaved and report ratios of medians.

        What is being done is told on stderr. Set OMP_NUM_THREADS=1 to compare both sides fairly.

        Example: fedprint-lab bench secure-sum --json
        """
        began = time.monotonic()
        result = run_bench(name, quick=quick, tell=_on_stderr)
        if output is not None:
            from simulations import measurement

            figures = {key: result[key] for key in ("name", "quick", "figures", "notes")}
            measured = measurement.made_now(
                "bench",
                figures,
                weights=result["weights"],
                seconds=time.monotonic() - began,
                devices=result["machine"]["devices"],
                packages=tuple(name for name in result["versions"] if name not in PACKAGES),
            )
            measurement.write(output / f"measured-bench-{name}.json", measured)
        if as_json:
            terminal.print_json(result)
            return
        rows = [{"figure": key, "value": value} for key, value in result["figures"].items()]
        terminal.show(f"bench {name}", rows, as_json=False)
        for note in result["notes"]:
            terminal.out.print(note, highlight=False)


def _on_stderr(text: str) -> None:
    terminal.err.print(text, highlight=False)
