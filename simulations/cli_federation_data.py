"""`fedprint-lab federation`: an experiment's hospitals and patients, before anything is trained."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from shared_model import outputs, terminal

if TYPE_CHECKING:
    from simulations.lab.site_rows import OnProgress
    from simulations.lab.site_table import SiteRow

_SHOWN_SITES = 40
_SHOWN_VALUES = 2


def register(app: typer.Typer) -> None:
    """Add this part's command."""
    app.command("federation")(federation)


def federation(
    experiment: Annotated[Path, typer.Argument(help="The experiment's TOML file.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            callback=outputs.folder,
            help="Keep the federation here; read it if it is there.",
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Label whose mix is shown; the partition's by default.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            callback=outputs.file, help="Also draw it: a file that ends in pdf, svg or png."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, all sites.")] = False,
) -> None:
    """Make an experiment's federation, or read it, and show its sites: nothing is trained.

    Example: fedprint-lab federation exp.toml --plot sites.pdf
    """
    from simulations.lab import site_figure, sources
    from simulations.lab.experiment import Experiment
    from simulations.lab.site_table import shown_label, site_rows

    if plot is not None:
        site_figure.check(plot)  # before patients are drawn
    read = Experiment.from_toml(experiment)
    with _folder(out) as folder, _progress() as on_progress:
        data = sources.prepare(read, folder, on_progress)
        shown = label or shown_label(data, read.federation.partition.label)
        everybody, sites = site_rows(data, shown)
        source: dict[str, Any] = data.about["source"]
        digest, labels = data.digest, data.labels
    if plot is not None:
        site_figure.draw(plot, everybody, sites, shown, source["says"])
    left_out: dict[str, str] = source["left_out"]
    if as_json:
        terminal.print_json(
            {
                "says": source["says"],
                "digest": digest,
                "seed": source["seed"],
                "partition": source["partition"],
                "label": shown,
                "labels": list(labels),
                "all": asdict(everybody),
                "sites": [asdict(row) for row in sites],
                "left_out": left_out,
                "folder": None if out is None else str(out),
                "plot": None if plot is None else str(plot),
            }
        )
        return
    rows = [_cells(row, shown) for row in [everybody, *sites[:_SHOWN_SITES]]]
    terminal.show(f"{len(sites)} sites ({source['partition']['kind']})", rows, as_json=False)
    if len(sites) > _SHOWN_SITES:
        terminal.out.print(f"{len(sites) - _SHOWN_SITES} more sites: --json shows all.")
    for site, why in left_out.items():
        terminal.out.print(f"{site}: left out, {why}")
    terminal.out.print(
        f"{source['says']}. train, held: patients. ECG, PPG: windows with that sensor. HR: median "
        "of patients, beats/min.",
    )
    if shown is not None:
        terminal.out.print(
            f"apart: how far a site's mix of {shown} is from that of all; 0 the same, 1 nothing in "
            "common (total variation).",
        )
    for made in (out, plot):
        if made is not None:
            terminal.out.print(str(made))


def _cells(row: SiteRow, label: str | None) -> dict[str, Any]:
    """A row of the table."""
    patients = max(1, row.training + row.held_out)
    mix = list(row.mix.items())
    said = [f"{value} {count / patients:.0%}" for value, count in mix[:_SHOWN_VALUES]]
    if len(mix) > _SHOWN_VALUES:
        said.append("...")
    cells: dict[str, Any] = {
        "site": row.site,
        "train": row.training,
        "held": row.held_out,
        "windows": row.windows,
        "ECG": f"{row.ecg:.0%}",
        "PPG": f"{row.ppg:.0%}",
        "HR": "-" if row.heart_rate is None else f"{row.heart_rate:.0f}",
    }
    if label is not None:
        cells |= {label: ", ".join(said), "apart": f"{row.apart or 0.0:.2f}"}
    return cells


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="fedprint-federation-") as name:
        yield Path(name)


@contextmanager
def _progress() -> Iterator[OnProgress]:
    """A bar with time left on stderr; it begins anew with each kind of work."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        console=terminal.err,
        transient=True,
    )
    with bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield show
