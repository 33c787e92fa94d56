"""Do the bits of one patient's gradient depend on the other patients, on this machine?

That one patient changes a clipped sum by at most C is true of the numbers that a machine computes
only if they do not. Chunks are padded to one size for that (`shared_model.privacy.clipped_sum`);
whether it is enough depends on the kernels of this machine: processor, threads, BLAS, GPU. So it is
measured on them, for the shapes of a round, before the round is booked.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from client.training import prepared, unit_batch
from shared_model import mae, privacy
from shared_model.config import CHANNELS, TOKENS, WINDOW_SAMPLES, LocalTraining
from shared_model.errors import Refused


def check_kernels(
    preset: str, training: LocalTraining, chunk: int, devices: Sequence[torch.device] = ()
) -> None:
    """Measured once in a process for each kind of round and number of threads; on a GPU before
    each round, for a card can be full or broken while its neighbour is not.

    Args:
        chunk: patients whose gradients are taken at once.
        devices: where; () is the CPU.

    Raises:
        Refused: a bit of a patient's gradient changed with the others ("not-ready").
    """
    for device in dict.fromkeys(devices or (torch.device("cpu"),)):
        measure = known if device.type == "cpu" else independent
        try:
            same = measure(preset, training, chunk, device, torch.get_num_threads())
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


def independent(
    preset: str, training: LocalTraining, chunk: int, device: torch.device, threads: int
) -> bool:
    """Whether a pretend patient's gradient has the same bits at each end of a chunk, whoever else
    is there: others, much larger ones, no numbers at all, copies of itself as in a padded chunk.

    Which kernel computes a product is chosen by shapes, not by values: so pretend patients of noise
    and random weights tell about the real ones.

    Args:
        threads: what torch computes with; part of the key alone.
    """
    unit, received = prepared(mae.build(mae.PRESETS[preset], 0), training)
    unit, held = unit.to(device), {name: value.to(device) for name, value in received.items()}
    batch = unit_batch(_Noise(chunk), np.arange(chunk), training, np.random.default_rng(0))
    one = [value[:1] for value in batch]
    wanted: dict[str, Tensor] = {}
    for turn, others in enumerate(_companies(batch, one, chunk)):
        place = 0 if turn % 2 == 0 else chunk - 1
        rows = [
            torch.cat([many[:place], alone, many[place:]]).to(device)
            for many, alone in zip(others, one, strict=True)
        ]
        gradients = privacy.per_patient_gradients(unit, held, rows)
        found = {name: value[place].clone() for name, value in gradients.items()}
        wanted = wanted or found
        if any(not torch.equal(found[name], value) for name, value in wanted.items()):
            return False
    return True


known = functools.cache(independent)


def _companies(batch: Sequence[Tensor], one: Sequence[Tensor], chunk: int) -> list[list[Tensor]]:
    """Ways of filling the other `chunk` - 1 places."""
    patches, valid, hidden = (value[1:] for value in batch)
    copies = [value.repeat(chunk - 1, *[1] * (value.ndim - 1)) for value in one]
    return [
        [patches, valid, hidden],
        [1e6 * patches, valid, hidden],
        [patches * torch.nan, valid, hidden],
        copies,
    ]


@dataclass(frozen=True)
class _Noise:
    """Pretend patients, each with a window of noise."""

    patient_count: int

    def segments(
        self, patients: np.ndarray, segments: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        shape = (len(patients), segments, len(CHANNELS))
        signal = rng.standard_normal((*shape, WINDOW_SAMPLES), dtype=np.float32)
        return signal, np.ones((*shape, TOKENS), dtype=np.bool_)
