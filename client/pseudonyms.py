"""Patients under another name: keyed hashes whose key never leaves the node."""

from __future__ import annotations

import hmac
import os
import re
import unicodedata
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

from client.home import NodeHome
from client.labels import MISSING, plain_spaces
from shared_model.errors import OurMistake
from shared_model.signing import write_secret

KEY_BYTES = 32
PSEUDONYM_DIGITS = 32
"""128 bits of HMAC-SHA256 as lower-case hexadecimal."""
_NOBODY = MISSING | {"nil", ".", "<na>"}
_WHOLE = re.compile(r"([+-]?)([0-9]+)([.,]0*)?")
_THOUSAND = re.compile(r"[+-]?[0-9]{1,3}[.,]000")
"""1.000 may be one and may be a thousand."""
_POWER = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+[eE][+-]?[0-9]+|[eE]\+[0-9]{2,})")
"""As spreadsheets and databases write a long number: its last digits may be lost."""
SPELLING = 3
"""Of the rule by which an identifier becomes a name; grows when one becomes another name than
before. 1: 101.0 was another than 101. 2: 1.000 was 1 or a name, 1.2E7 a name."""
_IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
_EXACT = 2**53
"""From here on, several whole numbers are one float64."""


def load_or_create_key(home: NodeHome) -> bytes:
    """The node's pseudonym key; made from OS entropy at first use, mode 0600.

    Raises:
        OurMistake: the store has data but its key is gone, or the key file is damaged or readable
            by others.
    """
    path = home.pseudonym_key
    if not path.exists():
        if (home.store / "manifest.json").exists():
            raise OurMistake(
                "The window store exists but its pseudonym key is gone.",
                do=f"Restore {path} from backup; with a new key known patients would look new.",
            )
        home.make()
        write_secret(path, os.urandom(KEY_BYTES))
    return load_key(path)


def load_key(path: Path) -> bytes:
    """Read a pseudonym key.

    Raises:
        OurMistake: absent, readable by others, or not 32 bytes.
    """
    try:
        mode = path.stat().st_mode
        key = path.read_bytes()
    except OSError as error:
        raise OurMistake(
            f"The pseudonym key {path} cannot be read.",
            do="Add recordings first (fedprint-node data add PATH), or restore the key.",
        ) from error
    if mode & 0o077:
        raise OurMistake(f"Others may read the key {path}.", do=f"Run: chmod 600 {path}")
    if len(key) != KEY_BYTES:
        raise OurMistake(f"{path} is not a pseudonym key of {KEY_BYTES} bytes.")
    return key


def pseudonym_of(key: bytes, patient: str) -> str:
    """32 hexadecimal digits for a patient identifier, spelled as `same_patient` does."""
    name = same_patient(patient).encode("utf-8", "surrogateescape")
    return hmac.new(key, name, sha256).hexdigest()[:PSEUDONYM_DIGITS]


def id_text(cell: object) -> str:
    """The one spelling of an identifier of somebody or something, whatever its blanks, its Unicode
    form (NFKC, without characters that no screen shows), and how its file stores whole numbers:
    101, 101.0, "101.0", "101,0" and "+101" are "101".

    Leading zeros stay. "" for what names nothing: truth values, floats that are not whole or too
    large to be exact, and numbers written with a power of ten ("1.23457E+11") or with zeros that
    may be thousands ("1.000").
    """
    if cell is None or isinstance(cell, bool):
        return ""
    if isinstance(cell, float | Decimal):
        exact = isinstance(cell, Decimal) or abs(cell) < _EXACT
        return str(int(cell)) if exact and cell.as_integer_ratio()[1] == 1 else ""
    text = unicodedata.normalize("NFKC", str(cell))
    text = "".join(one for one in text if not _is_unseen(one))
    text = plain_spaces(unicodedata.normalize("NFKC", text))
    if _POWER.fullmatch(text) or _THOUSAND.fullmatch(text):
        return ""
    whole = _WHOLE.fullmatch(text)
    if whole is None:
        return text
    sign, digits, point = whole.groups()
    if point and float(digits) >= _EXACT:
        return ""
    return f"-{digits}" if sign == "-" and digits.strip("0") else digits


def _is_unseen(one: str) -> bool:
    """A control, a format character, or another that no screen shows (Unicode's
    Default_Ignorable_Code_Point beyond these)."""
    return unicodedata.category(one) in {"Cc", "Cf"} or _IGNORABLE.match(one) is not None


def same_patient(cell: object) -> str:
    """The one name of a patient, by whatever says it: a cell, a header, a file's name, an argument.

    "" for nobody: also for words that mean that a value is missing, which are never one patient.
    Merging two people keeps the privacy promise, splitting one breaks it: so spelled as `id_text`.
    """
    name = id_text(cell)
    return "" if name.casefold() in _NOBODY else name


def keyed_digest(key: bytes, kind: str, value: str) -> str:
    """32 hexadecimal digits that stand for a recording or a folder; `kind` keeps them apart."""
    body = b"\x00" + kind.encode() + b"\x00" + value.encode("utf-8", "surrogateescape")
    return hmac.new(key, body, sha256).hexdigest()[:PSEUDONYM_DIGITS]
