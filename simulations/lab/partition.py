"""Sharing out a pool of patients: every patient at exactly one site, same seed, same sites.

Dirichlet and pathological splits are those of `flwr-datasets`, so that they are what others mean by
these words; the rest is one line each (docs/adr/0028).
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shared_model.errors import OurMistake
from simulations.lab.experiment_tables import Partition
from simulations.lab.keyed import generator

Rows = npt.NDArray[np.int64]
UNKNOWN = "unknown"
MOST_VALUES = 200
"""A label with more different numbers is a measurement, not a class."""
_TRIES = 20


def shares(
    partition: Partition,
    labels: Mapping[str, npt.NDArray[Any]],
    natural: Sequence[str],
    sites: int,
    seed: int,
) -> dict[str, Rows]:
    """Who goes where.

    Args:
        labels: one value a patient. natural: site of each patient as the source has it.
        sites: hospitals that are asked for; ignored by "natural" and "id".

    Returns:
        name of a site -> rows of its patients, ascending; sites in the order of their names.

    Raises:
        OurMistake: no such label, one that is no class, or a site would have fewer than
            `partition.smallest` patients however often it is drawn.
    """
    patients = len(natural)
    kind = partition.kind
    if kind == "natural":
        return _by_value(np.asarray(natural))
    if kind == "id":
        values = classes(labels, partition.label)
        made = _by_value(np.array([site_name(f"{partition.label}-{value}") for value in values]))
        if len(made) < len(np.unique(values)):
            raise OurMistake(
                f"Two values of the label {partition.label!r} give the same site's name.",
                do="Names are of small letters, digits and hyphens: rename one of the values.",
            )
        return _large_enough(made, partition)
    if patients < sites * partition.smallest:
        raise OurMistake(
            f"{patients} patients are too few for {sites} sites of at least {partition.smallest}.",
            do="Lower federation.hospitals or partition.smallest, or take more patients.",
        )
    parts = _parts(partition, labels, patients, sites, seed)
    width = len(str(sites))
    return {f"site-{number:0{width}}": np.sort(rows) for number, rows in enumerate(parts, start=1)}


def _parts(
    partition: Partition,
    labels: Mapping[str, npt.NDArray[Any]],
    patients: int,
    sites: int,
    seed: int,
) -> list[Rows]:
    """Rows of each of so many sites."""
    kind = partition.kind
    if kind in {"iid", "size"}:
        order = generator("partition", seed, kind).permutation(patients)
        sizes = [len(part) for part in np.array_split(order, sites)]
        if kind == "size":
            sizes = sizes_of(partition, patients, sites)
        return [part.astype(np.int64) for part in np.split(order, np.cumsum(sizes)[:-1])]
    values = classes(labels, partition.label)
    found = len(np.unique(values))
    if kind == "pathological" and (partition.classes_per_site > found or sites < found):
        raise OurMistake(
            f"The label {partition.label!r} has {found} values: {sites} sites with "
            f"{partition.classes_per_site} values each cannot hold every patient.",
            do="Take at least as many hospitals as values, and at most as many classes_per_site.",
        )
    return _flower(partition, values, sites, seed)


def sizes_of(partition: Partition, patients: int, sites: int) -> list[int]:
    """Patients of each site by rank: `smallest`, and of what is left a share that grows with it.

    The shares are in proportion to rank, rank squared or e^rank, rounded by largest remainder. (The
    size partitioners of flwr-datasets have no smallest size: of 10 exponential sites the first
    gets nobody.)
    """
    rank = np.arange(sites, dtype=np.float64)
    weight = {"linear": rank, "square": rank**2, "exponential": np.exp(rank - rank[-1])}
    share = weight[partition.growth] if sites > 1 else np.ones(1)
    exact = (patients - sites * partition.smallest) * share / share.sum()
    extra = np.floor(exact).astype(np.int64)
    left = patients - sites * partition.smallest - int(extra.sum())
    extra[np.argsort(extra - exact, kind="stable")[:left]] += 1
    return [int(one) for one in np.sort(extra + partition.smallest)]


def classes(labels: Mapping[str, npt.NDArray[Any]], name: str) -> npt.NDArray[np.str_]:
    """A label as classes, one word a patient; what is not known is "unknown".

    Raises:
        OurMistake: there is no such label, or it is a measurement.
    """
    if name not in labels:
        raise OurMistake(
            f"The patients have no label {name!r} to share them out by.",
            do=f"Labels: {', '.join(sorted(labels)) or 'none'}.",
        )
    values = np.asarray(labels[name])
    if values.dtype.kind == "f":
        known = values[np.isfinite(values)]
        if len(np.unique(known)) > MOST_VALUES or bool((known != np.round(known)).any()):
            raise OurMistake(
                f"The label {name!r} is a measurement, not a class.",
                do="Share out by a label with few values.",
            )
        words = [str(int(one)) if np.isfinite(one) else UNKNOWN for one in values]
    else:
        words = [str(one) or UNKNOWN for one in values]
    return np.array(words, dtype=np.str_)


def site_name(text: str) -> str:
    """A text as a site's name: small letters, digits and hyphens, at most 48."""
    name = re.sub(r"[^a-z0-9]+", "-", text.casefold()).strip("-")[:48].strip("-")
    if not name:
        raise OurMistake("A site's name needs a letter or a digit of a to z and 0 to 9.")
    return name


