"""Adapters from the first masked round to what hospital, auditor and researcher do with them.

Masks are on everywhere but where a test says otherwise. Maths and resumption use noise that repeats
itself; what is released, installed, audited, exported and probed was trained with private noise.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "personal"))

import made_up_site
from adapters_parts import (
    PATIENTS,
    PLAIN_STEPS,
    SEED,
    SHARED,
    Federation,
    RunRecord,
    audit_app,
    audit_of_release,
    bundled,
    config,
    consortium,
    coordinator_app,
    moved_by,
    node_app,
    released,
    run,
    summed_rounds,
    sums_audited,
    verdicts,
    without_syncing,
)

from client import node_training, steps
from client.ledger_store import LedgerStore
from server import round_work
from server.dashboard_runs import Around, RunReader
from server.kept import Kept
from shared_model import adapters, mae, signing, simulated_windows, warm_start
from shared_model import weights as weights_io
from shared_model.errors import OurMistake, Refused
from shared_model.release_files import WEIGHTS_NAME, read_release, write_release
from shared_model.server_step import mean_update
from shared_model.simulated_windows import SimulatedWindows
from simulations.cli import app as lab_app
from simulations.federation import train
from simulations.probes.rows import WARM_START

LAYER = "encoders.0.blocks.0.attention.query"
ADAM = {"server_step": "fedadam", "server_learning_rate": 0.01}


fast_disk = pytest.fixture(scope="module", autouse=True)(without_syncing)


def start() -> weights_io.Weights:
    return warm_start.load("tiny")[1]


# ---------------------------------------------------------------- the sum


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Federation, RunRecord]:
    """Two masked rounds of adapters with noise that repeats itself."""
    made = consortium(tmp_path_factory.mktemp("repeated"), repeatable=True)
    return made, train(made, config("adapters"))


def test_a_masked_sum_of_adapters_is_the_plain_sum_and_moves_the_start_by_it(repeated):
    """Each hospital's update is made again from its patients; A times the mean of B is added to the
    layers by a matrix product, and nothing else is another bit than in the warm start."""
    made, record = repeated
    assert (record.state, record.completed) == ("finished", 2), record.pause
    assert {item.survivors for item in record.rounds} == {tuple(sorted(PATIENTS))}
    check_rounds(made, record)


def test_so_is_a_masked_sum_of_adapters_noise_and_all_in_mode_distributed(tmp_path):
    """One plain step of B, whose noise the hospitals share out."""
    made = consortium(tmp_path, repeatable=True)
    shared = config("adapters", rounds=1, privacy=SHARED, training=PLAIN_STEPS)
    check_rounds(made, train(made, shared))


def test_so_is_a_masked_sum_of_norms_in_the_labs_federation(tmp_path):
    """fedprint-lab federate --trainable; the same options continue it, others are refused."""
    words = ("federate", tmp_path / "place", "--patients", 6, "--windows", 1, "--rounds", 1)
    words += ("--steps", 1, "--seed", SEED, "--repeatable-non-private", "--json", "--trainable")
    told = json.loads(run(lab_app, *words, "norms").stdout)
    assert (told["state"], told["aggregation"]) == ("finished", "secure-sum")
    made = Federation(tmp_path / "place", tuple(told["rounds"][0]["contributors"]), SEED)
    record = made.folder("simulation").record()
    assert record.model_digest == told["model_digest"]
    check_rounds(made, record)
    with pytest.raises(OurMistake, match="other settings"):
        run(lab_app, *words, "adapters")


def check_rounds(made: Federation, record: RunRecord) -> None:
    """Every round's sum is the plain sum, and the models follow from the warm start by the sums."""
    assert record.rounds
    standing = start()
    for one in summed_rounds(made, record):
        assert one.request.sum.aggregation == "secure-sum"
        assert weights_io.digest(one.before) == weights_io.digest(standing)
        pairs = {site: one.integers_of(made, site) for site in one.survivors}
        modulus = np.uint64(1) << np.uint64(one.transcript.numbers.modulus_bits)
        plain = sum(vector.astype(np.uint64) for _, vector in pairs.values()) % modulus
        assert np.array_equal(plain, one.total)
        if one.request.privacy.mode == "local":  # in distributed the noise is in the integers
            for name, value in one.decoded.items():
                mean = sum(one.transcript.weight(s) * pairs[s][0][name] for s in pairs)
                mean = mean / one.transcript.divisor(one.survivors)
                assert np.abs(value - mean).max() < 1e-4 * np.abs(mean).max()
        rate = one.request.plan.step.learning_rate
        moves = moved_by(one.part, {name: rate * mean for name, mean in one.decoded.items()})
        for name, value in one.after.items():
            if name in moves:
                wanted = one.before[name] + moves[name]
                unit = np.spacing(np.float32(np.abs(wanted).max()))
                assert np.abs(value - wanted).max() <= unit
                assert np.abs(moves[name]).max() > 0
            else:
                assert value.tobytes() == one.before[name].tobytes()
        standing = one.after
    trained = {name.replace(adapters.ADAPTER, ".weight") for name in record.trainable}
    assert {name for name in standing if (standing[name] != start()[name]).any()} == trained


