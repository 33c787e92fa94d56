"""fedprint-node drift: are this hospital's later patients like its earlier ones? Never sent."""

from __future__ import annotations

import datetime
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli_personal import STAYS, AsJson, Home, WarmStart
from shared_model import terminal
from shared_model.errors import Refused

if TYPE_CHECKING:
    from client.drift import Row

MEANS = (
    "Reference against new patients, by patient, with permutation p-values (adjusted: for all rows "
    "together). Drift says that something changed: devices, filters, leads, or who comes. It does "
    "not say that a head is wrong, nor its absence that it is right."
)
SIMULATED = (
    "then, now of a fingerprint: distance (MMD) from packaged SIMULATED windows, which no hospital "
    "is like; a number to watch, no test. With the model's own training patients nobody can "
    "compare: a release carries no statistics of them."
)


def register(parent: typer.Typer) -> None:
    """Add this part's commands."""
    parent.command()(drift)


def drift(
    baseline: Annotated[
        bool,
        typer.Option("--baseline", help="Keep the present patients as the reference; at install."),
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="PNG or PDF to draw the patients to (for this site alone).")
    ] = None,
    warm_start: WarmStart = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Compare the patients added since the reference with those of the reference.

    Exit status 3: something drifted. Nothing leaves this machine.

    Example: fedprint-node drift --baseline
    Example: fedprint-node drift --json
    """
    from client import cli_release, drift_files
    from client import drift as check
    from client.cli_progress import counting_bar
    from client.home import NodeHome
    from client.store import open_store
    from shared_model.simulated_windows import packaged

    place = NodeHome.find(home)
    _, digest, model = cli_release.opened_model(place, None, warm_start)
    store = open_store(place)
    reference = None if baseline else drift_files.load(place, store, digest)
    with counting_bar("patients") as on_patient:
        now = check.measure(store, model, on_patient=on_patient)
    if reference is None:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        sealed = drift_files.save(place, drift_files.Baseline.of(now, digest, today))
        told: dict[str, Any] = {
            "made": today, "patients": len(now.pseudonyms), "model": digest, "sealed": sealed,
        }  # fmt: skip
        if as_json:
            terminal.print_json(told)
        else:
            terminal.show("Reference of the drift check", [told], as_json=False)
            terminal.out.print(STAYS, highlight=False)
        return
    then = reference.measures
    held = frozenset(then.pseudonyms)
    later = now.only(lambda name: name not in held)
    simulated = check.measure_simulated(packaged(), model)
    rows = check.compare(then, later, simulated)
    ratios = {
        "then": check.over_simulated(then, simulated),
        "now": check.over_simulated(later, simulated),
    }
    found = any(row.drifted for row in rows)
    if plot is not None:
        from client.drift_plot import draw

        draw(plot, then, later, simulated)
    _tell(rows, ratios, reference.made, found, as_json)
    if found:
        raise typer.Exit(Refused.exit_code)


def _tell(
    rows: list[Row], ratios: dict[str, dict[str, float]], made: str, found: bool, as_json: bool
) -> None:
    from client.drift import LEVEL

    told = [{**asdict(row), "drifted": row.drifted} for row in rows]
    if as_json:
        terminal.print_json(
            {"drift": found, "level": LEVEL, "reference_made": made, "rows": told,
             "error_over_simulated": ratios, "means": MEANS, "simulated": SIMULATED}
        )  # fmt: skip
        return
    shown = [
        {
            "": row.what,
            "patients": f"{row.patients_then} / {row.patients_now}",
            "then": row.then,
            "now": row.now,
            "apart": row.statistic,
            "adjusted p": row.adjusted,
            "drift": "yes" if row.drifted else "too few" if row.adjusted is None else "no",
        }
        for row in rows
    ]
    terminal.show(f"Since the reference of {made}", shown, as_json=False)
    for when, ratio in ratios.items():
        words = ", ".join(
            f"{name.replace('masked_', '')} {value:.3g}" for name, value in ratio.items()
        )
        terminal.out.print(f"Masked error over that of simulated windows, {when}: {words}")
    terminal.out.print(MEANS, highlight=False)
    terminal.out.print(SIMULATED, highlight=False)
    terminal.out.print(
        f"[bold]{'Drift.' if found else 'No drift found.'}[/] {STAYS}", highlight=False
    )
