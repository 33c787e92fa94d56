"""What the round's state machine knows. Plain values; what it is told and what it asks for are in
`round_messages`, and `rounds` hands out the names of both.

An answer of a site belongs to a **trip**: "keying" (a key for a new epoch), "submit", "agree" or
"open". The trips are also the phases in which they are awaited. `number` of an event or action is
the round's number; where the trip is "keying" it is the number of the keying (`OpenEpoch.number`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from shared_model.config import MINIMUM_CONTRIBUTORS
from shared_model.errors import OurMistake
from shared_model.ledger import LedgerHead
from shared_model.protocol_sum import agreed_digest
from shared_model.protocol_words import Phase

Trip = Literal["keying", "submit", "agree", "open"]
CloseReason = Literal["too-few-contributors", "not-agreed", "not-opened"]
PauseReason = Literal["budget", "barred", "too-few-sites", "too-few-keys", "failed-rounds"]
Ending = Literal["refused", "faulty", "lost", "silent"]
"""Why no answer of a site counts; "silent": the deadline passed."""

Endings = Mapping[str, Ending]
SILENT_IN_ROW = 2
"""A site that let so many deadlines pass, with no word on a submission between, rests."""
KEYING_S = 300.0
"""How long a new epoch waits for keys at most: nobody has paid for anything yet."""
REST_ROUNDS = 3
"""So many rounds a resting site is not asked, unless too few others are there."""


def _none() -> Endings:
    return MappingProxyType({})


# ---------------------------------------------------------------- state


@dataclass(frozen=True)
class Settings:
    """Fixed for a run. Times in seconds.

    sites: the whole roster, n sites. threshold: t of the roster. masked: False adds the integers
    without masks (simulations): no keys, no trips 2 and 3.
    deadline_s: how long trip 1 stays open. trip_s: the same for trips 2 and 3.
    gather_s: how long others are waited for once enough are there (sites, signatures, openings).
    rekey_s: how long a site that gave no key is left alone while enough others have one.
    epoch_rounds: an epoch serves no more rounds than this.
    """

    run: str
    sites: tuple[str, ...]
    rounds: int
    minimum: int
    threshold: int
    masked: bool
    max_failed: int
    deadline_s: float
    trip_s: float
    gather_s: float
    patience_s: float
    rekey_s: float
    epoch_rounds: int = 20

    @property
    def keying_s(self) -> float:
        """How long a new epoch waits for keys."""
        return min(self.trip_s, KEYING_S)

    def __post_init__(self) -> None:
        if self.minimum < MINIMUM_CONTRIBUTORS:
            raise OurMistake(f"An aggregate needs at least {MINIMUM_CONTRIBUTORS} contributors.")
        if self.sites != tuple(sorted(set(self.sites))):
            raise OurMistake("Sites are sorted, each once.")
        if len(self.sites) < self.needed:
            raise OurMistake(
                f"{len(self.sites)} sites are enrolled, {self.needed} contributors are needed.",
                do="Enrol more sites or lower minimum_contributors.",
            )
        if self.threshold <= len(self.sites) // 2:
            raise OurMistake("A threshold is more than half of the roster's sites.")
        if self.epoch_rounds < 1:
            raise OurMistake("An epoch serves at least one round.")

    @property
    def needed(self) -> int:
        """Fewest survivors of a round: max(t, minimum)."""
        return max(self.threshold, self.minimum)

    @property
    def colluding(self) -> int:
        """So many sites may lie together: the roster's collusion bound, min(2t - n - 1, t - 2)."""
        return max(0, min(2 * self.threshold - len(self.sites) - 1, self.threshold - 2))


@dataclass(frozen=True)
class Contribution:
    """A submission that counts. submission: SHA-256 of the header of the site's reply; ledger: the
    head of the site's privacy ledger in it."""

    site: str
    submission: str
    weight: int
    ledger: LedgerHead


@dataclass(frozen=True)
class Opening:
    """What one site opened.

    missing: survivors for whom it gave shares of pair seeds (`OpenRequest.missing` of the request
    that it answered). unreadable: dealers of whom it has no good share (`unreadable` and `accused`
    of its `SharesReply`).
    """

    missing: frozenset[str] = frozenset()
    unreadable: frozenset[str] = frozenset()