def test_the_coordinators_dashboard_says_what_is_trained_and_how_far_it_moved(repeated):
    """The move of the merged layers, beside the one that noise alone would make."""
    made, record = repeated
    reader = RunReader(Kept())
    around = Around(running=False, service=False, released=frozenset())
    _, shown = reader.read(made.folder("spring").path, around)
    assert shown.plan.endswith("2 steps a round, trains adapters")
    for one, item in zip(summed_rounds(made, record), shown.rounds, strict=True):
        apart = [one.after[name] - one.before[name] for name in one.after]
        assert item.moved == pytest.approx(np.sqrt(sum(np.square(a).sum() for a in apart)), 1e-4)
        assert 0.5 < item.moved / item.noise < 2.0


# ---------------------------------------------------------------- interrupted


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


def test_a_killed_training_and_a_coordinators_folder_put_back_end_in_the_same_model(
    repeated, tmp_path, monkeypatch
):
    """Killed after a durable step of B in round 2; the coordinator goes on in a copy of its folder,
    the hospital from that step: one booking, the digest of an undisturbed run."""
    undisturbed = repeated[1]
    made = consortium(tmp_path / "killed", repeatable=True)
    keep, kept = steps.OutboxSteps.keep, []

    def strike(self, state):
        keep(self, state)
        kept.append((self.round, state))
        if len(kept) == 2 * len(PATIENTS) + 3:  # the second hospital's first step of round 2
            raise Killed

    monkeypatch.setattr(steps.OutboxSteps, "keep", strike)
    with pytest.raises(Killed):
        train(made, config("adapters"))
    number, state = kept[-1]
    assert (number, state.step) == (2, 1)
    assert set(state.weights) == set(undisturbed.trainable)
    assert all(name.endswith(adapters.ADAPTER) for name in state.weights)
    place = made.coordinator.root
    shutil.copytree(place, tmp_path / "saved")
    shutil.rmtree(place)
    shutil.copytree(tmp_path / "saved", place)
    record = train(made, config("adapters"))
    assert (record.state, record.completed, record.starts) == ("finished", 2, 2)
    assert record.model_digest == undisturbed.model_digest
    assert len(kept) == 2 * 2 * len(PATIENTS)  # no step was taken twice
    for number in (1, 2):
        assert made.folder("spring").closing(number).state == "verified"


# ---------------------------------------------------------------- who disagrees


@dataclass(frozen=True)
class Altered:
    """The federation, with one hospital whose package has something else while it answers."""

    made: Federation
    site: str
    change: object

    def handle(self, site: str, header: bytes, body: bytes) -> tuple[bytes, bytes]:
        if site != self.site:
            return self.made.handle(site, header, body)
        with pytest.MonkeyPatch.context() as patch:
            self.change(patch)
            node_training.trainable_size.cache_clear()
            try:
                return self.made.handle(site, header, body)
            finally:
                node_training.trainable_size.cache_clear()
                adapters.directions.cache_clear()


def rounds_log(made: Federation, site: str) -> str:
    return (made.home(site).root / "logs" / "rounds.log").read_text()


def test_a_hospital_with_adapters_of_another_rank_refuses_before_it_books(tmp_path):
    """The others go on without it; its own log says why."""
    made = consortium(tmp_path, repeatable=True, patients={**PATIENTS, "west": 18})
    other = Altered(made, "west", lambda patch: patch.setattr(adapters, "_RANK_DIVISOR", 4))
    record = train(made, config("adapters", rounds=1), hospitals=other)
    assert record.state == "finished", record.pause
    assert record.rounds[0].survivors == tuple(sorted(PATIENTS))
    assert {one.site: one.reason for one in record.rounds[0].absent} == {"west": "model"}
    assert "another number of parameters" in rounds_log(made, "west")
    assert "alarm" not in rounds_log(made, "west")
    assert bookings(made, "west") == []
    assert bookings(made, "east") == [1]


def bookings(made: Federation, site: str) -> list[int]:
    """Rounds that a hospital's ledger has booked."""
    home = made.home(site)
    key = signing.load_key_file(home.identity_key)
    with LedgerStore.open(home, site, key) as store:
        return [row.round for row in store.chain.bookings]


