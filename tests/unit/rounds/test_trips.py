"""Trips 2 and 3 of a round: who agrees, who opens, what is asked again, who is barred."""

from __future__ import annotations

from dataclasses import replace

import pytest
from machine_driver import (
    HEAD,
    aggregating,
    agreeing,
    agreement,
    drive,
    kinds,
    make_settings,
    opening,
    refusal,
    seen,
    shares,
    submitting,
)

from server import rounds
from server.rounds import (
    AcceptAgreement,
    AcceptShares,
    Aggregate,
    Aggregated,
    CloseRound,
    DeadlinePassed,
    FaultyReply,
    Incident,
    NotOpened,
    Open,
    OpenShares,
    Pause,
    RefusalArrived,
    Resumed,
    RunState,
    SiteLost,
    advance,
)
from shared_model.protocol_sum import agreed_digest

SITES = tuple("abcde")


def fresh(count=5, **changes):
    return RunState(make_settings(count, **changes))


def in_agree(count=5, survivors=None, **changes):
    return agreeing(submitting(fresh(count, **changes)), survivors)


def lose(state, *sites):
    """The present trip's messages to these sites are lost."""
    return drive(state, *(SiteLost(site, state.phase, state.round) for site in sites))


# ---------------------------------------------------------------- agree


def test_what_is_agreed_is_the_digest_of_the_survivors_and_their_submissions():
    """As every node computes it."""
    state = in_agree(survivors="abce")
    expected = agreed_digest(tuple("abce"), ("u-a", "u-b", "u-c", "u-e"), (HEAD,) * 4)
    assert state.current.agreed == expected
    assert state.current.dropped == ("d",)


def test_when_all_survivors_have_signed_all_are_asked_to_open():
    """The last agreement begins trip 3."""
    state = in_agree()
    state, actions = drive(state, *(agreement(state, site) for site in "ecabd"))
    assert actions[:-1] == [AcceptAgreement(1, site) for site in "ecabd"]
    assert actions[-1] == OpenShares(1, SITES, (), SITES)


def test_after_enough_signatures_others_get_a_grace_and_then_count_as_missing():
    """The grace begins with the first look at the clock after the threshold."""
    state = in_agree()
    state, _ = drive(state, DeadlinePassed(70.0), *(agreement(state, site) for site in "abcd"))
    state, actions = drive(state, DeadlinePassed(72.0), DeadlinePassed(76.9))
    assert actions == []
    state, actions = advance(state, DeadlinePassed(77.0))
    assert actions == (OpenShares(1, tuple("abcd"), ("e",), tuple("abcd")),)


def test_too_few_signatures_close_the_round_and_nothing_is_opened():
    """At the deadline of the trip, which begins with the first look at the clock."""
    state = in_agree()
    state, _ = drive(state, *(agreement(state, site) for site in "abc"), DeadlinePassed(70.0))
    state, actions = advance(state, DeadlinePassed(89.9))
    assert actions == ()
    state, actions = advance(state, DeadlinePassed(90.0))
    assert kinds(actions) == [CloseRound]
    assert actions[0].reason == "not-agreed"
    assert (state.round, state.failed_in_row, state.current) == (1, 1, None)


def test_agreements_that_name_something_else_are_incidents():
    """Another run, round or site; the site may still agree properly."""
    state = in_agree(survivors="abcd")
    for event in (
        agreement(state, "a", run="other"),
        agreement(state, "a", round=2),
        agreement(state, "e"),
        agreement(state, "z"),
    ):
        after, actions = advance(state, event)
        assert kinds(actions) == [Incident]
        assert after.current == state.current


def test_a_site_that_signs_another_set_has_had_its_turn_until_it_signs_this_one():
    """It is named; four others are enough."""
    state = in_agree()
    state, actions = advance(state, agreement(state, "a", agreed="0" * 64))
    assert kinds(actions) == [Incident]
    assert state.current.out == {"a": "faulty"}
    state, actions = drive(state, *(agreement(state, site) for site in "bcde"))
    assert actions[-1] == OpenShares(1, tuple("bcde"), ("a",), tuple("bcde"))
    state, actions = advance(state, agreement(state, "b", agreed="0" * 64))
    assert kinds(actions) == [Incident]
    assert state.current.signers == tuple("bcde")


