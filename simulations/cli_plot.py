"""fedprint-lab report: a run's plots and its page, drawn again from its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared_model import terminal

if TYPE_CHECKING:
    from simulations.lab.lab_report import Report


def register(app: typer.Typer) -> None:
    """Add `report` to the lab's commands."""
    app.command("report")(report)


def report(
    out: Annotated[Path, typer.Argument(help="A run's folder: the OUT of `run`.")],
    umap: Annotated[
        bool, typer.Option(help="Draw UMAP too: half a minute, if umap-learn is installed.")
    ] = True,
    show_signals: Annotated[
        bool,
        typer.Option(
            "--show-signals", help="Draw signals of REAL PEOPLE, if the run trained on folders."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Draw a run's plots (PDF, SVG) and write its report.html, from what its folder holds.

    Also of a run that goes on, or was interrupted. A plot that cannot be drawn is named, with the
    reason. Nothing but plots/ and report.html is changed.

    Example: fedprint-lab report out --no-umap
    """
    from simulations.lab import lab_report

    with _progress() as on_plot:
        made = lab_report.write(out, umap=umap, show_signals=show_signals, on_plot=on_plot)
    if as_json:
        terminal.print_json(made.as_dict())
        return
    _print(made)


def _print(made: Report) -> None:
    for line in made.words:
        terminal.out.print(f"- {line}", soft_wrap=True, highlight=False)
    rows = [
        {
            "plot": plot.title,
            "files": ", ".join(f"plots/{path.name}" for path in plot.files) or "NOT DRAWN",
            "why": "" if plot.files else plot.caption,
        }
        for plot in made.plots
    ]
    terminal.show("Plots", rows, as_json=False)
    terminal.out.print(str(made.path), soft_wrap=True, highlight=False)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What is being drawn, on standard error."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=terminal.err, transient=True) as bar:
        task = bar.add_task("reading the run", total=None)
        yield lambda title: bar.update(task, description=f"drawing: {title}")
