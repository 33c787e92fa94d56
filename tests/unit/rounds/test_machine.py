"""The round's state machine, driven by every kind of event in every order."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from server import rounds
from server.rounds import (
    Accept,
    Aggregate,
    Aggregated,
    CloseRound,
    DeadlinePassed,
    FaultyReply,
    Finish,
    Incident,
    Open,
    Pause,
    Push,
    RefusalArrived,
    ReplyArrived,
    Resumed,
    RoundOpened,
    RunState,
    Settings,
    SiteLost,
    SitesSeen,
    advance,
)
from shared_model.errors import OurMistake, PeerFault
from shared_model.protocol import TRANSITIONS

SITES = ("a", "b", "c", "d")


def make_settings(**changes):
    values = {
        "run": "run",
        "sites": SITES,
        "rounds": 3,
        "minimum": 2,
        "max_failed": 2,
        "deadline_s": 60.0,
        "gather_s": 5.0,
        "patience_s": 100.0,
    }
    return Settings(**{**values, **changes})


def opened(sites=SITES, state=None):
    """A state with an open round asked of `sites`, at time 10."""
    state = state or RunState(make_settings(sites=tuple(sites)))
    state, actions = advance(state, SitesSeen(10.0, frozenset(sites)))
    assert [type(item) for item in actions] == [Open]
    state, actions = advance(state, RoundOpened(10.0, f"q{state.round}"))
    assert actions == (Push(state.round, tuple(sites)),)
    return state


def reply(state, site, *, digest="u", run="run", round=None, request=None):
    number = state.round if round is None else round
    return ReplyArrived(site, run, number, request or f"q{number}", digest, 1)


def refusal(state, site, reason="policy"):
    return RefusalArrived(site, "run", state.round, f"q{state.round}", reason)


def drive(state, *events):
    actions = []
    for event in events:
        state, more = advance(state, event)
        actions += more
    return state, actions


def test_a_round_closes_with_an_aggregate_when_all_have_answered():
    state = opened()
    state, actions = drive(state, *(reply(state, site) for site in "dbca"))
    aggregates = [item for item in actions if isinstance(item, Aggregate)]
    assert [c.site for c in aggregates[0].contributions] == list(SITES)
    state, actions = advance(state, Aggregated(1, "m"))
    assert state.phase == "waiting"
    assert state.completed == 1


def test_the_last_round_finishes_the_run():
    state = RunState(make_settings(rounds=1))
    state = opened(state=state)
    state, _ = drive(state, *(reply(state, site) for site in SITES))
    state, actions = advance(state, Aggregated(1, "m"))
    assert actions == (Finish(),)
    assert state.phase == "finished"


def test_at_the_deadline_enough_contributors_are_aggregated_without_the_silent():
    state = opened()
    state, _ = drive(state, reply(state, "a"), reply(state, "c"))
    state, actions = advance(state, DeadlinePassed(69.9))
    assert actions == ()
    state, actions = advance(state, DeadlinePassed(70.0))
    assert isinstance(actions[0], Aggregate)
    assert actions[0].ended == {"b": "silent", "d": "silent"}


def test_one_contributor_is_never_aggregated():
    state = opened()
    state, _ = advance(state, reply(state, "a"))
    state, actions = advance(state, DeadlinePassed(70.0))
    assert isinstance(actions[0], CloseRound)
    assert state.phase == "waiting"
    assert state.failed_in_row == 1


def test_a_configuration_with_one_contributor_is_refused():
    with pytest.raises(OurMistake):
        make_settings(minimum=1)


def test_a_failed_round_number_is_never_used_again():
    state = opened()
    state, _ = advance(state, DeadlinePassed(70.0))
    state = opened(state=state)
    assert state.round == 2


def test_rounds_that_fail_in_a_row_pause_the_run():
    state = opened()
    state, _ = advance(state, DeadlinePassed(70.0))
    state = opened(state=state)
    state, actions = advance(state, DeadlinePassed(999.0))
    assert [type(item) for item in actions] == [CloseRound, Pause]
    assert state.pause == "failed-rounds"
    state, _ = advance(state, Resumed())
    assert state.phase == "waiting"
    assert state.failed_in_row == 0


def test_the_same_reply_again_changes_nothing():
    state = opened()
    state, _ = advance(state, reply(state, "a"))
    again, actions = advance(state, reply(state, "a"))
    assert again is state
    assert actions == ()


def test_a_second_different_reply_is_an_incident_and_the_first_stays():
    state = opened()
    state, _ = advance(state, reply(state, "a", digest="first"))
    state, actions = advance(state, reply(state, "a", digest="second"))
    assert isinstance(actions[0], Incident)
    assert state.current.contributions[0].update_digest == "first"
    assert state.incidents == {"a": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"run": "other"},
        {"round": 7},
        {"request": "another request"},
    ],
)
def test_a_reply_for_something_else_is_an_incident_that_names_the_site(wrong):
    state = opened()
    after, actions = advance(state, reply(state, "b", **wrong))
    assert after.current == state.current
    assert isinstance(actions[0], Incident)
    fault = actions[0].fault()
    assert isinstance(fault, PeerFault)
    assert fault.site == "b"
    assert after.incidents == {"b": 1}


def test_a_site_that_was_not_asked_cannot_contribute():
    state = RunState(make_settings())
    state, _ = drive(
        state,
        SitesSeen(0.0, frozenset("abc")),
        SitesSeen(5.0, frozenset("abc")),
        RoundOpened(5.0, "q1"),
    )
    state, actions = advance(state, reply(state, "d"))
    assert isinstance(actions[0], Incident)
    assert state.current.contributions == ()


def test_a_late_reply_after_its_round_ended_is_ignored_without_blame():
    state = opened()
    late = reply(state, "b")
    state, _ = advance(state, DeadlinePassed(70.0))
    after, actions = advance(state, late)
    assert after is state
    assert actions == ()


def test_an_exhausted_site_leaves_the_rest_of_the_run():
    state = opened()
    state, _ = drive(state, refusal(state, "a", "budget"), *(reply(state, site) for site in "bcd"))
    state, _ = advance(state, Aggregated(1, "m"))
    state, actions = advance(state, SitesSeen(80.0, frozenset(SITES)))
    assert actions == (Open(2, ("b", "c", "d")),)


def test_another_refusal_is_asked_again_in_the_next_round():
    state = opened()
    state, _ = drive(state, refusal(state, "a", "policy"), *(reply(state, site) for site in "bcd"))
    state, _ = advance(state, Aggregated(1, "m"))
    state, actions = advance(state, SitesSeen(80.0, frozenset(SITES)))
    assert actions == (Open(2, SITES),)


def test_too_few_sites_with_budget_pause_the_run():
    state = opened(sites=("a", "b"))
    state, _ = drive(state, refusal(state, "a", "budget"), reply(state, "b"))
    state, actions = advance(state, SitesSeen(80.0, frozenset("ab")))
    assert actions == (Pause("budget"),)


def test_all_enrolled_sites_are_waited_for_a_while_then_the_minimum_will_do():
    state = RunState(make_settings())
    state, actions = advance(state, SitesSeen(0.0, frozenset("ab")))
    assert actions == ()
    state, actions = advance(state, SitesSeen(4.9, frozenset("ab")))
    assert actions == ()
    state, actions = advance(state, SitesSeen(5.0, frozenset("ab")))
    assert actions == (Open(1, ("a", "b")),)


def test_too_few_sites_for_too_long_pause_the_run():
    state = RunState(make_settings())
    state, _ = advance(state, SitesSeen(0.0, frozenset("a")))
    state, actions = advance(state, SitesSeen(100.0, frozenset("a")))
    assert actions == (Pause("too-few-sites"),)


def test_a_lost_site_does_not_hold_the_round():
    state = opened()
    state, actions = drive(
        state, SiteLost("a", 1), FaultyReply("b", 1), reply(state, "c"), reply(state, "d")
    )
    aggregate = actions[-1]
    assert isinstance(aggregate, Aggregate)
    assert aggregate.ended == {"a": "lost", "b": "faulty"}


def test_a_reply_after_a_refusal_does_not_count():
    state = opened()
    state, actions = drive(state, refusal(state, "a"), reply(state, "a"))
    assert isinstance(actions[-1], Incident)
    assert state.current.contributions == ()


def test_a_site_given_up_too_early_still_counts_when_its_reply_comes():
    state = opened()
    state, actions = drive(state, SiteLost("a", 1), reply(state, "a"))
    assert isinstance(actions[-1], Accept)
    assert state.current.contributors == ("a",)
    assert state.current.ended == {}


def test_our_own_impossible_events_raise():
    state = RunState(make_settings())
    with pytest.raises(OurMistake):
        advance(state, RoundOpened(0.0, "q"))
    with pytest.raises(OurMistake):
        advance(state, Aggregated(1, "m"))
    with pytest.raises(OurMistake):
        advance(state, Resumed())


def test_replay_of_a_lineage_gives_the_state_that_was_left():
    closed = [
        rounds.ClosedRound(1, True),
        rounds.ClosedRound(2, False, frozenset("a"), ("b", "b")),
    ]
    state = rounds.replay(make_settings(), closed)
    assert (state.round, state.completed, state.failed_in_row) == (2, 1, 1)
    assert state.exhausted == {"a"}
    assert state.incidents == {"b": 2}
    paused = rounds.replay(make_settings(), [*closed, rounds.ClosedRound(3, False)])
    assert paused.phase == "paused"
    resumed = rounds.replay(
        make_settings(), [*closed, rounds.ClosedRound(3, False)], resumed_after=3
    )
    assert resumed.phase == "waiting"
    assert resumed.exhausted == frozenset()
    with pytest.raises(OurMistake):
        rounds.replay(make_settings(), [closed[1], closed[0]])


NAMES = st.sampled_from([*SITES, "stranger"])


class AnySchedule(RuleBasedStateMachine):
    """Every event at any time, from honest and hostile sites; the promises always hold."""

    @initialize(minimum=st.integers(2, 4), count=st.integers(4, 4), rounds_wanted=st.integers(1, 3))
    def start(self, minimum, count, rounds_wanted):
        self.settings = make_settings(
            sites=SITES[:count], minimum=minimum, rounds=rounds_wanted, max_failed=3
        )
        self.state = RunState(self.settings)
        self.now = 0.0
        self.ends = Counter()
        self.opened = set()
        self.asked = {}
        self.pauses = 0

    def feed(self, event):
        before = self.state
        self.state, actions = advance(before, event)
        legal = TRANSITIONS[before.phase].get(type(event).__name__, {before.phase})
        assert self.state.phase in legal
        for action in actions:
            if isinstance(action, Open):
                assert action.number not in self.opened
                assert len(action.participants) >= self.settings.minimum
                assert not set(action.participants) & before.exhausted
                self.opened.add(action.number)
                self.asked[action.number] = set(action.participants)
            if isinstance(action, Aggregate | CloseRound):
                self.ends[action.number] += 1
            if isinstance(action, Aggregate):
                sites = [item.site for item in action.contributions]
                assert sites == sorted(set(sites))
                assert len(sites) >= max(2, self.settings.minimum)
                assert set(sites) <= self.asked[action.number]
                assert not set(sites) & set(action.ended)
        if self.state.phase == "opening":
            self.feed(RoundOpened(self.now, f"q{self.state.round}"))
        elif self.state.phase == "aggregating":
            self.feed(Aggregated(self.state.round, f"m{self.state.round}"))

    @rule(seconds=st.sampled_from([0.0, 1.0, 6.0, 61.0, 101.0]), sites=st.sets(NAMES))
    def look(self, seconds, sites):
        self.now += seconds
        self.feed(SitesSeen(self.now, frozenset(sites)))

    @rule(seconds=st.sampled_from([0.0, 30.0, 61.0]))
    def clock(self, seconds):
        self.now += seconds
        self.feed(DeadlinePassed(self.now))

    @rule(
        site=NAMES,
        run=st.sampled_from(["run", "run", "run", "other"]),
        shift=st.sampled_from([0, 0, 0, -1, 1]),
        request=st.sampled_from(["", "", "", "forged"]),
        digest=st.sampled_from(["u", "u", "v"]),
    )
    def answer(self, site, run, shift, request, digest):
        number = max(1, self.state.round + shift)
        self.feed(ReplyArrived(site, run, number, request or f"q{number}", digest, 1))

    @rule(site=NAMES, reason=st.sampled_from(["policy", "budget", "internal"]))
    def refuse(self, site, reason):
        number = max(1, self.state.round)
        self.feed(RefusalArrived(site, "run", number, f"q{number}", reason))

    @rule(site=NAMES, shift=st.sampled_from([0, 0, -1]))
    def lose(self, site, shift):
        self.feed(SiteLost(site, self.state.round + shift))

    @rule(site=NAMES, shift=st.sampled_from([0, 0, -1]))
    def garble(self, site, shift):
        self.feed(FaultyReply(site, self.state.round + shift))

    @rule()
    def resume(self):
        if self.state.phase == "paused":
            self.feed(Resumed())

    @invariant()
    def every_opened_round_but_the_open_one_has_ended_once(self):
        if not hasattr(self, "state"):
            return
        still = (
            {self.state.round} if self.state.phase in ("opening", "open", "aggregating") else set()
        )
        assert set(self.ends) == self.opened - still
        assert all(count == 1 for count in self.ends.values())

    @invariant()
    def no_more_rounds_complete_than_were_wanted(self):
        if hasattr(self, "state"):
            assert self.state.completed <= self.settings.rounds
            assert (self.state.phase == "finished") == (
                self.state.completed == self.settings.rounds
            )


TestAnySchedule = AnySchedule.TestCase
TestAnySchedule.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


@given(order=st.permutations(SITES))
def test_the_order_of_arrival_does_not_matter(order):
    state = opened()
    state, actions = drive(state, *(reply(state, site) for site in order))
    assert state.phase == "aggregating"
    assert [item.site for item in actions[-1].contributions] == list(SITES)
