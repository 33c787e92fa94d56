"""Which hospitals were online when: noted by the run's process, read by dashboard and metrics.

    runs/RUN/presence.json

It says nothing that counts: a lost or stale file costs a display, never a round. While no run goes
on no hospital can be online.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.transport import Incoming, Outgoing, Transport
from shared_model import canonical
from shared_model.enrolment import SiteName
from shared_model.files import write_atomic
from shared_model.protocol import MAX_PARTICIPANTS

LOOK_S = 5.0
"""So often the run's process asks who is online, and writes it down."""
_LIMIT_BYTES = 1024 * 1024


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SiteSeen(_Frozen):
    """Times in seconds since 1970. away_since_s: None while it is online."""

    site: SiteName
    seen_s: float
    away_since_s: float | None = None


class Presence(_Frozen):
    """All sites that this run ever saw, by name."""

    written_s: float = 0.0
    sites: Annotated[tuple[SiteSeen, ...], Field(max_length=16 * MAX_PARTICIPANTS)] = ()

    def after(self, online: Iterable[str], now_s: float) -> Presence:
        """What is known once these sites were seen online, and no others."""
        there = set(online)
        before = {one.site: one for one in self.sites}
        made = [SiteSeen(site=site, seen_s=now_s) for site in there]
        for site, one in before.items():
            if site not in there:
                since = one.seen_s if one.away_since_s is None else one.away_since_s
                made.append(SiteSeen(site=site, seen_s=one.seen_s, away_since_s=since))
        return Presence(written_s=now_s, sites=tuple(sorted(made, key=lambda one: one.site)))


def path_in(run: Path) -> Path:
    """Where it stands in a run's folder."""
    return run / "presence.json"


def read(run: Path) -> Presence | None:
    """What the run's process wrote last; None if nothing that can be read."""
    try:
        with path_in(run).open("rb") as stream:
            return Presence.model_validate_json(stream.read(_LIMIT_BYTES))
    except (OSError, ValidationError):
        return None


@dataclass
class Watched:
    """A transport that writes down who is online, every `LOOK_S` and when that changes.

    Args:
        clock: seconds, monotonic. wall_clock: seconds since 1970.
    """

    inner: Transport
    run: Path
    clock: Callable[[], float]
    wall_clock: Callable[[], float]
    _known: Presence = field(default_factory=Presence)
    _online: frozenset[str] | None = None
    _looked: float | None = None

    def __post_init__(self) -> None:
        self._known = read(self.run) or Presence()

    def sites(self) -> Mapping[str, int]:
        found = self.inner.sites()
        self._note(frozenset(found))
        return found

    def push(self, messages: Sequence[Outgoing]) -> list[str]:
        return self.inner.push(messages)

    def pull(self, ids: Sequence[str]) -> list[Incoming]:
        if self._looked is None or self.clock() - self._looked >= LOOK_S:
            self.sites()
        return self.inner.pull(ids)

    def _note(self, online: frozenset[str]) -> None:
        now = self.clock()
        if online == self._online and self._looked is not None and now - self._looked < LOOK_S:
            return
        self._online, self._looked = online, now
        self._known = self._known.after(online, self.wall_clock())
        data = canonical.encode(self._known.model_dump(mode="json"))
        with suppress(OSError):  # a full disk costs a display, never a round
            write_atomic(path_in(self.run), data, mode=0o600)
