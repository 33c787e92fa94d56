"""A federated run, exported by every hospital and audited with its release, as in the field."""

from __future__ import annotations

import datetime
import warnings

import numpy as np

from auditor.ledger_audit import audit_ledgers
from client.keys import pinned
from client.ledger_file_export import export
from server.release import make_release
from server.run_config import RunConfig
from shared_model import accounting, signing
from shared_model.release_checks import verify
from shared_model.release_files import read_release
from simulations.federation import found, train

with warnings.catch_warnings():  # Flower and Typer warn about themselves when imported
    warnings.simplefilter("ignore")
    import simulations.in_process_grid  # noqa: F401

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
PATIENTS = {"east": 40, "north": 90, "south": 25}
CONFIG = {
    "run": "audited",
    "preset": "tiny",
    "begin_with": "random-weights",
    "rounds": 2,
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


def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise: cheap windows."""
    signal = rng.standard_normal((count, 2, 1250))
    return signal.astype(np.float32), np.ones((count, 2, 50), dtype=bool)


def test_what_hospitals_export_is_whole_and_tells_what_the_release_tells(tmp_path):
    place = found(
        tmp_path, PATIENTS, windows_per_patient=2, seed=4, repeatable=False, now=NOW, draw=draw
    )
    train(place, RunConfig.from_dict(CONFIG))
    release_key = signing.load_key_file(place.coordinator.root / "keys" / "release.pem")
    run_key = signing.load_key_file(place.coordinator.root / "keys" / "run.pem")
    made = tmp_path / "made"
    make_release(
        place.coordinator,
        place.folder("audited"),
        key=release_key,
        created="2026-01-01",
        origin="random weights of a test",
        output=made,
    )
    files = {
        site: export(place.home(site), site, signing.load_key_file(place.home(site).identity_key))[
            0
        ]
        for site in PATIENTS
    }
    root = pinned(place.home("east")).root
    audit = audit_ledgers(
        files,
        root,
        accountants=(accounting.epsilon_pld, accounting.epsilon_prv),
        run_key=signing.public_bytes(run_key),
        release=verify(read_release(made), signing.public_bytes(release_key)),
    )
    assert [item for item in audit.findings if item.verdict == "FAILED"] == []
    assert audit.verdict == "OK"
    told = {item.check: item.verdict for item in audit.findings}
    for site in PATIENTS:
        for check in ("countersignatures", "coordinator", "seen by others", "release", "limits"):
            assert told[f"{site}: {check}"] == "OK"
    assert all(set(one.reach.lengths.values()) == {6} for one in audit.ledgers)
    assert all(one.reach.unseen == 0 for one in audit.ledgers)
