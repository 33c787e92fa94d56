"""A hospital's budget ends in the middle of a run of five: does everyone then say the same?"""

from __future__ import annotations

import datetime
import json
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from auditor.cli import app as audit_app
from client.cli import app as node_app
from client.policy import Policy
from server.cli import app as coordinator_app
from server.progress import REFUSALS
from server.run_config import RunConfig
from server.superlink import CoordinatorConfig, write_config
from shared_model import accounting, protocol_open, signing
from shared_model.config import PrivacyPlan
from simulations.federation import Federation, found, train

with warnings.catch_warnings():  # Flower and Typer warn about themselves when imported
    warnings.simplefilter("ignore")
    import simulations.in_process_grid  # noqa: F401

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
PATIENTS = {"east": 40, "middle": 35, "north": 90, "south": 25, "west": 30}
"""Five hospitals: t = 4, so that one may be gone without."""
POOR = "south"
ROUNDS, PAID = 4, 2
PRIVACY = {"sample_rate": 0.05, "noise_multiplier": 2.0, "clipping_norm": 1.0, "steps": 1}
CONFIG = {
    "run": "spring",
    "preset": "tiny",
    "begin_with": "random-weights",
    "rounds": ROUNDS,
    "privacy": PRIVACY,
    "training": {"segments": 1},
    "minimum_contributors": 3,
    "poll_s": 0.05,
}


def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise: cheap windows."""
    signal = rng.standard_normal((count, 2, 1250))
    return signal.astype(np.float32), np.ones((count, 2, 50), dtype=bool)


def told(app: Any, *arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return " ".join(done.stdout.split())


@dataclass
class Operated:
    """The hospitals; where one refuses because a person has to say yes, its operator does so by the
    command. Answers are what they are in the field."""

    made: Federation
    read: list[str] = field(default_factory=list)

    def handle(self, site: str, header: bytes, body: bytes) -> tuple[bytes, bytes]:
        answer = self.made.handle(site, header, body)
        if site != POOR or protocol_open.readable(answer[0]).get("reason") != "run-approval":
            return answer
        home = str(self.made.home(site).root)
        self.read.append(told(node_app, "run", "show", "spring", "--home", home))
        told(node_app, "run", "approve", "spring", "--yes", "--home", home)
        return self.made.handle(site, header, body)


def limited(made: Federation) -> float:
    """Give the poor hospital a budget that holds for `PAID` rounds of the plan; epsilon of them."""
    home = made.home(POOR)
    policy = Policy.from_file(home.policy)
    plan = PrivacyPlan(**PRIVACY)  # type: ignore[arg-type]
    cost = [accounting.epsilon_pld([plan] * rounds, policy.delta) for rounds in (PAID, PAID + 1)]
    between = sum(cost) / 2
    text = re.sub(r"(epsilon_\w+) = 8\.0", rf"\1 = {between!r}", home.policy.read_text())
    home.policy.write_text(text)
    assert Policy.from_file(home.policy).budget.epsilon_lifetime == between
    return cost[0]


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Operated:
    return Operated(
        found(
            tmp_path_factory.mktemp("five"),
            PATIENTS,
            windows_per_patient=2,
            seed=4,
            repeatable=False,
            now=NOW,
            draw=draw,
        )
    )


def test_a_budget_that_ends_in_mid_run_is_told_alike_by_everyone(
    operated: Operated, tmp_path: Path
) -> None:
    """The run of five ends well; console, coordinator, exported file and auditor agree."""
    made = operated.made
    spent = limited(made)
    record = train(made, RunConfig.from_dict(CONFIG), hospitals=operated)

    assert len(operated.read) == 1
    stops = f"The budget holds for {PAID} of {ROUNDS} rounds: this hospital stops before the run"
    assert "State: pending" in operated.read[0]
    assert stops in operated.read[0]

    assert (record.state, record.completed) == ("finished", ROUNDS)
    assert {item.outcome for item in record.rounds} == {"aggregated"}
    others = tuple(site for site in sorted(PATIENTS) if site != POOR)
    everyone = tuple(sorted(PATIENTS))
    assert [item.survivors for item in record.rounds] == [everyone, everyone, others, others]
    gone = [[(a.site, a.reason) for a in item.absent] for item in record.rounds]
    assert gone == [[], [], [(POOR, "budget")], []]

    place = made.coordinator
    write_config(place, CoordinatorConfig(address="localhost:9093"))
    status = json.loads(told(coordinator_app, "status", "--json", "--home", str(place.root)))
    (run,) = status["runs"]
    assert run["without_budget"] == [f"from round {PAID + 1} on {POOR} {REFUSALS['budget']}"]

    home = str(made.home(POOR).root)
    console = json.loads(told(node_app, "ledger", "show", "--json", "--home", home))
    held = json.loads(told(coordinator_app, "ledger", "show", "--json", "--home", str(place.root)))
    (at_coordinator,) = (row for row in held if row["site"] == POOR)
    audit = audited(made, tmp_path)
    assert audit["verdict"] == "OK"
    (in_file,) = (one for one in audit["ledgers"] if one["site"] == POOR)

    delta = Policy.from_file(made.home(POOR).policy).delta
    agreed = {
        "console": (console["epsilon"], console["delta"], len(console["rounds"])),
        "coordinator": (
            at_coordinator["epsilon"],
            at_coordinator["delta"],
            at_coordinator["booked rounds"],
        ),
        **{
            f"file, {one['what']}": (one["pld"], one["delta"], one["rounds"])
            for one in in_file["epsilon"]
        },
    }
    assert set(agreed) == {"console", "coordinator", "file, life", "file, spring"}
    for who, (epsilon, at, rounds) in agreed.items():
        assert epsilon == pytest.approx(spent, rel=1e-5), who
        assert (at, rounds) == (delta, PAID), who
    assert console["rounds_left"] == 0
    assert [(row["run"], row["rounds"]) for row in console["runs"]] == [("spring", PAID)]


def audited(made: Federation, folder: Path) -> dict[str, Any]:
    """What `fedprint-audit verify --json` says of the files of all five."""
    files = []
    for site in made.sites:
        path = folder / f"{site}.ledger"
        told(node_app, "ledger", "export", "-o", str(path), "--home", str(made.home(site).root))
        files.append(str(path))
    root = signing.public_bytes(signing.load_key_file(made.root / "root" / "root.pem")).hex()
    found: dict[str, Any] = json.loads(
        told(audit_app, "verify", *files, "--root-key", root, "--json")
    )
    return found
