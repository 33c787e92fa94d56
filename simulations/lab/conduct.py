"""Run an experiment from its first round to its report, or go on with it.

    result = run(experiment, Path("out"))
    result = run(experiment, Path("out"), resume=True)      # after any interruption

The order of a round: who is asked, the sum, the server's step, the measurements if they are due;
then its rows go to the journal and the checkpoint into its place. See `simulations.lab.checkpoint`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from client.local_state import NORMS
from shared_model import adapters
from shared_model import weights as weights_io
from shared_model.distributed import Shares
from shared_model.errors import FedprintError
from shared_model.files import write_atomic
from shared_model.secure_sum.numbers import Numbers, mean_of, unflatten
from shared_model.secure_sum.primitives import Words
from shared_model.weights import Weights
from simulations.lab import (
    algorithms,
    evaluate,
    metrics_tables,
    participation,
    round_rows,
    sources,
)
from simulations.lab.beginning import Settled, settle
from simulations.lab.checkpoint import Checkpoint, Journal, SiteStates
from simulations.lab.client_app import Job
from simulations.lab.data import FederationData
from simulations.lab.experiment import Experiment
from simulations.lab.pool import Engine, Told
from simulations.lab.result import Observer, Result, tell
from simulations.lab.run_folder import RunFolder
from simulations.lab.terms import RoundInput, rotation_seed


@dataclass(frozen=True)
class Progress:
    """round: that is worked on, from 1. done of sites: in this round."""

    stage: Literal["patients", "round", "measuring", "report"]
    round: int
    rounds: int
    done: int = 0
    sites: int = 0


OnProgress = Callable[[Progress], None]


def run(
    experiment: Experiment,
    out: Path,
    *,
    resume: bool = False,
    cache: Path | None = None,
    observers: Sequence[Observer] = (),
    on_progress: OnProgress | None = None,
) -> Result:
    """Run it; everything it leaves is in `out`.

    Args:
        resume: go on with the run in `out`; begin it if there is none.
        cache: folder of federations that several runs share; in `out` by default.

    Raises:
        Refused: the folder holds something else, another experiment, or is in use.
        OurMistake: the experiment cannot be run; nothing has been trained.
        FedprintError: a worker has died. What was done before is kept.
    """
    folder = RunFolder(out.absolute())
    say = on_progress or (lambda _: None)
    with folder.held(resume=resume):
        folder.begin(experiment)
        say(Progress("patients", 0, experiment.rounds))
        data = _federation(experiment, folder, cache, say)
        folder.settle_data(data.digest, data.mappings)
        settled = settle(experiment, data, folder.state / "sites")
        loop = Loop(experiment, folder, data, settled, observers, say)
        begun = loop.restore()
        tell(observers, "on_start", folder.path, experiment)
        if not begun:
            loop.begin()
        if loop.last.round < experiment.rounds:
            with_engine(Job.of(settled.setup), experiment, len(data.sites), loop.go_on)
        say(Progress("report", experiment.rounds, experiment.rounds))
        loop.finish()
        result = Result.open(folder.path)
        tell(observers, "on_end", result)
    return result


def with_engine(
    job: Job, experiment: Experiment, sites: int, conduct: Callable[[Engine], None]
) -> None:
    """Call `conduct` with the engine that the experiment names."""
    if experiment.engine.kind == "flower":
        from simulations.lab.flower_engine import over_flower

        over_flower(job, experiment.engine, sites, conduct)
        return
    from simulations.lab.pool import in_process

    with in_process(job, experiment.engine.workers) as engine:
        conduct(engine)


def _federation(
    experiment: Experiment, folder: RunFolder, cache: Path | None, say: OnProgress
) -> FederationData:
    def told(what: str, done: int, total: int) -> None:
        say(Progress("patients", 0, experiment.rounds, done, total))

    if cache is None:
        return sources.prepare(experiment, folder.path / "federation", told)
    data = sources.prepare_shared(experiment, cache.absolute(), told)
    write_atomic(folder.path / "federation.txt", f"{data.folder}\n".encode())
    return data


@dataclass
class Loop:
    """The rounds of a run. `last` is the newest checkpoint.

    first_bytes: of a request's body while no round is aggregated: the model. body_bytes: of those
    after, in which the server step's state is beside the model if the step has one.
    """

    experiment: Experiment
    folder: RunFolder
    data: FederationData
    settled: Settled
    observers: Sequence[Observer]
    say: OnProgress
    last: Checkpoint = field(init=False)

    def __post_init__(self) -> None:
        self.journal = Journal(self.folder.state / "journal.jsonl")
        self.step = algorithms.server_step(self.experiment.algorithm, self.experiment.privacy.mode)
        self.names = tuple(site.name for site in self.data.sites)
        self.place = {name: index for index, name in enumerate(self.names)}
        start = self.settled.start
        state = self.step.begin(adapters.trained_part(start, self.settled.setup.sent))
        self.first_bytes = len(weights_io.to_bytes(start))
        self.body_bytes = len(weights_io.to_bytes(start | state))

    def restore(self) -> bool:
        """Go back to the newest checkpoint, and the journal with it; False: there is none yet.

        Raises:
            Refused: checkpoint or journal is damaged.
        """
        found = Checkpoint.newest(self.folder.state)
        self.journal.cut(0 if found is None else found.journal)
        if found is not None:
            self.last = found
        return found is not None

    def begin(self) -> None:
        """Measure the starting model; make the checkpoint of round 0."""
        start = self.settled.start
        trained = adapters.trained_part(start, self.settled.setup.sent)
        self.last = Checkpoint(
            round=0,
            weights=start,
            state=self.step.begin(trained),
            mean={},
            booked=(0,) * len(self.names),
            journal=0,
            virtual_s=0.0,
            model=weights_io.digest(start),
        )
        self._keep(self.last, [], self._measured(self.last))

    def go_on(self, engine: Engine) -> None:
        """All rounds that are left."""
        for number in range(self.last.round + 1, self.experiment.rounds + 1):
            self.round(engine, number)

    def finish(self) -> None:
        """Tables, model, result.json; the run is done."""
        self._tables()
        write_atomic(self.folder.path / "model.safetensors", weights_io.to_bytes(self.last.weights))
        rounds = list(self.journal.lines("round"))
        self.folder.write_result(
            round_rows.result_of(self.experiment, self.settled, self.last, rounds)
        )

    def round(self, engine: Engine, number: int) -> None:
        """The next round, with all that it leaves."""
        began_s = time.monotonic()
        asked = participation.ask(self.experiment, self.names, number)
        places = tuple(self.place[name] for name in asked.asked)
        answered = [self.place[name] for name in asked.answered]
        numbers = self.settled.setup.numbers(
            [self.settled.declared[one] for one in places],
            [self.settled.weights[one] for one in places],
        )
        told: Told = []
        body = self.body_bytes if self.last.mean else self.first_bytes
        weights, state, mean = self.last.weights, self.last.state, self.last.mean
        if len(answered) >= self.settled.needed:
            seed = rotation_seed(self.experiment, number)
            given = RoundInput(number, places, seed, weights, mean, state)
            total, told = engine.round(
                given,
                sorted(answered, key=lambda one: (-self.settled.declared[one], one)),
                numbers.padded,
                lambda done: self._say("round", number, done, len(answered)),
            )
            if [one["site"] for one in told] != sorted(answered):
                raise FedprintError("The engine did not compute every hospital of the round.")
            mean = self._mean(total, numbers, places, answered, seed)
            share = sum(self.settled.weights[one] for one in answered) / sum(self.settled.weights)
            begun = weights | adapters.trained_part(weights, self.settled.setup.sent)
            weights, state = self.step.apply(begun, mean, state, share=share)
            weights = adapters.merged(weights)
        trained = {self.place[name] for name in asked.trained}
        now = Checkpoint(
            round=number,
            weights=weights,
            state=state,
            mean=mean,
            booked=tuple(
                count + (place in trained) for place, count in enumerate(self.last.booked)
            ),
            journal=0,
            virtual_s=self.last.virtual_s + asked.virtual_s,
            model=weights_io.digest(weights),
        )
        measured: list[dict[str, Any]] = []
        if number % self.experiment.evaluation.every == 0 or number == self.experiment.rounds:
            measured = self._measured(now)
        sites = round_rows.sites_of(asked, self.place, told, numbers.packed_bytes, body)
        row = round_rows.round_of(self.settled, now, sites, told, mean, measured)
        row["wall_s"] = time.monotonic() - began_s
        lines = [{"kind": "round"} | row, {"kind": "sites", "round": number, "asked": sites}]
        self._keep(now, lines, measured)
        shown = [
            metrics_tables.site_row(
                number,
                self.names[one["place"]],
                self.settled.declared[one["place"]],
                one,
                self.settled.privacy.epsilon(now.booked[one["place"]]),
            )
            for one in sites
        ]
        tell(self.observers, "on_round", row, shown)

    def _mean(
        self,
        total: Words,
        numbers: Numbers,
        asked: Sequence[int],
        answered: Sequence[int],
        seed: bytes,
    ) -> Weights:
        """As `shared_model.server_step.mean_update`."""
        if isinstance(numbers, Shares):
            order = {place: index for index, place in enumerate(asked)}
            divisor = numbers.divisor(order[place] for place in sorted(answered))
        else:
            divisor = sum(self.settled.weights[place] for place in answered)
        total &= np.uint32((1 << numbers.modulus_bits) - 1)
        like = adapters.trained_part(self.last.weights, self.settled.setup.sent)
        return unflatten(mean_of(total, numbers, seed, divisor), like)

    def _measured(self, now: Checkpoint) -> list[dict[str, Any]]:
        self._say("measuring", now.round, 0, 0)
        rows = evaluate.evaluate(
            self.settled.config,
            now.weights,
            self.data,
            self.experiment,
            now.round,
            workers=self.experiment.engine.workers,
            own=self._own(now.round),
            epsilon=round_rows.largest_epsilon(self.settled, now),
        )
        tell(self.observers, "on_evaluation", rows)
        return rows

    def _own(self, number: int) -> dict[str, Weights] | None:
        """LayerNorms that sites keep for themselves."""
        if not self.experiment.algorithm.local_norms:
            return None
        states = SiteStates(self.settled.setup.states)
        found = {name: states.before(self.place[name], number + 1) for name in self.names}
        return {
            name: {key.removeprefix(NORMS): kept[key] for key in kept if key.startswith(NORMS)}
            for name, kept in found.items()
            if kept
        }

    def _keep(
        self, now: Checkpoint, lines: list[dict[str, Any]], measured: list[dict[str, Any]]
    ) -> None:
        """Rows first, then the checkpoint that counts them."""
        self.journal.append([*lines, *({"kind": "probe", "row": row} for row in measured)])
        self.last = replace(now, journal=self.journal.size)
        self.last.save(self.folder.state)
        if measured:
            self._tables()

    def _tables(self) -> None:
        sites = list(zip(self.names, self.settled.declared, strict=True))
        metrics_tables.write(self.folder.metrics, self.journal, sites, self.settled.privacy.epsilon)

    def _say(self, stage: Any, number: int, done: int, sites: int) -> None:
        self.say(Progress(stage, number, self.experiment.rounds, done, sites))
