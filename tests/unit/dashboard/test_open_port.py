"""What strangers can do to the dashboard's port: nothing that costs memory."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from dashboard_stand_ins import empty_home

from server import dashboard


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The dashboard as `serve` configures it; its loop runs in a thread."""
    home = empty_home(tmp_path / "coordinator")

    async def nothing(scope: object, receive: object, send: object) -> None:
        raise AssertionError("a request that never ended was answered")

    config = dashboard.configured(home, nothing)
    config.port = 0
    server = dashboard.uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    end = time.monotonic() + 30.0
    while not server.started:
        assert time.monotonic() < end
        time.sleep(0.02)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(30)


def test_a_head_that_never_ends_is_cut_off(port: int) -> None:
    """Else anybody who reaches the port fills the coordinator's memory, without a session."""
    with socket.create_connection(("127.0.0.1", port)) as near:
        near.settimeout(10.0)
        with suppress(ConnectionError):
            near.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
            for number in range(64):
                near.sendall(b"X-%d: " % number + b"a" * 65_536 + b"\r\n")
            near.sendall(b"X-last: ")
        with suppress(ConnectionError):
            while near.recv(4096):  # TimeoutError, if it still waits for the rest of this head
                continue
