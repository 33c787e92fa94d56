"""Patients on disk before they are shared out: written in the source's order, read in any."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from shared_model.config import TOKENS, WINDOW_SAMPLES
from simulations.lab.drawn import Patients

Labels = dict[str, npt.NDArray[Any]]
Piece = tuple[int, int]
"""First window and number of windows of a stretch of one patient."""


class PatientPool:
    """A folder of windows that is removed when the pool is left; labels stay in memory.

    Use as a context manager. Add all first, then read.
    """

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._folder = folder
        self._signal = (folder / "signal.bin").open("wb")
        self._valid = (folder / "valid.bin").open("wb")
        self._count = 0
        self._pieces: list[tuple[Piece, ...]] = []
        self._labels: list[tuple[int, Labels]] = []
        self._natural: list[str] = []

    def __enter__(self) -> PatientPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with ExitStack() as stack:  # closing writes what is left, which a full disk refuses
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            stack.callback(self._valid.close)
            stack.callback(self._signal.close)

    def write(self, signal: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> Piece:
        """Append windows whose patient is added later."""
        self._signal.write(np.ascontiguousarray(signal, dtype="<f2").tobytes())
        self._valid.write(np.ascontiguousarray(valid).tobytes())
        piece = (self._count, len(signal))
        self._count += len(signal)
        return piece

    def add(self, patients: Patients, natural: str) -> None:
        """Append patients that the source has at site `natural`."""
        first, _ = self.write(patients.signal, patients.valid)
        ends = first + np.cumsum(patients.windows)
        for end, count in zip(ends.tolist(), patients.windows.tolist(), strict=True):
            self._pieces.append(((end - count, count),))
        self._labels.append((len(patients), dict(patients.labels)))
        self._natural += [natural] * len(patients)

    def add_pieces(
        self, pieces: tuple[Piece, ...], labels: dict[str, str | float], natural: str
    ) -> None:
        """Add one patient whose windows were written before, in this order."""
        self._pieces.append(pieces)
        self._labels.append((1, {name: np.array([value]) for name, value in labels.items()}))
        self._natural.append(natural)

    @property
    def natural(self) -> list[str]:
        """Site of each patient as the source has it."""
        return self._natural

    def labels(self) -> Labels:
        """Every label that some patient has; NaN or "" where another has none.

        A label that is text for some and a number for others is text.
        """
        made: Labels = {}
        for name in sorted({name for _, part in self._labels for name in part}):
            kinds = {part[name].dtype.kind for _, part in self._labels if name in part}
            text = bool(kinds & set("UO"))
            made[name] = np.concatenate(
                [_column(part.get(name), count, text=text) for count, part in self._labels]
            )
        return made

    def reader(self) -> PoolReader:
        """For reading; nothing can be added after."""
        self._signal.close()
        self._valid.close()
        signal: Any = np.memmap(
            self._folder / "signal.bin", np.float16, "r", shape=(self._count, 2, WINDOW_SAMPLES)
        )
        valid: Any = np.memmap(
            self._folder / "valid.bin", np.bool_, "r", shape=(self._count, 2, TOKENS)
        )
        return PoolReader(signal, valid, self._pieces, self.labels())


class PoolReader:
    """Patients of a pool by their rows."""

    def __init__(
        self,
        signal: npt.NDArray[np.float16],
        valid: npt.NDArray[np.bool_],
        pieces: list[tuple[Piece, ...]],
        labels: Labels,
    ) -> None:
        self._signal, self._valid = signal, valid
        self._pieces = pieces
        self.windows = np.array(
            [sum(count for _, count in one) for one in pieces], dtype=np.int64
        )  # of each patient
        self.labels = labels

    def take(self, rows: npt.NDArray[np.int64]) -> Patients:
        """These patients, in this order."""
        pieces = [self._pieces[row] for row in rows.tolist()]
        index = np.concatenate([np.arange(at, at + count) for one in pieces for at, count in one])
        return Patients(
            np.asarray(self._signal[index]),
            np.asarray(self._valid[index]),
            self.windows[rows],
            {name: values[rows] for name, values in self.labels.items()},
        )


def _column(values: npt.NDArray[Any] | None, count: int, *, text: bool) -> npt.NDArray[Any]:
    if values is None:
        return np.full(count, "") if text else np.full(count, np.nan)
    if text and values.dtype.kind not in "UO":
        return np.array([f"{value:g}" if np.isfinite(value) else "" for value in values])
    return values
