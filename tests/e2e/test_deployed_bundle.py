"""A coordinator that turns hostile sends code in its bundle: the hospital does not execute it."""

from __future__ import annotations

import socket
import sys
import warnings
from contextlib import closing
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
    from server import app, cli_run, root, superlink
    from server.grid import GridTransport, in_order

from client.home import NodeHome
from server.home import CoordinatorHome
from server.transport import Incoming, Outgoing
from shared_model.children import Family
from shared_model.errors import OurMistake
from shared_model.files import write_atomic

pytestmark = [
    pytest.mark.deployed,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def hostile_bundle(canary: Path) -> bytes:
    """A bundle whose every module writes a file when it is imported."""
    config = (
        '[project]\nname = "fedprint"\nversion = "0.1.0"\ndescription = "x"\nlicense = "x"\n'
        'dependencies = ["flwr>=1.41,<1.43"]\n[tool.flwr.app]\npublisher = "fedprint"\n'
        '[tool.flwr.app.components]\nserverapp = "server.app:app"\nclientapp = "client.app:app"\n'
        f'[tool.flwr.app.config]\n{app.RUN} = ""\n'
    )
    code = f"import pathlib\npathlib.Path({str(canary)!r}).write_text('executed')\napp = None\n"
    modules = {
        f"{folder}/{name}.py": code.encode()
        for folder in ("client", "server", "shared_model")
        for name in ("__init__", "app", "round")
    }
    content, _ = build_fab_from_files({"pyproject.toml": config.encode(), **modules})
    return content


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
    app.wait_until_ready(address, home.ca_certificate)
    with closing(app.operator_client(address, certificate, operator)) as control:
        app.enrol(control, home)
        number = app.submit(control, "hostile", content)
    app.execute(
        hostile,
        address,
        certificate,
        app.acquire(address, certificate, secret.read_bytes(), number),
    )
    return answers[0]


def test_code_in_a_bundle_is_not_executed_at_the_hospital(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, node, address = enrolled(tmp_path)
    canary = tmp_path / "canary"
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    with superlink.start_secrets(home) as secrets, Family() as family:
        superlink.start_link(family, home, superlink.load_config(home), *secrets)
        with running(tmp_path / "node.log", "fedprint-node", "start", "--home", str(node)) as ours:
            answer = ask(home, address, secrets, hostile_bundle(canary))
            assert answer.error == ""
            assert b'"reason":"signature"' in answer.header  # our own code refused the message
            assert ours.end() != 0
            wait_for(lambda: not ours.leftovers(), "the node's processes are gone")
    assert not canary.exists()


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
        app.wait_until_ready(address, home.ca_certificate)
        certificate = home.ca_certificate.read_bytes()
        guess = tmp_path / "guess"
        guess.write_bytes(bytes(32))
        with closing(app.operator_client(address, certificate, guess)) as stranger:
            for attempt in (
                lambda: app.submit(stranger, "hostile", hostile_bundle(tmp_path / "canary")),
                lambda: app.enrol(stranger, home),
            ):
                with pytest.raises(httpx.HTTPStatusError, match="404"):
                    attempt()
        with pytest.raises(KeyboardInterrupt):  # how Flower's client takes a 401
            app.acquire(address, certificate, bytes(32), 1)


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
