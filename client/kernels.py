"""Do the bits of one patient's gradient depend on the other patients, on this machine?

That one patient changes a clipped sum by at most C is true of the numbers that a machine computes
only if they do not. Chunks are padded to one size for that (`shared_model.privacy.clipped_sum`);
whether it is enough depends on the kernels of this machine: processor, threads, BLAS, GPU. So it is
measured on them, for the shapes of a round, before the round is booked:

    independent         weights of our own and every term of the loss: nothing that a coordinator
                        chooses keeps a kernel from being looked at; a trained tensor without a
                        gradient is refused, for nothing was looked at then
    independent_from    the weights and the loss of the request: kernels are chosen by shapes, and
                        yet some numbers (denormal ones, say) may be computed in another way
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from client.training import prepared, unit_batch
from shared_model import mae, privacy
from shared_model import weights as weights_io
from shared_model.config import CHANNELS, TOKENS, WINDOW_SAMPLES, LocalTraining
from shared_model.errors import Refused
from shared_model.weights import Weights

_APART = 0.1
"""Standard deviation of what each weight of a new model is moved by, so that none is 0 or 1: a
decoder's last layer of zeros stops gradients, and products with 0 or 1 are not rounded."""
_RECORDED = 0.9
"""Share of the tokens of pretend patients that are valid."""
_MODELS = 1
"""Received models whose answers are kept in memory: hospitals simulated in one process share it."""


@dataclass(frozen=True)
class Kind:
    """What decides which kernels compute a gradient. A process has one torch, BLAS and processor.

    chunk: patients whose gradients are taken at once.
    products: torch's setting of how exactly float32 matrices are multiplied.
    """

    preset: str
    training: LocalTraining
    chunk: int
    device: torch.device
    threads: int = field(default_factory=torch.get_num_threads)
    products: str = field(default_factory=torch.get_float32_matmul_precision)


@dataclass(frozen=True)
class Sent:
    """A received model's own weights; two are equal if their digests are."""

    digest: str
    weights: Weights = field(compare=False, repr=False)


def check_kernels(
    preset: str,
    training: LocalTraining,
    chunk: int,
    devices: Sequence[torch.device] = (),
    weights: Weights | None = None,
) -> None:
    """Measured once in a process for each kind of round, and once for each received model; on a GPU
    before each round, for a card can be full or broken while its neighbour is not.

    Args:
        chunk: patients whose gradients are taken at once.
        devices: where; () is the CPU.
        weights: the model's own, as the request has them, of this preset and finite.

    Raises:
        Refused: a bit of a patient's gradient changed with the others, or no gradient was there to
            look at ("not-ready").
    """
    for device in dict.fromkeys(devices or (torch.device("cpu"),)):
        try:
            same = _same(preset, training, chunk, device, weights)
        except RuntimeError as error:  # of torch; out of memory, too
            raise Refused(
                f"{device} cannot compute: {type(error).__name__}.",
                reason="not-ready",
                do="See who else uses the card (nvidia-smi), start the node anew, or set gpus = 0 "
                "in node.toml.",
            ) from error
        if not same:
            raise Refused(
                "On this machine a patient's gradient changes with the other patients by rounding: "
                f"the guarantee would not hold for preset {preset} on {device}.",
                reason="not-ready",
                do="Set cores = 1 and gpus = 0 in node.toml; if it stays, report processor and "
                "torch's version.",
            )


def _same(
    preset: str,
    training: LocalTraining,
    chunk: int,
    device: torch.device,
    weights: Weights | None,
) -> bool:
    kept = device.type == "cpu"
    shapes = Kind(preset, every_term(training), chunk, device)
    if not (known if kept else independent)(shapes):
        return False
    if weights is None:
        return True
    sent = Sent(weights_io.digest(weights), weights)
    return (known_from if kept else independent_from)(Kind(preset, training, chunk, device), sent)


def every_term(training: LocalTraining) -> LocalTraining:
    """Training of the same shapes with all terms of the loss, alike, whatever was asked for."""
    return LocalTraining(
        segments=training.segments,
        patch_masks=training.patch_masks,
        trainable=training.trainable,
        cross_modal_weight=1.0,
        alignment_weight=1.0,
        contrast_weight=1.0,
    )


