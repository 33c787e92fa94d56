"""Truths out of a recording's own labels; a word that is not known is no truth, never a "no"."""

from __future__ import annotations

import re

from client.records import Recording
from simulations.probes.task import number, sex_of

NOT_KNOWN = float("nan")
SBP_MMHG, DBP_MMHG = 140.0, 90.0
"""Stage 1 begins here (JNC-7, doi 10.1161/01.HYP.0000107251.49515.c2)."""
_STAGE = re.compile(r"stage\s*[1-3]\b")
_BELOW = frozenset(
    {"normal", "normotensive", "prehypertension", "pre-hypertension", "elevated"}
)  # fmt: skip
_YES = frozenset({"1", "1.0", "yes", "y", "true"})
_NO = frozenset({"0", "0.0", "no", "n", "false", "none"})
_AF = frozenset({"af", "afib", "atrial fibrillation"})
_NOT_AF = frozenset({"n", "nsr", "sr", "normal", "sinus", "sinus rhythm", "normal sinus rhythm"})


def _word(recording: Recording, label: str) -> str:
    return " ".join(str(recording.labels.get(label, "")).split()).casefold()


def hypertension(recording: Recording) -> float:
    """1: stage 1 or 2; 0: less; NaN: not known.

    Label `hypertension` as a stage ("Stage 1 hypertension", "stage2"), as words for less, or as yes
    and no; where there is none, labels `sbp` and `dbp` in mmHg.
    """
    word = _word(recording, "hypertension")
    if word:
        if _STAGE.match(word) or word in _YES | {"hypertension", "hypertensive"}:
            return 1.0
        return 0.0 if word in _BELOW | _NO else NOT_KNOWN
    sbp, dbp = number(recording, "sbp"), number(recording, "dbp")
    if sbp >= SBP_MMHG or dbp >= DBP_MMHG:
        return 1.0
    return 0.0 if sbp < SBP_MMHG and dbp < DBP_MMHG else NOT_KNOWN


def atrial_fibrillation(recording: Recording) -> float:
    """1, 0 or NaN (not known): label `af` as yes or no, or label `rhythm` of the whole recording,
    AF or sinus; other rhythms are not asked about."""
    word = _word(recording, "af")
    if word:
        return 1.0 if word in _YES | _AF else 0.0 if word in _NO | _NOT_AF else NOT_KNOWN
    rhythm = _word(recording, "rhythm")
    return 1.0 if rhythm in _AF else 0.0 if rhythm in _NOT_AF else NOT_KNOWN


def is_male(recording: Recording) -> float:
    """1, 0 or NaN (not known)."""
    return {"M": 1.0, "F": 0.0}.get(sex_of(recording), NOT_KNOWN)


def age(recording: Recording) -> float:
    """Years; NaN if not known."""
    return number(recording, "age")


def heart_rate(recording: Recording) -> float:
    """Label `hr` in bpm: of the recording, or measured beside it; NaN if not known."""
    return number(recording, "hr")
