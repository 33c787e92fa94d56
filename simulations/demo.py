"""fedprint-lab demo: the whole road once, with the commands that people type, as real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared_model import outputs, terminal


def register(app: typer.Typer) -> None:
    """Add `demo` to the lab's commands."""

    @app.command()
    def demo(
        output: Annotated[
            Path,
            typer.Argument(callback=outputs.folder, help="Folder to make; must not exist yet."),
        ],
        data: Annotated[
            Path | None, typer.Option(help="Real recordings (FEDPRINT_DATA, ../shared/data).")
        ] = None,
        simulated: Annotated[
            bool, typer.Option("--simulated", help="Pretend hospitals even where real data are.")
        ] = False,
        rounds: Annotated[int, typer.Option(min=1, help="Rounds of private training.")] = 4,
        steps: Annotated[int, typer.Option(min=1, help="Private steps a round.")] = 10,
        epsilon: Annotated[float, typer.Option(min=0.1, help="Spent by each patient.")] = 8.0,
        patients: Annotated[
            int, typer.Option(min=4, max=90, help="Patients of each SIMULATED hospital.")
        ] = 40,
        replace: Annotated[
            bool, typer.Option("--replace", help="Remove an earlier demo of that folder first.")
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Summary as JSON.")] = False,
    ) -> None:
        """Three hospitals and a coordinator on this machine: ingest to probes, about 10 minutes.

        Real SuperLink and SuperNodes over TLS on loopback; every process is gone afterwards, also
        on Ctrl-C. Everything, logs and keys included, is below OUTPUT; open OUTPUT/report.html.

        Example: fedprint-lab demo demo-run
        """
        from simulations import demo_run
        from simulations.cli_probe import default_data

        summary = demo_run.run(
            demo_run.Settings(
                output=output,
                data=None if simulated else (data or default_data()),
                rounds=rounds,
                steps=steps,
                epsilon=epsilon,
                replace=replace,
                patients=patients,
            )
        )
        if as_json:
            terminal.print_json(summary)
