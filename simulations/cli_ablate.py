"""fedprint-lab ablate: short warm-start trainings that vary one thing at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared_model import outputs, terminal
from shared_model.files import write_atomic
from simulations.cli_ended import again, going_on

if TYPE_CHECKING:
    from simulations.ablation import Ablation
    from simulations.measurement import Measurement

_WHOLE = ("mean skill", "minus base", "identity")
_AT_ONCE = 3
"""Scores in a table at most: with their intervals they fit into 100 columns, beside the variant."""


def register(app: typer.Typer) -> None:
    """Add `ablate` to the lab's commands."""
    app.command()(ablate)


def ablate(
    file: Annotated[Path, typer.Argument(help="What is varied, TOML.")],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", callback=outputs.folder, help="Folder for all that comes of it."
        ),
    ],
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Keep runs that the same code and versions made, train the rest."
        ),
    ] = False,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Runs at the same time; a core each, and a bit.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Vary one thing of the warm start at a time; score on fresh SIMULATED patients only.

    Writes measured-ablation.json, ablation-error.svg (each variant's skill) and,
    in runs/, a small file a run, which says what made it; --resume keeps those of
    the same code and versions.

    Exit status 130 after Ctrl-C, 143 after SIGTERM: finished runs are kept.

    Example: fedprint-lab ablate docs/experiments/ablation.toml -o ablation
    """
    from simulations import ablation as core

    asked = core.Ablation.from_toml(file)
    more = workers if workers > 1 else None
    with going_on(output, again("ablate", str(file), "-o", str(output), workers=more)):
        document = _measured(asked, output, resume, workers)
    if as_json:
        terminal.print_json(document.model_dump())
        return
    figures = document.figures
    seeds = f"{len(asked.seeds)} seed{'s' if len(asked.seeds) > 1 else ''}"
    for title, rows in tables(figures["rows"]):
        terminal.show(f"{asked.name}, {seeds}: {title}", rows, as_json=False)
    for line in figures["in_words"]:
        terminal.out.print(line)


def _measured(asked: Ablation, output: Path, resume: bool, workers: int) -> Measurement:
    """Train and score with a bar on standard error; write what came of it."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from simulations import ablation as core
    from simulations import measurement, results_figures

    began = time.monotonic()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal.err) as progress:
        bar = progress.add_task("first windows", total=None)

        def told(words: str, done: int, total: int) -> None:
            progress.update(bar, description=words, completed=done, total=total)
            if not terminal.err.is_terminal and done % asked.steps == 0:
                terminal.err.print(f"{done} of {total} steps: {words}", highlight=False)

        def kept(words: str) -> None:
            progress.console.print(words, highlight=False, soft_wrap=True)

        done = core.run(asked, output, resume=resume, workers=workers, on_step=told, on_kept=kept)
    document = measurement.made_now(
        "ablation",
        done.figures | {"runs": done.made},
        weights=done.begun,
        seconds=time.monotonic() - began,
    )
    measurement.write(output / "measured-ablation.json", document)
    for name, data in results_figures.draw("ablation", done.figures).items():
        write_atomic(output / f"ablation-{name}.svg", data)
    return document


def tables(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """All scores of `ablation.figures_of` for a terminal: (title, rows)."""
    from simulations.results_tables import interval

    scores = [name for name in rows[0] if name not in {"variant", "seeds"}]
    tasks = scores[scores.index("identity") + 1 :]
    parts = {
        "skill and identity": list(_WHOLE),
        "reconstruction": [name for name in scores if name not in {*_WHOLE, *tasks}],
        "tasks": tasks,
    }
    for title, names in parts.items():
        each = math.ceil(len(names) / math.ceil(len(names) / _AT_ONCE))
        for first in range(0, len(names), each):
            few = names[first : first + each]
            cells = ({name: interval(row[name], 3) for name in few} for row in rows)
            yield (
                title,
                [
                    {"variant": row["variant"], **cell}
                    for row, cell in zip(rows, cells, strict=True)
                ],
            )
