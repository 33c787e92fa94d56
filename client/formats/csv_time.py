"""Which column of a CSV file is its time axis, by its name."""

from __future__ import annotations

import re

UNIT_FACTOR = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_TIME_NAMES = (
    "time_s",
    "time",
    "t",
    "seconds",
    "sec",
    "time_ms",
    "timestamp",
    "elapsed_s",
    "elapsed",
    "time_us",
)
_TIME_UNIT = re.compile(r"^(?P<name>.*?)\s*[\[(]\s*(?P<unit>m?s|us|sec|seconds)\s*[\])]$")
_TIME_WORD = re.compile(
    rf"^(?:(?:time|zeit|temps|tiempo)[_ ](?P<behind>m?s|[uµμ]s|sec|seconds)"
    rf"|(?:{'|'.join(_TIME_NAMES)}|zeit|temps|tiempo|tempo)\s*"
    r"[\[(]\s*(?P<within>m?s|[uµμ]s|sec|seconds)\s*[\])])$"
)


def time_column(columns: tuple[str, ...]) -> tuple[str, str] | None:
    """Name and unit of the column that looks like the time axis, if any."""
    sure = sure_time_column(columns)
    if sure is not None:
        return sure
    for column in columns:
        found = _TIME_WORD.match(column.strip().casefold())
        if found:
            unit = (found["behind"] or found["within"]).replace("µ", "u").replace("μ", "u")
            return column, unit if unit in UNIT_FACTOR else "s"
    return None


def sure_time_column(columns: tuple[str, ...]) -> tuple[str, str] | None:
    """A time axis even beside a column that names recordings."""
    flat = {column.strip().casefold(): column for column in reversed(columns)}
    for name in _TIME_NAMES:
        if name in flat:
            unit = "ms" if name.endswith("_ms") else "us" if name.endswith("_us") else "s"
            return flat[name], unit
    for low, column in flat.items():
        found = _TIME_UNIT.match(low)
        if found and found["name"] in _TIME_NAMES:
            return column, found["unit"] if found["unit"] in UNIT_FACTOR else "s"
    return None
