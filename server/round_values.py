"""What the round's state machine is told, what it knows, and what it asks for. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from shared_model.config import MINIMUM_CONTRIBUTORS
from shared_model.errors import OurMistake, PeerFault
from shared_model.protocol import Phase, RefusalReason

CloseReason = Literal["too-few-contributors"]
PauseReason = Literal["budget", "too-few-sites", "failed-rounds"]
Ending = Literal["refused", "faulty", "lost", "silent"]


# ---------------------------------------------------------------- state


@dataclass(frozen=True)
class Settings:
    """Fixed for a run. Times in seconds."""

    run: str
    sites: tuple[str, ...]
    rounds: int
    minimum: int
    max_failed: int
    deadline_s: float
    gather_s: float
    patience_s: float

    def __post_init__(self) -> None:
        if self.minimum < MINIMUM_CONTRIBUTORS:
            raise OurMistake(f"An aggregate needs at least {MINIMUM_CONTRIBUTORS} contributors.")
        if self.sites != tuple(sorted(set(self.sites))):
            raise OurMistake("Sites are sorted, each once.")
        if len(self.sites) < self.minimum:
            raise OurMistake(
                f"{len(self.sites)} sites are enrolled, {self.minimum} contributors are needed.",
                do="Enrol more sites or lower minimum_contributors.",
            )


@dataclass(frozen=True)
class Contribution:
    """A reply that counts."""

    site: str
    update_digest: str
    weight: int


@dataclass(frozen=True)
class OpenRound:
    """The round that is being asked."""

    number: int
    participants: tuple[str, ...]
    request_digest: str
    deadline_at: float
    contributions: tuple[Contribution, ...] = ()
    ended: Mapping[str, Ending] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def contributors(self) -> tuple[str, ...]:
        return tuple(item.site for item in self.contributions)

    @property
    def silent(self) -> tuple[str, ...]:
        """Participants from whom an answer may still come."""
        done = set(self.contributors) | set(self.ended)
        return tuple(site for site in self.participants if site not in done)


@dataclass(frozen=True)
class RunState:
    """Where the run stands. `round` is the number of the last round that was opened (0: none)."""

    settings: Settings
    phase: Phase = "waiting"
    round: int = 0
    completed: int = 0
    failed_in_row: int = 0
    waiting_since: float | None = None
    exhausted: frozenset[str] = frozenset()
    participants: tuple[str, ...] = ()
    current: OpenRound | None = None
    incidents: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    pause: PauseReason | None = None

    @property
    def eligible(self) -> tuple[str, ...]:
        """Enrolled sites whose budget is not known to be exhausted."""
        return tuple(site for site in self.settings.sites if site not in self.exhausted)


# ---------------------------------------------------------------- events


@dataclass(frozen=True)
class SitesSeen:
    """Which sites the transport reaches at `now`."""

    now: float
    sites: frozenset[str]


@dataclass(frozen=True)
class RoundOpened:
    """The request of the round was made and stored; it may be sent now."""

    now: float
    request_digest: str


@dataclass(frozen=True)
class ReplyArrived:
    """A reply whose signature, body and update were found good, as it names itself."""

    site: str
    run: str
    round: int
    request_digest: str
    update_digest: str
    weight: int


@dataclass(frozen=True)
class RefusalArrived:
    """A signed refusal, as it names itself."""

    site: str
    run: str
    round: int
    request_digest: str
    reason: RefusalReason


@dataclass(frozen=True)
class FaultyReply:
    """What came as `site`'s answer to this round is no legal message or no legal update."""

    site: str
    round: int


@dataclass(frozen=True)
class SiteLost:
    """The transport says that this round's message to `site` will have no answer."""

    site: str
    round: int


@dataclass(frozen=True)
class DeadlinePassed:
    """The clock shows `now`; closes the round if its deadline is over."""

    now: float


@dataclass(frozen=True)
class Aggregated:
    """The aggregate was made and is stored."""

    round: int
    model_digest: str


@dataclass(frozen=True)
class Resumed:
    """The operator starts a paused run again: failures and exhausted budgets are forgotten (a
    site whose budget is still exhausted says so again, at no cost)."""


Event = (
    SitesSeen
    | RoundOpened
    | ReplyArrived
    | RefusalArrived
    | FaultyReply
    | SiteLost
    | DeadlinePassed
    | Aggregated
    | Resumed
)


# ---------------------------------------------------------------- actions


@dataclass(frozen=True)
class Open:
    """Make and store the request of round `number` for these participants, then `RoundOpened`."""

    number: int
    participants: tuple[str, ...]


@dataclass(frozen=True)
class Push:
    """Send the stored request of the round to these sites."""

    number: int
    sites: tuple[str, ...]


@dataclass(frozen=True)
class Accept:
    """Store this site's reply durably; it counts."""

    number: int
    contribution: Contribution


@dataclass(frozen=True)
class Incident:
    """A message that a correct site would not have sent; it had no other effect on others."""

    site: str
    reason: str

    def fault(self) -> PeerFault:
        return PeerFault(f"A message of {self.site} was refused: {self.reason}.", site=self.site)


@dataclass(frozen=True)
class Aggregate:
    """Sum exactly these contributions (sorted by site), store the result, then `Aggregated`."""

    number: int
    contributions: tuple[Contribution, ...]
    ended: Mapping[str, Ending]


@dataclass(frozen=True)
class CloseRound:
    """The round ends without an aggregate; the contributions that had come are never used."""

    number: int
    reason: CloseReason
    contributions: tuple[Contribution, ...]
    ended: Mapping[str, Ending]


@dataclass(frozen=True)
class Pause:
    """The run stops until its operator has acted."""

    reason: PauseReason


@dataclass(frozen=True)
class Finish:
    """All rounds are done."""


Action = Open | Push | Accept | Incident | Aggregate | CloseRound | Pause | Finish
Step = tuple[RunState, tuple[Action, ...]]


@dataclass(frozen=True)
class ClosedRound:
    """What the machine needs to know of a stored round."""

    number: int
    aggregated: bool
    exhausted: frozenset[str] = frozenset()
    incidents: tuple[str, ...] = ()
