"""The patients of a federation in one folder: written once, shared by all processes.

    signal.bin       float16 (window, channel=2, sample=1250), all sites' windows in a row
    valid.bin        bool (window, channel=2, token=50)
    patients.parquet one row a patient: site (index), first, windows, held_out, labels ...
    federation.json  sites (name, declared patients, words about it), source, digests

Workers map the two files: their pages are shared, whatever the number of processes. A patient's
windows lie in a row; a site's patients too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shared_model.canonical import digest_of
from shared_model.config import TOKENS, WINDOW_SAMPLES
from shared_model.errors import OurMistake
from shared_model.files import write_atomic

FORMAT = 1
_SIGNAL = (2, WINDOW_SAMPLES)
_VALID = (2, TOKENS)


@dataclass(frozen=True)
class SiteInfo:
    """A pretend hospital. declared: patients that train, as a hospital would declare them."""

    name: str
    declared: int
    about: str


@dataclass(frozen=True)
class PatientRows:
    """Patients of one site while a federation is written.

    signal: (window, 2, 1250), standardised; valid: (window, 2, 50). windows: of each patient, in
    the order of rows. held_out: bool of each patient. labels: one value a patient, numbers (NaN:
    unknown) or strings ("": unknown).
    """

    signal: npt.NDArray[Any] = field(repr=False)
    valid: npt.NDArray[np.bool_] = field(repr=False)
    windows: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.bool_]
    labels: Mapping[str, npt.NDArray[Any]] = field(repr=False)


@dataclass(frozen=True)
class SitePatients:
    """Some patients of one site; implements `client.training.PatientBatches`."""

    signal: npt.NDArray[np.float16] = field(repr=False)
    valid: npt.NDArray[np.bool_] = field(repr=False)
    first: npt.NDArray[np.int64] = field(repr=False)
    windows: npt.NDArray[np.int64] = field(repr=False)

    @property
    def patient_count(self) -> int:
        """Patients that train here."""
        return len(self.first)

    def segments(
        self, patients: npt.NDArray[Any], segments: int, rng: np.random.Generator
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """`segments` windows of each patient, drawn with replacement."""
        patients = np.asarray(patients, dtype=np.int64)
        drawn = rng.random((len(patients), segments))  # (patient, segment)
        rows = self.first[patients][:, None] + np.floor(drawn * self.windows[patients][:, None])
        rows = rows.astype(np.int64)
        return self.signal[rows].astype(np.float32), np.asarray(self.valid[rows])

    def all(self, most_windows: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
        """The first windows of each patient: signal float32, valid, index of the patient."""
        counts = np.minimum(self.windows, most_windows)
        index = np.repeat(np.arange(len(self.first)), counts)
        start = np.concatenate([np.arange(count) for count in counts]) if len(counts) else index
        rows = np.repeat(self.first, counts) + start
        return self.signal[rows].astype(np.float32), np.asarray(self.valid[rows]), index


@dataclass(frozen=True)
class FederationData:
    """A written federation. Picklable: workers map the files anew."""

    folder: Path

    @property
    def mappings(self) -> dict[str, str]:
        """Digests of the mappings by which folders were read that have one of their own."""
        return dict(self.about["source"].get("mappings", {}))

    @cached_property
    def about(self) -> dict[str, Any]:
        """federation.json.

        Raises:
            OurMistake: it is not there, or of another format.
        """
        try:
            content: dict[str, Any] = json.loads((self.folder / "federation.json").read_bytes())
        except (OSError, ValueError) as error:
            raise OurMistake(f"{self.folder} holds no federation.") from error
        if content.get("format") != FORMAT:
            raise OurMistake(
                f"{self.folder} was written by another version.", do="Remove it; it is made anew."
            )
        return content

    @cached_property
    def sites(self) -> tuple[SiteInfo, ...]:
        """In the order of their names."""
        return tuple(SiteInfo(**site) for site in self.about["sites"])

    @property
    def whole(self) -> bool:
        """Whether the files have the sizes that federation.json asks for (their content is not
        read again)."""
        sizes = {"signal.bin": 2 * 2 * WINDOW_SAMPLES, "valid.bin": 2 * TOKENS}
        try:
            return (self.folder / "patients.parquet").is_file() and all(
                (self.folder / name).stat().st_size == self.about["windows"] * size
                for name, size in sizes.items()
            )
        except OSError:
            return False

    @property
    def digest(self) -> str:
        """SHA-256 over windows, patients and sites."""
        return str(self.about["digest"])

    @cached_property
    def table(self) -> dict[str, npt.NDArray[Any]]:
        """patients.parquet as arrays, one entry a patient."""
        from pyarrow import parquet

        read = parquet.read_table(self.folder / "patients.parquet")
        return {name: read[name].to_numpy(zero_copy_only=False) for name in read.column_names}

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels that the patients have."""
        fixed = {"site", "first", "windows", "held_out"}
        return tuple(name for name in self.table if name not in fixed)

    @cached_property
    def signal(self) -> npt.NDArray[np.float16]:
        """float16 (window, 2, 1250), mapped."""
        mapped: npt.NDArray[np.float16] = self._mapped("signal.bin", np.float16, _SIGNAL)
        return mapped

    @cached_property
    def valid(self) -> npt.NDArray[np.bool_]:
        """bool (window, 2, 50), mapped."""
        mapped: npt.NDArray[np.bool_] = self._mapped("valid.bin", np.bool_, _VALID)
        return mapped

    def patients(self, site: int, *, held_out: bool = False) -> SitePatients:
        """The site's patients that train, or those that never do."""
        rows = np.flatnonzero((self.table["site"] == site) & (self.table["held_out"] == held_out))
        first, windows = self.table["first"][rows], self.table["windows"][rows]
        return SitePatients(self.signal, self.valid, first, windows)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def _mapped(self, name: str, kind: Any, shape: tuple[int, int]) -> Any:
        path = self.folder / name
        size = int(np.dtype(kind).itemsize) * shape[0] * shape[1]
        count = path.stat().st_size // size
        return np.memmap(path, dtype=kind, mode="r", shape=(count, *shape))


