"""Before a round: which sites are there, and do they have keys of one epoch?

Sites are gathered first and keyed together: a new epoch makes every key of the one before
worthless, so that it is begun only between rounds, for all sites that are there, and not for each
that comes.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from server.round_ends import incident, learned, pause, silent, with_ending, without
from server.round_messages import (
    AcceptKey,
    DeadlinePassed,
    FaultyReply,
    KeyArrived,
    Open,
    OpenEpoch,
    RefusalArrived,
    SiteLost,
    SitesSeen,
    Step,
)
from server.round_values import Ending, Keying, RunState
from shared_model.errors import OurMistake


def sites_seen(state: RunState, event: SitesSeen) -> Step:
    """Open a round, open an epoch, go on waiting, or pause."""
    settings = state.settings
    if len(state.eligible) < settings.needed:
        with_barred = len(settings.sites) - len(state.exhausted)
        return pause(state, "barred" if with_barred >= settings.needed else "budget")
    since = event.now if state.waiting_since is None else state.waiting_since
    state = replace(state, waiting_since=since)
    waited_s = event.now - since
    wanted = state.rested
    present, ready = _there(state, event, wanted)
    if len(ready) < settings.needed and waited_s >= settings.gather_s:
        wanted = state.eligible  # those that rest too: without them there is no round
        present, ready = _there(state, event, wanted)
    gathered = len(present) == len(wanted) or (
        len(present) >= settings.needed and waited_s >= settings.gather_s
    )
    enough = len(ready) >= settings.needed
    if waited_s >= settings.patience_s and not (gathered and enough):
        return pause(state, "too-few-sites" if len(present) < settings.needed else "too-few-keys")
    if not gathered:
        return state, ()
    to_key = _to_key(state, present, ready, event)
    if to_key:
        return _open_epoch(state, to_key, event.now)
    if enough:
        return _open(state, ready)
    return state, ()


def _there(
    state: RunState, event: SitesSeen, wanted: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of these sites, which are there, and which of them can take part as they are."""
    present = tuple(site for site in wanted if site in event.sites)
    keyed = event.keyed - state.keyless
    return present, tuple(s for s in present if s in keyed or not state.settings.masked)


def _to_key(
    state: RunState, present: tuple[str, ...], ready: tuple[str, ...], event: SitesSeen
) -> tuple[str, ...]:
    """Sites of a new epoch; () if none is to be begun now.

    An epoch that has served `epoch_rounds` rounds is over. A site without a key is asked again
    after `rekey_s`; sooner, after `gather_s`, if too few have one, but never sooner if its operator
    has to approve the roster. Between two epochs there is a round if there can be one: no site
    that gives no keys keeps the run from going on.
    """
    settings, now = state.settings, event.now
    enough = len(ready) >= settings.needed
    if enough and state.unused_epoch:
        return ()
    old = settings.masked and event.used >= settings.epoch_rounds

    def due(site: str) -> bool:
        patient = enough or site in state.awaiting_approval
        after_s = settings.rekey_s if patient else min(settings.gather_s, settings.rekey_s)
        return site not in state.tried or now - state.tried[site] >= after_s

    without_key = [site for site in present if site not in ready]
    asked = tuple(site for site in present if site not in state.awaiting_approval or due(site))
    if (old or any(due(site) for site in without_key)) and len(asked) >= settings.needed:
        return asked
    return ()


def _open_epoch(state: RunState, sites: tuple[str, ...], now: float) -> Step:
    number = state.keyings + 1
    keying = Keying(number, sites, now + state.settings.keying_s)
    state = replace(
        state,
        phase="keying",
        keyings=number,
        keying=keying,
        unused_epoch=True,
        tried=MappingProxyType({**state.tried, **dict.fromkeys(sites, now)}),
    )
    return state, (OpenEpoch(number, sites),)


def _open(state: RunState, participants: tuple[str, ...]) -> Step:
    number = state.round + 1
    opening = replace(
        state,
        phase="preparing",
        round=number,
        participants=participants,
        waiting_since=None,
        unused_epoch=False,
    )
    return opening, (Open(number, participants),)


# ---------------------------------------------------------------- keying


def key_arrived(state: RunState, event: KeyArrived) -> Step:
    keying = _keying(state)
    if event.number < keying.number or event.site in keying.keyed:
        return state, ()  # of an earlier epoch, or the same again
    if event.number > keying.number or event.site not in keying.sites:
        return incident(state, event.site, "a key that was not asked for")
    if keying.ended.get(event.site) == "refused":
        return incident(state, event.site, "a key after a refusal")
    keying = replace(
        keying, keyed=keying.keyed | {event.site}, ended=without(keying.ended, event.site)
    )
    state = replace(
        state,
        keying=keying,
        keyless=state.keyless - {event.site},
        awaiting_approval=state.awaiting_approval - {event.site},
    )
    state, _ = _end_if_complete(state)
    return state, (AcceptKey(event.number, event.site),)


def key_refused(state: RunState, event: RefusalArrived) -> Step:
    keying = _keying(state)
    if event.site not in keying.sites:
        return incident(state, event.site, "the site was not asked")
    if event.site in keying.keyed:
        return incident(state, event.site, "a refusal after a key")
    return _end_if_complete(_ended(learned(state, event), event.site, "refused"))


def key_lost(state: RunState, event: FaultyReply | SiteLost) -> Step:
    """No key comes from this site (the incident of a faulty reply was counted already)."""
    if event.site not in state.awaited:
        return state, ()
    faulty = isinstance(event, FaultyReply)
    return _end_if_complete(_ended(state, event.site, "faulty" if faulty else "lost"))


def keying_deadline(state: RunState, event: DeadlinePassed) -> Step:
    if event.now < _keying(state).deadline_at:
        return state, ()
    gone = state.awaited
    state = silent(state, gone)
    for site in gone:
        state = _ended(state, site, "silent")
    return _end_if_complete(state)


def _ended(state: RunState, site: str, ending: Ending) -> RunState:
    keying = _keying(state)
    return replace(state, keying=replace(keying, ended=with_ending(keying.ended, site, ending)))


def _end_if_complete(state: RunState) -> Step:
    """Back to waiting when no key can come any more; the next look says who is keyed."""
    if state.awaited:
        return state, ()
    return replace(state, phase="waiting", keying=None), ()


def _keying(state: RunState) -> Keying:
    if state.keying is None:
        raise OurMistake("No epoch is being opened.")
    return state.keying
