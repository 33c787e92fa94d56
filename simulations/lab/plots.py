"""All plots of a run's folder, drawn from what it holds so far.

plots = draw_all(RunData.read(folder), folder / "plots")
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from shared_model import mae
from shared_model import weights as weights_io
from simulations.lab import plots_curves, plots_maps, plots_signals, plots_sites
from simulations.lab.evaluate import one_thread
from simulations.lab.evaluate_network import Network
from simulations.lab.figures import RunData
from simulations.lab.plots_style import CannotDraw, Plot, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES: tuple[tuple[str, str, Callable[[RunData], tuple[Figure, str]]], ...] = (
    ("loss", "Loss", plots_curves.loss),
    ("probes-rounds", "Probes against rounds", plots_curves.probes_by_round),
    ("probes-epsilon", "Probes against epsilon", plots_curves.probes_by_epsilon),
    ("fairness", "Fairness between sites", plots_sites.fairness),
    ("rounds", "How the rounds went", plots_curves.rounds),
    ("communication", "Communication and time", plots_sites.communication),
)
RECONSTRUCTIONS = "reconstructions"
FINGERPRINTS = "fingerprints"
NOT_SHOWN = (
    "These would be signals of real people: they are drawn only by "
    "fedprint-lab report OUT --show-signals"
)


def draw_all(
    run: RunData,
    folder: Path,
    *,
    umap: bool = False,
    show_signals: bool = False,
    on_plot: Callable[[str], None] = lambda _: None,
) -> list[Plot]:
    """Draw and write every plot; what cannot be drawn is in the list with its reason.

    Args:
        umap: draw it too; its library takes half a minute to load.
        show_signals: draw examples of real people's signals.
        on_plot: called with each title before it is drawn.

    Raises:
        Refused: the final model is damaged.
    """
    made = []
    for name, title, make in CURVES:
        on_plot(title)
        made.append(draw(folder, name, title, partial(make, run)))
    with one_thread():
        on_plot("Each sensor from the other")
        made += _reconstructions(run, folder, show_signals=show_signals)
        on_plot("Fingerprints")
        real = run.experiment.federation.source == "folders"  # a point is a patient
        mode = 0o600 if real else 0o644
        maps = partial(_maps, run, umap)
        made.append(draw(folder, FINGERPRINTS, "Maps of fingerprints", maps, mode=mode))
    return made


def _maps(run: RunData, umap: bool) -> tuple[Figure, str]:
    return plots_maps.fingerprints(run, network_of(run), umap=umap)


def _reconstructions(run: RunData, folder: Path, *, show_signals: bool) -> list[Plot]:
    title = "Each sensor drawn from the other"
    for old in folder.glob(f"{RECONSTRUCTIONS}-*"):
        old.unlink()
    try:
        if run.experiment.federation.source == "folders" and not show_signals:
            raise CannotDraw(NOT_SHOWN)
        shown = plots_signals.examples(run, network_of(run))
    except CannotDraw as reason:
        return [Plot(RECONSTRUCTIONS, title, str(reason))]
    parts = -(-len(shown.truth) // plots_signals.A_FIGURE)
    mode = 0o600 if run.experiment.federation.source == "folders" else 0o644
    return [
        draw(
            folder,
            f"{RECONSTRUCTIONS}-{part + 1}",
            title if parts == 1 else f"{title}, {part + 1} of {parts}",
            partial(plots_signals.reconstructions, run, shown, part),
            mode=mode,
        )
        for part in range(parts)
    ]


def network_of(run: RunData) -> Network:
    """The final model; with local norms, each site's own in their place.

    Raises:
        CannotDraw: there is none yet, or the patients are gone. Refused: it is damaged.
    """
    path = run.folder / "model.safetensors"
    if not path.is_file():
        raise CannotDraw("The run has no final model yet.")
    if run.data is None:
        raise CannotDraw("The federation's patients are not on this machine any more.")
    config = mae.PRESETS[run.experiment.model.preset]
    like = mae.weights_of(mae.build(config, seed=0))
    weights = weights_io.from_bytes(path.read_bytes(), like=like)
    own = run.own_norms if run.experiment.algorithm.local_norms else {}
    return Network(config, weights, run.data, own, os.cpu_count() or 1)
