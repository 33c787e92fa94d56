"""One site after another drops out, in every stage of a round; and restarts of the coordinator."""

from __future__ import annotations

import pytest
from machine_driver import (
    HEAD,
    agreeing,
    agreement,
    drive,
    key,
    keying,
    make_settings,
    reply,
    seen,
    shares,
    submitting,
)

from server import rounds
from server.rounds import (
    AcceptShares,
    Aggregate,
    ClosedRound,
    CloseRound,
    Contribution,
    DeadlinePassed,
    OpenShares,
    PushAgree,
    RefusalArrived,
    RoundOpened,
    RunState,
    SiteLost,
    advance,
)
from shared_model.errors import OurMistake
from shared_model.protocol_sum import agreed_digest

SITES = tuple("abcde")
COUNTS = (3, 4, 5, 10)


def fresh(count=5, **changes):
    return RunState(make_settings(count, **changes))


def in_agree(count=5, survivors=None, **changes):
    return agreeing(submitting(fresh(count, **changes)), survivors)


def lose(state, *sites):
    """The present trip's messages to these sites are lost."""
    return drive(state, *(SiteLost(site, state.phase, state.round) for site in sites))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("stage", ["keying", "submit", "agree", "open"])
@pytest.mark.parametrize("how", ["lost", "refused", "deadline"])
def test_one_site_that_drops_out_in_any_stage_stops_the_round_only_where_all_are_needed(
    count, stage, how
):
    """With three sites all are needed; from four on every single one may go, at any point."""
    for index in range(count):
        end = drop_one(count, index, stage, how)
        if count == 3:
            reasons = {
                "keying": "too-few-keys",
                "submit": "too-few-contributors",
                "agree": "not-agreed",
                "open": "not-opened",
            }
            assert end == reasons[stage]
        else:
            assert end == "aggregate"


def drop_one(count, index, stage, how):
    """How the first round ends if this site goes in this stage."""
    state = keying(fresh(count))
    gone = state.settings.sites[index]
    answers = {"keying": key, "submit": reply, "agree": agreement, "open": shares}
    actions = []
    now = 0.0
    keyed = frozenset()
    for _ in range(100):
        phase = state.phase
        if phase in answers:
            number = state.keyings if phase == "keying" else state.round
            for site in state.awaited:
                if state.phase != phase:
                    break
                if site != gone or list(answers).index(phase) < list(answers).index(stage):
                    state, actions = advance(state, answers[phase](state, site))
                    keyed |= {site} if phase == "keying" else set()
                elif how == "lost":
                    state, actions = advance(state, SiteLost(site, phase, number))
                elif how == "refused":
                    state, actions = advance(state, RefusalArrived(site, phase, number, "policy"))
            now += 10.0
            if state.phase == phase:
                state, actions = advance(state, DeadlinePassed(now))
        elif phase == "waiting":
            closed = [item.reason for item in actions if isinstance(item, CloseRound)]
            if closed:
                return closed[0]
            state, actions = advance(state, seen(now, state.settings.sites, keyed))
            now += 10.0
        elif phase == "paused":
            return state.pause
        elif phase == "preparing":
            state, actions = advance(state, RoundOpened(now, f"q{state.round}"))
        elif phase == "aggregating":
            assert all(isinstance(item, Aggregate | AcceptShares) for item in actions)
            return "aggregate"
    raise AssertionError("the round never ended")


@pytest.mark.parametrize("late", ["agree", "open"])
def test_ten_sites_survive_three_drop_outs_in_three_stages(late):
    """One before it submits, one before it signs, one in trip 3: seven are left, as t asks."""
    state = in_agree(10, "bcdefghij")
    state, _ = drive(state, *(agreement(state, site) for site in "cdefghij"[:8]))
    if late == "agree":
        state, _ = lose(state, "b")
    else:
        state, _ = drive(state, DeadlinePassed(70.0), DeadlinePassed(75.0))
    assert state.current.missing == {"b"}
    state, _ = drive(state, *(shares(state, site) for site in "defghij"))
    state, actions = lose(state, "c")
    assert actions == [OpenShares(1, tuple("cdefghij"), ("b", "c"), tuple("defghij"))]
    state, actions = drive(state, *(shares(state, site) for site in "defghij"))
    assert isinstance(actions[-1], Aggregate)
    assert [item.site for item in actions[-1].contributions] == list("bcdefghij")


