"""The registry over mutual TLS on loopback: who gets through, and what hostile callers cost."""

from __future__ import annotations

import datetime
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from registry_stand_ins import (
    TODAY,
    Served,
    coordinator_at,
    node_at,
    served,
    write_a_release,
)

from client import keys, registry_client, registry_join
from client.registry_client import Session, Unreachable
from server import registry as service_module
from server import registry_enrolment, superlink, tls
from server.home import CoordinatorHome
from server.registry_limits import RegistryLimits
from shared_model import registry
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.registry import Ask, Health, Standing

NOW = TODAY


def call(channel: grpc.Channel, method: str, data: bytes, timeout_s: float = 20.0) -> bytes:
    reply: bytes = channel.unary_unary(f"/{registry.SERVICE}/{method}")(data, timeout=timeout_s)
    return reply


def code_of(channel: grpc.Channel, method: str, data: bytes) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as error:
        call(channel, method, data)
    return error.value.code()


def credentials(home: CoordinatorHome, key: bytes | None, chain: bytes | None) -> object:
    return grpc.ssl_channel_credentials(home.ca_certificate.read_bytes(), key, chain)


# --- who gets through --------------------------------------------------------------------------


def test_a_hospital_joins_and_is_known_by_its_certificate(service: Served, tmp_path: Path) -> None:
    node = service.joined(tmp_path / "alpha", "alpha")
    with service.session(node) as session:
        assert session.call("Health", Ask(), Health).protocol == 1
        assert session.call("Standing", Ask(), Standing).state == "admitted"
    assert keys.pinned(node) == registry_enrolment.invitation(service.home)[0]
    assert (node.registry / "client.pem").stat().st_mode & 0o777 == 0o600
    assert not (node.registry / "joining.key").exists()


def test_without_a_certificate_nothing_is_answered_not_even_health(service: Served) -> None:
    with grpc.secure_channel(
        f"127.0.0.1:{service.port}", credentials(service.home, None, None)
    ) as channel:
        assert code_of(channel, "Health", Ask().to_bytes()) is grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        assert code_of(channel, "Health", Ask().to_bytes()) is grpc.StatusCode.UNAVAILABLE


def test_a_certificate_of_another_authority_does_not_get_through(
    service: Served, tmp_path: Path
) -> None:
    other = coordinator_at(tmp_path / "other")
    with served(other, service.limits) as stranger:
        node = stranger.joined(tmp_path / "alpha", "alpha")
    key, chain = registry_client.client_pem(node)
    with grpc.secure_channel(
        f"127.0.0.1:{service.port}", credentials(service.home, key.encode(), chain.encode())
    ) as channel:
        assert code_of(channel, "Health", Ask().to_bytes()) is grpc.StatusCode.UNAVAILABLE


def test_a_certificate_of_this_authority_that_was_not_issued_here_is_nobodys(
    service: Served,
) -> None:
    """The authority also signs the server's certificate; the list, not the authority, decides."""
    now = datetime.datetime.now(datetime.UTC)
    key = service.home.server_key.read_bytes()
    made = tls.issue_client(
        service.home,
        x509.load_pem_x509_certificate(service.home.server_certificate.read_bytes()).public_key(),
        name="alpha",
        uris=["urn:fedprint:site:alpha"],
        now=now,
        until=now + datetime.timedelta(days=1),
    )
    chain = made.public_bytes(Encoding.PEM)
    with grpc.secure_channel(
        f"127.0.0.1:{service.port}", credentials(service.home, key, chain)
    ) as channel:
        for method in ("Health", "Enrol", "Mail"):
            assert code_of(channel, method, Ask().to_bytes()) is grpc.StatusCode.UNAUTHENTICATED


