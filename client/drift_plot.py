"""Where patients lie: two principal components of their mean fingerprints, one panel a sensor."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from client.drift import Measures
from client.fingerprints import SENSORS
from shared_model import outputs
from shared_model.errors import OurMistake

STYLES = (("simulated", "0.75", "."), ("reference", "tab:blue", "o"), ("new", "tab:red", "x"))
FORMATS = (".png", ".pdf", ".svg")


def refuse_other_endings(path: Path) -> None:
    """Raises OurMistake: another ending than `FORMATS`."""
    if path.suffix not in FORMATS:
        raise OurMistake(f"A plot is one of {', '.join(FORMATS)}.")


def draw(path: Path, then: Measures, now: Measures, simulated: Measures) -> None:
    """Write the figure, mode 0600: a point is a patient, without a name.

    Raises:
        OurMistake: another ending than `FORMATS`, or it cannot be written.
    """
    from matplotlib.figure import Figure

    refuse_other_endings(path)
    figure = Figure(figsize=(9.0, 3.2), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(SENSORS))
    for axes, sensors in zip(panels, SENSORS, strict=True):
        groups = [one.means[sensors] for one in (simulated, then, now)]
        groups = [group[np.isfinite(group).all(axis=1)] for group in groups]
        together = np.concatenate(groups)
        if not len(groups[1]) and not len(groups[2]):
            axes.set_axis_off()
            continue
        centre = together.mean(axis=0)
        directions = np.linalg.svd(together - centre, full_matrices=False)[2][:2]
        for group, (name, colour, marker) in zip(groups, STYLES, strict=True):
            at = (group - centre) @ directions.T
            axes.scatter(at[:, 0], at[:, 1], c=colour, marker=marker, s=16, label=name)
        axes.set_title(sensors)
        axes.set_xticks([])
        axes.set_yticks([])
    for axes in panels:
        if axes.axison:  # the first that shows somebody
            axes.legend(fontsize=7)
            break
    stream = io.BytesIO()
    figure.savefig(stream, format=path.suffix[1:])
    outputs.write(path, stream.getvalue())
