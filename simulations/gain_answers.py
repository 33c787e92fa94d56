"""What `gain` and `against-pooled` answer to the issue's bars, from the figures of a file alone.

The commands ask here when they write a file, and the results page asks again: of a file that older
rules made, the figures are shown, and its verdicts are not.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared_model import intervals
from simulations.lab.frontiers import with_ends

NONE = "none"
BARS = {"local": 0.4, "distributed": 0.7}
AUROC_BAR, MAE_BAR = 0.98, 1.03
AUROC = "AUROC"
UPPER = (
    "more than there was: the reference without privacy (unclipped, {ways}) was itself not at its "
    "best, so the share is an upper figure"
)
_MOVED = re.compile(r"moved mean skill by ([+-]\d+\.\d+)")
_ENDS_IN_WORDS = re.compile(r" \[(-?\d+), (-?\d+)\]")


def gain_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `gain` with their answer: `bar`, `reached` and `words` are made anew."""
    ways = Counter(row["measure"] for row in rows if row["mode"] == NONE)
    return [_answered(row, ways[row["measure"]]) for row in rows]


def _answered(row: Mapping[str, Any], ways: int) -> dict[str, Any]:
    share, mode = row["share"], row["mode"]
    bar = BARS.get(mode)
    if share is None:
        words = "no share: the runs without privacy do not gain"
        mean = row["gain"]["value"]
        if mode != NONE:
            words += f"; these {'lose' if mean < 0 else 'gain'} {abs(mean):.4f}"
    else:
        kept, ends = _percent(row)
        words = f"{kept} % of the gain kept ({row['seeds']} seeds){ends}"
        if is_upper(row):
            known = "one way of training measured" if ways == 1 else f"{ways} ways measured"
            words += f"; {UPPER.format(ways=known)}"
    reached = None if bar is None else bool(share is not None and share >= bar)
    return {**row, "bar": bar, "reached": reached, "words": words}


def is_upper(row: Mapping[str, Any]) -> bool:
    """Whether a private run keeps more than the runs without privacy gained."""
    return row["mode"] != NONE and row["share"] is not None and row["share"] > 1.0


def _percent(row: Mapping[str, Any]) -> tuple[str, str]:
    """A share and its interval in percent; files of before `share_interval` have the interval in
    their words only, rounded."""
    share = 100 * row["share"]
    if "share_interval" in row:
        ends = row["share_interval"]
        low, high = (None, None) if ends is None else (100 * ends[0], 100 * ends[1])
        shown, blank, between = intervals.words(share, low, high, 0).partition(" ")
        return shown, blank + between
    found = _ENDS_IN_WORDS.search(row.get("words", ""))
    between = found.group() if found else ""
    if found and found[1] == found[2]:
        between += " in whole percent, and the file has no more digits"
    return f"{share:.0f}", between


