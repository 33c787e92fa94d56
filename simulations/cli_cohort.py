"""`fedprint-lab cohort` and `cohort-figure`: pretend hospitals, and how real ones compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from shared_model import outputs, terminal
from shared_model.errors import OurMistake

SIMULATED = "SIMULATED: pretend patients from the cohort simulator, no recording of anybody."


def register(app: typer.Typer) -> None:
    """Add this part's commands."""
    app.command("cohort")(cohort)
    app.command("cohort-figure")(cohort_figure)


def cohort(
    out: Annotated[
        Path,
        typer.Argument(callback=outputs.folder, help="New folder; one folder a hospital inside."),
    ],
    patients: Annotated[int, typer.Option(min=1, help="Patients in each hospital.")] = 40,
    windows_per_patient: Annotated[int, typer.Option(min=1, help="10-s windows a patient.")] = 12,
    sites: Annotated[int, typer.Option(min=1, max=100, help="Hospitals.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 1,
    format: Annotated[str, typer.Option(help="wfdb, parquet or csv.")] = "wfdb",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write pretend hospitals with paired ECG and PPG, each with its own devices and patients.

    Example: fedprint-lab cohort simulated --patients 40 --windows-per-patient 12 --sites 3
    """
    import numpy as np

    from simulations.cohort import draw_cohort, pretend_sites, write_site
    from simulations.cohort_write import FORMATS

    if format not in FORMATS:
        raise OurMistake("Unknown format.", do=f"Use any of {', '.join(FORMATS)}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OurMistake(
            f"{out} is there already and is not an empty folder.",
            do="Name a new folder, or remove the old one yourself.",
        )
    rows: list[dict[str, Any]] = []
    with _progress() as progress:
        task = progress.add_task("patients", total=patients * sites)
        for index, effects in enumerate(pretend_sites(sites)):
            before = index * patients

            def show(done: int, before: int = before) -> None:
                progress.update(task, completed=before + done)

            made = draw_cohort(
                np.random.default_rng([seed, index]),
                patients,
                windows_per_patient,
                effects,
                first_patient=1 + before,
                on_patients=show,
            )
            write_site(out / effects.name, made, format)
            rates = made.recording_labels["hr"]
            names, counts = np.unique(made.patient_labels["rhythm"], return_counts=True)
            rows.append(
                {
                    "site": effects.name,
                    "patients": patients,
                    "recordings": len(made),
                    "hours": round(len(made) * made.duration_s / 3600, 3),
                    "ecg_hz": effects.fs_ecg_hz,
                    "ppg_hz": effects.fs_ppg_hz,
                    "median_hr_bpm": round(float(np.nanmedian(rates)), 1),
                    "rhythms": dict(zip(names.tolist(), counts.tolist(), strict=True)),
                }
            )
    if as_json:
        terminal.print_json({"simulated": True, "says": SIMULATED, "seed": seed, "sites": rows})
        return
    for row in rows:
        rhythms: dict[str, int] = row.pop("rhythms")
        row["not sinus"] = row["patients"] - rhythms.get("sinus", 0)
    terminal.show(f"Pretend hospitals in {out}", rows, as_json=False)
    terminal.out.print(SIMULATED)


def cohort_figure(
    out: Annotated[
        Path,
        typer.Argument(callback=outputs.file, help="PNG to write; `<name>_windows.png` beside it."),
    ],
    data: Annotated[
        Path | None, typer.Option(help="Folder with one folder of real recordings a site.")
    ] = None,
    windows: Annotated[int, typer.Option(min=20, help="Simulated windows.")] = 600,
    real_windows: Annotated[int, typer.Option(min=5, help="Most windows of a real site.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same simulated windows.")] = 1,
    show_signals: Annotated[
        bool,
        typer.Option(
            "--show-signals", help="Draw windows of REAL PEOPLE also of sites that are not open."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare spectra, heart rate and variability of simulated windows with real sites.

    Example: fedprint-lab cohort-figure figure.png --data ../shared/data --json
    """
    from simulations.cohort_figure import compare, draw_figure, draw_sheet

    with _progress() as progress:
        task = progress.add_task("windows", total=None)
        sets, skipped = compare(
            data,
            windows=windows,
            real_windows=real_windows,
            seed=seed,
            on_site=lambda name: progress.update(task, description=name),
        )
    draw_figure(out, sets)
    sheet = out.with_name(f"{out.stem}_windows{out.suffix}")
    draw_sheet(sheet, sets, show_signals=show_signals)
    kept = [] if show_signals else [item.name for item in sets if not item.drawn]
    rows = [item.figures() for item in sets]
    if as_json:
        terminal.print_json(
            {
                "figure": str(out),
                "sheet": str(sheet),
                "sets": rows,
                "skipped": skipped,
                "windows_not_drawn": kept,
            }
        )
        return
    title = "Simulated beside real windows (10 / 50 / 90 %; half of the power lies below)"
    terminal.show(title, [_short(row) for row in rows], as_json=False)
    for name, reason in skipped.items():
        terminal.out.print(f"{name}: left out, {reason}")
    if kept:
        terminal.out.print(
            f"No window is drawn of {', '.join(kept)}: not known to be open (--show-signals)."
        )
    terminal.out.print(f"{out}\n{sheet}")


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """One row of the figure's table with percentiles in one cell."""

    def three(name: str) -> str:
        values = [row[f"{name}_p{percentile}"] for percentile in (10, 50, 90)]
        return "-" if None in values else " / ".join(f"{value:.0f}" for value in values)

    return {
        "set": row["set"],
        "windows": row["windows"],
        "HR bpm": three("hr_bpm"),
        "SDNN ms": three("sdnn_ms"),
        "ECG Hz": row["ecg_half_power_hz"],
        "PPG Hz": row["ppg_half_power_hz"],
    }


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeRemainingColumn(),
        console=terminal.err,
        transient=True,
    )
