"""The registry and hospitals' nodes as real processes over TLS on loopback."""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from deployed_parts import Running, command, free_port, make_root, running, wait_for

from server.home import CoordinatorHome
from shared_model import canonical
from shared_model.registry import Token
from shared_model.release_files import write_release
from shared_model.release_signed import ReleaseBytes

pytestmark = [pytest.mark.deployed, pytest.mark.timeout(600)]

SITES = ("alpha", "beta", "gamma")
RELEASE_BYTES = 12 * 2**20
GATE_BYTES = 4 * 2**20
ENVELOPES_BYTES = 2**19
"""More than TLS, HTTP/2 and a session's other answers add to a release."""


@dataclass
class Place:
    """A coordinator that is set up, and its registry's process."""

    root: Path
    port: int

    @property
    def home(self) -> tuple[str, str]:
        return ("--home", str(self.root / "coordinator"))

    def node(self, site: str) -> tuple[str, str]:
        return ("--home", str(self.root / site))

    def token(self, site: str) -> Path:
        path = self.root / f"{site}-token.json"
        command("fedprint-coordinator", "invite", site, "-o", str(path), *self.home)
        return path

    def join(self, site: str, token: Path, check: bool = True) -> str:
        done = command(
            *("fedprint-node", "join", str(token), "--patients", "120", "--yes"),
            *self.node(site),
            check=check,
        )
        return done.stdout + done.stderr

    @contextmanager
    def registry(self) -> Iterator[Running]:
        log = self.root / "registry-process.log"
        log.unlink(missing_ok=True)
        with running(log, "fedprint-coordinator", "registry", "start", *self.home) as process:
            wait_for(
                lambda: "at port" in process.text() or process.process.poll() is not None,
                "the registry's start",
                60,
            )
            assert process.process.poll() is None, process.text()
            yield process


@pytest.fixture
def place(tmp_path: Path) -> Place:
    root_card, port = make_root(tmp_path), free_port()
    made = Place(tmp_path, port)
    command(
        *("fedprint-coordinator", "init", "--address", f"127.0.0.1:{free_port()}"),
        *("--registry-port", str(port), "--root", str(root_card), *made.home),
    )
    return made


def test_three_hospitals_join_approve_and_the_registry_survives_and_ends_cleanly(
    place: Place,
) -> None:
    offline = ("--home", str(place.root / "offline"))
    draft, signed = place.root / "draft.json", place.root / "roster.json"
    with place.registry() as registry:
        tokens = {site: place.token(site) for site in SITES}
        for site in SITES:
            place.join(site, tokens[site])
        told = command("fedprint-coordinator", "waiting", "--json", *place.home).stdout
        assert [row["site"] for row in json.loads(told)] == list(SITES)
        for site in SITES:
            command("fedprint-coordinator", "admit", site, "--yes", *place.home)
        command("fedprint-coordinator", "roster", "draft", "-o", str(draft), *place.home)
        command(
            *("fedprint-coordinator", "root", "sign", str(draft), "-o", str(signed), "--yes"),
            *offline,
        )
        command("fedprint-coordinator", "roster", "import", str(signed), *place.home)
        registry.kill_tree()
    with place.registry() as registry:  # after kill -9 it knows all that it knew
        for site in SITES:
            command("fedprint-node", "roster", "fetch", *place.node(site))
            command("fedprint-node", "roster", "approve", "--yes", *place.node(site))
        status = command("fedprint-node", "registry", "status", "--json", *place.node("beta"))
        facts = json.loads(status.stdout)
        assert (facts["state"], facts["approved_roster"]) == ("admitted", 1)
        second = command("fedprint-coordinator", "registry", "start", *place.home, check=False)
        assert second.returncode == 2
        assert "A registry is running" in second.stderr
        assert registry.end(signal.SIGTERM, 30) == 0
        assert registry.leftovers() == set()
    gone = command("fedprint-node", "registry", "status", *place.node("beta"), check=False)
    assert gone.returncode == 5
    assert "cannot be reached" in gone.stderr


