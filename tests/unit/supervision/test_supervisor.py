"""The machine that starts and ends the node's processes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.supervisor import (
    GOOD_S,
    GRACE_S,
    LEAVE_S,
    LONGEST_PAUSE_S,
    NAMES,
    Action,
    Ask,
    Cause,
    Ended,
    Event,
    GiveUp,
    Kill,
    Leave,
    Looked,
    Name,
    Replace,
    Rest,
    Start,
    State,
    Stay,
    Told,
    advance,
    in_words,
    pause_s,
)


def words(rest: Rest) -> str:
    return f"at rest: {rest}."


def through(state: State, *events: Event) -> tuple[State, list[Action]]:
    done: list[Action] = []
    for event in events:
        state, actions = advance(state, event)
        done += actions
    return state, done


def running(now_s: float = 0.0) -> State:
    state, _ = through(State(), Looked(now_s), Told("up"))
    return state


def test_both_are_started_and_a_console_where_there_is_one() -> None:
    assert through(State(), Looked(0.0))[1] == [Start("SuperNode"), Start("training")]
    assert through(State(), Looked(0.0, console=True))[1] == [Start(name) for name in NAMES]


def test_pauses_double_to_a_minute() -> None:
    assert [pause_s(count) for count in range(9)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]


def test_a_process_that_ends_is_started_again_after_its_pause() -> None:
    state, now_s = running(), 0.0
    for wait_s in (1.0, 2.0, 4.0):
        state, _ = advance(state, Ended(now_s, "training", -9))
        state, early = advance(state, Looked(now_s + wait_s - 0.01))
        assert early == ()
        now_s += wait_s
        state, actions = advance(state, Looked(now_s))
        assert actions == (Start("training"),)
    assert state.of("training").restarts == 3
    assert in_words(state, words)[0] == "trouble"


def test_ten_good_minutes_forget_the_failures() -> None:
    state, _ = through(running(), Ended(1.0, "training", 1), Looked(3.0), Ended(3.5, "training", 1))
    assert state.of("training").failures == 2
    state, _ = through(state, Looked(10.0), Looked(10.0 + GOOD_S))
    assert state.of("training").failures == 0
    state, _ = through(state, Ended(11.0 + GOOD_S, "training", 1))
    assert state.of("training").due_s == 12.0 + GOOD_S


def test_a_console_that_crashes_changes_nothing_of_the_others() -> None:
    state, _ = through(State(), Looked(0.0, console=True), Told("up"))
    others = state.of("SuperNode"), state.of("training")
    for turn in range(50):
        state, actions = through(
            state, Ended(turn * 100.0, "console", 1), Looked(turn * 100.0 + 90.0, console=True)
        )
        assert actions == [Start("console")]
    assert (state.of("SuperNode"), state.of("training")) == others
    assert in_words(state, words) == ("running", "")


def test_a_refusal_ends_a_node_that_was_never_accepted() -> None:
    _, actions = through(State(), Looked(0.0), Ended(5.0, "SuperNode", 1, "refused"))
    assert actions[-1] == GiveUp()


def test_a_refusal_of_a_node_that_was_accepted_is_trouble_and_is_tried_again() -> None:
    state, actions = through(running(), Ended(50.0, "SuperNode", 1, "refused"), Looked(52.0))
    assert actions == [Start("SuperNode")]
    assert in_words(state, words)[0] == "trouble"
    assert "does not accept" in in_words(state, words)[1]
    assert in_words(advance(state, Told("up"))[0], words) == ("running", "")


def test_a_coordinator_that_is_away_ends_nothing() -> None:
    """At the start the node waits; later it says that it is in trouble."""
    state, actions = through(State(), Looked(0.0), Told("unreachable"), Looked(9e5))
    assert actions == [Start("SuperNode"), Start("training")]
    assert in_words(state, words)[0] == "starting"
    assert "cannot be reached" in in_words(state, words)[1]
    state, _ = through(state, Told("up"))
    assert in_words(state, words)[0] == "running"
    state, _ = through(state, Told("unreachable"))
    assert in_words(state, words)[0] == "trouble"


def test_a_handshake_that_is_cut_ends_nothing() -> None:
    state, actions = through(State(), Looked(0.0), Ended(1.0, "SuperNode", 1, "unproven"))
    assert GiveUp() not in actions
    assert in_words(state, words)[0] == "trouble"


def test_at_rest_the_training_leaves_by_itself_and_then_the_supernode() -> None:
    state, actions = through(running(), *(Looked(float(s), "paused", True) for s in range(5000)))
    assert actions == []
    assert in_words(state, words) == (
        "paused",
        "at rest: paused. What was begun is finished first.",
    )
    state, actions = through(state, Ended(6000.0, "training", 0), Looked(6001.0, "paused"))
    assert actions == [Leave("SuperNode")]
    assert state.of("SuperNode").standing == "leaving"
    state, actions = through(state, Ended(6002.0, "SuperNode", 0), Looked(6003.0, "paused"))
    assert actions == []
    assert in_words(state, words) == ("paused", "at rest: paused.")
    state, actions = through(state, Looked(6004.0))
    assert actions == [Start("SuperNode"), Start("training")]
    assert state.of("training").failures == 0


def test_a_supernode_that_does_not_leave_is_asked_and_then_killed() -> None:
    state, _ = through(
        running(), Looked(1.0, "paused"), Ended(2.0, "training", 0), Looked(3.0, "paused")
    )
    state, actions = through(state, Looked(3.0 + LEAVE_S, "paused"))
    assert actions == [Ask("SuperNode")]
    state, actions = through(state, Looked(3.0 + LEAVE_S + GRACE_S, "paused"))
    assert actions == [Kill("SuperNode")]


def test_a_supernode_that_is_wanted_again_before_it_has_left_stays() -> None:
    """Training had ended by itself just before a pause of a moment: the SuperNode stood as leaving
    for ten minutes, and was then ended and started again for nothing."""
    state, _ = through(running(), Ended(1.0, "training", 1), Looked(1.1, "paused"))
    assert state.of("SuperNode").standing == "leaving"
    state, actions = through(state, Looked(5.0))
    assert actions == [Stay("SuperNode"), Start("training")]
    state, actions = through(state, *(Looked(5.0 + float(s)) for s in range(2 * int(LEAVE_S))))
    assert actions == []
    assert in_words(state, words) == ("running", "")
    assert state.of("SuperNode").restarts == 0


def test_one_that_had_seen_the_mark_already_leaves_without_fault() -> None:
    state, _ = through(
        running(), Looked(1.0, "paused"), Ended(2.0, "training", 0), Looked(2.1, "paused")
    )
    stayed, actions = through(state, Looked(3.0))
    assert actions == [Stay("SuperNode"), Start("training")]
    state, actions = through(stayed, Ended(3.5, "SuperNode", 0), Looked(3.6))
    assert actions == [Start("SuperNode")]
    assert state.of("SuperNode").failures == 0
    crashed, _ = through(stayed, Ended(3.5, "SuperNode", 1))
    assert crashed.of("SuperNode").failures == 1
    again, _ = through(state, Ended(9.0, "SuperNode", 0))  # started anew: nothing tells it to leave
    assert again.of("SuperNode").failures == 1
    late, _ = through(stayed, Ended(4.0 + LEAVE_S, "SuperNode", 0))
    assert late.of("SuperNode").failures == 1


def test_a_supernode_that_stayed_is_told_to_leave_at_the_next_rest() -> None:
    """Training had told it, and cannot tell it again: it crashed while it started, or never came
    up. Left alone it stayed online for ten minutes, and rounds were opened with this site."""
    state, _ = through(
        running(), Looked(1.0, "paused"), Ended(2.0, "training", 0), Looked(2.1, "paused")
    )
    state, actions = through(
        state, Looked(3.0), Ended(4.0, "training", 1), Looked(4.0, "outside-hours")
    )
    assert actions == [Stay("SuperNode"), Start("training"), Leave("SuperNode")]
    assert state.of("SuperNode").standing == "leaving"


def test_ends_with_status_0_do_not_make_a_loop_without_pause() -> None:
    """The free pass is for one that was told to leave: not after a training that was asked to end
    (its port was taken), nor with a cause, nor at rest while a round is unfinished."""

    def starts(*before: Event, cause: Cause = "", rest: Rest = "", unfinished: bool = False) -> int:
        state, _ = through(running(), *before)
        state, now_s, count = *advance(state, Looked(10.0, rest, unfinished))[:1], 10.0, 0
        while now_s < 70.0:
            if state.of("SuperNode").standing == "up":
                state, _ = through(state, *before, Ended(now_s, "SuperNode", 0, cause))
            state, actions = advance(state, Looked(now_s, rest, unfinished))
            count += Start("SuperNode") in actions
            now_s += 0.5
        return count

    assert starts() <= 7
    assert starts(Replace(9.0, "training"), Ended(9.5, "training", 0)) <= 7
    assert starts(rest="paused", unfinished=True, cause="refused") <= 7
    assert starts(rest="paused", unfinished=True) <= 7
    state, _ = through(
        running(), Looked(1.0, "paused"), Ended(2.0, "training", 0), Looked(2.1),
        Ended(2.5, "SuperNode", 0, "refused"),
    )  # fmt: skip
    assert state.of("SuperNode").failures == 1


def test_a_supernode_that_training_told_to_leave_may_though_the_pause_is_over() -> None:
    """The pause ended between training's last look and ours: we never saw the SuperNode leave."""
    state, _ = through(running(), Looked(1.0, "paused"), Ended(2.0, "training", 0), Looked(2.1))
    assert state.of("SuperNode").standing == "up"
    state, actions = through(state, Ended(2.5, "SuperNode", 0), Looked(2.6))
    assert actions == [Start("SuperNode")]
    assert state.of("SuperNode").failures == 0


