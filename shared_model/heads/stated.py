"""Figures as a manifest states them: closed names, each with its range. Pure.

    Figure.of("AUROC", 0.7, 0.6, 0.8)             # its interval holds the value

A manifest may come from anybody: a figure that cannot be, as an AUROC of 7 or one outside its own
interval, is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

FEWEST_IN_GROUP = 20
"""Patients below which a group's figures are not given."""
BY_SEX = ("female", "male", "sex not known")
AGES = ((0, 40, "under 40 years"), (40, 65, "40 to 64 years"), (65, 200, "65 years and over"))
"""From, below, name."""
BY_AGE = (*(name for _, _, name in AGES), "age not known")
NOISY_FIGURES = ("AUROC (from 20 bins)", "accuracy", "share of the largest class")
ERROR_OF_SAME = "error of always the same answer"
ACCURACY_OF_SAME = "accuracy of always the same answer"
"""That answer is of patients trained on: their median, or their largest class."""
OWN_MEDIAN = "error of their own median"
"""Of those measured: no answer that anybody has before. Before format 4 `OF_MEDIAN`."""
OF_MEDIAN = "error of the median"
SINCE_FORMAT_4 = {ERROR_OF_SAME, ACCURACY_OF_SAME, OWN_MEDIAN}
OF_A_HISTOGRAM = "mean absolute error (at most "
"""How the name of the other figure of a noisy histogram begins; the largest error follows."""

SHARES = (
    "AUROC", "AUROC (from 20 bins)", "accuracy", "accuracy where answered", "answered",
    ACCURACY_OF_SAME,
    "share of the largest class", "truth in the set", "within the band", "calibration error",
    "equal error rate", "false-accept rate", "false-reject rate",
)  # fmt: skip
"""Names of figures from 0 to 1."""
ERRORS = ("mean absolute error", ERROR_OF_SAME, OWN_MEDIAN, OF_MEDIAN)
"""Names of figures from 0 on, of the number's unit."""
OF_A_CLASS = "truth in the set, "
OF_KIND = {
    "classes": {
        "AUROC", "AUROC (from 20 bins)", "accuracy", "accuracy where answered", "answered",
        ACCURACY_OF_SAME, "share of the largest class", "truth in the set",
    },
    "number": {*ERRORS, "correlation", "within the band"},
    "identity": {"AUROC", "equal error rate", "false-accept rate", "false-reject rate"},
}  # fmt: skip
"""Names of figures by the head's kind, of all formats, but for those of a class and of a number's
histogram."""

LONGEST_NAME = 64
"""A longer one of a class is cut."""
Name = Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9][A-Za-z0-9 .,_()+-]{0,63}\z")]
Words = Annotated[str, StringConstraints(pattern=r"\A([A-Za-z0-9(/.?][ -;=?-Z^_a-{}]{0,599})?\z")]
"""Printable ASCII without backtick, tilde, bar, backslash, square and angle brackets: nothing that
makes a link, a picture, a fence or a cell of a card. They begin with a letter, a digit, an opening
bracket, or as paths do: nothing that makes a heading, a list or a rule."""
Finite = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Strict(BaseModel):
    """No coercion, no unknown fields, no change after it is made."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Figure(Strict):
    """A measured figure with its 95 % interval, bootstrap over patients or, of a noisy histogram,
    over its noise and the chance of patients; None: not estimable."""

    name: Name
    value: Finite
    low: Finite | None
    high: Finite | None

    @classmethod
    def of(cls, name: str, value: float, low: float | None, high: float | None) -> Figure:
        """A figure whose interval holds its value: a bootstrap of few patients may miss it."""
        return cls(
            name=name,
            value=value,
            low=None if low is None else min(low, value),
            high=None if high is None else max(high, value),
        )

    @model_validator(mode="after")
    def _can_be(self) -> Figure:
        ordered(self.value, self.low, self.high)
        least, most = range_of(self.name)
        known = [one for one in (self.value, self.low, self.high) if one is not None]
        if min(known) < least or max(known) > most:
            raise ValueError("a figure is in the range of its kind")
        return self


def ordered(value: float, low: float | None, high: float | None) -> None:
    """Raises ValueError where an interval does not hold its value."""
    if (low is not None and low > value) or (high is not None and high < value):
        raise ValueError("an interval holds its value")


def range_of(name: str) -> tuple[float, float]:
    """Least and most that a figure of this name can be.

    Raises:
        ValueError: no head has a figure of this name.
    """
    if name in SHARES or name.startswith(OF_A_CLASS):
        return 0.0, 1.0
    if name in ERRORS or name.startswith(OF_A_HISTOGRAM):
        return 0.0, float("inf")
    if name == "correlation":
        return -1.0, 1.0
    raise ValueError("no head has a figure of this name")


def named_of_kind(names: Sequence[str], kind: str, classes: Sequence[str], version: int) -> None:
    """Raises ValueError where a figure is named twice, or is none of a head of this kind and
    manifest format."""
    of_classes = {f"{OF_A_CLASS}{name}"[:LONGEST_NAME] for name in classes}
    of_others = SINCE_FORMAT_4 if version < 4 else {OF_MEDIAN}
    others = set(names) - (OF_KIND[kind] - of_others) - of_classes
    if kind == "number":
        others = {name for name in others if not name.startswith(OF_A_HISTOGRAM)}
    if others or len(set(names)) != len(names):
        raise ValueError("figures are named once, and are those of the head's kind and format")


def of_a_histogram(name: str) -> bool:
    """Whether a noisy histogram can tell a figure of this name."""
    return name in NOISY_FIGURES or name.startswith(OF_A_HISTOGRAM)


def says_something(text: str) -> bool:
    """Whether words are more than blanks and signs: a reason, or who decided."""
    return any(one.isalpha() for one in text)


class Group(Strict):
    """Figures of some of the patients; none, and why, where they are too few."""

    name: Name
    figures: Annotated[tuple[Figure, ...], Field(max_length=16)]
    why_none: Words


class Bin(Strict):
    """One bin of the reliability diagram: share of the items, mean confidence, accuracy."""

    share: Share
    confidence: Share
    accuracy: Share


class CurvePoint(Strict):
    """A point of a curve, with an interval over patients where there is one.

    x: share answered, or false-accept rate. y: accuracy of the answers, or false-reject rate.
    """

    x: Share
    y: Share
    low: Share | None
    high: Share | None

    @model_validator(mode="after")
    def _can_be(self) -> CurvePoint:
        ordered(self.y, self.low, self.high)
        return self