def _by_value(names: npt.NDArray[Any]) -> dict[str, Rows]:
    found, where = np.unique(names, return_inverse=True)
    return {str(name): np.flatnonzero(where == index) for index, name in enumerate(found)}


def _large_enough(made: dict[str, Rows], partition: Partition) -> dict[str, Rows]:
    small = [name for name, rows in made.items() if len(rows) < partition.smallest]
    if small:
        raise OurMistake(
            f"{len(small)} of {len(made)} sites would have fewer than {partition.smallest} "
            f"patients: {', '.join(small[:8])}.",
            do="Choose another partition.label, or a lower partition.smallest.",
        )
    return made


def _flower(
    partition: Partition, values: npt.NDArray[np.str_], sites: int, seed: int
) -> list[Rows]:
    """Drawn by `flwr-datasets` until no site is too small; patients in random order before."""
    rng = generator("partition", seed, partition.kind)
    order = rng.permutation(len(values))
    table = _dataset({"row": order, "value": values[order]})
    for _ in range(_TRIES):
        drawn = _partitioner(partition, sites, int(rng.integers(0, 2**31)))
        drawn.dataset = table
        try:
            with warnings.catch_warnings():  # it tells of each draw that it throws away
                warnings.simplefilter("ignore")
                parts = [
                    np.asarray(drawn.load_partition(index)["row"][:], dtype=np.int64)
                    for index in range(sites)
                ]
        except ValueError:
            continue
        if min(len(part) for part in parts) < partition.smallest:
            continue
        if not np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(values))):
            raise OurMistake("flwr-datasets lost patients while it shared them out.")
        return parts
    raise OurMistake(
        f"However often it is drawn, some of {sites} sites have fewer than {partition.smallest} "
        "patients.",
        do="Raise partition.alpha or federation.patients, or lower hospitals, classes_per_site or "
        "partition.smallest.",
    )


def _offline() -> None:
    """Hugging Face's library and Flower's look nothing up and tell nobody."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ[name] = "1"
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ["TQDM_DISABLE"] = "1"


def _dataset(columns: dict[str, Any]) -> Any:
    _offline()
    try:
        from datasets import Dataset
    except ImportError as error:
        raise _absent() from error
    return Dataset.from_dict({name: values.tolist() for name, values in columns.items()})


def _partitioner(partition: Partition, sites: int, seed: int) -> Any:
    _offline()
    try:
        from flwr_datasets.partitioner import DirichletPartitioner, PathologicalPartitioner
    except ImportError as error:
        raise _absent() from error
    if partition.kind == "dirichlet":
        return DirichletPartitioner(
            num_partitions=sites,
            partition_by="value",
            alpha=partition.alpha,
            min_partition_size=partition.smallest,
            self_balancing=False,
            seed=seed,
        )
    return PathologicalPartitioner(
        num_partitions=sites,
        partition_by="value",
        num_classes_per_partition=partition.classes_per_site,
        class_assignment_mode="first-deterministic",  # as in the paper: every value is at a site
        seed=seed,
    )


def _absent() -> OurMistake:
    return OurMistake(
        "This partition needs flwr-datasets, which is not installed.",
        do='Install it: pip install "fedprint[lab]"',
    )
