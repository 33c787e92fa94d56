"""Mode distributed from end to end: hospitals' own code, coordinator, release, node, auditor."""

from __future__ import annotations

import dataclasses
import datetime
import json
import warnings

import numpy as np
import pytest
from typer.testing import CliRunner

from auditor.cli import app as audit_app
from client.cli import app as node_app
from server.cli import app as coordinator_app
from server.run_config import RunConfig
from shared_model import accounting, canonical, protocol_open, signing
from shared_model.config import PrivacyPlan
from shared_model.distributed import mechanism
from shared_model.errors import OurMistake, Refused
from shared_model.release import Manifest
from shared_model.release_checks import verify
from shared_model.release_files import read_release
from shared_model.release_signed import seal
from simulations.federation import found, train

with warnings.catch_warnings():  # Flower and Typer warn about themselves when imported
    warnings.simplefilter("ignore")
    import simulations.in_process_grid
    import simulations.ray_engine  # noqa: F401

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
PATIENTS = {"east": 40, "north": 90, "south": 25, "west": 30}
"""Four hospitals: t = 3, and one may collude (k = 1)."""
UNMASKED = "UnmaskedForSimulation"


def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Sine waves of random rate: cheap windows."""
    rate = rng.uniform(0.8, 2.0, (count, 1, 1))
    signal = np.sin(2 * np.pi * rate * np.arange(1250) / 125.0).repeat(2, axis=1)
    return signal.astype(np.float32), np.ones((count, 2, 50), dtype=bool)


def config(**changes) -> RunConfig:
    plan = {
        "sample_rate": 0.05,
        "noise_multiplier": 2.0,
        "clipping_norm": 1.0,
        "steps": 1,
        "mode": "distributed",
    }
    return RunConfig.from_dict(
        {
            "run": "shared",
            "preset": "tiny",
            "begin_with": "random-weights",
            "rounds": 2,
            "privacy": plan,
            "training": {"segments": 1, "optimiser": "sgd", "learning_rate": 0.1},
            "minimum_contributors": 3,
            "poll_s": 0.05,
            **changes,
        }
    )


def federation(root, patients=PATIENTS, *, repeatable, unmasked=False):
    return found(
        root,
        patients,
        windows_per_patient=2,
        seed=4,
        repeatable=repeatable,
        unmasked=unmasked,
        now=NOW,
        draw=draw,
    )


def test_masks_and_any_number_of_workers_give_the_same_bits(tmp_path):
    digests = set()
    for workers, aggregation in ((0, "secure-sum"), (2, "secure-sum"), (0, UNMASKED)):
        place = federation(
            tmp_path / f"{workers}-{aggregation}",
            repeatable=True,
            unmasked=aggregation == UNMASKED,
        )
        record = train(place, config(aggregation=aggregation), workers=workers)
        assert record.completed == 2
        assert {one.weight for item in record.rounds for one in item.contributors} == {1}
        digests.add(record.model_digest)
    assert len(digests) == 1


def test_a_private_run_is_booked_stated_released_and_audited_against_k_colluders(tmp_path):
    place = federation(tmp_path, repeatable=False)
    record = train(place, config())
    assert record.completed == 2
    size = protocol_open.open_train_request(
        record.rounds[0].request_bytes, bytes.fromhex(record.run_key)
    ).sum.dimension
    plan = PrivacyPlan(**record.config.privacy.as_dict())
    paid = {
        k: accounting.epsilon_pld(
            [mechanism(plan, dimension=size, threshold=3, colluding=k)] * 2, 1e-5
        )
        for k in (0, 1)
    }
    last = {one.site: one.privacy for one in record.rounds[-1].contributors}
    assert set(last) == set(PATIENTS)
    for told in last.values():
        assert (told.trust_model, told.colluding_sites) == ("distributed", 1)
        assert told.epsilon == pytest.approx(paid[1], rel=1e-6)
        assert told.outsider_epsilon == pytest.approx(paid[0], rel=1e-6)
        assert told.outsider_epsilon < told.epsilon
    _released(place)


def _released(place) -> None:
    """Its release passes the audit and every node, and says both epsilons and k in words."""
    file = place.root / "shared.fedprint"
    run(coordinator_app, "release", "shared", "-o", str(file), home=place.coordinator.root)
    signer = place.home("east").coordinator
    told = json.loads(
        run(audit_app, "release", str(file), "--signer", str(signer), "--json").stdout
    )
    assert told["verdict"] == "OK"
    found = {item["check"]: item for item in told["findings"]}
    for site in PATIENTS:
        assert found[f"privacy of {site}"]["verdict"] == "OK"
        assert found[f"privacy of {site} against outsiders"]["verdict"] == "OK"
        assert "only while the secure sum does" in found[f"privacy of {site}"]["detail"]
        assert "1 hospitals that work with the coordinator" in found[f"privacy of {site}"]["detail"]
    run(node_app, "install", str(file), "--yes", home=place.home("east").root)
    shown = json.loads(run(node_app, "release", "--json", home=place.home("east").root).stdout)
    for one in shown["privacy"]:
        assert one["trust_model"] == "distributed"
        assert 0.0 < one["outsider_epsilon"] < one["epsilon"] <= one["lifetime_epsilon"]

    _tampered(place, file)


def _tampered(place, file) -> None:
    """Signed again by the release key with fewer colluders: refused, the roster says how many."""
    files = read_release(file)
    key = signing.load_key_file(place.coordinator.release_key)
    content = json.loads(files.manifest)
    for item in content["lineage"]["rounds"]:
        assert item["shared_noise"]["threshold"] == 3
        item["shared_noise"]["threshold"] = 4
    manifest = Manifest.from_bytes(canonical.encode(content))
    forged = dataclasses.replace(files, manifest=manifest.to_bytes(), signature=seal(manifest, key))
    with pytest.raises(Refused, match="not the one that the coordinator asked for"):
        verify(forged, signing.public_bytes(key))


def run(app, *arguments: str, home=None):
    place = [] if home is None else ["--home", str(home)]
    done = CliRunner().invoke(app, [*arguments, *place], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def test_private_noise_without_masks_is_refused_by_coordinator_and_nodes(tmp_path):
    """A share of the noise alone would be all that hides an update."""
    place = federation(tmp_path / "a", repeatable=False, unmasked=True)
    with pytest.raises(OurMistake, match="secure sum only"):
        train(place, config(aggregation=UNMASKED))


@pytest.mark.parametrize(
    ("patients", "changes", "words"),
    [
        ({"east": 40, "north": 90}, {"minimum_contributors": 2}, "one colluding hospital"),
        (PATIENTS, {"training": {"segments": 1}}, "plain steps"),
    ],
    ids=["two hospitals", "adam"],
)
def test_a_run_that_cannot_be_is_not_begun(tmp_path, patients, changes, words):
    place = federation(tmp_path, patients, repeatable=True)
    with pytest.raises(OurMistake, match=words):
        train(place, config(**changes))
    assert not place.folder("shared").exists
