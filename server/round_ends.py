"""How a round ends, and the small steps that every phase of the machine shares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from server.round_messages import (
    Aggregate,
    Aggregated,
    CloseRound,
    Finish,
    Incident,
    NotOpened,
    Pause,
    RefusalArrived,
    Step,
)
from server.round_values import (
    REST_ROUNDS,
    SILENT_IN_ROW,
    CloseReason,
    Ending,
    Endings,
    OpenRound,
    PauseReason,
    RunState,
)
from shared_model.errors import OurMistake


def incident(state: RunState, site: str, reason: str) -> Step:
    """Count a message that a correct site would not have sent."""
    incidents = MappingProxyType({**state.incidents, site: state.incidents.get(site, 0) + 1})
    return replace(state, incidents=incidents), (Incident(site, reason),)


def pause(state: RunState, reason: PauseReason) -> Step:
    return replace(state, phase="paused", pause=reason, waiting_since=None), (Pause(reason),)


def open_round(state: RunState) -> OpenRound:
    """The round that is open.

    Raises:
        OurMistake: none is.
    """
    if state.current is None:
        raise OurMistake("No round is open.")
    return state.current


def with_ending(endings: Endings, site: str, ending: Ending) -> Endings:
    return MappingProxyType({**endings, site: ending})


def without(endings: Endings, site: str) -> Endings:
    return MappingProxyType({key: value for key, value in endings.items() if key != site})


def learned(state: RunState, event: RefusalArrived) -> RunState:
    """What a refusal says about later rounds.

    A site without a key of the epoch may be asked for one at once, unless it refuses to make one;
    a site whose operator has to approve the roster or the run's plan is left alone for `rekey_s`. A
    site that finds its own privacy ledger to be an older copy is barred; one that does not agree
    to another's ledger is not.
    """
    site = event.site
    match event.reason:
        case "budget":
            return replace(state, exhausted=state.exhausted | {site})
        case "epoch" if event.trip != "keying":
            tried = {key: at for key, at in state.tried.items() if key != site}
            return replace(state, keyless=state.keyless | {site}, tried=MappingProxyType(tried))
        case "ledger" if event.trip == "submit":
            return replace(state, barred=state.barred | {site})
        case "roster-approval" | "run-approval":
            return replace(
                state,
                keyless=state.keyless | {site},
                awaiting_approval=state.awaiting_approval | {site},
            )
        case _:
            return state


def rest(state: RunState, sites: Iterable[str], number: int) -> RunState:
    """Leave these sites out of the rounds after round `number`, unless too few others are there."""
    resting = {**state.resting, **dict.fromkeys(sites, number + REST_ROUNDS)}
    return replace(state, resting=MappingProxyType(resting))


def silent(state: RunState, sites: Iterable[str]) -> RunState:
    """These sites let a deadline pass; whoever did so before, and has not answered since, rests."""
    silences = dict(state.silences)
    for site in sites:
        silences[site] = silences.get(site, 0) + 1
    again = [site for site in sites if silences[site] >= SILENT_IN_ROW]
    return rest(replace(state, silences=MappingProxyType(silences)), again, state.round)


def answered(state: RunState, sites: Iterable[str]) -> RunState:
    """These sites answered a request to train: their silences are forgotten."""
    gone = set(sites)
    kept = {site: count for site, count in state.silences.items() if site not in gone}
    return replace(state, silences=MappingProxyType(kept))


def aggregate(state: RunState, openers: tuple[str, ...] = ()) -> Step:
    current = open_round(state)
    return replace(state, phase="aggregating"), (
        Aggregate(current.number, current.contributions, current.ended, openers),
    )


def close(state: RunState, reason: CloseReason, barred: tuple[str, ...] = ()) -> Step:
    """End the round without an aggregate; too many of these in a row pause the run."""
    current = open_round(state)
    closed = CloseRound(current.number, reason, current.contributions, current.ended, barred)
    state = replace(
        state,
        phase="waiting",
        current=None,
        participants=(),
        failed_in_row=state.failed_in_row + 1,
    )
    if state.failed_in_row >= state.settings.max_failed:
        paused, actions = pause(state, "failed-rounds")
        return paused, (closed, *actions)
    return state, (closed,)


def aggregated(state: RunState, event: Aggregated) -> Step:
    _of_this_round(state, event.round, "aggregated")
    completed = state.completed + 1
    state = replace(state, completed=completed, failed_in_row=0, current=None, participants=())
    if completed >= state.settings.rounds:
        return replace(state, phase="finished"), (Finish(),)
    return replace(state, phase="waiting"), ()


def not_opened(state: RunState, event: NotOpened) -> Step:
    """The seeds cannot be rebuilt: closed for good, and a dealer that cheated is barred."""
    current = _of_this_round(state, event.round, "not opened")
    if not state.settings.masked:
        raise OurMistake("Masks are off; there is nothing to open.")
    if event.site is None:
        return close(state, "not-opened")
    if event.site not in current.survivors:
        raise OurMistake(f"{event.site} is no survivor of round {event.round}; it dealt nothing.")
    state, blamed = incident(state, event.site, "it dealt shares that do not fit together")
    state = replace(state, barred=state.barred | {event.site})
    state, actions = close(state, "not-opened")
    return state, (*blamed, *actions)


def resumed(state: RunState) -> Step:
    """The operator goes on: what only time or people can mend is tried again."""
    nobody: Mapping[str, float] = MappingProxyType({})
    fresh = replace(
        state,
        phase="waiting",
        pause=None,
        failed_in_row=0,
        waiting_since=None,
        exhausted=frozenset(),
        barred=frozenset(),
        silences=MappingProxyType({}),
        resting=MappingProxyType({}),
        tried=nobody,
    )
    return fresh, ()


def _of_this_round(state: RunState, number: int, what: str) -> OpenRound:
    current = open_round(state)
    if number != current.number:
        raise OurMistake(f"Round {number} was {what}, but {current.number} is open.")
    return current
