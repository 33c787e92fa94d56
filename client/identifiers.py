"""Finds what could identify a patient in headers, columns and file names, before anything is catalogued.

A finding says where and of what kind, never what: (file, field, kind, length). The scan prefers a false
alarm to a miss; that a miss does not leak rests on the reader, which carries no free text further.
"""

from __future__ import annotations

import datetime
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from client.formats.base import Text
from client.identifier_words import COLUMN_KINDS, GIVEN_NAMES, NOT_NAMES, TITLES
from client.mapping import Mapping

KINDS = (
    "name", "birth-date", "exact-date", "recording-date", "record-number", "phone", "email", "address",
    "institution", "device", "network-address", "free-text", "private-tag",
)  # fmt: skip
_MINIMUM_DIGITS = 6
"""Whole numbers of this many digits or more are taken for record numbers."""
_MAXIMUM_SCANNED = 4096

_MONTH = r"(?:jan|feb|m[aä]r|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz])[a-zä]*"
_DATES = (
    re.compile(r"(?<!\d)(?P<y>(?:18|19|20)\d\d)[-./_ ]?(?P<m>0[1-9]|1[0-2])[-./_ ]?(?P<d>0[1-9]|[12]\d|3[01])(?!\d)"),
    re.compile(r"(?<!\d)(?P<d>0?[1-9]|[12]\d|3[01])[-./_ ](?P<m>0?[1-9]|1[0-2])[-./_ ](?P<y>(?:18|19|20)\d\d)(?!\d)"),
    re.compile(r"(?<!\d)(?P<m>0?[1-9]|1[0-2])[-./_ ](?P<d>0?[1-9]|[12]\d|3[01])[-./_ ](?P<y>(?:18|19|20)\d\d)(?!\d)"),
    re.compile(r"(?<!\d)(?P<d>0[1-9]|[12]\d|3[01])(?P<m>0[1-9]|1[0-2])(?P<y>(?:18|19|20)\d\d)(?!\d)"),
    re.compile(r"(?<!\d)(?:0?[1-9]|[12]\d|3[01])[./](?:0?[1-9]|1[0-2])[./](?P<y>\d\d)(?![\d.])"),
    re.compile(rf"(?<!\d)(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?[-./_ ]*{_MONTH}[-./_, ]*(?P<y>(?:18|19|20)?\d\d)(?!\d)", re.I),
    re.compile(rf"(?<![a-z]){_MONTH}[-./_ ]*(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?[-./_, ]+(?P<y>(?:18|19|20)\d\d)(?!\d)", re.I),
    re.compile(rf"(?<!\d)(?P<y>(?:18|19|20)\d\d)[-./_ ]*{_MONTH}[-./_ ]*(?:0?[1-9]|[12]\d|3[01])(?!\d)", re.I),
)  # fmt: skip
_BIRTH = re.compile(
    r"(?<![a-z])(?:dob|d\.o\.b|birth|born|geb(?:\.|oren|urt\w*)?(?![a-z])|naissance|nac(?:imiento|ido)|nascita|geboren)", re.I
)  # fmt: skip
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*")
_URL = re.compile(r"(?:https?|ftp)://\S+|(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])", re.I)
_SSN = re.compile(r"(?<!\d)\d{3}[- ]\d{2}[- ]\d{4}(?!\d)")
_NHS = re.compile(r"(?<!\d)\d{3}[- ]\d{3}[- ]\d{4}(?!\d)")
_KEYED_NUMBER = re.compile(
    r"(?<![a-z])(?:mrn|m\.r\.n|pat(?:ient)?[ _-]?(?:id|no|nr|number|num)|hospital[ _-]?(?:no|nr|number|id)|"
    r"medical[ _-]?record|record[ _-]?(?:no|nr|number|id)|chart[ _-]?(?:no|nr|number)?|case[ _-]?(?:no|nr|number|id)|"
    r"fall(?:nummer|nr|[ _-]nr)|accession|acc(?:[ _-]?no)|nhs|ssn|insurance|policy|kvnr|svnr|hicn|nir|bsn|cpr|pid|ahv)"
    r"[ _.:#=\-]*(?=[A-Za-z\d\-]*\d)[A-Za-z]{0,4}[- ]?\d[\w\-]{1,}",
    re.I,
)
_LETTER_NUMBER = re.compile(r"(?<![A-Za-z0-9])[A-Z]{1,4}[-_ ]?\d{6,12}(?!\d)")
_PHONE = re.compile(
    r"(?:(?:tel|phone|fon|fone|mobil\w*|cell|fax|call|handy)\.?\w*[ :._=-]*[+(]?\d[\d ()./-]{3,}\d)"
    r"|(?:\+\d{1,3}[ .()/-]?(?:\d[ .()/-]{0,2}){5,12}\d)"
    r"|(?:(?<![\d.])\(?0\d{1,5}\)?[ /-]\d{2,}(?:[ /-]?\d{2,})*(?!\d))"
    r"|(?:\(\d{3}\)[ -]?\d{3}[ -]?\d{4})|(?:(?<!\d)\d{3}[.-]\d{4}(?!\d))|(?:(?<!\d)\d{3}\.\d{3}\.\d{4}(?!\d))",
    re.I,
)
_STREET = r"(?:street|st|avenue|ave|road|rd|lane|ln|drive|dr|boulevard|blvd|court|ct|place|pl|square|sq|way|terrace|close|crescent)"
_ADDRESS = re.compile(
    rf"(?<!\w)\d{{1,5}}[a-z]?,? +(?:[A-Z][\w'.-]+ +){{1,4}}{_STREET}(?!\w)"
    r"|(?<!\w)[A-ZÄÖÜ][\wäöüß.-]*(?:[ -][A-ZÄÖÜa-z][\wäöüß.-]*){0,3}[ -]?(?:stra(?:ß|ss)e|str\.|weg|platz|allee|gasse|ring|ufer|damm)\s*\d+"
    r"|(?<!\w)(?:rue|avenue|boulevard|via|viale|piazza|calle|avenida|plaza|rua|ulica|ul\.)\s+[\w' .-]{2,40}"
    r"|(?<!\w)p\.? ?o\.? box +\d+"
    r"|(?<!\w)(?:address|adresse|anschrift|street|city|zip|postcode|plz|indirizzo|direcci[oó]n)\s*[:=]\s*\S+"
    r"|(?<!\w)[A-Z]{1,2}\d[A-Z\d]? \d[A-Z]{2}(?!\w)"
    r"|(?<!\w)[A-Z]{2} \d{5}(?:-\d{4})?(?!\w)",
    re.I | re.S,
)
_KEYED_NAME = re.compile(
    r"(?<![a-z])(?:(?:patient|pat|subject|sur|last|first|given|family|full|vor|nach|fore)?[ _-]?name|nom|prenom|prénom|nombre|"
    r"apellidos?|cognome|nome|patient|pt|pat|subject|proband|physician|doctor|operator|technician|nurse|arzt)"
    r"\s*[:=]\s*(?P<value>[^\d\s,;:=][^\d,;:=]+)",
    re.I,
)
_WORD = re.compile(r"[^\W\d_]+(?:['’\-.][^\W\d_]+)*\.?")
_DECIMAL = re.compile(r"^[+-]?\d*\.\d+(?:[eE][+-]?\d+)?$|^[+-]?\d+(?:\.\d*)?[eE][+-]?\d+$")
_PARTICLES = frozenset(
    "van von der den de la le du di da dos del el al bin ibn ben y e zu zur ter".split()
)


