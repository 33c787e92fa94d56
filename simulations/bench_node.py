"""A node as `fedprint-node start` runs it, whose training process notes how long it trained.

A hospital's node never measures that: run time of training tells of patients. So it is not the
product that is asked here, but this module, around the same functions. Lines of `NOTES` in the
node's folder: {"round", "training_s"}, seconds of a monotonic clock.

Usage: python -I -c "from simulations.bench_node import main; main()" HOME
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from client.home import NodeHome

NOTES = "bench-training.jsonl"


def main() -> None:
    """Until interrupted."""
    from client import node, node_loop

    real = node_loop.Loop._command

    def command(self: node_loop.Loop, name: Any) -> tuple[str, list[str]]:
        entry, arguments = real(self, name)
        return ("simulations.bench_node:work" if name == "training" else entry), arguments

    node_loop.Loop._command = command  # type: ignore[method-assign]
    try:
        node.serve(NodeHome(Path(sys.argv[1])), lambda: None, lambda _: None)
    except KeyboardInterrupt:
        sys.exit(130)


def work(arguments: list[str]) -> None:
    """Entry of the training process: `client.app.work`, its training timed."""
    from client import app, node_training, training

    path = NodeHome.find().root / NOTES
    real_train, real_round = node_training.train, training.train_round
    number = 0

    def train(home: NodeHome, request: Any, *rest: Any) -> Any:
        nonlocal number
        number = request.round
        return real_train(home, request, *rest)

    def train_round(*given: Any, **named: Any) -> Any:
        began_s = time.monotonic()
        done = real_round(*given, **named)
        note = {"round": number, "training_s": time.monotonic() - began_s}
        with path.open("a") as stream:
            stream.write(f"{json.dumps(note)}\n")
        return done

    node_training.train = train  # type: ignore[assignment]
    training.train_round = train_round
    app.work(arguments)
