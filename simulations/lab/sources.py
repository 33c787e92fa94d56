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
from pathlib import Path
from typing import Any

from shared_model.canonical import digest_of
from shared_model.config import TOKENS, WINDOW_SAMPLES
from shared_model.errors import OurMistake
from shared_model.locks import locked
from shared_model.release_files import code_digest, package_versions
from simulations.lab import recorded
from simulations.lab.data import FORMAT, FederationData, write_federation
from simulations.lab.experiment import Experiment
from simulations.lab.from_formulas import natural_sites
from simulations.lab.from_pool import fill, shared_out
from simulations.lab.patient_pool import PatientPool
from simulations.lab.site_rows import OnProgress
from simulations.site_mapping import HOW_READ, own_mappings

_WINDOW_BYTES = 2 * 2 * WINDOW_SAMPLES + 2 * TOKENS
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
    """The experiment's federation in this folder: what is there if it fits, else made anew. Of real
    recordings the folder is its owner's alone (0700).

    Two processes may ask at once: the second waits and finds it made.

    Raises:
        OurMistake: patients are too few for what is asked, a site or label is not there, or the
            disk is too small.
    """
    key = key_of(experiment)
    folder.mkdir(parents=True, exist_ok=True)
    if experiment.federation.source == "folders":
        _close(folder)
    with locked(folder / ".lock"):
        found = _fitting(folder, key)
        if found is not None:
            return found
        return _write(experiment, folder, key, on_progress or (lambda what, done, total: None))


def _close(folder: Path) -> None:
    """For its owner alone, before people's signals are in it."""
    found = {one.name for one in folder.iterdir()}
    if found and not found & {".lock", "federation.json"}:
        raise OurMistake(
            f"{folder} holds other things, and a federation of real recordings is its owner's "
            "alone.",
            do="Name a new folder.",
        )
    try:
        folder.chmod(0o700)
    except OSError as error:
        raise OurMistake(
            f"{folder} cannot be made its owner's alone: {os.strerror(error.errno or 0)}.",
            do="Name a folder of your own.",
        ) from error


def prepare_shared(
    experiment: Experiment, cache: Path, on_progress: OnProgress | None = None
) -> FederationData:
    """As `prepare`, in a folder of `cache` that all experiments with the same federation share."""
    return prepare(experiment, cache / key_of(experiment), on_progress)


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
        "mappings": own_mappings(map(Path, federation.folders)),
    }
    if federation.source != "folders":
        _room(folder, experiment)
        if federation.partition.kind == "natural":
            return write_federation(folder, natural_sites(experiment, on_progress), source)
    with PatientPool(folder / "pool.new") as pool:
        about = fill(experiment, pool, source["left_out"], on_progress)
        if not pool.natural:
            raise OurMistake(
                "There is no patient with a usable window in the federation's folders.",
                do=f"{HOW_READ}.",
            )
        sites = shared_out(experiment, pool, about, source["left_out"], on_progress)
        return write_federation(folder, sites, source)


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
