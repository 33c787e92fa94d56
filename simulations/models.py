"""A model by what a user names it: the packaged warm start, a release, or a file of weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared_model import warm_start
from shared_model import weights as weights_io
from shared_model.config import ModelConfig
from shared_model.errors import OurMistake, Refused
from shared_model.weights import Weights

PACKAGED = "warm-start"
LARGEST_FILE = 200 * 2**20
"""Bytes of a file of weights; `base` has 39 MB."""


@dataclass(frozen=True)
class NamedModel:
    """Configuration and weights, and in words what is known of them: for tables and manifests."""

    config: ModelConfig
    weights: Weights = field(repr=False)
    words: dict[str, Any]

    @property
    def digest(self) -> str:
        """Of the weights, as manifests name it."""
        return weights_io.digest(self.weights)


def open_model(name: str, signer: str | None = None) -> NamedModel:
    """Open `warm-start`, `warm-start:PRESET`, a release (folder or file), or a safetensors file.

    Args:
        signer: release key in hexadecimal, or a coordinator.json; without it a release's signature
            is not looked at, and `words` say so.

    Raises:
        OurMistake: nothing by that name, weights of no preset, or a signer of what nobody signed.
        Refused: the file or release is not what it says.
    """
    kind, _, preset = name.partition(":")
    if kind == PACKAGED:
        _refuse_signer(name, signer)
        config, found, _ = warm_start.load(preset or "tiny")
        words = {"private_training": "none: simulator only"}
        return _named(name, config, found, words)
    path = Path(name)
    if path.is_file() and path.suffix == ".safetensors":
        _refuse_signer(path.name, signer)
        return _weights_file(path)
    if not path.exists():
        raise OurMistake(
            f"There is no model {name!r}.",
            do=f"Name {PACKAGED}, {PACKAGED}:small, a release, or a .safetensors file.",
        )
    return _release(path, signer)


def _refuse_signer(name: str, signer: str | None) -> None:
    """Who gives a key wants it looked at."""
    if signer is not None:
        raise OurMistake(
            f"{name} has no signature that --signer could verify; only a release has.",
            do="Leave out --signer, or name a release.",
        )


def _named(name: str, config: ModelConfig, found: Weights, words: dict[str, Any]) -> NamedModel:
    facts = {"source": name, "preset": config.preset, "model_digest": weights_io.digest(found)}
    return NamedModel(config, found, facts | words)


def read_weights(path: Path, *, like: Weights | None = None) -> Weights:
    """Weights of a safetensors file that a user names.

    Args:
        like: names and shapes that the file must have.

    Raises:
        OurMistake: it cannot be read, or is too large.
        Refused: it is no safetensors file, or has other weights.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST_FILE + 1)
    except OSError as error:
        raise OurMistake(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > LARGEST_FILE:
        raise OurMistake(f"{path.name} is larger than any model of fedprint.")
    try:
        return weights_io.from_bytes(data, like=like)
    except Refused as error:
        raise Refused(f"{path.name}: {error.message}", reason=error.reason) from error


def _weights_file(path: Path) -> NamedModel:
    from shared_model.mae import PRESETS, build

    found = read_weights(path)
    shapes = {name: value.shape for name, value in found.items()}
    for config in PRESETS.values():
        wanted = {n: tuple(value.shape) for n, value in build(config, 0).named_parameters()}
        if shapes == wanted:
            words = {"private_training": "not known: a file of weights, signed by nobody"}
            return _named(str(path), config, found, words)
    raise OurMistake(
        f"{path.name} has the weights of no preset.", do=f"Presets: {', '.join(PRESETS)}."
    )


def _release(path: Path, signer: str | None) -> NamedModel:
    from shared_model.release import Manifest
    from shared_model.release_checks import verify
    from shared_model.release_files import read_release, read_signer
    from shared_model.release_signed import check_weights
    from shared_model.release_words import describe

    files = read_release(path)
    if signer is None:
        manifest = Manifest.from_bytes(files.manifest)
        trained = check_weights(manifest, files.weights)
        signed = "NOT CHECKED (no --signer given)"
    else:
        release = verify(files, read_signer(signer))
        manifest, trained = release.manifest, release.weights
        signed = "verified"
    words = {"signature": signed, **describe(manifest)}
    return _named(str(path), manifest.model.config(), trained, words)