def independent(kind: Kind) -> bool:
    """Whether a pretend patient's gradient has the same bits at every place of a chunk, whoever
    else is there: at the first beside others and beside copies of itself as in a padded chunk; then
    at the places whose number has a bit set, and at those where it has not, for every bit, beside
    others without numbers and beside much larger ones. Any two places differ in a bit, so that each
    is the patient's while the other is somebody else's.

    Which kernel computes a product is chosen by shapes: so pretend patients of noise and random
    weights tell about the real ones.

    Raises:
        Refused: a trained tensor's gradient is zero or not finite ("not-ready").
    """
    unit, held = prepared(mae.build(mae.PRESETS[kind.preset], 0), kind.training)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in unit.named_parameters():
            value.add_(_APART * torch.randn(value.shape, generator=generator))
            if name in held:
                held[name].copy_(value)
    alone = _Alone(kind, unit, held)
    places = torch.arange(kind.chunk)
    alone.same(places == 0)  # what all others are held against
    unseen = alone.without_gradient()
    if unseen:
        raise Refused(
            f"The kernels of this machine could not be looked at: the gradient of {unseen[0]} is "
            f"zero or not finite for preset {kind.preset} on {kind.device}.",
            reason="not-ready",
            do="Set gpus = 0 in node.toml, or compare versions with the coordinator's operator: "
            "fedprint-node --version",
        )
    if not alone.same(places >= 0):
        return False
    return all(
        alone.same((places >> bit) % 2 == value, larger=larger)
        for bit in range((kind.chunk - 1).bit_length())
        for value in (0, 1)
        for larger in (torch.nan, 1e6)
    )


def independent_from(kind: Kind, sent: Sent) -> bool:
    """As `independent` from the weights that were received, with the request's own loss: at one
    place beside others, at half of the places beside much larger ones, at the other half beside
    others without numbers. Zeros may be: a new model has them. Which places, and who the patients
    are, nobody can know before.
    """
    model = mae.build(mae.PRESETS[kind.preset], 0)
    mae.load_weights(model, sent.weights)
    seed = int.from_bytes(os.urandom(16))
    alone = _Alone(kind, *prepared(model, kind.training), seed=seed)
    order = np.random.default_rng(seed).permutation(kind.chunk)
    half = torch.from_numpy(order < (kind.chunk + 1) // 2)
    alone.same(torch.from_numpy(order == 0))  # what the others are held against
    return alone.same(half, larger=1e6) and alone.same(~half, larger=torch.nan)


known = functools.cache(independent)
known_from = functools.lru_cache(maxsize=_MODELS)(independent_from)


class _Alone:
    """A pretend patient's gradient at some places of a chunk, other patients at the rest."""

    def __init__(
        self, kind: Kind, unit: nn.Module, held: Mapping[str, Tensor], seed: int = 0
    ) -> None:
        self._unit, self._kind = unit.to(kind.device), kind
        self._held = {name: value.to(kind.device) for name, value in held.items()}
        everybody, rng = np.arange(kind.chunk + 1), np.random.default_rng(seed)
        self._batch = unit_batch(_Noise(kind.chunk + 1), everybody, kind.training, rng)
        self._before: dict[str, Tensor] = {}  # (1, *shape)

    def same(self, here: Tensor, larger: float = 1.0) -> bool:
        """Whether it has the same bits at each of these places, and as it had at those before.

        Args:
            here: bool (chunk,). larger: how many times as large the signals of the others are; may
                be NaN.
        """
        if not here.any():
            return True
        who = torch.where(here, 0, torch.arange(1, self._kind.chunk + 1))
        patches, valid, hidden = (value[who] for value in self._batch)
        patches[~here] *= larger
        rows = [value.to(self._kind.device) for value in (patches, valid, hidden)]
        gradients = privacy.per_patient_gradients(self._unit, self._held, rows)
        found = {name: value[here.to(value.device)] for name, value in gradients.items()}
        if not self._before:
            self._before = {name: value[:1].clone() for name, value in found.items()}
        return all(_alike(found[name], value) for name, value in self._before.items())

    def without_gradient(self) -> list[str]:
        """Trained tensors whose gradient was zero, or held what is no number."""
        return [
            name
            for name, one in self._before.items()
            if not bool(one.isfinite().all() and one.any())
        ]


def _alike(found: Tensor, wanted: Tensor) -> bool:
    """Equal, or no number in both: such a patient contributes zero."""
    return bool(((found == wanted) | (found.isnan() & wanted.isnan())).all())


@dataclass(frozen=True)
class _Noise:
    """Pretend patients, each with windows of noise; some tokens are not valid."""

    patient_count: int

    def segments(
        self, patients: np.ndarray, segments: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        shape = (len(patients), segments, len(CHANNELS))
        signal = rng.standard_normal((*shape, WINDOW_SAMPLES), dtype=np.float32)
        return signal, rng.random((*shape, TOKENS)) < _RECORDED
