"""The Flower engine: the same ClientApp under Flower's simulation runtime, on Ray.

    over_flower(job, experiment.engine, sites, conduct)      # calls conduct(engine)

One machine, or a running Ray cluster (`address`), with fractions of CPUs and GPUs for each client.
Messages carry weights down and sums up. A message asks for one site or for a few: with many sites,
the weights would travel once for each of them. The machines of a cluster must see the run's folder
at the same path.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shared_model.errors import FedprintError, OurMistake
from shared_model.secure_sum.primitives import Words
from simulations.lab.client_app import Job, client_app
from simulations.lab.experiment_tables import Engine as EngineConfig
from simulations.lab.pool import Engine, OnSite, Told, opened
from simulations.lab.terms import RoundInput

MOST_MESSAGES = 64
"""In a round; with more sites a message asks for several."""
_LOOK_S = 0.02
_TTL_S = 7 * 86_400.0


def over_flower(
    job: Job,
    config: EngineConfig,
    sites: int,
    conduct: Callable[[Engine], None],
    *,
    messages: int = MOST_MESSAGES,
) -> None:
    """Run `conduct` as a ServerApp in Flower's simulation engine.

    Args:
        sites: of the federation. messages: virtual nodes at most; as many as sites: one each.

    Raises:
        FedprintError: what `conduct` raised, or Flower's runtime ended by itself.
    """
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    from simulations.empty_folder import NOTHING_SENT, empty_folder

    nodes = min(sites, messages)
    ended = threading.Event()
    faults: list[BaseException] = []
    done: list[bool] = []
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            conduct(_Flower(grid, nodes, ended))
            done.append(True)
        except BaseException as error:
            faults.append(error)  # Flower would turn it into another one

    with empty_folder(NOTHING_SENT):
        try:
            run_simulation(
                server_app,
                client_app(job),
                num_supernodes=nodes,
                backend_config={
                    "client_resources": {
                        "num_cpus": config.cpus_per_client,
                        "num_gpus": config.gpus_per_client,
                    },
                    "init_args": _init_args(config),
                },
            )
        except FedprintError:
            raise
        except Exception as error:
            if not faults:
                raise FedprintError(
                    f"Flower's simulation engine ended: {error}",
                    do="Its own messages are on standard error. Go on with --resume.",
                ) from error
        finally:
            ended.set()  # whoever waits for an answer stops waiting
    if faults:
        raise faults[0]
    if not done:
        raise FedprintError(
            "Flower's simulation engine ended before the run did.", do="Go on with --resume."
        )


def _init_args(config: EngineConfig) -> dict[str, Any]:
    given: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False}
    if config.address is not None:
        return given | {"address": config.address}
    return given | ({"num_cpus": config.workers} if config.workers else {})


class _Flower:
    """Asks nodes, and adds up."""

    def __init__(self, grid: Any, nodes: int, ended: threading.Event) -> None:
        self._grid, self._nodes, self._ended = grid, nodes, ended

    @property
    def workers(self) -> int:
        """As many as Flower has room for; not known here."""
        return 0

    def round(
        self, given: RoundInput, sites: Sequence[int], size: int, on_site: OnSite = lambda _: None
    ) -> tuple[Words, Told]:
        """See `Engine`."""
        from flwr.app import Message

        from client.app import pack, unpack

        if not sites or len(set(sites)) != len(sites):
            raise OurMistake("A round has sites, each once.")
        body = given.to_bytes()
        groups = [list(sites[start :: self._nodes]) for start in range(self._nodes)]
        waiting: set[str] = set()
        for node, group in zip(self._places(), groups, strict=True):
            if group:
                header = json.dumps({"round": given.number, "sites": group}).encode()
                message = Message(
                    pack(header, body), dst_node_id=node, message_type="train", ttl=_TTL_S
                )
                sent = set(self._grid.push_messages([message]))
                if not sent:
                    raise FedprintError("Flower's simulation engine took a message for invalid.")
                waiting |= sent
        total, told = np.zeros(size, dtype=np.uint32), Told()
        while waiting:
            for reply in self._grid.pull_messages(list(waiting)):
                waiting.discard(reply.metadata.reply_to_message_id)
                if reply.has_error():
                    raise FedprintError(
                        f"A client of Flower's simulation failed ({reply.error.reason}).",
                        do="Its own messages are on standard error. Go on with --resume.",
                    )
                header, part = unpack(reply.content)
                told += opened(header)
                total += np.frombuffer(part, dtype=np.uint32)
                on_site(len(told))
            if waiting and self._ended.wait(_LOOK_S):
                raise FedprintError(
                    "Flower's simulation engine ended in mid-round.", do="Go on with --resume."
                )
        return total, sorted(told, key=lambda one: int(one["site"]))

    def _places(self) -> list[int]:
        """Node ids, once all are there."""
        while len(found := sorted(self._grid.get_node_ids())) < self._nodes:
            if self._ended.wait(_LOOK_S):
                raise FedprintError("Flower's simulation engine has no nodes.")
        return found
