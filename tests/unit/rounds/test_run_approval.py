"""A run over real hospitals' folders: who has not said yes is waited for, and taken in later."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from round_stand_ins import Clock, FakeTransport

from client.approvals import HospitalApprovals, approvals_of
from client.home import NodeHome
from server import coordinate, rosters
from server.checkpoints import RunFolder, RunRecord
from server.coordinate import Progress
from server.progress import REFUSALS, without_budget
from server.run_config import RunConfig
from shared_model import protocol_open, signing
from simulations import federation
from simulations.federation import Federation

PATIENTS = {"east": 12, "north": 12, "south": 12, "west": 12}
NOW = datetime.datetime.now(datetime.UTC)


def waves(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows of one sine each."""
    time_s = np.arange(1250) / 125.0
    signal = np.sin(2 * np.pi * rng.uniform(0.8, 2.0, (count, 1, 1)) * time_s)
    shape = (count, 2, 1250)
    return np.broadcast_to(signal, shape).astype(np.float32), np.ones((count, 2, 50), dtype=bool)


@dataclass
class Run:
    """A run of this many rounds, coordinated in memory.

    after: what happens between two rounds, by the number of rounds that are done.
    """

    made: Federation
    folder: RunFolder
    after: dict[int, Callable[[], None]] = field(default_factory=dict)
    seen: list[Progress] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)
    said: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def begun(cls, root: Path, rounds: int, unwilling: tuple[str, ...]) -> Run:
        """`unwilling` hospitals' policies say no yes in advance."""
        made = federation.found(
            root, PATIENTS, windows_per_patient=1, seed=1, repeatable=False, now=NOW, draw=waves
        )
        for site in unwilling:
            policy = made.home(site).policy
            policy.write_text(policy.read_text().split("[approve_runs_in_advance]")[0])
        config = RunConfig.from_dict(
            {
                "run": "spring",
                "preset": "tiny",
                "rounds": rounds,
                "privacy": {
                    "sample_rate": 0.1,
                    "noise_multiplier": 4.0,
                    "clipping_norm": 1.0,
                    "steps": 1,
                },
                "training": {"segments": 1},
                "begin_with": "random-weights",
                "gather_s": 2.0,
                "patience_s": 60.0,
                "rekey_s": 10.0,
                "epoch_rounds": 100,
            }
        )
        place = made.coordinator
        folder = made.folder("spring")
        coordinate.begin(
            folder,
            config,
            place.roster.read_bytes(),
            rosters.root_card(place).root,
            signing.load_key_file(place.run_key),
            coordinate.starting_model(config),
        )
        return cls(made, folder)

    def home(self, site: str) -> NodeHome:
        return self.made.home(site)

    def approvals(self, site: str) -> HospitalApprovals:
        return approvals_of(self.home(site))

    def go(self, **options: bool) -> RunRecord:
        def progress(event: Progress) -> None:
            self.seen.append(event)
            if event.kind == "aggregated":
                self.after.pop(event.completed, lambda: None)()

        def tamper(site: str, header: bytes, body: bytes) -> tuple[bytes, bytes]:
            value = protocol_open.readable(header)
            self.said.append((site, value.get("reason", value["kind"])))
            return header, body

        transport = FakeTransport(
            {site: partial(self.made.handle, site) for site in self.made.sites}, tamper=tamper
        )
        return coordinate.run(
            transport,
            self.folder,
            signing.load_key_file(self.made.coordinator.run_key),
            clock=self.clock,
            wall_clock=self.clock,
            wait=self.clock.wait,
            on_progress=progress,
            **options,
        )

    def booked(self, site: str) -> int:
        with self.approvals(site).ledger() as ledger:
            return len(ledger.chain.bookings)


def test_a_run_goes_on_without_a_hospital_and_takes_it_in_once_it_has_approved(
    tmp_path: Path,
) -> None:
    """It costs the late one nothing before its yes, and no round fails for it."""
    run = Run.begun(tmp_path, rounds=2, unwilling=("west",))

    def approve() -> None:
        assert run.booked("west") == 0
        (kept,) = run.approvals("west").files.of("pending")
        run.approvals("west").approve(kept.plan)
        run.clock.wait(10.0)  # `rekey_s`: it is asked again

    run.after[1] = approve
    record = run.go()
    assert record.state == "finished"
    three, four = ("east", "north", "south"), tuple(sorted(PATIENTS))
    assert [item.participants for item in record.rounds] == [three, four]
    assert {item.outcome for item in record.rounds} == {"aggregated"}
    assert ("west", "run-approval") in run.said
    assert ("west", "run-approval") in {(s.site, s.detail) for s in run.seen if s.kind == "refused"}
    assert [run.booked(site) for site in sorted(PATIENTS)] == [2, 2, 2, 1]


