"""Sites that vanish in any stage, at any point of it, under the real loop and real nodes: the exact
sum of the survivors, or a closed round of which nothing is in clear."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import pytest
from consortium import Consortium
from loop import Fate, Played, assert_exact_or_closed, play

from server.run_records import from_base64
from shared_model import protocol, protocol_open

World = Callable[..., Consortium]
STAGES = ("train-request", "agree-request", "open-request")
TAKES_PART = {"train-request": False, "agree-request": True, "open-request": True}


def gone(site: str, stage: str, how: str) -> Fate:
    """The site vanishes at this message, and is not heard of again in the round."""
    after = STAGES[STAGES.index(stage) :]

    def fate(name: str, kind: str, number: int) -> str:
        if name != site or kind not in after:
            return ""
        return how if kind == stage else "unsent"

    return fate


def check(world: Consortium, played: Played, site: str, stage: str) -> None:
    """One drop-out of n: a sum with or without the site from four on, with three a closed round."""
    summed = assert_exact_or_closed(played, 1)
    assert summed == (len(world.names) > 3)
    if summed:
        assert (site in played.round().survivors) == TAKES_PART[stage]
        assert set(played.round().survivors) >= set(world.names) - {site}
        return
    if stage == "train-request":
        assert played.round().survivors == ()
    if stage != "open-request":
        assert world.adversary.opened == []


def drop_each(make: World, n: int, sites: Iterable[int], stage: str, how: str) -> None:
    for index in sites:
        world = make(n, f"{n}-{index}")
        site = world.names[index]
        played = play(world, fate=gone(site, stage, how), max_failed_rounds=1)
        check(world, played, site, stage)


@pytest.fixture
def make(tmp_path) -> World:
    """Worlds in which no epoch has begun: the loop begins it."""

    def made(n: int, name: str = "world", **options: object) -> Consortium:
        return Consortium(tmp_path / name, n, **options)  # type: ignore[arg-type]

    return made


@pytest.mark.parametrize("how", ["unsent", "lost"])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("n", [3, 4, 5])
def test_any_one_site_may_vanish_in_any_stage(make: World, n: int, stage: str, how: str) -> None:
    """Every site of 3, 4 and 5: before it hears the message, or after it has answered it."""
    drop_each(make, n, range(n), stage, how)


@pytest.mark.parametrize("stage", STAGES)
def test_site_that_is_only_silent_does_not_stop_the_round(make: World, stage: str) -> None:
    """Not even the transport says that it is gone: deadlines pass, the round ends."""
    drop_each(make, 4, [1], stage, "mute")


@pytest.mark.parametrize("stage", STAGES)
def test_one_of_ten_may_vanish_in_any_stage(make: World, stage: str) -> None:
    """The first, one in the middle, the last of ten."""
    drop_each(make, 10, [0, 4, 9], stage, "unsent")


@pytest.mark.long
@pytest.mark.parametrize("how", ["unsent", "lost", "mute"])
@pytest.mark.parametrize("stage", STAGES)
def test_any_one_of_ten_may_vanish_in_any_stage(make: World, stage: str, how: str) -> None:
    """Every site of ten, in every way."""
    drop_each(make, 10, range(10), stage, how)


def test_one_that_never_submits_and_another_that_vanishes_later(make: World) -> None:
    """n = 5, t = 3: s01 never submits, s03 vanishes at the opening; its pair seed with s01 is put
    together from shares, and the sum of four is exact."""
    world = make(5, threshold=3, colluding_sites=0)

    def fate(site: str, kind: str, number: int) -> str:
        lost = (site, kind) in {("s01", "train-request"), ("s03", "open-request")}
        return "unsent" if lost else ""

    played = play(world, fate=fate)
    assert assert_exact_or_closed(played, 1)
    assert played.round().survivors == ("s00", "s02", "s03", "s04")


def test_three_of_ten_vanish_in_three_stages(make: World) -> None:
    """Before it submits, before it agrees, before it opens: seven are left, as t asks."""
    world = make(10)
    dead = {"s02": "train-request", "s05": "agree-request", "s08": "open-request"}

    def fate(site: str, kind: str, number: int) -> str:
        later = kind in STAGES[STAGES.index(dead[site]) :] if site in dead and kind in STAGES else 0
        return "unsent" if later else ""

    played = play(world, fate=fate)
    assert assert_exact_or_closed(played, 1)
    assert set(world.names) - set(played.round().survivors) == {"s02"}


def test_four_of_ten_that_vanish_close_the_round_and_give_nothing(make: World) -> None:
    """Six openers of seven: six shares of every seed are worth nothing, and the next round is
    summed."""
    world = make(10)
    dead = {"s01", "s02", "s03", "s04"}
    played = play(
        world,
        fate=lambda site, kind, number: (
            "lost" if site in dead and kind == "open-request" and number == 1 else ""
        ),
    )
    assert not assert_exact_or_closed(played, 1)
    assert played.round().reason == "not-opened"
    assert world.adversary.opened
    assert assert_exact_or_closed(played, 2)


def test_closed_round_is_followed_by_a_fresh_one_not_by_a_retry(make: World) -> None:
    """Three sites, one silent once: round 1 is closed, round 2 has new vectors and is summed; of
    both together nothing more is in clear."""
    world = make(3)
    played = play(
        world,
        fate=lambda site, kind, number: (
            "unsent" if (site, kind, number) == ("s02", "agree-request", 1) else ""
        ),
    )
    assert [item.outcome for item in played.record.rounds] == ["closed", "aggregated"]
    assert [hospital.trained for hospital in world.hospitals.values()] == [2, 2, 2]
    wanted = world.adversary.places(*world.names, number=2)
    assert world.adversary.learned(world.truth) == [wanted]


@pytest.mark.parametrize("stage", ["epoch-request", "close-request", "verify-request"])
def test_site_that_vanishes_around_the_round_costs_no_more_than_itself(
    make: World, stage: str
) -> None:
    """Before the epoch it takes no part; in the closing exchange the sum is left unverified."""
    world = make(4)
    played = play(
        world, fate=lambda site, kind, number: "mute" if (site, kind) == ("s01", stage) else ""
    )
    assert assert_exact_or_closed(played, 1)
    assert ("s01" in played.round().survivors) == (stage != "epoch-request")
    assert (played.folder.closing(1).state == "verified") == (stage != "close-request")


@pytest.mark.parametrize("seed", range(8))
def test_random_losses_leave_exact_sums_or_nothing(make: World, seed: int) -> None:
    """Every message may be lost, before or after it is answered, or the site is mute."""
    rng = random.Random(seed)
    n = rng.choice([3, 4, 5, 6])
    world = make(n)

    def fate(site: str, kind: str, number: int) -> str:
        return rng.choice(["unsent", "lost", "mute"]) if rng.random() < 0.12 else ""

    played = play(world, rounds=2, fate=fate)
    for item in played.record.rounds:
        assert_exact_or_closed(played, item.round)


def test_submission_that_comes_too_late_is_void_and_written_down(make: World) -> None:
    """It is in no sum; the site's own signature is kept, and the next round is as if it had not
    been."""
    world = make(4)
    late = {1: "late 70", 2: "late 20"}

    def fate(site: str, kind: str, number: int) -> str:
        return late[number] if (site, kind) == ("s01", "train-request") else ""

    played = play(world, rounds=2, fate=fate)
    assert assert_exact_or_closed(played, 1)
    assert assert_exact_or_closed(played, 2)
    assert "s01" not in played.round(1).survivors
    assert "s01" in played.round(2).survivors
    (void,) = played.record.late
    assert (void.site, void.round) == ("s01", 1)
    said = protocol_open.open_answer(
        from_base64(void.header), world.signed.roster.entry("s01").identity, site="s01"
    )
    assert isinstance(said, protocol.TrainReply)
    assert said.request_digest == played.round(1).request_digest
    assert said.body_digest not in {one.body_digest for one in played.round(1).contributors}
    assert played.named(1) == set()


@pytest.mark.parametrize("stage", ["epoch-request", *STAGES])
def test_one_dead_site_of_four_never_stops_a_run(make: World, stage: str) -> None:
    """It dies at this message of the first round and stays in the list of those that are there."""
    world = make(4)
    died: list[str] = []

    def fate(site: str, kind: str, number: int) -> str:
        if site == "s02" and (kind == stage or died):
            died.append(kind)
            return "mute"
        return ""

    played = play(world, rounds=3, fate=fate)
    assert (played.record.state, played.record.completed) == ("finished", 3)
    for item in played.record.rounds:
        if item.outcome == "aggregated":
            assert len(item.survivors) >= 3
            assert_exact_or_closed(played, item.round)
    assert len(played.record.rounds) == 3


@pytest.mark.parametrize("stage", STAGES)
def test_one_dead_site_of_three_pauses_the_run_and_nothing_is_made_of_two(
    make: World, stage: str
) -> None:
    """The operator reads why; no sum was made of fewer than the minimum."""
    world = make(3)
    died: list[str] = []

    def fate(site: str, kind: str, number: int) -> str:
        if site == "s02" and (kind == stage or died):
            died.append(kind)
            return "mute"
        return ""

    played = play(world, rounds=3, fate=fate)
    assert (played.record.state, played.record.completed) == ("paused", 0)
    assert played.record.pause in ("failed-rounds", "too-few-keys")
    assert all(item.outcome == "closed" for item in played.record.rounds)
    assert world.adversary.learned(world.truth) == []