def test_a_training_that_crashes_at_rest_with_a_round_in_hand_is_started_again() -> None:
    state = running()
    state, actions = through(
        state,
        Looked(1.0, "outside-hours", True),
        Ended(2.0, "training", -9),
        Looked(4.0, "outside-hours", True),
    )
    assert actions == [Start("training")]


def test_a_node_that_is_started_at_rest_starts_nothing_but_the_console() -> None:
    assert through(State(), Looked(0.0, "outside-hours", console=True))[1] == [Start("console")]


def test_training_that_took_too_much_memory_is_trouble_until_it_runs_well_again() -> None:
    state, _ = through(running(), Ended(1.0, "training", -9, "memory"), Looked(2.5))
    assert "memory_gb" in in_words(state, words)[1]
    state, _ = through(state, Looked(3.0 + GOOD_S))
    assert in_words(state, words) == ("running", "")


def test_who_holds_an_old_address_is_asked_to_end_and_started_again() -> None:
    state, actions = through(
        running(), Replace(1.0, "training"), Ended(2.0, "training", 0), Looked(2.1)
    )
    assert actions == [Ask("training"), Start("training")]
    assert state.of("training").failures == 0


# ---------------------------------------------------------------- whatever happens

names = st.sampled_from(NAMES)
rests: st.SearchStrategy[Rest] = st.sampled_from(["", "paused", "outside-hours"])
steps = st.tuples(
    st.floats(0.0, 120.0),
    st.one_of(
        st.builds(Looked, st.just(0.0), rests, st.booleans(), st.booleans()),
        st.builds(
            Ended,
            st.just(0.0),
            names,
            st.sampled_from([0, 1, -9]),
            st.sampled_from(["", "refused", "unproven", "memory"]),
        ),
        st.builds(Told, st.sampled_from(["up", "unreachable", "unproven"])),
        st.builds(Replace, st.just(0.0), names),
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=60))
def test_the_promises_hold_in_any_order_of_events(script: list[tuple[float, Event]]) -> None:
    """Never two of one name; never before the pause; never asked for nothing; words for all."""
    state, now_s = State(), 0.0
    up: set[Name] = set()
    down_since: dict[Name, float] = {}
    accepted = False
    for wait_s, drawn in script:
        now_s += wait_s
        event = drawn if isinstance(drawn, Told) else replace(drawn, now_s=now_s)
        if isinstance(event, Ended):
            if event.name not in up:
                continue
            up.discard(event.name)
            down_since[event.name] = now_s
        if isinstance(event, Told):
            accepted = accepted or event.link == "up"
        failures = state.of(event.name).failures if isinstance(event, Ended) else 0
        before = state.of("training").standing
        state, actions = advance(state, event)
        if isinstance(event, Ended) and state.of(event.name).failures == failures:
            down_since.pop(event.name)  # it was meant to end: no pause
        for action in actions:
            match action:
                case Start(name):
                    assert name not in up
                    assert now_s >= state.of(name).due_s
                    assert now_s - down_since.get(name, 0.0) >= pause_s(
                        state.of(name).failures
                    ) or (name not in down_since)
                    if name != "console":
                        assert not state.rest or state.unfinished
                    up.add(name)
                case Ask(name) | Kill(name):
                    assert name in up
                    assert name != "training" or isinstance(event, Replace | Looked)
                case Leave(name):
                    assert state.rest
                    assert not state.unfinished
                    assert (name, up - {"console"}) == ("SuperNode", {"SuperNode"})
                case Stay(name):
                    assert not state.rest or state.unfinished
                    assert name == "SuperNode"
                    assert name in up
                    assert before == "down"
                case GiveUp():
                    assert not accepted
        assert {p.name for p in state.processes if p.standing != "down"} == up
        assert all(0.0 <= p.due_s - now_s <= LONGEST_PAUSE_S or p.due_s <= now_s
                   for p in state.processes)  # fmt: skip
        phase, why = in_words(state, words)
        assert phase == "running" or why


