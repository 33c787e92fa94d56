"""The two accountants in a process of their own, which is ended when the auditor's patience is.

    with Patience(600.0, say=...) as patience:
        findings = audit_ledgers(..., accountants=patience.accountants)

Opacus PRV took 79 s for a history of 100 unequal plans, and its memory grows with epsilon. Equal
plans are grouped by `shared_model.accounting`, and the same question is asked once.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, Literal, Self

Name = Literal["PLD", "PRV"]
PROGRESS_S = 5.0


class Patience:
    """At most `seconds` for everything that is asked; after that the answer is None.

    say: takes a line of progress, every five seconds of one question.
    """

    def __init__(self, seconds: float, say: Callable[[str], None]) -> None:
        self._left = seconds
        self._say = say
        self._known: dict[tuple[Name, tuple[Any, ...], float], float | None] = {}
        self._process: SpawnProcess | None = None
        self._connection: Connection[Any, Any] | None = None

    @property
    def accountants(
        self,
    ) -> tuple[
        Callable[[Sequence[Any], float], float | None],
        Callable[[Sequence[Any], float], float | None],
    ]:
        """(PLD, PRV)."""
        return (
            lambda mechanisms, delta: self._ask("PLD", mechanisms, delta),
            lambda mechanisms, delta: self._ask("PRV", mechanisms, delta),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _ask(self, name: Name, mechanisms: Sequence[Any], delta: float) -> float | None:
        key = (name, tuple(mechanisms), delta)
        if key not in self._known:
            self._known[key] = self._counted(name, mechanisms, delta)
        return self._known[key]

    def _counted(self, name: Name, mechanisms: Sequence[Any], delta: float) -> float | None:
        if self._left <= 0.0:
            return None
        connection = self._connected()
        began = time.monotonic()
        what = f"{name} of {len(set(mechanisms))} different mechanisms"
        try:
            connection.send((name, list(mechanisms), delta))
            told = began
            while not connection.poll(min(0.2, max(0.0, self._left - (time.monotonic() - began)))):
                now = time.monotonic()
                if now - began >= self._left:
                    self._left = 0.0
                    self._say(f"{what}: given up")
                    self._end()
                    return None
                if now - told >= PROGRESS_S:
                    told = now
                    left = self._left - (now - began)
                    self._say(f"{what}: {now - began:.0f} s; patience for {left:.0f} s more")
            found = connection.recv()
        except (EOFError, OSError):
            self._say(f"{what}: the accountant ended without an answer")
            self._end()
            return None
        self._left -= time.monotonic() - began
        return float(found) if isinstance(found, float) and not math.isnan(found) else None

    def _connected(self) -> Connection[Any, Any]:
        if self._connection is None or self._process is None:
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
            self._connection = ours
        return self._connection

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
        self._process = self._connection = None


def _serve(connection: Connection[Any, Any]) -> None:
    """Answer questions until the other side is gone; None for what cannot be computed."""
    from shared_model import accounting
    from shared_model.errors import FedprintError

    while True:
        try:
            name, mechanisms, delta = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        accountant = accounting.epsilon_pld if name == "PLD" else accounting.epsilon_prv
        try:
            connection.send(accountant(mechanisms, delta))
        except (FedprintError, ArithmeticError, ValueError, MemoryError, RuntimeError):
            connection.send(None)
