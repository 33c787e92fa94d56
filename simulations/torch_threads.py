"""How many threads torch may use: its sums depend on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from shared_model.errors import OurMistake

ALWAYS = 2
"""Threads that any machine takes: the default of some commands."""


def check_threads(count: int) -> None:
    """More threads than cores are slower, and very many end torch.

    Raises:
        OurMistake: this machine has not so many cores.
    """
    most = max(ALWAYS, os.cpu_count() or 1)
    if count > most:
        raise OurMistake(
            f"{count} threads are more than this machine has cores.", do=f"Take at most {most}."
        )


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many in this block; as many as before after it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
