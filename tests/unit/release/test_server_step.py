"""The server step: the same bits everywhere, signed by the hospitals, asked of every release."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from release_stand_ins import DAY, Story, key_of, public, small_model, write_run

from server.checkpoints import RunFolder
from server.release import make_release
from server.run_records import ClosingRecord, as_base64, from_base64
from shared_model import canonical, protocol, protocol_open, release_checks
from shared_model import weights as weights_io
from shared_model.errors import OurMistake, Refused
from shared_model.protocol_sum import SumReceipt
from shared_model.release import SiteHeader
from shared_model.release_signed import ReleaseBytes, check_evidence, check_signature
from shared_model.server_step import FedAvg, trained_names

STEP = """
import hashlib, sys
import numpy as np
from shared_model import weights
from shared_model.secure_sum.numbers import Numbers
from shared_model.secure_sum.transcript import Transcript
from shared_model.server_step import FedAvg, mean_update
size = 200_000
numbers = Numbers.of(size, 12, 1.0)
script = Transcript(
    "spring", 1, ("alpha", "beta"), "0" * 64, "1" * 64, numbers, "2" * 64, 1, "3" * 64, 2, (8, 4),
    "local")
rng = np.random.default_rng(4)
total = rng.integers(0, 2**numbers.modulus_bits, numbers.padded, dtype=np.uint32)
before = {"w": rng.standard_normal(size).astype(np.float32)}
mean = mean_update(total, script, ("alpha", "beta"), before)
print(hashlib.sha256(mean["w"].tobytes()).hexdigest())
print(weights.digest(FedAvg(0.3).apply(before, mean, {})[0]))
"""


def test_the_step_has_the_same_bits_with_one_and_with_four_blas_threads():
    """A receipt is refused for one bit; whole numbers are exact in whatever order they come."""
    told = []
    for threads in ("1", "4"):
        names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        environment = os.environ | dict.fromkeys(names, threads)
        done = subprocess.run(
            [sys.executable, "-c", STEP], env=environment, capture_output=True, check=True
        )
        told.append(done.stdout.split())
    assert len(told[0]) == 2
    assert told[0] == told[1]


def test_the_largest_sums_are_exact_in_float64():
    """2^31 in every element of a block of 4096, all signs alike: 2^43, and 2^53 is exact."""
    from shared_model.secure_sum.rotation import hadamard

    column = np.full((4096, 1), -(2.0**31))
    column[1] += 1.0
    turned = hadamard(column)
    assert int(turned[0, 0]) == -(2**43) + 1
    assert {int(abs(value)) for value in turned[1:, 0]} == {1}


def test_a_step_that_does_not_fit_the_model_is_our_mistake():
    """A parameter that the model lacks, or another shape."""
    before = {"a": np.zeros(2, np.float32)}
    for mean in ({"b": np.zeros(2)}, {"a": np.zeros(3)}):
        with pytest.raises(OurMistake, match="does not fit"):
            FedAvg().apply(before, mean, {})


def test_what_is_trained_follows_from_the_signed_request_alone():
    """Of a preset of this version; another configuration of its name is refused."""
    from shared_model import mae

    config = mae.PRESETS["tiny"]
    request = protocol.TrainRequest.model_construct(
        preset="tiny", config_digest=config.digest, training=protocol.LocalTraining()
    )
    wanted = mae.trainable_names(mae.build(config, 0), "head")
    assert trained_names(request) == wanted
    with pytest.raises(Refused) as caught:
        trained_names(request.model_copy(update={"config_digest": "0" * 64}))
    assert caught.value.reason == "model"


# ---------------------------------------------------------------- releases


def other_weights() -> dict[str, np.ndarray]:
    return {name: np.full_like(value, 666.0) for name, value in small_model()[1].items()}


def with_last_model(folder: RunFolder, weights: dict[str, np.ndarray]) -> None:
    """The coordinator puts these weights in the place of the last model."""
    record = folder.record()
    last = record.rounds[-1]
    folder.save_weights(last.round, weights)
    changed = last.model_copy(update={"model_out": weights_io.digest(weights)})
    content = record.model_copy(update={"rounds": (*record.rounds[:-1], changed)})
    (folder.path / "run.json").write_bytes(canonical.encode(content.model_dump(mode="json")))


def release_of(coordinator, folder: RunFolder):
    return make_release(coordinator, folder, key=key_of("release"), created=DAY, origin="a test")


def test_a_release_of_weights_that_no_verified_sum_made_is_refused_by_its_own_tool(coordinator):
    """Honest rounds, then other weights: the step is computed again before anything is signed."""
    folder = write_run(coordinator, Story(rounds=2))
    with_last_model(folder, other_weights())
    with pytest.raises(Refused, match="not made of the sum") as caught:
        release_of(coordinator, folder)
    assert caught.value.reason == "lineage"


def test_a_release_of_weights_that_no_verified_sum_made_is_refused_by_every_node(
    coordinator, monkeypatch
):
    """A coordinator that skips its own check cannot make the hospitals' receipts."""
    folder = write_run(coordinator, Story(rounds=2))
    with_last_model(folder, other_weights())
    monkeypatch.setattr("server.release_rounds._check_model", lambda *found: None)
    with pytest.raises(Refused, match="another model"):
        release_of(coordinator, folder)
    with monkeypatch.context() as dishonest:
        dishonest.setattr("shared_model.sum_evidence.received", lambda *found: None)
        made = release_of(coordinator, folder)
    with pytest.raises(Refused, match="another model") as caught:
        release_checks.verify(files_of(made.path), public("release"))
    assert caught.value.reason == "lineage"


