"""fedprint-node drift: are this hospital's patients like its earlier ones, or like those that a
head was trained on? Never sent."""

from __future__ import annotations

import datetime
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli_personal import STAYS, AsJson, Home
from client.cli_release import Preset, WarmStart, model_in_use, opened_model, preset_in_use
from shared_model import outputs, terminal
from shared_model.errors import CannotTell, OurMistake, Refused

if TYPE_CHECKING:
    from client.drift import Row
    from client.drift_head import TrainedOn
    from client.home import NodeHome
    from shared_model.heads.arrays import Head

MEANS = (
    "Reference against new patients, by patient, with permutation p-values (adjusted: for all rows "
    "together). Drift says that something changed: devices, filters, leads, or who comes. It does "
    "not say that a head is wrong, nor its absence that it is right."
)
SIMULATED = (
    "then, now of a fingerprint: distance (MMD) from packaged SIMULATED windows, which no hospital "
    "is like; a number to watch, no test. Whether patients are like those that a head was trained "
    "on: fedprint-node drift --head HEAD."
)
AGAINST_A_HEAD = (
    "One item of each patient (the head's: patient, recording or window) against the head's limit "
    "of distance; one-sided beta-binomial test that knows how many patients the limit rests on. "
    "Assumes that patients come independently. Those that the head was trained on lie nearer than "
    "others and hide drift: where they are in the store, keep a reference of them and say --new."
)
NO_SIGNATURE = "NONE: nobody vouches for it; trust it only if it was trained here"
YES, NO, UNKNOWN = "drift", "no drift found", "cannot tell"
PERSONAL = "personal:"


def register(parent: typer.Typer) -> None:
    """Add this part's commands."""
    parent.command()(drift)


