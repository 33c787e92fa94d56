"""fedprint-lab cross-modal: ECG from PPG and PPG from ECG, on real patients."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared_model import outputs, terminal
from shared_model.errors import DataFault, OurMistake
from simulations.cli_ended import told_when_ended

if TYPE_CHECKING:
    from simulations.cross_modal import F64, Made
    from simulations.cross_modal_figures import Figures
    from simulations.cross_modal_windows import Pairs
    from simulations.models import NamedModel

NOTE = (
    "The gate also refuses a PPG whose regular rate cannot be that of the ECG beside it ("
    '"rates disagree"): such windows are not measured here.'
)
_MEANS = {
    "lost": "share of windows whose made signal gave no rate",
    "disputed": "share of windows whose recorded ECG gives two detectors rates over 5 bpm apart",
    "constant": "error of always saying the median rate of the other patients",
    "chance": "shifted r against the next patient's window",
}


def register(app: typer.Typer) -> None:
    """Add `cross-modal` to the lab's commands."""
    app.command("cross-modal")(cross_modal)


def cross_modal(
    model: Annotated[
        str,
        typer.Argument(help="A release, `warm-start`, `warm-start:PRESET`, or a safetensors file."),
    ],
    data: Annotated[
        Path | None, typer.Option(help="Real recordings (default FEDPRINT_DATA, ../shared/data).")
    ] = None,
    site: Annotated[
        list[str] | None,
        typer.Option(
            "--site",
            help="Folder of recordings: its name below the data folder, or its path; * allowed; "
            "may be repeated.",
        ),
    ] = None,
    signer: Annotated[
        str | None,
        typer.Option(help="Release key (hex) or coordinator.json; else nothing is verified."),
    ] = None,
    windows: Annotated[int, typer.Option(min=1, help="Most windows of a patient.")] = 60,
    draws: Annotated[int, typer.Option(min=20, help="Bootstrap samples of patients.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            callback=outputs.folder,
            help="Folder for measured-cross-modal.json and figures.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Make each sensor from the other on real patients: heart rate, waveform, error over trivial.

    Beside it the error of masked halves over trivial. By patient, with 95 % intervals. Windows in
    which no rate is found, and those that the quality gate left out, are counted. A recording that
    is there under two names is read once, and both are one patient; copies are counted. Default
    sites: icu_bidmc, icu_alarms_*, icu_uci_bp; of these alone, and of 60 windows, a bar is asked.
    Exit status 130 after Ctrl-C, 143 after SIGTERM.

    Example: fedprint-lab cross-modal warm-start -o cross-modal/
    """
    from simulations import measurement
    from simulations.cli_probe import default_data
    from simulations.models import open_model

    began = time.monotonic()
    opened = open_model(model, signer)
    with told_when_ended("Nothing is written: begin again, or with fewer --windows."):
        figures, drawn = measured(
            opened,
            data or default_data(),
            site,
            most=windows,
            draws=draws,
            seed=seed,
            draw=output is not None,
        )
    document = measurement.made_now(
        "cross-modal",
        figures,
        weights={opened.words["source"]: opened.digest},
        seconds=time.monotonic() - began,
    )
    try:
        if as_json:
            terminal.print_json(document.model_dump())
        else:
            _print(document.figures)
    finally:  # each is tried whatever became of the other: it was a long computation
        if output is not None and drawn is not None:
            drawn.write(output, {"measured-cross-modal.json": document.to_bytes()})


def measured(
    opened: NamedModel,
    data: Path,
    sites: list[str] | None,
    *,
    most: int,
    draws: int,
    seed: int,
    draw: bool = False,
) -> tuple[dict[str, Any], Figures | None]:
    """Read, measure with progress on stderr, draw; the figures as JSON, and what is drawn.

    Raises:
        DataFault: no folder of real recordings, or nothing in it with both sensors.
        OurMistake: two folders of one name.
    """
    from simulations import cross_modal as core
    from simulations.cross_modal_figures import draw_all
    from simulations.cross_modal_windows import SITES, folders_of
    from simulations.lots import place_of
    from simulations.probes.tasks import require_data
    from simulations.probes.trained_here import trained_here, weights_files
    from simulations.site_mapping import own_mappings

    if not sites:
        require_data(data)
    folders, absent = folders_of(data, sites or None)
    if not folders:
        raise DataFault(
            f"None of the sites {', '.join(sites or SITES)} is a folder, below {data} or by its "
            "own path.",
            cause="absent",
            do="Pass --data FOLDER, or --site FOLDER with ECG and PPG.",
        )
    _refuse_one_name(folders)
    pairs, done, masked = _run(opened, folders, most)
    rows = core.table(pairs, done, draws=draws, seed=seed)
    drawn = draw_all(pairs, done) if draw else None
    sizes = {
        "default_sites": not sites,
        "windows_of_a_patient": most,
        "met": pairs.met,
        "absent_sites": absent,
        "trained_here": trained_here(
            weights_files(opened.words["source"], (), "model"),
            [place_of(one) for one in folders],
            (),
        ),
    }
    figures = {
        "model": opened.words,
        **sizes,
        "draws": draws,
        "seed": seed,
        "left_out": pairs.left_out,
        "unreadable": pairs.unreadable,
        "copies": pairs.copies,
        "mappings": own_mappings(folders),
        "note": NOTE,
        "words": core.WORDS,
        "directions": rows,
        "reconstruction": core.reconstruction(pairs, done, masked, draws=draws, seed=seed),
        "median_shift_ms": {name: core.median_shift_ms(one) for name, one in done.items()},
        "bar": core.bar(rows["ppg_to_ecg"], core.bar_counts(sizes)),
        "cited": core.CITED,
        "figures": {} if drawn is None else drawn.about,
    }
    return figures, drawn


def _refuse_one_name(folders: list[Path]) -> None:
    """Raises OurMistake: figures and counts are by a folder's name, and one would hide another."""
    names = [folder.name for folder in folders]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise OurMistake(
            f"{names.count(twice[0])} folders are called {twice[0]}.",
            do="Measure one at a time, or give one another name.",
        )


def _run(opened: NamedModel, folders: list[Path], most: int) -> tuple[Pairs, dict[str, Made], F64]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from client.records import count_recordings
    from shared_model import mae
    from simulations import cross_modal as core
    from simulations.cross_modal_windows import read_pairs

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal.err, transient=True) as progress:
        total = sum(count_recordings(folder) for folder in folders)
        bar = progress.add_task("reading recordings", total=total)
        pairs = read_pairs(folders, most, lambda: progress.advance(bar))
        model = mae.build(opened.config, 0)
        mae.load_weights(model, opened.weights)
        bar = progress.add_task("measuring", total=6)
        done, masked = core.measure(
            model, pairs, lambda what: progress.update(bar, advance=1, description=what)
        )
    return pairs, done, masked


def _print(figures: dict[str, Any]) -> None:
    from simulations.probes.trained_here import NOT_UNSEEN, trained_words
    from simulations.results_tables import copies_left_out, interval
    from simulations.site_mapping import mapping_words

    terminal.heading("One sensor from the other", f" · {figures['model']['source']}")
    if "signature" in figures["model"]:
        terminal.out.print(f"signature: {figures['model']['signature']}")
    for direction, rows in figures["directions"].items():
        seen, made = direction.upper().split("_TO_")
        lines = [_line(site, row, seen) for site, row in rows.items()]
        terminal.show(f"{seen} -> {made}: mean over patients, 95 % interval", lines, as_json=False)
    lines = [{"site": site, **_errors(row)} for site, row in figures["reconstruction"].items()]
    terminal.show("Error over trivial, as it is: mean over patients", lines, as_json=False)
    for words in ("lost", "disputed", "constant", "chance"):
        terminal.out.print(f"{words}: {_MEANS[words]}")
    bar, cited = figures["bar"], figures["cited"]
    error = interval(figures["directions"]["ppg_to_ecg"]["all sites"]["rate_error_bpm"], 2)
    reached = "reached" if bar["reached"] else "not reached"
    held = f"bar {bar['bar_bpm']}, of the mean: {reached}"
    if bar["reached"] is None:
        held = f"no bar counts for these {_not_asked(figures)}"
    terminal.out.print(f"PPG -> ECG heart-rate error {error} bpm, {held}")
    terminal.out.print(
        f"cited: {cited['source']}: {cited['raw_ppg_bpm']} bpm raw PPG, "
        f"{cited['made_ecg_bpm']} bpm made ECG"
    )
    for site, why in figures["left_out"].items():
        lost = sum(why.values())
        words = ", ".join(f"{reason} {count}" for reason, count in why.items())
        terminal.out.print(
            f"left out at {site}: {lost} of {figures['met'][site]} windows ({words or 'none'})"
        )
    for site, faults in figures["unreadable"].items():
        if faults:
            terminal.out.print(f"not readable at {site}: {faults} files")
    if figures["copies"]:
        terminal.out.print(copies_left_out(figures["copies"]))
    for line in trained_words(figures["trained_here"], NOT_UNSEEN):
        terminal.out.print(line)
    for line in mapping_words(figures["mappings"]):
        terminal.out.print(line)
    terminal.out.print(f"note: {figures['note']}")
    for site in figures["absent_sites"]:
        terminal.out.print(f"not measured: {site}: no such folder")


def _not_asked(figures: dict[str, Any]) -> str:
    """What is not the bar's own: the folders, or else the sizes, or the model."""
    from simulations.cross_modal import BAR_SITES, BAR_WINDOWS

    if figures["trained_here"]:
        return "patients: the model was trained on them"
    own = figures["default_sites"] and frozenset(figures["met"]) == BAR_SITES
    return f"sizes; it is asked of --windows {BAR_WINDOWS}" if own else "folders"


def _line(site: str, row: dict[str, Any], seen: str) -> dict[str, str]:
    return {
        "site": f"{site}\n{row['patients']} patients\n{row['windows']} windows",
        "rate error, bpm\nlost": (f"{cell(row['rate_error_bpm'], 2)}\n{cell(row['rate_lost'], 4)}"),
        f"{seen} itself\nconstant": (
            f"{cell(row['raw_rate_error_bpm'], 2)}\n{cell(row['constant_rate_error_bpm'], 2)}"
        ),
        "undisputed\ndisputed": (
            f"{cell(row['rate_error_undisputed_bpm'], 2)}\n{cell(row['rate_disputed'], 3)}"
        ),
        "r, shifted r\nchance": (
            f"{cell(row['correlation'], 2)}\n{cell(row['correlation_shifted'], 2)}\n"
            f"{cell(row['correlation_shifted_chance'], 2)}"
        ),
        "error / trivial\nshifted": (
            f"{cell(row['error_over_trivial'], 2)}\n{cell(row['error_over_trivial_shifted'], 2)}"
        ),
    }


def _errors(row: dict[str, Any]) -> dict[str, str]:
    return {
        "masked half\nECG\nPPG": "\n".join(
            cell(row[key], 3) for key in ("masked", "masked_ecg", "masked_ppg")
        ),
        "cross-modal\nPPG to ECG\nECG to PPG": "\n".join(
            cell(row[key], 3) for key in ("cross_modal", "ppg_to_ecg", "ecg_to_ppg")
        ),
    }


def cell(one: dict[str, float | None] | None, digits: int) -> str:
    """ "0.85 [0.80, 0.90]", or words."""
    from simulations.results_tables import interval

    return interval(one, digits)