def pooled_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `against-pooled`, a task each: `ratio`, `bar` and `reached` are made anew.

    Of several seeds (`by_seed`) the figures are means, `ratio` the mean of each seed's, and
    `ratio_interval` is over seeds. Files of before `by_seed` hold the figures of one.
    """
    return [_held(row) for row in rows]


def _held(row: Mapping[str, Any]) -> dict[str, Any]:
    seeds = row.get("by_seed", [row])
    ratios = [one["federated"] / one["pooled"] for one in seeds]
    means = {
        side: math.fsum(one[side] for one in seeds) / len(seeds)
        for side in ("starting model", "federated", "pooled")
    }
    over_seeds = with_ends(ratios)
    ratio = float(over_seeds["value"] or 0.0)
    ranked = row["metric"] == AUROC
    return {
        **row,
        **means,
        "ratio": ratio,
        "ratio_interval": None if len(seeds) < 2 else over_seeds,
        "bar": f">= {AUROC_BAR:g}" if ranked else f"<= {MAE_BAR:g}",
        "reached": bool(ratio >= AUROC_BAR if ranked else ratio <= MAE_BAR),
    }


def _within(row: Mapping[str, Any]) -> bool:
    """Whether the whole interval over seeds is within the bar."""
    ends = row["ratio_interval"]
    return bool(ends["low"] >= AUROC_BAR if row["metric"] == AUROC else ends["high"] <= MAE_BAR)


def _beyond(row: Mapping[str, Any]) -> bool:
    """Whether the whole interval is beyond it."""
    ends = row["ratio_interval"]
    return bool(ends["high"] < AUROC_BAR if row["metric"] == AUROC else ends["low"] > MAE_BAR)


@dataclass(frozen=True)
class Pooled:
    """A federation against pooled training.

    ratios_reached: the bar as it is written, which looks at ratios alone. moved: mean skill of
    pooled training over the starting model's, with ends if of several seeds; None where the file
    cannot say. Without a gain both are the starting model still, and a ratio of 1 says nothing of
    federations.
    """

    words: str
    ratios_reached: bool
    moved: Mapping[str, Any] | None

    @property
    def gained(self) -> bool | None:
        """Whether skill moved up, of several seeds with all of its interval."""
        if self.moved is None:
            return None
        low = self.moved["low"]
        return bool((self.moved["value"] if low is None else low) > 0)

    @property
    def reached(self) -> bool | None:
        """Of ratios that say something."""
        return self.ratios_reached if self.gained else None

    @property
    def beside(self) -> str:
        """What must stand beside the answer of the ratios."""
        if self.gained:
            return ""
        if self.moved is None:
            return "the file does not say whether pooled training gained"
        nothing = "gained nothing" if self.moved["value"] <= 0 else "is not shown to have gained"
        return f"but pooled training {nothing}, so the comparison says nothing"


def pooled_answer(figures: Mapping[str, Any]) -> Pooled:
    """Of the figures of `against-pooled`: `rows`, and how far pooled training moved mean skill."""
    rows = pooled_rows(figures["rows"])
    held = sum(row["reached"] for row in rows)
    worst = min(rows, key=_margin)
    better = sum(_better(row) for row in rows)
    moved = _moved(figures)
    trained = figures.get("trained")  # absent in older files
    seeds = len(figures.get("seeds", [None]))
    over_seeds = "" if seeds == 1 else (
        f" by the mean of {seeds} seeds, {sum(map(_within, rows))} with all of the interval, "
        f"{sum(map(_beyond, rows))} beyond with all of it"
    )  # fmt: skip
    words = ("" if trained is None else f"{trained}: ") + (
        f"ratios within their bars: {held} of {len(rows)} tasks{over_seeds}; nearest to or "
        f"furthest beyond: {worst['task']}, ratio {_ratio(worst)}"
    )
    if moved is None:
        return Pooled(words, held == len(rows), None)
    words += (
        f"; pooled training moved mean skill by {moved_words(moved)} and is above the starting "
        f"model on {better} of {len(rows)} tasks"
    )
    return Pooled(words, held == len(rows), moved)


def moved_words(moved: Mapping[str, Any]) -> str:
    """How far mean skill moved, with the sign."""
    return intervals.words(moved["value"], moved["low"], moved["high"], 4, sign="+")


def _ratio(row: Mapping[str, Any]) -> str:
    ends = row["ratio_interval"] or {"low": None, "high": None}
    return intervals.words(row["ratio"], ends["low"], ends["high"])


def _margin(row: Mapping[str, Any]) -> float:
    ratio = float(row["ratio"])
    return ratio - AUROC_BAR if row["metric"] == AUROC else MAE_BAR - ratio


def _better(row: Mapping[str, Any]) -> bool:
    rise = row["pooled"] - row["starting model"]
    return bool(rise > 0 if row["metric"] == AUROC else rise < 0)


def _moved(figures: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Mean skill of the pooled model over the starting one's; older files have one figure without
    ends, or a sentence."""
    if "pooled_skill_gain_interval" in figures:
        return dict(figures["pooled_skill_gain_interval"])
    if "pooled_skill_gain" in figures:
        return with_ends([float(figures["pooled_skill_gain"])])
    found = _MOVED.search(" ".join(figures["in_words"]))
    return with_ends([float(found.group(1))]) if found else None
