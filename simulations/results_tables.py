"""Markdown tables of the results page, from the figures of a file.

Figures are the file's. Answers to bars are not: `simulations.gain_answers` makes them of the
figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from shared_model import intervals
from simulations.gain_answers import NONE, gain_rows, pooled_rows
from simulations.measurement import Measurement
from simulations.probes.few import not_said_words, todays
from simulations.probes.pooled import Ratio, not_gained, ratios
from simulations.probes.site_tasks import sites_words
from simulations.probes.task import copies_words
from simulations.probes.trained_here import NOT_UNSEEN, trained_words
from simulations.probes.unseen import unseen_words
from simulations.results_rows import NOT_MEASURED, REQUIRED

RECONSTRUCTION = {
    "masked": "masked half",
    "masked_ecg": "masked ECG",
    "masked_ppg": "masked PPG",
    "cross_modal": "cross-modal",
    "ppg_to_ecg": "PPG to ECG",
    "ecg_to_ppg": "ECG to PPG",
}
ONE_PATIENT = "names that share a recording are one patient"
SENSORS = {"both": "both", "ecg": "ECG only", "ppg": "PPG only"}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + [
        "| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows
    ]


def interval(one: Mapping[str, Any] | None, digits: int) -> str:
    """ "0.85 [0.80, 0.90]", or words; with more digits where rounding would close the interval."""
    if one is None or one["value"] is None:
        return "none"
    alone = one["low"] is None or one["high"] is None
    shown = intervals.words(one["value"], one["low"], one["high"], digits)
    return f"{shown} (no interval)" if alone else shown


def origin(name: str, one: Measurement) -> list[str]:
    """What made a file, as a list."""
    versions = ", ".join(f"{package} {number}" for package, number in one.versions.items())
    computed = "" if one.machine.devices == "cpu" else f" on {one.machine.devices}"
    lines = [
        f"- `{name}`: `{one.command}`",
        f"  {one.date}, {one.seconds:.0f} s, commit {one.commit}",
        f"  {one.machine.processor}, {one.machine.cores} cores, threads {one.machine.threads}"
        f"{computed}, {one.machine.system}; {versions}",
        *_runs(one),
    ]
    return lines + [f"  weights of {row}: {digest}" for row, digest in one.weights.items()]


def _runs(one: Measurement) -> list[str]:
    """What made the runs that a file puts together; in words where it cannot say so."""
    made = one.figures.get("runs") if one.kind == "ablation" else None
    if made is not None:
        return [
            f"  {made['count']} runs, {made['kept']} of them kept from earlier: "
            f"{made['seconds']:.0f} s together, {made['first']} to {made['last']}, commit "
            f"{', '.join(made['commits'])}, code {made['code'][:12]}, "
            f"{', '.join(made['processors'])}"
        ]
    if "--resume" in one.command.split():
        return [
            "  runs may be kept from earlier: commit and seconds are those of putting them together"
        ]
    return []


def pretend_probe(figures: dict[str, Any]) -> list[str]:
    """The same of pretend patients, whose table need not have the rows of `model.md`."""
    drawn = figures["release"]["pretend_patients"]
    words = f"{drawn} simulated patients were drawn; those of whom one sensor is missing are out."
    return [words, "", *probe(figures, required=())]


def sites_probe(figures: dict[str, Any]) -> list[str]:
    """The same of folders that nobody has named here; no bar of the issue counts there."""
    return probe(figures, required=())


def probe(figures: dict[str, Any], required: Sequence[str] = REQUIRED) -> list[str]:
    """Task x sensors by row, with every row of `model.md`; then gains and sensors."""
    figures = todays(figures)
    cells = figures["cells"]
    lines = list(dict.fromkeys((cell["task"], cell["sensors"]) for cell in cells))
    measured = list(dict.fromkeys(cell["row"] for cell in cells))
    names = [*required, *(name for name in measured if name not in required)]
    shown = [name for name in names if name in measured]
    at = {(cell["task"], cell["sensors"], cell["row"]): cell for cell in cells}
    rows = []
    for task, sensors in lines:
        first = next(cell for cell in cells if (cell["task"], cell["sensors"]) == (task, sensors))
        row = [f"{task}, {SENSORS[sensors]}: {first['metric']}", str(first["patients"])]
        for name in shown:
            cell = at.get((task, sensors, name))
            row.append(NOT_MEASURED if cell is None else _estimate(cell))
        rows.append(row)
    text = table(["task, sensors, metric", "patients", *shown], rows)
    absent = [name for name in names if name not in measured]
    repeats = figures.get("repeats", 1)
    partitions = "one partition" if repeats == 1 else f"the mean over {repeats} partitions"
    text += [
        "",
        "Paired difference wholly above zero: * over random-init, + over hand-made features.",
        f"Figures are of {partitions} of patients into folds (identity is not fitted).",
    ]
    about = figures.get("release", {})
    trained = trained_words(about.get("trained_here", []))
    text += [
        f"- {escape(line, quote=False)}"
        for line in (*trained, *sites_words(about), *unseen_words(about))
    ]
    text += [f"- {task}: {note}" for task, note in (about.get("notes") or {}).items()]
    unsaid = dict.fromkeys(cell["task"] for cell in cells if not cell["class_said"])
    text += [f"- {not_said_words(list(unsaid))}"] if unsaid else []
    text += [f"- {name}: {NOT_MEASURED}" for name in absent]
    text += [f"- {task}: {NOT_MEASURED}: {why}" for task, why in figures["skipped"].items()]
    text += ["", "One sensor alone, relative loss against both:", "", *_sensors(figures)]
    return [*text, *_ratios(figures)]


def _estimate(cell: dict[str, Any]) -> str:
    """A figure with its interval and marks; of too few patients the figure, and how many."""
    if cell["no_interval"]:
        value = cell["estimate"]["value"]
        shown = "none" if value is None else f"{value:z.3f}"
        return f"{shown} (no interval: {cell['no_interval']})"
    marks = ""
    for key, mark in (("gain_over_random_init", "*"), ("gain_over_hand_made", "+")):
        one = cell.get(key)
        if one is not None and one["low"] is not None and one["low"] > 0:
            marks += mark
    return f"{interval(cell['estimate'], 3)} {marks}".rstrip()


def _ratios(figures: dict[str, Any]) -> list[str]:
    """Federated over pooled, of tables that have both rows."""
    found = ratios(figures)
    if found is None:
        return []
    rows = [
        [one.task, one.metric, SENSORS[one.sensors], *_within(one), *_moved(one.moved)]
        for one in found.rows
    ]  # fmt: skip
    head = ["task", "metric", "sensor", "federated / pooled", "bar", "within",
            "pooled over warm start, skill", "so the ratio"]  # fmt: skip
    words = "; ".join(one for one in (found.words, found.beside) if one)
    title = "Federated without DP against pooled training, the same patients:"
    return ["", title, "", *table(head, rows), "", f"- {words}"]


def _within(one: Ratio) -> list[str]:
    """A ratio, its bar, and whether it is within."""
    if not one.measured:
        return [NOT_MEASURED, one.bar, NOT_MEASURED]
    return [interval(one.ratio, 3), one.bar, "yes" if one.held else "no"]


def _moved(moved: Mapping[str, Any] | None) -> list[str]:
    """What pooled training adds to the warm start, and whether a ratio to it says anything."""
    if moved is None:
        return [NOT_MEASURED, "cannot be judged"]
    nothing = not_gained(moved)
    return [interval(moved, 3), f"says nothing: pooled {nothing}" if nothing else "counts"]


def _sensors(figures: dict[str, Any]) -> list[str]:
    rows = [
        [one["task"], one["metric"], SENSORS[one["sensors"]], one["row"],
         interval(one["relative_loss"], 3)]
        for one in figures["single_sensor"]
    ]  # fmt: skip
    if not rows:
        return [f"{NOT_MEASURED}: no task here can be served by both sensors"]
    return table(["task", "metric", "sensor", "row", "relative loss"], rows)


def cross_modal(figures: dict[str, Any]) -> list[str]:
    """Both directions by site, and what was left out."""
    text: list[str] = []
    for direction, sites in figures["directions"].items():
        seen, made = direction.upper().split("_TO_")
        keys = [key for key in figures["words"] if any(row.get(key) for row in sites.values())]
        rows = [
            [f"{figures['words'][key]}", *(interval(row[key], 3) for row in sites.values())]
            for key in keys
        ]
        counts = [
            ["patients", *(str(row["patients"]) for row in sites.values())],
            ["windows", *(str(row["windows"]) for row in sites.values())],
            ["windows without a true rate", *(str(row["no_true_rate"]) for row in sites.values())],
        ]
        text += [f"{seen} -> {made}:", "", *table(["", *sites], counts + rows), ""]
    if "reconstruction" in figures:
        text += [*_reconstruction(figures["reconstruction"]), ""]
    cited = figures["cited"]
    text += [
        f"Cited, not measured here: {cited['source']}: {cited['raw_ppg_bpm']} bpm from raw PPG, "
        f"{cited['made_ecg_bpm']} bpm from the ECG made of it.",
        "",
        figures["note"],
        "",
    ]
    rows = [
        [site, str(figures["met"][site]), str(sum(why.values())),
         ", ".join(f"{reason} {count}" for reason, count in why.items()) or "none"]
        for site, why in figures["left_out"].items()
    ]  # fmt: skip
    text += table(["site", "windows", "left out", "why"], rows)
    if "copies" in figures:
        text += [f"- {copies_left_out(figures['copies'])}"]
    trained = trained_words(figures.get("trained_here", []), NOT_UNSEEN)
    text += [f"- {escape(line, quote=False)}" for line in trained]
    return text + [f"- {site}: {NOT_MEASURED}: no such folder" for site in figures["absent_sites"]]


def copies_left_out(count: int) -> str:
    """What became of recordings that are there twice; that there are none is said, too."""
    none = "no recording here is a copy of another, under another name"
    return f"{copies_words(count) or none}; {ONE_PATIENT}"


def _reconstruction(sites: dict[str, dict[str, Any]]) -> list[str]:
    """Errors over trivial by site, of masked halves and of one sensor from the other."""
    head = ["error over trivial, as it is", *RECONSTRUCTION.values()]
    return table(head, [[site, *(interval(row[key], 3) for key in RECONSTRUCTION)]
                        for site, row in sites.items()])  # fmt: skip


def flat(figures: dict[str, Any]) -> list[str]:
    """Of a benchmark: names and numbers."""
    rows = [
        [key, NOT_MEASURED if value is None else f"{value:.4g}"]
        for key, value in figures["figures"].items()
    ]
    quick = " (quick sizes)" if figures.get("quick") else ""
    lines = table([f"{figures['name']}{quick}", "value"], rows)
    notes = [f"- {note}" for note in figures.get("notes", [])]
    return [*lines, "", *notes] if notes else lines


def rows_of(figures: dict[str, Any]) -> list[str]:
    """Of kinds that hold their table as `rows` (list of equal dicts) and `in_words`."""
    found = figures["rows"]
    head = list(dict.fromkeys(key for row in found for key in row))
    body = [[_cell(row.get(key)) for key in head] for row in found]
    return [*table(head, body), "", *(f"- {line}" for line in figures.get("in_words", []))]


def gain(figures: dict[str, Any]) -> list[str]:
    """`rows_of` with the answers of today's rules; a share's interval is in the words."""
    rows = gain_rows(figures["rows"])
    for row in rows:
        row.pop("share_interval", None)
    return rows_of({**figures, "rows": rows})


def against_pooled(figures: dict[str, Any]) -> list[str]:
    """The same of ratios."""
    return rows_of({**figures, "rows": pooled_columns(figures["rows"])})


def pooled_columns(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a table shows of `pooled_rows`: the ratio of several seeds with its interval."""
    shown = pooled_rows(rows)
    for row in shown:
        row.pop("by_seed", None)
        over_seeds = row.pop("ratio_interval")
        row["ratio"] = over_seeds or row["ratio"]
    return shown