def test_repeated_agreements_and_those_after_a_refusal_do_not_count():
    """The first is no blame, the second is."""
    state, _ = advance(in_agree(), agreement(in_agree(), "a"))
    assert advance(state, agreement(state, "a")) == (state, ())
    state, actions = drive(state, refusal(state, "b"), agreement(state, "b"), refusal(state, "a"))
    assert kinds(actions) == [Incident, Incident]
    assert state.current.signers == ("a",)


def test_a_survivor_without_its_epoch_key_gets_a_new_epoch_before_the_next_round():
    """Its refusal in trip 2 is remembered, whatever becomes of the round."""
    state = in_agree()
    state, _ = drive(
        state, refusal(state, "a", "epoch"), *(agreement(state, site) for site in "bcde")
    )
    state, _ = advance(aggregating(state), Aggregated(1, "m"))
    _, actions = advance(state, seen(99.0, SITES))
    assert isinstance(actions[0], rounds.OpenEpoch)


# ---------------------------------------------------------------- open


def test_without_drop_outs_the_threshold_of_openers_is_enough_at_once():
    """Nobody else is waited for: more shares change nothing."""
    state = opening(in_agree())
    state, actions = drive(state, *(shares(state, site) for site in "abcd"))
    assert actions[:-1] == [AcceptShares(1, site) for site in "abcd"]
    assert isinstance(actions[-1], Aggregate)
    assert actions[-1].openers == tuple("abcd")
    assert [item.site for item in actions[-1].contributions] == list(SITES)


def ten_with_one_dropped():
    """n = 10, t = 7: j did not submit, all nine others signed."""
    return opening(in_agree(10, "abcdefghi"))


def test_with_a_drop_out_every_survivor_must_open_its_own_pair_seeds():
    """Seven of nine openers are not enough while the others may answer."""
    state = ten_with_one_dropped()
    state, actions = drive(state, *(shares(state, site) for site in "abcdefgh"))
    assert not any(isinstance(item, Aggregate) for item in actions)
    state, actions = advance(state, shares(state, "i"))
    assert isinstance(actions[-1], Aggregate)


def test_survivors_that_do_not_open_are_asked_of_the_others():
    """A second wave with a larger `missing`, to those that opened without it."""
    state = ten_with_one_dropped()
    state, _ = drive(state, *(shares(state, site) for site in "abcdefg"))
    state, actions = lose(state, "h", "i")
    assert actions == [OpenShares(1, tuple("abcdefghi"), ("h", "i"), tuple("abcdefg"))]
    assert state.awaited == tuple("abcdefg")
    state, actions = drive(state, *(shares(state, site) for site in "abcdefg"))
    assert isinstance(actions[-1], Aggregate)
    assert actions[-1].openers == tuple("abcdefg")


def test_slow_openers_get_a_grace_before_the_others_are_asked_for_their_seeds():
    """And still count when they come in the second wave."""
    state = ten_with_one_dropped()
    state, _ = drive(state, *(shares(state, site) for site in "abcdefgh"), DeadlinePassed(70.0))
    state, actions = advance(state, DeadlinePassed(74.9))
    assert actions == ()
    state, actions = advance(state, DeadlinePassed(75.0))
    assert actions == (OpenShares(1, tuple("abcdefghi"), ("i",), tuple("abcdefgh")),)
    state, actions = advance(state, shares(state, "i", missing=()))
    assert isinstance(actions[-1], Aggregate)
    assert actions[-1].openers == tuple("abcdefghi")


