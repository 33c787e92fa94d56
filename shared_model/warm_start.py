"""The packaged warm start: weights trained on simulated windows only, no patient's data.

Made by `fedprint-lab warm-start`; see docs/model.md for the command.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from shared_model import weights as weights_io
from shared_model.config import ModelConfig
from shared_model.errors import OurMistake
from shared_model.weights import Weights


def packaged() -> tuple[str, ...]:
    """Presets of which a warm start is packaged, in order of their names."""
    folder = files("shared_model") / "data"
    names = (entry.name for entry in folder.iterdir())
    found = (n for n in names if n.startswith("warm_start_") and n.endswith(".json"))
    return tuple(sorted(n.removeprefix("warm_start_").removesuffix(".json") for n in found))


def preset_of(model_digest: str) -> str:
    """The preset whose packaged warm start is the model of this digest; "" if it is none."""
    folder = files("shared_model") / "data"
    for preset in packaged():
        text = (folder / f"warm_start_{preset}.json").read_text(encoding="utf-8")
        if json.loads(text)["model_digest"] == model_digest:
            return preset
    return ""


def if_packaged(model_digest: str, command: str) -> str:
    """Where the model of this digest is a packaged warm start, a sentence with the command that
    takes it, to be put behind another; else "".

    Args:
        command: up to the preset, with which it ends.
    """
    preset = preset_of(model_digest)
    told = f" Its model is the packaged warm start of preset {preset}: {command}{preset}"
    return told if preset else ""


def load(preset: str = "tiny") -> tuple[ModelConfig, Weights, dict[str, Any]]:
    """Configuration, weights and manifest of the packaged warm start.

    Raises:
        OurMistake: no warm start of this preset is packaged.
        Refused: the file is not the one that its manifest describes.
    """
    folder = files("shared_model") / "data"
    try:
        data = (folder / f"warm_start_{preset}.safetensors").read_bytes()
        text = (folder / f"warm_start_{preset}.json").read_text(encoding="utf-8")
    except OSError as error:
        raise OurMistake(
            f"No warm start of preset {preset!r} is packaged.",
            do=f"Packaged: {', '.join(packaged())}. Make another with: fedprint-lab warm-start OUT "
            "--preset PRESET",
        ) from error
    return read(data, text)


def read(data: bytes, manifest_text: str) -> tuple[ModelConfig, Weights, dict[str, Any]]:
    """Parse a warm start and hold it against its manifest.

    Raises:
        OurMistake: digest or shape differ.
        Refused: not safetensors.
    """
    manifest: dict[str, Any] = json.loads(manifest_text)
    config = ModelConfig(**manifest["model"])
    found = weights_io.from_bytes(data)
    if weights_io.digest(found) != manifest["model_digest"]:
        raise OurMistake(
            "The warm start is not the one that its manifest describes.",
            do="Install fedprint again.",
        )
    return config, found, manifest