def private_stage(figures: dict[str, Any]) -> list[str]:
    """One row a point of a sweep: what it changes, what it costs, what the loss falls by."""
    return _stages(figures, "gain of skill", "skill_gain")


def private_stage_unseen(figures: dict[str, Any]) -> list[str]:
    """The same of real patients, whose skill is not measured."""
    both = f"fall, {figures['patients_with_both']} patients with both sensors"
    return _stages(figures, both, "fall_with_both")


def _stages(figures: dict[str, Any], last: str, key: str) -> list[str]:
    """key: of the last column's interval in a row."""
    head = [
        "", "point", "trained parameters", "kB up a hospital and round", "epsilon",
        "gradient passes / base's", "unit loss", "fall of the loss", "fall - base's",
        "% of the fall without privacy", last,
    ]  # fmt: skip
    body = [
        [
            str(row["number"]),
            row["point"],
            f"{row['parameters']:,}",
            f"{row['bytes_up'] / 1000.0:,.0f}",
            _spent(row),
            "not known" if row["relative_cost"] is None else f"{row['relative_cost']:.3g}",
            interval(row["loss"], 4),
            interval(row["fall"], 4),
            interval(row["more_than_base"], 4),
            interval(row["of_reference_percent"], 0),
            interval(row[key], 4),
        ]
        for row in figures["rows"]
    ]
    lines = [*figures["in_words"], *_of_private_stages(figures["rows"])]
    return [*table(head, body), "", *(f"- {line}" for line in lines)]


def _of_private_stages(rows: list[dict[str, Any]]) -> list[str]:
    """What the figures do not hold, or do not mean."""
    shares = [(row["mode"], row["of_reference_percent"]) for row in rows]
    above = [one for mode, one in shares if mode != NONE and one and one["value"] > 100]
    said = []
    if above:
        said.append(
            "Shares above 100 % are more than there was: the reference without privacy (unclipped, "
            "few ways of training tried) was itself not at its best. Every share here is an upper "
            "figure."
        )
    spent = sorted({_spent(row) for row in rows if row["epsilon"] is not None})
    if len(spent) == 1:
        said.append(
            f"One epsilon and mode alone ({spent[0]}): the figures say nothing of other ones. "
            "An axis of epsilon: `docs/experiments/private-stage-epsilon.toml`, or `fedprint-lab "
            "frontier`."
        )
    return said


def _spent(row: dict[str, Any]) -> str:
    return "none: NO PRIVACY" if row["epsilon"] is None else f"{row['epsilon']:.3g}, {row['mode']}"


def _cell(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict) and {"value", "low", "high"} <= set(value):
        return interval(value, 3)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