def write_federation(
    folder: Path, sites: Iterator[tuple[SiteInfo, PatientRows]], source: Mapping[str, Any]
) -> FederationData:
    """Write site after site; the folder counts only once federation.json is there.

    Whoever has mapped files of an earlier federation in this folder keeps them: new ones take their
    places.

    Args:
        sites: in the order of their names. Several in a row with the same `SiteInfo` object are one
            site's patients in parts, so that no site need be in memory as a whole.
        source: what the patients are and where they are from, in plain values.

    Raises:
        OurMistake: no site, two of one name or out of order, or rows that do not fit one another.
    """
    import pyarrow as arrow
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "federation.json"
    done.unlink(missing_ok=True)
    infos: list[SiteInfo] = []
    columns: dict[str, list[npt.NDArray[Any]]] = {}
    count = 0
    hashed = {name: hashlib.sha256() for name in ("signal.bin", "valid.bin")}
    new = {name: folder / f"{name}.new" for name in (*hashed, "patients.parquet")}
    with (
        _whole_or_gone(new),
        new["signal.bin"].open("wb") as signal,
        new["valid.bin"].open("wb") as valid,
    ):
        for info, rows in sites:
            _check(rows)
            if not infos or infos[-1] is not info:
                infos.append(info)
            patients = len(rows.windows)
            for name, stream, array in (
                ("signal.bin", signal, rows.signal.astype("<f2")),
                ("valid.bin", valid, rows.valid),
            ):
                data = np.ascontiguousarray(array).tobytes()
                hashed[name].update(data)
                stream.write(data)
            ends = count + np.cumsum(rows.windows)
            made: dict[str, npt.NDArray[Any]] = {
                "site": np.full(patients, len(infos) - 1, dtype=np.int64),
                "first": (ends - rows.windows).astype(np.int64),
                "windows": rows.windows.astype(np.int64),
                "held_out": rows.held_out,
                **rows.labels,
            }
            for name, values in made.items():
                columns.setdefault(name, []).append(values)
            count += int(rows.windows.sum())
        for stream in (signal, valid):
            stream.flush()
            os.fsync(stream.fileno())
    names = [info.name for info in infos]
    if not names or any(one >= after for one, after in pairwise(names)):
        raise OurMistake("A federation has sites, in the order of their names, none twice.")
    table = arrow.table({name: _joined(parts) for name, parts in columns.items()})
    parquet.write_table(table, new["patients.parquet"])
    for name, path in new.items():
        os.replace(path, folder / name)
    content = {
        "format": FORMAT,
        "source": dict(source),
        "sites": [vars(info) for info in infos],
        "windows": count,
        "patients": table.num_rows,
        "held_out": int(np.sum(np.concatenate(columns["held_out"]))),
        "files": {name: one.hexdigest() for name, one in hashed.items()},
    }
    plain = {name: _joined(parts).tolist() for name, parts in columns.items()}
    content["digest"] = digest_of([content["files"], content["sites"], _written(plain)])
    write_atomic(done, json.dumps(content, indent=1).encode())
    return FederationData(folder)


@contextmanager
def _whole_or_gone(new: Mapping[str, Path]) -> Iterator[None]:
    """Half-written files would take the room that a full disk lacks."""
    try:
        yield
    except BaseException:
        for path in new.values():
            path.unlink(missing_ok=True)
        raise


def _written(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
    """Labels as text: NaN has no place in canonical JSON."""
    return {name: [repr(value) for value in values] for name, values in columns.items()}


def _joined(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate(parts)


def _check(rows: PatientRows) -> None:
    count, patients = len(rows.signal), len(rows.windows)
    fits = (
        rows.signal.shape == (count, *_SIGNAL)
        and rows.valid.shape == (count, *_VALID)
        and int(rows.windows.sum()) == count
        and bool((rows.windows >= 1).all())
        and rows.held_out.shape == (patients,)
        and all(len(values) == patients for values in rows.labels.values())
    )
    if not fits:
        raise OurMistake("The rows of a site's patients do not fit one another.")