@settings(max_examples=100, deadline=None)
@given(st.lists(steps, max_size=40))
def test_a_node_left_alone_comes_back(script: list[tuple[float, Event]]) -> None:
    """After whatever happened, once nothing more goes wrong both run within five minutes."""
    state, now_s = State(), 0.0
    for wait_s, event in script:
        now_s += wait_s
        state, _ = advance(state, event if isinstance(event, Told) else replace(event, now_s=now_s))
    for _ in range(300):
        now_s += 1.0
        state, actions = advance(state, Looked(now_s))
        for action in actions:
            if isinstance(action, Ask | Kill):
                state, _ = advance(state, Ended(now_s, action.name, -15))
    assert all(state.of(name).standing == "up" for name in ("SuperNode", "training"))


@pytest.mark.parametrize("name", NAMES)
def test_an_end_that_was_told_already_changes_nothing(name: Name) -> None:
    state = State()
    assert advance(state, Ended(1.0, name, 1)) == (state, ())


def test_training_that_waits_for_a_supernode_that_has_left_is_asked_to_end() -> None:
    """Found in a traced round: it asked for its next message for ever; the node never rested."""
    state, early = through(running(), Looked(9.0, rest="paused", unfinished=True))
    state, none = through(
        state, Ended(10.0, "SuperNode", 0), Looked(10.1, rest="paused", unfinished=True)
    )
    assert Ask("training") not in (*early, *none)  # what was begun is finished
    state, _ = through(running(), Looked(9.0, rest="paused"), Ended(10.0, "SuperNode", 0))
    state, actions = through(state, Looked(11.0, rest="paused"), Looked(12.0, rest="paused"))
    assert actions == [Ask("training")]
    state, actions = through(
        state, Ended(13.0, "training", 0), Looked(14.0, rest="paused"), Looked(15.0)
    )
    assert actions == [Start("SuperNode"), Start("training")]
    assert state.of("training").failures == 0