def drift(
    baseline: Annotated[
        bool,
        typer.Option("--baseline", help="Keep the present patients as the reference; at install."),
    ] = False,
    head: Annotated[
        str | None,
        typer.Option(
            metavar="HEAD",
            help="Compare with those that a head was trained on: its folder, or personal:NAME.",
        ),
    ] = None,
    new: Annotated[
        bool,
        typer.Option("--new", help="With --head: only patients added since the reference."),
    ] = False,
    signer: Annotated[
        str | None,
        typer.Option(
            help="Of a signed head: release key (hex) or coordinator.json, if not this node's."
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            callback=outputs.file, help="PNG, PDF or SVG of the patients, for this site alone."
        ),
    ] = None,
    warm_start: WarmStart = False,
    preset: Preset = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Compare the patients added since the reference with those of the reference; or, with --head,
    all patients, or the --new ones, with those that a head was trained on.

    Exit status 0: no drift found; 3: drift; 6: cannot tell (too few patients yet, another model, a
    file that is refused); 2 and 4: wrong call, bad data. Nothing leaves this machine.

    Example: fedprint-node drift --baseline
    Example: fedprint-node drift --json
    Example: fedprint-node drift --head heads/hypertension
    """
    from client.drift_plot import refuse_other_endings
    from client.home import NodeHome

    if plot is not None:
        refuse_other_endings(plot)
    if head is not None and (baseline or plot is not None):
        raise OurMistake("--head goes with neither --baseline nor --plot.")
    if new and head is None:
        raise OurMistake("--new goes with --head; without it only new patients are compared.")
    if signer is not None and (head is None or head.startswith(PERSONAL)):
        raise OurMistake("--signer is of a head's folder.", do="Say --head FOLDER, too.")
    packaged = preset_in_use(warm_start, preset)
    place = NodeHome.find(home)
    try:
        if baseline:
            _keep(place, packaged, as_json)
            return
        if head is not None:
            found = _against_head(place, head, signer, new, packaged, as_json)
        else:
            found = _since_reference(place, plot, packaged, as_json)
    except Refused as error:  # 3 is drift, and nothing else
        raise _cannot_tell(error, baseline, as_json) from error
    if found:
        raise typer.Exit(Refused.exit_code)


def _cannot_tell(error: Refused, baseline: bool, as_json: bool) -> CannotTell:
    """The status, and with --json the document; of a reference, which tells nothing, no verdict in
    words."""
    counts = error.counts if isinstance(error, CannotTell) else {}
    if as_json:
        terminal.print_json(
            {"verdict": UNKNOWN, "drift": None, "reason": error.reason, "message": error.message,
             "do": error.do, **counts}
        )  # fmt: skip
    what = "No reference was kept." if baseline else "Cannot tell."
    told = f"{what} {error.message}"
    return CannotTell(told, reason=error.reason, do=error.do, counts=counts)


def _keep(place: NodeHome, packaged: str | None, as_json: bool) -> None:
    """Make the reference."""
    from client import drift as check
    from client import drift_files
    from client.cli_progress import counting_bar
    from client.store import open_for_use

    _, digest, model = opened_model(place, None, packaged)
    store = open_for_use(place)
    with counting_bar("patients") as on_patient:
        now = check.measure(store, model, on_patient=on_patient)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    made = drift_files.Baseline.of(now, digest, today, former=store.former)
    sealed = drift_files.save(place, made)
    told: dict[str, Any] = {
        "made": today, "patients": len(now.pseudonyms), "model": digest, "sealed": sealed,
    }  # fmt: skip
    if as_json:
        terminal.print_json(told)
    else:
        terminal.show("Reference of the drift check", [told], as_json=False)
        terminal.out.print(STAYS, highlight=False)


def _since_reference(
    place: NodeHome, plot: Path | None, packaged: str | None, as_json: bool
) -> bool:
    """Later patients against the reference; whether something drifted."""
    from client import drift as check
    from client import drift_files
    from client.cli_progress import counting_bar
    from client.drift_plot import draw
    from client.store import open_for_use
    from shared_model import simulated_windows

    _, digest, model = opened_model(place, None, packaged)
    store = open_for_use(place)
    reference = drift_files.load(place, store, digest)
    then = reference.measures
    held = frozenset(then.pseudonyms)
    check.refuse_few(len(held), sum(name not in held for name in check.names_of(store)))
    with counting_bar("patients") as on_patient:
        now = check.measure(store, model, on_patient=on_patient)
    later = now.only(lambda name: name not in held)
    simulated = check.measure_simulated(simulated_windows.packaged(), model)
    rows = check.compare(then, later, simulated)
    check.refuse_shares_alone(rows)
    ratios = {
        "then": check.over_simulated(then, simulated),
        "now": check.over_simulated(later, simulated),
    }
    found = any(row.drifted for row in rows)
    _tell(rows, ratios, reference.made, found, as_json)
    if plot is not None:  # what was found is told, whatever becomes of the picture
        draw(plot, then, later, simulated)
    return found


def _against_head(
    place: NodeHome,
    named: str,
    signer: str | None,
    new: bool,
    packaged: str | None,
    as_json: bool,
) -> bool:
    """The store's patients, or the new ones, against those of a head; whether they are others."""
    from client import drift_files, drift_head, personal
    from client.cli_progress import counting_bar
    from client.site_fingerprints import of_items
    from client.store import open_for_use
    from shared_model.heads.answers import refuse_other_model

    _, digest, run = model_in_use(place, None, packaged)
    more = [*(["--new"] if new else []), *(["--signer", signer] if signer else [])]
    again = f"{place.command('drift', '--head', named, *more)} --warm-start --preset "
    if named.startswith(PERSONAL):
        own = personal.load(place, named.removeprefix(PERSONAL))
        personal.refuse_other_model(own, digest, again)
        trained, signature = drift_head.of_personal(own), "made at this node"
    else:
        opened, signature = _opened(place, Path(named), signer)
        refuse_other_model(opened, digest, again)
        trained = drift_head.of_head(opened)
    store = open_for_use(place)
    reference = drift_files.load(place, store, digest) if new else None
    with counting_bar("fingerprints") as on_patient:
        patients = of_items(store, run, trained.sensors, trained.item, on_patient=on_patient)
    if reference is not None:
        held = frozenset(one.pseudonym for one in reference.patients)
        patients = patients.only(lambda name: name not in held)
    found = drift_head.compare(trained, patients)
    _tell_head(trained, found, signature, as_json)
    return found.drifted


def _opened(place: NodeHome, folder: Path, signer: str | None) -> tuple[Head, str]:
    """A head from a folder, hostile until read, and what is known of its signature.

    Raises:
        Refused: as `shared_model.heads.files.verify`, or without a signature as `read`.
        OurMistake: it is signed, and whose signature counts is not known here.
    """
    from client.install import trusted_signer
    from shared_model.heads import files
    from shared_model.release_files import read_signer

    if signer is None and not os.path.lexists(folder / files.SIGNATURE):
        return files.read(folder), NO_SIGNATURE
    if signer is None and not place.coordinator.exists():
        raise OurMistake(
            "The head is signed, and this node has joined no coordinator whose key it knows.",
            do="Say whose: --signer KEY, or --signer coordinator.json",
        )
    key = trusted_signer(place) if signer is None else read_signer(signer)
    return files.verify(folder, key), "verified"


def _tell_head(trained: TrainedOn, found: Any, signature: str, as_json: bool) -> None:
    from shared_model.heads.exceedances import ERROR

    verdict = YES if found.drifted else NO
    told = {
        "verdict": verdict,
        "drift": found.drifted,
        "head": trained.name,
        "signature": signature,
        "sensors": trained.sensors,
        "item": trained.item,
        **asdict(found),
        "level": ERROR,
        "words": found.words(trained),
        "means": AGAINST_A_HEAD,
    }
    if as_json:
        terminal.print_json(told)
        return
    shown = [
        {"what": "signature", "value": signature},
        {"what": "an item", "value": f"{trained.item}, {trained.sensors}"},
        {"what": "patients with one", "value": found.patients},
        {"what": "without", "value": found.without},
        {"what": "beyond the limit", "value": found.beyond},
        {"what": "expected, at most", "value": found.expected_share * found.patients},
        {"what": "drift from", "value": found.alarm_from},
        {"what": "p", "value": found.p_value},
    ]
    terminal.show(f"Patients here against those of {trained.name}", shown, as_json=False)
    for line in (found.words(trained), AGAINST_A_HEAD):
        terminal.out.print(line, highlight=False)
    _verdict(verdict)


def _tell(
    rows: list[Row], ratios: dict[str, dict[str, float]], made: str, found: bool, as_json: bool
) -> None:
    from client.drift import LEVEL

    verdict = YES if found else NO
    told = [{**asdict(row), "drifted": row.drifted} for row in rows]
    if as_json:
        terminal.print_json(
            {"verdict": verdict, "drift": found, "level": LEVEL, "reference_made": made,
             "rows": told, "error_over_simulated": ratios, "means": MEANS, "simulated": SIMULATED}
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
            f"{name.replace('masked_', '')} {terminal.figure(value, '.3g')}"
            for name, value in ratio.items()
        )
        terminal.out.print(f"Masked error over that of simulated windows, {when}: {words}")
    terminal.out.print(MEANS, highlight=False)
    terminal.out.print(SIMULATED, highlight=False)
    _verdict(verdict)


def _verdict(verdict: str) -> None:
    terminal.heading(f"{verdict.capitalize()}.", f" {STAYS}")
