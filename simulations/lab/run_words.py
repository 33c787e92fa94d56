"""What the rounds of a run say of it in words, and whether hospitals would have gone on with it.

Hospitals refuse a model beyond the bounds of `shared_model.weight_bounds`. The lab is for looking
at such models, too (an attack may make one on purpose): it goes on, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from shared_model.errors import Refused
from shared_model.weight_bounds import check_bounds
from shared_model.weights import Weights

Row = Mapping[str, Any]


def refusal_of(weights: Weights) -> str | None:
    """With what words hospitals would refuse to train from this model; None: they would train."""
    try:
        check_bounds(weights)
    except Refused as error:
        return error.message
    return None


def refused(rounds: Sequence[Row], start: str | None = None) -> tuple[int, str] | None:
    """The first round that hospitals would refuse, and their words; None: there is none.

    Args:
        rounds: rows of rounds.parquet; `refusal` is of the model that the round made.
        start: `refusal_of` the model that the run began with.
    """
    if start is not None:
        return 1, start
    made = ((int(row["round"]) + 1, row.get("refusal")) for row in rounds)
    return next(((number, words) for number, words in made if words is not None), None)


def refused_words(found: tuple[int, str]) -> str:
    """For people: what it means for the figures."""
    number, words = found
    return (
        f"HOSPITALS WOULD REFUSE THIS MODEL FROM ROUND {number} ON. {words} Deployed, the run ends "
        "there; the lab goes on all the same."
    )


def said(rounds: Sequence[Row], epsilon: float | None, found: tuple[int, str] | None) -> list[str]:
    """What must be said beside every figure of a run that has ended.

    Args:
        epsilon: the largest that a hospital spent. found: as of `refused`.
    """
    few = sum(row["outcome"] != "aggregated" for row in rounds)
    words = [] if found is None else [refused_words(found)]
    if few:
        words.append(f"{few} of {len(rounds)} rounds had too few survivors: spent, not summed.")
    if epsilon is not None and not math.isfinite(epsilon):
        words.append("Epsilon is infinite: with so little noise nothing is promised.")
    return words
