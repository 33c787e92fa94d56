"""An experiment's federation on disk: drawn or read, shared out, and written once.

    data = prepare(experiment, folder)                 # reuses the folder if it fits
    data = prepare_shared(experiment, cache)           # cache/KEY, for sweeps

What is there fits if it was made from the same federation table, seed, code and package versions
(and, of real recordings, from files of the same names, sizes and times). A site's patients are
never in memory all at once.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from shared_model.canonical import digest_of
from shared_model.config import TOKENS, WINDOW_SAMPLES
from shared_model.errors import OurMistake
from shared_model.locks import locked
from shared_model.release_files import code_digest, package_versions
from simulations.lab import effects, partition, recorded
from simulations.lab.data import FORMAT, FederationData, PatientRows, SiteInfo, write_federation
from simulations.lab.drawn import POOL, Chunk, Patients, chunks, draw
from simulations.lab.experiment import Experiment
from simulations.lab.keyed import generator
from simulations.lab.patient_pool import PatientPool
from simulations.lab.processes import in_order

OnProgress = Callable[[str, int, int], None]
"""What is done, how much of it is done, of how much."""
LEAST_TRAINING = 2
"""Patients of a site that stay in training, whatever share is held out."""
_BATCH = 64
"""Patients that are copied at once."""
_WINDOW_BYTES = 2 * 2 * WINDOW_SAMPLES + 2 * TOKENS
_PARALLEL_WINDOWS = 4000
"""Fewer simulated windows are drawn faster than processes start."""
SAYS = {
    "simulated": "SIMULATED: pretend patients from the cohort simulator, no recording of anybody",
    "waves": "WAVES: noisy sines without any meaning, for timing only",
    "folders": "real recordings, read, windowed and gated as in a hospital",
}


def key_of(experiment: Experiment) -> str:
    """SHA-256 of everything that decides the patients; two experiments may share them."""
    federation = experiment.federation
    content: dict[str, Any] = federation.model_dump(mode="json")
    content["folders"] = (
        recorded.listing_digest(federation.folders) if federation.source == "folders" else ""
    )
    return digest_of([FORMAT, content, experiment.seed, code_digest(), _versions()])


def prepare(
    experiment: Experiment, folder: Path, on_progress: OnProgress | None = None
) -> FederationData:
    """The experiment's federation in this folder: what is there if it fits, else made anew.

    Two processes may ask at once: the second waits and finds it made.

    Raises:
        OurMistake: patients are too few for what is asked, a site or label is not there, or the
            disk is too small.
    """
    key = key_of(experiment)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        found = _fitting(folder, key)
        if found is not None:
            return found
        return _write(experiment, folder, key, on_progress or (lambda what, done, total: None))


def prepare_shared(
    experiment: Experiment, cache: Path, on_progress: OnProgress | None = None
) -> FederationData:
    """As `prepare`, in a folder of `cache` that all experiments with the same federation share."""
    return prepare(experiment, cache / key_of(experiment), on_progress)


def held_out_of(patients: int, share: float, site: str, seed: int) -> npt.NDArray[np.bool_]:
    """Who never trains: the share of a site's patients, at least one, and two stay in training.

    Raises:
        OurMistake: the site has too few patients for that.
    """
    least = LEAST_TRAINING + (share > 0)
    if patients < least:
        raise OurMistake(
            f"The site {site!r} has {patients} patients and needs {least}: {LEAST_TRAINING} train"
            + (" and one is held out." if share > 0 else "."),
            do="Take more patients, or raise partition.smallest.",
        )
    count = min(max(1, round(share * patients)), patients - LEAST_TRAINING) if share > 0 else 0
    chosen = np.zeros(patients, dtype=np.bool_)
    chosen[generator("held-out", seed, site).permutation(patients)[:count]] = True
    return chosen


def _versions() -> dict[str, str]:
    from importlib import metadata

    versions = package_versions()
    for name in ("numpy", "scipy", "flwr-datasets"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return versions


def _fitting(folder: Path, key: str) -> FederationData | None:
    data = FederationData(folder)
    try:
        fits = data.about.get("source", {}).get("key") == key
    except OurMistake:
        return None
    return data if fits and data.whole else None


def _write(
    experiment: Experiment, folder: Path, key: str, on_progress: OnProgress
) -> FederationData:
    federation = experiment.federation
    source: dict[str, Any] = {
        "kind": federation.source,
        "says": SAYS[federation.source],
        "key": key,
        "seed": experiment.seed,
        "partition": federation.partition.model_dump(mode="json"),
        "code": code_digest(),
        "packages": _versions(),
        "left_out": {},
    }
    if federation.source != "folders":
        _room(folder, experiment)
        if federation.partition.kind == "natural":
            return write_federation(folder, _natural(experiment, on_progress), source)
    with PatientPool(folder / "pool.new") as pool:
        about = _fill(experiment, pool, source["left_out"], on_progress)
        if not pool.natural:
            raise OurMistake(
                "There is no patient with a usable window in the federation's folders.",
                do="Look at them with: fedprint-node data add FOLDER --dry-run",
            )
        sites = _shared_out(experiment, pool, about, source["left_out"], on_progress)
        return write_federation(folder, sites, source)


def _natural(
    experiment: Experiment, on_progress: OnProgress
) -> Iterator[tuple[SiteInfo, PatientRows]]:
    """Hospitals that each draw their own patients, in the order of their names."""
    federation, seed = experiment.federation, experiment.seed
    hospitals = natural_hospitals(experiment)
    acting = effects.effects_of(federation, tuple(hospitals), seed)
    orders: list[Chunk] = []
    for site, hospital in hospitals.items():
        whole = _order(experiment, site, federation.patients)
        orders += chunks(replace(whole, hospital=hospital, effects=acting.get(site, ())))
    drawn = in_order(draw, orders, _workers(experiment))
    total, done = federation.patients * len(hospitals), 0
    info, held_out = SiteInfo("", 0, ""), np.zeros(0, dtype=np.bool_)
    for order, patients in zip(orders, drawn, strict=True):
        if order.first == 0:
            held_out = held_out_of(federation.patients, federation.held_out, order.site, seed)
            words = _words(about_hospital(federation.source, order.hospital), order.effects)
            info = SiteInfo(order.site, _declared(held_out), words)
        yield info, _rows(patients, held_out[order.first : order.first + order.patients])
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


def _fill(
    experiment: Experiment, pool: PatientPool, left_out: dict[str, str], on_progress: OnProgress
) -> dict[str, str]:
    """Put the source's patients into the pool; words about its natural sites."""
    federation = experiment.federation
    if federation.source == "folders":
        return _fill_from_folders(federation.folders, pool, left_out, on_progress)
    total = federation.patients * federation.hospitals
    orders = list(chunks(_order(experiment, POOL, total)))
    done = 0
    drawn = in_order(draw, orders, _workers(experiment))
    for order, patients in zip(orders, drawn, strict=True):
        pool.add(patients, POOL)
        done += order.patients
        on_progress("drawing patients", done, total)
    return {}


