"""The three trips of a round: submit, agree, open. What each needs to end, and how it ends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType

from server.round_ends import (
    aggregate,
    answered,
    close,
    incident,
    learned,
    open_round,
    rest,
    silent,
    with_ending,
    without,
)
from server.round_messages import (
    Accept,
    AcceptAgreement,
    AcceptShares,
    Action,
    Agree,
    AgreementArrived,
    DeadlinePassed,
    FaultyReply,
    OpenShares,
    Push,
    PushAgree,
    RefusalArrived,
    ReplyArrived,
    RoundOpened,
    SharesArrived,
    SiteLost,
    Step,
)
from server.round_values import Contribution, Ending, Opening, OpenRound, RunState


def round_opened(state: RunState, event: RoundOpened) -> Step:
    """Trip 1 begins; where U was stored already, trip 2 does, with the same U."""
    current = OpenRound(
        number=state.round,
        participants=state.participants,
        request_digest=event.request_digest,
        deadline_at=event.now + state.settings.deadline_s,
    )
    if not state.stored:
        return replace(state, phase="submit", current=current), (
            Push(current.number, current.participants),
        )
    current = replace(
        current,
        deadline_at=None,
        contributions=state.stored,
        ended=state.stored_ended,
        survivors=tuple(item.site for item in state.stored),
    )
    state = replace(
        state, phase="agree", current=current, stored=(), stored_ended=MappingProxyType({})
    )
    return state, (PushAgree(current.number, current.survivors),)


# ---------------------------------------------------------------- submit


def reply(state: RunState, event: ReplyArrived) -> Step:
    current = open_round(state)
    wrong = _misaddressed(state, event, current.participants)
    if not wrong and event.request_digest != current.request_digest:
        wrong = "it answers another request"
    if wrong:
        return incident(state, event.site, wrong)
    for earlier in current.contributions:
        if earlier.site == event.site:
            if earlier.submission == event.submission:
                return state, ()  # the same reply again
            return incident(state, event.site, "two different replies to one request")
    if current.ended.get(event.site) == "refused":
        return incident(state, event.site, "a reply after a refusal")
    contribution = Contribution(event.site, event.submission, event.weight, event.ledger)
    current = replace(
        current,
        contributions=tuple(
            sorted((*current.contributions, contribution), key=lambda item: item.site)
        ),
        ended=without(current.ended, event.site),
    )
    state = answered(state, (event.site,))
    after, actions = _end_submit(replace(state, current=current))
    return after, (Accept(current.number, contribution), *actions)


def _end_submit(state: RunState) -> Step:
    """End trip 1 when no reply can come any more: here U is fixed, once."""
    current = open_round(state)
    if current.silent:
        return state, ()
    if len(current.contributions) < state.settings.needed:
        return close(state, "too-few-contributors")
    if not state.settings.masked:
        return aggregate(state)
    current = replace(current, survivors=current.contributors, deadline_at=None)
    return replace(state, phase="agree", current=current), (
        Agree(current.number, current.survivors, current.submissions, current.ended),
        PushAgree(current.number, current.survivors),
    )


# ---------------------------------------------------------------- agree


def agreement(state: RunState, event: AgreementArrived) -> Step:
    """An agreement in trip 2; one that comes as late as trip 3 makes its site an opener too."""
    current = open_round(state)
    wrong = _misaddressed(state, event, current.survivors)
    if wrong:
        return incident(state, event.site, wrong)
    if event.agreed != current.agreed:
        state, actions = incident(state, event.site, "it agrees to something else")
        if event.site in current.signers:
            return state, actions
        after, more = _end(_out(state, event.site, "faulty"))
        return after, (*actions, *more)
    if event.site in current.signers:
        return state, ()
    if current.out.get(event.site) == "refused":
        return incident(state, event.site, "an agreement after a refusal")
    current = replace(
        current,
        signers=_sorted((*current.signers, event.site)),
        out=without(current.out, event.site),
    )
    accept = AcceptAgreement(current.number, event.site)
    if state.phase == "open":
        current = replace(current, asked=_sorted((*current.asked, event.site)))
        return replace(state, current=current), (accept, _ask(current, (event.site,)))
    after, actions = _end(replace(state, current=current))
    return after, (accept, *actions)


def _end_agree(state: RunState, *, over: bool) -> Step:
    current = open_round(state)
    if state.awaited and not over:
        return state, ()
    if len(current.signers) < state.settings.threshold:
        return close(state, "not-agreed")
    current = replace(
        current,
        asked=current.signers,
        missing=frozenset(current.survivors) - set(current.signers),
        deadline_at=None,
        grace_at=None,
    )
    return replace(state, phase="open", current=current), (_ask(current, current.signers),)


# ---------------------------------------------------------------- open


def shares(state: RunState, event: SharesArrived) -> Step:
    current = open_round(state)
    wrong = _misaddressed(state, event, current.signers)
    if not wrong and not event.missing | event.unreadable <= set(current.survivors):
        wrong = "it names sites that are no survivors"
    if wrong:
        return incident(state, event.site, wrong)
    earlier = current.opened.get(event.site)
    if earlier is not None and not earlier.missing < event.missing:
        return state, ()  # nothing more than it has opened before
    if earlier is None and current.out.get(event.site) == "refused":
        return incident(state, event.site, "shares after a refusal")
    opening = Opening(event.missing, event.unreadable)
    current = replace(
        current,
        opened=MappingProxyType({**current.opened, event.site: opening}),
        out=without(current.out, event.site),
    )
    after, actions = _end(replace(state, current=current))
    return after, (AcceptShares(current.number, event.site), *actions)


def _end_open(state: RunState, *, over: bool, patient: bool = True) -> Step:
    """Sum if enough was opened, else wait, ask for more, or close the round for good.

    over: the trip's time is over. patient False: the grace for survivors that do not open is over.
    """
    current = open_round(state)
    threshold = state.settings.threshold
    openers = tuple(sorted(current.opened))
    enough = _self_seeds_open(current, threshold)
    if enough and not _uncovered(current, threshold):
        return aggregate(state, openers)
    missing = _not_opening(current)
    behind = tuple(site for site in openers if not missing <= current.opened[site].missing)
    more = enough and bool(missing - current.missing) and bool(behind)
    if more and (over or not patient or not state.awaited):
        return _ask_for_more(state, behind, missing)
    if (state.awaited or current.unsigned) and not over:
        return state, ()
    return _not_opened(state)


def _not_opened(state: RunState) -> Step:
    """Too few shares: the round closes, and dealers whose rows do not open answer for it.

    More accusers than may lie together prove it: the dealer is barred. Fewer do not, for they may
    be the liars; a dealer without t shares is then left out of some rounds, so that no pair of
    sites that blame each other stops the run.
    """
    current = open_round(state)
    accused = {dealer: current.accusers(dealer) for dealer in current.survivors}
    guilty = tuple(d for d, count in accused.items() if count > state.settings.colluding)
    doubted = [
        dealer
        for dealer, count in accused.items()
        if count and len(current.opened) - count < state.settings.threshold
    ]
    state = rest(state, doubted, current.number)
    blamed: list[Action] = []
    for dealer in guilty:
        state, actions = incident(
            state, dealer, f"its shares do not open for {accused[dealer]} sites"
        )
        blamed += actions
    state = replace(state, barred=state.barred | set(guilty))
    state, actions = close(state, "not-opened", guilty)
    return state, (*blamed, *actions)


def _ask_for_more(state: RunState, behind: tuple[str, ...], missing: frozenset[str]) -> Step:
    current = open_round(state)
    current = replace(
        current,
        asked=behind,
        missing=missing,
        out=MappingProxyType({k: v for k, v in current.out.items() if k not in behind}),
        deadline_at=None,
        grace_at=None,
    )
    return replace(state, current=current), (_ask(current, behind),)


def _self_seeds_open(current: OpenRound, threshold: int) -> bool:
    """Whether every survivor's self seed has t shares (so that there are t openers)."""
    return all(
        sum(dealer not in opening.unreadable for opening in current.opened.values()) >= threshold
        for dealer in current.survivors
    )


