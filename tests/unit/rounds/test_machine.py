"""The round's state machine: its settings, trip 1, and the ends of rounds."""

from __future__ import annotations

import pytest
from machine_driver import (
    aggregating,
    agreeing,
    agreement,
    drive,
    kinds,
    make_settings,
    opening,
    refusal,
    reply,
    seen,
    shares,
    submitting,
)

from server.rounds import (
    Accept,
    Aggregated,
    Agree,
    AgreementArrived,
    CloseRound,
    DeadlinePassed,
    Finish,
    Incident,
    KeyArrived,
    NotOpened,
    Open,
    Pause,
    PushAgree,
    RefusalArrived,
    Resumed,
    RoundOpened,
    RunState,
    SharesArrived,
    SiteLost,
    advance,
)
from shared_model.errors import OurMistake, PeerFault

SITES = ("a", "b", "c", "d", "e")


def fresh(count=5, **changes):
    return RunState(make_settings(count, **changes))


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"minimum": 1}, 5),
        ({"minimum": 6}, 5),
        ({"threshold": 6}, 5),
        ({"threshold": 2}, 5),
        ({"threshold": 2}, 4),
        ({"sites": ("b", "a", "c")}, 3),
    ],
)
def test_settings_under_which_no_safe_round_is_possible_are_refused(changes, count):
    """The threshold is more than half, at most all; one contributor is no aggregate."""
    with pytest.raises(OurMistake):
        make_settings(count, **changes)


def test_when_all_have_answered_the_survivors_are_fixed_and_asked_to_agree():
    """U is stored before it is sent."""
    state = submitting(fresh())
    state, actions = drive(state, *(reply(state, site) for site in "dbcea"))
    assert kinds(actions[-3:]) == [Accept, Agree, PushAgree]
    assert actions[-2] == Agree(1, SITES, tuple(f"u-{site}" for site in SITES), {})
    assert actions[-1] == PushAgree(1, SITES)


def test_at_the_deadline_the_silent_are_no_survivors():
    """Four of five are enough; why each other is missing is said."""
    state = submitting(fresh())
    state, _ = drive(state, *(reply(state, site) for site in "acde"), DeadlinePassed(69.9))
    assert state.phase == "submit"
    state, actions = advance(state, DeadlinePassed(70.0))
    assert actions[0] == Agree(
        1, ("a", "c", "d", "e"), ("u-a", "u-c", "u-d", "u-e"), {"b": "silent"}
    )


def test_too_few_submissions_close_the_round_and_nobody_is_asked_to_agree():
    """Three of five are fewer than the threshold."""
    state = submitting(fresh())
    state, _ = drive(state, *(reply(state, site) for site in "abc"))
    state, actions = advance(state, DeadlinePassed(70.0))
    assert kinds(actions) == [CloseRound]
    assert actions[0].reason == "too-few-contributors"
    assert (state.phase, state.failed_in_row) == ("waiting", 1)


def test_a_failed_round_number_is_never_used_again():
    """A retry is the next round."""
    state, _ = advance(submitting(fresh()), DeadlinePassed(70.0))
    assert submitting(state).round == 2


def test_rounds_that_fail_in_a_row_pause_the_run():
    """Until the operator resumes it."""
    state, _ = advance(submitting(fresh()), DeadlinePassed(70.0))
    state, actions = advance(submitting(state), DeadlinePassed(999.0))
    assert kinds(actions) == [CloseRound, Pause]
    assert state.pause == "failed-rounds"
    state, _ = advance(state, Resumed())
    assert (state.phase, state.failed_in_row) == ("waiting", 0)


def test_the_same_reply_again_changes_nothing_and_a_different_one_is_an_incident():
    """The first stays."""
    state, _ = advance(submitting(fresh()), reply(submitting(fresh()), "a"))
    assert advance(state, reply(state, "a")) == (state, ())
    after, actions = advance(state, reply(state, "a", digest="v"))
    assert kinds(actions) == [Incident]
    assert after.current == state.current
    assert after.incidents == {"a": 1}


@pytest.mark.parametrize("wrong", [{"run": "other"}, {"round": 7}, {"request": "another"}])
def test_a_reply_for_something_else_is_an_incident_that_names_the_site(wrong):
    """It has no other effect."""
    state = submitting(fresh())
    after, actions = advance(state, reply(state, "b", **wrong))
    assert after.current == state.current
    fault = actions[0].fault()
    assert isinstance(fault, PeerFault)
    assert fault.site == "b"


