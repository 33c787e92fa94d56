"""Hospitals that draw their own patients: pretend ones of the simulator, and noisy sines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from simulations.lab import effects
from simulations.lab.data import PatientRows, SiteInfo
from simulations.lab.drawn import Chunk, chunks, draw
from simulations.lab.experiment import Experiment
from simulations.lab.processes import in_order
from simulations.lab.site_rows import OnProgress, held_out_of, rows_of, site_info

_PARALLEL_WINDOWS = 4000
"""Fewer simulated windows are drawn faster than processes start."""


def natural_sites(
    experiment: Experiment, on_progress: OnProgress
) -> Iterator[tuple[SiteInfo, PatientRows]]:
    """Hospitals that each draw their own patients, in the order of their names."""
    federation, seed = experiment.federation, experiment.seed
    hospitals = natural_hospitals(experiment)
    acting = effects.effects_of(federation, tuple(hospitals), seed)
    orders: list[Chunk] = []
    for site, hospital in hospitals.items():
        whole = order_for(experiment, site, federation.patients)
        orders += chunks(replace(whole, hospital=hospital, effects=acting.get(site, ())))
    drawn = in_order(draw, orders, workers_for(experiment))
    total, done = federation.patients * len(hospitals), 0
    info, held_out = SiteInfo("", 0, ""), np.zeros(0, dtype=np.bool_)
    for order, patients in zip(orders, drawn, strict=True):
        if order.first == 0:
            held_out = held_out_of(federation.patients, federation.held_out, order.site, seed)
            about = about_hospital(federation.source, order.hospital)
            info = site_info(order.site, held_out, about, order.effects)
        yield info, rows_of(patients, held_out[order.first : order.first + order.patients])
        done += order.patients
        on_progress("drawing patients", done, total)


def natural_hospitals(experiment: Experiment) -> dict[str, Any]:
    """Names of the hospitals of a source that is no folder, with the simulator's devices."""
    federation = experiment.federation
    if federation.source == "simulated":
        from simulations.cohort_sites import pretend_sites

        made = {one.name: one for one in pretend_sites(federation.hospitals)}
        return dict(sorted(made.items()))
    width = len(str(federation.hospitals))
    return {f"site-{one:0{width}}": None for one in range(1, federation.hospitals + 1)}


def about_hospital(source: str, hospital: Any) -> str:
    """What a site is, in words."""
    if source == "waves":
        return "noisy sines"
    if hospital is None:
        return "pretend patients of all kinds"
    kind = str(hospital.name).rsplit("-", 1)[0]
    return (
        f"pretend {kind}: ECG {hospital.fs_ecg_hz:g} Hz, PPG {hospital.fs_ppg_hz:g} Hz "
        f"({hospital.pulse_style}), mean age {hospital.age_mean:g}"
    )


def order_for(experiment: Experiment, site: str, patients: int) -> Chunk:
    """Patients that a site draws, without devices of its own and without effects."""
    federation = experiment.federation
    source: Literal["simulated", "waves"] = "waves"
    if federation.source == "simulated":
        source = "simulated"
    return Chunk(source, site, None, 0, patients, federation.windows_per_patient, experiment.seed)


def workers_for(experiment: Experiment) -> int:
    """Processes to draw with; decides nothing about the patients."""
    federation = experiment.federation
    windows = federation.hospitals * federation.patients * federation.windows_per_patient
    if federation.source != "simulated" or windows < _PARALLEL_WINDOWS:
        return 0
    workers = experiment.engine.workers or os.cpu_count() or 1
    return 0 if workers == 1 else workers
