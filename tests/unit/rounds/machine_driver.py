"""Drives the coordinator's state machine in tests: short ways into each phase."""

from __future__ import annotations

from collections.abc import Iterable

from server.rounds import (
    Action,
    AgreementArrived,
    Event,
    KeyArrived,
    Open,
    OpenEpoch,
    RefusalArrived,
    ReplyArrived,
    RoundOpened,
    RunState,
    Settings,
    SharesArrived,
    SitesSeen,
    advance,
)
from shared_model.ledger import LedgerHead

NAMES = "abcdefghij"


HEAD = LedgerHead(length=3, head="ab" * 32, signature="cd" * 64)
"""Of every site's ledger; the machine looks at no ledger, only at what is agreed on."""


def make_settings(count: int = 5, **changes) -> Settings:
    """n = count sites, t = floor(2n/3) + 1; a round lasts 60 s, a trip 20 s, a grace 5 s."""
    values = {
        "run": "run",
        "sites": tuple(NAMES[:count]),
        "rounds": 3,
        "minimum": 2,
        "threshold": 2 * count // 3 + 1,
        "masked": True,
        "max_failed": 2,
        "deadline_s": 60.0,
        "trip_s": 20.0,
        "gather_s": 5.0,
        "patience_s": 100.0,
        "rekey_s": 50.0,
    }
    return Settings(**{**values, **changes})


def drive(state: RunState, *events: Event) -> tuple[RunState, list[Action]]:
    """The state after these events, and all actions."""
    actions: list[Action] = []
    for event in events:
        state, more = advance(state, event)
        actions += more
    return state, actions


def kinds(actions: Iterable[Action]) -> list[type]:
    return [type(item) for item in actions]


def seen(
    now: float, sites: Iterable[str], keyed: Iterable[str] | None = None, used: int = 0
) -> SitesSeen:
    """These sites are there; all of them have keys unless told otherwise."""
    present = frozenset(sites)
    return SitesSeen(now, present, present if keyed is None else frozenset(keyed), used)


def keying(state: RunState, sites: Iterable[str] | None = None, now: float = 0.0) -> RunState:
    """A state in which an epoch is being opened for these sites, none of which has a key."""
    state, actions = advance(state, seen(now, sites or state.settings.sites, ()))
    assert kinds(actions) == [OpenEpoch], actions
    return state


def submitting(state: RunState, sites: Iterable[str] | None = None, now: float = 10.0) -> RunState:
    """A state with a round open that is asked of these sites: trip 1, began at `now`."""
    present = tuple(sites or state.settings.sites)
    state, actions = drive(state, seen(now, present))
    if not actions:
        state, actions = drive(state, seen(now + state.settings.gather_s, present))
    assert kinds(actions) == [Open], actions
    assert actions[0].participants == present
    state, _ = advance(state, RoundOpened(now, f"q{state.round}"))
    return state


def agreeing(state: RunState, survivors: Iterable[str] | None = None) -> RunState:
    """From trip 1 to trip 2; participants that do not survive refused."""
    people = tuple(survivors or state.participants)
    for site in state.participants:
        event = reply(state, site) if site in people else refusal(state, site)
        state, _ = advance(state, event)
    assert state.phase == "agree"
    assert state.current.survivors == people
    return state


def opening(state: RunState, signers: Iterable[str] | None = None) -> RunState:
    """From trip 2 to trip 3; survivors that do not sign refused."""
    people = tuple(signers or state.current.survivors)
    for site in state.current.survivors:
        event = agreement(state, site) if site in people else refusal(state, site)
        state, _ = advance(state, event)
    assert state.phase == "open"
    assert state.current.signers == people
    return state


def aggregating(state: RunState) -> RunState:
    """From trip 3 to the sum: every signer opens."""
    for site in state.current.signers:
        if state.phase == "open":
            state, _ = advance(state, shares(state, site))
    assert state.phase == "aggregating"
    return state


def key(state: RunState, site: str) -> KeyArrived:
    return KeyArrived(site, state.keyings)


def reply(state, site, *, digest="u", run="run", round=None, request=None) -> ReplyArrived:
    number = state.round if round is None else round
    return ReplyArrived(site, run, number, request or f"q{number}", f"{digest}-{site}", 1, HEAD)


def agreement(state, site, *, run="run", round=None, agreed=None) -> AgreementArrived:
    number = state.round if round is None else round
    return AgreementArrived(site, run, number, agreed or state.current.agreed)


def shares(
    state, site, *, run="run", round=None, missing=None, unreadable=frozenset()
) -> SharesArrived:
    number = state.round if round is None else round
    asked = state.current.missing if missing is None else frozenset(missing)
    return SharesArrived(site, run, number, asked, frozenset(unreadable))


def refusal(state, site, reason="policy") -> RefusalArrived:
    """A refusal of what the present phase asks."""
    number = state.keyings if state.phase == "keying" else state.round
    return RefusalArrived(site, state.phase, number, reason)