def test_a_hospital_whose_operator_approved_the_head_refuses_adapters(tmp_path):
    """Under the same name, with everything else the same: another plan waits for another yes, and
    says in words what it trains."""
    made = consortium(tmp_path, repeatable=True)
    policy = made.home("east").policy
    policy.write_text(policy.read_text().split("[approve_runs_in_advance]")[0])
    short = {"rounds": 1, "gather_s": 0.3, "patience_s": 0.3, "rekey_s": 0.1}
    home = made.home("east").root
    assert train(made, config("head", **short)).state == "paused"
    run(node_app, "run", "approve", "spring", "--yes", home=home)
    shutil.rmtree(made.folder("spring").path)
    record = train(made, config("adapters", **short))
    assert (record.state, record.completed) == ("paused", 0)
    assert "run-approval" in rounds_log(made, "east")
    said = run(node_app, "run", "show", "spring", home=home).stdout
    assert "low-rank adapters of its encoders and bottleneck" in said
    assert bookings(made, "east") == []
    run(node_app, "run", "approve", "spring", "--yes", home=home)


def test_a_coordinator_that_carries_adapters_beside_the_layers_is_found_out_by_everybody(
    tmp_path, monkeypatch
):
    """It does not merge B: hospitals name another model in their receipts and refuse the next
    request before they book it; there is no release, and the auditor computes the right model."""
    made = consortium(tmp_path, repeatable=False)

    def carried(request, script, survivors, total, before, names):
        part = adapters.trained_part(before, names)
        mean = mean_update(total, script, survivors, part)
        return request.plan.step.apply(before | part, mean, {})[0]

    short = {"gather_s": 0.2, "patience_s": 0.2, "rekey_s": 0.1, "max_failed_rounds": 1}
    with monkeypatch.context() as patch:
        patch.setattr(round_work, "model_after", carried)
        record = train(made, config("adapters", **short))
    assert (record.state, record.completed) == ("paused", 1)
    assert {one.reason for one in record.rounds[1].absent} == {"model"}
    assert bookings(made, "east") == [1]
    assert made.folder("spring").closing(1).state != "verified"
    with pytest.raises(Refused):
        run(coordinator_app, "release", "spring", home=made.coordinator.root)
    done = sums_audited(made, made.folder("spring").path)
    assert isinstance(done.exception, Refused)
    found = verdicts(done)
    assert found["round 1: added again"] == "OK"
    assert found["round 1: model"] == "FAILED"


# ---------------------------------------------------------------- released


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """A private run of adapters, released and installed at all three hospitals."""
    made = consortium(tmp_path_factory.mktemp("private"), repeatable=False)
    record = train(made, config("adapters", training={"learning_rate": 0.01}))
    assert record.state == "finished", record.pause
    released(made)
    return made


def heart(made: Federation) -> Path:
    return made.root / "spring.fedprint"


def total_factors(made: Federation) -> weights_io.Weights:
    """The sum of B over the rounds of the run, float32, from its published sums."""
    record = made.folder("spring").record()
    decoded = [one.decoded for one in summed_rounds(made, record)]
    return {name: sum(one[name] for one in decoded).astype(np.float32) for name in decoded[0]}


def test_what_is_released_is_the_start_and_the_rounds_adapters(trained):
    """One A, so that the rounds' B add up to one adapter; the release has plain weights, and what
    was not trained is the warm start's to the bit."""
    files = read_release(heart(trained))
    found, begun = weights_io.from_bytes(files.weights), start()
    assert {n: v.shape for n, v in found.items()} == {n: v.shape for n, v in begun.items()}
    names = mae.trainable_names(mae.build(mae.PRESETS["tiny"], 0), "adapters")
    moves = moved_by(adapters.trained_part(begun, names), total_factors(trained))
    for name, value in found.items():
        if name in moves:
            unit = np.spacing(np.float32(np.abs(value).max()))
            assert np.abs(value - (begun[name] + moves[name])).max() <= 2 * unit
            assert (value != begun[name]).mean() > 0.5
        else:
            assert value.tobytes() == begun[name].tobytes()
    manifest = json.loads(files.manifest)
    assert manifest["model_digest"] == weights_io.digest(found)
    assert {one["site"] for one in manifest["privacy"]} == set(PATIENTS)
    assert all(0 < one["epsilon"] < 8 for one in manifest["privacy"])


