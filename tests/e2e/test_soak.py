"""Many rounds under random faults: no wrong sum, no lost update, no memory that grows.

Real nodes with their folders and ledgers, the real secure sum and coordinator, in this process; see
`soak_parts` for the faults. Noise repeats itself. All of it is drawn from one seed, that a failure
names. FEDPRINT_SOAK_ROUNDS overrides the number of rounds of the long test.
"""

from __future__ import annotations

import datetime
import gc
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from soak_parts import Aside, Killed, Line, Odds, Reaper, Verdict, dying, growth, noise_alone

import client.training
from server import coordinate, rosters
from server.checkpoints import RunRecord
from server.epochs import EpochBook
from server.ledgers import LedgerArchive
from server.progress import Progress
from server.run_config import RunConfig
from shared_model import memory, signing
from shared_model.errors import Refused
from simulations.federation import Federation, found
from simulations.torch_threads import torch_threads

PATIENTS = {"east": 40, "north": 90, "south": 25, "west": 30}
"""Four hospitals, t = 3: one that is away stops nothing."""
ROUNDS_OF_A_RUN = 100
LONG = int(os.environ.get("FEDPRINT_SOAK_ROUNDS", "1000"))
MEMORY_FROM = 100
INTERNED = 300_000
"""More than a table of 2^19 places has free."""
PLAN = {"sample_rate": 0.02, "noise_multiplier": 2.0, "clipping_norm": 1.0, "steps": 1}


def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Sine waves of random rate: cheap windows."""
    rate = rng.uniform(0.8, 2.0, (count, 1, 1))
    signal = np.sin(2 * np.pi * rate * np.arange(1250) / 125.0).repeat(2, axis=1)
    return signal.astype(np.float32), np.ones((count, 2, 50), dtype=bool)


def config(run: str, rounds: int) -> RunConfig:
    return RunConfig.from_dict(
        {
            "run": run,
            "preset": "tiny",
            "begin_with": "random-weights",
            "rounds": rounds,
            "privacy": PLAN,
            "training": {"segments": 1},
            "minimum_contributors": 3,
            "deadline_s": 60.0,
            "gather_s": 5.0,
            "trip_s": 60.0,
            "rekey_s": 10.0,
            "poll_s": 1.0,
        }
    )


class Clock:
    """Seconds that pass only when someone waits."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Soak:
    """A federation under faults. killed: of the coordinator. rss_bytes: after each
    round, without the messages that are on their way."""

    made: Federation
    line: Line
    clock: Clock
    rng: random.Random
    reaper: Reaper
    kill_after: tuple[int, int]
    killed: int = 0
    pauses: int = 0
    rss_bytes: list[int] = field(default_factory=list)
    runs: int = 0

    def begin(self, settings: RunConfig) -> None:
        place = self.made.coordinator
        coordinate.begin(
            self.made.folder(settings.run),
            settings,
            place.roster.read_bytes(),
            rosters.root_card(place).root,
            signing.load_key_file(place.run_key),
            coordinate.starting_model(settings),
        )

    def play(self, settings: RunConfig, told: Callable[[Progress], None]) -> RunRecord:
        """The run to its end, however often the coordinator dies or pauses."""
        self.begin(settings)
        while True:
            try:
                with self.reaper.armed(self.rng.randint(*self.kill_after)):
                    record = self._start(settings.run, told)
            except Killed:
                self.killed += 1
                continue
            except Refused as error:
                assert error.reason == "paused", error  # noqa: PT017
                record = self.made.folder(settings.run).record()
            if record.state == "finished":
                self.runs += 1
                return record
            self.pauses += 1
            assert self.pauses < 1000

    def _start(self, run: str, told: Callable[[Progress], None]) -> RunRecord:
        place = self.made.coordinator
        return coordinate.run(
            self.line,
            self.made.folder(run),
            signing.load_key_file(place.run_key),
            EpochBook(place.root / "epochs.json"),
            LedgerArchive(place.ledgers),
            clock=self.clock,
            wall_clock=self.clock,
            wait=self.clock.wait,
            on_progress=told,
            resume_paused=True,
            non_private_for_tests=True,
        )


