"""Truths out of a recording's own labels; a word that is not known is no truth, never a "no".

Numbers outside what a living patient has (a pressure in kPa, a rate of 0) are not known either.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from client.records import Recording
from simulations.probes.task import number, sex_of, word_of

NOT_KNOWN = float("nan")
SBP_MMHG, DBP_MMHG = 140.0, 90.0
"""Stage 1 begins here (JNC-7, doi 10.1161/01.HYP.0000107251.49515.c2)."""
AGES, RATES_BPM, SBPS_MMHG, DBPS_MMHG = (0.0, 120.0), (20.0, 300.0), (50.0, 300.0), (20.0, 200.0)
"""What is believed."""
NUMBERS = frozenset({"age", "hr", "sbp", "dbp"})
"""Labels that are numbers, never words."""
_STAGE = re.compile(r"stage\s*[1-3]( hypertension)?")
_BELOW = frozenset({"normal", "normotensive", "prehypertension", "pre-hypertension", "elevated"})
_YES = frozenset({"1", "1.0", "1,0", "yes", "y", "true"})
_NO = frozenset({"0", "0.0", "0,0", "no", "n", "false"})
"""Not "none": in a table of recordings it is an empty cell (`client.labels.MISSING`)."""
_AF = frozenset({"af", "afib", "atrial fibrillation"})
_NOT_AF = frozenset({"n", "nsr", "sr", "normal", "sinus", "sinus rhythm", "normal sinus rhythm"})


def _within(value: float, limits: tuple[float, float]) -> float:
    return value if limits[0] <= value <= limits[1] else NOT_KNOWN


def _yes_or_no(word: str, yes: frozenset[str] = _YES, no: frozenset[str] = _NO) -> float:
    word = word.casefold()
    return 1.0 if word in yes else 0.0 if word in no else NOT_KNOWN


def hypertension(recording: Recording) -> float:
    """1: stage 1 or 2; 0: less; NaN: not known.

    Label `hypertension` as a stage ("Stage 1 hypertension", "stage2"), as words for less, or as yes
    and no; where there is none, labels `sbp` and `dbp` in mmHg.
    """
    word = word_of(recording, "hypertension").casefold()
    if word:
        if _STAGE.fullmatch(word):
            return 1.0
        return _yes_or_no(word, _YES | {"hypertension", "hypertensive"}, _BELOW | _NO)
    sbp = _within(number(recording, "sbp"), SBPS_MMHG)
    dbp = _within(number(recording, "dbp"), DBPS_MMHG)
    if math.isnan(sbp + dbp) or dbp >= sbp:
        return NOT_KNOWN
    return float(sbp >= SBP_MMHG or dbp >= DBP_MMHG)


def atrial_fibrillation(recording: Recording) -> float:
    """1, 0 or NaN (not known): label `af` as yes or no, or label `rhythm` of the whole recording,
    AF or sinus; other rhythms are not asked about."""
    word = word_of(recording, "af")
    if word:
        return _yes_or_no(word, _YES | _AF, _NO | _NOT_AF)
    return _yes_or_no(word_of(recording, "rhythm"), _AF, _NOT_AF)


def true_alarm(recording: Recording) -> float:
    """1, 0 or NaN (not known): label `vt_true`."""
    return _yes_or_no(word_of(recording, "vt_true"))


def acceptable(recording: Recording) -> float:
    """1, 0 or NaN (not known): label `acceptable`."""
    return _yes_or_no(word_of(recording, "acceptable"))


def is_male(recording: Recording) -> float:
    """1, 0 or NaN (not known)."""
    return {"M": 1.0, "F": 0.0}.get(sex_of(recording), NOT_KNOWN)


def age(recording: Recording) -> float:
    """Years; NaN if not known."""
    return _within(number(recording, "age"), AGES)


def heart_rate(recording: Recording) -> float:
    """Label `hr` in bpm: of the recording, or measured beside it; NaN if not known."""
    return _within(number(recording, "hr"), RATES_BPM)


def mean_rate(recording: Recording) -> float:
    """`heart_rate`; where that is not known, the mean of a reference device's rates (series
    `hr_reference_bpm`) over the recording."""
    stated = heart_rate(recording)
    if not math.isnan(stated):
        return stated
    rates = [float(one) for one in recording.series.get("hr_reference_bpm", ())]
    believed = [one for one in rates if RATES_BPM[0] <= one <= RATES_BPM[1]]
    return sum(believed) / len(believed) if believed else NOT_KNOWN


SAID_IN: dict[Callable[[Recording], float], tuple[str, ...]] = {
    hypertension: ("hypertension", "sbp", "dbp"),
    atrial_fibrillation: ("af", "rhythm"),
    true_alarm: ("vt_true",),
    acceptable: ("acceptable",),
    is_male: ("sex",),
    age: ("age",),
    heart_rate: ("hr",),
    mean_rate: ("hr",),
}
"""Labels of which each makes its truth."""


def not_understood(
    count: int, labels: Sequence[str], *, one: str = "patient says", more: str = "patients say"
) -> str:
    """That so many patients have these labels in other words, without the words."""
    who = f"{count} {one if count == 1 else more}"
    return (
        f"what {who} of {', '.join(labels)} is not understood (docs/probes.md has the words that "
        "are)"
    )


class Heard:
    """Truths of recordings as they are read, and how many patients say what is not understood.

    heard = Heard(is_male)
    heard(recording)     # 1, 0 or NaN
    heard.words          # "what 2 patients say of sex is not understood (...)"
    """

    def __init__(self, read: Callable[[Recording], float]) -> None:
        self._read, self._labels = read, SAID_IN.get(read, ())
        self._known: set[str] = set()
        self._unknown: dict[str, set[str]] = {}

    def __call__(self, recording: Recording) -> float:
        """The truth of one; NaN if not known."""
        truth = self._read(recording)
        if not math.isnan(truth):
            self._known.add(recording.patient)
        elif any(word_of(recording, label) for label in self._labels):
            self._unknown.setdefault(recording.patient, set()).add(recording.digest)
        return truth

    @property
    def unknown(self) -> bool:
        """Whether any recording says what is not understood."""
        return bool(self._unknown)

    @property
    def words(self) -> str:
        """Of patients no recording of whom has a truth, and of recordings of others; "" if there
        are none."""
        lost = self._unknown.keys() - self._known
        others = sum(len(self._unknown[one]) for one in self._unknown.keys() & self._known)
        said = [not_understood(len(lost), self._labels)] if lost else []
        if others:
            one, more = "recording of another patient says", "recordings of other patients say"
            said.append(not_understood(others, self._labels, one=one, more=more))
        return "; ".join(f"{one}: left out" for one in said)
