"""Flower's own FedAvg as an app: the coordinator's and the sites' side of the plain comparison.

It travels to Flower's processes as a bundle, as every Flower app does, so it imports Flower and
numpy only. The sites train nothing: they give back the arrays that they got.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """The arrays, read and written again."""
    received = message.content.array_records["arrays"]
    arrays = ArrayRecord({name: Array(item.numpy()) for name, item in received.items()})
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


class Timed(FedAvg):
    """Flower's FedAvg; notes when each round begins."""

    def __init__(self, sites: int) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
        self.began: list[float] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.began.append(time.time())
        return super().configure_train(server_round, arrays, config, grid)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """As many rounds as the configuration says; their times go to its file."""
    config = context.run_config
    with np.load(str(config["arrays"])) as stored:
        arrays = ArrayRecord({name: Array(stored[name]) for name in stored.files})
    strategy = Timed(int(config["sites"]))
    strategy.start(grid, arrays, num_rounds=int(config["rounds"]))
    out = Path(str(config["out"]))
    part = out.with_suffix(".part")
    part.write_text(json.dumps([*strategy.began, time.time()]))
    part.rename(out)
