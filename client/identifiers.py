"""Finds what could identify a patient in headers, columns and file names, before cataloguing.

A finding says where and of what kind, never what: (file, field, kind, length). The scan prefers a
false alarm to a miss; that a miss does not leak rests on the reader, which carries no free text.
"""

from __future__ import annotations

import datetime
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from client import identifier_patterns as patterns
from client.formats.base import Text
from client.identifier_words import COLUMN_KINDS, GIVEN_NAMES, NOT_NAMES, PARTICLES, TITLES

if TYPE_CHECKING:
    from client.mapping import Mapping

KINDS = (
    "name",
    "birth-date",
    "exact-date",
    "recording-date",
    "record-number",
    "phone",
    "email",
    "address",
    "institution",
    "device",
    "network-address",
    "free-text",
    "private-tag",
)
"""Kinds of findings. "exact-date": a date that may be a birth date or an event of the patient."""
_MAXIMUM_SCANNED = 4096
_PERSON_KEYS = frozenset({"patient", "pat", "pt", "name", "subject", "proband"})
_TITLE = re.compile(rf"(?<!\w)(?:{'|'.join(TITLES)})\.?\s+[^\W\d_]{{2,}}", re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """Something that identifies a patient: where it stands and of what kind. Never the value."""

    file: str
    field: str
    kind: str
    length: int


def kinds_in(text: str) -> frozenset[str]:
    """Kinds of identifiers that a text holds, e.g. {"name", "birth-date"}."""
    text = unicodedata.normalize("NFKC", text[:_MAXIMUM_SCANNED]).strip()
    if not text or patterns.DECIMAL.match(text):
        return frozenset()
    found = _date_kinds(text)
    undated = text
    for pattern in patterns.DATES:
        undated = pattern.sub(" ", undated)
    tests = (
        ("email", bool(patterns.EMAIL.search(text))),
        ("network-address", bool(patterns.NETWORK.search(text))),
        ("record-number", bool(patterns.KEYED_NUMBER.search(undated))),
        ("record-number", any(pattern.search(undated) for pattern in patterns.NUMBERS)),
        ("phone", bool(patterns.PHONE.search(undated))),
        ("address", bool(patterns.ADDRESS.search(undated))),
        ("name", _has_name(text)),
    )
    return frozenset(found | {kind for kind, hit in tests if hit})


def kind_of_column(name: str) -> str | None:
    """Kind of identifier that a column of this name holds, None for a harmless name."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = [word for word in re.split(r"[\W\d_]+", spaced.casefold()) if word]
    joined = "".join(words)
    for kind, (whole, single) in COLUMN_KINDS.items():
        if joined in whole or any(part in joined for part in whole if len(part) >= 7):
            return kind
        if any(word in single for word in words):
            return kind
    return None


def kinds_in_file_name(name: str) -> frozenset[str]:
    """Kinds of identifiers in the name of a file, a folder or a recording."""
    stem = PurePosixPath(name).stem if re.search(r"\.[A-Za-z]\w{0,7}$", name) else name
    found = set(kinds_in(stem)) | set(kinds_in(stem.replace("_", " ")))
    spaced = re.sub(r"(?<=[a-zß-ÿ])(?=[A-ZÀ-Þ])|(?<=[A-Z])(?=[A-Z][a-z])", " ", stem)
    words = [word for word in re.split(r"[\W\d_]+", spaced) if word]
    plain = [word.casefold() for word in words]
    for first, second in pairwise(plain):
        unknown = not {first, second} & NOT_NAMES
        if unknown and min(len(first), len(second)) >= 3:
            found.add("name")
        if first in _PERSON_KEYS and len(second) >= 2 and second not in NOT_NAMES:
            found.add("name")
    for word, low in zip(words, plain, strict=True):
        capitalised = len(word) >= 4 and word[0].isupper() and word[1:].islower()
        if low in GIVEN_NAMES or (capitalised and low not in NOT_NAMES):
            found.add("name")
    return frozenset(found)


def find_in_texts(file: str, texts: Iterable[Text]) -> tuple[Finding, ...]:
    """Findings of a file's texts, each (field, kind) once with the greatest length."""
    found: dict[tuple[str, str], int] = {}
    for text in texts:
        value = text.value.strip()
        for kind in _kinds_of(text, value) if value else ():
            found[text.where, kind] = max(found.get((text.where, kind), 0), len(value))
    return tuple(
        Finding(file, where, kind, length) for (where, kind), length in sorted(found.items())
    )


def _kinds_of(text: Text, value: str) -> frozenset[str]:
    """Kinds by the place of a text and by its value."""
    if text.hint == "recording-date":
        return frozenset({text.hint})
    hinted = frozenset({text.hint}) if text.hint else frozenset()
    if text.where == "column name":
        named = kind_of_column(value)
        return (kinds_in(value) - {"name", "address"}) | (frozenset({named}) if named else hinted)
    if text.where == "recording name":
        return kinds_in_file_name(value)
    if text.where.startswith("column "):
        named = kind_of_column(text.where.removeprefix("column "))
        return frozenset({named}) if named else kinds_in(value)
    if text.where.startswith("signal "):
        return kinds_in(value) - {"address", "phone"}
    if text.where.startswith(("comment", "patient field")):
        hinted |= {"name"} if _has_unknown_capital(value) else set()
        hinted |= {"record-number"} if re.search(r"(?<![\d.])\d{5,}(?!\.?\d)", value) else set()
    implied = {"exact-date", "record-number"} if text.hint == "birth-date" else set()
    return (kinds_in(value) - implied) | hinted


def safe_name(relative: str, number: int) -> str:
    """The file's name for messages, "file N (name withheld)" if the name itself identifies."""
    parts = PurePosixPath(relative).parts
    if any(kinds_in_file_name(part) for part in parts) or not relative.isprintable():
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
    """All findings of a file or folder, each once, in order of the files. Stores nothing.

    Raises OurMistake if `path` is neither a file nor a folder.
    """
    from client.records import read_folder

    found: dict[Finding, None] = {}
    for item in read_folder(path, mapping):
        found.update(dict.fromkeys(item.findings))
    return list(found)


def _date_kinds(text: str) -> set[str]:
    if patterns.BIRTH_YEAR.search(text):
        return {"birth-date"}
    for pattern in patterns.DATES:
        for match in pattern.finditer(text):
            parts = match.groupdict()
            day, month = parts.get("d"), parts.get("m")
            if day is None or month is None or _exists(int(parts["y"]), int(month), int(day)):
                return {"birth-date"} if patterns.BIRTH.search(text) else {"exact-date"}
    return set()


def _exists(year: int, month: int, day: int) -> bool:
    try:
        datetime.date(year if year > 99 else 2000, month, day)
    except ValueError:
        return False
    return True


def _has_name(text: str) -> bool:
    keyed = patterns.KEYED_NAME.search(text)
    if keyed and any(
        word.casefold() not in NOT_NAMES for word in patterns.WORD.findall(keyed["value"])
    ):
        return True
    named = patterns.PERSON.search(text)
    if named and named["value"][0].isupper() and named["value"].casefold() not in NOT_NAMES:
        return True
    if patterns.FAMILY_GIVEN.search(text) or patterns.CASELESS.search(text) or _TITLE.search(text):
        return True
    chunks = re.split(r"[^\w\s'’.,\-]+|\d+", text.replace("_", " "))
    return any(_is_name_run(patterns.WORD.findall(chunk)) for chunk in chunks)


def _has_unknown_capital(text: str) -> bool:
    """A capitalised word that is no word of the trade: enough in a comment, where names stand."""
    words = patterns.WORD.findall(text.replace("_", " "))
    return any(
        len(word) >= 4 and word[0].isupper() and word.casefold().rstrip(".") not in NOT_NAMES
        for word in words
    )


def _is_name_run(words: list[str]) -> bool:
    """A frequent given name, or two capitalised words in a row that are no words of the trade."""
    run = 0
    for word in words:
        low = word.casefold().rstrip(".")
        if low in GIVEN_NAMES and (word[0].isupper() or len(words) > 1):
            return True
        if low in PARTICLES:
            continue
        if low in NOT_NAMES or not word[0].isupper():
            run = 0
            continue
        run += 1
        if run >= 2:
            return True
    return False
