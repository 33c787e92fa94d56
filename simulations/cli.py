"""fedprint-lab: what researchers run."""

from __future__ import annotations

import typer

from shared_model import about, commands, terminal
from simulations import (
    bench,
    cli_ablate,
    cli_cohort,
    cli_cross_modal,
    cli_export,
    cli_federation,
    cli_federation_data,
    cli_gain,
    cli_head,
    cli_plan,
    cli_plot,
    cli_probe,
    cli_results,
    cli_run,
    cli_simulated_windows,
    cli_sweep,
    cli_warm_start,
    demo,
    gate_retention,
    public_loss,
)

app = typer.Typer(
    name="fedprint-lab",
    help="Pretend hospitals, warm starts, probes and benchmarks, with the code that hospitals run.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
parts = (
    cli_cohort,
    cli_warm_start,
    cli_ablate,
    cli_run,
    cli_plan,
    cli_sweep,
    cli_plot,
    cli_federation_data,
    cli_federation,
    gate_retention,
    cli_probe,
    cli_cross_modal,
    cli_results,
    cli_gain,
    cli_head,
    cli_simulated_windows,
    cli_export,
    bench,
    demo,
    public_loss,
)
for part in parts:
    part.register(app)


@app.callback()
def root(version: about.Version = False) -> None:
    """Pretend hospitals, warm starts, probes and benchmarks, with the code that hospitals run."""


def main() -> None:
    """Console script."""
    terminal.run(lambda: commands.command_of(app)(standalone_mode=False))
