"""A coordinator that lacks more of a ledger than a reply carries is sent it by hand."""

from __future__ import annotations

import datetime
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner

from client import keys
from client.books import ENTRIES_OF_A_ROUND
from client.cli import app as node_app
from client.ledger_store import LedgerStore
from server.checkpoints import RunRecord
from server.cli import app as coordinator_app
from server.ledgers import LedgerArchive
from server.run_config import RunConfig
from shared_model import signing
from shared_model.ledger import Chain
from shared_model.protocol import MAX_NOTE_ENTRIES
from simulations.federation import Federation, found, train

with warnings.catch_warnings():  # Flower and Typer warn about themselves when imported
    warnings.simplefilter("ignore")
    import simulations.in_process_grid  # noqa: F401

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
PATIENTS = {"east": 40, "north": 90, "south": 25, "west": 30}
"""Four hospitals: t = 3."""
LATE = "south"


def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise: cheap windows."""
    signal = rng.standard_normal((count, 2, 1250))
    return signal.astype(np.float32), np.ones((count, 2, 50), dtype=bool)


def one_round(made: Federation, run: str) -> RunRecord:
    return train(
        made,
        RunConfig.from_dict(
            {
                "run": run,
                "preset": "tiny",
                "begin_with": "random-weights",
                "rounds": 1,
                "privacy": {
                    "sample_rate": 0.05,
                    "noise_multiplier": 2.0,
                    "clipping_norm": 1.0,
                    "steps": 1,
                },
                "training": {"segments": 1},
                "minimum_contributors": 3,
                "poll_s": 0.05,
            }
        ),
    )


def told(app: Any, *arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return " ".join(done.stdout.split())


def chain_grown_by(made: Federation, incidents: int) -> Chain:
    """The late hospital's ledger after so many entries that no reply has carried."""
    home = made.home(LATE)
    key = signing.load_key_file(home.identity_key)
    with LedgerStore.open(home, LATE, key) as store:
        delta = store.chain.delta
        assert delta is not None
        for number in range(incidents):
            store.incident("first", number + 1, "conflict", delta)
        return store.chain


def test_a_node_whose_coordinator_lacks_too_much_exports_and_takes_part_again(
    tmp_path: Path,
) -> None:
    """Refused before anything is booked; after the import the next run has all four."""
    made = found(
        tmp_path, PATIENTS, windows_per_patient=2, seed=4, repeatable=False, now=NOW, draw=draw
    )
    everyone = tuple(sorted(PATIENTS))
    assert one_round(made, "first").rounds[0].survivors == everyone
    grown = chain_grown_by(made, MAX_NOTE_ENTRIES - ENTRIES_OF_A_ROUND)

    second = one_round(made, "second")
    assert second.rounds[0].survivors == tuple(site for site in everyone if site != LATE)
    assert [(a.site, a.reason) for a in second.rounds[0].absent] == [(LATE, "ledger")]
    now = chain_grown_by(made, 0)
    assert len(now.bookings) == len(grown.bookings) == 1

    file = tmp_path / "ledger.json"
    told(node_app, "ledger", "export", "-o", str(file), "--home", str(made.home(LATE).root))
    place = made.coordinator
    said = told(coordinator_app, "ledger", "import", str(file), "--home", str(place.root))
    identity = keys.card(made.home(LATE)).identity
    missing = now.length - grown.length + MAX_NOTE_ENTRIES - ENTRIES_OF_A_ROUND
    assert f"Took in {missing} entries of {LATE}; {now.length} are held now." in said
    known = LedgerArchive(place.ledgers).known(LATE, identity)
    assert known is not None
    assert (known.length, known.head) == (now.length, now.head)

    third = one_round(made, "third")
    assert third.rounds[0].survivors == everyone
    assert LedgerArchive(place.ledgers).chain(LATE, identity) == chain_grown_by(made, 0)
