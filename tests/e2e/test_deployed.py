"""Three hospitals and a coordinator as real processes over TLS, on loopback."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from deployed_parts import (
    Running,
    allow_runs,
    command,
    fill_store,
    free_port,
    make_root,
    running,
    sign_roster,
    wait_for,
)

from server.checkpoints import RunFolder, RunRecord

pytestmark = [pytest.mark.deployed, pytest.mark.timeout(1800)]

SITES = ("alpha", "beta", "gamma")
PLAN = ("--steps", "2", "--sample-rate", "0.5", "--noise-multiplier", "2.0")


@dataclass
class Consortium:
    """Three enrolled hospitals whose nodes run, and a coordinator that does not yet."""

    root: Path
    nodes: dict[str, Running]

    @property
    def home(self) -> str:
        return str(self.root / "coordinator")

    def record(self, run: str) -> RunRecord:
        return RunFolder(self.root / "coordinator" / "runs" / run).record()

    def start(self, stack: ExitStack, log: str, *words: str) -> Running:
        """fedprint-coordinator start in the background."""
        return stack.enter_context(
            running(
                self.root / log,
                *("fedprint-coordinator", "start", "--home", self.home),
                *words,
            )
        )

    def spend(self, site: str) -> list[dict[str, object]]:
        done = command("fedprint-node", "spend", "--home", str(self.root / site), "--json")
        rounds: list[dict[str, object]] = json.loads(done.stdout)["rounds"]
        return rounds


def make_node(root: Path, site: str, invitation: Path) -> None:
    home = str(root / site)
    command("fedprint-node", "init", "--home", home, "--site", site, "--patients", "12")
    allow_runs(root / site)
    command("fedprint-node", "join", str(invitation), "--home", home, "--yes")
    fill_store(root / site, patients=12, seed=len(site))
    if site == "beta":
        key_file = str(root / "beta.store.key")
        command("fedprint-node", "data", "encrypt", "--key-file", key_file, "--home", home)


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    root = tmp_path_factory.mktemp("consortium")
    home = str(root / "coordinator")
    invitation = root / "coordinator.json"
    address = f"127.0.0.1:{free_port()}"
    card = str(make_root(root))
    command("fedprint-coordinator", "init", "--home", home, "--address", address, "--root", card)
    command("fedprint-coordinator", "invitation", "--home", home, "-o", str(invitation))
    for site in SITES:
        make_node(root, site, invitation)
        command("fedprint-coordinator", "enrol", str(root / site / "site.json"), "--home", home)
    sign_roster(root, SITES)
    with ExitStack() as stack:
        nodes = {
            site: stack.enter_context(
                running(root / f"{site}.log", "fedprint-node", "start", "--home", str(root / site))
            )
            for site in SITES
        }
        for site, node in nodes.items():
            wait_for(lambda node=node: "is started" in node.text(), f"{site} is started")
        yield Consortium(root, nodes)
        for number, node in zip(
            (signal.SIGINT, signal.SIGTERM, signal.SIGTERM), nodes.values(), strict=True
        ):
            assert node.end(number) == 130
        for site, node in nodes.items():
            wait_for(lambda node=node: not node.leftovers(), f"all processes of {site} are gone")


def test_a_run_survives_kill_9_of_the_coordinator(consortium: Consortium) -> None:
    """Killed while round 2 is open, started again: the same lineage, nothing paid twice."""
    with ExitStack() as stack:
        first = consortium.start(
            stack, "first.log", "--rounds", "2", "--run", "spring", "--minimum", "3", *PLAN
        )
        wait_for(lambda: "round 2  opened" in first.text(), "round 2 is open")
        first.kill_tree()
        wait_for(lambda: not first.leftovers(), "the killed coordinator left no process")
        killed = consortium.record("spring")
        assert (killed.completed, killed.state) == (1, "running")

        second = consortium.start(stack, "second.log")
        second.look()
        wait_for(lambda: second.look() and second.process.poll() is not None, "it ends")
        assert second.process.returncode == 0, second.text()
        assert not second.leftovers()
    record = consortium.record("spring")
    assert (record.state, record.completed, record.starts) == ("finished", 2, 2)
    assert record.rounds[0] == killed.rounds[0]
    assert [len(item.contributors) for item in record.rounds] == [3, 3]
    folder = RunFolder(consortium.root / "coordinator" / "runs" / "spring")
    assert [folder.closing(number).state for number in (1, 2)] == ["verified", "verified"]
    for site in SITES:
        booked = consortium.spend(site)
        assert [row["round"] for row in booked] == [1, 2]
        assert all(row["answered"] for row in booked)
        assert {row["trust_model"] for row in booked} == {"local"}


def test_a_node_that_is_not_enrolled_is_refused(consortium: Consortium) -> None:
    make_node(consortium.root, "stranger", consortium.root / "coordinator.json")
    with ExitStack() as stack:
        stranger = stack.enter_context(
            running(
                consortium.root / "stranger.log",
                *("fedprint-node", "start", "--home", str(consortium.root / "stranger")),
            )
        )
        coordinator = consortium.start(
            stack, "alone.log", "--rounds", "1", "--run", "alone", "--minimum", "3", *PLAN
        )
        wait_for(lambda: stranger.look() and stranger.process.poll() is not None, "it is refused")
        assert stranger.process.returncode == 5
        assert "does not accept this node" in stranger.text()
        assert not stranger.leftovers()
        assert coordinator.end() in (0, 130)
        assert not coordinator.leftovers()
    assert consortium.record("alone").roster.names == SITES


def test_hospitals_refuse_a_sum_of_fewer_than_their_policy_asks(consortium: Consortium) -> None:
    """The coordinator would take two; the hospitals' policies say three: nothing is aggregated."""
    with ExitStack() as stack:
        coordinator = consortium.start(
            stack, "small.log", "--rounds", "1", "--run", "small", "--minimum", "2", *PLAN
        )
        for site in SITES:
            told = f"refused: {site} contributors"
            wait_for(lambda told=told: told in coordinator.text(), "they refuse")
        assert coordinator.end(signal.SIGINT) == 130
        assert not coordinator.leftovers()
    record = consortium.record("small")
    assert (record.completed, record.rounds) == (0, ())  # no key was given, no round was opened
    assert all(row["run"] != "small" for site in SITES for row in consortium.spend(site))


