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


class RandomCoordinator:
    """Rounds of few numbers, so that things meet: P, model, epoch, U, rows, lists, replays."""

    def __init__(self, world: Consortium, seed: int) -> None:
        self.world = world
        self.rng = random.Random(seed)
        self.requests: list[TrainRequest] = []
        self.models = [world.model, {"head": world.model["head"] * 2}]
        self.asked: dict[str, tuple[str, ...]] = {}
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
        if self.requests:
            survivors = self.survivors(request := self.rng.choice(self.requests[-3:]))
            self.world.agree(request, survivors, self.mostly(survivors))

    def open(self) -> None:
        if self.requests:
            survivors = self.survivors(request := self.rng.choice(self.requests[-3:]))
            rows = None
            if self.rng.random() < 0.1:
                size = 32 + 64 * len(request.sites) + 16
                rows = {survivors[0]: Entropy(str(self.rng.random()))(size)}
            missing, sites = self.some(survivors, 0), self.mostly(survivors)
            self.world.open(request, survivors, sites, missing=missing, rows=rows)

    def survivors(self, request: TrainRequest) -> tuple[str, ...]:
        """Mostly the same for a request, so that agreements meet."""
        if self.rng.random() < 0.8:
            key = self.world.transcript(request).digest.hex()
            wanted = self.mostly(request.sites, self.world.threshold)
            return self.asked.setdefault(key, wanted)
        return self.some(request.sites, 2)

    def replay(self) -> None:
        heard = [item for item in self.world.adversary.heard if item.site in self.world.hospitals]
        item: Heard = self.rng.choice(heard)
        site = self.rng.choice(self.world.honest)
        self.world.say_bytes(site, item.request, item.asked)

    def epoch(self) -> None:
        self.world.new_epoch()

    def restore(self) -> None:
        self.world.restore(self.victim, self.copy)


@pytest.mark.parametrize("seed", range(10))
def test_random_coordinator_has_one_sum_of_enough_sites_for_each_round(
    consortium: World, seed: int
) -> None:
    """n = 4 and 5 with one colluder, within the bound: after any messages, replays and restores, of
    every round at most one sum of at least max(2, t - c) honest sites is in clear."""
    n, t = [(4, 3), (5, 4)][seed % 2]
    world = consortium(n, threshold=t, colluders=(f"s0{n - 1}",))
    coordinator = RandomCoordinator(world, seed)
    for _ in range(STEPS):
        coordinator.step()
    for number in range(1, ROUNDS + 1):
        learned = world.adversary.learned(world.truth, number=number)
        assert len(learned) <= 1
        for combination in learned:
            assert set(combination.values()) == {1}
            assert len(combination) >= max(2, t - 1)
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
