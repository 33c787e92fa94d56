"""Pretend hospitals in processes of their own, behind sockets on loopback; tests kill them.

Usage: hospital_process.py PORT ROOT SITE

Imports everything once, then forks a hospital for each line on standard input. A hospital connects
to PORT, says its process id, and answers framed messages (header, body) one after the other. Before
training reads patients, the digest of the message it answers is on the disk in `reads`.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import client.node_parts
import client.training  # noqa: F401
from client.node_interfaces import PretendNode
from client.round import handle
from shared_model import protocol
from simulations.federation import Federation, SimulatedPatients


def exactly(stream, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError
    return data


def receive(stream) -> bytes:
    return exactly(stream, int.from_bytes(exactly(stream, 8), "big"))


def send(connection: socket.socket, *parts: bytes) -> None:
    for part in parts:
        connection.sendall(len(part).to_bytes(8, "big") + part)


@dataclass(frozen=True)
class Watched(SimulatedPatients):
    """Says on the disk for which message data is about to be read."""

    message: str = ""

    def segments(self, patients, segments, rng):
        with (self.folder / "reads").open("a") as stream:
            stream.write(f"{self.message}\n")
            stream.flush()
            os.fsync(stream.fileno())
        return super().segments(patients, segments, rng)


def hospital(port: int, root: Path, site: str) -> None:
    home = Federation(root, (site,), None).home(site)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        stream = connection.makefile("rb")
        send(connection, str(os.getpid()).encode())
        while True:
            try:
                header, body = receive(stream), receive(stream)
            except EOFError:
                return
            data = Watched(home.root / "pretend", protocol.header_digest(header))
            send(connection, *handle(home, header, body, pretend=PretendNode(data=data)))


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead leave no zombies
    for _ in sys.stdin:
        if os.fork() == 0:
            hospital(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
            os._exit(0)


if __name__ == "__main__":
    main()
