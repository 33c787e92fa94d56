"""What the SuperNode's last lines say: how it stands with the coordinator, and why it ended."""

from __future__ import annotations

from client.supervisor import Cause, Link, Name

_REFUSED = ("401 Unauthorized", "Failed to activate SuperNode")
_HANDSHAKE = "SSL/TLS handshake error"
_UNPROVEN = (_HANDSHAKE, "CERTIFICATE_VERIFY_FAILED")
_LINKS: tuple[tuple[str, Link], ...] = (
    ("SuperNode ID:", "up"),
    ("Connection successful after", "up"),
    ("Connection attempt failed, retrying", "unreachable"),
    (_HANDSHAKE, "unproven"),
)
"""What Flower 1.41 and 1.42 write about the coordinator."""


def link_of(line: str) -> Link | None:
    """What a line of the SuperNode's says about the coordinator."""
    return next((link for words, link in _LINKS if words in line), None)


def cause_of(name: Name, last_lines: str) -> Cause:
    """Why the SuperNode ended, by its last lines."""
    if name != "SuperNode":
        return ""
    if any(words in last_lines for words in _UNPROVEN):
        return "unproven"
    return "refused" if any(words in last_lines for words in _REFUSED) else ""
