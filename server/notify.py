"""What a service tells systemd (sd_notify(3)); nothing where there is no systemd."""

from __future__ import annotations

import socket
from collections.abc import Mapping


def notify(environment: Mapping[str, str], **words: str) -> bool:
    """Tell the service manager, for example READY="1", STATUS="..."; whether there is one.

    Args:
        environment: NOTIFY_SOCKET is a path, or "@name" in the abstract space.
    """
    place = environment.get("NOTIFY_SOCKET", "")
    if not place.startswith(("/", "@")):
        return False
    address = "\0" + place[1:] if place.startswith("@") else place
    lines = "\n".join(f"{name}={' '.join(text.split())}" for name, text in words.items())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)  # a manager that does not listen must not stop the service
            sender.sendto(lines.encode(), address)
    except OSError:
        return False  # it is gone, or its queue is full; the service goes on
    return True
