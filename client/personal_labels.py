"""The file of labels that a hospital gives: CSV, one patient a row. Hostile until read.

    labels = read_labels(path, key, column="af")

A word is the same with whatever spaces (`labels.plain_spaces`): a no-break space makes no class.
An identifier becomes a pseudonym at once, and neither it nor a label is in any error.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, field
from pathlib import Path

from client.labels import MAXIMUM_LENGTH, MISSING, is_identifying, label_value, plain_spaces
from client.pseudonyms import pseudonym_of
from shared_model.errors import DataFault, OurMistake
from shared_model.files import read_regular

LARGEST_BYTES = 16 * 1024 * 1024
MOST_ROWS = 1_000_000
PATIENT_COLUMNS = ("patient", "patient_id", "pseudonym")
_PSEUDONYM = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Labels:
    """By pseudonym; unlabelled: rows with an empty or unusable label."""

    column: str
    values: dict[str, str | float] = field(repr=False)
    unlabelled: int = 0


def read_labels(
    path: Path, key: bytes, column: str | None = None, patient_column: str | None = None
) -> Labels:
    """Labels by pseudonym.

    Args:
        key: of the pseudonyms. column: of the labels; by default the only one beside the patient.
        patient_column: by default the one of `PATIENT_COLUMNS` that is there. What it holds are
            identifiers as in the recordings; in a column "pseudonym", pseudonyms.

    Raises:
        Refused: no regular file, or too large.
        DataFault: not UTF-8 CSV, ragged rows, too many, characters that no screen shows, or a
            patient with two different labels (cause "labels"); lines are named by number, values
            never.
        OurMistake: no such column, or one that identifies patients.
    """
    data = read_regular(path, LARGEST_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _fault("is not UTF-8 text") from None
    if "\x00" in text:
        raise _fault("has zero bytes")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    found: dict[str, str | float] = {}
    unlabelled = 0
    try:
        header = [plain_spaces(name) for name in next(reader, [])]
        who, what = _columns(header, _name(column), _name(patient_column))
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise _fault(f"has another number of cells in line {reader.line_num}")
            if reader.line_num > MOST_ROWS:
                raise _fault(f"has more than {MOST_ROWS} lines")
            value = _value(row[what], header[what], reader.line_num)
            if value is None or not row[who].strip():
                unlabelled += 1
                continue
            patient = _pseudonym(row[who], header[who], key, reader.line_num)
            if found.setdefault(patient, value) != value:
                raise _fault(f"gives a patient another label in line {reader.line_num}")
    except csv.Error:
        raise _fault(f"is not CSV in line {reader.line_num}") from None
    return Labels(header[what], found, unlabelled)


def _columns(header: list[str], column: str | None, patient: str | None) -> tuple[int, int]:
    if len(header) != len(set(header)) or not all(header):
        raise _fault("has a column without a name, or one twice")
    if not all(name.isprintable() for name in header):
        raise _fault("has a column whose name no screen can show")
    names = [patient] if patient else [one for one in PATIENT_COLUMNS if one in header]
    if not names or names[0] not in header:
        raise OurMistake(
            f"The labels have no column {patient or ' or '.join(PATIENT_COLUMNS)}.",
            do="Name the column of the patients with --patient-column.",
        )
    others = [name for name in header if name != names[0]]
    chosen = column or (others[0] if len(others) == 1 else None)
    if chosen is None or chosen not in others:
        raise OurMistake(
            "The labels have no such column."
            if column
            else f"The labels have {len(others)} columns beside the patients.",
            do="Say which holds the label, with --label COLUMN.",
        )
    return header.index(names[0]), header.index(chosen)


def _name(given: str | None) -> str | None:
    """As the header's names are read."""
    return None if given is None else plain_spaces(given)


def _value(cell: str, column: str, line: int) -> str | float | None:
    if is_identifying(column, cell):
        raise OurMistake(
            "The column of the labels holds what identifies patients (names, dates, numbers).",
            do="Give a column of outcomes: words or numbers that many patients share.",
        )
    text = plain_spaces(cell)
    if text.casefold() not in MISSING and len(text) > MAXIMUM_LENGTH:
        raise _fault(f"has a label of more than {MAXIMUM_LENGTH} characters")
    if not text.isprintable():
        raise _fault(f"has a label that no screen can show in line {line}")
    return label_value(cell)


def _pseudonym(cell: str, column: str, key: bytes, line: int) -> str:
    if column != "pseudonym":
        return pseudonym_of(key, cell)
    if not _PSEUDONYM.fullmatch(cell.strip()):
        raise _fault(f"has no pseudonym (32 small hexadecimal digits) in line {line}")
    return cell.strip()


def _fault(what: str) -> DataFault:
    return DataFault(
        f"The file of labels {what}.",
        cause="labels",
        do="Give UTF-8 CSV with a header: one row a patient, e.g. patient,af",
    )