def soak(
    root: Path, monkeypatch, *, seed: int, rounds: int, kill_after: tuple[int, int], odds: Odds
) -> tuple[Soak, Verdict]:
    """So many rounds, in runs of `ROUNDS_OF_A_RUN`, and what came of them."""
    now = datetime.datetime.now(datetime.UTC)
    options = {"windows_per_patient": 1, "seed": 4, "repeatable": True}
    made = found(root / "consortium", PATIENTS, now=now, draw=draw, **options)
    rng, clock, reaper, aside = random.Random(seed), Clock(), Reaper(), Aside(root / "quantised")
    line = Line(made.sites, made.handle, clock, rng, odds, reaper)
    one = Soak(made, line, clock, rng, reaper, kill_after)
    aside.patch(monkeypatch)
    dying(reaper, monkeypatch)
    verdict, process = Verdict(), psutil.Process()

    def resident() -> int:
        """What lives. A coordinator or node that was killed here leaves its frames, with models in
        them, until Python looks for cycles; a process that is killed leaves nothing."""
        gc.collect()
        memory.give_back()
        return process.memory_info().rss - line.held_bytes

    def told(progress: Progress) -> None:
        if progress.kind == "aggregated":
            one.rss_bytes.append(resident())
            if len(one.rss_bytes) % 50 == 0:
                print(
                    f"{len(one.rss_bytes)} rounds, {one.rss_bytes[-1] / 1e6:.0f} MB, coordinator "
                    f"killed {one.killed}, {dict(line.counts)}, {verdict.faults}",
                    flush=True,
                )

    with torch_threads(1):
        while rounds > 0:
            size = min(rounds, ROUNDS_OF_A_RUN)
            settings = config(f"run{one.runs}", size)
            record = one.play(settings, told)
            folder = made.folder(settings.run)
            with reaper.armed(None):
                verdict.check_sums(folder, record, aside)
                verdict.check_models(folder, record)
                verdict.check_updates(record, line.handed)
                verdict.check_ledgers(made, record)
            aside.forget()
            line.handed.clear()
            rounds -= size
            del record, folder  # else the record of a run that is over stays beside the next
    print(f"seed {seed}: {verdict}")
    print(f"coordinator killed {one.killed}, pauses {one.pauses}, faults {dict(line.counts)}")
    return one, verdict


def test_rounds_under_random_faults_have_right_sums_and_lose_no_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample, with more faults to a message than the long one."""
    odds = Odds(late=0.05, very_late=0.03, node_killed=0.04, away=0.03)
    one, verdict = soak(tmp_path, monkeypatch, seed=7, rounds=8, kill_after=(50, 500), odds=odds)
    assert verdict.faults == []
    assert verdict.aggregated == 8
    assert verdict.in_a_sum >= 8 * 3
    assert one.killed >= 1
    assert sum(one.line.counts.values()) >= 20


@pytest.mark.long
@pytest.mark.timeout(6 * 3600)
def test_a_thousand_rounds_under_random_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And memory does not grow: by less than 1 % of its mean from round 100 on.

    Once in a process's life Python doubles its table of interned strings (4 MB here), when as many
    parts of paths have come and gone as it has free places (pathlib interns them). That is no
    slope, and is done before the first round.
    """
    for number in range(INTERNED):
        Path(f"part-{number}")
    memory.large_blocks_apart()  # as the coordinator's process does
    monkeypatch.setattr(client.training, "train_round", noise_alone)
    one, verdict = soak(
        tmp_path, monkeypatch, seed=11, rounds=LONG, kill_after=(500, 3000), odds=Odds()
    )
    assert verdict.faults == []
    assert verdict.aggregated == LONG
    mean, rise = growth(one.rss_bytes, min(MEMORY_FROM, LONG // 2))
    print(f"memory: mean {mean / 1e6:.1f} MB, fitted rise {100 * rise:.2f} % of it")
    print("memory, MB every 25 rounds:", *(round(x / 1e6, 1) for x in one.rss_bytes[::25]))
    assert rise < 0.01
