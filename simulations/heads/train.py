"""Train a head at one place, without noise: fit, calibrate, measure, write down.

made = train(data, model, Asked(folds=5, seed=0, ...))
files.write(folder, made)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from shared_model import canonical
from shared_model.heads import arrays as arrays_io
from shared_model.heads import calibration
from shared_model.heads.answers import softmax
from shared_model.heads.arrays import Head
from shared_model.heads.card import with_card
from shared_model.heads.manifest import (
    FORMAT,
    LIMITS,
    ArraysFile,
    Band,
    BaseModelOfHead,
    ClassCount,
    Collection,
    Distance,
    HeadManifest,
    Privacy,
    Sets,
    Temperature,
)
from simulations.heads import calibrate, collections, figures, fit, verify
from simulations.heads.data import HeadData
from simulations.heads.tasks import TASKS
from simulations.models import NamedModel
from simulations.probes.site_tasks import unreadable_words
from simulations.probes.truths import not_understood

LEVEL = calibration.LEVEL
"""Coverage asked of sets and bands."""
FAR_LEVEL = calibration.FAR_LEVEL

FITTED_ON = "answers for patients left out, by cross-validation; calibration errors: no interval"
NOT_APPLIED = (
    "the temperature that was found ({:.3f}) {}, and is not applied: probabilities are the model's "
    "own"
)
NO_GAIN = "does not lower the log loss of patients it was not fitted on"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What the command said. created: date; licence: of folders that are no known collections."""

    folds: int
    seed: int
    draws: int
    command: str
    created: str
    licence: str = ""
    open_data: str = ""
    level: float = LEVEL
    promise: Literal["each class", "overall"] = "each class"


def train(data: HeadData, model: NamedModel, asked: Asked, say: Say = lambda _: None) -> Head:
    """A head of all items; its figures are of patients left out.

    Raises:
        DataFault: too few patients for folds.
    """
    if data.kind == "identity":
        return verify.train(data, model, asked, say)
    say("cross-validation over patients")
    outside = fit.out_of_fold(data, asked.folds, asked.seed)
    say("the head itself")
    rows = np.arange(len(data.truth))
    fitted = fit.chosen(data, rows, asked.seed)
    say("calibration and intervals")
    fields = (
        _classes(data, outside, asked) if data.kind == "classes" else _number(data, outside, asked)
    )
    found = fields["figures"]
    worse = figures.worse_of(found)
    few = figures.no_interval_words(data, found)
    rare = fit.rare_words(data, asked.folds) if data.classes else ""
    fields |= {"distance": distance(data, outside), "notes": _notes(data, few, rare, first=worse)}
    return written(data, model, asked, fitted, fields)


def _classes(data: HeadData, outside: fit.OutOfFold, asked: Asked) -> dict[str, Any]:
    logits, truth, weight, fold = outside.outputs, data.truth, data.weight, outside.fold
    heats = calibrate.temperatures_by_fold(fold, logits, truth, weight)
    before, after = softmax(logits), softmax(logits / heats[:, None])
    heat = calibrate.temperature(logits, truth, weight)
    fitted_on = FITTED_ON
    gains = calibrate.log_loss(after, truth, weight) < calibrate.log_loss(before, truth, weight)
    why = calibrate.why_no_best(heat, logits, truth) if gains else NO_GAIN
    if why:
        fitted_on = f"{FITTED_ON}; {NOT_APPLIED.format(heat, why)}"
        heat, after = 1.0, before
    terms = (asked.level, asked.promise)
    least = calibrate.least_of(softmax(logits, heat), truth, data.patient, *terms)
    each = calibrate.by_fold(
        fold,
        lambda rest: calibrate.least_of(after[rest], truth[rest], data.patient[rest], *terms),
    )
    measured = figures.Measured.of(
        data, after, each, draws=asked.draws, seed=asked.seed, always=outside.always
    )
    found = {one.name: one for one in figures.figures(measured)}
    bins = [calibrate.reliability(shares, truth, weight) for shares in (before, after)]
    value = {name: one.value for name, one in found.items()}
    return {
        "figures": tuple(found.values()),
        "groups": figures.groups(measured),
        "temperature": Temperature(
            temperature=heat,
            ece_before=calibrate.calibration_error(bins[0]),
            ece_after=calibrate.calibration_error(bins[1]),
            reliability_before=bins[0],
            reliability_after=bins[1],
            fitted_on=fitted_on,
        ),
        "sets": Sets(
            level=asked.level,
            promise=asked.promise,
            least=tuple(float(one) for one in least),
            coverage=value.get("truth in the set"),
            answered=value.get("answered"),
            accuracy=value.get("accuracy where answered"),
            curve=figures.answered_curve(measured),
        ),
    }


def _patients(data: HeadData, rows: calibrate.Bools) -> int:
    return int(np.unique(data.patient[rows]).size)


def _number(data: HeadData, outside: fit.OutOfFold, asked: Asked) -> dict[str, Any]:
    error = np.abs(outside.outputs[:, 0] - data.truth)
    weight = data.weight

    def half(rows: calibrate.Bools) -> float:
        patients = _patients(data, rows)
        return calibration.half_width(error[rows], weight[rows], asked.level, patients=patients)

    each = calibrate.by_fold(outside.fold, lambda rest: [half(rest)])
    measured = figures.Measured.of(
        data, outside.outputs, each, draws=asked.draws, seed=asked.seed, always=outside.always
    )
    found = {one.name: one for one in figures.figures(measured)}
    everybody = np.ones(len(error), dtype=np.bool_)
    return {
        "figures": tuple(found.values()),
        "groups": figures.groups(measured),
        "band": Band(
            level=asked.level,
            half_width=half(everybody),
            coverage=found["within the band"].value,
        ),
    }


