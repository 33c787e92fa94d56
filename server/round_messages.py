"""What the round's state machine is told (events) and what it asks for (actions). Plain values.

`number` of an event or action is the round's number; where the trip is "keying" it is the number
of the keying (`OpenEpoch.number`).

    waiting    SitesSeen                -> OpenEpoch | Open | Pause
    keying     KeyArrived               -> AcceptKey
    preparing  RoundOpened              -> Push              | PushAgree, where U was stored
    submit     ReplyArrived             -> Accept ... then Agree, PushAgree (masks off: Aggregate)
    agree      AgreementArrived         -> AcceptAgreement ... then OpenShares
    open       SharesArrived            -> AcceptShares ... then Aggregate; or OpenShares again
    aggregating  Aggregated | NotOpened -> Finish | CloseRound, Pause

`DeadlinePassed`, `SiteLost`, `FaultyReply` and `RefusalArrived` may come in every trip. After a
start of the coordinator a stored round is taken up by

    state = rounds.reopened(state, number, participants)                  # no U was stored
    state = rounds.reopened(state, number, participants, agreed=contributions_of_u, ended=ended)

then `RoundOpened` with the stored request's digest, then the events of the stored answers
(replies; where U was stored: agreements), as if they came again. Shares are asked for again.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.round_values import (
    CloseReason,
    Contribution,
    Endings,
    PauseReason,
    RunState,
    Trip,
)
from shared_model.errors import PeerFault
from shared_model.ledger import LedgerHead
from shared_model.protocol_words import RefusalReason

# ---------------------------------------------------------------- events


@dataclass(frozen=True)
class SitesSeen:
    """Which sites the transport reaches at `now`, and which have a key in the current epoch of the
    current roster (empty if there is no epoch yet; not looked at where `masked` is False). used:
    how many rounds this epoch has served."""

    now: float
    sites: frozenset[str]
    keyed: frozenset[str] = frozenset()
    used: int = 0


@dataclass(frozen=True)
class KeyArrived:
    """A well signed `EpochKey` of the epoch that keying `number` asks for."""

    site: str
    number: int


@dataclass(frozen=True)
class RoundOpened:
    """The request of the round was made and stored; it may be sent now."""

    now: float
    request_digest: str


@dataclass(frozen=True)
class ReplyArrived:
    """A reply whose signature, transcript, ledger and body were found good, as it names itself.

    submission: SHA-256 of its header. ledger: the head of the site's privacy ledger in it.
    """

    site: str
    run: str
    round: int
    request_digest: str
    submission: str
    weight: int
    ledger: LedgerHead


@dataclass(frozen=True)
class AgreementArrived:
    """A well signed agreement on the transcript of this round, as it names itself.

    Survivors that were too slow for the grace of trip 2 may still sign while trip 3 runs; they
    become openers then, so go on listening for their answers.
    """

    site: str
    run: str
    round: int
    agreed: str


@dataclass(frozen=True)
class SharesArrived:
    """A `SharesReply` whose values were checked against their commitments, as it names itself.

    missing: of the `OpenRequest` that it answers. unreadable: its `unreadable` and `accused`.
    """

    site: str
    run: str
    round: int
    missing: frozenset[str] = frozenset()
    unreadable: frozenset[str] = frozenset()


@dataclass(frozen=True)
class RefusalArrived:
    """A signed refusal. trip, number: of the request to this site that its digest names and whose
    run and round it repeats; trip None: no request that was sent to this site."""

    site: str
    trip: Trip | None
    number: int
    reason: RefusalReason


@dataclass(frozen=True)
class FaultyReply:
    """What came as `site`'s answer is no legal message, body, key or share. ledger: it does not fit
    the privacy ledger that the site has shown before; the site is barred."""

    site: str
    trip: Trip
    number: int
    ledger: bool = False


@dataclass(frozen=True)
class SiteLost:
    """The transport says that this message to `site` will have no answer."""

    site: str
    trip: Trip
    number: int


@dataclass(frozen=True)
class DeadlinePassed:
    """The clock shows `now`. To be sent at every look at the transport: it ends trips whose time
    is over, and starts the clocks of trips that began since the last look."""

    now: float


@dataclass(frozen=True)
class Aggregated:
    """The aggregate was made and is stored."""

    round: int
    model_digest: str


@dataclass(frozen=True)
class NotOpened:
    """The seeds could not be rebuilt from what was opened. site: the dealer whose shares do not
    fit, if it is known."""

    round: int
    site: str | None = None


@dataclass(frozen=True)
class Resumed:
    """The operator starts a paused run again: failures, exhausted budgets and bars are forgotten
    (a site whose budget is still exhausted says so again, at no cost)."""


Event = (
    SitesSeen
    | KeyArrived
    | RoundOpened
    | ReplyArrived
    | AgreementArrived
    | SharesArrived
    | RefusalArrived
    | FaultyReply
    | SiteLost
    | DeadlinePassed
    | Aggregated
    | NotOpened
    | Resumed
)


# ---------------------------------------------------------------- actions


@dataclass(frozen=True)
class OpenEpoch:
    """Begin a new epoch: choose its number, ask these sites for a key of it. Keys of the epoch
    before are worthless from now on, and it has served no round yet."""

    number: int
    sites: tuple[str, ...]


@dataclass(frozen=True)
class AcceptKey:
    """Store this site's key of the new epoch durably; from now on it is keyed."""

    number: int
    site: str


