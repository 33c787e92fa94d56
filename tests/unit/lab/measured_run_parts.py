"""Run folders as the lab's engine leaves them, written by hand: what plots and report read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shared_model import warm_start
from shared_model import weights as weights_io
from shared_model.config import ModelConfig
from shared_model.mae import PRESETS, build, weights_of
from shared_model.weights import Weights
from simulations.cohort import RHYTHMS, draw_windows
from simulations.lab.data import FederationData, PatientRows, SiteInfo, write_federation
from simulations.lab.evaluate import evaluate, loss_of
from simulations.lab.evaluate_rows import Row
from simulations.lab.experiment import Experiment

TINY = PRESETS["tiny"]


def experiment(**changed: Any) -> Experiment:
    """A small experiment; `changed` are tables of the file."""
    content = {"name": "tiny", "rounds": 3, "privacy": {"mode": "none"}}
    content["evaluation"] = {"every": 1, "draws": 40}
    return Experiment.from_dict(content | changed)


def simulated(
    folder: Path, sites: int = 3, patients: int = 30, held_out: int = 12, windows: int = 2
) -> FederationData:
    """Pretend patients with both sensors and four labels."""

    def each() -> Any:
        for site in range(sites):
            rng = np.random.default_rng([7, site])
            signal, valid, drawn = draw_windows(
                rng, patients * windows, windows_per_patient=windows
            )
            first = slice(None, None, windows)
            labels = {name: drawn[name][first] for name in ("age", "male")}
            labels["rhythm"] = np.array(RHYTHMS)[drawn["rhythm"][first]]
            labels["ward"] = np.array([f"bed {k}" for k in range(patients)])
            yield _site(site, held_out), _rows(signal, valid, windows, held_out, labels)

    return write_federation(folder, each(), {"kind": "simulated"})


def waves(
    folder: Path, sites: int = 4, patients: int = 12, held_out: int = 4, labels: bool = False
) -> FederationData:
    """Noisy sines; a label that is their rate, if asked for."""

    def each() -> Any:
        for site in range(sites):
            rng = np.random.default_rng([8, site])
            rate = rng.uniform(0.8, 2.0, (patients, 1, 1))
            signal = np.sin(2 * np.pi * rate * np.arange(1250) / 125.0)
            signal = signal + 0.1 * rng.standard_normal((patients, 2, 1250))
            valid = np.ones((patients, 2, 50), dtype=bool)
            named = {"rate": rate[:, 0, 0]} if labels else {}
            yield _site(site, held_out), _rows(signal, valid, 1, held_out, named)

    return write_federation(folder, each(), {"kind": "waves"})


def _site(number: int, patients: int) -> SiteInfo:
    return SiteInfo(f"site-{number:04d}", patients, "a pretend hospital")


def _rows(
    signal: Any, valid: Any, windows: int, held_out: int, labels: Mapping[str, Any]
) -> PatientRows:
    patients = len(signal) // windows
    held = np.arange(patients) < held_out
    return PatientRows(
        signal.astype(np.float32), valid, np.full(patients, windows), held, dict(labels)
    )


def models(count: int) -> list[Weights]:
    """From random weights to the warm start, in steps."""
    begin = weights_of(build(TINY, seed=3))
    _, end, _ = warm_start.load("tiny")
    shares = np.linspace(0.0, 1.0, count)
    return [
        {name: ((1 - s) * begin[name] + s * end[name]).astype(np.float32) for name in begin}
        for s in shares
    ]


def write_run(
    folder: Path,
    one: Experiment,
    data: FederationData,
    *,
    measured: Sequence[tuple[int, Weights]] = (),
    config: ModelConfig = TINY,
    done: bool = True,
    few: Sequence[int] = (),
    probes: Sequence[Row] | None = None,
) -> Path:
    """A run's folder; `data` must lie in it. few: rounds without a sum."""
    (folder / "metrics").mkdir(parents=True, exist_ok=True)
    (folder / "experiment.toml").write_text(one.to_toml())
    about = {
        "identity": one.identity, "code": "c" * 64, "data": data.digest,
        "versions": {"python": "3.11.0", "fedprint": "0.1.0", "torch": "2.0"},
        "machine": {"system": "Linux", "processor": "x86_64", "cores": 2},
        "command": ["fedprint-lab", "run", "exp.toml", "-o", "out"],
        "began": "2026-11-28T21:00:00+00:00", "resumed": [],
    }  # fmt: skip
    (folder / "provenance.json").write_text(json.dumps(about))
    rows = [
        row | {"epsilon": _epsilon(one, number)}
        for number, weights in measured
        for row in evaluate(config, weights, data, one, number, workers=1)
    ]
    rows = list(probes) if probes is not None else rows
    rounds = [_round(one, data, number, rows, number in few) for number in range(1, one.rounds + 1)]
    write_table(folder, "rounds", rounds)
    write_table(folder, "sites", [row for each in rounds for row in _sites(one, data, each)])
    if rows:
        write_table(folder, "probes", rows)
    if done:
        final = measured[-1][1] if measured else models(2)[-1]
        (folder / "model.safetensors").write_bytes(weights_io.to_bytes(final))
        result = {
            "name": one.name, "state": "done", "rounds": one.rounds, "aggregated": one.rounds,
            "hospitals": len(data.sites), "model": weights_io.digest(final),
            "epsilon": _epsilon(one, one.rounds), "delta": 1e-5, "noise_multiplier": 1.0,
            "in_words": ["Masks are off and there is no ledger."],
        }  # fmt: skip
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def write_table(folder: Path, name: str, rows: Sequence[Row]) -> None:
    """One of the Parquet files."""
    import pyarrow as arrow
    from pyarrow import parquet

    parquet.write_table(arrow.Table.from_pylist(list(rows)), folder / "metrics" / f"{name}.parquet")


def _epsilon(one: Experiment, number: int) -> float | None:
    return None if one.privacy.mode == "none" else 0.4 * float(number) ** 0.5


def _round(
    one: Experiment, data: FederationData, number: int, rows: Sequence[Row], few: bool
) -> Row:
    count = len(data.sites)
    mine = [row for row in rows if row["round"] == number]
    return {
        "round": number, "participants": count, "survivors": 1 if few else count - number % 2,
        "outcome": "too few" if few else "aggregated", "loss": loss_of(mine),
        "update_norm": None if few else 0.2 + 0.5 / number,
        "noise_to_signal": None if one.privacy.mode == "none" else 1.5 + 0.1 * (number % 3),
        "epsilon": _epsilon(one, number), "delta": None if one.privacy.mode == "none" else 1e-5,
        "bytes_up": 300_000 * count, "bytes_down": 900_000 * count, "virtual_s": 5.0 * number,
        "wall_s": 1.0, "clipped": 0, "scaled": 0, "model": f"{number:064x}",
    }  # fmt: skip


def _sites(one: Experiment, data: FederationData, row: Row) -> list[Row]:
    return [
        {
            "round": row["round"], "site": site.name, "answered": row["outcome"] == "aggregated",
            "reason": "" if row["outcome"] == "aggregated" else "drop-out", "behaviour": "",
            "patients": site.declared, "update_norm": 0.3 + 0.01 * place,
            "bytes_up": 300_000, "bytes_down": 900_000 + 1000 * place, "epsilon": row["epsilon"],
        }
        for place, site in enumerate(data.sites)
    ]  # fmt: skip
