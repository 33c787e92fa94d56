"""What a run's report says in words, before any figure."""

from __future__ import annotations

import math
from typing import Any

from simulations.lab.evaluate_rows import UNIT_LOSS
from simulations.lab.figures import Row, RunData
from simulations.lab.run_words import refused, refused_words

KINDS = {
    "auroc": "AUROC",
    "mae": "MAE",
    "r": "correlation",
    "bpm": "heart-rate difference, beats a minute",
    "share": "share of windows without a heart rate",
    "loss": "loss",
    "shift": "shift of cosine towards the attacker's target",
    "captured": "share nearer to the target than to itself",
}


def notices(run: RunData) -> list[str]:
    """What must be known before a figure is believed."""
    said = [_state(run)] if not run.done else []
    said += list(run.about["in_words"]) if run.done else _promised(run)
    found = None if run.done else refused(run.rounds)
    if found is not None:
        said.append(refused_words(found))
    behaving = {one.kind for one in run.experiment.behaviours}
    if behaving:
        said.append(f"Some sites do not behave: {', '.join(sorted(behaving))}.")
    return said


def _state(run: RunData) -> str:
    done = int(run.rounds[-1]["round"]) if run.rounds else 0
    return (
        f"THE RUN HAS NOT ENDED: {done} of {run.experiment.rounds} rounds are in the tables, which "
        "are written at evaluations. It goes on, or was interrupted; then: fedprint-lab run "
        "EXP.toml -o OUT --resume."
    )


def _promised(run: RunData) -> list[str]:
    """Of a run that has not ended: what its file says."""
    experiment = run.experiment
    said = ["Masks are off and no ledger is kept: this is a simulation on one owner's machines."]
    if experiment.privacy.mode == "none":
        said.append("Mode none: no noise and NO PRIVACY.")
    elif experiment.privacy.noise == "NonPrivateForTests":
        said.append(
            "The noise repeats itself bit by bit (NonPrivateForTests): NO PRIVACY. Epsilon is what "
            "hospitals would have spent with real noise."
        )
    else:
        said.append("The noise is the operating system's: a repetition differs by design.")
    said += {
        "waves": ["The patients are noisy sines without any meaning: no figure means anything."],
        "simulated": ["The patients are simulated; no figure here is of a real patient."],
        "folders": ["The patients are of real recordings."],
    }[experiment.federation.source]
    return said


def findings(run: RunData) -> list[str]:
    """What the last evaluation says, in sentences."""
    if not run.evaluated:
        return ["Nothing was measured: there is no evaluation in the run's folder yet."]
    said = [_loss(run), *_probes(run), *_sites(run)]
    few = sum(row["outcome"] != "aggregated" for row in run.rounds)
    if run.rounds and few == len(run.rounds):
        said.append(
            "NO ROUND WAS SUMMED: all had too few survivors, so the model is the one that the run "
            "began with, and what sites have spent was spent for nothing."
        )
    elif few:
        said.append(f"{few} of {len(run.rounds)} rounds had too few survivors and changed nothing.")
    noise = run.rounds[-1].get("noise_to_signal") if run.rounds else None
    if noise is not None and noise > 1:
        said.append(
            f"Noise to signal of a step, mean over sites: at least {noise:.3g} (the noise's "
            "expected norm over the largest that the mean gradient can have). Steps are mostly "
            "noise."
        )
    if run.experiment.federation.source == "waves":
        said.append("The patients are waves: none of this means anything.")
    return [one for one in said if one]


def _loss(run: RunData) -> str:
    series = run.series(UNIT_LOSS, "loss")
    if not len(series):
        return "No patient was held out: there is no loss and no probe."
    now = f"{_value(series.value[-1], series.low[-1], series.high[-1])}"
    if len(series) == 1:
        return f"Held-out unit loss at round {int(series.round[0])}: {now}."
    before = _value(series.value[0], series.low[0], series.high[0])
    return (
        f"Held-out unit loss: {before} at round {int(series.round[0])}, {now} at round "
        f"{int(series.round[-1])} ({series.patients} patients)."
    )


def _probes(run: RunData) -> list[str]:
    rows = [row for row in run.last(site="all") if row["gain"] is not None and row["kind"] != "r"]
    if not rows:
        return ["No label could be probed."] if run.experiment.federation.source != "waves" else []
    above = [row for row in rows if row["gain_low"] is not None and row["gain_low"] > 0]
    below = [row for row in rows if row["gain_high"] is not None and row["gain_high"] < 0]
    said = [
        f"Probes at round {run.evaluated[-1]}: {len(above)} of {len(rows)} are above random-init "
        "(the paired 95 % interval is wholly above zero)"
        + (f": {_names(above)}." if above else ".")
    ]
    if below:
        said.append(f"BELOW random-init: {_names(below)}.")
    said += _since(run)
    said.append(
        "With so many intervals at 95 %, about one in twenty misses by chance; nothing here was "
        "corrected for that."
    )
    return said


def _since(run: RunData) -> list[str]:
    """Against round 0; not paired, so only intervals that do not meet count."""
    if len(run.evaluated) < 2 or run.evaluated[0] != 0:
        return []
    better, worse = [], []
    for task, kind in run.labels:
        series = run.series(task, kind)
        if len(series) >= 2:
            if series.low[-1] > series.high[0]:
                better.append(task)
            if series.high[-1] < series.low[0]:
                worse.append(task)
    said = (
        "Clearly better than at round 0 (intervals do not meet, both sensors): "
        f"{', '.join(better)}."
        if better
        else "No probe is clearly better than at round 0 (intervals meet, both sensors): what "
        "training added to its start is not shown by this run."
    )
    return [said, *([f"Clearly WORSE than at round 0: {', '.join(worse)}."] if worse else [])]


def _sites(run: RunData) -> list[str]:
    rows = run.at_sites(UNIT_LOSS, "loss", run.evaluated[-1])
    if len(rows) < 2:
        return []
    values = sorted((row["value"], row["site"]) for row in rows)
    middle = values[len(values) // 2][0]
    return [
        f"Unit loss of single sites ({len(rows)} measured): best {values[0][0]:.3f} "
        f"({values[0][1]}), median {middle:.3f}, worst {values[-1][0]:.3f} ({values[-1][1]})."
    ]


def _names(rows: list[Row]) -> str:
    words: dict[str, list[str]] = {}
    for row in rows:
        words.setdefault(row["task"], []).append(row["sensors"])
    return "; ".join(f"{task} ({', '.join(sensors)})" for task, sensors in words.items())


def estimate(row: Any, prefix: str = "") -> str:
    """ "0.873 [0.851, 0.894]" of a row's value (or gain)."""
    name = prefix or "value"
    low, high = (f"{prefix}_low", f"{prefix}_high") if prefix else ("low", "high")
    return _value(row[name], row[low], row[high], sign=bool(prefix))


def _value(value: Any, low: Any, high: Any, *, sign: bool = False) -> str:
    def text(number: Any) -> str:
        if number is None or not math.isfinite(number):
            return "-"
        digits = 3 if abs(number) < 10 else 1
        return f"{number:{'+' if sign else ''}.{digits}f}"

    return f"{text(value)} [{text(low)}, {text(high)}]".replace(" ", "\u00a0")
