"""`fedprint-lab sweep` and `frontier`: many runs of one experiment, one table, one figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from shared_model import outputs, terminal
from shared_model.errors import OurMistake
from simulations.cli_ended import going_on

if TYPE_CHECKING:
    from simulations.lab.sweeps import EngineKind, Swept

Workers = Annotated[
    int, typer.Option(min=0, help="Runs at the same time, one core each; 0: as many as cores.")
]
Out = Annotated[
    Path,
    typer.Option(
        "--out", "-o", callback=outputs.folder, help="New folder; earlier one with --resume."
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Keep what is finished, go on with what was begun.")
]
Engine = Annotated[str, typer.Option(help="pool or ray-tune")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
SAME_COMMAND = "the same command and --resume"


def register(app: typer.Typer) -> None:
    """Add this part's commands."""
    app.command()(sweep)
    app.command()(frontier)


def sweep(
    file: Annotated[Path, typer.Argument(help="The sweep's TOML file.")],
    out: Out,
    workers: Workers = 0,
    engine: Engine = "pool",
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Run an experiment with every combination of some values; one table of all runs.

    The file: base = "exp.toml", seeds = [1, 2, 3], \\[grid] "privacy.epsilon" = [1, 3, 8], and
    \\[random] draws = 20, "algorithm.learning_rate" = { log_uniform = [1e-4, 1e-2] }; also uniform,
    integers, choice. A run that fails is a row of the table, and is tried again with --resume.
    Exit status: 0 done, 1 some run failed, 130 after Ctrl-C, 143 after SIGTERM.

    Example: fedprint-lab sweep sweep.toml -o out --workers 2
    """
    from simulations.lab import sweeps

    with going_on(out, SAME_COMMAND), on_the_bar() as told:
        found = sweeps.sweep(
            file,
            out,
            workers=workers,
            engine=engine_named(engine),
            resume=resume,
            on_run=told,
        )
    show(found, as_json)
    _end(found)


def frontier(
    file: Annotated[
        Path,
        typer.Argument(
            help="An experiment's TOML file; or a folder of this command, to draw it again."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", callback=outputs.folder, help="New folder; earlier one with --resume."
        ),
    ] = None,
    epsilons: Annotated[str, typer.Option(help="With commas.")] = "1,3,8",
    hospitals: Annotated[str, typer.Option(help="With commas.")] = "4,16",
    patients: Annotated[str, typer.Option(help="Of each hospital, with commas.")] = "50,200",
    seeds: Annotated[str, typer.Option(help="With commas; two or more give intervals.")] = "1,2,3",
    modes: Annotated[
        str, typer.Option(help="Trust models side by side: local, distributed, with a comma.")
    ] = "local",
    distributed_rate: Annotated[
        float, typer.Option(help="Learning rate of the plain steps of mode distributed.")
    ] = 0.1,
    metric: Annotated[
        str | None, typer.Option(help='What is drawn: loss, "auroc rhythm", ...; the loss.')
    ] = None,
    workers: Workers = 0,
    engine: Engine = "pool",
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Privacy against utility: epsilon x hospitals x patients, as CSV and figure.

    Runs every combination with every seed, and each without privacy; the starting model is drawn
    beside them. Intervals are over seeds, 95 %. Exit status: 0 done, 1 some run failed, 130 after
    Ctrl-C, 143 after SIGTERM.

    Example: fedprint-lab frontier exp.toml -o out --epsilons 1,3,8 --hospitals 4,16 --seeds 1,2,3
    """
    from simulations.lab import frontiers, sweeps
    from simulations.lab.experiment import Experiment

    if file.is_dir():
        found = sweeps.again(file)
    else:
        if out is None:
            raise OurMistake("Where is the frontier to go?", do="Give -o FOLDER.")
        asked = frontiers.Frontier.from_dict(
            {
                "epsilons": numbers(epsilons, float),
                "hospitals": numbers(hospitals, int),
                "patients": numbers(patients, int),
                "seeds": numbers(seeds, int),
                "modes": modes.replace(" ", "").split(","),
                "distributed_rate": distributed_rate,
            }
        )
        plan = asked.sweep(Experiment.from_toml(file))
        with going_on(out, SAME_COMMAND), on_the_bar() as told:
            found = sweeps.sweep(
                plan,
                out,
                workers=workers,
                engine=engine_named(engine),
                resume=resume,
                on_run=told,
            )
    chosen = metric or frontiers.LOSS
    points = frontiers.points_of(found.rows, chosen)
    made = frontiers.write(points, found.folder)
    if as_json:
        terminal.print_json(
            {
                "folder": str(found.folder),
                "metric": chosen,
                "metrics": frontiers.metrics_of(found.rows),
                "points": [vars(one) for one in points],
                "failed": found.failed,
                "files": [str(path) for path in made],
                "in_words": found.words,
            }
        )
        _end(found)
        return
    terminal.show(f"Frontier: {chosen}", [_point(one) for one in points], as_json=False)
    _say(found)
    for path in made:
        terminal.out.print(str(path), soft_wrap=True)
    _end(found)


def _say(found: Swept) -> None:
    """Why runs failed, and what must be said beside the table."""
    for row in found.failed:
        terminal.out.print(f"! {row['run']}: {row['error']}", soft_wrap=True, highlight=False)
    for text in found.words:
        terminal.out.print(f"- {text}", soft_wrap=True, highlight=False)


def _end(found: Swept) -> None:
    """What goes on after a sweep is to know that runs are missing."""
    if found.failed:
        raise typer.Exit(1)


def numbers(text: str, kind: type[int] | type[float]) -> list[float]:
    """Numbers with commas between them.

    Raises:
        OurMistake: something else.
    """
    try:
        return [kind(one) for one in text.split(",")]
    except ValueError as error:
        raise OurMistake(f"{text!r} is no list of numbers.", do="Write them so: 1,3,8") from error


def _point(one: Any) -> dict[str, Any]:
    return {
        "mode": one.mode,
        "hospitals": one.hospitals,
        "patients": one.patients,
        "epsilon": one.epsilon,
        "noise-to-signal": one.noise_to_signal,
        "seeds": one.seeds,
        one.metric: _interval(one.mean, one.low, one.high),
    }


def engine_named(name: str) -> EngineKind:
    """The engine of an option.

    Raises:
        OurMistake: there is none of that name.
    """
    if name not in ("pool", "ray-tune"):
        raise OurMistake(f"There is no engine {name!r} for sweeps.", do="Say pool or ray-tune.")
    return cast("EngineKind", name)


PROBE_WIDTH = 24
"""Columns of a screen that a probe with its interval takes."""
MOST_VARIED = 4
"""Fields that have columns of their own; of more, a run says what it changes of the first."""


def show(found: Swept, as_json: bool) -> None:
    """The table, and what must be said beside it."""
    if as_json:
        terminal.print_json(
            {"folder": str(found.folder), "runs": found.rows, "in_words": found.words}
        )
        return
    probes = _that_fit(found, terminal.out.width)
    rows = [shown(found, row, probes) for row in found.rows]
    terminal.show(f"Sweep: {found.folder}", rows, as_json=False)
    if len(probes) < len(found.probes):
        terminal.out.print(
            f"- {len(found.probes) - len(probes)} more measurements do not fit here."
        )
    _say(found)
    terminal.out.print(f"All columns: {found.folder / 'sweep.csv'}", soft_wrap=True)


def _that_fit(found: Swept, width: int) -> list[str]:
    """The first probes that there is room for beside the other columns."""
    cells = shown(found, found.rows[0], ()) if found.rows else {}
    room = width - 12 * len(cells) - (PROBE_WIDTH if "point" in cells else 0)
    return list(found.probes)[: max(0 if "point" in cells else 1, room // PROBE_WIDTH)]


def shown(found: Swept, row: dict[str, Any], probes: Sequence[str]) -> dict[str, Any]:
    """What fits a screen; probes with their interval in one cell."""
    cells: dict[str, Any] = {"run": row["number"]}
    varied = [name for name in found.varied if len({str(one[name]) for one in found.rows}) > 1]
    if len(varied) > MOST_VARIED:
        first = found.rows[0]
        from simulations.lab.varied import told

        moved = [told(name, row[name], varied) for name in varied if row[name] != first[name]]
        cells["point"] = ", ".join(moved) or "base"
    else:
        cells |= {name.rsplit(".", 1)[-1]: row[name] for name in varied}
    cells["state"] = row["state"]
    cells["loss"] = row.get("loss")
    for name in probes:
        value, low, high = (row.get(f"{name}{end}") for end in ("", " low", " high"))
        cells[name] = None if value is None else _interval(value, low, high)
    cells["spent"] = row.get("epsilon")
    sent = (row.get("bytes_up") or 0) + (row.get("bytes_down") or 0)
    cells["MB"] = sent / 1e6 if sent else None
    cells["s"] = row.get("seconds")
    return cells


def _interval(value: float, low: float | None, high: float | None) -> str:
    from shared_model.intervals import form

    if low is None or high is None:
        return f"{value:z.3f}"
    as_text = form(low, high)
    return f"{value:{as_text}} ({low:{as_text}}-{high:{as_text}})"


@contextmanager
def on_the_bar() -> Iterator[Callable[[int, int, str], None]]:
    """Runs done and the time left, and a line for each run that ends, on standard error."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed
    from rich.progress import TimeRemainingColumn as Left

    bar = Progress(
        TextColumn("runs"), BarColumn(), MofNCompleteColumn(), Elapsed(), TextColumn("left"),
        Left(), console=terminal.err, speed_estimate_period=7 * 86_400.0,
    )  # fmt: skip
    with bar:
        task = bar.add_task("runs", total=None)

        def told(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total)
            if what:
                bar.console.print(what, highlight=False, soft_wrap=True)

        yield told
