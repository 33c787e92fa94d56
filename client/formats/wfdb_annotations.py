"""WFDB annotation files (.atr): beats and rhythms.

Read here and not by `wfdb.rdann`, which loops for ever on a damaged definition. The format (MIT
annotations, https://physionet.org/physiotools/wag/annot-5.htm): 16-bit little-endian words, code in
the upper 6 bits, time difference in samples in the lower 10. The tests compare with `wfdb.rdann`.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from client.formats.base import Event, fail, read_bytes

MAXIMUM_BYTES = 32 << 20

_BEATS = dict(
    zip(
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 25, 30, 34, 35, 38, 41),
        "NLRaVFJASEj/QB?enfr",
        strict=True,
    )
)
_RHYTHM, _NOTE = 28, 22
_SKIP, _NUMBER, _SUBTYPE, _CHANNEL, _TEXT = 59, 60, 61, 62, 63
_NAME = re.compile(r"^\(([A-Z]{1,6})\d?\x00*$")
_RESOLUTION = re.compile(r"^## time resolution: (\d{1,6}(?:\.\d{1,9})?)\x00*$")


def read_events(path: Path, fs_hz: float, length: int) -> tuple[Event, ...]:
    """Beats ("beat:V") and rhythms ("rhythm:AFIB") in order; other marks and texts stay behind.

    fs_hz, length: frame rate and frames of the record. Raises DataFault for a file that ends inside
    an annotation, or has times before the start or after the end.
    """
    data = read_bytes(path, MAXIMUM_BYTES)
    if len(data) % 2:
        fail("truncated", "The annotation file has an odd number of bytes.")
    words = np.frombuffer(data, dtype="<u2").tolist()
    found: list[tuple[int, str]] = []
    rate_hz, sample, code, position = fs_hz, 0, 0, 0
    while position < len(words) and words[position] != 0:
        word = words[position]
        kind, value = word >> 10, word & 0x3FF
        position += 1
        if kind == _SKIP:
            if position + 2 > len(words):
                fail("truncated", "The annotation file ends inside an annotation.")
            step = (words[position] << 16) | words[position + 1]
            sample += step - (1 << 32) if step >= 1 << 31 else step
            position += 2
        elif kind == _TEXT:
            text = data[2 * position : 2 * position + value]
            if len(text) < value:
                fail("truncated", "The annotation file ends inside an annotation.")
            position += (value + 1) // 2
            note = text.decode("latin-1")
            rhythm, resolution = _NAME.match(note), _RESOLUTION.match(note)
            if code == _RHYTHM and rhythm:
                found.append((sample, f"rhythm:{rhythm.group(1)}"))
            elif code == _NOTE and sample == 0 and resolution:
                rate_hz = float(resolution.group(1)) or fs_hz
        elif kind not in {_NUMBER, _SUBTYPE, _CHANNEL}:
            sample, code = sample + value, kind
            if kind in _BEATS:
                found.append((sample, f"beat:{_BEATS[kind]}"))
    end_s = length / fs_hz
    if any(not 0 <= sample / rate_hz <= end_s for sample, _ in found):
        fail("bad-header", "The annotation file has times outside the record.")
    return tuple(Event(sample / rate_hz, kind) for sample, kind in found)
