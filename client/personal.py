"""Personal heads: a linear head on this site's own labels, over frozen fingerprints. Never sent.

    made = make(labels, patients, kind, model_digest, sensors)   # cross-validated, then fitted
    save(home, made)                                             # HOME/personal/NAME.json, sealed
    answers(made, features)            # abstains far from its patients; numbers have an interval

A head is a function of its patients, without noise: it is for this hospital alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from client.home import NodeHome
from client.personal_limits import expected_beyond, limits_of
from client.personal_rows import FEWEST_PATIENTS
from client.personal_words import named
from client.sealed_files import AGAIN, read_own, write_own
from shared_model import canonical, intervals, linear_heads
from shared_model.config import FINGERPRINT_SIZE
from shared_model.errors import OurMistake, Refused
from shared_model.heads.answers import FAR, NO_FINGERPRINT
from shared_model.heads.arrays import SMALLEST_SCALE
from shared_model.heads.distance import away
from shared_model.heads.manifest import Band, Count, Distance, Finite, Positive
from shared_model.linear_heads import Array, Kind, LinearHead
from shared_model.warm_start import if_packaged

FEWEST_OF_A_CLASS = intervals.FEWEST_OF_A_CLASS
"""Of a class: as many as folds need, and as an interval does."""
MOST_CLASSES = 20
LARGEST_BYTES = 4 * 1024 * 1024
KIND = "personal head"
COLUMNS = ("pseudonym", "probability", "low", "high", "why", "distance")
"""Of the answers, beside the label's."""
_WORDS_AS_CLASSES = 10
"""Numbers with more different values than this are a quantity, not classes."""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("no screen can show this")
    return text


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
Shown = Annotated[str, Field(max_length=64), AfterValidator(_printable)]
Row = Annotated[tuple[Finite, ...], Field(min_length=FINGERPRINT_SIZE, max_length=FINGERPRINT_SIZE)]
Rows = Annotated[tuple[Row, ...], Field(min_length=FINGERPRINT_SIZE, max_length=FINGERPRINT_SIZE)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FigureSaid(_Strict):
    """As `linear_heads.Figure`; None: not a number, or no interval."""

    name: str
    value: Finite | None
    low: Finite | None
    high: Finite | None
    reference: Finite | None

    @model_validator(mode="after")
    def _no_certainty(self) -> FigureSaid:
        """Earlier versions kept intervals without width, which are none."""
        if self.low is not None and self.low == self.high:
            return self.model_copy(update={"low": None, "high": None})
        return self


class PersonalHead(_Strict):
    """A head as it lies in a file. classes: in the order of the outputs; () for a number.

    far_mean, far_factor, distance: when it abstains (`shared_model.heads`). band: interval of a
    number. Format "personal-1" of earlier versions has none of these: it is listed and removed, and
    answers nothing.
    """

    format: Literal["personal-1", "personal-2"] = "personal-2"
    name: Name
    kind: Kind
    label: Annotated[Shown, Field(min_length=1)]
    classes: Annotated[tuple[Shown, ...], Field(max_length=MOST_CLASSES)]
    sensors: Literal["both", "ecg", "ppg"]
    model_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    patients: Annotated[Count, Field(ge=FEWEST_PATIENTS)]
    counts: dict[Shown, Count]
    penalty: Positive
    mean: Row
    scale: Row
    weights: Annotated[tuple[Row, ...], Field(min_length=1, max_length=MOST_CLASSES)]
    offset: Annotated[tuple[Finite, ...], Field(min_length=1, max_length=MOST_CLASSES)]
    figures: tuple[FigureSaid, ...]
    far_mean: Row | None = None
    far_factor: Rows | None = None
    distance: Distance | None = None
    band: Band | None = None

    @model_validator(mode="after")
    def _fits(self) -> PersonalHead:
        outputs = len(self.classes) if self.kind == "class" else 1
        if len(self.weights) != outputs or len(self.offset) != outputs:
            raise ValueError("weights do not fit the classes")
        if min(self.scale) < SMALLEST_SCALE:
            raise ValueError("a scale is not above zero")
        far = (self.far_mean, self.far_factor, self.distance)
        if any((one is not None) != (self.format == "personal-2") for one in far):
            raise ValueError("a head of this format says when it abstains, one of before does not")
        if (self.band is not None) != (self.kind == "number" and self.far_mean is not None):
            raise ValueError("a number, and it alone, has a band")
        return self

    @property
    def far(self) -> tuple[Array, Array] | None:
        """Centre (feature,) and factor (feature, feature) of the distance; None: it has none."""
        if self.far_mean is None or self.far_factor is None:
            return None
        return np.array(self.far_mean), np.array(self.far_factor)

    @property
    def far_words(self) -> str:
        """From whom it abstains, and what that promises."""
        if self.distance is None:
            return "cannot abstain, so it does not answer: make it again"
        share = expected_beyond(self.patients, self.distance).share
        told = f"patients far from those it was made of; of patients like those up to {share:.1%}"
        aim = 1.0 - self.distance.level
        few = f" ({self.patients} patients are too few to promise {aim:.0%})"
        return told + (few if share > aim + 1e-9 else "")

    @property
    def head(self) -> LinearHead:
        return LinearHead(
            self.kind,
            np.array(self.mean),
            np.array(self.scale),
            np.array(self.weights),
            np.array(self.offset),
        )


def make(
    name: str,
    label: str,
    features: Array,
    values: Sequence[str | float],
    *,
    kind: Kind | None,
    sensors: str,
    model_digest: str,
) -> PersonalHead:
    """Cross-validate over patients, then fit on all of them.

    Args:
        label: the name of the label's column in the answers.
        kind: None: a number if all labels are numbers, of more than ten different values.

    Raises:
        Refused: fewer than `FEWEST_PATIENTS` patients (reason "few-patients"), one class only, or
            a class with fewer than `FEWEST_OF_A_CLASS` ("classes").
        OurMistake: a word where numbers are asked for, or among many numbers; a name that is none,
            a label that is called as another column of the answers.
    """
    if label in COLUMNS:
        raise OurMistake(
            f"The answers have another column called {label}.",
            do="Give the column of the labels another name.",
        )
    if len(values) < FEWEST_PATIENTS:
        raise Refused(
            f"{len(values)} patients have a label and a fingerprint; a head needs "
            f"{FEWEST_PATIENTS} at least.",
            reason="few-patients",
            do="Label more patients, or add their recordings: fedprint-node data add PATH",
        )
    numbers = [value for value in values if isinstance(value, float)]
    if kind is None:
        kind = "number" if len(set(numbers)) > _WORDS_AS_CLASSES else "class"
    classes: tuple[str, ...] = ()
    counts: Mapping[str, int] = {}
    if kind == "number":
        if len(numbers) != len(values):
            raise OurMistake(
                f"{len(numbers)} labels are numbers, {len(values) - len(numbers)} are words.",
                do="Say --missing WORD for a word that is no label, or --kind class.",
            )
        if len(set(numbers)) == 1:
            raise Refused("All labels are one number.", reason="classes")
        truth = np.array(numbers)
    else:
        truth, classes, counts = _classes(values)
    groups = np.arange(len(values))
    found = linear_heads.cross_validated(features, truth, kind, groups)
    head = linear_heads.fitted(features, truth, kind, found.penalty)
    limits = limits_of(features, truth, kind, found.answers)
    try:
        return PersonalHead.model_validate(
            {
                "name": name,
                "kind": kind,
                "label": label,
                "classes": classes,
                "sensors": sensors,
                "model_digest": model_digest,
                "patients": len(values),
                "counts": counts,
                "penalty": found.penalty,
                "mean": _floats(head.mean),
                "scale": _floats(head.scale),
                "weights": tuple(_floats(row) for row in head.weights),
                "offset": _floats(head.offset),
                "figures": tuple(_said(one) for one in found.figures),
                "far_mean": _floats(limits.far_mean),
                "far_factor": tuple(_floats(row) for row in limits.far_factor),
                "distance": limits.distance,
                "band": limits.band,
            }
        )
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"])
        raise OurMistake(
            f"This makes no personal head: {where}.",
            do="A name has small letters, digits and hyphens: --name af"
            if where == "name"
            else "Give labels that are short words, or numbers in a larger unit.",
        ) from error


def answers(head: PersonalHead, features: Array) -> list[dict[str, object]]:
    """One answer an item: the number and its interval, or the likeliest class and its probability.

    Where it abstains the answer is None, and `why` says why; else `why` is empty.

    Args:
        features: (item, 128); a row that is not finite has no fingerprint.

    Raises:
        Refused: as `limit_of`.
    """
    far, limit = limit_of(head)
    known = np.asarray(np.isfinite(features).all(axis=1))
    filled = np.where(known[:, None], features, head.mean)
    distances = away((filled - head.head.mean) / head.head.scale, *far)
    scores = head.head.scores(filled)
    made = []
    for is_known, distance, row in zip(known, distances, scores, strict=True):
        why = NO_FINGERPRINT if not is_known else FAR if distance > limit else ""
        answer = _number(head, row, why) if head.kind == "number" else _class(head, row, why)
        made.append({**answer, "why": why, "distance": float(distance) if is_known else None})
    return made


def limit_of(head: PersonalHead) -> tuple[tuple[Array, Array], float]:
    """Centre and factor of the distance, and the limit beyond which it abstains.

    Raises:
        Refused: it is of before heads could abstain (reason "cannot-abstain").
    """
    if head.far is None or head.distance is None:
        raise Refused(
            f"An earlier version made the head {head.name}: it would answer for any patient, "
            "however unlike those it was made of.",
            reason="cannot-abstain",
            do="Make it again on the same labels: fedprint-node personalise",
        )
    return head.far, head.distance.limit


def _number(head: PersonalHead, row: Array, why: str) -> dict[str, object]:
    if why or head.band is None:
        return {head.label: None, "low": None, "high": None}
    value, half = float(row[0]), head.band.half_width
    return {head.label: value, "low": value - half, "high": value + half}


def _class(head: PersonalHead, row: Array, why: str) -> dict[str, object]:
    if why:
        return {head.label: None, "probability": None}
    best = int(row.argmax())
    return {head.label: head.classes[best], "probability": float(row[best])}


def save(home: NodeHome, head: PersonalHead) -> bool:
    """Write it; whether it is sealed. One of the same name is replaced.

    Raises:
        OurMistake: it cannot be written.
    """
    data = canonical.encode(head.model_dump(mode="json"))
    return write_own(home, _path(home, head.name), KIND, data)


def load(home: NodeHome, name: str) -> PersonalHead:
    """The head of this name.

    Raises:
        OurMistake: there is none. Refused: it is damaged, or sealed with another key.
    """
    path = _path(home, name)
    if not path.exists():
        raise OurMistake("There is no such personal head.", do="See: fedprint-node personal list")
    data = read_own(home, path, KIND, LARGEST_BYTES)
    try:
        head = PersonalHead.model_validate_json(data)
    except (ValidationError, ValueError) as error:
        raise Refused(f"{path.name} is no personal head.", reason="files", do=AGAIN) from error
    if head.name != name:
        raise Refused(f"{path.name} holds another head.", reason="files", do=AGAIN)
    return head


def names(home: NodeHome) -> list[str]:
    """Of all personal heads."""
    return sorted(path.stem for path in home.personal.glob("*.json"))


def remove(home: NodeHome, name: str) -> None:
    """Erase a head.

    Raises:
        OurMistake: there is none.
    """
    try:
        _path(home, name).unlink()
    except FileNotFoundError as error:
        raise OurMistake(
            "There is no such personal head.", do="See: fedprint-node personal list"
        ) from error


def refuse_other_model(head: PersonalHead, model_digest: str, command: str) -> None:
    """Raises Refused (reason "model"): fingerprints of another model mean something else.

    Args:
        command: as `warm_start.if_packaged` has it.
    """
    if head.model_digest != model_digest:
        raise Refused(
            f"The head {head.name} was made on fingerprints of another model "
            f"({head.model_digest[:12]}) than this one ({model_digest[:12]}).",
            reason="model",
            do="Make it again with the present release: fedprint-node personalise."
            + if_packaged(head.model_digest, command),
        )


def _path(home: NodeHome, name: str) -> Path:
    if not name or not set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-"):
        raise OurMistake("A name has small letters, digits and hyphens.")
    return home.personal / f"{name}.json"


def _classes(values: Sequence[str | float]) -> tuple[Array, tuple[str, ...], Mapping[str, int]]:
    words = [f"{value:g}" if isinstance(value, float) else value for value in values]
    classes = tuple(sorted(set(words)))
    counts = {one: words.count(one) for one in classes}
    if len(classes) < 2:
        raise Refused(
            "All labelled patients are of one class: there is nothing to tell apart.",
            reason="classes",
            do="Label patients of another class, too.",
        )
    if len(classes) > MOST_CLASSES or min(counts.values()) < FEWEST_OF_A_CLASS:
        raise Refused(
            f"There are {len(classes)} classes (at most {MOST_CLASSES}), and the smallest has "
            f"{min(counts.values())} patients (at least {FEWEST_OF_A_CLASS}): {named(counts)}.",
            reason="classes",
            do="Join small classes, or label more patients.",
        )
    return np.array([float(classes.index(word)) for word in words]), classes, counts


def _floats(values: Array) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _said(figure: linear_heads.Figure) -> dict[str, object]:
    fields = (figure.value, figure.low, figure.high, figure.reference)
    value, low, high, reference = (x if np.isfinite(x) else None for x in fields)
    return {
        "name": figure.name, "value": value, "low": low, "high": high, "reference": reference,
    }  # fmt: skip


def described(head: PersonalHead) -> dict[str, object]:
    """What a head is, for screen and JSON: no weights, nothing of one patient."""
    hidden = {"mean", "scale", "weights", "offset", "far_mean", "far_factor"}
    told: dict[str, object] = json.loads(head.model_dump_json(exclude=hidden))
    return {**told, "abstains": head.far_words}