def test_with_nobody_s_yes_the_run_waits_says_so_and_counts_no_failed_round(
    tmp_path: Path,
) -> None:
    """It pauses for want of keys; after the operators' yes it goes on where it was."""
    run = Run.begun(tmp_path, rounds=1, unwilling=tuple(PATIENTS))
    record = run.go()
    assert (record.state, record.pause, record.completed) == ("paused", "too-few-keys", 0)
    assert record.rounds == ()
    assert {reason for _, reason in run.said} == {"run-approval"}
    asked = [site for site, _ in run.said if site == "east"]
    assert 1 < len(asked) <= 7  # once in `rekey_s`
    assert any("run's plan" in item.detail for item in run.seen if item.kind == "paused")
    for site in PATIENTS:
        (kept,) = run.approvals(site).files.of("pending")
        run.approvals(site).approve(kept.plan)
    record = run.go(resume_paused=True)
    assert (record.state, record.completed) == ("finished", 1)
    assert [run.booked(site) for site in PATIENTS] == [1] * 4


def test_a_hospital_that_refuses_a_run_under_way_is_left_out_of_the_rest(tmp_path: Path) -> None:
    """Its no holds from the next round on; what was booked stays booked."""
    run = Run.begun(tmp_path, rounds=3, unwilling=())

    run.after[1] = lambda: run.approvals("west").refuse("spring")
    record = run.go()
    assert (record.state, record.completed) == ("finished", 3)
    assert run.booked("west") == 1
    assert [len(item.survivors) for item in record.rounds] == [4, 3, 3]


def test_a_hospital_without_budget_is_gone_without_and_status_says_so(tmp_path: Path) -> None:
    """It lowers its own limit in the middle of a run of five: refused before data is read."""
    run = Run.begun(tmp_path, rounds=5, unwilling=())

    def lower() -> None:
        policy = run.home("west").policy
        with run.approvals("west").ledger() as ledger:
            spent = ledger.epsilon()  # type: ignore[attr-defined]
        policy.write_text(re.sub(r"= 8\.0", f"= {spent!r}", policy.read_text()))

    run.after[2] = lower
    record = run.go()
    assert (record.state, record.completed) == ("finished", 5)
    gone = [[one.site for one in item.absent if one.reason == "budget"] for item in record.rounds]
    assert gone == [[], [], ["west"], [], []]
    assert [len(item.participants) for item in record.rounds] == [4, 4, 4, 3, 3]
    assert run.booked("west") == 2
    assert without_budget(record) == [f"from round 3 on west {REFUSALS['budget']}"]


def test_a_plan_that_no_hospital_can_pay_pauses_the_run_before_its_first_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is asked, nothing is booked, and the coordinator is told which it is."""
    run = Run.begun(tmp_path, rounds=1, unwilling=tuple(PATIENTS))
    for site in PATIENTS:
        policy = run.home(site).policy
        policy.write_text(re.sub(r"= 8\.0", "= 0.001", policy.read_text()))
    record = run.go()
    assert (record.state, record.pause) == ("paused", "budget")
    assert {reason for _, reason in run.said} == {"budget"}
    assert [one.site for one in record.refused_keys] == sorted(PATIENTS)
    assert without_budget(record) == [
        f"from round 1 on {site} {REFUSALS['budget']}" for site in sorted(PATIENTS)
    ]
    for site in PATIENTS:
        assert run.approvals(site).files.of("pending") == []
        assert run.booked(site) == 0


def test_a_hospital_that_raises_its_limit_is_asked_after_resume_and_status_forgets_it(
    tmp_path: Path,
) -> None:
    """Three of four go on until the operator resumes; what status says is how it is now."""
    run = Run.begun(tmp_path, rounds=1, unwilling=())
    for site in ("north", "west"):
        policy = run.home(site).policy
        policy.write_text(re.sub(r"= 8\.0", "= 0.001", policy.read_text()))
    assert run.go().pause == "budget"
    gone = [f"from round 1 on {site} {REFUSALS['budget']}" for site in ("north", "west")]
    assert without_budget(run.folder.record()) == gone
    policy = run.home("north").policy
    policy.write_text(policy.read_text().replace("= 0.001", "= 8.0"))
    record = run.go(resume_paused=True)
    assert (record.state, record.rounds[0].survivors) == ("finished", ("east", "north", "south"))
    assert without_budget(record) == gone[1:]