def test_the_auditor_accepts_release_sums_and_ledgers_and_computes_the_model_again(
    trained, tmp_path
):
    """fedprint-audit release, sum and verify, each with what its user has."""
    checks = audit_of_release(trained, heart(trained))
    assert "FAILED" not in checks.values()
    assert {checks[f"privacy of {site}"] for site in PATIENTS} == {"OK"}
    done = sums_audited(trained, bundled(trained, tmp_path / "bundle"), "--release", heart(trained))
    assert done.exit_code == 0, done.output
    found = verdicts(done)
    for number in (1, 2):
        assert found[f"round {number}: added again"] == found[f"round {number}: model"] == "OK"
    assert found["release"] == found["all sums"] == "OK"
    assert "trains adapters: 24 arrays" in done.stdout
    exported = []
    for site in sorted(PATIENTS):
        path = tmp_path / f"{site}.json"
        run(node_app, "ledger", "export", "-o", path, home=trained.home(site).root)
        exported.append(path)
    pinned = trained.home("east").coordinator
    root = json.loads(pinned.read_text())["root_key"]
    verify = run(
        audit_app, "verify", *exported, "--root-key", root, "--coordinator", pinned, "--release",
        heart(trained), "--json",
    )  # fmt: skip
    assert json.loads(verify.stdout)["verdict"] == "OK"


def place_of(data: bytes, name: str) -> int:
    """Where a tensor's bytes are in a safetensors file."""
    size = int.from_bytes(data[:8], "little")
    begin = json.loads(data[8 : 8 + size])[name]["data_offsets"][0]
    return 8 + size + int(begin)


def flipped(path: Path, name: str) -> None:
    """One bit of the first value of a tensor, its last one."""
    data = bytearray(path.read_bytes())
    data[place_of(bytes(data), name)] ^= 1
    path.write_bytes(bytes(data))


def test_a_flipped_bit_in_an_adapted_layer_is_refused_at_node_and_auditor(trained, tmp_path):
    """Of the released weights; and of a checkpoint in the auditor's bundle."""
    folder = tmp_path / "heart"
    write_release(folder, read_release(heart(trained)))
    audit_of_release(trained, folder)
    flipped(folder / WEIGHTS_NAME, LAYER + ".weight")
    with pytest.raises(Refused) as caught:
        run(node_app, "install", folder, "--yes", home=trained.home("east").root)
    assert caught.value.reason == "digest"
    with pytest.raises(Refused):
        audit_of_release(trained, folder)
    bundle = bundled(trained, tmp_path / "bundle")
    flipped(bundle / "checkpoints" / "round-0001.safetensors", LAYER + ".weight")
    done = sums_audited(trained, bundle)
    assert isinstance(done.exception, Refused)
    failed = {check for check, verdict in verdicts(done).items() if verdict == "FAILED"}
    assert failed == {"round 2: model"}


def test_a_server_step_with_moments_of_adapters_is_released_installed_and_audited(tmp_path):
    """FedAdam. Its moments of B stay with the coordinator: the release is a plain model."""
    made = consortium(tmp_path, repeatable=False)
    record = train(made, config("adapters", **ADAM))
    assert record.state == "finished", record.pause
    path = released(made)
    found = verdicts(sums_audited(made, bundled(made, tmp_path / "bundle"), "--release", path))
    assert found["round 2: model"] == found["release"] == "OK"
    weights, begun = weights_io.from_bytes(read_release(path).weights), start()
    trained = {name.replace(adapters.ADAPTER, ".weight") for name in record.trainable}
    assert {name for name in weights if (weights[name] != begun[name]).any()} == trained


# ---------------------------------------------------------------- used


@pytest.fixture(scope="module")
def hospital(trained: Federation) -> Path:
    """The node's folder of a hospital with 24 patients in its window store."""
    home = trained.home("east")
    made_up_site.add(home, range(24))
    return home.root


def fingerprints(model: mae.MaskedAutoencoder, numbers: range) -> np.ndarray:
    """(patient, 128) of the made-up patients."""
    import torch

    from shared_model.patches import fold

    signal = np.concatenate([made_up_site.prepared(number).signal for number in numbers])
    valid = torch.ones(len(signal), 2, 50, dtype=torch.bool)
    with torch.inference_mode():
        return model.fingerprint(fold(torch.from_numpy(signal)), valid).numpy()


def test_the_installed_release_computes_what_the_model_with_its_adapters_does(trained):
    """The rounds' B beside the warm start's layers, and the merged layers: the same fingerprints,
    which are not the warm start's."""
    import torch

    from client import install

    release = install.load_model(install.current(trained.home("east")))
    begun = mae.build(mae.PRESETS["tiny"], 0)
    mae.load_weights(begun, start())
    carried, factors = adapters.attached(begun), total_factors(trained)
    with torch.no_grad():
        for name, value in carried.named_parameters():
            if name in factors:
                value.copy_(torch.from_numpy(factors[name]))
    wanted = fingerprints(carried, range(8))
    np.testing.assert_allclose(fingerprints(release, range(8)), wanted, atol=1e-5)
    assert np.abs(fingerprints(begun, range(8)) - wanted).max() > 1e-3