def _not_opening(current: OpenRound) -> frozenset[str]:
    """Survivors that have not opened, and whoever was taken for one before."""
    return current.missing | (set(current.survivors) - set(current.opened))


def _uncovered(current: OpenRound, threshold: int) -> frozenset[str]:
    """Survivors whose pair seeds with the dropped are not known: neither did they open, nor did t
    sites give shares of them. Empty where nobody dropped."""
    if not current.dropped:
        return frozenset()
    return frozenset(
        site
        for site in current.survivors
        if site not in current.opened
        and threshold
        > sum(
            site in opening.missing and site not in opening.unreadable
            for opening in current.opened.values()
        )
    )


def _ask(current: OpenRound, sites: tuple[str, ...]) -> OpenShares:
    return OpenShares(current.number, current.signers, _sorted(current.missing), sites)


# ---------------------------------------------------------------- what may come in every trip


def refusal(state: RunState, event: RefusalArrived) -> Step:
    """A refusal of the present trip, or of trip 2 while trip 3 runs."""
    current = open_round(state)
    asked, done = {
        "submit": (current.participants, current.contributors),
        "agree": (current.survivors, current.signers),
        "open": (current.signers, tuple(filter(current.has_opened_all, current.opened))),
    }[event.trip or state.phase]
    if event.site not in asked:
        return incident(state, event.site, "the site was not asked")
    if event.site in done:
        return incident(state, event.site, "a refusal after an answer")
    if state.phase == "submit":
        state = answered(state, (event.site,))
    return _end(_out(learned(state, event), event.site, "refused"))


