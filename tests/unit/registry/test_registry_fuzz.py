"""Thousands of wrong requests over mutual TLS: refused with one word, no fault, no crash.

Seeded, so that a failure repeats. The long test sends 100,000.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from registry_stand_ins import Served, node_at, write_a_release

from client import keys, registry_client
from client.home import NodeHome
from client.registry_client import Session
from shared_model import registry, signing
from shared_model.registry import Ask, Collect, Fetch, Health, Send
from shared_model.registry_reasons import REASONS

METHODS = (
    "Health", "Enrol", "Standing", "Leave", "Renew", "Rotate", "Roster", "Heads", "Epoch",
    "Releases", "Send", "Mail", "Collect", "Fetch", "Unknown",
)  # fmt: skip
NASTY: tuple[Any, ...] = (
    None, True, -1, 0, 2**53, 2**64, 1e308, "", "\x00", "../../etc/passwd", "a" * 40, "é" * 9,
    "' OR 1=1 --", [], {}, [[]], {"kind": {}}, "0" * 64, "f" * 128, "coordinator", "alpha",
)  # fmt: skip
OURS = {
    grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.FAILED_PRECONDITION,
}  # fmt: skip


@dataclass
class Callers:
    """Sessions of an admitted hospital, of one that waits, and of a token."""

    sessions: dict[str, Session]
    corpus: list[bytes]


def corpus_of(node: NodeHome) -> list[bytes]:
    """One valid message of each kind, as this node would send it."""
    identity, card = signing.load_key_file(node.identity_key), keys.card(node)
    point = registry.tls_point(ec.generate_private_key(ec.SECP256R1()).public_key())
    signature = registry.sign_tls_key(identity, card.site, point)
    messages = (
        Ask(),
        registry.Enrol(card=keys.card_bytes(node).decode(), tls_key=point, signature=signature),
        registry.Renew(tls_key=point, signature=signature),
        registry_client.next_card(node),
        Send(to="alpha", what="ask", file=registry.encoded(b"opaque")),
        Collect(id=1, remove=True),
        Fetch(sha256="ab" * 32, offset=3),
    )
    return [message.to_bytes() for message in messages]


@pytest.fixture
def callers(service: Served, tmp_path: Path) -> Any:
    write_a_release(service.home, 1)
    admitted = service.joined(tmp_path / "alpha", "alpha")
    waiting = service.joined(tmp_path / "beta", "beta", admitted=False)
    with service.book() as counter:
        token = counter.invite("gamma")
    with (
        service.session(admitted) as one,
        service.session(waiting) as two,
        Session(token.address, token.ca_certificate, token.private_key, token.certificate) as three,
    ):
        invited = node_at(tmp_path / "gamma", "gamma")
        yield Callers(
            {"admitted": one, "waiting": two, "token": three},
            [*corpus_of(admitted), *corpus_of(waiting), *corpus_of(invited)],
        )


def bent(rng: np.random.Generator, corpus: list[bytes]) -> bytes:
    """Random bytes, a message as it is, with changed bytes, or with changed values."""
    way = rng.integers(5)
    if way == 0:
        return rng.bytes(int(rng.integers(0, 300)))
    data = bytearray(corpus[rng.integers(len(corpus))])
    if way == 1:
        for _ in range(int(rng.integers(1, 4))):
            data[rng.integers(len(data))] = rng.integers(256)
        return bytes(data)
    if way == 2:
        at = int(rng.integers(len(data)))
        return bytes(data[:at]) + rng.bytes(int(rng.integers(0, 5))) + bytes(data[at + 1 :])
    if way == 3:
        return bytes(data)
    document = json.loads(bytes(data))
    name = sorted(document)[rng.integers(len(document))]
    document[name] = NASTY[rng.integers(len(NASTY))]
    spaced = None if rng.integers(2) else (",", ":")
    return json.dumps(document, sort_keys=True, separators=spaced, ensure_ascii=False).encode()


def fuzz(callers: Callers, service: Served, count: int, seed: int) -> Counter[str]:
    rng = np.random.default_rng(seed)
    seen: Counter[str] = Counter()
    for _ in range(count):
        who = ("admitted", "waiting", "token")[rng.integers(3)]
        method, data = METHODS[rng.integers(len(METHODS))], bent(rng, callers.corpus)
        path = f"/{registry.SERVICE}/{method}"
        channel = callers.sessions[who]._channel
        try:
            if method == "Fetch":
                list(channel.unary_stream(path)(data, timeout=20))
            else:
                channel.unary_unary(path)(data, timeout=20)
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
            if method == "Unknown":
                assert code is grpc.StatusCode.UNIMPLEMENTED
            else:
                assert code in OURS, (who, method, data, code, details)
                assert details in REASONS, (who, method, data)
                assert details != "internal"
            seen[details] += 1
        else:
            seen["ok"] += 1
    assert not any(record.exc_info for record in service.records)
    for session in callers.sessions.values():
        session.call("Health", Ask(), Health)
    return seen


@pytest.mark.parametrize("seed", [2])
def test_wrong_requests_are_refused_with_one_word(
    service: Served, callers: Callers, seed: int
) -> None:
    seen = fuzz(callers, service, 3000, seed)
    # The requests reach every door: parsing, rights, tokens, signatures.
    assert {
        "malformed",
        "not-admitted",
        "token-only",
        "no-token",
        "no-release",
        "signature",
        "ok",
    } <= set(seen)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_wrong_requests(service: Served, callers: Callers) -> None:
    fuzz(callers, service, 100_000, 2)


def test_bytes_that_are_no_tls_and_frames_that_are_no_http2_end_their_connection_only(
    service: Served, callers: Callers, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    node = service.joined(tmp_path / "zeta", "zeta")
    context = ssl.create_default_context(cadata=service.home.ca_certificate.read_text())
    context.load_cert_chain(node.registry / "client.pem")
    context.set_alpn_protocols(["h2"])
    for number in range(60):
        with socket.create_connection(("127.0.0.1", service.port), timeout=20) as raw:
            junk = rng.bytes(int(rng.integers(1, 2000)))
            try:
                if number % 2:
                    raw.sendall(junk)
                    raw.shutdown(socket.SHUT_WR)
                    while raw.recv(4096):
                        pass
                else:
                    with context.wrap_socket(raw, server_hostname="127.0.0.1") as line:
                        line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + junk)
            except OSError:
                continue  # it has hung up, as it should
    callers.sessions["admitted"].call("Health", Ask(), Health)
    assert not any(record.exc_info for record in service.records)
