"""Controls: the adversary of these tests does find updates when it is given what it must not have,
and when a rule of the protocol is taken away. Without them the other tests could not fail."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from adversary import assert_is_noise
from consortium import Consortium

from client import sum_round
from shared_model.errors import Refused
from shared_model.secure_sum.keys import Member

World = Callable[..., Consortium]


def test_honest_round_gives_the_adversary_the_sum_of_the_survivors_and_nothing_else(
    consortium: World,
) -> None:
    """One site drops out; the other three are summed; no other combination is in clear."""
    world = consortium(4, threshold=3)
    request = world.request(1)
    survivors = ("s00", "s01", "s03")
    world.submit(request, survivors)
    assert world.adversary.learned(world.truth) == []
    world.agree(request, survivors)
    assert world.adversary.learned(world.truth) == []
    world.open(request, survivors)
    assert world.adversary.learned(world.truth) == [world.adversary.places(*survivors)]


def test_adversary_recovers_an_update_from_seeds_that_it_was_given(consortium: World) -> None:
    """Self seed and pair seeds of one hospital: its vector, to the bit, and no other."""
    world = consortium(3)
    request = world.request(1)
    world.hospitals["s01"].entropy = stolen = _Stolen(world.hospitals["s01"].entropy)
    world.submit(request)
    transcript = world.transcript(request)
    key = world.node("s01").epochs.key(1, world.signed.roster.digest)
    public = {item.site: bytes.fromhex(item.public_key) for item in world.epoch_keys}
    member = Member("s01", key, public, bytes.fromhex(world.signed.roster.digest), 1)
    pair_seeds = {member.pair_seed(peer, transcript.digest) for peer in ("s00", "s02")}
    world.adversary.given |= {stolen.first, *pair_seeds}
    assert world.adversary.learned(world.truth) == [world.adversary.places("s01")]


def test_adversary_uses_an_epoch_key_that_it_was_given(consortium: World) -> None:
    """The keys of t hospitals open their rows; every seed is rebuilt, every update is in clear."""
    world = consortium(4, threshold=3)
    request = world.request(1)
    world.submit(request)
    for site in ("s00", "s01", "s02"):
        node = world.node(site)
        world.adversary.private_keys.append(node.epochs.key(1, world.signed.roster.digest))
    found = world.adversary.learned(world.truth)
    for site in world.names:
        assert world.adversary.places(site) in found


def test_without_agreements_the_attack_of_three_parts_gives_one_update(
    consortium: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """n = 5, t = 3, no colluder: with the check of agreements taken out, site 0 is in clear."""
    world = consortium(5, threshold=3, colluding_sites=0)
    monkeypatch.setattr(sum_round, "_check_agreement", lambda *given: None)
    request = world.request(1)
    world.submit(request)
    parts = {
        ("s00", "s01", "s02"): ("s00",),
        ("s01", "s02", "s03"): ("s01", "s02"),
        ("s00", "s03", "s04"): ("s03", "s04"),
    }
    anything = {f"s0{index}": b"{}" for index in range(5)}
    for survivors, shown in parts.items():
        world.agree(request, survivors, shown)
        agreements = {site: anything[site] for site in survivors}
        world.open(request, survivors, shown, agreements=agreements)
    assert world.adversary.places("s00") in world.adversary.learned(world.truth)


def test_beyond_the_bound_one_colluder_is_enough(consortium: World) -> None:
    """n = 5, t = 3: nodes that suppose no colluder accept it, and one colluder takes site 0 apart
    by two sets of agreements, as the search says. The bound is no caution: it is tight."""
    world = consortium(5, threshold=3, colluding_sites=0, colluders=("s04",))
    request = world.request(1)
    world.submit(request)
    for survivors, shown in (
        (("s00", "s01", "s04"), ("s00", "s01")),
        (("s00", "s02", "s03", "s04"), ("s02", "s03")),
    ):
        world.agree(request, survivors, shown)
        world.open(request, survivors, shown, missing=survivors)
    assert world.adversary.places("s00") in world.adversary.learned(world.truth)


def test_nodes_refuse_the_roster_in_which_one_colluder_would_be_enough(consortium: World) -> None:
    """The policy's `colluding_sites` is 1 by default; n = 5 with t = 3 does not hold against it."""
    with pytest.raises(Refused) as caught:
        consortium(5, threshold=3)
    assert caught.value.reason == "threshold"


def test_noise_test_sees_a_guess_that_is_half_right() -> None:
    """A guess whose top bits are right, or that is right in a few coordinates, is not noise."""
    rng = np.random.default_rng(3)
    assert_is_noise(rng.integers(0, 1 << 23, 1024), 23)
    near = rng.integers(0, 1 << 20, 1024)
    some = rng.integers(0, 1 << 23, 1024)
    some[:3] = 0
    even = rng.integers(0, 1 << 22, 1024) << 1
    for residue in (near, some, even):
        with pytest.raises(AssertionError):
            assert_is_noise(residue, 23)


class _Stolen:
    """Keeps the first bytes that an operating system gave: the self seed."""

    def __init__(self, source: Callable[[int], bytes]) -> None:
        self.source, self.first = source, b""

    def __call__(self, length: int) -> bytes:
        data = self.source(length)
        self.first = self.first or data
        return data
