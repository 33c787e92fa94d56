"""Before a round: which sites are there, and do they have keys of one epoch."""

from __future__ import annotations

from dataclasses import replace

import pytest
from machine_driver import (
    aggregating,
    drive,
    key,
    keying,
    kinds,
    make_settings,
    opening,
    refusal,
    reply,
    seen,
    submitting,
)

from server.rounds import (
    AcceptKey,
    Aggregate,
    Aggregated,
    DeadlinePassed,
    FaultyReply,
    Incident,
    KeyArrived,
    NotOpened,
    Open,
    OpenEpoch,
    Pause,
    Push,
    RefusalArrived,
    Resumed,
    RoundOpened,
    RunState,
    SiteLost,
    advance,
)
from shared_model.errors import OurMistake

SITES = ("a", "b", "c", "d", "e")


def fresh(count=5, **changes):
    return RunState(make_settings(count, **changes))


def test_all_sites_are_waited_for_a_while_then_enough_will_do():
    """Five sites, threshold four: four are asked once the grace is over."""
    state, actions = drive(fresh(), seen(0.0, "abcd"), seen(4.9, "abcd"))
    assert actions == []
    state, actions = advance(state, seen(5.0, "abcd"))
    assert actions == (Open(1, ("a", "b", "c", "d")),)


def test_fewer_than_the_threshold_are_never_asked():
    """The minimum of contributors is two here, the threshold four."""
    state, actions = drive(fresh(), seen(0.0, "abc"), seen(99.0, "abc"))
    assert actions == []
    state, actions = advance(state, seen(100.0, "abc"))
    assert actions == (Pause("too-few-sites"),)


def test_a_minimum_above_the_threshold_counts():
    """Four of five are the threshold, but the operator asked for five."""
    _state, actions = drive(fresh(minimum=5), seen(0.0, "abcd"), seen(50.0, "abcd"))
    assert actions == []


def test_sites_without_a_key_are_keyed_together_before_the_first_round():
    """One epoch for all that were gathered, then the round."""
    state = keying(fresh())
    assert state.keying.sites == SITES
    state, actions = drive(state, *(key(state, site) for site in SITES))
    assert actions == [AcceptKey(1, site) for site in SITES]
    assert state.phase == "waiting"
    state, actions = advance(state, seen(1.0, SITES))
    assert actions == (Open(1, SITES),)


def test_no_epoch_is_opened_while_sites_still_gather():
    """The first that comes does not get an epoch of its own."""
    state, actions = drive(fresh(), seen(0.0, "a", ()), seen(4.0, "abcd", ()))
    assert actions == []
    state, actions = advance(state, seen(5.0, "abcd", ()))
    assert actions == (OpenEpoch(1, ("a", "b", "c", "d")),)


def test_a_site_that_gives_no_key_is_left_out_and_asked_again_later():
    """It is not asked again before rekey_s, since enough others have keys."""
    state = keying(fresh())
    state, _ = drive(state, *(key(state, site) for site in "abcd"))
    assert state.phase == "keying"
    state, actions = drive(state, SiteLost("e", "keying", 1), seen(1.0, SITES, "abcd"))
    assert actions == [Open(1, ("a", "b", "c", "d"))]
    state, _ = drive(state, RoundOpened(1.0, "q1"))
    state, _ = drive(state, *(refusal(state, site) for site in "abcd"))
    state, actions = drive(state, seen(49.0, SITES, "abcd"))
    assert actions == [Open(2, ("a", "b", "c", "d"))]


def failed_round(state, sites, now):
    """A round that all of these refuse, begun and ended at `now`."""
    state, actions = advance(state, seen(now, SITES, sites))
    assert actions == (Open(state.round, tuple(sites)),)
    state, _ = advance(state, RoundOpened(now, f"q{state.round}"))
    state, _ = drive(state, *(refusal(state, site) for site in sites))
    assert state.phase == "waiting"
    return state


def test_after_rekey_s_a_site_without_a_key_gets_a_new_epoch_with_all():
    """All that are there are asked, for the epoch before is worthless then."""
    state = keying(fresh())
    state, _ = drive(state, *(key(state, site) for site in "abcd"), SiteLost("e", "keying", 1))
    state = failed_round(state, "abcd", 1.0)
    state, actions = advance(state, seen(50.0, SITES, "abcd"))
    assert actions == (OpenEpoch(2, SITES),)


def test_a_site_that_never_gives_a_key_cannot_keep_the_run_from_going_on():
    """However long keying takes, a round comes between two epochs if enough have keys."""
    state = keying(fresh())
    state, _ = drive(state, *(key(state, site) for site in "abcd"), DeadlinePassed(99.0))
    state, actions = advance(state, seen(99.0, SITES, "abcd"))
    assert actions == (Open(1, ("a", "b", "c", "d")),)