def distance(data: HeadData, outside: fit.OutOfFold) -> Distance:
    """The limit, and which share of patients left out lies beyond what the others' say."""
    return calibration.distance_of(outside.distance, data.weight, outside.fold)


NOT_PRIVATE = Privacy(
    mode="without",
    unit="",
    noise="none",
    sample_rate=None,
    noise_multiplier=None,
    clipping_norm=None,
    steps=0,
    threshold=0,
    colluding=0,
    spent=(),
    words=(),
)


def written(
    data: HeadData, model: NamedModel, asked: Asked, fitted: fit.Fitted, fields: dict[str, Any]
) -> Head:
    """Coefficients and manifest of one head.

    Args:
        fields: of the manifest, what the kind of head and its training make of them; `far` may
            give (mean, factor) of the distance, else those of the items.
    """
    far = fields.pop("far", None)
    if far is None:
        far = fit.spread(fitted.x(data.fingerprints), data.weight)
    arrays = {
        "mean": fitted.mean,
        "scale": fitted.scale,
        "far_mean": far[0],
        "far_factor": far[1],
    }
    if data.kind != "identity":
        arrays |= {"weight": fitted.weight, "bias": fitted.bias}
    plain = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in arrays.items()}
    body = arrays_io.to_bytes(plain)
    manifest = HeadManifest(
        **{
            **_about(data, model, asked, fitted.strength),
            "card_digest": "0" * 64,
            "arrays": ArraysFile(digest=canonical.digest(body), size_bytes=len(body)),
            **fields,
        }
    )
    return arrays_io.opened(with_card(manifest), body)


def _about(data: HeadData, model: NamedModel, asked: Asked, strength: float) -> dict[str, Any]:
    task = TASKS[data.task]
    return {
        "format": FORMAT,
        "task": data.task,
        "about": plain_words(task.about),
        "kind": data.kind,
        "classes": data.classes,
        "unit": data.unit,
        "item": data.item,
        "sensors": data.sensors,
        "gated": task.gated,
        "features": 128,
        "model": BaseModelOfHead(
            digest=model.digest,
            preset=model.config.preset,
            source=plain_words(str(model.words.get("source", ""))),
        ),
        "collections": _collections(data, asked.licence),
        "open_data": plain_words(asked.open_data),
        "patients": data.patients,
        "items": len(data.truth),
        "windows": data.windows,
        "left_out": data.left_out,
        "class_counts": _counts(data),
        "figures_of": "patients left out of the fit, by cross-validation; patients weigh the same",
        "regularisation": strength,
        "temperature": None,
        "sets": None,
        "band": None,
        "verification": None,
        "figures": (),
        "groups": (),
        "figures_public": "",
        "privacy": NOT_PRIVATE,
        "command": plain_words(asked.command),
        "seed": asked.seed,
        "created": asked.created,
        "packages": packages(),
        "notes": _notes(data),
        "limits": LIMITS,
    }


def _notes(data: HeadData, *more: str, first: str = "") -> tuple[str, ...]:
    left_out = (data.unknown, *unreadable_words(data.unreadable))
    said = (first, data.truths, data.note, *left_out, *_in_no_group(data), *more)
    return tuple(plain_words(note) for note in said if note)


def _in_no_group(data: HeadData) -> list[str]:
    """Of how many patients sex and age, by which figures are grouped, are not understood."""
    people = np.unique(data.patient) if data.people.unheard else ()
    counts = Counter(name for one in people for name in data.people.unheard[one])
    return [
        f"{not_understood(count, [name])}: in the group {name} not known"
        for name, count in sorted(counts.items())
    ]


def _collections(data: HeadData, licence: str) -> tuple[Collection, ...]:
    made = []
    people = np.unique(data.patient)
    for place, folder in enumerate(data.people.folders):
        what, known = collections.about((folder,), data.known)
        stated = plain_words(licence) if licence else known
        count = int((data.people.folder[people] == place).sum())
        made.append(Collection(name=plain_name(folder), what=what, licence=stated, patients=count))
    return tuple(made)


def _counts(data: HeadData) -> tuple[ClassCount, ...]:
    return tuple(
        ClassCount(
            name=name,
            items=int((data.truth == place).sum()),
            patients=data.of_class[name],
        )
        for place, name in enumerate(data.classes)
    )


def packages() -> dict[str, str]:
    """Versions of what made the head."""
    from importlib.metadata import version

    return {name: version(name) for name in ("fedprint", "numpy", "scikit-learn", "scipy", "torch")}


def plain_words(text: str) -> str:
    """As `Words` allows: other characters become question marks, 600 of them at most; what begins
    as nothing may is put in brackets."""
    legal = (c if " " <= c < "~" and c not in "`|<>[]\\" else "?" for c in text.strip())
    kept = "".join(legal)[:600]
    return kept if not kept or kept[0].isalnum() or kept[0] in "(/.?" else f"({kept[:598]})"


def plain_name(text: str) -> str:
    """As `Name` allows."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in " .,_()+-") else "-" for c in text)
    return (kept if kept[:1].isalnum() else f"x{kept}")[:64]