def test_a_hospitals_certificate_cannot_pose_as_the_registry(
    service: Served, tmp_path: Path
) -> None:
    """It has no server usage and no host name."""
    puppet, victim = (service.joined(tmp_path / site, site) for site in ("puppet", "victim"))
    key, chain = registry_client.client_pem(puppet)
    fake = CoordinatorHome(tmp_path / "fake")
    fake.make()
    for path, text in (
        (fake.server_key, key),
        (fake.server_certificate, chain),
        (fake.ca_certificate, service.home.ca_certificate.read_text()),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    posing = Served(fake, service.limits)
    posing.start()
    try:
        own_key, own_chain = registry_client.client_pem(victim)
        authority = service.home.ca_certificate.read_text()
        with (
            Session(f"127.0.0.1:{posing.port}", authority, own_key, own_chain) as session,
            pytest.raises(PeerFault) as error,
        ):
            session.call("Health", Ask(), Health)
        assert not isinstance(error.value, Unreachable)
        assert "does not prove" in error.value.message
    finally:
        posing.stop()


def test_a_registry_of_another_authority_is_refused_by_the_node(
    service: Served, tmp_path: Path
) -> None:
    """The token names the authority; whoever sits at the address with another one gets no card."""
    with service.book() as counter:
        token = counter.invite("alpha")
    with served(coordinator_at(tmp_path / "other"), service.limits) as stranger:
        bent = token.model_copy(update={"address": f"127.0.0.1:{stranger.port}"})
        with pytest.raises(PeerFault, match="does not prove"):
            registry_join.offer(node_at(tmp_path / "alpha", "alpha"), bent)
        assert stranger.records == []


def test_an_expired_certificate_is_refused_by_the_node_with_what_to_do(
    service: Served, tmp_path: Path
) -> None:
    node = service.joined(tmp_path / "alpha", "alpha")
    later = NOW + datetime.timedelta(days=181)
    with pytest.raises(Refused, match="expired"), registry_client.opened(node, later):
        pass


def test_an_expired_token_is_refused_by_the_node_and_by_the_handshake(
    service: Served, tmp_path: Path
) -> None:
    node = node_at(tmp_path / "alpha", "alpha")
    with service.book() as counter:
        counter.now = NOW - datetime.timedelta(days=15)
        token = counter.invite("alpha", days=14)
    with pytest.raises(Refused, match="expired"):
        registry_join.read_token(token.to_bytes(), "alpha", NOW)
    with pytest.raises(Unreachable):  # a node whose clock is wrong
        registry_join.offer(node, token)


def test_the_node_renews_its_certificate_by_itself_before_it_ends(
    service: Served, tmp_path: Path
) -> None:
    node = service.joined(tmp_path / "alpha", "alpha")
    before = (node.registry / "client.pem").read_bytes()
    early = NOW + datetime.timedelta(days=119)
    with registry_client.opened(node, early):
        assert (node.registry / "client.pem").read_bytes() == before
    with registry_client.opened(node, early + datetime.timedelta(days=2)) as session:
        assert (node.registry / "client.pem").read_bytes() != before
        assert session.call("Standing", Ask(), Standing).state == "admitted"
    with service.book() as counter:
        states = [item.state for item in counter.book.certificates("alpha")]
    assert states == ["used", "retired", "valid"]


def test_a_coordinator_that_is_not_the_one_of_the_token_is_not_pinned(
    service: Served, tmp_path: Path
) -> None:
    node = node_at(tmp_path / "alpha", "alpha")
    with service.book() as counter:
        token = counter.invite("alpha").model_copy(update={"invitation": "ab" * 32})
    with pytest.raises(PeerFault, match="another coordinator"):
        registry_join.offer(node, token)
    assert not node.coordinator.exists()


def test_the_servers_certificate_is_renewed_without_the_hospitals_noticing(
    service: Served, tmp_path: Path
) -> None:
    node = service.joined(tmp_path / "alpha", "alpha")
    old = service.home.server_certificate.read_bytes()
    tls.renew_server(service.home, "127.0.0.1:40001", now=datetime.datetime.now(datetime.UTC))
    assert service.home.server_certificate.read_bytes() != old
    service.stop()
    service.start(service.port)
    with service.session(node) as session:
        assert session.call("Health", Ask(), Health).protocol == 1


def test_the_node_goes_through_the_proxy_that_its_environment_names(
    service: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = service.joined(tmp_path / "alpha", "alpha")
    for name in ("https_proxy", "http_proxy", "no_proxy", "NO_PROXY", "grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    with connect_proxy() as (port, asked):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        with service.session(node) as session:
            assert session.call("Standing", Ask(), Standing).state == "admitted"
    assert asked == [f"CONNECT 127.0.0.1:{service.port} HTTP/1.1"]


@contextmanager
def connect_proxy() -> Iterator[tuple[int, list[str]]]:
    """An HTTP proxy for one connection, and the request lines that it saw."""
    asked: list[str] = []

    def carry(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        near, _ = listener.accept()
        head = b""
        while b"\r\n\r\n" not in head:
            head += near.recv(4096)
        asked.append(head.split(b"\r\n")[0].decode())
        host, _, port = asked[0].split()[1].rpartition(":")
        with near, socket.create_connection((host, int(port))) as far:
            near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=carry, args=(far, near), daemon=True)
            back.start()
            carry(near, far)
            back.join(20)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], asked
        thread.join(20)


def test_a_certificate_for_another_key_or_of_another_authority_is_not_kept(
    service: Served, tmp_path: Path
) -> None:
    node = service.joined(tmp_path / "alpha", "alpha")
    before = (node.registry / "client.pem").read_bytes()
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)

    def made(home: CoordinatorHome, holder: ec.EllipticCurvePrivateKey) -> str:
        certificate = tls.issue_client(
            home, holder.public_key(), name="alpha", uris=[], now=now,
            until=now + datetime.timedelta(days=1),
        )  # fmt: skip
        return certificate.public_bytes(Encoding.PEM).decode()

    place = registry_client.RegistryPlace(
        address="127.0.0.1:1", ca_certificate=service.home.ca_certificate.read_text()
    )
    wrong = (
        made(service.home, ec.generate_private_key(ec.SECP256R1())),
        made(coordinator_at(tmp_path / "other"), key),
        "no certificate",
    )
    for pem in wrong:
        with pytest.raises(PeerFault, match="not for this node"):
            registry_client.write_certificate(node, key, pem, place)
        assert (node.registry / "client.pem").read_bytes() == before
    registry_client.write_certificate(node, key, made(service.home, key), place)


# --- hostile callers ---------------------------------------------------------------------------


def test_a_message_over_the_limit_is_refused_before_it_is_read(
    service: Served, tmp_path: Path
) -> None:
    node = service.joined(tmp_path / "alpha", "alpha")
    with service.session(node) as session:
        data = bytes(registry.MAX_MESSAGE_BYTES + 1)
        channel = session._channel
        assert code_of(channel, "Send", data) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert session.call("Health", Ask(), Health).protocol == 1


def test_calls_that_send_nothing_are_few_a_hospital_and_are_cut(tmp_path: Path) -> None:
    """A hospital cannot hold the registry by opening calls."""
    limits = RegistryLimits(requests_per_s=1e6, burst=10**6, call_s=2.0, in_flight_all=8)
    with served(coordinator_at(tmp_path), limits) as service:
        idle, other = (service.joined(tmp_path / site, site) for site in ("idle", "other"))
        never = threading.Event()

        def nothing() -> Iterator[bytes]:
            never.wait(60)
            yield b""

        with service.session(idle) as session, service.session(other) as busy:
            method = session._channel.stream_unary(f"/{registry.SERVICE}/Health")
            open_calls = [method.future(nothing(), timeout=60) for _ in range(8)]
            ended = [call.exception() for call in open_calls]
            assert busy.call("Health", Ask(), Health).protocol == 1
            never.set()
        reasons = [error.details() for error in ended]
        assert reasons.count("rate") == 8 - limits.in_flight
        assert reasons.count("stalled") == limits.in_flight


def test_who_does_not_count_does_not_get_to_wait(service: Served, tmp_path: Path) -> None:
    """A collection of retired or revoked certificates holds nothing open."""
    node = service.joined(tmp_path / "alpha", "alpha")
    never = threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait(60)
        yield b""

    with service.session(node) as session:
        with service.book() as counter:
            registry_enrolment.revoke(service.home, counter.book, "alpha")
        method = session._channel.stream_unary(f"/{registry.SERVICE}/Health")
        error = method.future(nothing(), timeout=60).exception(service.limits.call_s / 2)
        never.set()
    assert error.details() == "revoked"


def test_who_may_not_see_releases_makes_the_registry_pack_none(
    service: Served, tmp_path: Path
) -> None:
    write_a_release(service.home, 1)
    node = service.joined(tmp_path / "alpha", "alpha", admitted=False)
    with service.session(node) as session, pytest.raises(Refused, match="not admitted"):
        session.call("Releases", Ask(), registry.Releases)
    assert not service.home.release_archives.exists()


def test_a_cut_connection_in_the_middle_of_a_call_is_no_fault(
    service: Served, tmp_path: Path
) -> None:
    node = service.joined(tmp_path / "alpha", "alpha")
    with service.session(node) as session:
        method = session._channel.stream_unary(f"/{registry.SERVICE}/Health")
        never = threading.Event()

        def nothing() -> Iterator[bytes]:
            never.wait(60)
            yield b""

        call_ = method.future(nothing(), timeout=60)
        session.call("Health", Ask(), Health)
        call_.cancel()
        never.set()
        session.call("Health", Ask(), Health)
    assert not any(record.exc_info for record in service.records)


def test_an_unknown_method_is_refused(service: Served, tmp_path: Path) -> None:
    node = service.joined(tmp_path / "alpha", "alpha")
    with service.session(node) as session:
        assert code_of(session._channel, "Shell", b"") is grpc.StatusCode.UNIMPLEMENTED


def test_who_asks_too_often_waits_and_the_others_do_not(tmp_path: Path) -> None:
    limits = RegistryLimits(requests_per_s=1e-6, burst=5)
    with served(coordinator_at(tmp_path), limits) as service:
        greedy, other = (service.joined(tmp_path / site, site) for site in ("greedy", "other"))
        with service.session(greedy) as session:
            for _ in range(5):
                session.call("Health", Ask(), Health)
            with pytest.raises(Refused, match="Too many"):
                session.call("Health", Ask(), Health)
        with service.session(other) as session:
            session.call("Health", Ask(), Health)


def test_a_fault_of_ours_reaches_the_caller_as_one_word(
    service: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = service.joined(tmp_path / "alpha", "alpha")

    def broken(*_: object) -> None:
        raise RuntimeError("SECRET of the coordinator")

    monkeypatch.setattr("server.registry_desk.rosters.current", broken)
    with service.session(node) as session:
        with pytest.raises(grpc.RpcError) as error:
            call(session._channel, "Standing", Ask().to_bytes())
        assert (error.value.code(), error.value.details()) == (
            grpc.StatusCode.INTERNAL,
            "internal",
        )
        with pytest.raises(Refused, match="registry has a fault"):
            session.call("Standing", Ask(), Standing)
    assert any(record.exc_info for record in service.records)


def test_the_log_has_the_callers_name_and_nothing_that_it_wrote(
    service: Served, tmp_path: Path
) -> None:
    node = service.joined(tmp_path / "alpha", "alpha")
    with service.session(node) as session, pytest.raises(grpc.RpcError):
        call(session._channel, "Mail", b'{"kind":"INJECTED"}')
    lines = [json.loads(record.getMessage()) for record in service.records]
    assert lines[-1]["site"] == "alpha"
    assert lines[-1]["outcome"] == "malformed"
    assert "INJECTED" not in str(lines)


# --- the process -------------------------------------------------------------------------------


def test_one_home_has_one_registry(home: CoordinatorHome) -> None:
    assert not service_module.is_running(home)
    with service_module.only_one(home):
        assert service_module.is_running(home)
        with pytest.raises(OurMistake, match="is running"), service_module.only_one(home):
            pass
    assert not service_module.is_running(home)


@pytest.mark.parametrize(
    ("address", "port", "told"),
    [
        ("example.org:8443", None, "example.org:8444"),
        ("example.org:8443", 9000, "example.org:9000"),
        ("[::1]:8443", None, "[::1]:8444"),
    ],
)
def test_the_registry_is_at_the_coordinators_host(
    address: str, port: int | None, told: str
) -> None:
    config = superlink.CoordinatorConfig(address=address, registry_port=port)
    assert config.registry_address == told


@pytest.mark.parametrize(("address", "port"), [("a:65535", None), ("a:8443", 8443)])
def test_a_registry_without_a_port_of_its_own_is_refused(address: str, port: int | None) -> None:
    config = superlink.CoordinatorConfig(address=address, registry_port=port)
    with pytest.raises(OurMistake, match="port of its own"):
        _ = config.registry_at
