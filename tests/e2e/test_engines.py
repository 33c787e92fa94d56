"""One run, every engine, the same model to the last bit."""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path
from typing import Literal

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from deployed_parts import fill_store

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Flower, Ray and Typer about themselves
    import simulations.in_process_grid
    import simulations.ray_engine  # noqa: F401
    from simulations import cli_federation

from server import coordinate
from server.checkpoints import RunFolder, RunRecord
from server.home import CoordinatorHome
from server.run_config import RunConfig
from shared_model import mae, signing
from simulations import pretend_hospitals
from simulations.pretend_hospitals import PretendHospitals

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # Ray leaves sockets and files to the collector
]

Engine = Literal["in-process", "flower"]
SITES = {"alpha": 12, "beta": 20, "gamma": 16}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A consortium whose run has begun; each test trains a copy.

    A copy, because patients are sorted by pseudonym and each new node's pseudonyms are its own.
    """
    root = tmp_path_factory.mktemp("begun")
    home = pretend_hospitals.found(root, SITES, epsilon=50.0, minimum_contributors=3)
    for site, patients in SITES.items():
        fill_store(root / site, patients, seed=len(site))
    config = RunConfig.from_dict(
        {
            "run": cli_federation.RUN,
            "preset": "tiny",
            "rounds": 2,
            "privacy": {
                "sample_rate": 0.25,
                "noise_multiplier": 1.0,
                "clipping_norm": 1.0,
                "steps": 2,
            },
            "training": {"segments": 1},
            "insecure_aggregation": True,
            "minimum_contributors": 3,
            "poll_s": 0.05,
        }
    )
    model = mae.build(mae.PRESETS["tiny"], 1)
    start = coordinate.StartingModel(
        mae.PRESETS["tiny"], mae.weights_of(model), tuple(mae.trainable_names(model, "head"))
    )
    coordinate.begin(
        RunFolder(home.run_folder(config.run)),
        config,
        pretend_hospitals.roster(home),
        signing.load_key_file(home.run_key),
        start,
    )
    return root


def trained(
    begun: Path, root: Path, engine: Engine, workers: int = 0, seed: int | None = 5
) -> RunRecord:
    shutil.copytree(begun, root)
    home = CoordinatorHome(root / "coordinator")
    return cli_federation.train(
        home,
        PretendHospitals(root, seed),
        engine=engine,
        workers=workers,
    )


def test_every_engine_and_number_of_workers_makes_the_same_model(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also: Ray adds the working directory to its workers' path; a client/ there is not run."""
    decoy = tmp_path / "here" / "client"
    decoy.mkdir(parents=True)
    for name in ("__init__.py", "app.py", "round.py"):
        (decoy / name).write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    monkeypatch.chdir(decoy.parent)
    records = {
        "inline": trained(begun, tmp_path / "a", "in-process"),
        "two workers": trained(begun, tmp_path / "b", "in-process", workers=2),
        "Flower on Ray": trained(begun, tmp_path / "c", "flower"),
    }
    assert not (tmp_path / "executed").exists()
    assert {record.state for record in records.values()} == {"finished"}
    assert {len(item.contributors) for r in records.values() for item in r.rounds} == {3}
    digests = {name: record.model_digest for name, record in records.items()}
    assert len(set(digests.values())) == 1, digests
    first = records["inline"]
    assert first.model_digest != first.initial_model
    assert not any(c.private for item in first.rounds for c in item.contributors)


def test_another_seed_makes_another_model(begun: Path, tmp_path: Path) -> None:
    one, other = (trained(begun, tmp_path / str(seed), "in-process", seed=seed) for seed in (1, 2))
    assert one.model_digest != other.model_digest


def test_without_a_seed_the_noise_is_private_and_never_repeats(begun: Path, tmp_path: Path) -> None:
    one, other = (trained(begun, tmp_path / name, "in-process", seed=None) for name in ("a", "b"))
    assert one.model_digest != other.model_digest
    assert all(c.private for item in one.rounds for c in item.contributors)
