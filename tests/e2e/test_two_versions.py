"""Two versions of fedprint as real installations: they make a round together, or say why not."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from contextlib import ExitStack
from dataclasses import dataclass
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

import shared_model
from server.checkpoints import RunFolder

pytestmark = [pytest.mark.deployed, pytest.mark.long, pytest.mark.timeout(1800)]

SITES = ("alpha", "beta", "gamma")
PACKAGES = ("shared_model", "client", "server", "simulations", "auditor")
SCRIPTS = {"fedprint-node": "client.cli", "fedprint-coordinator": "server.cli"}
PLAN = ("--rounds", "1", "--steps", "1", "--sample-rate", "0.5", "--noise-multiplier", "2.0")


@dataclass(frozen=True)
class Installation:
    """A virtual environment with one version of fedprint, as pip leaves it."""

    folder: Path

    def script(self, name: str) -> str:
        return str(self.folder / "bin" / name)


def install(folder: Path, version: str, protocol: int = 5) -> Installation:
    """The five packages and their metadata, of this version, beside everything else of ours."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    source = Path(shared_model.__file__).resolve().parent.parent
    for package in PACKAGES:
        shutil.copytree(
            source / package, site / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    about = site / f"fedprint-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: fedprint\nVersion: {version}\n")
    others = [path for path in sys.path if path.endswith("site-packages")]
    others.append(sysconfig.get_paths()["purelib"])
    (site / "others.pth").write_text("\n".join(dict.fromkeys(others)) + "\n")
    with (site / "shared_model" / "errors.py").open("a") as stream:
        stream.write(f"\n# fedprint {version}\n")  # other code, so that its digest is another one
    if protocol != 5:
        changed = 0
        for name in ("protocol_base.py", "protocol_sum.py"):
            path = site / "shared_model" / name
            text, count = re.subn(
                r"(Literal\[3\]|Version) = [345]$", f"Literal[{protocol}] = {protocol}",
                path.read_text(), flags=re.M,
            )  # fmt: skip
            text, more = re.subn(
                r"^Version = Literal\[3, 4, 5\]$",
                f"Version = Literal[{protocol}]",
                text,
                flags=re.M,
            )
            path.write_text(text)
            changed += count + more
        assert changed == 7
    for name, module in SCRIPTS.items():
        path = folder / "bin" / name
        path.write_text(f"#!{folder}/bin/python -I\nfrom {module} import main\nmain()\n")
        path.chmod(0o755)
    return Installation(folder)


def about(installation: Installation) -> list[str]:
    return command(installation.script("fedprint-node"), "--version").stdout.splitlines()


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Installation]:
    root = tmp_path_factory.mktemp("versions")
    found = {
        "old": install(root / "old", "0.1.0"),
        "new": install(root / "new", "0.2.0"),
        "next": install(root / "next", "0.3.0", protocol=6),
    }
    said = {name: about(one) for name, one in found.items()}
    packages = [said[name][0] for name in found]
    assert packages == ["fedprint 0.1.0", "fedprint 0.2.0", "fedprint 0.3.0"]
    assert [said[name][1] for name in found] == ["protocol 5", "protocol 5", "protocol 6"]
    assert len({lines[2] for lines in said.values()}) == 3
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hospitals that know a coordinator; set up with what is installed here."""
    root = tmp_path_factory.mktemp("consortium")
    home, invitation = str(root / "coordinator"), root / "coordinator.json"
    address, card = f"127.0.0.1:{free_port()}", str(make_root(root))
    command("fedprint-coordinator", "init", "--home", home, "--address", address, "--root", card)
    command("fedprint-coordinator", "invitation", "--home", home, "-o", str(invitation))
    for site in SITES:
        place = ("--home", str(root / site))
        command("fedprint-node", "init", *place, "--site", site, "--patients", "12")
        allow_runs(root / site)
        command("fedprint-node", "join", str(invitation), *place, "--yes")
        fill_store(root / site, patients=12, seed=len(site))
        command("fedprint-coordinator", "enrol", str(root / site / "site.json"), "--home", home)
    sign_roster(root, SITES)
    return root


def start(
    stack: ExitStack, root: Path, run: str, coordinator: Installation, *nodes: Installation
) -> Running:
    """These nodes and a run of this name; the coordinator's process."""
    for site, one in zip(SITES, nodes, strict=True):
        log = root / f"{run}-{site}.log"
        words = ("start", "--home", str(root / site))
        node = stack.enter_context(running(log, one.script("fedprint-node"), *words))
        wait_for(lambda node=node: "is started" in node.text(), f"{site} is started")
    words = ("start", "--home", str(root / "coordinator"), "--run", run, "--minimum", "3", *PLAN)
    log = root / f"{run}.log"
    return stack.enter_context(running(log, coordinator.script("fedprint-coordinator"), *words))