def test_too_few_keys_are_asked_for_again_after_the_grace_and_pause_the_run_at_last():
    """Not in a loop without a pause, and not for ever."""
    state = keying(fresh())
    state, _ = advance(state, DeadlinePassed(19.9))
    assert state.phase == "keying"
    state, _ = drive(state, key(state, "a"), DeadlinePassed(20.0))
    assert state.phase == "waiting"
    state, actions = advance(state, seen(20.0, SITES, "a"))
    assert actions == (OpenEpoch(2, SITES),)
    state, _ = drive(state, *(SiteLost(site, "keying", 2) for site in SITES))
    state, actions = advance(state, seen(24.0, SITES, ()))
    assert actions == ()
    state, actions = advance(state, seen(100.0, SITES, ()))
    assert actions == (Pause("too-few-keys"),)
    state, actions = drive(state, Resumed(), seen(101.0, SITES, ()))
    assert actions == [OpenEpoch(3, SITES)]


def test_a_site_whose_operator_must_approve_the_roster_is_shown_and_left_alone_a_while():
    """It is no incident; the others do not wait, and it is asked again after rekey_s."""
    state = keying(fresh())
    state, actions = drive(
        state, *(key(state, site) for site in "abcd"), refusal(state, "e", "roster-approval")
    )
    assert not any(isinstance(item, Incident) for item in actions)
    assert state.awaiting_approval == {"e"}
    state = failed_round(state, "abcd", 49.0)
    state, actions = advance(state, seen(50.0, SITES, "abcd"))
    assert actions == (OpenEpoch(2, SITES),)
    state, _ = advance(state, key(state, "e"))
    assert state.awaiting_approval == frozenset()


def test_sites_that_await_approval_are_not_asked_sooner_though_too_few_have_keys():
    """Otherwise two of them would be asked every few seconds for days."""
    state = keying(fresh())
    state, _ = drive(
        state,
        *(key(state, site) for site in "abc"),
        *(refusal(state, site, "roster-approval") for site in "de"),
    )
    state, actions = advance(state, seen(49.0, SITES, "abc"))
    assert actions == ()
    state, actions = advance(state, seen(50.0, SITES, "abc"))
    assert actions == (OpenEpoch(2, SITES),)


def test_a_round_refused_for_want_of_an_epoch_key_is_followed_by_a_new_epoch_at_once():
    """Though the site had been keyed a moment ago and the book of keys still names it."""
    state = keying(fresh())
    state, _ = drive(state, *(key(state, site) for site in SITES))
    state = submitting(state, now=1.0)
    state, _ = drive(state, refusal(state, "e", "epoch"), *(reply(state, s) for s in "abcd"))
    state = aggregating(opening(state))
    state, _ = advance(state, Aggregated(1, "m"))
    state, actions = advance(state, seen(2.0, SITES))
    assert actions == (OpenEpoch(2, SITES),)
    state, _ = drive(state, *(key(state, site) for site in SITES))
    assert state.keyless == frozenset()


def test_a_site_that_refuses_to_make_a_key_for_its_epoch_is_not_asked_at_once():
    """Its word "epoch" in trip "keying" starts no loop."""
    state = keying(fresh())
    state, _ = drive(state, *(key(state, s) for s in "abcd"), refusal(state, "e", "epoch"))
    state, actions = advance(state, seen(1.0, SITES, "abcd"))
    assert actions == (Open(1, ("a", "b", "c", "d")),)


def test_keys_that_were_not_asked_for_are_incidents_and_late_or_repeated_ones_are_not():
    """A stranger, an epoch to come, a key after a refusal; not: an old epoch, the same again."""
    state = keying(fresh(), "abcd" + "e")
    state, _ = drive(state, key(state, "a"), refusal(state, "b"))
    for event in (KeyArrived("z", 1), KeyArrived("c", 2), key(state, "b")):
        after, actions = advance(state, event)
        assert kinds(actions) == [Incident]
        assert after.keying == state.keying
    for event in (KeyArrived("a", 1), KeyArrived("c", 0)):
        assert advance(state, event) == (state, ())
    after, actions = advance(state, refusal(state, "a"))
    assert kinds(actions) == [Incident]
    assert after.keying.keyed == {"a"}
    after, actions = advance(state, RefusalArrived("z", "keying", 1, "policy"))
    assert kinds(actions) == [Incident]


def test_a_key_counts_though_its_site_had_been_given_up():
    """Given up by the transport, or after a garbled answer."""
    state = keying(fresh())
    state, actions = drive(
        state, SiteLost("a", "keying", 1), FaultyReply("b", "keying", 1), key(state, "a")
    )
    assert actions[-1] == AcceptKey(1, "a")
    assert state.keying.ended == {"b": "faulty"}
    assert state.incidents == {"b": 1}


