"""The lab's engine beside Flower's simulation on Ray, and beside its own training loop.

Speed: 100 empty clients, each with the same 10^6 whole numbers on both sides, added mod 2^32 and
turned into the next model by the same server step; masks off on both sides; seconds a round, after
a first round that counts on neither side, turn about, and the ratio of the medians. Ours go the way
of a real run: ClientApp, `client.app.carry`, shared memory. Flower's is its own: its Grid, its
messages with an ndarray each, its Ray backend; the server adds what arrives.

Memory and cost: real hospitals (`tiny`, one step), 10 and 1,000. Overhead: the engine's rounds over
the bare loop of `train_round`, 20 hospitals, in as many processes, turn about. Digests: one
experiment by 1, 2 and 4 workers and by Flower on Ray.

`figures` is what `fedprint-lab bench simulator` prints.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared_model.errors import FedprintError
from shared_model.secure_sum.numbers import Numbers, mean_of, unflatten
from shared_model.secure_sum.primitives import Words, keystream
from shared_model.server_step import FedAvg
from shared_model.weights import Weights
from simulations.bench_simulator_runs import digests, growth, overhead
from simulations.lab.client_app import Job
from simulations.lab.pool import cores, in_process
from simulations.lab.terms import RoundInput

Tell = Callable[[str], None]
PARAMETERS = 1_000_000
CLIENTS = 100
_SEED = bytes(32)
_NAME = "weights"


def figures(quick: bool, tell: Tell) -> Mapping[str, float]:
    """All of it; quick: small sizes, to see that it runs."""
    return {
        **speed(
            100_000 if quick else PARAMETERS, 10 if quick else CLIENTS, 2 if quick else 7, tell
        ),
        **growth(40 if quick else 1000, 1 if quick else 3, tell),
        **overhead(4 if quick else 20, 1 if quick else 5, tell),
        **digests(tell),
    }


# ------------------------------------------------------------------------ speed


def integers_of(base: Words, site: int, size: int) -> Words:
    """What an empty client sends: a stretch of one keystream, another for each site."""
    return base[site : site + size]


@dataclass
class EmptyClients:
    """A workplace whose sites compute nothing."""

    size: int

    def __post_init__(self) -> None:
        self.base = keystream(_SEED, self.size + CLIENTS)

    def begin(self, given: RoundInput) -> None:
        """The weights are here; nobody looks at them."""
        self.weights = given.weights

    def work(self, site: int) -> tuple[Words, dict[str, Any]]:
        """See `Workplace`."""
        return integers_of(self.base, site, self.size), {"site": site}


def empty_clients(setup: bytes) -> EmptyClients:
    """The maker."""
    return EmptyClients(json.loads(setup))


@dataclass
class Side:
    """The model of one side, and what makes the next one of a sum."""

    numbers: Numbers
    clients: int
    weights: Weights

    @classmethod
    def of(cls, parameters: int, clients: int) -> Side:
        """Weights of zero."""
        numbers = Numbers.of(parameters, clients, 1.0)
        return cls(numbers, clients, {_NAME: np.zeros(parameters, dtype=np.float32)})

    def step(self, total: Words) -> None:
        """The sum, the mean, the next model: the same on both sides."""
        masked = total & np.uint32((1 << self.numbers.modulus_bits) - 1)
        mean = mean_of(masked, self.numbers, _SEED, float(self.clients))
        moved, _ = FedAvg().apply(self.weights, unflatten(mean, self.weights), {})
        self.weights = moved


def speed(parameters: int, clients: int, rounds: int, tell: Tell) -> dict[str, float]:
    """Both sides, turn about."""
    ours, theirs = Side.of(parameters, clients), Side.of(parameters, clients)
    job = Job("simulations.bench_simulator:empty_clients", b"%d" % ours.numbers.padded, "speed")
    times: dict[str, list[float]] = {"ours": [], "flower": []}
    with in_process(job, cores()) as engine:

        def our_round(number: int) -> float:
            began = time.monotonic()
            given = RoundInput(number, (), _SEED, ours.weights, {}, {})
            total, told = engine.round(given, range(clients), ours.numbers.padded)
            ours.step(total)
            _complete(len(told), clients)
            return time.monotonic() - began

        def conduct(flower_round: Callable[[Weights], Words]) -> None:
            for number in range(rounds + 1):
                spent = our_round(number)
                began = time.monotonic()
                theirs.step(flower_round(theirs.weights))
                also = time.monotonic() - began
                tell(f"round {number}: ours {spent:.3f} s, Flower on Ray {also:.2f} s")
                if number:
                    times["ours"].append(spent)
                    times["flower"].append(also)

        _flower(clients, parameters, ours.numbers.padded, conduct)
    ours_s, flower_s = (statistics.median(times[name]) for name in ("ours", "flower"))
    same = all((ours.weights[name] == theirs.weights[name]).all() for name in ours.weights)
    return {
        "clients": clients,
        "parameters": parameters,
        "round_ours_s": ours_s,
        "round_flower_ray_s": flower_s,
        "speedup_vs_flower_ray": flower_s / ours_s,
        "same_model_as_flower": float(same),
    }


def _flower(
    clients: int,
    parameters: int,
    padded: int,
    conduct: Callable[[Callable[[Weights], Words]], None],
) -> None:
    """Flower's simulation as its quickstart has it: arrays in messages, Ray, one CPU a client."""
    from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    from simulations.empty_folder import NOTHING_SENT, empty_folder

    client_app, server_app = ClientApp(), ServerApp()

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        site = int(context.node_config["partition-id"])
        base = _base(padded + CLIENTS)
        record = ArrayRecord({"sum": Array(integers_of(base, site, padded))})
        return Message(RecordDict({"arrays": record}), reply_to=message)

    faults: list[BaseException] = []

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        def one_round(weights: Weights) -> Words:
            record = ArrayRecord({_NAME: Array(weights[_NAME])})
            content = RecordDict({"arrays": record})
            messages = [
                Message(content, dst_node_id=node, message_type="train")
                for node in sorted(grid.get_node_ids())
            ]
            total = np.zeros(padded, dtype=np.uint32)
            replies = list(grid.send_and_receive(messages))
            for reply in replies:
                total += reply.content.array_records["arrays"]["sum"].numpy()
            _complete(len(replies), clients)
            return total

        try:
            while len(list(grid.get_node_ids())) < clients:
                time.sleep(0.1)
            conduct(one_round)
        except BaseException as error:
            faults.append(error)

    with empty_folder(NOTHING_SENT):
        run_simulation(
            server_app,
            client_app,
            num_supernodes=clients,
            backend_config={
                "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
                "init_args": {"include_dashboard": False, "log_to_driver": False},
            },
        )
    if faults:
        raise faults[0]


def _complete(found: int, clients: int) -> None:
    if found != clients:
        raise FedprintError(f"{found} of {clients} clients answered.")


_bases: dict[int, Words] = {}


def _base(size: int) -> Words:
    if size not in _bases:
        _bases[size] = keystream(_SEED, size)
    return _bases[size]
