"""Tell systemd how the node is (sd_notify): a datagram to the socket that it names.

A local socket of this machine; nothing is sent where NOTIFY_SOCKET is not set.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Notifier:
    """address: of the socket; "": nobody listens. watchdog_s: longest silence; 0: any."""

    address: str = ""
    watchdog_s: float = 0.0

    @classmethod
    def taken_from(cls, environment: MutableMapping[str, str], pid: int) -> Notifier:
        """What systemd has asked for; taken away, so that no child speaks in our name."""
        address = environment.pop("NOTIFY_SOCKET", "")
        span, whose = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        if not address.startswith(("/", "@")):
            return cls()
        ours = whose in ("", str(pid)) and span.isdecimal()
        return cls(address, int(span) / 1e6 if ours else 0.0)

    def send(self, **fields: str) -> None:
        """READY="1", STATUS="...": one message. A socket that is gone is not our fault."""
        if self.address:
            name = f"\0{self.address[1:]}" if self.address[0] == "@" else self.address
            with (
                contextlib.suppress(OSError),
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out,
            ):
                out.setblocking(False)
                out.sendto(message(fields), name)


def message(fields: Mapping[str, str]) -> bytes:
    """One assignment a line; line breaks in values become spaces."""
    return "\n".join(f"{key}={' '.join(value.split())}" for key, value in fields.items()).encode()


def of_this_process() -> Notifier:
    """The one of this process."""
    return Notifier.taken_from(os.environ, os.getpid())
