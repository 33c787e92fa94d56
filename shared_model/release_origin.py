"""Which first models does this version know by their digest? Both cost no patient anything."""

from __future__ import annotations

from collections.abc import Mapping

from shared_model import weights as weights_io
from shared_model.errors import FedprintError

EARLIER_WARM_STARTS: Mapping[str, frozenset[str]] = {
    "small": frozenset(
        {
            "e191265a3ba50a689e4c2d371d7fe24fdc703b3f9ba07617c47e7d3098ab7a34",
            "a42e8876f4beb7c7a4968e5546798edf57138235ed15fd67fd3449d7ac16aee9",
        }
    ),
}
"""Digests of warm starts that shipped before and no longer do: runs that began with them go on."""


def known_origin(preset: str, digest: str) -> str | None:
    """Words for a first model that this version can make itself, None for any other."""
    if packaged_warm_start(preset) == digest:
        return "packaged warm start, trained on simulated signals only"
    if digest in EARLIER_WARM_STARTS.get(preset, frozenset()):
        return "warm start of an earlier version, trained on simulated signals only"
    if random_weights(preset) == digest:
        return "random weights drawn with seed 0, no data"
    return None


def packaged_warm_start(preset: str) -> str | None:
    """Digest of the warm start that ships with this version, None if there is none."""
    from shared_model import warm_start

    try:
        _, weights, _ = warm_start.load(preset)
    except FedprintError:
        return None
    return weights_io.digest(weights)


def random_weights(preset: str) -> str | None:
    """Digest of the random weights that `begin_with = "random-weights"` means."""
    from shared_model import mae

    config = mae.PRESETS.get(preset)
    return None if config is None else weights_io.digest(mae.weights_of(mae.build(config, 0)))
