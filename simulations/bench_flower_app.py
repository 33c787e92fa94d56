"""Flower's own FedAvg as an app: the coordinator's and the sites' side of the plain comparison.

It travels to Flower's processes as a bundle, as every Flower app does. Its sites train by the very
function that ours train by, from the installed package, imported when a message comes: Flower
starts a process for each message. There is no ledger, no policy, no sum, no TLS. How long a site
trained goes to a file, seconds of a monotonic clock.
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


class NoiseWindows:
    """The patients of the comparison: 4 windows of noise each, as our nodes have in their store."""

    def __init__(self, patients: int) -> None:
        self.patient_count = patients
        rng = np.random.default_rng(5)
        self.signal = rng.standard_normal((patients, 4, 2, 1250), dtype=np.float32)

    def segments(
        self, patients: np.ndarray, segments: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `client.training.PatientBatches`."""
        chosen = rng.integers(0, 4, (len(patients), segments))  # (patient, segment)
        signal = self.signal[np.asarray(patients)[:, None], chosen]
        return signal, np.ones((len(patients), segments, 2, 50), dtype=bool)


@client.train()
def train(message: Message, context: Context) -> Message:
    """The arrays, trained by the steps that our plan has."""
    from client.training import train_round
    from shared_model import mae
    from shared_model.config import LocalTraining, PrivacyPlan
    from shared_model.noise import SystemNoise

    config = context.run_config
    patients = int(config["patients"])
    weights = {n: a.numpy() for n, a in message.content.array_records["arrays"].items()}
    model = mae.build(mae.PRESETS[str(config["preset"])], 0)
    mae.load_weights(model, weights)
    plan = PrivacyPlan(**json.loads(str(config["plan"])))
    training = LocalTraining(**json.loads(str(config["training"])))
    data = NoiseWindows(patients)
    began_s = time.monotonic()
    update = train_round(model, data, plan, training, patients, SystemNoise()).update
    note = {
        "round": int(str(message.content.config_records["config"]["server-round"])),
        "training_s": time.monotonic() - began_s,
    }
    with Path(str(config["notes"])).open("a") as stream:
        stream.write(f"{json.dumps(note)}\n")
    trained = {name: Array(value + update.get(name, 0.0)) for name, value in weights.items()}
    metrics = MetricRecord({"num-examples": patients})
    records = RecordDict({"arrays": ArrayRecord(trained), "metrics": metrics})
    return Message(records, reply_to=message)


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