# ---------------------------------------------------------------- restarts


def test_a_round_whose_survivors_are_stored_goes_on_with_these_and_no_others():
    """Trip 1 is over for good: a reply that comes now is late."""
    agreed = tuple(Contribution(site, f"u-{site}", 1, HEAD) for site in "abcd")
    state = rounds.reopened(fresh(), 7, SITES, agreed=agreed, ended={"e": "lost"})
    state, actions = advance(state, RoundOpened(0.0, "q7"))
    assert actions == (PushAgree(7, tuple("abcd")),)
    assert state.current.ended == {"e": "lost"}
    assert state.current.agreed == agreed_digest(
        tuple("abcd"), ("u-a", "u-b", "u-c", "u-d"), (HEAD,) * 4
    )
    assert advance(state, reply(state, "e")) == (state, ())
    state, actions = drive(state, *(agreement(state, site) for site in "abcd"))
    assert actions[-1] == OpenShares(7, tuple("abcd"), (), tuple("abcd"))
    assert rounds.reopened(fresh(), 7, SITES, agreed=agreed).stored_ended == {"e": "silent"}


def test_a_round_without_stored_survivors_goes_on_with_its_trip_one():
    """Stored replies are told again; the rest are asked again."""
    state = rounds.reopened(fresh(), 7, SITES)
    state, actions = advance(state, RoundOpened(0.0, "q7"))
    assert actions == (rounds.Push(7, SITES),)
    state, actions = drive(state, *(reply(state, site) for site in SITES))
    assert isinstance(actions[-1], PushAgree)


@pytest.mark.parametrize(
    ("names", "changes"),
    [("abz", {}), ("abc", {}), ("bacd", {}), ("aabcd", {}), ("abcd", {"masked": False})],
)
def test_stored_survivors_that_no_round_could_have_are_refused(names, changes):
    """Strangers, too few, out of order, twice, or where masks are off."""
    agreed = tuple(Contribution(site, "u", 1, HEAD) for site in names)
    with pytest.raises(OurMistake):
        rounds.reopened(fresh(**changes), 1, SITES, agreed=agreed)


def test_a_used_number_cannot_be_opened_again():
    """Neither by a restart."""
    state = rounds.replay(make_settings(), [ClosedRound(3, True)])
    with pytest.raises(OurMistake):
        rounds.reopened(state, 3, SITES)


def test_a_round_that_the_coordinator_could_not_continue_is_no_failure_and_forgets_nothing():
    """A cheat stays barred and a budget exhausted; the failures before it are not forgiven."""
    cheat = ClosedRound(1, False, exhausted=frozenset("a"), barred=frozenset("b"))
    state = rounds.replay(make_settings(), [cheat, ClosedRound(2, False, excused=True)])
    assert (state.round, state.failed_in_row, state.phase) == (2, 1, "waiting")
    assert (state.barred, state.exhausted) == ({"b"}, {"a"})


def test_replay_of_a_lineage_gives_the_state_that_was_left():
    """Exhausted, barred and failed rounds are remembered, unless the operator resumed."""
    closed = [
        ClosedRound(1, True),
        ClosedRound(2, False, frozenset("a"), ("b", "b"), frozenset("b")),
    ]
    state = rounds.replay(make_settings(), closed)
    assert (state.round, state.completed, state.failed_in_row) == (2, 1, 1)
    assert (state.exhausted, state.barred, state.incidents) == ({"a"}, {"b"}, {"b": 2})
    third = [*closed, ClosedRound(3, False)]
    assert rounds.replay(make_settings(), third).phase == "paused"
    resumed = rounds.replay(make_settings(), third, resumed_after=3)
    assert (resumed.phase, resumed.eligible) == ("waiting", SITES)
    assert rounds.replay(make_settings(rounds=1), closed[:1]).phase == "finished"
    silent = [ClosedRound(n, True, silent=frozenset("ce"), answered=frozenset("d")) for n in (1, 2)]
    back = ClosedRound(2, True, silent=frozenset("e"), answered=frozenset("c"))
    assert rounds.replay(make_settings(), silent).resting == {"c": 5, "e": 5}
    assert rounds.replay(make_settings(), [silent[0], back]).resting == {"e": 5}
    assert rounds.replay(make_settings(), silent, resumed_after=2).resting == {}
    with pytest.raises(OurMistake):
        rounds.replay(make_settings(), [closed[1], closed[0]])
