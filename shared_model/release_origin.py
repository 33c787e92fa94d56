"""Which first models does this version know by their digest? Both cost no patient anything."""

from __future__ import annotations

from shared_model import weights as weights_io
from shared_model.errors import FedprintError


def known_origin(preset: str, digest: str) -> str | None:
    """Words for a first model that this version can make itself, None for any other."""
    if packaged_warm_start(preset) == digest:
        return "packaged warm start, trained on simulated signals only"
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
