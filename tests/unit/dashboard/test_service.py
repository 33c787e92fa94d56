"""The service's decisions, without processes."""

from __future__ import annotations

import logging
import shutil
import socket
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from dashboard_stand_ins import empty_home, lively_home
from release_stand_ins import Story, write_run

from server import service_runs, superlink
from server.checkpoints import RunFolder
from server.dashboard_reads import Reader
from server.home import CoordinatorHome
from server.logs import put_aside
from server.notify import notify
from server.service import LONGEST_WAIT_S, Restarts, Service
from server.service_runs import Work, next_work, resume
from shared_model.errors import OurMistake, Refused
from shared_model.locks import locked


@dataclass
class FakeChild:
    """A child that ends when a test says so."""

    name: str
    pid: int = 1
    exit_code: int | None = None
    log: Path = Path("none.log")

    def last_lines(self, count: int) -> str:
        return ""


@dataclass
class World:
    """A service whose time and children are set by hand."""

    now_s: float = 100.0
    run: str = ""
    started: list[FakeChild] = field(default_factory=list)
    forgotten: list[FakeChild] = field(default_factory=list)

    def service(self, home: CoordinatorHome) -> Service:
        def start(place):
            child = FakeChild(place.name)
            self.started.append(child)
            return child

        return Service(
            home,
            start,
            self.forgotten.append,
            logging.Logger("test"),
            clock=lambda: self.now_s,
            work=lambda *_: Work(self.run),
        )

    def running(self) -> list[str]:
        return sorted(one.name for one in self.started if one.exit_code is None)


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    return empty_home(tmp_path / "coordinator")


def test_registry_and_dashboard_always_run_and_a_run_when_there_is_one(
    home: CoordinatorHome,
) -> None:
    world = World()
    service = world.service(home)
    service.look()
    assert world.running() == ["dashboard", "registry"]
    world.run = "spring"
    service.look()
    service.look()
    assert world.running() == ["dashboard", "registry", "run"]
    assert service.words == "run spring goes on"


def test_a_child_that_dies_is_started_again_later_each_time(home: CoordinatorHome) -> None:
    """1, 2, 4 ... 60 s; a minute of life begins anew."""
    world = World()
    service = world.service(home)
    waits = []
    for _ in range(8):
        service.look()
        world.started[-2].exit_code = -9  # the registry is started first
        service.look()
        waits.append(service.always[0].restarts.at_s - world.now_s)
        world.now_s = service.always[0].restarts.at_s - 0.01
        service.look()
        assert "registry" not in world.running()
        world.now_s += 0.02
        world.started = [one for one in world.started if one.name == "dashboard"]
        service.look()
        world.started.sort(key=lambda one: one.name, reverse=True)
    assert [round(one) for one in waits] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert Restarts(7).after(-9, 61.0, 0.0) == Restarts(1, 1.0)


@pytest.mark.parametrize("code", [2, 3])
def test_a_child_that_was_refused_is_tried_once_a_minute(code: int) -> None:
    """An expired roster, a wrong configuration: only a person changes that."""
    assert Restarts().after(code, 0.1, 50.0).at_s == 50.0 + LONGEST_WAIT_S


def test_a_run_that_ended_makes_room_for_the_next(home: CoordinatorHome) -> None:
    world = World(run="spring")
    service = world.service(home)
    service.look()
    world.started[-1].exit_code = 0
    world.run = "summer"
    service.look()
    assert "run" not in world.running()
    world.now_s += 1.1
    service.look()
    assert service.words == "run summer goes on"
    assert [one.name for one in world.forgotten] == ["run"]


def test_only_a_run_that_nobody_has_to_resume_is_taken_up(tmp_path: Path) -> None:
    """Not the paused one, not the finished one; a damaged one is named."""
    home = lively_home(tmp_path / "coordinator")
    assert next_work(home) == Work("winter")
    (home.run_folder("winter") / "run.json").write_text("{}")
    found = next_work(home)
    assert found.run == ""
    assert [run for run, _ in found.damaged] == ["winter"]


def test_resume_lets_a_paused_run_go_on(tmp_path: Path) -> None:
    """As `start --resume` does: after the last round, everything is tried again."""
    home = lively_home(tmp_path / "coordinator")
    assert resume(home, "autumn") == "Run autumn goes on after round 2."
    record = RunFolder(home.run_folder("autumn")).record()
    assert (record.state, record.pause, record.resumed_after) == ("running", "", 2)
    assert next_work(home).run == "autumn"
    with pytest.raises(OurMistake, match="is not paused"):
        resume(home, "autumn")
    with pytest.raises(OurMistake, match="no run nowhere"):
        resume(home, "nowhere")


def test_a_run_that_is_worked_on_is_not_resumed(tmp_path: Path) -> None:
    home = lively_home(tmp_path / "coordinator")
    folder = RunFolder(home.run_folder("autumn"))
    with folder.locked(), pytest.raises(Refused, match="Another coordinator works"):
        resume(home, "autumn")
    assert folder.record().state == "paused"