def test_a_release_cannot_leave_out_a_round_that_its_weights_have(coordinator):
    """Three rounds were paid; the release would tell two, with the weights of the third."""
    folder = write_run(coordinator, Story(rounds=3))
    record = folder.record()
    final = folder.weights(record)
    shorter = record.model_copy(update={"rounds": record.rounds[:-1]})
    (folder.path / "run.json").write_bytes(canonical.encode(shorter.model_dump(mode="json")))
    with_last_model(folder, final)
    with pytest.raises(Refused) as caught:
        release_of(coordinator, folder)
    assert caught.value.reason == "lineage"


def test_receipts_for_another_model_are_no_receipts(coordinator):
    """One of three signs another model: PeerFault names it, and the sum is not released."""
    folder = write_run(coordinator, Story(rounds=1))
    closing = folder.closing(1)
    folder.save_closing(with_receipt(closing, "beta", "0" * 64))
    with pytest.raises(Refused, match="beta has signed that the sum makes another") as caught:
        release_of(coordinator, folder)
    assert caught.value.reason == "unverified"


def with_receipt(closing: ClosingRecord, site: str, model_out: str) -> ClosingRecord:
    header = from_base64(closing.receipts[site])
    found = protocol_open.open_signed(header, public(site), SumReceipt, site=site)
    changed = protocol.seal(found.model_copy(update={"model_out": model_out}), key_of(site))
    return closing.model_copy(update={"receipts": {**closing.receipts, site: as_base64(changed)}})


def test_a_release_whose_receipts_are_for_another_model_is_a_fault_of_its_lineage(coordinator):
    """What every node and auditor asks of the evidence, model by model."""
    folder = write_run(coordinator, Story(rounds=2))
    files = files_of(release_of(coordinator, folder).path)
    manifest = check_signature(files, public("release"))
    evidence = check_evidence(manifest, files.evidence)
    assert release_checks.evidence_faults(manifest, evidence) == []
    first = evidence.rounds[0]
    found = protocol_open.open_signed(
        first.receipts[0].data, public("alpha"), SumReceipt, site="alpha"
    )
    assert found.model_out == manifest.lineage.rounds[0].model_out
    lied = protocol.seal(found.model_copy(update={"model_out": "0" * 64}), key_of("alpha"))
    receipts = (SiteHeader(site="alpha", header=lied.hex()), *first.receipts[1:])
    changed = evidence.model_copy(
        update={"rounds": (first.model_copy(update={"receipts": receipts}), *evidence.rounds[1:])}
    )
    faults = release_checks.evidence_faults(manifest, changed)
    assert len(faults) == 1
    assert "alpha has signed that the sum makes another model" in faults[0]


def files_of(path) -> ReleaseBytes:
    from shared_model.release_files import read_release

    return read_release(path)


def test_the_learning_rate_of_a_release_is_the_signed_requests(coordinator):
    """run.json may say what it likes: the request's rate made the models."""
    folder = write_run(coordinator, Story(rounds=1))
    content = json.loads((folder.path / "run.json").read_bytes())
    content["config"]["server_learning_rate"] = 2.0
    (folder.path / "run.json").write_bytes(canonical.encode(content))
    assert release_of(coordinator, folder).manifest.lineage.rounds[0].number == 1
