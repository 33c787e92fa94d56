"""Runs, read from their folders for the dashboard. Reads only: nothing is locked or cleaned up."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from server import curves, public_loss
from server.checkpoints import RunFolder
from server.dashboard_open import open_now
from server.dashboard_rounds import Round, Traffic, round_view
from server.dashboard_view import Run, run_view
from server.kept import Kept, stamp
from server.public_loss import PublicPoint
from server.run_records import ClosingRecord, RoundRecord, RunRecord
from shared_model import protocol_open
from shared_model.errors import FedprintError

MODELS_A_LOOK = 25
"""So many rounds' models are compared in one look; the next look goes on."""


@dataclass(frozen=True)
class Around:
    """What a run's view needs to know besides its folder. released: digests of released models."""

    running: bool
    service: bool
    released: frozenset[str]


@dataclass
class RunReader:
    """with_models: compare models, too; it reads every checkpoint once."""

    kept: Kept
    with_models: bool = True
    _left: int = field(default=MODELS_A_LOOK, repr=False)

    def begin(self) -> None:
        """A new look."""
        self._left = MODELS_A_LOOK

    def read(self, path: Path, around: Around) -> tuple[RunRecord, Run]:
        """One run.

        Raises:
            FedprintError: its record cannot be read.
        """
        folder = RunFolder(path)
        record = self.kept.at(("run", path), path / "run.json", folder.own_record)
        models = {0, *(item.round for item in record.rounds if item.outcome == "aggregated")}
        rounds, before = [], 0
        late: dict[int, tuple[str, ...]] = {}
        for one in record.late:
            late[one.round] = tuple(sorted({*late.get(one.round, ()), one.site}))
        for item in record.rounds:
            rounds.append(self._round(folder, record, item, before, late.get(item.round, ())))
            before = item.round if item.round in models else before
        points, note = self._public(path, record)
        view = run_view(
            record,
            tuple(rounds),
            open_now(folder, record),
            points,
            note,
            running=around.running,
            service=around.service,
            released=around.released,
        )
        return record, view

    def _round(
        self,
        folder: RunFolder,
        record: RunRecord,
        item: RoundRecord,
        before: int,
        late: tuple[str, ...],
    ) -> Round:
        """before: the round whose model this one began with, 0: the first model."""
        path, closed = folder.path, item.outcome == "closed"
        closing_path = path / "sums" / f"{item.round:04d}.closing.json"
        stored = folder.round(item.round).submissions
        state = (item.request_digest, late, None if closed else stamp(closing_path), stamp(stored))
        lengths = None if closed else self._lengths(folder, record, item, before)

        def made() -> Round:
            traffic = Traffic(_received(stored, item), _sent(folder, item, before))
            return round_view(item, None if closed else _closing(folder, item.round), traffic, late)

        found = self.kept.when(("round", path, item.round), state, made)
        return found.with_lengths(lengths)

    def _lengths(
        self, folder: RunFolder, record: RunRecord, item: RoundRecord, before: int
    ) -> tuple[float, float] | None:
        name = ("moved", folder.path, item.request_digest)
        if not self.with_models:
            return None
        if not self.kept.has(name):
            if self._left <= 0:
                return None
            self._left -= 1
        return self.kept.when(name, None, lambda: _lengths(folder, record, item, before))

    def _public(self, path: Path, record: RunRecord) -> tuple[tuple[PublicPoint, ...], str]:
        """Points of the public curve, and what it is made of or why it cannot be shown."""
        file = public_loss.path_in(path)
        try:
            found = self.kept.at(("public", path), file, lambda: public_loss.read(path))
        except FedprintError as error:
            return (), str(error)
        if found is None:
            return (), ""
        note = (
            f"{found.windows} simulated windows of {found.patients} simulated patients, seed "
            f"{found.seed}"
        )
        return public_loss.of_lineage(found, record), note


def damaged_run(name: str, error: FedprintError) -> Run:
    """A run whose record cannot be read."""
    return Run(
        name=name,
        state="damaged",
        pause="",
        completed=0,
        of=0,
        sites=(),
        needs="",
        plan="",
        trust_model="",
        preset="",
        starts=0,
        model="",
        damaged=str(error),
    )


def _closing(folder: RunFolder, number: int) -> ClosingRecord | None:
    try:
        return folder.closing(number)
    except FedprintError:
        return None


def _received(stored: Path, item: RoundRecord) -> int | None:
    """Bytes of submissions and of the messages in the record; None once submissions are gone."""
    try:
        with os.scandir(stored) as found:
            bodies = [one.stat().st_size for one in found if one.name.endswith(".body")]
    except OSError:
        bodies = []
    if item.contributors and not bodies:
        return None
    headers = [one.header_bytes for one in item.contributors]
    headers += [one.header_bytes for one in item.absent]
    agreements = sum(len(text) * 3 // 4 for text in item.agreements.values())
    return sum(bodies) + sum(len(header) for header in headers) + agreements


def _sent(folder: RunFolder, item: RoundRecord, before: int) -> int | None:
    """Bytes of the request and the model, once for each site that was asked."""
    try:
        model = folder.checkpoint(before).stat().st_size
    except OSError:
        return None
    return (len(item.request_bytes) + model) * len(item.participants)


def _lengths(
    folder: RunFolder, record: RunRecord, item: RoundRecord, before: int
) -> tuple[float, float] | None:
    """How far the model moved, and noise alone would have moved it; None if a model is gone."""
    try:
        request = protocol_open.open_train_request(
            item.request_bytes, bytes.fromhex(record.run_key)
        )
        roster = record.roster_named(request.sum.roster_digest)
        first, then = folder.weights(record, before), folder.weights(record, item.round)
        moved = curves.moved(first, then, record.trainable)
        return moved, curves.noise_alone(request, item.survivors, roster.weights)
    except FedprintError:
        return None
