"""A function over many orders in a pool of processes, results in order, few of them in memory."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from shared_model.errors import OurMistake

Order = TypeVar("Order")
Result = TypeVar("Result")
_AHEAD = 2
"""Results that may wait for each process."""


def in_order(
    function: Callable[[Order], Result], orders: Sequence[Order], workers: int
) -> Iterator[Result]:
    """`function` of each order; `workers` 0: in this process.

    Raises:
        OurMistake: a process ended by itself.
    """
    if not workers:
        yield from map(function, orders)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for order in orders:
                waiting.append(pool.submit(function, order))
                if len(waiting) > _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise OurMistake(
                "A process that draws patients ended by itself.",
                do="Is memory short? Take fewer engine.workers.",
            ) from error
        finally:
            for one in waiting:
                one.cancel()


def _begin() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
