"""The file of labels that a hospital gives: CSV, one patient a row. Hostile until read.

    labels = read_labels(path, key, column="af")

A word is the same with whatever spaces (`labels.plain_spaces`): a no-break space makes no class.
An empty cell is no label; any word is one, "none" and "-" too, but for those that the hospital
itself says are missing. (The labels of recordings, `client.labels`, are another matter: nobody
asked for their columns.) An identifier becomes a pseudonym at once, and it is in no error; of a
label no more than `personal_words.named` tells.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from client.labels import MAXIMUM_LENGTH, is_identifying, plain_spaces
from client.personal_words import refuse_decimal_commas, refuse_spellings, refuse_unsaid
from client.pseudonyms import pseudonym_of, same_patient
from shared_model.errors import DataFault, OurMistake
from shared_model.files import read_regular

LARGEST_BYTES = 16 * 1024 * 1024
MOST_ROWS = 1_000_000
PATIENT_COLUMNS = ("patient", "patient_id", "pseudonym")
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_PSEUDONYM = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Labels:
    """By pseudonym; unlabelled: rows without a patient, without a label or with a missing one."""

    column: str
    values: dict[str, str | float] = field(repr=False)
    unlabelled: int = 0


def read_labels(
    path: Path,
    key: bytes,
    column: str | None = None,
    patient_column: str | None = None,
    *,
    missing: Iterable[str] = (),
    kind: str | None = None,
) -> Labels:
    """Labels by pseudonym.

    Args:
        key: of the pseudonyms. column: of the labels; by default the only one beside the patient.
        patient_column: by default the one of `PATIENT_COLUMNS` that is there. What it holds are
            identifiers as in the recordings; in a column "pseudonym", pseudonyms.
        missing: words that are no label, in capitals or small letters; numbers as numbers.
        kind: as asked for; "class" takes numbers with a decimal comma for words.

    Raises:
        Refused: no regular file, or too large.
        DataFault: not UTF-8 CSV with commas, ragged rows, too many, a cell with a line end,
            characters that no screen shows, a patient with two different labels, numbers with a
            decimal comma, or a class spelled in two ways (cause "labels"); lines are named by
            number.
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
    no_label = {_folded(one) for one in map(_label, missing) if one is not None}
    try:
        written = next(reader, [])
        _refuse_separator(written)
        header = [plain_spaces(name) for name in written]
        who, what = _columns(header, _name(column), _name(patient_column))
        for number, row in enumerate(reader, start=2):
            if reader.line_num != number:
                raise _fault(f"has a cell with a line end, or a stray quote, in line {number}")
            if not row:
                continue
            if len(row) != len(header):
                raise _fault(f"has another number of cells in line {reader.line_num}")
            if reader.line_num > MOST_ROWS:
                raise _fault(f"has more than {MOST_ROWS} lines")
            value = _label(row[what])
            if value is None or _folded(value) in no_label or not same_patient(row[who]):
                unlabelled += 1
                continue
            _refuse_cell(row[what], header[what], reader.line_num)
            patient = _pseudonym(row[who], header[who], key, reader.line_num)
            if found.setdefault(patient, value) != value:
                raise _fault(f"gives a patient another label in line {reader.line_num}")
    except csv.Error:
        raise _fault(f"is not CSV in line {reader.line_num}") from None
    if kind != "class":
        refuse_decimal_commas(found.values())
    refuse_unsaid(found.values())
    refuse_spellings(found.values())
    return Labels(header[what], found, unlabelled)


def _refuse_separator(header: list[str]) -> None:
    if len(header) == 1:
        for mark, words in SEPARATORS.items():
            if mark in header[0]:
                raise _fault(f"is separated by {words}, not by commas")


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


def _refuse_cell(cell: str, column: str, line: int) -> None:
    if is_identifying(column, cell):
        raise OurMistake(
            "The column of the labels holds what identifies patients (names, dates, numbers).",
            do="Give a column of outcomes: words or numbers that many patients share.",
        )
    text = plain_spaces(cell)
    if len(text) > MAXIMUM_LENGTH:
        raise _fault(f"has a label of more than {MAXIMUM_LENGTH} characters")
    if not text.isprintable():
        raise _fault(f"has a label that no screen can show in line {line}")


def _label(cell: str) -> str | float | None:
    """A finite number, or the word, whatever it says; None: an empty cell."""
    text = plain_spaces(cell)
    try:
        number = float(text)
    except ValueError:
        return text or None
    return number if math.isfinite(number) else text


def _folded(value: str | float) -> str | float:
    return value.casefold() if isinstance(value, str) else value


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
        do="Give UTF-8 CSV with a header, commas between cells and numbers like 3.5: one row a "
        "patient, e.g. patient,af",
    )
