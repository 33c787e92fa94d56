"""One part of the window store as it is filled: the recordings of one `data add`, all or none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from client import store_format as fmt
from client.store_parts import PartFiles
from shared_model.quality import ACCEPTED, REASONS
from shared_model.windows import Prepared

if TYPE_CHECKING:
    from client.store_write import StoreWriter

REFUSED_KEPT = 64
"""Refused windows kept for the contact sheet in one part, at most `REFUSED_PER_REASON` a reason."""
REFUSED_PER_REASON = 8
LONGEST_LABEL = 64

Labels = Mapping[str, str | float]


class PartWriter:
    """Collects the recordings of one `data add`; all of them show at `commit` or none."""

    def __init__(self, writer: StoreWriter, data_set: str, source: str) -> None:
        self._writer = writer
        self._data_set = data_set
        self._source = source
        self._files = PartFiles(writer.path, writer.cipher)
        self._patients: dict[str, int] = {}
        self._recordings: list[fmt.RecordingRow] = []
        self._index: list[npt.NDArray[Any]] = []
        self._refused: list[tuple[int, int, int]] = []
        self._examples: Counter[int] = Counter()
        writer.stage("part begun")

    @property
    def recording_count(self) -> int:
        return len(self._recordings)

    def add(self, key: str, pseudonym: str, prepared: Prepared, labels: Labels) -> None:
        """Append one recording. `key` is its keyed digest."""
        windows = prepared.windows()
        usable = np.flatnonzero(windows.usable)
        number = len(self._recordings)
        signal = windows.signal[usable].astype("<f2")
        self._files.write("signal.bin", signal.tobytes())
        self._files.write("valid.bin", windows.valid[usable].tobytes())
        index = np.zeros(len(usable), dtype=fmt.INDEX_DTYPE)
        index["recording"] = number
        index["start_s"] = windows.start_s[usable]
        index["refusal"] = windows.refusal[usable]
        self._index.append(index)
        self._keep_refused(number, prepared)
        self._recordings.append(
            fmt.RecordingRow(
                key=key,
                data_set=self._data_set,
                patient=self._patients.setdefault(pseudonym, len(self._patients)),
                windows=len(windows),
                usable=len(usable),
                refusals={
                    "ecg": refusal_counts(windows.refusal[:, 0]),
                    "ppg": refusal_counts(windows.refusal[:, 1]),
                },
                labels=_storable(labels),
            )
        )
        self._writer.stage("recording written")

    def _keep_refused(self, number: int, prepared: Prepared) -> None:
        for row in np.flatnonzero((prepared.refusal > 1).any(axis=1)):
            if len(self._refused) >= REFUSED_KEPT:
                return
            ecg, ppg = (int(code) for code in prepared.refusal[row])
            reasons = {code for code in (ecg, ppg) if code > 1}
            if all(self._examples[code] >= REFUSED_PER_REASON for code in reasons):
                continue
            self._examples.update(reasons)
            self._files.write("refused.bin", prepared.signal[row].astype("<f2").tobytes())
            self._refused.append((number, ecg, ppg))

    def commit(self) -> int:
        """Make the recordings part of the store; returns the data set's version.

        Without recordings nothing changes and the version is the one before (0: never added).
        """
        known = self._writer.data_set_of(self._source)
        if not self._recordings:
            self.abandon()
            return known.version if known else 0
        index = np.concatenate(self._index)
        self._files.write("index.bin", index.tobytes())
        catalogue = fmt.Catalogue(
            patients=list(self._patients), recordings=self._recordings, refused=self._refused
        )
        entry = self._files.finish(catalogue, len(index), len(self._refused), self._writer.stage)
        version = known.version + 1 if known else 1
        name = known.name if known else self._data_set
        others = [one for one in self._writer.manifest.data_sets if one.source != self._source]
        self._writer.publish(
            [*self._writer.manifest.parts, entry],
            data_sets=[*others, fmt.DataSet(name=name, source=self._source, version=version)],
        )
        return version

    def abandon(self) -> None:
        """Drop everything written so far."""
        self._files.abandon()


def refusal_counts(codes: npt.NDArray[np.uint8]) -> dict[str, int]:
    """Windows by reason, accepted ones left out."""
    counts = np.bincount(codes, minlength=len(REASONS))
    return {
        reason: int(count)
        for code, (reason, count) in enumerate(zip(REASONS, counts, strict=True))
        if count and code != ACCEPTED
    }


def _storable(labels: Labels) -> dict[str, str | float]:
    """Finite numbers and short words only."""
    kept: dict[str, str | float] = {}
    for name, value in labels.items():
        if isinstance(value, str):
            kept[name] = value[:LONGEST_LABEL]
        elif math.isfinite(value):
            kept[name] = float(value)
    return kept