def test_ctrl_c_ends_every_process_of_the_coordinator(consortium: Consortium) -> None:
    with ExitStack() as stack:
        coordinator = consortium.start(
            stack, "stopped.log", "--rounds", "1", "--run", "stopped", "--minimum", "3", *PLAN
        )
        wait_for(lambda: "opened" in coordinator.text(), "the run has begun")
        assert len(coordinator.look()) >= 3
        assert coordinator.end(signal.SIGINT) == 130
        assert not coordinator.leftovers()


def test_a_new_roster_counts_at_a_hospital_only_after_its_operator_approved_it(
    consortium: Consortium,
) -> None:
    """Version 2 is signed and imported: nodes give no key for it until they are told to."""
    signed = sign_roster(consortium.root, ())
    with ExitStack() as stack:
        coordinator = consortium.start(
            stack, "renewed.log", "--rounds", "1", "--run", "renewed", "--minimum", "3", *PLAN
        )

        def waiting(site: str) -> bool:
            home = str(consortium.root / site)
            shown = command("fedprint-node", "roster", "show", "--home", home, "--json")
            pending = json.loads(shown.stdout)["pending"]
            return pending is not None and pending["version"] == 2

        for site in SITES:
            wait_for(partial(waiting, site), f"{site} waits for its operator")
            told = f"refused: {site} roster-approval"
            wait_for(lambda told=told: told in coordinator.text(), "the refusal has arrived")
        assert all(row["run"] != "renewed" for site in SITES for row in consortium.spend(site))
        for site in SITES:
            home = str(consortium.root / site)
            command("fedprint-node", "roster", "approve", str(signed), "--home", home, "--yes")
        wait_for(lambda: coordinator.look() and coordinator.process.poll() is not None, "it ends")
        assert coordinator.process.returncode == 0, coordinator.text()
        assert not coordinator.leftovers()
    record = consortium.record("renewed")
    assert (record.state, record.completed, record.roster.version) == ("finished", 1, 2)
