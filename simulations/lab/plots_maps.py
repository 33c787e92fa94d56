"""Maps of fingerprints: PCA, and UMAP where it is asked for, by site and by label."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from simulations.lab.evaluate_network import Network
from simulations.lab.evaluate_probes import Label, labels_of
from simulations.lab.evaluate_sample import Signals, choose
from simulations.lab.figures import F64, RunData
from simulations.lab.plots_style import (
    COLOURS,
    GREY,
    MARKERS,
    PALE,
    CannotDraw,
    blank,
    counted,
    panels,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_PATIENTS = 10
NEIGHBOURS = 15
_SEED = 20261128
NOT_NOW = (
    "UMAP is not drawn when a run ends: its library takes\n"
    "half a minute to load. Draw it: fedprint-lab report OUT"
)
NOT_HERE = "UMAP is not drawn: umap-learn is not installed\n(pip install 'fedprint[lab]')"


def fingerprints(run: RunData, network: Network, *, umap: bool) -> tuple[Figure, str]:
    """Held-out patients' mean fingerprints of both sensors in two dimensions."""
    data = network.data
    chosen = choose(data, run.experiment)
    signals = Signals.read(data, chosen.measured)
    features = network.fingerprints(signals, "both")
    places = np.flatnonzero(np.isfinite(features[:, 0]))
    if len(places) < LEAST_PATIENTS:
        raise CannotDraw(
            f"Fewer than {LEAST_PATIENTS} held-out patients: a map of them would say nothing."
        )
    rows = signals.rows[places]
    site = data.table["site"][rows]
    label = _label(run, labels_of(data, run.experiment, chosen)[0])
    first, share = _pca(features[places].astype(np.float64))
    maps = {"PCA": first}
    second = _umap(features[places]) if umap else NOT_NOW
    if not isinstance(second, str):
        maps["UMAP"] = second
    figure, axes = panels(len(maps), 2, height_in=1.75)
    if isinstance(second, str):
        figure.supxlabel(second, fontsize=6, color=GREY)
    for row, (name, made) in enumerate(maps.items()):
        left, right = axes[2 * row], axes[2 * row + 1]
        _by_class(left, made, _largest(site, [one.name for one in data.sites]))
        left.set_title(f"{name}, by site")
        if label is None:
            blank(right, "No label could be probed.")
            continue
        _by_label(right, made, label, rows)
        right.set_title(f"{name}, by {label.name}")
    return figure, (
        f"Fingerprints of {counted(len(places), 'held-out patient')} (mean over windows, both "
        f"sensors, the run's last model), one dot a patient. The two axes of PCA hold {share:.0%} "
        "of the variance. Axes have no unit; in UMAP near dots are alike, but distances and sizes "
        "of clusters mean nothing. Dots that part by site show how sites differ."
    )


def _label(run: RunData, labels: Sequence[Label]) -> Label | None:
    """The label of the partition, else the first of classes, else the first number."""
    wanted = run.experiment.federation.partition.label
    by_name = {label.name: label for label in labels}
    classes = [label for label in labels if label.kind == "auroc"]
    return by_name.get(wanted) or next(iter([*classes, *labels]), None)


def _pca(features: F64) -> tuple[F64, float]:
    """First two principal components (patient, 2), signs fixed; their share of the variance."""
    centred = features - features.mean(axis=0)
    left, size, axes = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(axes[np.arange(2), np.abs(axes[:2]).argmax(axis=1)])
    total = float((size**2).sum()) or 1.0
    return left[:, :2] * size[:2] * signs, float((size[:2] ** 2).sum()) / total


def _umap(features: npt.NDArray[np.float32]) -> F64 | str:
    """UMAP (1802.03426), cosine, seeded, in one thread; or why not."""
    if find_spec("umap") is None:
        return NOT_HERE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own libraries
        import umap

        made = umap.UMAP(
            n_neighbors=min(NEIGHBOURS, len(features) - 1),
            metric="cosine",
            random_state=_SEED,
            n_jobs=1,
        ).fit_transform(features)
    return np.asarray(made, dtype=np.float64)


def _largest(index: npt.NDArray[Any], names: list[str]) -> tuple[npt.NDArray[Any], list[str]]:
    """Indices of the most frequent values (the rest is -1), and their names."""
    values, counts = np.unique(index, return_counts=True)
    order = values[np.argsort(-counts, kind="stable")][: len(COLOURS)]
    if len(values) <= len(COLOURS):
        order = values
    made = np.full(len(index), -1)
    for place, value in enumerate(order):
        made[index == value] = place
    return made, [names[value] for value in order]


def _by_class(axes: Axes, points: F64, classes: tuple[npt.NDArray[Any], list[str]]) -> None:
    index, names = classes
    size = 9 if len(points) <= 150 else 4
    for place, name in enumerate(names):
        mine = index == place
        short = name if len(name) <= 14 else f"{name[:12]}…"
        axes.scatter(
            points[mine, 0], points[mine, 1], s=size, color=COLOURS[place],
            marker=MARKERS[place], lw=0, alpha=0.85, label=short,
        )  # fmt: skip
    rest = index < 0
    if rest.any():
        axes.scatter(
            points[rest, 0], points[rest, 1], s=size, color=PALE, marker="o", lw=0, label="others"
        )
    _bare(axes)
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2, fontsize=5.5, handletextpad=0.1,
        columnspacing=0.6, borderpad=0.1, labelspacing=0.25,
    )  # fmt: skip


def _by_label(axes: Axes, points: F64, label: Label, rows: npt.NDArray[Any]) -> None:
    truth = label.truth[rows]
    known = np.isfinite(truth)
    if label.kind == "auroc":
        index, names = _largest(truth[known].astype(int), list(label.names))
        _by_class(axes, points[known], (index, names))
        return
    dots = axes.scatter(
        points[known, 0], points[known, 1], s=6, c=truth[known], cmap="cividis", lw=0
    )
    bar = axes.figure.colorbar(dots, ax=axes, location="bottom", shrink=0.8, pad=0.03)
    bar.ax.tick_params(labelsize=5.5)
    bar.outline.set_visible(False)
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for side in axes.spines.values():
        side.set_visible(True)
        side.set_color(GREY)
