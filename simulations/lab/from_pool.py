"""Patients that are gathered first and shared out then: real recordings, and all partitions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from shared_model.errors import OurMistake
from simulations.lab import effects, partition, recorded
from simulations.lab.data import PatientRows, SiteInfo
from simulations.lab.drawn import POOL, Patients, chunks, draw
from simulations.lab.experiment import Experiment
from simulations.lab.experiment_tables import Federation
from simulations.lab.from_formulas import order_for, workers_for
from simulations.lab.patient_pool import PatientPool, PoolReader
from simulations.lab.processes import in_order
from simulations.lab.site_rows import (
    OnProgress,
    held_out_of,
    least_patients,
    rows_of,
    site_info,
)
from simulations.lots import Lots

_BATCH_WINDOWS = 4096
"""Windows that are copied at once, but for a patient with more."""


def fill(
    experiment: Experiment, pool: PatientPool, left_out: dict[str, str], on_progress: OnProgress
) -> dict[str, str]:
    """Put the source's patients into the pool; words about its natural sites."""
    federation = experiment.federation
    if federation.source == "folders":
        return _fill_from_folders(federation, pool, left_out, on_progress)
    total = federation.patients * federation.hospitals
    orders = list(chunks(order_for(experiment, POOL, total)))
    done = 0
    drawn = in_order(draw, orders, workers_for(experiment))
    for order, patients in zip(orders, drawn, strict=True):
        pool.add(patients, POOL)
        done += order.patients
        on_progress("drawing patients", done, total)
    return {}


def _fill_from_folders(
    federation: Federation, pool: PatientPool, left_out: dict[str, str], on_progress: OnProgress
) -> dict[str, str]:
    total, done = recorded.count(federation.folders), 0
    about: dict[str, str] = {}

    def on_recording() -> None:
        nonlocal done
        done += 1
        on_progress("reading recordings", min(done, total), total)

    for site, folder in recorded.site_names(federation.folders).items():
        before = len(pool.natural)
        read = recorded.read_into(pool, folder, site, Lots(*federation.lots), on_recording)
        about[site] = read.words
        if len(pool.natural) == before:
            left_out[site] = f"no patient with a usable window ({read.words})"
    return about


def shared_out(
    experiment: Experiment,
    pool: PatientPool,
    about: dict[str, str],
    left_out: dict[str, str],
    on_progress: OnProgress,
) -> Iterator[tuple[SiteInfo, PatientRows]]:
    """Sites with patients of the pool, in the order of their names."""
    federation, seed = experiment.federation, experiment.seed
    reader = pool.reader()
    shares = partition.shares(
        federation.partition, reader.labels, pool.natural, federation.hospitals, seed
    )
    natural = federation.partition.kind == "natural"
    least = least_patients(federation.held_out)
    for site in [site for site, rows in shares.items() if natural and len(rows) < least]:
        left_out[site] = (
            f"patients with usable windows {len(shares.pop(site))}, needed {least} ({about[site]})"
        )
    if not shares:
        raise OurMistake(
            f"No site has the {least} patients that it needs: "
            + "; ".join(f"{site}: {why}" for site, why in left_out.items()),
            do="Take other folders, or a partition that shares all patients out.",
        )
    acting = effects.effects_of(federation, tuple(shares), seed)
    return _copied(experiment, reader, shares, acting, about, on_progress)


def _copied(
    experiment: Experiment,
    reader: PoolReader,
    shares: dict[str, npt.NDArray[np.int64]],
    acting: dict[str, tuple[effects.PlacedEffect, ...]],
    about: dict[str, str],
    on_progress: OnProgress,
) -> Iterator[tuple[SiteInfo, PatientRows]]:
    federation, seed = experiment.federation, experiment.seed
    pooled = f"{federation.source} patients, partition {federation.partition.kind}"
    total, done = sum(len(rows) for rows in shares.values()), 0
    for site, rows in shares.items():
        held_out = held_out_of(len(rows), federation.held_out, site, seed)
        mine = acting.get(site, ())
        info = site_info(site, held_out, about.get(site, pooled), mine)
        for first, end in _batches(reader.windows[rows]):
            patients = reader.take(rows[first:end])
            if mine:
                patients = _affected(patients, mine, first, (seed, site))
            yield info, rows_of(patients, held_out[first:end])
            done += len(patients)
            on_progress("writing sites", done, total)


def _batches(windows: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Stretches of patients, first and end, with about so many windows each."""
    number = (np.cumsum(windows) - windows) // _BATCH_WINDOWS
    ends = [*(np.flatnonzero(np.diff(number)) + 1).tolist(), len(windows)]
    yield from zip([0, *ends[:-1]], ends, strict=True)


def _affected(
    patients: Patients,
    acting: tuple[effects.PlacedEffect, ...],
    first: int,
    key: tuple[str | int, ...],
) -> Patients:
    number = first + np.repeat(np.arange(len(patients)), patients.windows)
    signal, valid = effects.apply(
        acting, patients.signal.astype(np.float32), patients.valid, number, key
    )
    return replace(patients, signal=signal.astype("<f2"), valid=valid)
