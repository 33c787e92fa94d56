"""The open collections that the project's development data are cut from, with their licences.

A folder is one of them if it has the collection's exact name and files are called as that
collection's recordings are, and nothing else is there. That is no proof: names can be copied. A
hospital's own folder, whatever its name, is "not stated" unless the command says what it is, and no
window of it is drawn.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from simulations.lots import place_of

NOT_STATED = "not stated"
TABLE, WAVES = "recordings.csv", "recordings.parquet"
_ODC, _CITED = "ODC-By 1.0", "free academic use with citation"


@dataclass(frozen=True)
class OpenCollection:
    """What it is, its licence with whom to cite, and a pattern of its recordings' names: of its
    files, or in the column `recording` of the one file `recordings.parquet`. drawn: whether single
    windows may be shown (docs/licences)."""

    what: str
    licence: str
    recordings: str
    drawn: bool = True


_ALARMS = OpenCollection(
    "PhysioNet/CinC Challenge 2015", f"{_ODC}; Clifford 2015", r"cinc15_v\d{3}[ls]\.(dat|hea)"
)
KNOWN = {
    "icu_bidmc": OpenCollection(
        "BIDMC PPG and Respiration 1.0.0", f"{_ODC}; Pimentel 2017", r"bidmc_\d\d\.(dat|hea)"
    ),
    **{f"icu_alarms_{part}": _ALARMS for part in "abcde"},
    "icu_uci_bp": OpenCollection(
        "cuff-less blood pressure, UCI", "CC BY 4.0; Kachuee 2015", r"uci_rec\d+\.(dat|hea)"
    ),
    "wearable_troika": OpenCollection(
        "IEEE SP Cup 2015, TROIKA", f"{_CITED}; Zhang 2015", r"ispc_DATA_\d\d_TYPE\d\d", drawn=False
    ),
    "wearable_bami1": OpenCollection(
        "BAMI-1", f"{_CITED}; Lee 2019", r"bami1_\d{1,2}", drawn=False
    ),
    "clinic_ppg_bp": OpenCollection("PPG-BP, Guilin", "CC0 1.0; Liang 2018", r"ppgbp_\d+_\d\.csv"),
    "holter_mitdb": OpenCollection(
        "MIT-BIH Arrhythmia", f"{_ODC}; Moody 2001", r"mitdb_\d{3}\.(dat|hea|atr)"
    ),
    "identity_ecg_id": OpenCollection(
        "ECG-ID", f"{_ODC}; Lugovaya 2005", r"ecgid_\d\d_rec_\d{1,2}\.edf"
    ),
    "quality_cinc2011": OpenCollection(
        "PhysioNet/CinC Challenge 2011", f"{_ODC}; Silva 2011", r"cinc11_\d{7}"
    ),
    "noise_nstdb": OpenCollection(
        "MIT-BIH Noise Stress Test", f"{_ODC}; Moody 1984", r"nst_118e\d\d\.csv"
    ),
    "phone_welltory": OpenCollection(
        "Welltory smartphone PPG", "CC0 1.0; Neshitov 2021", r"welltory_\d\d\.csv"
    ),
}
"""By the folder's exact name."""


def collection_in(folder: Path) -> OpenCollection | None:
    """The collection that a folder is, by its name and by the names of all that lies in it; None if
    it is anything else. No signal is read."""
    found = KNOWN.get(place_of(folder))
    if found is None or not folder.is_dir():
        return None
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if any(path.is_symlink() or not path.is_file() for path in files):
        return None
    names = {path.name for path in files}
    named = _column(folder / WAVES) if names == {WAVES} else names - {TABLE}
    fits = bool(named) and all(re.fullmatch(found.recordings, name) for name in named)
    return found if fits else None


def known_among(folders: Iterable[Path]) -> frozenset[str]:
    """What those of the folders are called that are the open collections of their names."""
    return frozenset(place_of(one) for one in folders if collection_in(one) is not None)


def may_be_drawn(folder: Path) -> bool:
    """Whether single windows of this folder may be shown."""
    found = collection_in(folder)
    return found is not None and found.drawn


def about(folders: Iterable[str], known: Collection[str]) -> tuple[str, str]:
    """What folders are and their licence: of one collection, whose content was looked at.

    Args:
        folders: what they are called. known: those that `known_among` found.
    """
    found = {KNOWN[name] if name in known else None for name in folders}
    one = found.pop() if len(found) == 1 else None
    return (NOT_STATED, NOT_STATED) if one is None else (one.what, one.licence)


def _column(path: Path) -> set[str]:
    """Names of recordings in a Parquet file; none if it has no such column or cannot be read."""
    import pyarrow as arrow
    from pyarrow import parquet

    from client.formats.parquet_footer import read_footer
    from shared_model.errors import DataFault

    try:
        read_footer(path, path.stat().st_size)
        column = parquet.read_table(path, columns=["recording"])["recording"]
        return {str(name) for name in column.unique().to_pylist()}
    except (arrow.ArrowException, DataFault, KeyError, OSError, ValueError):
        return set()