def test_tokens_that_are_used_of_another_hospital_or_of_another_authority_are_refused(
    place: Place,
) -> None:
    with place.registry() as registry:
        token = place.token("alpha")
        place.join("alpha", token)
        place.join("alpha", token)  # the same node again: the reply may have been lost
        thief = place.join("thief", token, check=False)
        assert "This token was used already, with other keys." in " ".join(thief.split())
        command(
            *("fedprint-node", "init", "--site", "beta", "--patients", "120"),
            *place.node("beta"),
        )
        other = command(
            "fedprint-node", "join", str(token), "--yes", *place.node("beta"), check=False
        )
        assert other.returncode == 3
        assert "is for another hospital" in other.stderr
        elsewhere = Place(place.root / "elsewhere", free_port())
        elsewhere.root.mkdir()
        card = make_root(elsewhere.root)
        command(
            *("fedprint-coordinator", "init", "--address", f"127.0.0.1:{place.port - 1}"),
            *("--registry-port", str(place.port), "--root", str(card), *elsewhere.home),
        )
        wrong = elsewhere.join("gamma", elsewhere.token("gamma"), check=False)
        assert "does not prove to be the coordinator" in " ".join(wrong.split())
        command("fedprint-coordinator", "revoke", "alpha", "--yes", *place.home)
        revoked = command("fedprint-node", "registry", "status", *place.node("alpha"), check=False)
        assert revoked.returncode == 3
        assert "revoked" in revoked.stderr
        assert registry.end(signal.SIGINT, 30) == 0


@dataclass
class Gate:
    """A TCP proxy that lets so many bytes through towards the node, then holds until opened.

    passed: bytes towards the node, of each connection in the order of their beginnings.
    """

    target: int
    passed: list[int] = field(default_factory=list)
    opened: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            self.passed.append(0)
            for source, sink, counted in ((near, far, None), (far, near, len(self.passed) - 1)):
                threading.Thread(
                    target=self._carry, args=(source, sink, counted), daemon=True
                ).start()

    def _carry(self, source: socket.socket, sink: socket.socket, counted: int | None) -> None:
        try:
            while data := source.recv(65536):
                if counted is not None:
                    self.passed[counted] += len(data)
                    if sum(self.passed) > GATE_BYTES:
                        self.opened.wait()
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)  # close alone waits for the other thread
                end.close()

    def close(self) -> None:
        self.opened.set()
        self._listener.close()


def _partly_there(inbox: Path) -> int:
    """Bytes of the release that is being fetched."""
    return sum(one.stat().st_size for one in inbox.glob("*.part"))


def test_a_release_goes_on_where_kill_9_of_the_registry_cut_it(place: Place) -> None:
    files = ReleaseBytes(b"{}", bytes(64), bytes(range(256)) * (RELEASE_BYTES // 256), b"[]")
    home = CoordinatorHome(place.root / "coordinator")
    write_release(home.releases / "0001", files)
    gate = Gate(place.port)
    with ExitStack() as stack:
        stack.callback(gate.close)
        first = stack.enter_context(place.registry())
        token = Token.from_bytes(place.token("alpha").read_bytes())
        through = place.root / "through-the-gate.json"
        bent = token.model_copy(update={"address": f"127.0.0.1:{gate.port}"})
        through.write_bytes(bent.to_bytes())
        place.join("alpha", through)
        command("fedprint-coordinator", "admit", "alpha", "--yes", *place.home)
        fetching = stack.enter_context(
            running(
                place.root / "fetch.log",
                *("fedprint-node", "releases", "fetch", "--json", *place.node("alpha")),
            )
        )
        wait_for(lambda: sum(gate.passed) > GATE_BYTES, "the middle of the stream", 60)
        inbox = place.root / "alpha" / "inbox"
        wait_for(lambda: _partly_there(inbox) > GATE_BYTES // 2, "half of it on the disk", 60)
        first.kill_tree()
        kept, earlier = _partly_there(inbox), len(gate.passed)
        stack.enter_context(place.registry())
        gate.opened.set()
        assert fetching.process.wait(120) == 0, fetching.text()
    (archive,) = (place.root / "alpha" / "inbox").glob("*.fedprint")
    (packed,) = home.release_archives.iterdir()
    assert canonical.digest(archive.read_bytes()) == canonical.digest(packed.read_bytes())
    calls = [json.loads(line) for line in (home.logs / "registry.log").read_text().splitlines()]
    # The first stream died with its process; what was on the disk here was not sent again.
    assert [call["outcome"] for call in calls if call["method"] == "Fetch"][-1] == "ok"
    # What was in the sockets died with the first connection, as much as the machine had there. The
    # connections after it carried what was not on the disk, and its envelopes.
    assert 0 < sum(gate.passed[earlier:]) < RELEASE_BYTES - kept + ENVELOPES_BYTES
