"""The weights of which a benchmark is, and their digest for its file."""

from __future__ import annotations

from collections.abc import Callable

from shared_model import mae, warm_start
from shared_model import weights as weights_io
from shared_model.config import ModelConfig
from shared_model.weights import Weights


def packaged_or_random(
    preset: str, tell: Callable[[str], None]
) -> tuple[ModelConfig, Weights, dict[str, str]]:
    """Configuration, weights, digest by name. Random ones where no warm start of this preset is
    packaged: said on stderr, and in the name."""
    if preset in warm_start.packaged():
        name = f"warm-start:{preset}"
        config, weights, _ = warm_start.load(preset)
    else:
        tell(f"no warm start of {preset} is packaged: RANDOM weights, agreement means nothing")
        name = f"random weights of {preset}"
        config = mae.PRESETS[preset]
        weights = mae.weights_of(mae.build(config, 0))
    return config, weights, {name: weights_io.digest(weights)}
