"""The coordinator's state machine under random schedules of arrivals, losses and restarts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from machine_driver import HEAD, make_settings
from machine_world import Answer, Request, World

from server.rounds import (
    AgreementArrived,
    DeadlinePassed,
    FaultyReply,
    KeyArrived,
    RefusalArrived,
    ReplyArrived,
    SharesArrived,
    SiteLost,
)
from shared_model.protocol_words import TRANSITIONS

MOST_WALKS = 8000
REASONS = st.sampled_from(["policy", "budget", "epoch", "roster-approval", "internal", "late"])
TRIPS = st.sampled_from(["keying", "submit", "agree", "open"])
GOALS = ["keying", "submit", "agree", "agree", "open", "open"]
SHARES_OF_TIME = st.sampled_from([0.0, 1.0, 6.0, 21.0, 61.0])
SETS = st.frozensets(st.sampled_from("abcdefghijz"), max_size=4)


def a_world(count: int, *, lowest: bool, masked: bool, **changes) -> World:
    """lowest: the lowest threshold that is allowed, so that more than t sites may survive."""
    threshold = count // 2 + 1 if lowest else 2 * count // 3 + 1
    values = {"threshold": threshold, "masked": masked, "max_failed": 3, **changes}
    return World(make_settings(count, **values))


class AnySchedule(RuleBasedStateMachine):
    """Whatever comes in whatever order, also from hostile sites: the promises hold.

    The promises themselves are asserted in `machine_world`, where the actions are carried out.
    """

    @initialize(
        count=st.sampled_from([3, 4, 5, 10]),
        lowest=st.booleans(),
        masked=st.sampled_from([1, 1, 0]),
    )
    def start(self, count, lowest, masked):
        self.world = a_world(count, lowest=lowest, masked=bool(masked))

    @property
    def state(self):
        return self.world.state

    def some(self, pick):
        return pick % len(self.world.network)

    @rule(seconds=SHARES_OF_TIME, absent=st.sets(st.sampled_from("abcdefghij"), max_size=2))
    def look(self, seconds, absent):
        self.world.now += seconds
        self.world.look(frozenset(self.world.settings.sites) - absent)

    @rule(seconds=SHARES_OF_TIME)
    def clock(self, seconds):
        self.world.now += seconds
        self.world.feed(DeadlinePassed(self.world.now))

    @precondition(lambda self: self.world.network)
    @rule(pick=st.integers(0, 99), keep=st.sampled_from([False, False, True]))
    def deliver(self, pick, keep):
        self.world.deliver(self.some(pick), keep=keep)

    @rule(goal=st.sampled_from(GOALS))
    def go_on_to(self, goal):
        """Lets nothing go wrong for a while, so that the later trips are reached often."""
        self.world.crash_after = None
        for _ in range(150):
            if self.state.phase in (goal, "paused", "finished"):
                return
            self.world.go_on()

    @rule(many=st.integers(1, 12))
    def go_on(self, many):
        for _ in range(many):
            self.world.go_on()

    @precondition(lambda self: self.world.network)
    @rule(pick=st.integers(0, 99), garbled=st.booleans())
    def lose(self, pick, garbled):
        index = self.some(pick)
        if garbled:
            self.world.garble(index)
        else:
            self.world.lose(index)

    @precondition(lambda self: self.world.network)
    @rule(pick=st.integers(0, 99), reason=REASONS)
    def refuse(self, pick, reason):
        self.world.refuse(self.some(pick), reason)

    @rule(pick=st.integers(0, 9))
    def restore_a_node_from_a_backup(self, pick):
        """It has no epoch key then."""
        self.world.nodes[self.world.settings.sites[pick % len(self.world.nodes)]].key = None

    @rule()
    def restart(self):
        self.world.restart()

    @rule(after=st.integers(0, 3))
    def crash_soon(self, after):
        """Between two actions: after some that are carried out, before the next."""
        self.world.crash_after = after

    @rule(site=st.sampled_from([None, "a", "c"]))
    def cheat(self, site):
        self.world.cheat = site

    @precondition(lambda self: self.world.state.phase == "paused")
    @rule()
    def resume(self):
        self.world.resume()

    @rule(
        site=st.sampled_from("abz"),
        trip=TRIPS,
        shift=st.sampled_from([-1, 0, 1]),
        run=st.sampled_from(["run", "other"]),
        word=st.sampled_from(["q1", "", "f" * 64]),
        sets=st.tuples(SETS, SETS),
        reason=REASONS,
        kind=st.integers(0, 6),
    )
    def speak_out_of_turn(self, site, trip, shift, run, word, sets, reason, kind):
        """What does not come from a request of ours; the loop lets no signature of others through,
        so that such messages carry nothing that fits."""
        number = self.state.round + shift
        out = "z" if run == "run" and shift == 0 else site
        self.world.feed(
            [
                KeyArrived("z", self.state.keyings + shift),
                ReplyArrived(out, run, number, word, "forged", 1, HEAD),
                AgreementArrived(site, run, number, word),
                SharesArrived(out, run, number, *sets),
                RefusalArrived(site, None, number, reason),
                FaultyReply("z", trip, number),
                SiteLost(site, trip, self.state.round - 1),
            ][kind]
        )

    @invariant()
    def every_round_but_the_open_one_has_ended_once(self):
        if not hasattr(self, "world"):
            return
        disk = self.world.disk
        numbers = [item.number for item in disk.closed]
        assert numbers == sorted(set(numbers))
        assert dict(self.world.ends) == dict.fromkeys(numbers, 1)
        assert (self.state.current is not None) == bool(disk.number)
        assert self.state.round in (disk.number, *numbers[-1:], 0)

    @invariant()
    def no_more_rounds_complete_than_were_wanted(self):
        if hasattr(self, "world"):
            done = sum(item.aggregated for item in self.world.disk.closed)
            assert done == self.state.completed <= self.state.settings.rounds
            assert (self.state.phase == "finished") == (done == self.state.settings.rounds)


TestAnySchedule = AnySchedule.TestCase
TestAnySchedule.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)


@pytest.mark.parametrize("count", [3, 4, 5, 10])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), deaths=st.integers(0, 4), restarts=st.integers(0, 4))
def test_a_run_with_enough_honest_sites_always_completes(count, seed, deaths, restarts):
    """Sites up to n - t die at any moment, answers come in any order and more than once, the
    coordinator stops anywhere: no round fails."""
    chance = random.Random(seed)
    world = World(make_settings(count, rounds=2))
    spare = count - world.settings.needed
    dying = chance.sample(world.settings.sites, min(deaths, spare))
    dies_at = {site: chance.randrange(150) for site in dying}
    zombies = {site for site in dying if chance.random() < 0.5}  # the transport believes in them
    stops = {chance.randrange(200) for _ in range(restarts)}
    jumped: set[tuple[int, str]] = set()
    for moment in range(5000):
        if world.state.phase in ("finished", "paused"):
            break
        dead = {site for site, at in dies_at.items() if at <= moment}
        if moment in stops:
            if chance.random() < 0.5:
                world.restart()
            else:
                world.crash_after = chance.randrange(3)
        alive_mail = [
            index
            for index, message in enumerate(world.network)
            if (isinstance(message, Answer) and message.request.start == world.starts)
            or (isinstance(message, Request) and message.site not in dead)
        ]
        here = (world.state.round, world.state.phase)
        if alive_mail and not (chance.random() < 0.1 and here not in jumped):
            world.deliver(chance.choice(alive_mail), keep=chance.random() < 0.05)
        else:
            jumped.add(here)
            world.now += 6.0 if alive_mail else 25.0
        there = frozenset(site for site in world.settings.sites if site not in dead - zombies)
        world.look(there)
        world.feed(DeadlinePassed(world.now))
    assert world.state.phase == "finished"
    assert world.close_reasons == []


def test_the_table_of_transitions_lists_what_happens_and_nothing_else():
    """Seeded random schedules take every transition of the table (and `advance` takes no other)."""
    table = {
        (phase, event, after)
        for phase, events in TRANSITIONS.items()
        for event, phases in events.items()
        for after in phases
    }
    chance = random.Random(7)
    taken: set[tuple[str, str, str]] = set()
    for _ in range(MOST_WALKS):
        world = a_world(
            chance.choice([3, 4, 5, 7]),
            lowest=chance.random() < 0.7,
            masked=chance.random() < 0.8,
            max_failed=chance.choice([1, 3]),
            rounds=chance.choice([1, 2]),
        )
        trouble = chance.choice([0.1, 0.3, 0.6])
        for _ in range(120):
            wander(world, chance, trouble)
        taken |= world.taken
        if taken == table:
            return
    assert taken == table


def wander(world: World, chance: random.Random, trouble: float) -> None:
    """One more thing happens; with this probability it is trouble."""
    state = world.state
    if state.phase == "paused":
        world.resume()
    elif chance.random() > trouble:
        world.go_on()
    elif state.phase == "agree" and chance.random() < 0.2:
        for _ in range(2):
            world.feed(DeadlinePassed(world.now))
            world.now += 6.0
    elif state.phase == "open" and state.current.unsigned and chance.random() < 0.5:
        for site in state.awaited:
            world.feed(SiteLost(site, "open", state.round))
        slow = state.current.unsigned[0]
        world.feed(AgreementArrived(slow, "run", state.round, "f" * 64))
    elif chance.random() < 0.05:
        world.restart()
    elif chance.random() < 0.1:
        world.cheat = chance.choice([None, *world.settings.sites])
    elif chance.random() < 0.1:
        world.look(frozenset(chance.sample(world.settings.sites, 2)))
    elif chance.random() < 0.2 and state.phase in ("agree", "open"):
        site = chance.choice(state.current.survivors)
        world.feed(AgreementArrived(site, "run", state.round, "f" * 64))
    elif chance.random() < 0.2 or not world.network:
        world.now += chance.choice([6.0, 25.0, 61.0])
        world.feed(DeadlinePassed(world.now))
    else:
        index = chance.randrange(len(world.network))
        if chance.random() < 0.4:
            world.refuse(index, chance.choice(["policy", "epoch", "budget"]))
            world.deliver(index)
        else:
            chance.choice([world.lose, world.garble, world.deliver])(index)