@dataclass(frozen=True)
class Open:
    """Make and store the request of round `number` for these participants, then `RoundOpened`. The
    epoch serves one round more."""

    number: int
    participants: tuple[str, ...]


@dataclass(frozen=True)
class Push:
    """Send the stored request of the round (trip 1) to these sites."""

    number: int
    sites: tuple[str, ...]


@dataclass(frozen=True)
class Accept:
    """Store this site's reply durably; it counts."""

    number: int
    contribution: Contribution


@dataclass(frozen=True)
class Agree:
    """Store U (with `ended`) durably, before anything else is done. Emitted once for a round; a
    coordinator that starts again gives what it stored to `reopened`."""

    number: int
    survivors: tuple[str, ...]
    submissions: tuple[str, ...]
    ended: Endings


@dataclass(frozen=True)
class PushAgree:
    """Send the `AgreeRequest` of the stored U (trip 2) to these sites."""

    number: int
    sites: tuple[str, ...]


@dataclass(frozen=True)
class AcceptAgreement:
    """Keep this site's agreement; it counts."""

    number: int
    site: str


@dataclass(frozen=True)
class OpenShares:
    """Send an `OpenRequest` (trip 3) with the agreements of `signers` and this `missing` to
    `sites`. Emitted again with a larger `missing` where survivors do not open."""

    number: int
    signers: tuple[str, ...]
    missing: tuple[str, ...]
    sites: tuple[str, ...]


@dataclass(frozen=True)
class AcceptShares:
    """Keep what this site opened, in the place of what it opened before."""

    number: int
    site: str


@dataclass(frozen=True)
class Incident:
    """A message that a correct site would not have sent; it had no other effect on others."""

    site: str
    reason: str

    def fault(self) -> PeerFault:
        return PeerFault(f"A message of {self.site} was refused: {self.reason}.", site=self.site)


@dataclass(frozen=True)
class Aggregate:
    """Sum exactly these contributions (sorted by site) with what the openers opened (none where
    masks are off), store the result, then `Aggregated` or `NotOpened`. ended: of trip 1."""

    number: int
    contributions: tuple[Contribution, ...]
    ended: Endings
    openers: tuple[str, ...] = ()


@dataclass(frozen=True)
class CloseRound:
    """The round ends for good without an aggregate; its contributions are never used. barred:
    dealers that more openers cannot read than may lie together."""

    number: int
    reason: CloseReason
    contributions: tuple[Contribution, ...]
    ended: Endings
    barred: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pause:
    """The run stops until its operator has acted."""

    reason: PauseReason


@dataclass(frozen=True)
class Finish:
    """All rounds are done."""


Action = (
    OpenEpoch
    | AcceptKey
    | Open
    | Push
    | Accept
    | Agree
    | PushAgree
    | AcceptAgreement
    | OpenShares
    | AcceptShares
    | Incident
    | Aggregate
    | CloseRound
    | Pause
    | Finish
)
Step = tuple[RunState, tuple[Action, ...]]
