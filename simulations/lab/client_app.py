"""The ClientApp of both engines, and what a process keeps from message to message.

It is called through `client.app.carry`, as a deployed node's is. A message's header says which
sites are meant and where things are:

    {"round": 7, "sites": [places], "input": [path, bytes], "sum": path}    in-process
    {"round": 7, "sites": [places]}, body: the round's input                Flower

In-process, weights and windows are mapped, and the integers are added to this process' own block of
shared memory; nothing but a few numbers travels back. With Flower, the reply's body is the sum over
the message's sites. Sums are of whole numbers mod 2^32: no order of additions shows.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from shared_model.errors import FedprintError
from shared_model.secure_sum.primitives import Words
from simulations.lab.hospital import Hospitals
from simulations.lab.terms import RoundInput, Setup

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp


class Workplace(Protocol):
    """What a process computes with; `Hospitals` in a run."""

    @property
    def size(self) -> int:
        """Number of integers in this round's vectors."""

    def begin(self, given: RoundInput) -> None:
        """Take in what a round begins with."""

    def work(self, site: int) -> tuple[Words, dict[str, Any]]:
        """One site's integers, uint32 (size,), and what is told of them (JSON)."""


@dataclass(frozen=True)
class Job:
    """How a process gets its workplace: `maker`, "module:function", is called with `setup`.

    key: tells two runs in one process apart.
    """

    maker: str
    setup: bytes = field(repr=False)
    key: str

    @classmethod
    def of(cls, setup: Setup) -> Job:
        """The hospitals of a run."""
        return cls(f"{__name__}:hospitals", setup.to_bytes(), os.urandom(8).hex())

    def workplace(self) -> Workplace:
        """Made anew."""
        module, name = self.maker.split(":")
        made: Workplace = getattr(importlib.import_module(module), name)(self.setup)
        return made


def hospitals(setup: bytes) -> Hospitals:
    """The maker of a run's workplace."""
    return Hospitals(Setup.from_bytes(setup))


def client_app(job: Job) -> ClientApp:
    """The ClientApp of both engines."""
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        from client.app import carry
        from simulations.in_process_grid import without_pieces

        return without_pieces(carry(message, partial(_answer, job)))

    return app


@dataclass
class _Desk:
    """What this process keeps of a run from message to message."""

    workplace: Workplace
    round: int = -1
    summing: bool = False
    maps: dict[str, npt.NDArray[np.uint8]] = field(default_factory=dict)

    def mapped(self, path: str) -> npt.NDArray[np.uint8]:
        """A shared block, mapped once."""
        if path not in self.maps:
            self.maps[path] = np.memmap(path, dtype=np.uint8, mode="r+")
        return self.maps[path]

    def answer(self, asked: Mapping[str, Any], body: bytes) -> tuple[list[dict[str, Any]], bytes]:
        """Compute the message's sites; see the module."""
        if asked["round"] != self.round:
            if "input" in asked:
                path, size = asked["input"]
                body = self.mapped(path)[:size].tobytes()
            self.workplace.begin(RoundInput.from_bytes(body))
            self.round, self.summing = asked["round"], False
        size = self.workplace.size
        if "sum" in asked:
            total = self.mapped(asked["sum"])[: 4 * size].view(np.uint32)
            told = self._add(asked["sites"], total, goes_on=self.summing)
            self.summing = True
            return told, b""
        total = np.empty(size, dtype=np.uint32)
        return self._add(asked["sites"], total, goes_on=False), total.tobytes()

    def _add(self, sites: list[int], total: Words, *, goes_on: bool) -> list[dict[str, Any]]:
        told = []
        for site in sites:
            vector, one = self.workplace.work(site)
            if goes_on:
                total += vector
            else:
                total[:] = vector
            goes_on = True
            told.append(one)
        return told


_desks: dict[str, _Desk] = {}
"""In this process, by the job's key."""
_alone = ExitStack()
"""Keeps this process at one thread; `forget` lets go."""


def _answer(job: Job, header: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Faults that explain themselves travel as words; others are `carry`'s to tell."""
    from simulations.lab.evaluate import one_thread

    try:
        if job.key not in _desks:
            _alone.enter_context(one_thread())
            _desks[job.key] = _Desk(job.workplace())
        told, total = _desks[job.key].answer(json.loads(header), body)
    except FedprintError as error:
        return json.dumps({"error": error.message, "do": error.do}).encode(), b""
    return json.dumps({"told": told}).encode(), total


def forget(job: Job) -> None:
    """The run is over in this process."""
    _desks.pop(job.key, None)
    _alone.close()
