"""The tables of a run's report, all from its folder."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import numpy as np

from simulations.lab.evaluate import left_out
from simulations.lab.evaluate_rows import BACKDOOR, DRAWN, LOSSES, MEDIAN, RANDOM_INIT, UNIT_LOSS
from simulations.lab.evaluate_sample import LEAST_OF_A_SITE, MOST_OF_A_SITE, WINDOWS
from simulations.lab.figures import MEGABYTE, NOT_LABELS, Row, RunData
from simulations.lab.lab_report_words import KINDS, estimate
from simulations.report import ReportTable

MOST_SITES = 30
MOST_ROUNDS = 40
SENSORS = {"both": "both", "ecg": "ECG\u00a0only", "ppg": "PPG\u00a0only"}


def probes(run: RunData) -> ReportTable:
    """Every probe at the last evaluation, beside its baselines."""
    rows = []
    found = [row for row in run.last(site="all") if row["task"] not in NOT_LABELS]
    for row in sorted(found, key=lambda one: (one["task"], one["kind"])):
        base = _baseline(run, row, RANDOM_INIT)
        rows.append(
            {
                "label": row["task"],
                "sensors": SENSORS[row["sensors"]],
                "metric": KINDS[row["kind"]],
                "value": estimate(row),
                "random-init": base,
                "gain over it (paired)": "-" if row["gain"] is None else estimate(row, "gain"),
                "median": _baseline(run, row, MEDIAN) if row["kind"] == "mae" else "-",
                "patients": row["patients"],
            }
        )
    return ReportTable.of(f"Probes at round {_last(run)}; 95 % intervals over patients", rows)


def reconstruction(run: RunData) -> ReportTable:
    """Losses, and each sensor from the other, at the last evaluation."""
    rows = [
        {
            "what": row["task"],
            "figure": KINDS[row["kind"]],
            "value": estimate(row),
            "random-init": _baseline(run, row, RANDOM_INIT),
            "median": _baseline(run, row, MEDIAN) if row["kind"] == "bpm" else "-",
            "patients": row["patients"],
        }
        for row in run.last(site="all")
        if row["task"] in {*LOSSES, *DRAWN, BACKDOOR}
    ]
    caption = f"Losses and reconstruction at round {_last(run)}; 95 % intervals over patients"
    return ReportTable.of(caption, rows)


def sites(run: RunData) -> tuple[ReportTable, str]:
    """A row a site, those with the highest loss first; and how many are not shown."""
    names: dict[str, Row] = {}
    for row in _by_site(run):
        names[row["site"]] = row
    losses = {
        row["site"]: row
        for row in (run.at_sites(UNIT_LOSS, "loss", run.evaluated[-1]) if run.evaluated else ())
    }
    for site, row in losses.items():
        names.setdefault(site, {"site": site})["unit loss"] = estimate(row)
    ordered = sorted(
        names.values(), key=lambda row: -losses.get(row["site"], {"value": -1.0})["value"]
    )
    columns = ("site", "patients", "asked", "answered", "epsilon", "MB up", "MB down", "unit loss")
    shown = [{name: row.get(name) for name in columns} for row in ordered[:MOST_SITES]]
    left = len(ordered) - len(shown)
    words = f"{left:,} more sites are in metrics/sites.parquet." if left > 0 else ""
    return ReportTable.of("Sites, highest held-out unit loss first", shown), words


def _by_site(run: RunData) -> Iterator[Row]:
    table = run.sites
    if not table.num_rows:
        return
    import pyarrow as arrow
    from pyarrow import compute

    asked = compute.cast(compute.not_equal(table["reason"], "not asked"), "int64")
    answered = compute.cast(table["answered"], "int64")
    table = table.append_column("was_asked", asked).append_column("was_there", answered)
    wanted = [("patients", "max"), ("was_asked", "sum"), ("was_there", "sum")]
    wanted += [("epsilon", "max"), ("bytes_up", "sum"), ("bytes_down", "sum")]
    if arrow.types.is_null(table.schema.field("epsilon").type):
        wanted.remove(("epsilon", "max"))
    for row in table.group_by("site").aggregate(wanted).to_pylist():
        yield {
            "site": row["site"],
            "patients": row["patients_max"],
            "asked": row["was_asked_sum"],
            "answered": row["was_there_sum"],
            "epsilon": row.get("epsilon_max"),
            "MB up": row["bytes_up_sum"] / MEGABYTE,
            "MB down": row["bytes_down_sum"] / MEGABYTE,
        }


def rounds(run: RunData) -> tuple[ReportTable, str]:
    """The last rounds; and how many are not shown."""
    columns = ("round", "participants", "survivors", "outcome", "loss", "update_norm", "epsilon")
    shown = [
        {name.replace("_", " "): row.get(name) for name in columns}
        for row in run.rounds[-MOST_ROUNDS:]
    ]
    left = len(run.rounds) - len(shown)
    words = f"{left:,} earlier rounds are in metrics/rounds.parquet." if left > 0 else ""
    return ReportTable.of("Rounds", shown), words


def privacy(run: RunData) -> ReportTable:
    """What was promised to whom, or that nothing was."""
    asked = run.experiment.privacy
    last = run.rounds[-1] if run.rounds else {}
    rows: list[tuple[str, Any]] = [("trust model", asked.mode), ("noise", asked.noise)]
    if asked.mode != "none":
        kind = "would have been spent" if asked.noise == "NonPrivateForTests" else "spent"
        rows += [
            (f"epsilon {kind}, largest site", last.get("epsilon")),
            ("delta", last.get("delta")),
            ("privacy unit", "one patient at one hospital: all of the patient's recordings"),
            ("adjacency", "add or remove one patient"),
            ("noise multiplier", run.about.get("noise_multiplier", asked.noise_multiplier)),
            ("sample rate", asked.sample_rate),
            ("clipping norm", asked.clipping_norm),
            ("noise to signal, last round", last.get("noise_to_signal")),
        ]
    return ReportTable.of("Privacy", [{"what": name, "value": value} for name, value in rows])


def whom(run: RunData) -> list[str]:
    """Who was measured, and what was not."""
    said = [
        f"At most {run.experiment.evaluation.most_patients} held-out patients, {WINDOWS} windows "
        "each, the same at every evaluation; probes are fitted on at most as many patients that "
        f"train. By site: sites with at least {LEAST_OF_A_SITE} held-out patients, and at most "
        f"{MOST_OF_A_SITE} of each where not all can be measured.",
        "'ECG from PPG' hides the ECG wholly. Its heart rate is what one detector (NeuroKit2) "
        "finds in the drawn signal; the truth is what the same detector finds in the recorded one.",
    ]
    if run.data is None:
        return [*said, "The patients are not on this machine any more: which labels were left out "
                "cannot be said."]  # fmt: skip
    for name, why in left_out(run.data, run.experiment).items():
        said.append(f"Left out: {name}: {why}.")
    if run.experiment.federation.source == "waves":
        said.append("Left out: heart rates. Waves have none.")
    return said


def again(run: RunData) -> tuple[list[str], list[str], ReportTable]:
    """How to reproduce it: words, commands, digests."""
    about = run.provenance
    repeats = run.experiment.privacy.noise == "NonPrivateForTests" or (
        run.experiment.privacy.mode == "none"
    )
    words = [
        "The same file gives the same model, to the bit, with the same code and package versions, "
        "for any number of workers and either engine."
        if repeats
        else "The noise is the operating system's: the same file gives another model each time, by "
        "design. Patients, participants and behaviours are the same.",
    ]
    commands = ["fedprint-lab run experiment.toml -o again"]
    if about.get("command"):
        commands.append("# was run as: " + shlex.join(str(part) for part in about["command"]))
    rows = [
        {"what": name, "value": str(value)}
        for name, value in _flat({**about, "model": run.about.get("model")}, "")
        if value is not None and not name.startswith("command")
    ]
    return words, commands, ReportTable.of("Where it came from", rows)


def parameters(run: RunData) -> ReportTable:
    """Every field of the experiment."""
    content = run.experiment.as_dict()
    for name, value in content["tracking"].items():
        content["tracking"][name] = "given" if value is not None else None  # may hold a password
    rows = [{"field": name, "value": str(value)} for name, value in _flat(content, "")]
    return ReportTable.of("experiment.toml, every default written out", rows)


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for place, inner in enumerate(value):
            yield from _flat(inner, f"{name}[{place}]")
    else:
        yield name, "-" if value is None or value == [] else value


def _baseline(run: RunData, row: Row, model: str) -> str:
    found = [
        one
        for one in run.probes
        if one["model"] == model
        and (one["task"], one["kind"]) == (row["task"], row["kind"])
        and (one["sensors"] == row["sensors"] or model == MEDIAN)
    ]
    return estimate(found[0]) if found and found[0]["value"] is not None else "-"


def _last(run: RunData) -> Any:
    return run.evaluated[-1] if run.evaluated else "-"


def spent(run: RunData) -> float | None:
    """Largest epsilon so far; None without."""
    found = run.column("epsilon")
    return float(np.nanmax(found)) if np.isfinite(found).any() else None