def test_the_second_wave_has_a_deadline_of_its_own_and_then_the_round_is_closed():
    """There is nobody left to ask."""
    state = ten_with_one_dropped()
    state, _ = drive(state, *(shares(state, site) for site in "abcdefg"), DeadlinePassed(70.0))
    state, _ = drive(state, DeadlinePassed(75.0))
    assert state.current.missing == {"h", "i"}
    state, _ = drive(state, *(shares(state, site) for site in "abcdef"), DeadlinePassed(76.0))
    state, actions = advance(state, DeadlinePassed(95.9))
    assert actions == ()
    state, actions = advance(state, DeadlinePassed(96.0))
    assert [item.reason for item in actions] == ["not-opened"]


def test_a_survivor_that_did_not_sign_is_missing_from_the_first_wave():
    """Its pair seeds are rebuilt from the others at once."""
    state = opening(in_agree(10, "abcdefghi"), "abcdefgh")
    assert state.current.missing == {"i"}
    state, actions = drive(state, *(shares(state, site) for site in "abcdefg"))
    assert state.phase == "open"
    state, actions = advance(state, shares(state, "h"))
    assert isinstance(actions[-1], Aggregate)


def test_an_agreement_as_late_as_trip_three_makes_its_site_an_opener():
    """A slow survivor can save the round of one that fails late."""
    state = in_agree()
    state, _ = drive(state, DeadlinePassed(70.0), *(agreement(state, site) for site in "abcd"))
    state, _ = drive(state, DeadlinePassed(70.0), DeadlinePassed(75.0))
    assert state.phase == "open"
    state, _ = drive(state, *(shares(state, site) for site in "abc"))
    state, actions = lose(state, "d")
    assert (state.phase, actions) == ("open", [])
    state, actions = advance(state, agreement(state, "e"))
    assert actions == (AcceptAgreement(1, "e"), OpenShares(1, SITES, ("e",), ("e",)))
    assert advance(state, agreement(state, "e")) == (state, ())
    state, actions = advance(state, shares(state, "e"))
    assert actions[-1].openers == tuple("abce")


@pytest.mark.parametrize("how", ["lost", "faulty", "refused", "deadline", "another set"])
def test_the_round_closes_when_the_slow_signer_does_not_come_either(how):
    """Three openers are fewer than four."""
    state = in_agree()
    state, _ = drive(state, DeadlinePassed(70.0), *(agreement(state, site) for site in "abcd"))
    state, _ = drive(state, DeadlinePassed(70.0), DeadlinePassed(75.0), DeadlinePassed(75.0))
    state, _ = drive(state, *(shares(state, site) for site in "abc"))
    state, _ = lose(state, "d")
    event = {
        "lost": SiteLost("e", "agree", 1),
        "faulty": FaultyReply("e", "agree", 1),
        "refused": RefusalArrived("e", "agree", 1, "late"),
        "deadline": DeadlinePassed(95.0),
        "another set": agreement(state, "e", agreed="0" * 64),
    }[how]
    state, actions = advance(state, event)
    assert actions[-1].reason == "not-opened"
    assert state.phase == "waiting"


def test_rows_that_cannot_be_read_do_not_count_as_shares():
    """Four opened, but one of them has no share of b: the fifth is waited for."""
    state = opening(in_agree())
    state, _ = drive(
        state, shares(state, "a", unreadable="b"), *(shares(state, site) for site in "bcd")
    )
    assert state.phase == "open"
    _, actions = advance(state, shares(state, "e", unreadable="b"))
    assert actions[-1].reason == "not-opened"
    _, actions = advance(state, shares(state, "e"))
    assert isinstance(actions[-1], Aggregate)


def test_a_dealer_that_more_openers_cannot_read_than_may_lie_together_is_barred():
    """n = 5, t = 4: two may lie, three say so of b. The next round goes on without it."""
    state = opening(in_agree())
    assert state.settings.colluding == 2
    state, _ = drive(state, *(shares(state, site, unreadable="b") for site in "acd"))
    state, _ = advance(state, shares(state, "b", unreadable="ac"))
    state, actions = advance(state, shares(state, "e"))
    assert kinds(actions) == [AcceptShares, Incident, CloseRound]
    assert (actions[1].site, actions[2].barred) == ("b", ("b",))
    assert (state.barred, state.incidents) == ({"b"}, {"b": 1})
    state, actions = advance(state, seen(99.0, SITES))
    assert actions == (Open(2, tuple("acde")),)


