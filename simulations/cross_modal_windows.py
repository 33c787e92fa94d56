"""Windows of real patients with both sensors, and how many were left out and why."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client.ingest import prepare_recording
from client.records import ReadFault, read_folder
from shared_model import quality
from shared_model.errors import DataFault
from simulations.heads.collections import may_be_drawn
from simulations.probes.task import Copies
from simulations.site_mapping import HOW_READ, mapping_of

F32 = npt.NDArray[np.float32]
SITES = ("icu_bidmc", "icu_alarms_*", "icu_uci_bp")
"""Folders that hold both sensors, as patterns below the data folder."""


@dataclass(frozen=True)
class Pairs:
    """Windows whole and accepted in both sensors.

    signal: float32 (window, channel=2, sample=1250), z-scored; patient, site: index (window,);
    sites: names. left_out: by site, number of windows for each reason; `met` all that there were.
    drawn: of each site, whether it is an open collection whose windows may be shown; none if not
    said. copies: recordings that are left out whole and in no other count, because they were met
    before under another name; whose recordings are the same are one patient.
    """

    signal: npt.NDArray[np.float32] = field(repr=False)
    patient: npt.NDArray[np.int64] = field(repr=False)
    site: npt.NDArray[np.int64] = field(repr=False)
    sites: tuple[str, ...]
    met: dict[str, int]
    left_out: dict[str, dict[str, int]]
    unreadable: dict[str, int]
    drawn: tuple[bool, ...] = ()
    copies: int = 0

    def __len__(self) -> int:
        return len(self.signal)

    def of_site(self, name: str) -> npt.NDArray[np.bool_]:
        """bool (window,)."""
        return np.asarray(self.site == self.sites.index(name))

    def may_be_drawn(self) -> npt.NDArray[np.bool_]:
        """bool (window,)."""
        return np.isin(self.site, np.flatnonzero(self.drawn))


def folders_of(data: Path, sites: Iterable[str] | None = None) -> tuple[list[Path], list[str]]:
    """Folders that are named below `data` or, where there is none, by their own path; and the names
    to which nothing answers. A * stands for any letters, in both.

    Args:
        sites: None: `SITES`, below `data` alone.
    """
    found: dict[Path, Path] = {}
    absent: list[str] = []
    for site in SITES if sites is None else sites:
        here = _matching(data, site) if sites is None else _named(site, data)
        for path in here:
            found.setdefault(path.resolve(), path)
        if not here:
            absent.append(site)
    return [path if path.name not in ("", "..") else whole for whole, path in found.items()], absent


def _named(site: str, data: Path) -> list[Path]:
    """Of an absolute path, and of one that begins with a dot, `data` is not asked."""
    below = [] if site.startswith((".", "/")) else _matching(data, site)
    return below or _matching(Path(), site)


def _matching(root: Path, site: str) -> list[Path]:
    """Folders; what cannot be looked at is none."""
    names = [site] if os.path.isdir(root / site) else sorted(glob.glob(site, root_dir=root))
    return [root / name for name in names if name and os.path.isdir(root / name)]


def read_pairs(folders: list[Path], most: int, on_recording: object = None) -> Pairs:
    """Read whole sites, through the hospital's own preparation and quality gate.

    Args:
        most: windows of a patient, evenly spaced over those that are whole in both sensors.
            Whoever is there under several names, by a copy of a recording, is one.
        on_recording: called without arguments for each recording.

    Raises:
        DataFault: no window of any site has both sensors.
    """
    kept: dict[tuple[int, str], list[F32]] = {}
    met: dict[str, int] = {}
    left_out: dict[str, dict[str, int]] = {}
    unreadable: dict[str, int] = {}
    causes: Counter[str] = Counter()
    copies = Copies()
    for number, folder in enumerate(folders):
        why: Counter[str] = Counter()
        total, before = 0, causes.total()
        for item in read_folder(folder, mapping_of(folder)):
            if isinstance(item, ReadFault):
                causes[item.cause] += 1
                continue
            if callable(on_recording):
                on_recording()
            if copies.holds(item, str(number)):
                continue
            try:
                windows = prepare_recording(item).windows()
            except DataFault as error:
                causes[error.cause] += 1
                continue
            reasons = [_reason(windows.refusal[i], windows.valid[i]) for i in range(len(windows))]
            why.update(reason for reason in reasons if reason)
            total += len(windows)
            whole = np.array([not reason for reason in reasons], dtype=np.bool_)
            if whole.any():
                kept.setdefault((number, item.patient), []).append(windows.signal[whole])
        met[folder.name], left_out[folder.name] = total, dict(sorted(why.items()))
        unreadable[folder.name] = causes.total() - before
    if not kept:
        raise _nothing(causes)
    signal, patient, site = [], [], []
    for index, (every, sites) in enumerate(_people(kept, copies)):
        chosen = _evenly(len(every), most)
        signal.append(every[chosen])
        patient += [index] * len(chosen)
        site.append(sites[chosen])
    return Pairs(
        np.concatenate(signal),
        np.array(patient),
        np.concatenate(site),
        tuple(folder.name for folder in folders),
        met,
        left_out,
        unreadable,
        tuple(may_be_drawn(folder) for folder in folders),
        copies.count,
    )


def _people(
    kept: dict[tuple[int, str], list[F32]], copies: Copies
) -> Iterator[tuple[F32, npt.NDArray[np.int64]]]:
    """Windows of each person and their site, in order of number and name. Names of whom a recording
    is the same are one person, at the place of the first."""
    persons = copies.persons()
    found: dict[frozenset[str], list[tuple[int, F32]]] = {}
    for (number, name), parts in sorted(kept.items(), key=lambda one: one[0]):
        mine = found.setdefault(persons[f"{name}\n{number}"], [])
        mine += [(number, part) for part in parts]
    for parts_at in found.values():
        sites = [np.full(len(part), number, dtype=np.int64) for number, part in parts_at]
        yield np.concatenate([part for _, part in parts_at]), np.concatenate(sites)


def _nothing(causes: Counter[str]) -> DataFault:
    """No window has both sensors, and how many files were not readable, by cause."""
    message, do = "No window has both sensors whole and accepted.", ""
    if causes:
        told = ", ".join(f"{cause} {count}" for cause, count in sorted(causes.items()))
        message += f" Not readable: {causes.total()} files ({told})."
        do = f" Where files could not be read: {HOW_READ}."
    return DataFault(
        message, cause="absent", do=f"Name sites whose recordings hold ECG and PPG.{do}"
    )


def _evenly(count: int, most: int) -> npt.NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _reason(refusal: npt.NDArray[np.uint8], valid: npt.NDArray[np.bool_]) -> str:
    """Why a window is left out; "" if it is not."""
    bad = refusal != quality.ACCEPTED
    if bad.any():
        ecg, ppg = (quality.REASONS[int(code)] for code in refusal)
        if bad.all():
            return f"both: ECG {ecg}, PPG {ppg}"
        return f"ECG: {ecg}" if bad[0] else f"PPG: {ppg}"
    return "" if valid.all() else "not recorded throughout in both"