def _fill_from_folders(
    folders: tuple[str, ...], pool: PatientPool, left_out: dict[str, str], on_progress: OnProgress
) -> dict[str, str]:
    total, done = recorded.count(folders), 0
    about: dict[str, str] = {}

    def on_recording() -> None:
        nonlocal done
        done += 1
        on_progress("reading recordings", min(done, total), total)

    for site, folder in recorded.site_names(folders).items():
        before = len(pool.natural)
        read = recorded.read_into(pool, folder, site, on_recording)
        about[site] = read.words
        if len(pool.natural) == before:
            left_out[site] = f"no patient with a usable window ({read.words})"
    return about


def _shared_out(
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
    least = LEAST_TRAINING + (federation.held_out > 0)
    for site in [site for site, rows in shares.items() if natural and len(rows) < least]:
        left_out[site] = f"{len(shares.pop(site))} patients, fewer than {least} ({about[site]})"
    if not shares:
        raise OurMistake(
            f"No site has the {least} patients that it needs: "
            + "; ".join(f"{site}: {why}" for site, why in left_out.items()),
            do="Take other folders, or a partition that shares all patients out.",
        )
    acting = effects.effects_of(federation, tuple(shares), seed)
    return _copied(experiment, reader.take, shares, acting, about, on_progress)


def _copied(
    experiment: Experiment,
    take: Callable[[npt.NDArray[np.int64]], Patients],
    shares: dict[str, npt.NDArray[np.int64]],
    acting: dict[str, tuple[effects.PlacedEffect, ...]],
    about: dict[str, str],
    on_progress: OnProgress,
) -> Iterator[tuple[SiteInfo, PatientRows]]:
    federation, seed = experiment.federation, experiment.seed
    pooled = SAYS[federation.source].split(":")[0].lower() + f", {federation.partition.kind}"
    total, done = sum(len(rows) for rows in shares.values()), 0
    for site, rows in shares.items():
        held_out = held_out_of(len(rows), federation.held_out, site, seed)
        mine = acting.get(site, ())
        info = SiteInfo(site, _declared(held_out), _words(about.get(site, pooled), mine))
        for first in range(0, len(rows), _BATCH):
            patients = take(rows[first : first + _BATCH])
            if mine:
                patients = _affected(patients, mine, first, (seed, site))
            yield info, _rows(patients, held_out[first : first + _BATCH])
            done += len(patients)
            on_progress("writing sites", done, total)


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


def _order(experiment: Experiment, site: str, patients: int) -> Chunk:
    federation = experiment.federation
    source: Literal["simulated", "waves"] = "waves"
    if federation.source == "simulated":
        source = "simulated"
    return Chunk(source, site, None, 0, patients, federation.windows_per_patient, experiment.seed)


def _rows(patients: Patients, held_out: npt.NDArray[np.bool_]) -> PatientRows:
    return PatientRows(patients.signal, patients.valid, patients.windows, held_out, patients.labels)


def _declared(held_out: npt.NDArray[np.bool_]) -> int:
    from client.policy import rounded_patients

    return rounded_patients(int((~held_out).sum()))


def _words(about: str, acting: tuple[effects.PlacedEffect, ...]) -> str:
    said = [effects.words(one.effect) for one in acting]
    return f"{about}; effects: {'; '.join(said)}" if said else about


def _workers(experiment: Experiment) -> int:
    federation = experiment.federation
    windows = federation.hospitals * federation.patients * federation.windows_per_patient
    if federation.source != "simulated" or windows < _PARALLEL_WINDOWS:
        return 0
    workers = experiment.engine.workers or os.cpu_count() or 1
    return 0 if workers == 1 else workers


def _room(folder: Path, experiment: Experiment) -> None:
    """Refuse to begin what the disk cannot hold."""
    federation = experiment.federation
    patients = federation.hospitals * federation.patients
    need = patients * federation.windows_per_patient * _WINDOW_BYTES
    if federation.partition.kind != "natural":
        need *= 2  # the pool and its copy
    free = shutil.disk_usage(folder).free
    if need > free:
        raise OurMistake(
            f"The federation needs {need / 1e9:.1f} GB of disk and {free / 1e9:.1f} GB are free.",
            do="Take fewer hospitals, patients or windows_per_patient, or a folder elsewhere.",
        )
