"""The round as a pure state machine: `advance(state, event) -> (state, actions)`.

No I/O, no clock (events carry the time), no randomness. `server/coordinate.py` turns what happens
into events and carries out the actions. Guarantees, whatever the order of events:

- an aggregate has at least `minimum` (>= config.MINIMUM_CONTRIBUTORS) contributors, each counted
  once, all of them participants that answered this request of this round;
- a round that was opened ends exactly once, in `Aggregate` or in `CloseRound`, and its number is
  never used again: there are no attempts, a retry is the next round;
- an answer for another run, round or request changes nothing but the count of incidents;
- a site whose privacy budget is exhausted is not asked again in this run;
- `max_failed` failed rounds in a row, or too few sites that can still take part, pause the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from server.round_values import (
    Accept,
    Action,
    Aggregate,
    Aggregated,
    ClosedRound,
    CloseReason,
    CloseRound,
    Contribution,
    DeadlinePassed,
    Ending,
    Event,
    FaultyReply,
    Finish,
    Incident,
    Open,
    OpenRound,
    Pause,
    PauseReason,
    Push,
    RefusalArrived,
    ReplyArrived,
    Resumed,
    RoundOpened,
    RunState,
    Settings,
    SiteLost,
    SitesSeen,
    Step,
)
from shared_model.errors import OurMistake
from shared_model.protocol import TRANSITIONS

__all__ = [
    "Accept",
    "Action",
    "Aggregate",
    "Aggregated",
    "CloseReason",
    "CloseRound",
    "ClosedRound",
    "Contribution",
    "DeadlinePassed",
    "Ending",
    "Event",
    "FaultyReply",
    "Finish",
    "Incident",
    "Open",
    "OpenRound",
    "Pause",
    "PauseReason",
    "Push",
    "RefusalArrived",
    "ReplyArrived",
    "Resumed",
    "RoundOpened",
    "RunState",
    "Settings",
    "SiteLost",
    "SitesSeen",
    "Step",
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
            return _sites_seen(state, event)
        case RoundOpened():
            return _round_opened(state, event)
        case ReplyArrived():
            return _reply(state, event)
        case RefusalArrived():
            return _refusal(state, event)
        case FaultyReply():
            return _faulty(state, event)
        case SiteLost():
            return _lost(state, event)
        case DeadlinePassed():
            return _deadline(state, event)
        case Aggregated():
            return _aggregated(state, event)
        case Resumed():
            return _resumed(state)


def _out_of_phase(state: RunState, event: Event) -> Step:
    if isinstance(event, ReplyArrived | RefusalArrived):
        if event.round == state.round and event.run == state.settings.run:
            return state, ()  # came after its round had ended: late, not wrong
        return _incident(state, event.site, "no such round is open")
    if isinstance(event, FaultyReply):
        return _incident(state, event.site, "not a legal answer")
    if isinstance(event, SiteLost | DeadlinePassed | SitesSeen):
        return state, ()
    raise OurMistake(f"{type(event).__name__} cannot happen while the run is {state.phase}.")


def _sites_seen(state: RunState, event: SitesSeen) -> Step:
    settings = state.settings
    eligible = state.eligible
    if len(eligible) < settings.minimum:
        return _pause(state, "budget")
    since = event.now if state.waiting_since is None else state.waiting_since
    state = replace(state, waiting_since=since)
    present = tuple(site for site in eligible if site in event.sites)
    waited_s = event.now - since
    if len(present) == len(eligible) or (
        len(present) >= settings.minimum and waited_s >= settings.gather_s
    ):
        number = state.round + 1
        opening = replace(
            state, phase="opening", round=number, participants=present, waiting_since=None
        )
        return opening, (Open(number, present),)
    if waited_s >= settings.patience_s:
        return _pause(state, "too-few-sites")
    return state, ()


def _round_opened(state: RunState, event: RoundOpened) -> Step:
    current = OpenRound(
        number=state.round,
        participants=state.participants,
        request_digest=event.request_digest,
        deadline_at=event.now + state.settings.deadline_s,
    )
    return (
        replace(state, phase="open", current=current),
        (Push(current.number, current.participants),),
    )


def _reply(state: RunState, event: ReplyArrived) -> Step:
    current = _open(state)
    wrong = _misaddressed(state, current, event)
    if wrong:
        return _incident(state, event.site, wrong)
    for earlier in current.contributions:
        if earlier.site == event.site:
            if earlier.update_digest == event.update_digest:
                return state, ()  # the same reply again
            return _incident(state, event.site, "two different replies to one request")
    if current.ended.get(event.site) == "refused":
        return _incident(state, event.site, "a reply after a refusal")
    contribution = Contribution(event.site, event.update_digest, event.weight)
    current = replace(
        current,
        contributions=tuple(
            sorted((*current.contributions, contribution), key=lambda item: item.site)
        ),
        ended=_without(current.ended, event.site),
    )
    after, actions = _end_if_complete(replace(state, current=current))
    return after, (Accept(current.number, contribution), *actions)


def _refusal(state: RunState, event: RefusalArrived) -> Step:
    current = _open(state)
    wrong = _misaddressed(state, current, event)
    if wrong:
        return _incident(state, event.site, wrong)
    if event.site in current.contributors:
        return _incident(state, event.site, "a refusal after a reply")
    if event.reason == "budget":
        state = replace(state, exhausted=state.exhausted | {event.site})
    return _end_if_complete(_ended(state, current, event.site, "refused"))


def _faulty(state: RunState, event: FaultyReply) -> Step:
    current = _open(state)
    state, actions = _incident(state, event.site, "not a legal answer")
    if event.round != current.number or event.site not in current.silent:
        return state, actions
    after, more = _end_if_complete(_ended(state, current, event.site, "faulty"))
    return after, (*actions, *more)


def _lost(state: RunState, event: SiteLost) -> Step:
    current = _open(state)
    if event.round != current.number or event.site not in current.silent:
        return state, ()
    return _end_if_complete(_ended(state, current, event.site, "lost"))


def _deadline(state: RunState, event: DeadlinePassed) -> Step:
    current = _open(state)
    if event.now < current.deadline_at:
        return state, ()
    for site in current.silent:
        state = _ended(state, _open(state), site, "silent")
    return _end_if_complete(state)


def _aggregated(state: RunState, event: Aggregated) -> Step:
    current = _open(state)
    if event.round != current.number:
        raise OurMistake(f"Round {event.round} was aggregated, but {current.number} is open.")
    completed = state.completed + 1
    state = replace(state, completed=completed, failed_in_row=0, current=None, participants=())
    if completed >= state.settings.rounds:
        return replace(state, phase="finished"), (Finish(),)
    return replace(state, phase="waiting"), ()


def _resumed(state: RunState) -> Step:
    fresh = replace(
        state,
        phase="waiting",
        pause=None,
        failed_in_row=0,
        waiting_since=None,
        exhausted=frozenset(),
    )
    return fresh, ()


def _misaddressed(state: RunState, current: OpenRound, event: ReplyArrived | RefusalArrived) -> str:
    if event.site not in current.participants:
        return "the site was not asked"
    if event.run != state.settings.run:
        return "it names another run"
    if event.round != current.number:
        return "it names another round"
    if event.request_digest != current.request_digest:
        return "it answers another request"
    return ""


def _end_if_complete(state: RunState) -> Step:
    """End the round when no answer can come any more."""
    current = _open(state)
    if current.silent:
        return state, ()
    if len(current.contributions) >= state.settings.minimum:
        return (
            replace(state, phase="aggregating"),
            (Aggregate(current.number, current.contributions, current.ended),),
        )
    closed = (
        CloseRound(current.number, "too-few-contributors", current.contributions, current.ended),
    )
    state = replace(
        state,
        phase="waiting",
        current=None,
        participants=(),
        failed_in_row=state.failed_in_row + 1,
    )
    if state.failed_in_row >= state.settings.max_failed:
        paused, actions = _pause(state, "failed-rounds")
        return paused, (*closed, *actions)
    return state, closed


def _ended(state: RunState, current: OpenRound, site: str, ending: Ending) -> RunState:
    ended = MappingProxyType({**current.ended, site: ending})
    return replace(state, current=replace(current, ended=ended))


def _without(ended: Mapping[str, Ending], site: str) -> Mapping[str, Ending]:
    return MappingProxyType({key: value for key, value in ended.items() if key != site})


def _incident(state: RunState, site: str, reason: str) -> Step:
    incidents = MappingProxyType({**state.incidents, site: state.incidents.get(site, 0) + 1})
    return replace(state, incidents=incidents), (Incident(site, reason),)


def _pause(state: RunState, reason: PauseReason) -> Step:
    return replace(state, phase="paused", pause=reason, waiting_since=None), (Pause(reason),)


def _open(state: RunState) -> OpenRound:
    if state.current is None:
        raise OurMistake("No round is open.")
    return state.current


def replay(
    settings: Settings, closed: Iterable[ClosedRound], *, resumed_after: int = 0
) -> RunState:
    """State after the rounds of a stored lineage: waiting, finished, or paused by failed rounds.

    resumed_after: number of the last round before the operator last resumed the run; failures and
    exhausted budgets up to it are forgotten.

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
        failed = 0 if item.aggregated or not remembered else state.failed_in_row + 1
        state = replace(
            state,
            round=item.number,
            completed=state.completed + (1 if item.aggregated else 0),
            failed_in_row=failed,
            exhausted=state.exhausted | (item.exhausted if remembered else frozenset()),
            incidents=MappingProxyType(incidents),
        )
    if state.completed >= settings.rounds:
        return replace(state, phase="finished")
    if state.failed_in_row >= settings.max_failed:
        return replace(state, phase="paused", pause="failed-rounds")
    return state


def reopened(state: RunState, number: int, participants: tuple[str, ...]) -> RunState:
    """The state `opening` of a round whose request is stored already (coordinator restart)."""
    if state.phase != "waiting" or number <= state.round:
        raise OurMistake(f"Round {number} cannot be opened again.")
    return replace(state, phase="opening", round=number, participants=participants)
