"""The run as a pure state machine: `advance(state, event) -> (state, actions)`.

No I/O, no clock (events carry the time), no randomness. `server/coordinate.py` turns what happens
into events and carries out the actions. Between rounds: which sites are there, and epochs
(`round_gathering`). A round: three trips (`round_trips`), then one end (`round_ends`).

Guarantees, whatever the order of events, and over any number of restarts at which the loop hands
back what it was told to store:

- an aggregate has at least max(threshold, minimum) contributors, each counted once, all of them
  participants that answered this request of this round;
- a round that was opened ends exactly once, in an aggregate or in `CloseRound`, and its number is
  never used again: there are no attempts, a retry is the next round;
- `Agree` is emitted at most once for a round whose U is stored, and no request of the round names
  other survivors than this U: not after drop-outs, not after a restart, not after a failure;
- shares are asked for only after t survivors signed U, of survivors that signed it; nothing is
  opened in a round that closes as "too-few-contributors" or "not-agreed";
- a masked sum is made only when t openers hold a good share of every self seed, and the pair seeds
  of every survivor with every dropped site are known;
- an epoch begins only between rounds, and only sites that have its key take part;
- an answer for another run, round or request changes nothing but the count of incidents; late and
  repeated ones change nothing;
- a site whose privacy budget is exhausted, that dealt shares that do not fit or open for too few,
  or whose privacy ledger is not the one that was seen before, is not asked again in this run until
  the operator resumes it;
- a site that lets two deadlines pass in a row, or whose shares a few others say they cannot read
  so that a round fails, is left out of the next three rounds if enough others are there;
- an epoch serves at most `epoch_rounds` rounds;
- `max_failed` failed rounds in a row, or too few sites or keys for too long, pause the run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType

from server import round_ends, round_gathering, round_trips
from server.round_messages import (
    Accept,
    AcceptAgreement,
    AcceptKey,
    AcceptShares,
    Action,
    Aggregate,
    Aggregated,
    Agree,
    AgreementArrived,
    CloseRound,
    DeadlinePassed,
    Event,
    FaultyReply,
    Finish,
    Incident,
    KeyArrived,
    NotOpened,
    Open,
    OpenEpoch,
    OpenShares,
    Pause,
    Push,
    PushAgree,
    RefusalArrived,
    ReplyArrived,
    Resumed,
    RoundOpened,
    SharesArrived,
    SiteLost,
    SitesSeen,
    Step,
)
from server.round_values import (
    ClosedRound,
    CloseReason,
    Contribution,
    Ending,
    Endings,
    Keying,
    Opening,
    OpenRound,
    PauseReason,
    RunState,
    Settings,
    Trip,
)
from shared_model.errors import OurMistake
from shared_model.protocol_words import TRANSITIONS, Phase

__all__ = [
    "Accept",
    "AcceptAgreement",
    "AcceptKey",
    "AcceptShares",
    "Action",
    "Aggregate",
    "Aggregated",
    "Agree",
    "AgreementArrived",
    "CloseReason",
    "CloseRound",
    "ClosedRound",
    "Contribution",
    "DeadlinePassed",
    "Ending",
    "Endings",
    "Event",
    "FaultyReply",
    "Finish",
    "Incident",
    "KeyArrived",
    "Keying",
    "NotOpened",
    "Open",
    "OpenEpoch",
    "OpenRound",
    "OpenShares",
    "Opening",
    "Pause",
    "PauseReason",
    "Push",
    "PushAgree",
    "RefusalArrived",
    "ReplyArrived",
    "Resumed",
    "RoundOpened",
    "RunState",
    "Settings",
    "SharesArrived",
    "SiteLost",
    "SitesSeen",
    "Step",
    "Trip",
    "advance",
    "reopened",
    "replay",
]


def advance(state: RunState, event: Event) -> Step:
    """One step of the machine.

    Raises:
        OurMistake: the coordinator itself sent an event that cannot happen in this phase (messages
            of sites never raise; they are accepted, ignored or counted as incidents).
    """
    name = type(event).__name__
    legal = TRANSITIONS[state.phase].get(name)
    if legal is None:
        return _out_of_phase(state, event)
    after, actions = _handle(state, event)
    if after.phase not in legal:
        raise OurMistake(f"{name} led from {state.phase} to {after.phase}; that is no transition.")
    return after, actions


def _handle(state: RunState, event: Event) -> Step:
    match event:
        case SitesSeen():
            return round_gathering.sites_seen(state, event)
        case KeyArrived():
            return round_gathering.key_arrived(state, event)
        case RoundOpened():
            return round_trips.round_opened(state, event)
        case ReplyArrived():
            return round_trips.reply(state, event)
        case AgreementArrived():
            return round_trips.agreement(state, event)
        case SharesArrived():
            return round_trips.shares(state, event)
        case RefusalArrived():
            return _refusal(state, event)
        case FaultyReply():
            return _faulty(state, event)
        case SiteLost():
            return _lost(state, event)
        case DeadlinePassed():
            if state.phase == "keying":
                return round_gathering.keying_deadline(state, event)
            return round_trips.deadline(state, event)
        case Aggregated():
            return round_ends.aggregated(state, event)
        case NotOpened():
            return round_ends.not_opened(state, event)
        case Resumed():
            return round_ends.resumed(state)


def _out_of_phase(state: RunState, event: Event) -> Step:
    match event:
        case ReplyArrived():
            return _not_now(state, event, "submit")
        case AgreementArrived():
            return _not_now(state, event, "agree")
        case SharesArrived():
            return _not_now(state, event, "open")
        case KeyArrived():
            if _when(state, "keying", event.number) == "late":
                return state, ()
            return round_ends.incident(state, event.site, "a key that was not asked for")
        case RefusalArrived():
            return _refusal(state, event)
        case FaultyReply():
            return _faulty(state, event)
        case SiteLost() | DeadlinePassed() | SitesSeen():
            return state, ()
        case _:
            raise OurMistake(
                f"{type(event).__name__} cannot happen while the run is {state.phase}."
            )


def _not_now(
    state: RunState, event: ReplyArrived | AgreementArrived | SharesArrived, trip: Trip
) -> Step:
    """An answer that came after its trip had ended is late, not wrong; another is an incident."""
    here = event.run == state.settings.run and event.round == state.round
    if here and _when(state, trip, event.round) == "late":
        return state, ()
    return round_ends.incident(state, event.site, "nothing like it is being asked for")


def _refusal(state: RunState, event: RefusalArrived) -> Step:
    when = "never" if event.trip is None else _when(state, event.trip, event.number)
    if when == "never":
        return round_ends.incident(state, event.site, "it refuses what it was not asked")
    if when == "late":
        return state, ()
    if event.trip == "keying":
        return round_gathering.key_refused(state, event)
    return round_trips.refusal(state, event)


def _faulty(state: RunState, event: FaultyReply) -> Step:
    state, actions = round_ends.incident(state, event.site, "not a legal answer")
    if event.ledger:
        state = replace(state, barred=state.barred | {event.site})
    after, more = _lost(state, event)
    return after, (*actions, *more)


def _lost(state: RunState, event: FaultyReply | SiteLost) -> Step:
    if _when(state, event.trip, event.number) != "now":
        return state, ()
    if event.trip == "keying":
        return round_gathering.key_lost(state, event)
    return round_trips.lost(state, event)


_ORDER: dict[Phase, int] = {"preparing": 0, "submit": 1, "agree": 2, "open": 3}
"""How far the round is; a phase that is not named comes after it."""


def _when(state: RunState, trip: Trip, number: int) -> str:
    """Whether what was asked in this trip is awaited "now", was asked before ("late"), or "never".

    Trip 2 is awaited in trip 3 also: who signs late may still open.
    """
    if trip == "keying":
        if number > state.keyings:
            return "never"
        return "now" if state.phase == "keying" and number == state.keyings else "late"
    phase = _ORDER.get(state.phase, 4)
    if number == state.round and (state.phase == trip or (trip, state.phase) == ("agree", "open")):
        return "now"
    return "late" if (number, _ORDER[trip]) < (state.round, phase) else "never"


# ---------------------------------------------------------------- restart


def replay(
    settings: Settings, closed: Iterable[ClosedRound], *, resumed_after: int = 0
) -> RunState:
    """State after the rounds of a stored lineage: waiting, finished, or paused by failed rounds.

    resumed_after: number of the last round before the operator last resumed the run; failures,
    exhausted budgets and bars up to it are forgotten.

    Raises:
        OurMistake: round numbers do not increase.
    """
    state = RunState(settings)
    for item in closed:
        if item.number <= state.round:
            raise OurMistake(f"Round {item.number} of the lineage is out of order.")
        incidents = dict(state.incidents)
        for site in item.incidents:
            incidents[site] = incidents.get(site, 0) + 1
        remembered = item.number > resumed_after
        failed = state.failed_in_row if item.excused else state.failed_in_row + 1
        if item.aggregated or not remembered:
            failed = 0
        state = replace(state, round=item.number)
        if remembered:
            state = round_ends.silent(state, item.silent)
            state = round_ends.answered(state, item.answered)
        state = replace(
            state,
            completed=state.completed + (1 if item.aggregated else 0),
            failed_in_row=failed,
            exhausted=state.exhausted | (item.exhausted if remembered else frozenset()),
            barred=state.barred | (item.barred if remembered else frozenset()),
            incidents=MappingProxyType(incidents),
        )
    if state.completed >= settings.rounds:
        return replace(state, phase="finished")
    if state.failed_in_row >= settings.max_failed:
        return replace(state, phase="paused", pause="failed-rounds")
    return state


def reopened(
    state: RunState,
    number: int,
    participants: tuple[str, ...],
    *,
    agreed: tuple[Contribution, ...] = (),
    ended: Endings = MappingProxyType({}),
) -> RunState:
    """The state `preparing` of a round whose request is stored already (coordinator restart).

    agreed: the contributions of U, sorted by site, where `Agree` was carried out: the round goes on
    in trip 2 with this U and no other. ended: what `Agree.ended` said; participants that are in
    neither count as silent.

    Raises:
        OurMistake: the number was used, or the stored U does not belong to such a round.
    """
    if state.phase != "waiting" or number <= state.round:
        raise OurMistake(f"Round {number} cannot be opened again.")
    survivors = tuple(item.site for item in agreed)
    if agreed and (
        not state.settings.masked
        or list(survivors) != sorted(set(survivors))
        or not set(survivors) <= set(participants)
        or len(survivors) < state.settings.needed
    ):
        raise OurMistake(f"The stored survivors of round {number} are none of this round.")
    others = [site for site in participants if agreed and site not in survivors]
    silent: dict[str, Ending] = {site: ended.get(site, "silent") for site in others}
    return replace(
        state,
        phase="preparing",
        round=number,
        participants=participants,
        stored=agreed,
        stored_ended=MappingProxyType(silent),
    )
