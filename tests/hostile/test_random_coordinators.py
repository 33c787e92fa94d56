"""A coordinator that sends whatever comes to its mind, in any order, and has a colluder."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from adversary import Heard
from consortium import RUN_KEY, Consortium, Entropy

from shared_model import protocol
from shared_model.protocol import TrainRequest

World = Callable[..., Consortium]
STEPS = 90
ROUNDS = 3
ROSTERS = [(4, 3, 1), (5, 3, 0), (5, 4, 2)]
"""(n, t, c)."""


class RandomCoordinator:
    """Rounds of few numbers, so that things meet: P, model, epoch, U, rows, lists, replays."""

    def __init__(self, world: Consortium, seed: int) -> None:
        self.world = world
        self.rng = random.Random(seed)
        self.requests: list[TrainRequest] = []
        self.models = [world.model, {"head": world.model["head"] * 2}]
        self.asked: dict[str, tuple[str, ...]] = {}
        self.splits = self.rng.random() < 0.5
        """Whether each site is shown a set of its own."""
        self.victim = self.rng.choice(world.honest)
        self.copy = world.back_up(self.victim, with_epoch_key=False)

    def some(self, names: tuple[str, ...], least: int) -> tuple[str, ...]:
        return tuple(sorted(self.rng.sample(names, self.rng.randint(least, len(names)))))

    def step(self) -> None:
        action = self.rng.choices(
            [self.ask, self.agree, self.open, self.replay, self.epoch, self.restore],
            [20, 30, 40, 8, 2, 1],
        )[0]
        action()

    def mostly(self, names: tuple[str, ...], least: int = 1) -> tuple[str, ...]:
        return names if self.rng.random() < 0.7 else self.some(names, least)

    def ask(self) -> None:
        world, rng = self.world, self.rng
        number = min(ROUNDS, 1 + len(self.requests) // 4) if rng.random() < 0.9 else 1
        model = self.models[rng.random() < 0.1]
        participants = self.mostly(world.names, world.threshold)
        request = world.request(number, participants, model=model)
        self.requests.append(request)
        world.submit(request, self.mostly(request.sites), model=model)

    def agree(self) -> None:
        for request, site, survivors in self.shown():
            self.world.agree(request, survivors, [site])

    def open(self) -> None:
        for request, site, survivors in self.shown():
            rows = None
            if self.rng.random() < 0.1:
                size = 32 + 64 * len(request.sites) + 16
                rows = {survivors[0]: Entropy(str(self.rng.random()))(size)}
            missing = self.some(survivors, 0)
            self.world.open(request, survivors, [site], missing=missing, rows=rows)

    def shown(self) -> list[tuple[TrainRequest, str, tuple[str, ...]]]:
        """Some sites of a late request, and the survivors that each is shown."""
        if not self.requests:
            return []
        newest = [item for item in self.requests if item.round == self.requests[-1].round]
        likely = self.rng.random() < 0.7
        request = newest[0] if likely else self.rng.choice(self.requests[-3:])
        sites = [site for site in self.mostly(request.sites) if site in self.world.hospitals]
        return [(request, site, self.survivors(request, site)) for site in sites]

    def survivors(self, request: TrainRequest, site: str) -> tuple[str, ...]:
        """Mostly the same for a request (or for each of its sites), so that agreements meet."""
        others = tuple(name for name in request.sites if name != site)
        if self.rng.random() < 0.2:
            return tuple(sorted((site, *self.some(others, 1))))
        key = self.world.transcript(request).digest.hex() + site * self.splits
        if key not in self.asked:
            least = self.world.threshold - 1
            chosen = self.some(others, least) if self.splits else self.mostly(others, least)
            self.asked[key] = tuple(sorted((site, *chosen)))
        wanted = self.asked[key]
        return wanted if site in wanted else tuple(sorted((site, *wanted)))

    def replay(self) -> None:
        heard = [item for item in self.world.adversary.heard if item.site in self.world.hospitals]
        item: Heard = self.rng.choice(heard)
        site = self.rng.choice(self.world.honest)
        self.world.say_bytes(site, item.request, item.asked)

    def epoch(self) -> None:
        self.world.new_epoch()

    def restore(self) -> None:
        self.world.restore(self.victim, self.copy)


@pytest.mark.parametrize("seed", range(12))
def test_random_coordinator_has_one_sum_of_enough_sites_for_each_round(
    consortium: World, seed: int
) -> None:
    """As many colluders as the bound allows: after any messages, replays and restores, of every
    round at most one sum of at least max(2, t - c) honest sites is in clear."""
    n, t, c = ROSTERS[seed % len(ROSTERS)]
    colluders = [f"s0{index}" for index in range(n - c, n)]
    world = consortium(n, threshold=t, colluders=colluders, colluding_sites=c)
    coordinator = RandomCoordinator(world, seed)
    for _ in range(STEPS):
        coordinator.step()
    for number in range(1, ROUNDS + 1):
        learned = world.adversary.learned(world.truth, number=number)
        assert len(learned) <= 1
        for combination in learned:
            assert set(combination.values()) == {1}
            assert len(combination) >= max(2, t - c)
            dealers = [world.adversary.targets()[place].dealer for place in combination]
            assert len(set(dealers)) == len(dealers)
    assert len(world.adversary.targets()) > 2


def test_random_coordinators_do_open_sums(consortium: World) -> None:
    """The control of the test above: the messages are sensible enough to open rounds."""
    opened = 0
    for seed in range(6):
        world = consortium(4, name=f"w{seed}", threshold=3, colluders=("s03",))
        coordinator = RandomCoordinator(world, seed)
        for _ in range(STEPS):
            coordinator.step()
        opened += sum(
            len(world.adversary.learned(world.truth, number=number))
            for number in range(1, ROUNDS + 1)
        )
    assert opened >= 6


@pytest.mark.parametrize("seed", range(4))
def test_bytes_at_random_get_a_refusal_and_nothing_else(consortium: World, seed: int) -> None:
    """Noise, mutated and truncated messages, oversized ones, another kind under the signature."""
    world = consortium(3)
    rng = random.Random(seed)
    request = world.request(1)
    header = protocol.seal(request, RUN_KEY)
    cases = [
        b"",
        bytes(64),
        rng.randbytes(500),
        header[:-1],
        header + b" ",
        header[:64] + header[64:].replace(b"train-request", b"agree-request"),
        bytes(protocol.MAX_HEADER_BYTES + 1),
        *(mutated(header, rng) for _ in range(20)),
    ]
    for case in cases:
        heard = world.say_bytes("s00", case, rng.randbytes(40))
        assert heard.refused in {"signature", "version"}
        assert heard.body == b""
    assert world.hospitals["s00"].trained == 0
    assert world.adversary.learned(world.truth) == []


def mutated(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)