def test_a_finished_run_is_asked_about_again_until_it_was(home: CoordinatorHome) -> None:
    """Only where a sum is not verified; the marker goes when the run's child has ended."""
    folder = write_run(home, Story(rounds=2))
    with pytest.raises(OurMistake, match="all its sums are verified"):
        resume(home, "spring")
    closing = folder.closing(2).model_copy(update={"state": "unverified", "receipts": {}})
    folder.save_closing(closing)
    assert next_work(home).run == ""
    resume(home, "spring")
    assert next_work(home).run == "spring"
    world = World(run="spring")
    service = world.service(home)
    service.look()
    world.started[-1].exit_code = 0
    service.look()
    assert next_work(home).run == ""


def test_a_run_at_a_terminal_is_refused_while_the_service_is_there(home: CoordinatorHome) -> None:
    service_runs.refuse_if_served(home)
    with (
        locked(home.service_lock),
        pytest.raises(Refused, match="takes up runs itself") as refused,
    ):
        service_runs.refuse_if_served(home)
    assert refused.value.reason == "busy"


def test_a_large_log_is_put_aside_while_its_writer_goes_on(tmp_path: Path) -> None:
    """Copied and emptied: what appends to it keeps its file."""
    path = tmp_path / "superlink.log"
    with path.open("ab", buffering=0) as writer:
        for turn in range(4):
            writer.write(f"{turn}".encode() * 100)
            assert put_aside(path, most_bytes=50, files=2)
        writer.write(b"after")
        assert not put_aside(path, most_bytes=50, files=2)
    assert path.read_bytes() == b"after"
    assert (tmp_path / "superlink.log.1").read_bytes() == b"3" * 100
    assert (tmp_path / "superlink.log.2").read_bytes() == b"2" * 100
    assert not (tmp_path / "superlink.log.3").exists()
    assert not put_aside(tmp_path / "none.log")


def test_the_service_manager_is_told_and_never_waited_for(tmp_path: Path) -> None:
    """A manager that does not read is told no more; without one nothing is sent."""
    assert not notify({}, READY="1")
    assert not notify({"NOTIFY_SOCKET": "relative"}, READY="1")
    path = str(tmp_path / "notify")
    assert not notify({"NOTIFY_SOCKET": path}, READY="1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        assert notify({"NOTIFY_SOCKET": path}, READY="1", STATUS="a\nb")
        assert receiver.recv(100) == b"READY=1\nSTATUS=a b"
        told = [notify({"NOTIFY_SOCKET": path}, WATCHDOG="1") for _ in range(2000)]
    assert not told[-1]  # its queue is full, and we are here


def test_child_that_cannot_be_started_ends_no_run(home: CoordinatorHome) -> None:
    """No memory for a new dashboard: the run that goes on is not ended for it."""
    world = World(run="spring")
    service = world.service(home)
    service.look()
    dashboard = next(one for one in world.started if one.name == "dashboard")
    start, tries = service.start, []

    def refused(place):
        tries.append(place.name)
        raise OSError(11, "Resource temporarily unavailable")

    dashboard.exit_code, service.start = -9, refused
    for _ in range(4):
        world.now_s += 1.0
        service.look()
    assert world.running() == ["registry", "run"]
    assert 1 <= len(tries) <= 3  # later and later
    assert "starting again: dashboard" in service.words
    service.start = start
    world.now_s += LONGEST_WAIT_S
    service.look()
    assert world.running() == ["dashboard", "registry", "run"]


@pytest.mark.parametrize("copy", ["aaa", "winter copy", "winter.bak"])
def test_a_copy_of_a_run_s_folder_is_not_conducted(tmp_path: Path, copy: str) -> None:
    """It would ask the hospitals for the rounds of the run that it is a copy of, in other words:
    a conflict and an alarm at each of them."""
    home = lively_home(tmp_path / "coordinator")
    shutil.copytree(home.run_folder("winter"), home.run_folder(copy))
    work = next_work(home)
    assert work.run == "winter"
    assert [run for run, _ in work.damaged] in ([copy], [])  # those after the first are not read
    with pytest.raises(OurMistake, match="copy of run winter"):
        RunFolder(home.run_folder(copy)).own_record()
    with pytest.raises(OurMistake, match="copy of run winter"):
        superlink.conduct(home, copy, lambda _: None)
    runs = Reader(home, with_models=False).overview(0.0).runs
    assert sorted((run.name, run.state) for run in runs) == sorted(
        [("autumn", "paused"), ("winter", "running"), ("spring", "finished"), (copy, "damaged")]
    )


def test_a_certificate_that_cannot_be_read_is_told_and_hides_nothing_else(tmp_path: Path) -> None:
    """A half-copied file: the page says so, and shows the rest."""
    home = lively_home(tmp_path / "coordinator")
    home.server_certificate.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA")
    overview = Reader(home, with_models=False).overview(0.0)
    assert overview.server_certificate_s is None
    assert any("server.pem" in words for words in overview.damaged)
    assert overview.runs
