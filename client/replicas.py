"""Private training on several devices of one hospital: one copy of the model on each.

A clipped sum is a sum over patients, so that devices need no collective operation: each takes
whole chunks of patients, and the host adds the chunks' sums. Weights, noise and optimiser stay on
the host; devices see received weights and clip, never noise.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor, nn

from shared_model import privacy
from shared_model.errors import Refused


def devices_of(gpus: int) -> tuple[torch.device, ...]:
    """The first `gpus` GPUs that torch sees (CUDA or ROCm); () is the CPU.

    Raises:
        Refused: there are fewer ("not-ready"). Nothing trains on the CPU in their place, for it
            would take days where hours were planned.
    """
    if not gpus:
        return ()
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen < gpus:
        raise Refused(
            f"gpus in node.toml is {gpus}, and torch sees {seen}.",
            reason="not-ready",
            do="Lower gpus, or see docs/hospital-it.md, GPUs: torch's build and the service's "
            "devices.",
        )
    return tuple(torch.device("cuda", place) for place in range(gpus))


class Replicas:
    """Copies of a loss and its trained weights, one on each device."""

    def __init__(
        self, loss: nn.Module, weights: Mapping[str, Tensor], devices: Sequence[torch.device]
    ) -> None:
        self._copies = [
            (
                copy.deepcopy(loss).to(device),
                {name: value.detach().clone().to(device) for name, value in weights.items()},
                device,
            )
            for device in devices
        ]

    def clipped_sum(
        self,
        weights: Mapping[str, Tensor],
        batches: Iterable[Sequence[Tensor]],
        clipping_norm: float,
        *,
        chunk: int,
    ) -> np.ndarray:
        """Sum of `privacy.clipped_sum` over the batches, each at most `chunk` patients.

        Batches go to the devices by turns and are added in their order: what comes out does not
        depend on which device was faster. One batch waits on each device at most.

        Args:
            weights: the host's, by the names given before; the copies follow them first.

        Returns:
            float64 (d,), the same as one device after another to the bit if the devices are alike.
        """
        for _, held, _ in self._copies:
            for name, value in held.items():
                value.copy_(weights[name])
        total = np.zeros(sum(value.numel() for value in weights.values()), dtype=np.float64)
        with ExitStack() as stack:
            # one thread a device, for torch swaps parameters into a module while it runs
            threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in self._copies]
            running: deque[Future[np.ndarray]] = deque()
            for turn, batch in enumerate(batches):
                place = turn % len(threads)
                running.append(threads[place].submit(self._one, place, batch, clipping_norm, chunk))
                if len(running) > len(threads):
                    total += running.popleft().result()
            for one in running:
                total += one.result()
        return total

    def _one(
        self, place: int, batch: Sequence[Tensor], clipping_norm: float, chunk: int
    ) -> np.ndarray:
        loss, held, device = self._copies[place]
        moved = [value.to(device) for value in batch]
        return privacy.clipped_sum(loss, held, moved, clipping_norm, chunk=chunk)
