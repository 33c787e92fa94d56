"""The journal of a run as Parquet: rounds, sites, probes. Written anew, whole or not at all.

The journal has one line a round for all sites that were asked; sites that were not are rows here
too. Rows are written a few thousand at a time: memory does not grow with rounds x sites.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shared_model.files import sync_folder
from simulations.lab.checkpoint import Journal

_ROWS = 20_000
Row = dict[str, Any]

ROUND_COLUMNS = {
    "round": "int64",
    "participants": "int64",
    "survivors": "int64",
    "outcome": "string",
    "loss": "double",
    "update_norm": "double",
    "noise_to_signal": "double",
    "epsilon": "double",
    "delta": "double",
    "bytes_up": "int64",
    "bytes_down": "int64",
    "virtual_s": "double",
    "wall_s": "double",
    "clipped": "int64",
    "scaled": "int64",
    "model": "string",
    "refusal": "string",
}
SITE_COLUMNS = {
    "round": "int64",
    "site": "string",
    "answered": "bool",
    "reason": "string",
    "behaviour": "string",
    "patients": "int64",
    "update_norm": "double",
    "bytes_up": "int64",
    "bytes_down": "int64",
    "epsilon": "double",
}
PROBE_COLUMNS = {
    "round": "int64",
    "task": "string",
    "sensors": "string",
    "site": "string",
    "model": "string",
    "kind": "string",
    "value": "double",
    "low": "double",
    "high": "double",
    "gain": "double",
    "gain_low": "double",
    "gain_high": "double",
    "patients": "int64",
    "epsilon": "double",
}


def write(
    folder: Path,
    journal: Journal,
    sites: Sequence[tuple[str, int]],
    epsilon: Callable[[int], float | None],
) -> None:
    """Write the three tables.

    Args:
        folder: of the tables. sites: name and declared patients, in the federation's order.
        epsilon: of a site that has booked so many rounds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain = {"round": ROUND_COLUMNS, "probe": PROBE_COLUMNS}
    for kind, columns in plain.items():
        _write(folder / f"{kind}s.parquet", columns, _plain(journal, kind))
    _write(folder / "sites.parquet", SITE_COLUMNS, _site_rows(journal, sites, epsilon))


def _plain(journal: Journal, kind: str) -> Iterator[Row]:
    for line in journal.lines(kind):
        if "row" in line:  # a figure has a kind of its own
            yield line["row"]
        else:
            del line["kind"]
            yield line


def _site_rows(
    journal: Journal,
    sites: Sequence[tuple[str, int]],
    epsilon: Callable[[int], float | None],
) -> Iterator[Row]:
    booked = [0] * len(sites)
    for line in journal.lines("sites"):
        told = {int(one["place"]): one for one in line["asked"]}
        for place, (name, patients) in enumerate(sites):
            one = told.get(place)
            if one is not None:
                booked[place] += int(one["booked"])
            yield site_row(line["round"], name, patients, one, epsilon(booked[place]))


def site_row(
    round: int,
    name: str,
    patients: int,
    told: Mapping[str, Any] | None,
    epsilon: float | None,
) -> Row:
    """A row of sites.parquet. told: what the journal has of a site that was asked."""
    if told is None:
        told = {"reason": "not asked", "up": 0, "down": 0}
    return {
        "round": round,
        "site": name,
        "answered": told["reason"] == "",
        "reason": told["reason"],
        "behaviour": told.get("behaviour", ""),
        "patients": patients,
        "update_norm": told.get("norm"),
        "bytes_up": told["up"],
        "bytes_down": told["down"],
        "epsilon": epsilon,
    }


def _write(path: Path, columns: Mapping[str, str], rows: Iterator[Row]) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    kinds = {"int64": arrow.int64(), "double": arrow.float64(), "string": arrow.string()}
    kinds["bool"] = arrow.bool_()
    schema = arrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
    beside = path.with_name(f".{path.name}.new")
    with parquet.ParquetWriter(beside, schema) as writer:
        batch: list[Row] = []
        for row in rows:
            batch.append({name: row.get(name) for name in columns})
            if len(batch) == _ROWS:
                writer.write_table(arrow.Table.from_pylist(batch, schema=schema))
                batch = []
        writer.write_table(arrow.Table.from_pylist(batch, schema=schema))
    with beside.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(beside, path)
    sync_folder(path.parent)
