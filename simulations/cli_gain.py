"""fedprint-lab gain, private-stage and against-pooled: finished runs, on fresh pretend patients."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared_model import outputs, terminal
from shared_model.errors import OurMistake

if TYPE_CHECKING:
    from simulations.gain import Run, Scored

Patients = Annotated[int, typer.Option(min=80, help="Fresh pretend patients.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the fresh patients and of the folds.")]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", callback=outputs.folder, help="Folder for the JSON file."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document.")]


def register(app: typer.Typer) -> None:
    """Add `gain`, `private-stage` and `against-pooled` to the lab's commands."""
    app.command()(gain)
    app.command("private-stage")(private_stage)
    app.command("against-pooled")(against_pooled)


def gain(
    folders: Annotated[list[Path], typer.Argument(help="Run folders, or a sweep's folder.")],
    patients: Patients = 1000,
    seed: Seed = 0,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """What share of the gain over the starting model do private runs keep of that without privacy?

    Runs of equal seeds are compared; the models are measured on fresh SIMULATED patients.

    Example: fedprint-lab gain swept/ -o docs/results/gain
    """
    from simulations import gain as core

    every = [run for folder in folders for run in core.finished_below(folder)]
    began = time.monotonic()
    with _on_the_bar(len(every)) as told:
        runs = core.read_runs(
            every, patients=patients, seed=seed, check=core.groups_of, on_done=told
        )
    figures = core.shares(runs) | _drawn(patients, seed)
    _end("gain", figures, runs, began, output, as_json)


def private_stage(
    folders: Annotated[
        list[Path], typer.Argument(help="A sweep's folder; or run folders, the base first.")
    ],
    seeds: Annotated[
        str | None, typer.Option(help="Only runs of these seeds, with commas.")
    ] = None,
    unseen: Annotated[
        bool,
        typer.Option(
            "--unseen",
            help="Unit loss of REAL patients: of the folders' lots that none of the runs read.",
        ),
    ] = False,
    patients: Annotated[
        int | None, typer.Option(min=80, help="Fresh pretend patients; 1000.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the fresh patients and of the folds; 0.")
    ] = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """What should private training change, and how? The points of a sweep against each other.

    Each point is told by what it changes of the sweep's first: trained parameters, bytes, epsilon,
    fall of the unit loss and gain of probe skill on fresh SIMULATED patients, and gradient passes.
    With --unseen, the fall on REAL patients of the runs' folders whom none of the runs has read.

    Example: fedprint-lab private-stage swept/ -o docs/results/private-stage
    """
    from simulations import private_stage as core
    from simulations.cli_sweep import numbers

    chosen = None if seeds is None else [int(one) for one in numbers(seeds, int)]
    every = [run for folder in folders for run in core.ordered(folder, chosen)]
    began = time.monotonic()
    if unseen:
        from simulations import private_stage_unseen as real

        if patients is not None or seed is not None:
            raise OurMistake("--unseen draws no pretend patients: leave out --patients and --seed.")

        with _on_the_bar(len(every)) as told:
            stages, measured = real.read_unseen(
                every,
                on_done=told,
                on_progress=lambda what, done, total: told(f"{what}, {done} of {total}", 0),
            )
        figures = real.compared_unseen(stages, measured)
        _end("private-stage-unseen", figures, [one.run for one in stages], began, output, as_json)
        return
    patients, seed = patients or 1000, seed or 0
    with _on_the_bar(len(every)) as told:
        points = core.read_points(every, patients=patients, seed=seed, on_done=told)
    runs = [point.run for point in points]
    figures = core.compared(points) | _drawn(patients, seed)
    _end("private-stage", figures, runs, began, output, as_json)


def against_pooled(
    federated: Annotated[
        Path, typer.Argument(help="Run of several hospitals, mode none; or a sweep over seeds.")
    ],
    pooled: Annotated[
        Path, typer.Argument(help="The same of one hospital, with the same patients and seeds.")
    ],
    patients: Patients = 1000,
    seed: Seed = 0,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Federated training without privacy against pooled central training, task by task.

    Runs of equal seeds are compared; of several seeds, ratios have intervals over seeds.

    Example: fedprint-lab against-pooled out/federated out/pooled -o docs/results/pooled
    """
    from simulations import gain as core
    from simulations.against_pooled import against_pooled as compared
    from simulations.against_pooled import pairs_of

    began = time.monotonic()
    ours = core.finished_below(federated)
    every = [*ours, *core.finished_below(pooled)]

    def pair(runs: list[Run]) -> object:
        return pairs_of(runs[: len(ours)], runs[len(ours) :])

    with _on_the_bar(len(every)) as told:
        runs = core.read_runs(every, patients=patients, seed=seed, check=pair, on_done=told)
    figures = compared(runs[: len(ours)], runs[len(ours) :]) | _drawn(patients, seed)
    _end("against-pooled", figures, runs, began, output, as_json)


def _drawn(patients: int, seed: int) -> dict[str, Any]:
    """Of the fresh pretend patients, for the file."""
    return {"fresh_patients": patients, "seed": seed}


def _end(
    kind: str,
    figures: dict[str, Any],
    runs: Sequence[Scored],
    began: float,
    output: Path | None,
    as_json: bool,
) -> None:
    from simulations import measurement

    digests = {"starting model": runs[0].start} | {run.name: run.digest for run in runs}
    document = measurement.made_now(
        kind, figures, weights=digests, seconds=time.monotonic() - began
    )
    try:
        if as_json:
            terminal.print_json(document.model_dump())
        else:
            _print(kind, figures)
    finally:  # each is tried whatever became of the other: it was a long computation
        if output is not None:
            measurement.write(output / f"measured-{kind}.json", document)


def _print(kind: str, figures: dict[str, Any]) -> None:
    rows, shown = figures["rows"], _of_a_point if kind.startswith("private-stage") else _cells
    if kind == "against-pooled":
        from simulations.results_tables import pooled_columns

        rows = pooled_columns(rows)
    terminal.show(kind, [shown(row) for row in rows], as_json=False)
    if kind == "against-pooled":
        terminal.out.print(figures["worst"]["words"])
    for row in figures["rows"] if kind == "gain" else ():
        terminal.out.print(f"{row['measure']}, {row['mode']}: {row['trained']}: {row['words']}")
    for line in figures["in_words"]:
        terminal.out.print(line)


def _of_a_point(row: dict[str, Any]) -> dict[str, Any]:
    """What fits a screen; the file and the results page have the rest."""
    from simulations.results_tables import interval

    cost = row["relative_cost"]
    return {
        "": row["number"],
        "point": row["point"],
        "trained": row["parameters"],
        "kB up": round(row["bytes_up"] / 1000.0),
        "epsilon": "NONE" if row["epsilon"] is None else f"{row['epsilon']:.3g}",
        "fall of loss": interval(row["fall"], 4),
        "% of free": interval(row["of_reference_percent"], 0),
        "cost": "-" if cost is None else f"{cost:.3g}",
    }


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    """Without what would not fit a screen: of a gain it is told below the table."""
    from simulations.results_tables import interval

    return {
        key: interval(value, 4) if isinstance(value, dict) else value
        for key, value in row.items()
        if key not in {"trained", "words", "share_interval"}
    }


@contextmanager
def _on_the_bar(total: int) -> Iterator[Callable[..., None]]:
    """Say what is done, and whether it was one of the total (1) or on the way to it (0)."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=terminal.err, transient=True) as progress:
        bar = progress.add_task("measuring", total=total)
        yield lambda what, advance=1: progress.update(bar, advance=advance, description=what)
