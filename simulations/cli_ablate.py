"""fedprint-lab ablate: short warm-start trainings that vary one thing at a time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from shared_model import terminal
from shared_model.files import write_atomic


def register(app: typer.Typer) -> None:
    """Add `ablate` to the lab's commands."""
    app.command()(ablate)


def ablate(
    file: Annotated[Path, typer.Argument(help="What is varied, TOML.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for all that comes of it.")
    ],
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what is trained, go on with the rest.")
    ] = False,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Runs at the same time; a core each, and a bit.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Vary one thing of the warm start at a time; score on fresh SIMULATED patients only.

    Writes measured-ablation.json, ablation.svg, ablation.pdf and one small file a run.

    Example: fedprint-lab ablate docs/experiments/ablation.toml -o ablation
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from simulations import ablation as core
    from simulations import measurement, results_figures
    from simulations.results_tables import interval

    asked = core.Ablation.from_toml(file)
    began = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal.err) as progress:
        bar = progress.add_task("first windows", total=None)

        def told(words: str, done: int, total: int) -> None:
            progress.update(bar, description=words, completed=done, total=total)
            if not terminal.err.is_terminal and done % asked.steps == 0:
                terminal.err.print(f"{done} of {total} steps: {words}", highlight=False)

        figures = core.run(asked, output, resume=resume, workers=workers, on_step=told)
    document = measurement.made_now(
        "ablation", figures, weights={}, seconds=time.monotonic() - began
    )
    measurement.write(output / "measured-ablation.json", document)
    for name, data in results_figures.draw("ablation", figures).items():
        write_atomic(output / f"ablation-{name}.svg", data)
    if as_json:
        terminal.print_json(document.model_dump())
        return
    rows = [
        {
            key: interval(value, 3) if isinstance(value, dict) else value
            for key, value in row.items()
        }
        for row in figures["rows"]
    ]
    terminal.show(asked.name, [{key: row[key] for key in list(row)[:8]} for row in rows],
                  as_json=False)  # fmt: skip
    for line in figures["in_words"]:
        terminal.out.print(line)
