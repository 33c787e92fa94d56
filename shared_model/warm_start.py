"""The warm start that ships with the project: weights trained on simulated signals only."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from shared_model import mae, weights
from shared_model.config import ModelConfig
from shared_model.errors import OurMistake, Refused
from shared_model.weights import Weights

FORMAT = "fedprint-warm-start-1"


def load(preset: str = "tiny") -> tuple[ModelConfig, Weights, dict[str, Any]]:
    """The packaged warm start of a preset: configuration, weights, manifest.

    Raises:
        OurMistake: no such preset, or none is packaged.
        Refused: the packaged files do not agree with each other (reason "digest" or "weights").
    """
    if preset not in mae.PRESETS:
        raise OurMistake(f"No preset {preset!r}.", do=f"Choose from: {', '.join(mae.PRESETS)}.")
    folder = resources.files("shared_model") / "data"
    try:
        data = (folder / f"warm_start_{preset}.safetensors").read_bytes()
        text = (folder / f"warm_start_{preset}.json").read_bytes()
    except OSError as error:
        raise OurMistake(
            f"No warm start of preset {preset!r} is packaged.",
            do="Make one: fedprint-lab warm-start OUT --preset " + preset,
        ) from error
    return check(data, text)


def check(data: bytes, manifest_json: bytes) -> tuple[ModelConfig, Weights, dict[str, Any]]:
    """Parse a warm start and hold it against its manifest.

    Raises:
        Refused: not a warm start, or weights, shapes and digest do not agree.
    """
    try:
        manifest = json.loads(manifest_json)
        if manifest["format"] != FORMAT:
            raise ValueError("format")
        config = ModelConfig(**manifest["model"])
        digest = str(manifest["weights_digest"])
    except (ValueError, TypeError, KeyError, RecursionError, OurMistake) as error:
        raise Refused("This is not the manifest of a warm start.", reason="weights") from error
    if mae.PRESETS.get(config.preset) != config:
        raise Refused("The warm start is of a model that is not here.", reason="weights")
    like = mae.weights_of(mae.build(config, seed=0))
    found = weights.from_bytes(data, like=like)
    if weights.digest(found) != digest:
        raise Refused("The warm start is not what its manifest says.", reason="digest")
    return config, found, manifest
