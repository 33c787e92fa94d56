"""From a token to an installed release, with the very lines of docs/hospital-it.md."""

from __future__ import annotations

import csv
import json
import math
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from deployed_parts import (
    BIN,
    ENVIRONMENT,
    allow_runs,
    command,
    free_port,
    make_root,
    running,
    wait_for,
)

pytestmark = [pytest.mark.deployed, pytest.mark.timeout(1200)]

SITES = ("alpha", "beta", "gamma")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "hospital-it.md"
PLAN = ("--steps", "2", "--sample-rate", "0.5", "--noise-multiplier", "2.0")


def lines_of_the_page() -> list[str]:
    """What a new user types: install, join, roster approve, data add, start."""
    found = re.search(r"Five lines:\n\n```\n(.*?)```", PAGE.read_text(), re.S)
    assert found is not None
    lines = found[1].splitlines()
    assert len(lines) == 5
    return lines


def typed(line: str, site: str, root: Path) -> str:
    """One line of the page, with this hospital's name and folder in it, at its terminal."""
    line = line.replace("north-clinic-token.json", str(root / f"{site}-token.json"))
    line = line.replace("/path/to/recordings", str(root / f"{site}-recordings"))
    near, far = pty.openpty()
    os.write(near, b"y\ny\n")  # a person who has compared, and read
    try:
        done = subprocess.run(
            ["bash", "-c", line],
            env={
                **ENVIRONMENT,
                "PATH": f"{BIN}:/usr/bin:/bin",
                "FEDPRINT_NODE_HOME": str(root / site),
            },
            stdin=far,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    finally:
        os.close(near)
        os.close(far)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def record(folder: Path, patients: int, site: str) -> None:
    """A ward's PPG as CSV, a minute for each pretend patient."""
    folder.mkdir()
    for patient in range(patients):
        with (folder / f"sim{patient}.csv").open("w", newline="") as stream:
            rows = csv.writer(stream)
            rows.writerow(["time_s", "ppg"])
            for k in range(125 * 60):
                time_s = k / 125
                beat = (time_s * (1.0 + 0.05 * patient)) % 1.0
                pulse = math.exp(-(((beat - 0.2) / 0.1) ** 2))
                pulse += 0.4 * math.exp(-(((beat - 0.5) / 0.12) ** 2))
                breath = 0.1 * math.sin(1.6 * time_s) + 0.05 * math.sin(5.1 * time_s)
                rows.writerow([f"{time_s:.3f}", f"{pulse + breath:.5f}"])
    with (folder / "recordings.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["recording", "patient_id"])
        rows.writerows([f"sim{patient}", f"{site}-{patient}"] for patient in range(patients))


def test_hospitals_that_joined_by_token_train_and_install_the_release_from_the_registry(
    tmp_path: Path,
) -> None:
    """At each hospital the five lines of the page to the first round, and two for the release.

    The first line, the installation, is what `make smoke` does with the built wheel.
    """
    install, join, approve, add, start = lines_of_the_page()
    assert shlex.split(install)[-1] == "fedprint-*.whl"
    home = ("--home", str(tmp_path / "coordinator"))
    offline = ("--home", str(tmp_path / "offline"), "--yes")
    draft, signed = str(tmp_path / "draft.json"), str(tmp_path / "roster.json")
    card = str(make_root(tmp_path))
    command(
        *("fedprint-coordinator", "init", "--address", f"127.0.0.1:{free_port()}"),
        *("--registry-port", str(free_port()), "--root", card, *home),
    )
    with ExitStack() as stack:
        registry = stack.enter_context(
            running(tmp_path / "registry.log", "fedprint-coordinator", "registry", "start", *home)
        )
        wait_for(lambda: "at port" in registry.text(), "the registry's start", 60)
        for site in SITES:
            token = str(tmp_path / f"{site}-token.json")
            command("fedprint-coordinator", "invite", site, "-o", token, *home)
            assert "TELEPHONE" in typed(join, site, tmp_path)
            command("fedprint-coordinator", "admit", site, "--yes", *home)
        command("fedprint-coordinator", "roster", "draft", "-o", draft, *home)
        command("fedprint-coordinator", "root", "sign", draft, "-o", signed, *offline)
        command("fedprint-coordinator", "roster", "import", signed, *home)
        nodes = {}
        for site in SITES:
            typed(approve, site, tmp_path)
            record(tmp_path / f"{site}-recordings", patients=4, site=site)
            typed(add, site, tmp_path)
            allow_runs(tmp_path / site)
            words = (*shlex.split(start), "--home", str(tmp_path / site))
            nodes[site] = stack.enter_context(running(tmp_path / f"{site}.log", *words))
        for site, process in nodes.items():
            wait_for(lambda process=process: "is started" in process.text(), f"{site} is started")
        told = command("fedprint-node", "doctor", "--json", "--home", str(tmp_path / "beta"))
        assert {row["state"] for row in json.loads(told.stdout)} <= {"ok", "attention"}
        run = stack.enter_context(
            running(
                tmp_path / "run.log",
                *("fedprint-coordinator", "start", "--rounds", "1", "--run", "spring"),
                *PLAN,
                *home,
            )
        )
        wait_for(lambda: run.process.poll() is not None, "the run ends")
        assert run.process.returncode == 0, run.text()
        command("fedprint-coordinator", "release", "spring", *home)
        alpha = ("--home", str(tmp_path / "alpha"))
        fetched = command("fedprint-node", "releases", "fetch", "--json", *alpha)
        file = json.loads(fetched.stdout)["file"]
        command("fedprint-node", "install", file, "--yes", *alpha)
        shown = json.loads(command("fedprint-node", "release", "--json", *alpha).stdout)
        assert shown["number"] == 1
        for process in nodes.values():
            assert process.end(signal.SIGTERM) == 130
        assert registry.end(signal.SIGTERM, 30) == 0
        for process in (registry, *nodes.values()):
            wait_for(lambda process=process: not process.leftovers(), "no process is left")
    restored_elsewhere(tmp_path, home)


def restored_elsewhere(root: Path, coordinator: tuple[str, str]) -> None:
    """Alpha's backup on another machine: no start before `restored` and the recovery."""
    secret, file, new = root / "passphrase", root / "alpha.fedprint", ("--home", str(root / "new"))
    secret.write_text("six random words in a row\n")
    with_secret = ("--passphrase-file", str(secret))
    command("fedprint-node", "backup", str(file), *with_secret, "--home", str(root / "alpha"))
    command("fedprint-node", "restore", str(file), *with_secret, *new)
    refused = command("fedprint-node", "start", *new, check=False)
    assert (refused.returncode, "fedprint-node restored" in refused.stderr) == (3, True)
    command("fedprint-node", "restored", *new)
    refused = command("fedprint-node", "start", *new, check=False)
    assert (refused.returncode, "ledger ask" in " ".join(refused.stderr.split())) == (3, True)
    ask, entries = str(root / "ask.json"), str(root / "entries.jsonl")
    command("fedprint-node", "ledger", "ask", "-o", ask, *new)
    answers = []
    for site in ("beta", "gamma"):
        answers.append(str(root / f"{site}-answer.json"))
        node = ("--home", str(root / site))
        command("fedprint-node", "ledger", "witness", ask, "-o", answers[-1], *node)
    command("fedprint-coordinator", "ledger", "entries", "alpha", "-o", entries, *coordinator)
    command("fedprint-node", "ledger", "recover", ask, *answers, "--entries", entries, *new)
    told = command("fedprint-node", "doctor", "--json", *new, check=False).stdout
    states = {row["check"]: row["state"] for row in json.loads(told)}
    assert (states["restored"], states["ledger"]) == ("ok", "ok")
