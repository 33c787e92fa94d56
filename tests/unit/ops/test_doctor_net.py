"""How far a line comes: against real sockets on loopback that answer, lie, stall and refuse."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from pathlib import Path

import pytest
from registry_stand_ins import coordinator_at

from client import doctor_lines, doctor_net
from client.doctor_lines import Asked
from client.doctor_net import Line
from server.home import CoordinatorHome
from shared_model.findings import Finding, State

NOW = datetime.datetime.now(datetime.UTC)
LATE = NOW + datetime.timedelta(days=300)
DONE = Line("fed.example:8443", "done", ends=LATE, ahead_s=0.2)


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server at 127.0.0.1 that does this with each connection; its port."""
    server = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def one(near: socket.socket) -> None:
        with near, suppress(OSError):
            near.settimeout(10)
            answer(near)

    def accept() -> None:
        while True:
            try:
                near, _ = server.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=one, args=(near,)))
            threads[-1].start()

    main = threading.Thread(target=accept)
    main.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        main.join(10)
        for thread in threads:
            thread.join(10)


def web(home: CoordinatorHome, date: str) -> Callable[[socket.socket], None]:
    """The SuperLink's /health, with this Date header."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home.server_certificate, home.server_key)

    def answer(near: socket.socket) -> None:
        with context.wrap_socket(near, server_side=True) as secured:
            secured.recv(4096)
            head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + (date and f"Date: {date}\r\n")
            secured.sendall(f"{head}\r\nok".encode())

    return answer


def authority(home: CoordinatorHome) -> str:
    return home.ca_certificate.read_text()


def test_line_that_is_whole_tells_the_certificates_end_and_the_clock(home: CoordinatorHome) -> None:
    """Our clock minus its, whatever the time zone."""
    with listening(web(home, formatdate(time.time() - 100, usegmt=True))) as port:
        line = doctor_net.look(f"127.0.0.1:{port}", authority(home), health=True)
    assert line.failed == "done"
    assert line.ahead_s == pytest.approx(100, abs=3)
    assert line.ends is not None
    assert line.ends > NOW


@pytest.mark.parametrize(
    "date",
    [
        *("", "yesterday", "Sat, 99 Foo 2026 00:00:00 GMT", "\x00" * 40),
        *(
            "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
            "Mon, 01 Jan 2026 00:00:00 +9" + "9" * 20,
        ),
    ],
)
def test_health_that_tells_no_time_is_told_as_that(home: CoordinatorHome, date: str) -> None:
    """Hostile dates among them."""
    with listening(web(home, date)) as port:
        line = doctor_net.look(f"127.0.0.1:{port}", authority(home), health=True)
    assert (line.failed, line.ahead_s) == ("health", None)


def test_middlebox_that_opens_tls_is_named_and_its_clock_is_not_used(
    home: CoordinatorHome, tmp_path: Path
) -> None:
    """Another authority of the same name would be somebody in between; another name, a proxy."""
    other = coordinator_at(tmp_path / "other")
    with listening(web(other, formatdate(0))) as port:
        line = doctor_net.look(f"127.0.0.1:{port}", authority(home), health=True)
    assert (line.failed, line.ahead_s) == ("certificate", None)
    assert line.issuer == "fedprint coordinator authority"
    assert "Telephone" in doctor_lines.check_tls("x", line, NOW).do
    corporate = Line("fed.example:8443", "certificate", issuer="Clinic Proxy CA")
    found = doctor_lines.check_tls("x", corporate, NOW)
    assert "TLS is opened on the way" in found.found
    assert "'Clinic Proxy CA'" in found.found
    assert "TLS inspection" in found.do


def test_port_where_nothing_listens_is_refused(home: CoordinatorHome) -> None:
    """At once, not at the deadline."""
    with listening(lambda near: None) as port:
        pass
    line = doctor_net.look(f"127.0.0.1:{port}", authority(home))
    assert (line.failed, line.why) == ("connect", "refused")


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH\r\n", b"", b"HTTP/1.1 400 Bad\r\n\r\n"])
def test_other_service_at_the_port_ends_the_handshake(home: CoordinatorHome, answer: bytes) -> None:
    """Not a traceback."""

    def speak(near: socket.socket) -> None:
        near.recv(4096)
        near.sendall(answer)

    with listening(speak) as port:
        line = doctor_net.look(f"127.0.0.1:{port}", authority(home))
    assert line.failed == "handshake"


def test_peer_that_says_nothing_is_given_up_at_the_deadline(home: CoordinatorHome) -> None:
    """One deadline for the whole line."""
    ended = threading.Event()
    with listening(lambda near: bool(ended.wait(10)) or None) as port:
        begun = time.monotonic()
        line = doctor_net.look(f"127.0.0.1:{port}", authority(home), limit_s=0.3)
        took = time.monotonic() - begun
        ended.set()
    assert line.failed == "handshake"
    assert took < 3


def test_name_that_nobody_answers_for_is_given_up_at_the_deadline() -> None:
    """A name server that is silent keeps a look-up for longer than anyone waits."""
    hold = threading.Event()
    with pytest.raises(TimeoutError):
        doctor_net.within(0.05, lambda: hold.wait(10))
    hold.set()
    line = doctor_net.look("no-such-host.invalid:8443", "", limit_s=5)
    assert line.failed == "name"


def proxy(target: int, seen: list[bytes], status: str) -> Callable[[socket.socket], None]:
    """A CONNECT proxy that answers with this status."""

    def answer(near: socket.socket) -> None:
        seen.append(near.recv(4096))
        near.sendall(f"HTTP/1.1 {status} X\r\n\r\n".encode())
        if status != "200":
            return
        with socket.create_connection(("127.0.0.1", target)) as far:
            back = threading.Thread(target=carry, args=(far, near))
            back.start()
            carry(near, far)
            back.join(10)

    def carry(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    return answer


def test_line_goes_through_the_proxy_and_its_password_is_never_shown(
    home: CoordinatorHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy hears it; the finding has host and port only."""
    seen: list[bytes] = []
    with (
        listening(web(home, formatdate(usegmt=True))) as port,
        listening(proxy(port, seen, "200")) as between,
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:se%20cret@127.0.0.1:{between}")
        line = doctor_net.look(f"127.0.0.1:{port}", authority(home), health=True)
        shown = doctor_net.proxy_for("127.0.0.1")
    assert (line.failed, line.proxy) == ("done", f"127.0.0.1:{between}")
    assert seen[0].startswith(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n".encode())
    assert b"Proxy-Authorization: Basic " in seen[0]
    for text in (repr(line), repr(shown), str(doctor_lines.check_proxy((line,)))):
        assert "cret" not in text


@pytest.mark.parametrize("status", ["403", "407", "502", "\x1b[31m"])
def test_proxy_that_refuses_is_told_with_its_answer(
    home: CoordinatorHome, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """What it says is cut to plain letters."""
    with listening(proxy(0, [], status)) as between:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{between}")
        line = doctor_net.look("192.0.2.1:8443", authority(home))
    found = doctor_lines.check_proxy((line,))
    assert found.state == "broken"
    assert "\x1b" not in found.found


def test_no_proxy_is_minded_and_a_strange_proxy_is_a_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As all parts of fedprint choose the proxy."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "fed.example")
    assert doctor_net.proxy_for("fed.example") is None
    assert doctor_net.proxy_for("other.example") is not None
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy.example:1080")
    line = doctor_net.look("other.example:1", "")
    assert line.failed == "proxy"


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (doctor_lines.check_name((DONE,)), "ok"),
        (doctor_lines.check_name((Line("a:1", "name", why="unknown"),)), "broken"),
        (doctor_lines.check_name((Line("a:1", "done", proxy="p:1"),)), "ok"),
        (doctor_lines.check_proxy((DONE,)), "ok"),
        (doctor_lines.check_proxy((Line("a:1", "done", proxy="p:1"),)), "ok"),
        (doctor_lines.check_proxy((Line("a:1", "proxy", "p:1", "407"),)), "broken"),
        (doctor_lines.check_port("x", DONE, always=True), "ok"),
        (doctor_lines.check_port("x", Line("a:1", "name"), always=True), "broken"),
        (
            doctor_lines.check_port("x", Line("a:1", "connect", why="refused"), always=True),
            "broken",
        ),
        (
            doctor_lines.check_port("x", Line("a:1", "connect", why="refused"), always=False),
            "attention",
        ),
        (
            doctor_lines.check_port("x", Line("a:1", "connect", why="no answer"), always=False),
            "broken",
        ),
        (doctor_lines.check_tls("x", DONE, NOW), "ok"),
        (doctor_lines.check_tls("x", DONE, LATE - datetime.timedelta(days=9)), "attention"),
        (doctor_lines.check_tls("x", Line("a:1", "health"), NOW), "ok"),
        (doctor_lines.check_tls("x", Line("a:1", "handshake", why="ended"), NOW), "broken"),
        (doctor_lines.check_tls("x", Line("a:1", "connect"), NOW), "attention"),
        (doctor_lines.check_asked(None), "ok"),
        (doctor_lines.check_asked(Asked(state="admitted")), "ok"),
        (doctor_lines.check_asked(Asked(state="waiting")), "attention"),
        (doctor_lines.check_asked(Asked(fault="no answer", do="ask")), "broken"),
    ],
)
def test_line_is_read_as_a_finding(found: Finding, state: State) -> None:
    """Each with something to do unless all is well."""
    assert found.state == state, found
    assert bool(found.do) == (state != "ok")


def test_clock_is_that_of_whoever_told_one() -> None:
    """The nearer one, if two did: a line that waited looks farther off."""
    assert doctor_lines.clock_of((DONE,), None) == 0.2
    assert doctor_lines.clock_of((Line("a:1", "connect"),), Asked(ahead_s=-40.0)) == -40.0
    assert doctor_lines.clock_of((), Asked()) is None


def test_certificate_of_no_known_version_in_between_does_not_end_doctor(
    home: CoordinatorHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opens TLS on the way chooses what is read to name him."""

    def odd(_: bytes) -> None:
        raise doctor_net.x509.InvalidVersion("9 is not a valid X509 version", 9)

    other = coordinator_at(tmp_path / "other")
    monkeypatch.setattr(doctor_net.x509, "load_der_x509_certificate", odd)
    with listening(web(other, formatdate(0))) as port:
        line = doctor_net.look(f"127.0.0.1:{port}", authority(home), health=True)
    assert (line.failed, line.issuer) == ("certificate", "")


def test_line_that_cannot_be_looked_at_is_one_broken_line(
    home: CoordinatorHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other checks are told all the same, and of the fault only its kind."""
    from registry_stand_ins import node_at

    from client import doctor, keys

    def explode(*_: object, **__: object) -> None:
        raise RuntimeError("with a secret in it")

    node = node_at(tmp_path / "alpha", "alpha")
    pinned = type("Pinned", (), {"address": "127.0.0.1:1", "ca_certificate": ""})
    monkeypatch.setattr(keys, "pinned", lambda _: pinned)
    monkeypatch.setattr(doctor_net, "look", explode)
    monkeypatch.setattr(doctor, "asked", explode)
    found = {one.check: one for one in doctor.examine(node)}
    assert found["node.toml"].state == "ok"
    assert found["superlink"].state == found["registry health"].state == "broken"
    assert not any("secret" in one.found + one.do for one in found.values())
