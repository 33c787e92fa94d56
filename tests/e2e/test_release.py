"""From a private run of three hospitals to fingerprints, through the commands that people type."""

from __future__ import annotations

import datetime
import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

with warnings.catch_warnings():  # Flower and Typer warn about themselves when imported
    warnings.simplefilter("ignore")
    from typer.testing import CliRunner

    import simulations.in_process_grid  # noqa: F401

from auditor.cli import app as audit_app
from client.cli import app as node_app
from server.cli import app as coordinator_app
from server.run_config import RunConfig
from shared_model.errors import DataFault, OurMistake, Refused
from shared_model.release_files import read_release
from simulations.federation import Federation, found, train

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
PATIENTS = {"east": 40, "north": 90, "south": 25}
SECRET = "Jane-Doe-19700131"


def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Sine waves of random rate: cheap windows."""
    rate = rng.uniform(0.8, 2.0, (count, 1, 1))
    signal = np.sin(2 * np.pi * rate * np.arange(1250) / 125.0).repeat(2, axis=1)
    return signal.astype(np.float32), np.ones((count, 2, 50), dtype=bool)


def config(run: str, **changes) -> RunConfig:
    return RunConfig.from_dict(
        {
            "run": run,
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
            **changes,
        }
    )


def federation(
    root: Path, *, repeatable: bool, unmasked: bool = False, patients: dict[str, int] = PATIENTS
) -> Federation:
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """A finished private run, released and installed at all three hospitals."""
    made = federation(tmp_path_factory.mktemp("private"), repeatable=False)
    train(made, config("spring"))
    release = made.root / "heart.fedprint"
    done = run(
        coordinator_app,
        *("release", "spring", "-o", str(release), "--json"),
        home=made.coordinator.root,
    )
    assert json.loads(done.stdout)["rounds"] == 2
    for site in made.sites:
        run(node_app, "install", str(release), "--yes", home=made.home(site).root)
    return made


def run(app, *arguments: str, home: Path | None = None):
    place = [] if home is None else ["--home", str(home)]
    done = CliRunner().invoke(app, [*arguments, *place], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def audit(federation: Federation, release: Path) -> dict:
    signer = federation.home(federation.sites[0]).coordinator
    done = run(audit_app, "release", str(release), "--signer", str(signer), "--json")
    return json.loads(done.stdout)


def test_the_release_of_a_private_run_passes_the_audit(trained):
    told = audit(trained, trained.root / "heart.fedprint")
    assert told["verdict"] == "OK"
    checks = {item["check"]: item["verdict"] for item in told["findings"]}
    for site in trained.sites:
        assert checks[f"privacy of {site}"] == "OK"
        assert checks[f"lifetime of {site}"] == "OK"
    assert checks["signed replies"] == "OK"


def test_every_hospital_shows_the_same_release_and_its_price(trained):
    digests = set()
    for site in trained.sites:
        told = json.loads(run(node_app, "release", "--json", home=trained.home(site).root).stdout)
        digests.add(told["digest"])
        assert {one["site"] for one in told["privacy"]} == set(trained.sites)
        assert all(0 < one["epsilon"] < 8 for one in told["privacy"])
    assert len(digests) == 1


def test_a_second_run_is_released_next_and_the_first_is_then_refused(trained, tmp_path):
    copy = Federation(tmp_path / "copy", trained.sites, None)
    shutil.copytree(trained.root, copy.root, symlinks=True)
    train(copy, config("autumn"))
    second = tmp_path / "second"
    run(coordinator_app, "release", "autumn", "-o", str(second), home=copy.coordinator.root)
    node = copy.home("east").root
    run(node_app, "install", str(second), "--yes", home=node)
    with pytest.raises(Refused) as caught:
        run(node_app, "install", str(copy.root / "heart.fedprint"), "--yes", home=node)
    assert caught.value.reason == "downgrade"
    assert audit(copy, second)["verdict"] == "OK"


def test_a_run_with_repeatable_noise_is_never_released(tmp_path):
    made = federation(tmp_path, repeatable=True)
    train(made, config("rehearsal"))
    with pytest.raises(Refused) as caught:
        run(coordinator_app, "release", "rehearsal", home=made.coordinator.root)
    assert caught.value.reason == "not-private"
    assert not made.coordinator.releases.exists()


def test_a_run_without_masks_is_never_released(tmp_path):
    made = federation(tmp_path, repeatable=False, unmasked=True)
    train(made, config("bare", aggregation="UnmaskedForSimulation"))
    with pytest.raises(Refused) as caught:
        run(coordinator_app, "release", "bare", home=made.coordinator.root)
    assert caught.value.reason == "secure-sum"
    assert not made.coordinator.releases.exists()


def audit_sums(federation: Federation, name: str, place: Path) -> dict[str, str]:
    """Verdicts of fedprint-audit sum over a bundle, with roster and root key of a hospital."""
    run(coordinator_app, "audit-bundle", name, "-o", str(place), home=federation.coordinator.root)
    node = federation.home(federation.sites[0])
    pinned = json.loads(node.coordinator.read_text())
    done = run(
        audit_app,
        *("sum", str(place), "--roster", str(node.roster), "--root-key", pinned["root_key"]),
        *("--coordinator", str(node.coordinator), "--json"),
    )
    return {item["check"]: item["verdict"] for item in json.loads(done.stdout)["findings"]}


def test_the_sums_of_a_run_are_added_again_to_the_bit(trained, tmp_path):
    found = audit_sums(trained, "spring", tmp_path / "bundle")
    assert {verdict for check, verdict in found.items() if check.startswith("round")} == {"OK"}
    assert found["round 2: added again"] == found["round 2: model"] == "OK"


def test_a_hospital_that_drops_out_is_not_in_the_sum_and_the_release_says_so(tmp_path):
    """Four hospitals, threshold 3; one gives its keys and then cannot read its recordings."""
    # of 300 patients a sample of none, for which nothing is read, has probability 0.95^300 = 2e-7
    made = federation(tmp_path / "four", repeatable=False, patients={**PATIENTS, "west": 300})
    (made.home("west").root / "pretend" / "signal.npy").unlink()
    plan = {"sample_rate": 0.05, "noise_multiplier": 2.0, "clipping_norm": 1.0, "steps": 2}
    record = train(made, config("spring", privacy=plan))
    assert (record.completed, record.state) == (2, "finished")
    release = tmp_path / "heart.fedprint"
    run(coordinator_app, "release", "spring", "-o", str(release), home=made.coordinator.root)
    steps = json.loads(read_release(release).manifest)["lineage"]["rounds"]
    assert [step["sum"]["survivors"] for step in steps] == [sorted(PATIENTS)] * 2
    assert [step["sum"]["dropped"] for step in steps] == [["west"]] * 2
    assert audit(made, release)["verdict"] == "OK"
    found = audit_sums(made, "spring", tmp_path / "bundle")
    assert found["round 1: added again"] == found["round 2: model"] == "OK"
    run(node_app, "install", str(release), "--yes", home=made.home("west").root)


def test_a_sum_whose_answers_are_lost_is_not_released_until_it_is_asked_about_again(tmp_path):
    made = federation(tmp_path, repeatable=False)
    train(made, config("spring"))
    folder = made.folder("spring")
    kept = folder.closing(2)
    folder.save_closing(
        kept.model_copy(update={"state": "unverified", "answers": {}, "receipts": {}})
    )
    with pytest.raises(Refused) as caught:
        run(coordinator_app, "release", "spring", home=made.coordinator.root)
    assert caught.value.reason == "unverified"
    assert "UNVERIFIED" in caught.value.message
    train(made, config("spring"))
    assert folder.closing(2).state == "verified"
    run(coordinator_app, "release", "spring", home=made.coordinator.root)


def test_a_release_changed_on_the_way_is_refused_at_the_node(trained, tmp_path):
    data = bytearray((trained.root / "heart.fedprint").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "heart.fedprint").write_bytes(bytes(data))
    with pytest.raises(Refused):
        run(
            node_app,
            *("install", str(tmp_path / "heart.fedprint"), "--yes"),
            home=trained.home("east").root,
        )


# ---------------------------------------------------------------- fingerprints


def beats(seconds: float, fs_hz: float, rate_hz: float, seed: int) -> np.ndarray:
    """A plain pulse train with noise, in mV."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * fs_hz)) / fs_hz
    phase = (time * rate_hz) % 1.0
    spike = np.exp(-0.5 * ((phase - 0.3) / 0.02) ** 2) + 0.2 * np.exp(
        -0.5 * ((phase - 0.6) / 0.06) ** 2
    )
    return spike + 0.01 * rng.standard_normal(len(time))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two CSV recordings of a patient whose name stands everywhere, and a broken file."""
    place = tmp_path / "input"
    place.mkdir()
    rows = ["recording,patient_id,fs_hz"]
    for index in range(2):
        name = f"{SECRET}-{index}.csv"
        ecg, ppg = beats(31, 250.0, 1.1, index), beats(31, 250.0, 1.1, 9 + index)
        lines = ["ecg,ppg", *(f"{a:.5f},{b:.5f}" for a, b in zip(ecg, ppg, strict=True))]
        (place / name).write_text("\n".join(lines) + "\n")
        rows.append(f"{name},{SECRET},250")
    (place / "recordings.csv").write_text("\n".join(rows) + "\n")
    return place


def fingerprint(trained: Federation, source: Path, output: Path, *options: str) -> dict:
    done = run(
        node_app,
        *("fingerprint", str(source), "-o", str(output), "--json", *options),
        home=trained.home("east").root,
    )
    return json.loads(done.stdout)


def test_recordings_become_fingerprints_of_the_installed_release(trained, folder, tmp_path):
    import pyarrow.parquet as pq

    told = fingerprint(trained, folder, tmp_path / "out.parquet")
    assert (told["patients"], told["recordings"], told["source"]) == (1, 2, "release 1")
    table = pq.read_table(tmp_path / "out.parquet")
    values = np.array(table["fingerprint"].to_pylist())
    assert values.shape == (told["fingerprints"], 128)
    assert told["fingerprints"] >= 4
    assert np.allclose(np.linalg.norm(values, axis=1), 1.0, atol=1e-5)
    manifest = json.loads(read_release(trained.root / "heart.fedprint").manifest)
    metadata = pq.read_schema(tmp_path / "out.parquet").metadata
    assert metadata[b"fedprint.model_digest"].decode() == manifest["model_digest"]
    assert metadata[b"fedprint.release_number"] == b"1"


def test_no_identifier_reaches_the_fingerprints(trained, folder, tmp_path):
    import pyarrow.parquet as pq

    fingerprint(trained, folder, tmp_path / "out.parquet", "--with-refused")
    data = (tmp_path / "out.parquet").read_bytes()
    shown = repr(pq.read_table(tmp_path / "out.parquet").to_pydict())
    for word in (SECRET, "Jane", "Doe", "19700131", ".csv", str(folder)):
        assert word.encode() not in data
        assert word not in shown


def test_the_same_input_gives_the_same_file(trained, folder, tmp_path):
    for name in ("a", "b"):
        fingerprint(trained, folder, tmp_path / f"{name}.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_an_unreadable_file_is_named_the_rest_goes_in_and_the_status_is_4(
    trained, folder, tmp_path
):
    import pyarrow.parquet as pq

    (folder / "broken.edf").write_bytes(b"0       " + b"x" * 100)
    with pytest.raises(DataFault) as caught:
        fingerprint(trained, folder, tmp_path / "out.parquet")
    assert caught.value.exit_code == 4
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows >= 4


def test_without_a_release_it_refuses_and_says_what_to_do(trained, folder, tmp_path):
    with pytest.raises(OurMistake) as caught:
        run(
            node_app,
            *("fingerprint", str(folder), "-o", str(tmp_path / "out.parquet")),
            home=tmp_path / "empty",
        )
    assert "fedprint-node install" in caught.value.do
    assert not (tmp_path / "out.parquet").exists()


def test_another_release_may_be_named_for_once(trained, folder, tmp_path):
    release = trained.root / "heart.fedprint"
    told = fingerprint(trained, folder, tmp_path / "out.parquet", "--release", str(release))
    assert told["source"] == "release 1"


def test_the_warm_start_has_to_be_asked_for_and_says_so(trained, folder, tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    from shared_model import mae, warm_start

    tiny = mae.PRESETS["tiny"]
    weights = mae.weights_of(mae.build(tiny, 1))
    monkeypatch.setattr(warm_start, "load", lambda preset="tiny": (tiny, weights, {}))
    told = fingerprint(trained, folder, tmp_path / "out.parquet", "--warm-start")
    assert "no release" in told["source"]
    metadata = pq.read_schema(tmp_path / "out.parquet").metadata
    assert b"no release" in metadata[b"fedprint.source"]
    assert b"fedprint.release_number" not in metadata


@pytest.mark.parametrize("site", ["clinic_ppg_bp", "identity_ecg_id"])
def test_real_recordings_become_fingerprints(trained, data_root, tmp_path, site):
    import pyarrow.parquet as pq

    told = fingerprint(trained, data_root / site, tmp_path / "out.parquet")
    assert told["fingerprints"] > 0.5 * (told["fingerprints"] + told["refused_windows"])
    table = pq.read_table(tmp_path / "out.parquet", columns=["patient", "modality"]).to_pydict()
    modality = "ppg" if site == "clinic_ppg_bp" else "ecg"
    assert set(table["modality"]) == {modality}
    assert len(set(table["patient"])) <= told["patients"]


def test_help_is_fast_and_loads_no_model():
    """`--help` imports neither torch nor Flower nor Arrow."""
    import subprocess

    code = (
        "import sys\n"
        "from client.cli import app\n"
        "try:\n    app(['fingerprint', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'flwr', 'pyarrow') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "Example" in done.stdout
    assert done.stdout.strip().endswith("[]")