@dataclass(frozen=True)
class OpenRound:
    """The round that is being asked.

    ended: of trip 1. survivors: U, fixed once (empty before). signers: survivors whose agreement
    has come. asked: sites of the last `OpenShares` wave. missing: as in that wave. opened: what
    the sites have opened. out: whose answer in the present trip 2 or 3 does not count.
    deadline_at, grace_at: None until the clock is next shown in the present trip.
    """

    number: int
    participants: tuple[str, ...]
    request_digest: str
    deadline_at: float | None
    contributions: tuple[Contribution, ...] = ()
    ended: Endings = field(default_factory=_none)
    survivors: tuple[str, ...] = ()
    signers: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    missing: frozenset[str] = frozenset()
    opened: Mapping[str, Opening] = field(default_factory=lambda: MappingProxyType({}))
    out: Endings = field(default_factory=_none)
    grace_at: float | None = None

    @property
    def contributors(self) -> tuple[str, ...]:
        return tuple(item.site for item in self.contributions)

    @property
    def silent(self) -> tuple[str, ...]:
        """Participants from whom an answer to trip 1 may still come."""
        done = set(self.contributors) | set(self.ended)
        return tuple(site for site in self.participants if site not in done)

    @property
    def dropped(self) -> tuple[str, ...]:
        """Participants that are not survivors, once these are fixed."""
        return tuple(site for site in self.participants if site not in set(self.survivors))

    @property
    def unsigned(self) -> tuple[str, ...]:
        """Survivors whose agreement may still come, in trip 2 or late in trip 3."""
        done = set(self.signers) | set(self.out)
        return tuple(site for site in self.survivors if site not in done)

    def has_opened_all(self, site: str) -> bool:
        """Whether the site has answered the last wave of `OpenShares`."""
        return site in self.opened and self.missing <= self.opened[site].missing

    def accusers(self, dealer: str) -> int:
        """How many others have opened and have no good share of this dealer."""
        return sum(
            dealer in opening.unreadable for site, opening in self.opened.items() if site != dealer
        )

    @property
    def submissions(self) -> tuple[str, ...]:
        """Header digests of the survivors' replies, in the order of U."""
        by_site = {item.site: item.submission for item in self.contributions}
        return tuple(by_site[site] for site in self.survivors)

    @property
    def heads(self) -> tuple[LedgerHead, ...]:
        """Heads of the survivors' ledgers, in the order of U."""
        by_site = {item.site: item.ledger for item in self.contributions}
        return tuple(by_site[site] for site in self.survivors)

    @property
    def agreed(self) -> str:
        """What every `Agreement` of this round must sign."""
        return agreed_digest(self.survivors, self.submissions, self.heads)


@dataclass(frozen=True)
class Keying:
    """A new epoch that sites are being asked to make keys for. number: counts from 1 at a start."""

    number: int
    sites: tuple[str, ...]
    deadline_at: float
    keyed: frozenset[str] = frozenset()
    ended: Endings = field(default_factory=_none)


@dataclass(frozen=True)
class RunState:
    """Where the run stands. `round` is the number of the last round that was opened (0: none).

    exhausted: have no privacy budget left. barred: dealt shares that do not fit, or whose privacy
    ledger is not the one that was seen before; not asked again until `Resumed`. silences: deadlines
    that a site let pass since it last answered a request to train. resting: the number of the last
    round that a site is left out of. keyless: said that they have no key of the epoch, until they
    give a new one. awaiting_approval: their operator has to approve the roster or the run's plan.
    tried: when a site was last asked for a key. unused_epoch: no round was opened since the last
    epoch. stored: what `reopened` was given, until `RoundOpened`.
    """

    settings: Settings
    phase: Phase = "waiting"
    round: int = 0
    completed: int = 0
    failed_in_row: int = 0
    waiting_since: float | None = None
    exhausted: frozenset[str] = frozenset()
    barred: frozenset[str] = frozenset()
    silences: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    resting: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    participants: tuple[str, ...] = ()
    current: OpenRound | None = None
    incidents: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    pause: PauseReason | None = None
    keyings: int = 0
    keying: Keying | None = None
    keyless: frozenset[str] = frozenset()
    awaiting_approval: frozenset[str] = frozenset()
    tried: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    unused_epoch: bool = False
    stored: tuple[Contribution, ...] = ()
    stored_ended: Endings = field(default_factory=_none)

    @property
    def eligible(self) -> tuple[str, ...]:
        """Sites of the roster that may be asked: budget not known to be exhausted, not barred."""
        out = self.exhausted | self.barred
        return tuple(site for site in self.settings.sites if site not in out)

    @property
    def rested(self) -> tuple[str, ...]:
        """Eligible sites that are to be asked next; all that are eligible, if else too few."""
        found = tuple(site for site in self.eligible if self.resting.get(site, 0) <= self.round)
        return found if len(found) >= self.settings.needed else self.eligible

    @property
    def awaited(self) -> tuple[str, ...]:
        """Sites whose answer the present phase waits for; () where it waits for none."""
        current, keying = self.current, self.keying
        if self.phase == "keying" and keying is not None:
            done = keying.keyed.union(keying.ended)
            return tuple(site for site in keying.sites if site not in done)
        if current is None:
            return ()
        if self.phase == "submit":
            return current.silent
        if self.phase == "agree":
            return current.unsigned
        if self.phase == "open":
            return tuple(
                site
                for site in current.asked
                if site not in current.out
                and not (site in current.opened and current.missing <= current.opened[site].missing)
            )
        return ()


@dataclass(frozen=True)
class ClosedRound:
    """What the machine needs to know of a stored round.

    barred: whose shares or ledger did not fit, or opened for too few. silent, answered: of trip 1.
    excused: it closed because the coordinator could not go on with it, and is no failure.
    """

    number: int
    aggregated: bool
    exhausted: frozenset[str] = frozenset()
    incidents: tuple[str, ...] = ()
    barred: frozenset[str] = frozenset()
    silent: frozenset[str] = frozenset()
    answered: frozenset[str] = frozenset()
    excused: bool = False
