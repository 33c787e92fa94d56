"""One row for each run of a sweep: what it changed, how it ended, what was measured.

    row = row_of(point, outcome, run_folder, varied)
    write(rows, folder)                     # sweep.parquet, sweep.csv

Columns: number, run, the varied fields by their names, state, error, rounds done, refused from
round (the first that hospitals would refuse; empty: none), loss, then for each probe `auroc
rhythm`, `auroc rhythm low`, `auroc rhythm high` (both sensors, all sites, last evaluation; 95 %
over patients), epsilon, delta, noise_to_signal, bytes_up, bytes_down, seconds, model, private.
`... start`: the same figure of the model that the run began with.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared_model.files import write_atomic
from simulations.lab.space import Point
from simulations.lab.sweep_run import Outcome

Row = dict[str, Any]
ALL_SITES = "all"
SENSORS = "both"
LOSS = "loss"
OURS = "federated"
"""The run's own model among those of probes.parquet (`evaluate_rows.FEDERATED`)."""


def row_of(point: Point, outcome: Outcome | None, folder: Path, varied: Sequence[str]) -> Row:
    """The row of a run; figures only of finished ones. outcome None: not carried out yet."""
    content = point.experiment.as_dict()
    row: Row = {"number": point.number, "run": point.name}
    row |= {name: _field(content, name) for name in varied}
    row |= {
        "state": "waiting" if outcome is None else outcome.state,
        "error": "" if outcome is None else outcome.error,
    }
    if outcome is not None and outcome.state == "finished":
        row |= figures(folder)
        row["seconds"] = outcome.seconds
    row["private"] = _private(point)
    return row


def _private(point: Point) -> str:
    told = point.experiment.privacy
    if told.mode == "none":
        return "NO PRIVACY: no noise"
    return "NO PRIVACY: noise repeats" if told.noise == "NonPrivateForTests" else told.mode


def _field(content: Mapping[str, Any], name: str) -> Any:
    found: Any = content
    for part in name.split("."):
        found = found[part]
    return found if found is None or isinstance(found, int | float | str) else str(found)


def figures(folder: Path) -> Row:
    """What a finished run's folder says of it."""
    from simulations.lab.evaluate import loss_of
    from simulations.lab.result import Result

    result = Result.open(folder)
    rounds, probes = result.rounds().to_pylist(), result.probes().to_pylist()
    losses = [one["loss"] for one in rounds if one["loss"] is not None]
    last = rounds[-1] if rounds else {}
    row: Row = {
        "rounds done": max((one["round"] for one in rounds), default=0),
        "refused from round": result.about.get("refused_from_round"),
        LOSS: losses[-1] if losses else None,
        f"{LOSS} start": loss_of([one for one in probes if one["round"] == 0]),
    }
    row |= probe_columns(probes)
    row |= {
        "epsilon": last.get("epsilon"),
        "delta": last.get("delta"),
        "noise_to_signal": last.get("noise_to_signal"),
        "bytes_up": sum(one["bytes_up"] or 0 for one in rounds),
        "bytes_down": sum(one["bytes_down"] or 0 for one in rounds),
        "model": result.digest,
    }
    return row


def probe_columns(probes: Sequence[Mapping[str, Any]]) -> Row:
    """Value and interval of each task at its last evaluation, and of the starting model."""
    found: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    for one in probes:
        ours = (one["sensors"], one["site"], one["model"]) == (SENSORS, ALL_SITES, OURS)
        if ours and one["kind"] != "loss":
            found.setdefault((one["kind"], one["task"]), {})[one["round"]] = one
    row: Row = {}
    for (kind, task), rounds in sorted(found.items()):
        last, name = rounds[max(rounds)], f"{kind} {task}"
        row |= {name: last["value"], f"{name} low": last["low"], f"{name} high": last["high"]}
        row[f"{name} start"] = rounds[0]["value"] if 0 in rounds else None
    return row


def columns_of(rows: Sequence[Row]) -> list[str]:
    """All columns, in the order in which the rows name them."""
    names: dict[str, None] = {}
    for row in sorted(rows, key=len, reverse=True):
        names.update(dict.fromkeys(row))
    return list(names)


def write(rows: Sequence[Row], folder: Path) -> None:
    """sweep.csv and sweep.parquet; a value that a run does not have is empty."""
    import pyarrow as arrow
    from pyarrow import parquet

    names = columns_of(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: "" if value is None else value for name, value in row.items()} for row in rows
    )
    write_atomic(folder / "sweep.csv", text.getvalue().encode())
    table = arrow.table({name: _column([row.get(name) for row in rows]) for name in names})
    data = io.BytesIO()
    parquet.write_table(table, data)
    write_atomic(folder / "sweep.parquet", data.getvalue())


def _column(values: Sequence[Any]) -> Any:
    """Numbers as numbers; where a column has text in it, all of it is text."""
    import pyarrow as arrow

    present = [value for value in values if value is not None]
    if any(isinstance(value, str) for value in present):
        return arrow.array([None if value is None else str(value) for value in values])
    if any(isinstance(value, float) for value in present):
        return arrow.array([None if value is None else float(value) for value in values])
    return arrow.array(list(values))


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