def test_a_site_that_was_not_asked_cannot_contribute_or_refuse():
    """Neither with a reply nor by a refusal."""
    state = submitting(fresh(), "abcd")
    for event in (reply(state, "e"), refusal(state, "e")):
        after, actions = advance(state, event)
        assert kinds(actions) == [Incident]
        assert after.current == state.current


def test_a_site_given_up_too_early_still_counts_when_its_reply_comes():
    """But one that refused does not."""
    state = submitting(fresh())
    state, actions = drive(state, SiteLost("a", "submit", 1), reply(state, "a"))
    assert kinds(actions) == [Accept]
    assert state.current.ended == {}
    state, actions = drive(state, refusal(state, "b"), reply(state, "b"))
    assert kinds(actions) == [Incident]
    _after, actions = advance(state, refusal(state, "a"))
    assert kinds(actions) == [Incident]
    assert state.current.contributors == ("a",)


def test_what_came_for_an_earlier_trip_or_round_ends_nothing_now():
    """A lost or refused message of another trip or round says nothing about this one."""
    state = submitting(fresh())
    for trip, number in [("submit", 0), ("agree", 1), ("open", 1), ("keying", 0), ("submit", 2)]:
        assert advance(state, SiteLost("a", trip, number)) == (state, ())
    assert advance(state, RefusalArrived("a", "submit", 0, "budget")) == (state, ())
    for event in (
        RefusalArrived("a", None, 1, "budget"),
        RefusalArrived("a", "agree", 1, "budget"),
        RefusalArrived("a", "submit", 2, "budget"),
        AgreementArrived("a", "run", 1, "x"),
        SharesArrived("a", "run", 1),
        KeyArrived("a", 1),
    ):
        after, actions = advance(state, event)
        assert kinds(actions) == [Incident]
        assert (after.current, after.exhausted) == (state.current, frozenset())


def test_late_answers_after_their_trip_has_ended_are_ignored_without_blame():
    """In the trips that follow, and after the round."""
    state = submitting(fresh())
    late = reply(state, "e")
    state, _ = drive(state, *(reply(state, s) for s in "abcd"), DeadlinePassed(70.0))
    assert advance(state, late) == (state, ())
    signed = agreement(state, "a")
    state = opening(state)
    opened = shares(state, "a")
    assert advance(state, late) == (state, ())
    state, _ = advance(aggregating(state), Aggregated(1, "m"))
    for event in (late, signed, opened, RefusalArrived("e", "submit", 1, "budget")):
        assert advance(state, event) == (state, ())


def test_an_exhausted_site_leaves_the_rest_of_the_run():
    """And too few sites with budget pause it."""
    state = submitting(fresh())
    state, _ = drive(state, refusal(state, "a", "budget"), *(reply(state, s) for s in "bcde"))
    state, _ = advance(aggregating(opening(state)), Aggregated(1, "m"))
    state, actions = advance(state, seen(80.0, SITES))
    assert actions == (Open(2, ("b", "c", "d", "e")),)
    state, _ = advance(state, RoundOpened(80.0, "q2"))
    state, _ = drive(state, refusal(state, "b", "budget"), *(refusal(state, s) for s in "cde"))
    state, actions = advance(state, seen(90.0, SITES))
    assert actions == (Pause("budget"),)
    state, _ = advance(state, Resumed())
    assert state.eligible == SITES


def test_another_refusal_is_asked_again_in_the_next_round():
    """Only budget and bars are remembered."""
    state = agreeing(submitting(fresh()), "bcde")
    state, _ = advance(aggregating(opening(state)), Aggregated(1, "m"))
    _, actions = advance(state, seen(80.0, SITES))
    assert actions == (Open(2, SITES),)


def test_the_last_round_finishes_the_run():
    """And nothing follows it."""
    state = aggregating(opening(agreeing(submitting(fresh(rounds=1)))))
    state, actions = advance(state, Aggregated(1, "m"))
    assert actions == (Finish(),)
    assert state.phase == "finished"
    assert advance(state, seen(99.0, SITES)) == (state, ())


def test_our_own_impossible_events_raise():
    """The loop's mistakes are not a site's."""
    state = fresh()
    for event in (RoundOpened(0.0, "q"), Aggregated(1, "m"), Resumed(), NotOpened(1)):
        with pytest.raises(OurMistake):
            advance(state, event)
    state = aggregating(opening(agreeing(submitting(state))))
    for event in (Aggregated(2, "m"), NotOpened(2), NotOpened(1, "z")):
        with pytest.raises(OurMistake):
            advance(state, event)
