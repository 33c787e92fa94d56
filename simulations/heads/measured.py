"""A head's figures as a measured file, of which docs/results.md is made: beside the head's folder.

    outputs.new_file(file_of(output))                   # before the work
    path = write(output, head, model, seconds=12.0)     # measured-head-NAME.json

It holds what the head's manifest says, and of patients nothing besides but how long the work took,
which tells roughly how many windows there are: of a private head of data that are not open in whole
minutes, rounded up. So the file of a private head has the figures of its noisy histogram, or those
of held-out patients that somebody declared public. What was measured of other trainings on the same
held-out patients stays in the report; only where everybody has the data, or the patients are
simulated, it is in the file too. Like the report it lies beside the folder, for its owner alone: a
folder with it in it would not be signed.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from shared_model import outputs
from shared_model.heads.arrays import Head
from shared_model.heads.manifest import HeadManifest
from simulations import measurement
from simulations.models import NamedModel

KIND = "head"
NOT_PROTECTED = (
    "NOT PROTECTED: of patients without noise of the operating system, whose data are not known to "
    "be open"
)
_KEPT = (
    "task", "kind", "about", "classes", "unit", "item", "sensors", "collections", "open_data",
    "patients", "items", "windows", "left_out", "class_counts", "figures", "figures_of",
    "figures_from", "figures_public", "groups", "hidden", "temperature", "sets", "band",
    "distance", "verification", "privacy", "seed", "notes", "limits",
)  # fmt: skip
_CURVES = ("reliability_before", "reliability_after", "curve")
"""Of temperature, sets and verification: plots are drawn of them, no table is."""


def file_of(output: Path) -> Path:
    """Where the measured file of a head lies: beside its folder, under a name that
    `fedprint-lab results` looks for."""
    whole = Path(os.path.abspath(output))
    return whole.parent / f"measured-head-{whole.name}.json"


def figures_of(head: Head, report: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the file says of a head.

    Args:
        report: of a federated one (`simulations.heads.compare`).
    """
    manifest = head.manifest
    plain = manifest.model_dump(mode="json")
    told = {name: plain[name] for name in _KEPT}
    for name in ("temperature", "sets", "verification"):
        if told[name] is not None:
            told[name] = {key: one for key, one in told[name].items() if key not in _CURVES}
    told |= {"head": manifest.digest, "public": public_words(manifest), "federated": None}
    if report is not None:
        told["federated"] = {"rows": [], "measured_on": ""}
        if manifest.open_data:
            whose = " ".join((f"{report['measured_on']}.", *report["rates"])).removesuffix(".")
            told["federated"] = {"rows": report["rows"], "measured_on": whose}
    return told


def public_words(manifest: HeadManifest) -> str:
    """Why the figures may be seen, or that nobody has said that they may."""
    if manifest.open_data:
        return f"the data are open: {manifest.open_data}"
    if manifest.privacy.noise != "system":
        return NOT_PROTECTED
    if not manifest.tells:
        return "no figure of patients without noise"
    if not manifest.figures_public:
        return NOT_PROTECTED
    return f"figures of held-out patients, declared public by: {manifest.figures_public}"


def told_seconds(manifest: HeadManifest, seconds: float) -> float:
    """How long the work took; of a private head of closed data in whole minutes, rounded up."""
    if manifest.privacy.mode == "without" or manifest.open_data:
        return seconds
    return 60.0 * math.ceil(seconds / 60.0)


def write(
    output: Path,
    head: Head,
    model: NamedModel,
    *,
    seconds: float,
    report: dict[str, Any] | None = None,
) -> Path:
    """Write the file, mode 0600, and say where.

    Raises:
        OurMistake: it cannot be written.
    """
    made = measurement.made_now(
        KIND,
        figures_of(head, report),
        weights={str(model.words.get("source", "model")): model.digest},
        seconds=told_seconds(head.manifest, seconds),
    )
    path = file_of(output)
    outputs.write(path, made.to_bytes())
    return path