def test_an_epoch_that_has_served_its_rounds_is_followed_by_a_new_one():
    """Whoever steals a node's key later cannot read the rounds of the epochs before."""
    state, actions = advance(fresh(epoch_rounds=2), seen(0.0, SITES, used=1))
    assert actions == (Open(1, SITES),)
    state, actions = advance(fresh(epoch_rounds=2), seen(0.0, SITES, used=2))
    assert actions == (OpenEpoch(1, SITES),)
    state, _ = drive(state, *(key(state, site) for site in SITES))
    _, actions = advance(state, seen(1.0, SITES, used=0))
    assert actions == (Open(1, SITES),)
    _, actions = advance(fresh(epoch_rounds=2, masked=False), seen(0.0, SITES, (), used=9))
    assert actions == (Open(1, SITES),)
    with pytest.raises(OurMistake):
        make_settings(epoch_rounds=0)


def silent_in(state, site, now=10.0, sites=SITES):
    """A round in which this site lets the deadline pass; the others are summed."""
    state = submitting(state, sites, now)
    others = [other for other in sites if other != site]
    state, _ = drive(state, *(reply(state, other) for other in others))
    state, _ = advance(state, DeadlinePassed(now + 60.0))
    state, _ = advance(aggregating(opening(state)), Aggregated(state.round, "m"))
    return state


def test_a_site_that_is_silent_twice_in_a_row_is_left_out_of_three_rounds():
    """It would cost all others the deadline in every round; after its rest it is asked again."""
    state = silent_in(silent_in(fresh(rounds=20), "e"), "e")
    four = ("a", "b", "c", "d")
    assert state.resting == {"e": 5}
    for _ in range(3):
        state, actions = advance(state, seen(99.0, SITES))
        assert actions == (Open(state.round, four),)
        state, _ = advance(state, RoundOpened(99.0, f"q{state.round}"))
        state, _ = drive(state, *(reply(state, site) for site in four))
        state, _ = advance(aggregating(opening(state)), Aggregated(state.round, "m"))
    back = silent_in(state, "e", 100.0)
    assert back.resting == {"e": 9}
    state = submitting(state, now=100.0)
    state, _ = advance(state, reply(state, "e"))
    assert state.silences == {}


def test_an_answer_between_two_silences_keeps_a_site_from_resting():
    """A refusal is an answer too."""
    state = submitting(silent_in(fresh(rounds=9), "e"))
    state, _ = drive(state, refusal(state, "e"), *(reply(state, site) for site in "abcd"))
    state, _ = advance(aggregating(opening(state)), Aggregated(2, "m"))
    state = silent_in(state, "e")
    assert (state.silences, state.resting) == ({"e": 1}, {})


def test_a_resting_site_is_asked_if_too_few_others_are_there():
    """Two of five rest and four are needed; or one rests and another does not come in time."""
    state = replace(fresh(), round=1, resting={"d": 9, "e": 9})
    assert advance(state, seen(0.0, SITES))[1] == (Open(2, SITES),)
    state = replace(fresh(), round=1, resting={"e": 9})
    state, actions = drive(state, seen(0.0, "abce"), seen(4.9, "abce"))
    assert actions == []
    _, actions = advance(state, seen(5.0, "abce"))
    assert actions == (Open(2, tuple("abce")),)


def test_silence_about_keys_counts_and_the_operator_ends_every_rest():
    """A site that gives no key costs a trip each time."""
    state = fresh()
    for now in (0.0, 50.0):
        state, actions = advance(state, seen(now, SITES, "abcd" if now else ()))
        assert actions == (OpenEpoch(state.keyings, SITES),)
        state, _ = drive(state, *(key(state, s) for s in "abcd"), DeadlinePassed(now + 20.0))
        state = failed_round(replace(state, failed_in_row=0), "abcd", now + 20.0)
    assert state.resting == {"e": 4}
    paused = replace(state, phase="paused")
    state, _ = advance(paused, Resumed())
    assert (state.resting, state.silences) == ({}, {})


def test_without_masks_there_are_no_keys_and_no_second_trip():
    """Simulations that add the same integers in clear."""
    state, actions = advance(fresh(masked=False), seen(0.0, SITES, ()))
    assert actions == (Open(1, SITES),)
    state, actions = advance(state, RoundOpened(0.0, "q1"))
    assert actions == (Push(1, SITES),)
    state, actions = drive(state, *(reply(state, site) for site in "ecbda"))
    assert isinstance(actions[-1], Aggregate)
    assert [item.site for item in actions[-1].contributions] == list(SITES)
    assert actions[-1].openers == ()
    with pytest.raises(OurMistake):
        advance(state, NotOpened(1))
