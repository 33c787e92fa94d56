"""What the coordinator asks of whatever carries its messages. No Flower here.

`server/grid.py` puts this on Flower's Grid; tests and simulations bring their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Outgoing:
    """A message for one site. `action` is the entry of the node's app, for example "train"."""

    site: str
    action: str
    header: bytes = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Incoming:
    """The answer to the message `id`, or the transport's word that there will be none.

    site: whom the message went to, as the coordinator addressed it (never what the body claims).
    error: empty, or a short word of the transport ("unreachable", "expired", "crashed", ...).
    """

    id: str
    site: str
    header: bytes = field(default=b"", repr=False)
    body: bytes = field(default=b"", repr=False)
    error: str = ""


class Transport(Protocol):
    """Carries bytes. May lose, delay and reorder; each id is answered at most once."""

    def sites(self) -> Mapping[str, int]:
        """Site name -> the transport's node id, of the sites that can be reached now."""

    def push(self, messages: Sequence[Outgoing]) -> list[str]:
        """Send; one id per message in the same order, "" where it could not be sent."""

    def pull(self, ids: Sequence[str]) -> list[Incoming]:
        """What has arrived for these ids since the last call; returns at once."""
