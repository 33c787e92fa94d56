"""Labels: only columns that the mapping names, and of these nothing that identifies."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

from client.identifiers import kind_of_column, kinds_in
from client.mapping import Mapping

MAXIMUM_LENGTH = 64
MISSING = frozenset({"", "nan", "na", "n/a", "null", "none", "-", "--", "?", "#n/a"})
_DECIMAL_COMMA = re.compile(r"[+-]?(?:0,[0-9]+|[1-9][0-9]{0,2},[0-9]{1,2})")


def plain_spaces(text: str) -> str:
    """One plain space for all spaces in a row, none at the ends. Spreadsheets write no-break and
    other spaces (Unicode's Zs) that no eye tells apart; what is none stays, tabs and controls too.
    """
    plain = ("".join(" " if unicodedata.category(one) == "Zs" else one for one in text)).strip()
    return " ".join(filter(None, plain.split(" ")))


def as_number(text: str) -> float:
    """A cell where a number is asked for; NaN if it is none.

    "63,5" is one; "1,234" may be a thousand, "03,32" and "03,1932" are months of birth, and a list
    of codes ("1,2,3") is none.
    """
    try:
        return float(text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text)
    except ValueError:
        return math.nan


def label_value(value: Any) -> str | float | None:
    """A cell as a label: a finite number, a short text, or None for what is missing or too long.

    With a decimal comma it stays the text that it is: codes ("1,2" and "1,20") are no numbers. Who
    asks for a number reads it with `as_number`.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        return float(value)
    text = plain_spaces(str(value))
    if text.casefold() in MISSING or len(text) > MAXIMUM_LENGTH or not text.isprintable():
        return None
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else None


def is_identifying(column: str, value: Any) -> bool:
    """True if a column's name or a cell's value is an identifier."""
    return kind_of_column(column) is not None or bool(kinds_in(plain_spaces(str(value))))


def labels_of(cells: dict[str, Any], mapping: Mapping) -> dict[str, str | float]:
    """Labels of one recording, by the names that the mapping gives them. A named column that
    identifies is dropped (the scan reports it)."""
    own = {mapping.patient_column, mapping.recording_column}
    labels: dict[str, str | float] = {}
    for column in mapping.labels:
        value = label_value(cells.get(column))
        if (
            value is not None
            and column not in own
            and not is_identifying(column, cells.get(column))
        ):
            labels[mapping.label_names.get(column, column)] = value
    return labels