def test_a_hospital_makes_a_personal_head_and_watches_drift_with_it(
    trained, hospital, tmp_path, monkeypatch
):
    """personalise, personal apply, drift --baseline and drift, on the installed release."""
    labels = tmp_path / "speed.csv"
    rows = [f"{made_up_site.patient_name(n)},{'fast' if n % 2 else 'slow'}" for n in range(24)]
    labels.write_text("patient,speed\n" + "\n".join(rows) + "\n")
    told = json.loads(run(node_app, "personalise", labels, "--json", home=hospital).stdout)
    digest = json.loads(read_release(heart(trained)).manifest)["model_digest"]
    assert (told["source"], told["model_digest"]) == ("release 1", digest)
    assert told["figures"][0]["value"] > 0.9
    answers = run(node_app, "personal", "apply", "speed", "--json", home=hospital).stdout
    assert len(json.loads(answers)) == 24
    windows = simulated_windows.packaged()
    few = SimulatedWindows(windows.signal[:6], windows.valid[:6])
    monkeypatch.setattr(simulated_windows, "packaged", lambda: few)
    run(node_app, "drift", "--baseline", home=hospital)
    made_up_site.add(trained.home("east"), range(100, 124), "alike")
    found = json.loads(run(node_app, "drift", "--json", home=hospital).stdout)
    assert found["drift"] is False
    assert {row["patients_now"] for row in found["rows"]} == {24}


def test_the_fingerprints_of_recordings_are_the_installed_releases(trained, hospital, tmp_path):
    """fedprint-node fingerprint on two CSV recordings."""
    import pyarrow.parquet as pq

    source = tmp_path / "input"
    source.mkdir()
    seconds = np.arange(31 * 250) / 250.0
    beat = np.exp(-40 * np.square(np.mod(1.1 * seconds, 1.0) - 0.5))
    for index in range(2):
        noisy = beat + 0.01 * np.random.default_rng(index).standard_normal(len(beat))
        lines = ["ecg,ppg", *(f"{one:.5f},{one:.5f}" for one in noisy)]
        (source / f"r{index}.csv").write_text("\n".join(lines) + "\n")
    table = "recording,patient_id,fs_hz\nr0.csv,a,250\nr1.csv,b,250\n"
    (source / "recordings.csv").write_text(table)
    output = tmp_path / "out.parquet"
    done = run(node_app, "fingerprint", source, "-o", output, "--json", home=hospital)
    assert json.loads(done.stdout)["source"] == "release 1"
    metadata = pq.read_schema(output).metadata
    digest = json.loads(read_release(heart(trained)).manifest)["model_digest"]
    assert metadata[b"fedprint.model_digest"].decode() == digest


def test_the_onnx_export_of_the_release_agrees_with_it(trained, tmp_path, monkeypatch):
    """Float32, signature checked, on 32 simulated windows."""
    from simulations import onnx_export

    whole = onnx_export.agreement
    monkeypatch.setattr(
        onnx_export, "agreement", lambda *values, **named: whole(*values, **named, windows=32)
    )
    signer = trained.home("east").coordinator
    words = ("export", heart(trained), "--signer", signer, "--no-int8", "-o", tmp_path, "--json")
    told = json.loads(run(lab_app, *words).stdout)
    assert told["signature"] == "verified"
    cosines = told["files"]["fingerprint.onnx"]["agreement"]
    assert set(cosines) == {"both", "ecg", "ppg", "short"}
    assert min(one["min"] for one in cosines.values()) > 0.999
    assert (tmp_path / "fingerprint.onnx").stat().st_size > 100_000


@pytest.mark.long
def test_the_lab_probes_the_release_beside_its_warm_start(trained, data_root, tmp_path):
    """fedprint-lab probe, on a small real collection."""
    signer = trained.home("east").coordinator
    few = ("--random-seeds", 1, "--draws", 20, "--repeats", 1, "--task", "heart rate (PPG)")
    done = run(
        lab_app, "probe", heart(trained), "--signer", signer, "--data", data_root, *few, "--json"
    )
    told = json.loads(done.stdout)
    assert told["release"]["signature"] == "verified"
    rows = {cell["row"]: cell for cell in told["cells"]}
    assert rows["release"]["estimate"] != rows[WARM_START]["estimate"]