@dataclass(frozen=True)
class Finding:
    """Something that identifies a patient: where it stands and of what kind. Never the value."""

    file: str
    field: str
    kind: str
    length: int


def kinds_in(text: str) -> frozenset[str]:
    """Kinds of identifiers that a text holds, e.g. {"name", "birth-date"}."""
    text = unicodedata.normalize("NFC", text[:_MAXIMUM_SCANNED]).strip()
    if not text or _DECIMAL.match(text):
        return frozenset()
    found: set[str] = set()
    if _EMAIL.search(text):
        found.add("email")
    if _URL.search(text):
        found.add("network-address")
    found |= _date_kinds(text)
    without_dates = text
    for pattern in _DATES:
        without_dates = pattern.sub(" ", without_dates)
    if (
        _SSN.search(without_dates)
        or _NHS.search(without_dates)
        or _KEYED_NUMBER.search(without_dates)
    ):
        found.add("record-number")
    if _LETTER_NUMBER.search(without_dates) or _long_number(without_dates):
        found.add("record-number")
    if _PHONE.search(without_dates):
        found.add("phone")
    if _ADDRESS.search(text):
        found.add("address")
    if _has_name(text):
        found.add("name")
    return frozenset(found)


def kind_of_column(name: str) -> str | None:
    """Kind of identifier that a column of this name holds, None for a harmless name."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = [word for word in re.split(r"[^a-zäöüßéèáíóúñ]+", spaced.casefold()) if word]
    joined = "".join(words)
    for kind, (whole, single) in COLUMN_KINDS.items():
        if joined in whole or any(part in joined for part in whole if len(part) >= 7):
            return kind
        if any(word in single for word in words):
            return kind
    return None


def kinds_in_file_name(name: str) -> frozenset[str]:
    """Kinds of identifiers in a file's or folder's name, or in the name of a recording."""
    stem = PurePosixPath(name).stem if "." in name else name
    found = set(kinds_in(stem)) | set(kinds_in(re.sub(r"[_]+", " ", stem)))
    words = [
        word
        for word in re.split(r"[\W\d_]+", re.sub(r"(?<=[a-zß-ÿ])(?=[A-ZÀ-Þ])", " ", stem))
        if word
    ]
    plain = [word.casefold() for word in words]
    for first, second in zip(plain, plain[1:], strict=False):
        if (
            min(len(first), len(second)) >= 3
            and not {first, second} & NOT_NAMES
            and first.isalpha()
        ):
            found.add("name")
        if (
            first in {"patient", "pat", "pt", "name", "subject"}
            and len(second) >= 2
            and second not in NOT_NAMES
        ):
            found.add("name")
    if any(word in GIVEN_NAMES for word in plain):
        found.add("name")
    return frozenset(found)


def find_in_texts(file: str, texts: Iterable[Text]) -> tuple[Finding, ...]:
    """Findings of a file's texts, each (field, kind) once with the greatest length."""
    found: dict[tuple[str, str], int] = {}
    for text in texts:
        value = text.value.strip()
        if not value:
            continue
        kinds: frozenset[str]
        if text.where == "column name":
            kind = kind_of_column(value)
            kinds = kinds_in(value) - {"name", "address"} | ({kind} if kind else set())
        elif text.where.startswith("column "):
            kind = kind_of_column(text.where.removeprefix("column "))
            kinds = frozenset({kind}) if kind else kinds_in(value)
        elif text.where == "recording name":
            kinds = kinds_in_file_name(value)
        elif text.where.startswith("signal "):
            kinds = kinds_in(value) - {"address", "phone"}
        else:
            kinds = kinds_in(value)
        if text.hint and text.hint not in {"recording-date"}:
            kinds = kinds | {text.hint}
        elif text.hint:
            kinds = frozenset({text.hint})
        for kind in kinds:
            found[text.where, kind] = max(found.get((text.where, kind), 0), len(value))
    return tuple(
        Finding(file, where, kind, length) for (where, kind), length in sorted(found.items())
    )


