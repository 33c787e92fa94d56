"""Constants and frozen configurations that all sides agree on; each checked once, when made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from shared_model.canonical import digest_of
from shared_model.errors import OurMistake

FS_HZ = 125.0
"""Sampling rate of every window, after resampling."""
WINDOW_S = 10.0
WINDOW_SAMPLES = 1250
PATCH_SAMPLES = 25
TOKENS = WINDOW_SAMPLES // PATCH_SAMPLES
"""Tokens per channel in one window."""
CHANNELS = ("ecg", "ppg")
"""Channel order on axis 'channel' of every window."""
FINGERPRINT_SIZE = 128

MINIMUM_CONTRIBUTORS = 2
"""No aggregate of fewer hospitals is ever made, whatever a configuration says."""


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise OurMistake(message)


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the masked autoencoder. `width` is the token size of encoders and bottleneck."""

    preset: str
    width: int
    heads: int
    encoder_blocks: int
    bottleneck_blocks: int
    decoder_width: int
    decoder_blocks: int
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        _need(self.width % self.heads == 0, "Model width must be a multiple of heads.")
        _need(
            min(self.encoder_blocks, self.bottleneck_blocks, self.decoder_blocks) >= 1,
            "Every part of the model needs at least one block.",
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def digest(self) -> str:
        return digest_of(self.as_dict())


@dataclass(frozen=True)
class PrivacyPlan:
    """What one round of private training at one hospital does, and therefore costs.

    sample_rate: probability q with which each patient enters a step (Poisson).
    noise_multiplier: noise standard deviation over the clipping norm; in mode `distributed` of the
        sum of t hospitals' shares of the noise, over the sensitivity after rounding.
    clipping_norm: L2 bound C on one patient's contribution to a step.
    steps: optimiser steps in the round; one in mode `distributed`.
    mode: trust model; in `local` every hospital adds full noise by itself, in `distributed` its
        share of it (`shared_model.distributed`).
    """

    sample_rate: float
    noise_multiplier: float
    clipping_norm: float
    steps: int
    mode: Literal["local", "distributed"] = "local"

    def __post_init__(self) -> None:
        _need(0.0 < self.sample_rate <= 1.0, "sample_rate must be in (0, 1].")
        _need(0.0 < self.noise_multiplier < 1e4, "noise_multiplier must be in (0, 10000).")
        _need(0.0 < self.clipping_norm < 1e4, "clipping_norm must be in (0, 10000).")
        _need(1 <= self.steps <= 100_000, "steps must be in 1 ... 100000.")
        _need(self.mode in {"local", "distributed"}, "mode must be 'local' or 'distributed'.")
        _need(
            self.mode == "local" or self.steps == 1,
            "A round of mode 'distributed' is one step: steps must be 1.",
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


Trainable = Literal["head", "all", "norms", "bottleneck", "adapters"]
"""What private training may change; see `shared_model.mae.trainable_names`."""
TRAINABLE: tuple[Trainable, ...] = get_args(Trainable)
FIRST_TRAINABLE: tuple[Trainable, ...] = ("head", "all")
"""Those that protocol version 3 has; the others came with version 5."""

StepName = Literal["fedavg", "fedadam", "fedyogi"]
"""What the server does with the mean update; see `shared_model.server_optimisers`."""


@dataclass(frozen=True)
class ServerMoments:
    """What FedAdam and FedYogi (2003.00295, Algorithm 2) take beside their learning rate.

    beta1, beta2: decay of the first and second moment. tau: added to the root of the second, in the
        unit of an update; its square is what the second moment begins with.
    """

    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        _need(0.0 <= self.beta1 < 1.0, "beta1 must be in [0, 1).")
        _need(0.0 <= self.beta2 < 1.0, "beta2 must be in [0, 1).")
        _need(1e-12 <= self.tau <= 1.0, "tau must be in [1e-12, 1].")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class LocalTraining:
    """How a hospital trains inside a round; public, the same at every site.

    proximal_weight: mu of FedProx (1812.06127): mu x (weights - received weights) is added to each
        step's noised mean gradient. A function of private values: it costs no privacy and leaves
        clipping as it was. 0: none; then it is in no message and no digest.
    """

    segments: int = 2
    patch_masks: int = 1
    learning_rate: float = 1e-3
    optimiser: Literal["sgd", "adam"] = "adam"
    trainable: Trainable = "head"
    cross_modal_weight: float = 1.0
    alignment_weight: float = 0.1
    contrast_weight: float = 0.0
    """In-patient InfoNCE; 0 until an ablation shows a gain."""
    proximal_weight: float = 0.0

    def __post_init__(self) -> None:
        _need(1 <= self.segments <= 64, "segments must be in 1 ... 64.")
        _need(1 <= self.patch_masks <= 16, "patch_masks must be in 1 ... 16.")
        _need(0.0 < self.learning_rate < 10.0, "learning_rate must be in (0, 10).")
        for weight in (self.cross_modal_weight, self.alignment_weight, self.contrast_weight):
            _need(0.0 <= weight <= 1e3, "Weights of loss terms must be in [0, 1000].")
        _need(self.trainable in TRAINABLE, f"trainable must be one of {', '.join(TRAINABLE)}.")
        _need(self.optimiser in {"sgd", "adam"}, "optimiser must be 'sgd' or 'adam'.")
        _need(0.0 <= self.proximal_weight <= 100.0, "proximal_weight must be in [0, 100].")
        if self.optimiser == "sgd":
            _need(
                self.proximal_weight * self.learning_rate <= 1.0 + 1e-9,
                "With sgd, proximal_weight x learning_rate must be at most 1: a step would be "
                "pulled beyond the received weights, and above 2 further away each time.",
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as messages and digests have them."""
        value = asdict(self)
        if not self.proximal_weight:
            del value["proximal_weight"]
        return value