def test_a_dealer_that_few_openers_cannot_read_is_left_out_of_some_rounds_and_not_barred():
    """Two say so, and two may lie: nobody is named for it, and the run goes on without b a while.
    What b says of itself is no accusation."""
    state = opening(in_agree(rounds=9))
    state, _ = drive(state, *(shares(state, site, unreadable="b") for site in "abc"))
    state, actions = drive(state, shares(state, "d"), shares(state, "e"))
    assert actions[-1].barred == ()
    assert (state.barred, state.incidents, state.resting) == (frozenset(), {}, {"b": 4})
    _, actions = advance(state, seen(99.0, SITES))
    assert actions == (Open(2, tuple("acde")),)
    _, actions = advance(replace(state, round=4), seen(99.0, SITES))
    assert actions == (Open(5, SITES),)


def test_nobody_rests_or_is_barred_for_a_round_that_fails_for_want_of_openers():
    """Silence in trip 3 says nothing about dealers."""
    state = opening(in_agree())
    state, _ = drive(state, *(shares(state, site) for site in "abc"))
    state, _ = drive(state, DeadlinePassed(70.0), DeadlinePassed(99.0))
    assert state.phase == "waiting"
    assert (state.barred, state.resting) == (frozenset(), {})


def test_shares_of_strangers_and_wrong_or_repeated_ones_change_nothing():
    """All but the repeated are incidents."""
    state = opening(in_agree(), "abcd")
    state, _ = drive(state, shares(state, "a"), refusal(state, "b"))
    for event in (
        shares(state, "e"),
        shares(state, "c", run="other"),
        shares(state, "c", round=2),
        shares(state, "c", missing="z"),
        shares(state, "c", unreadable="z"),
        shares(state, "b"),
        refusal(state, "a"),
        refusal(state, "e"),
    ):
        after, actions = advance(state, event)
        assert kinds(actions) == [Incident]
        assert after.current == state.current
    assert advance(state, shares(state, "a", missing=())) == (state, ())


def test_shares_that_are_not_the_committed_ones_cost_their_site_its_turn():
    """The loop checks them and says FaultyReply; the others may be enough."""
    state = opening(in_agree())
    state, actions = drive(state, FaultyReply("a", "open", 1))
    assert kinds(actions) == [Incident]
    state, actions = drive(state, *(shares(state, site) for site in "bcde"))
    assert actions[-1].openers == tuple("bcde")


def test_a_dealer_whose_shares_do_not_fit_is_named_and_not_asked_until_resumed():
    """The round is closed for good; the next one goes on without it."""
    state, actions = advance(aggregating(opening(in_agree())), NotOpened(1, "b"))
    assert kinds(actions) == [Incident, CloseRound]
    assert actions[0].site == "b"
    assert actions[1].reason == "not-opened"
    assert state.barred == {"b"}
    state, actions = advance(state, seen(99.0, SITES))
    assert actions == (Open(2, tuple("acde")),)


def test_too_few_sites_that_are_not_barred_pause_the_run():
    """Until the operator has spoken to them."""
    state, _ = advance(aggregating(opening(in_agree(3))), NotOpened(1, "b"))
    state, actions = advance(state, seen(99.0, "abc"))
    assert actions == (Pause("barred"),)
    state, actions = drive(state, Resumed(), seen(99.0, "abc"))
    assert actions == [Open(2, tuple("abc"))]


def test_seeds_that_cannot_be_rebuilt_without_a_culprit_close_the_round_and_count():
    """Twice in a row pauses the run."""
    state, actions = advance(aggregating(opening(in_agree(max_failed=1))), NotOpened(1))
    assert kinds(actions) == [CloseRound, Pause]
    assert state.barred == frozenset()