def lost(state: RunState, event: FaultyReply | SiteLost) -> Step:
    """No answer of this trip comes from the site (a faulty one was counted already)."""
    current = open_round(state)
    expected = current.unsigned if (state.phase, event.trip) == ("open", "agree") else state.awaited
    if event.site not in expected:
        return state, ()
    faulty = isinstance(event, FaultyReply)
    return _end(_out(state, event.site, "faulty" if faulty else "lost"))


def deadline(state: RunState, event: DeadlinePassed) -> Step:
    """Start the clocks of a trip that began since the last look; end one whose time is over."""
    current = open_round(state)
    settings = state.settings
    if current.deadline_at is None:
        current = replace(current, deadline_at=event.now + settings.trip_s)
    if current.grace_at is None and _only_slow_ones_lack(state, current):
        current = replace(current, grace_at=event.now + settings.gather_s)
    if current != state.current:
        state = replace(state, current=current)
    if current.deadline_at is not None and event.now >= current.deadline_at:
        gone = state.awaited
        if state.phase == "submit":
            state = silent(state, gone)
        for site in gone:
            state = _out(state, site, "silent")
        return _end(state, over=True)
    if current.grace_at is not None and event.now >= current.grace_at:
        if state.phase == "agree":
            return _end_agree(state, over=True)
        return _end_open(state, over=False, patient=False)
    return state, ()


def _only_slow_ones_lack(state: RunState, current: OpenRound) -> bool:
    """Whether the trip could go on without those that it still waits for."""
    threshold = state.settings.threshold
    if state.phase == "agree":
        return len(current.signers) >= threshold
    return (
        state.phase == "open"
        and _self_seeds_open(current, threshold)
        and bool(_not_opening(current) - current.missing)
    )


def _end(state: RunState, *, over: bool = False) -> Step:
    if state.phase == "submit":
        return _end_submit(state)
    if state.phase == "agree":
        return _end_agree(state, over=over)
    return _end_open(state, over=over)


def _out(state: RunState, site: str, ending: Ending) -> RunState:
    current = open_round(state)
    if state.phase == "submit":
        current = replace(current, ended=with_ending(current.ended, site, ending))
    else:
        current = replace(current, out=with_ending(current.out, site, ending))
    return replace(state, current=current)


def _misaddressed(
    state: RunState,
    event: ReplyArrived | AgreementArrived | SharesArrived,
    asked: tuple[str, ...],
) -> str:
    if event.site not in asked:
        return "the site was not asked"
    if event.run != state.settings.run:
        return "it names another run"
    if event.round != open_round(state).number:
        return "it names another round"
    return ""


def _sorted(sites: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(sites)))
