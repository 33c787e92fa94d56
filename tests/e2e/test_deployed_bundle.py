"""A coordinator that turns hostile sends code in its bundle: the hospital does not execute it."""

from __future__ import annotations

import io
import json
import os
import socket
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from deployed_parts import BIN, ENVIRONMENT, allow_runs, free_port, running, wait_for

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Flower and Typer about themselves
    from flwr.app import Context
    from flwr.cli.build import build_fab_from_files
    from flwr.serverapp import Grid, ServerApp

    from client import cli_node
    from server import cli_run, root, run_process, superlink
    from server.grid import GridTransport, in_order

from client.home import NodeHome
from server.home import CoordinatorHome
from server.transport import Incoming, Outgoing
from shared_model import bundle
from shared_model.canonical import digest
from shared_model.children import Family
from shared_model.errors import OurMistake
from shared_model.files import write_atomic

pytestmark = [
    pytest.mark.deployed,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


CONFIG = (
    '[project]\nname = "fedprint"\nversion = "0.1.0"\ndescription = "x"\nlicense = "x"\n'
    'dependencies = ["flwr>=1.41,<1.43"]\n[tool.flwr.app]\npublisher = "fedprint"\n'
    '[tool.flwr.app.components]\nserverapp = "server.app:app"\nclientapp = "client.app:app"\n'
    f'[tool.flwr.app.config]\n{bundle.RUN} = ""\n'
)


def code(canary: Path) -> str:
    """Writes a file when it is executed."""
    return f"import pathlib; pathlib.Path({str(canary)!r}).write_text('executed')\napp = None\n"


def hostile_bundle(canary: Path) -> bytes:
    """A bundle whose every module writes a file when it is imported."""
    modules = {
        f"{folder}/{name}.py": code(canary).encode()
        for folder in ("client", "server", "shared_model")
        for name in ("__init__", "app", "round")
    }
    content, _ = build_fab_from_files({"pyproject.toml": CONFIG.encode(), **modules})
    return content


def packed(config: str, files: Mapping[str, str | bytes] | None = None) -> bytes:
    """A ZIP with this pyproject.toml and whatever else, under any names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pyproject.toml", config)
        for name, content in (files or {}).items():
            archive.writestr(name, content)
    return buffer.getvalue()


def hooks(canary: Path) -> dict[str, bytes]:
    """What a bundle could try to have executed, or to break, one each."""
    text = code(canary)
    entry = CONFIG.replace("client.app:app", "evil:app").replace("server.app:app", "evil:app")
    tables = CONFIG + (
        '[build-system]\nrequires = []\nbuild-backend = "evil"\nbackend-path = ["."]\n'
        '[project.scripts]\nfedprint-node = "evil:app"\n'
        '[project.entry-points."pytest11"]\nevil = "evil"\n'
        '[tool.hatch.build.hooks.custom]\npath = "evil.py"\n'
    )
    start = dict.fromkeys(("sitecustomize.py", "usercustomize.py", "evil.py", "conftest.py"), text)
    upwards = ("../" * 12 + f"{canary}.py", "../client/app.py", str(canary), "..\\evil.py")
    return {
        "modules": hostile_bundle(canary),
        "entries": packed(entry, {"evil.py": text, "evil/__init__.py": text}),
        "tables": packed(tables, {"evil.py": text, "setup.py": text}),
        "at-start": packed(CONFIG, {**start, "evil.pth": text.replace("\n", ";")}),
        "paths": packed(CONFIG, dict.fromkeys(upwards, text)),
        "huge": packed(CONFIG, {"client/weights.bin": os.urandom(9_000_000)}),
        "bomb": packed(CONFIG + "#" * 20_000_000),
    }


def enrolled(tmp_path: Path) -> tuple[CoordinatorHome, Path, str]:
    """A coordinator and one node that know each other; the address."""
    address = f"127.0.0.1:{free_port()}"
    home, node, invitation = (
        CoordinatorHome(tmp_path / "coordinator"),
        NodeHome(tmp_path / "north"),
        tmp_path / "c.json",
    )
    root_machine = root.RootHome(tmp_path / "offline")
    root.make(root_machine)
    cli_run.init(home.root, address, root=root_machine.public)
    cli_run.invitation(invitation, home.root)
    cli_node.init("north", 10, node.root)
    allow_runs(node.root)
    cli_run.enrol(node.root / "site.json", home.root)
    cli_node.join(invitation, node.root, yes=True)
    return home, node.root, address


def ask(
    home: CoordinatorHome, address: str, secrets: tuple[Path, Path], content: bytes
) -> Incoming:
    """Submit this bundle, send the node a message that nobody signed, await the answer."""
    answers: list[Incoming] = []
    hostile = ServerApp()

    @hostile.main()
    def main(grid: Grid, context: Context) -> None:
        line = GridTransport(grid, in_order(("north",)), ttl_s=600.0)
        wait_for(line.sites, "the node is online")
        ids = line.push([Outgoing("north", "train", b"not a request", b"body")])
        wait_for(lambda: answers.extend(line.pull(ids)) or answers, "the node answered")

    operator, secret = secrets
    certificate = home.ca_certificate.read_bytes()
    run_process.wait_until_ready(address, home.ca_certificate)
    with closing(run_process.operator_client(address, certificate, operator)) as control:
        run_process.enrol(control, home)
        number = run_process.submit(control, "hostile", content)
    run_process.execute(
        hostile,
        address,
        certificate,
        run_process.acquire(address, certificate, secret.read_bytes(), number),
    )
    return answers[0]


@contextmanager
def watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Callable[[bytes], Incoming], Callable[[], list[dict[str, str]]]]]:
    """A node that runs: what it answers to a bundle, what its log says of bundles."""
    home, node, address = enrolled(tmp_path)
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    log = node / "logs" / "rounds.log"

    def refused() -> list[dict[str, str]]:
        lines = log.read_text().splitlines() if log.exists() else []
        return [one for one in map(json.loads, lines) if one.get("kind") == "bundle"]

    with superlink.start_secrets(home) as secrets, Family() as family:
        superlink.start_link(family, home, superlink.load_config(home), *secrets)
        with running(tmp_path / "node.log", "fedprint-node", "start", "--home", str(node)) as ours:
            yield lambda content: ask(home, address, secrets, content), refused
            assert ours.end() != 0
            wait_for(lambda: not ours.leftovers(), "the node's processes are gone")


def is_told(answer: Incoming, entry: dict[str, str], content: bytes) -> None:
    """The reason is on both sides; the coordinator gets one word and no byte of ours."""
    assert (answer.error, answer.header, answer.body) == ("bundle-refused", b"", b"")
    assert (entry["outcome"], entry["reason"]) == ("refused", "bundle")
    assert digest(content) in entry["message"]
    assert "Nothing of it was opened or executed" in entry["message"]


def test_nothing_of_a_hostile_bundle_is_executed_at_the_hospital(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused with the reason on both sides; the next run, with our bundle, is answered."""
    canary = tmp_path / "canary"
    hostile = hostile_bundle(canary)
    with watched(tmp_path, monkeypatch) as (send, refused):
        is_told(send(hostile), refused()[0], hostile)
        answer = send(bundle.content())
        assert answer.error == ""
        assert b'"reason":"signature"' in answer.header  # our own code refused the message
        assert len(refused()) == 1
    assert not canary.exists()


@pytest.mark.long
def test_no_hook_of_a_bundle_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry points, tool tables, files that Python looks for at its start, paths out, sizes."""
    canary = tmp_path / "canary"
    with watched(tmp_path, monkeypatch) as (send, refused):
        for name, content in hooks(canary).items():
            before = len(refused())
            is_told(send(content), refused()[before], content)
            assert len(refused()) == before + 1, name
    assert not canary.exists()
    assert not list(tmp_path.rglob("*evil*"))


def test_flower_by_itself_executes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the same bundle at Flower's own SuperNode writes the file."""
    home, node, address = enrolled(tmp_path)
    canary = tmp_path / "canary"
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    monkeypatch.setitem(ENVIRONMENT, "FLWR_HOME", str(tmp_path / "flwr-node"))
    monkeypatch.setitem(ENVIRONMENT, "PATH", f"{BIN}:{ENVIRONMENT['PATH']}")
    write_atomic(tmp_path / "ca.pem", home.ca_certificate.read_bytes())
    words = [
        *("flower-supernode", "--superlink", address, "--root-certificates"),
        *(str(tmp_path / "ca.pem"), "--auth-supernode-private-key"),
        *(str(node / "keys" / "supernode.pem"), "--port", str(free_port())),
    ]
    with superlink.start_secrets(home) as secrets, Family() as family:
        superlink.start_link(family, home, superlink.load_config(home), *secrets)
        with running(tmp_path / "node.log", *words) as theirs:
            answer = ask(home, address, secrets, hostile_bundle(canary))
            theirs.end()
    assert answer.error == "crashed"
    assert canary.read_text() == "executed"


def test_a_stranger_can_neither_submit_code_nor_enrol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, _, address = enrolled(tmp_path)
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    with superlink.start_secrets(home) as secrets, Family() as family:
        superlink.start_link(family, home, superlink.load_config(home), *secrets)
        run_process.wait_until_ready(address, home.ca_certificate)
        certificate = home.ca_certificate.read_bytes()
        guess = tmp_path / "guess"
        guess.write_bytes(bytes(32))
        with closing(run_process.operator_client(address, certificate, guess)) as stranger:
            for attempt in (
                lambda: run_process.submit(
                    stranger, "hostile", hostile_bundle(tmp_path / "canary")
                ),
                lambda: run_process.enrol(stranger, home),
            ):
                with pytest.raises(httpx.HTTPStatusError, match="404"):
                    attempt()
        with pytest.raises(KeyboardInterrupt):  # how Flower's client takes a 401
            run_process.acquire(address, certificate, bytes(32), 1)


def test_what_ends_a_run_is_told_by_the_command(tmp_path: Path) -> None:
    """A fault inside the run's process reaches the operator whole, and nothing stays behind."""
    home, _, _ = enrolled(tmp_path)
    with pytest.raises(OurMistake, match="There is no run in"):
        superlink.conduct(home, "nowhere", lambda event: None)
    assert not list(home.flower.glob("*.secret"))
    assert not superlink.is_running(home)


def test_a_taken_port_is_said_at_once(tmp_path: Path) -> None:
    home, _, address = enrolled(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(address.rpartition(":")[2])))
        other.listen()
        with pytest.raises(OurMistake, match="cannot be used"):
            superlink.conduct(home, "nowhere", lambda event: None)


def test_one_home_has_one_coordinator(tmp_path: Path) -> None:
    home, _, _ = enrolled(tmp_path)
    with (
        superlink.only_one(home),
        pytest.raises(OurMistake, match="A coordinator is running"),
    ):
        superlink.conduct(home, "nowhere", lambda event: None)
