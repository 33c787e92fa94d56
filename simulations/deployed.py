"""Deployed processes whose noise repeats: node and coordinator as in the field, but for the noise.

    python -I -m simulations.deployed node HOME SEED
    python -I -m simulations.deployed coordinator HOME RUN_TOML

Supervisor, SuperNode, SuperLink, TLS, outbox, ledger, secure sum are what a hospital runs. The
training process draws its noise from (run, site, round, seed), so that a run that was struck by
faults can be held against one that was not, bit by bit. Its replies say that they are not private;
the coordinator here takes them, the hospital's own commands and a release refuse them. Such a
folder is worth nothing for patients: its ledger says infinity for ever.

The coordinator begins the run, or continues it, and ends with status 0 once it is finished.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from shared_model import terminal
from shared_model.errors import OurMistake

SEED = "FEDPRINT_NON_PRIVATE_FOR_TESTS_SEED"
"""Environment variable of the training process, set by `node` here."""

work_app = ClientApp()
run_app_of_tests = ServerApp()


@work_app.train()
def _train(message: Message, context: Context) -> Message:
    """As `client.app.train`, with noise that repeats."""
    from client import round as rounds
    from client.app import carry
    from client.home import NodeHome
    from client.node_interfaces import PretendNode
    from shared_model.noise import NonPrivateForTests

    seed = int(os.environ[SEED])
    pretend = PretendNode(
        noise=lambda request, site: NonPrivateForTests(request.run, site, request.round, seed),
        unlimited_budget=True,
    )
    return carry(message, partial(rounds.handle, NodeHome.find(), pretend=pretend))


@run_app_of_tests.main()
def _main(grid: Grid, context: Context) -> None:
    """As `server.app.main`, and takes replies that are not private."""
    from server.app import conduct

    conduct(grid, context, non_private_for_tests=True)


def work_non_private_for_tests(arguments: list[str]) -> None:
    """Entry of the training process."""
    from client.app import work

    work(arguments, work_app)


def serve_run_non_private_for_tests(arguments: list[str]) -> None:
    """Entry of the run's process."""
    from server.run_process import serve_run

    serve_run(arguments, run_app_of_tests)


def node(home: str, seed: str) -> None:
    """Run and supervise a node until interrupted.

    Raises:
        OurMistake: the seed is none.
    """
    from client import node as nodes
    from client.home import NodeHome

    if not (seed.isascii() and seed.isdigit()):
        raise OurMistake("The seed is no whole number from 0.", do="Say: node HOME SEED")
    os.environ[SEED] = seed
    nodes.serve(
        NodeHome(Path(home)),
        lambda: print("The node is started.", flush=True),
        lambda words: print(words, flush=True),
        work="simulations.deployed:work_non_private_for_tests",
    )


def coordinator(home: str, config: str) -> None:
    """Begin the run of this run.toml, or continue it, to its end."""
    from server import coordinate, rosters, superlink
    from server.checkpoints import RunFolder
    from server.home import CoordinatorHome
    from server.run_config import RunConfig
    from shared_model import signing

    place, settings = CoordinatorHome(Path(home)), RunConfig.from_toml(Path(config))
    folder = RunFolder(place.run_folder(settings.run))
    if not folder.exists:
        coordinate.begin(
            folder,
            settings,
            place.roster.read_bytes(),
            rosters.root_card(place).root,
            signing.load_key_file(place.run_key),
            coordinate.starting_model(settings),
        )

    def told(event: Mapping[str, Any]) -> None:
        print(dict(event), flush=True)

    superlink.conduct(
        place, settings.run, told, entry="simulations.deployed:serve_run_non_private_for_tests"
    )
    record = folder.record()
    if record.state == "paused":
        raise OurMistake(
            f"The run is paused: {record.pause}",
            do="Begin another run: one that is paused is not continued here.",
        )
    if record.state != "finished":
        raise OurMistake(
            "The run's process has ended, and the run is not finished.",
            do="Start again: the run continues where it was.",
        )


def called(words: list[str]) -> None:
    """Do what was called.

    Raises:
        OurMistake: it is no call; says which there are.
    """
    kinds = {"node": node, "coordinator": coordinator}
    if len(words) != 3 or words[0] not in kinds:
        raise OurMistake(
            "Two things can be called here, with two words each.",
            do="Say: python -I -m simulations.deployed node HOME SEED, or: coordinator HOME "
            "RUN_TOML",
        )
    kinds[words[0]](*words[1:])


def main() -> None:
    """Entry: node HOME SEED, or coordinator HOME RUN_TOML."""
    terminal.run(lambda: called(sys.argv[1:]))


if __name__ == "__main__":
    main()