def booked(root: Path, site: str, run: str) -> int:
    """Lines of this hospital's ledger that book a round of this run."""
    place = str(root / site)
    done = command("fedprint-node", "ledger", "show", "--home", place, "--json")
    return done.stdout.count(f'"{run}"')


def said(root: Path, site: str) -> str:
    path = root / site / "logs" / "rounds.log"
    return path.read_text() if path.exists() else ""


def status(root: Path, run: str, installation: Installation) -> list[str]:
    script = installation.script("fedprint-coordinator")
    done = command(script, "status", "--home", str(root / "coordinator"), "--json")
    runs = json.loads(done.stdout)["runs"]
    return next(one["turned_away"] for one in runs if one["run"] == run)


def test_two_minor_versions_make_a_round_together(
    root: Path, versions: dict[str, Installation]
) -> None:
    """A newer coordinator, two older nodes and a newer one; three different code digests."""
    with ExitStack() as stack:
        old, new = versions["old"], versions["new"]
        coordinator = start(stack, root, "mixed", new, old, old, new)
        wait_for(lambda: coordinator.look() and coordinator.process.poll() is not None, "it ends")
        assert coordinator.process.returncode == 0, coordinator.text()
    record = RunFolder(root / "coordinator" / "runs" / "mixed").record()
    assert record.rounds[0].survivors == SITES
    software = {
        one.site: json.loads(one.header_bytes[64:])["software"]
        for one in record.rounds[0].contributors
    }
    expected = ("fedprint 0.1.0", "fedprint 0.1.0", "fedprint 0.2.0")
    assert software == dict(zip(SITES, expected, strict=True))
    assert record.software == "fedprint 0.2.0"
    assert status(root, "mixed", new) == []


def test_an_older_coordinator_takes_newer_nodes(
    root: Path, versions: dict[str, Installation]
) -> None:
    """Hospitals may upgrade first."""
    with ExitStack() as stack:
        old, new = versions["old"], versions["new"]
        coordinator = start(stack, root, "first", old, new, new, new)
        wait_for(lambda: coordinator.look() and coordinator.process.poll() is not None, "it ends")
        assert coordinator.process.returncode == 0, coordinator.text()


@pytest.mark.parametrize(
    ("run", "coordinator", "node", "answers", "asks", "who"),
    [
        ("newer", "next", "old", 3, 6, "Upgrade the hospital"),
        ("older", "old", "next", 6, 3, "Upgrade this coordinator"),
    ],
)
def test_other_protocols_say_so_on_both_sides_and_book_nothing(
    root: Path, versions: dict[str, Installation],
    run: str, coordinator: str, node: str, answers: int, asks: int, who: str,
) -> None:  # fmt: skip
    """Which version each speaks, what to do; in the console, in status, in the node's own log."""
    with ExitStack() as stack:
        one = versions[node]
        process = start(stack, root, run, versions[coordinator], one, one, one)
        spoken = {"old": "3, 4 and 5", "next": "6"}
        words = f"speaks protocol version {answers}; this coordinator speaks {spoken[coordinator]}"
        for site in SITES:
            told = f"{site} {words}"
            wait_for(lambda told=told: told in process.text() or process.process.poll(), told)
            assert told in process.text(), process.text()
        found = status(root, run, versions[coordinator])
        assert [words in line and who in line for line in found] == [True] * 3
        for site in SITES:
            log = said(root, site)
            assert f"Coordinator speaks protocol version {asks} (fedprint" in log
            assert f"speaks {spoken[node]}. Upgrade the older of the two" in log
    assert not RunFolder(root / "coordinator" / "runs" / run).record().rounds
    assert [booked(root, site, run) for site in SITES] == [0, 0, 0]
