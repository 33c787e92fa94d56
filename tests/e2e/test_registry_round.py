"""From a token to an installed release, with the commands that people type: docs/hospital-it.md."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from deployed_parts import (
    allow_runs,
    command,
    fill_store,
    free_port,
    make_root,
    running,
    wait_for,
)

pytestmark = [pytest.mark.deployed, pytest.mark.timeout(1200)]

SITES = ("alpha", "beta", "gamma")
PLAN = ("--steps", "2", "--sample-rate", "0.5", "--noise-multiplier", "2.0")


def test_hospitals_that_joined_by_token_train_and_install_the_release_from_the_registry(
    tmp_path: Path,
) -> None:
    """At each hospital five commands to the first round, and two for the release."""
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
            node = ("--home", str(tmp_path / site))
            command("fedprint-node", "join", token, "--patients", "12", "--yes", *node)  # 1
            command("fedprint-coordinator", "admit", site, "--yes", *home)
        command("fedprint-coordinator", "roster", "draft", "-o", draft, *home)
        command("fedprint-coordinator", "root", "sign", draft, "-o", signed, *offline)
        command("fedprint-coordinator", "roster", "import", signed, *home)
        nodes = {}
        for site in SITES:
            node = ("--home", str(tmp_path / site))
            command("fedprint-node", "roster", "fetch", *node)  # 2
            command("fedprint-node", "roster", "approve", "--yes", *node)  # 3
            fill_store(tmp_path / site, patients=12, seed=len(site))  # 4: data add
            allow_runs(tmp_path / site)
            nodes[site] = stack.enter_context(
                running(tmp_path / f"{site}.log", "fedprint-node", "start", *node)  # 5
            )
        for site, process in nodes.items():
            wait_for(lambda process=process: "is started" in process.text(), f"{site} is started")
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