def safe_name(relative: str, number: int) -> str:
    """The file's name for messages, or "file N (name withheld)" if the name itself identifies someone."""
    if (
        any(kinds_in_file_name(part) for part in PurePosixPath(relative).parts)
        or not relative.isprintable()
    ):
        return f"file {number} (name withheld)"
    return relative


def find_in_name(relative: str, shown: str) -> tuple[Finding, ...]:
    """Findings in a file's path below the folder that is read."""
    found: dict[str, int] = {}
    for part in PurePosixPath(relative).parts:
        for kind in kinds_in_file_name(part):
            found[kind] = max(found.get(kind, 0), len(part))
    return tuple(
        Finding(shown, "file name", kind, length) for kind, length in sorted(found.items())
    )


def scan(path: Path, mapping: Mapping | None = None) -> list[Finding]:
    """All findings of a file or folder, each once, in order of the files. Stores nothing."""
    from client.records import read_folder

    found: dict[Finding, None] = {}
    for item in read_folder(path, mapping):
        found.update(dict.fromkeys(item.findings))
    return list(found)


def _date_kinds(text: str) -> set[str]:
    for pattern in _DATES:
        for match in pattern.finditer(text):
            day, month = match.groupdict().get("d"), match.groupdict().get("m")
            year = int(match["y"])
            if day and month and not _exists(year, int(month), int(day)):
                continue
            return {"birth-date"} if _BIRTH.search(text) else {"exact-date"}
    return set()


def _exists(year: int, month: int, day: int) -> bool:
    try:
        datetime.date(year, month, day)
    except ValueError:
        return False
    return True


def _long_number(text: str) -> bool:
    for match in re.finditer(r"(?<![\d.])\d+(?![\d])(?!\.\d)", text):
        if len(match.group()) >= _MINIMUM_DIGITS:
            return True
    return bool(re.search(r"(?<![\d.-])\d{2,4}[- /]\d{2,4}[- /]\d{2,6}(?![\d.])", text))


def _has_name(text: str) -> bool:
    keyed = _KEYED_NAME.search(text)
    if keyed and any(word.casefold() not in NOT_NAMES for word in _WORD.findall(keyed["value"])):
        return True
    if re.search(r"[^\W\d]{2,}\^[^\W\d]{1,}", text):
        return True  # DICOM style, FAMILY^GIVEN
    if any(re.search(rf"(?<!\w){title}\.?\s+[^\W\d_]{{2,}}", text, re.I) for title in TITLES):
        return True
    run = 0
    for chunk in re.split(r"[^\w\s'’.,\-]+|\d+", text):
        words = _WORD.findall(chunk.replace("_", " "))
        run = 0
        for word in words:
            low = word.casefold().rstrip(".")
            if low in GIVEN_NAMES and (word[0].isupper() or len(words) > 1):
                return True
            initial = bool(re.fullmatch(r"[^\W\d_]\.?", word)) and word[0].isupper() and run > 0
            if low in NOT_NAMES or (low in _PARTICLES and run == 0):
                run = 0
            elif (word[0].isupper() and len(low) >= 2) or initial or low in _PARTICLES:
                run += 0 if low in _PARTICLES else 1
                if run >= 2:
                    return True
            else:
                run = 0
    return False
