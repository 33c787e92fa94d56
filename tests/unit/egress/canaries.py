"""Looks for secrets in bytes that leave, in every form that they may take.

Bytes and words: raw, hexadecimal, base64 (at each of its three alignments, both alphabets), words
also as UTF-16. Floats: two float32 or one float64 in a row, both byte orders, and as text. Numbers:
as JSON numbers and words of headers and of the ledger entries inside; 8-byte integers and floats.
Eight random bytes are found by chance once in 2^64 places: one false alarm in 10^10 runs at most.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


def forms(secret: bytes) -> set[bytes]:
    """What these bytes look like in transport encodings."""
    found = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    for shift in range(3):
        text = base64.b64encode(bytes(shift) + secret)
        # characters that the neighbours' bits are mixed into are cut off at both ends
        inside = text[(shift * 8 + 5) // 6 : (shift + len(secret)) * 8 // 6]
        found |= {inside, inside.replace(b"+", b"-").replace(b"/", b"_")}
    return found


def words(text: str) -> set[bytes]:
    return {form for raw in (text.encode(), text.encode("utf-16-le")) for form in forms(raw)}


def floats(values: Sequence[float] | np.ndarray) -> set[bytes]:
    """Any two neighbours of these as float32, any one as float64 or as text."""
    chosen = np.asarray(values, dtype=np.float32)
    found: set[bytes] = set()
    for order in "<>":
        for pair in itertools.pairwise(chosen):
            found |= forms(np.array(pair, dtype=f"{order}f4").tobytes())
        for value in chosen:
            found |= forms(np.array(value, dtype=f"{order}f8").tobytes())
    return found | {repr(float(value)).encode() for value in chosen}


@dataclass
class Canaries:
    """Secrets by name, and how to find them."""

    patterns: dict[str, set[bytes]] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)

    def number(self, name: str, value: float) -> None:
        """A number that is no field's: as JSON, as a word, as 8 bytes."""
        self.numbers[name] = value
        codes = ["<d", ">d"] + (["<q", ">q"] if float(value).is_integer() else [])
        packed = {struct.pack(c, int(value) if c[1] == "q" else float(value)) for c in codes}
        self.patterns[name] = {form for raw in packed for form in forms(raw)}

    def found_in(self, data: bytes) -> set[str]:
        """Names of the secrets in these bytes."""
        return {
            name
            for name, patterns in self.patterns.items()
            if any(pattern in data for pattern in patterns)
        }

    def found_in_header(self, header: bytes) -> set[str]:
        """As `found_in`, and numbers among the header's values."""
        plain = json.loads(header[64:])
        present = set(numbers_in(plain))
        return self.found_in(header) | {n for n, v in self.numbers.items() if v in present}


def numbers_in(value: Any) -> Iterator[float]:
    """Every number of a JSON value, also those in texts and in lines that are JSON themselves."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from numbers_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, str):
        if value.startswith("{"):
            yield from numbers_in(json.loads(value))
        else:
            # not inside digests, where any digits occur
            yield from (
                float(x) for x in re.findall(r"(?<![0-9a-f.])\d+\.?\d*(?![0-9a-f.])", value)
            )
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)
