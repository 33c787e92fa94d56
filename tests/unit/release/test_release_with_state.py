"""Releases of runs whose server step has a state: the model alone, and verified all the same."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from release_stand_ins import DAY, Story, key_of, public, small_model, write_run

from auditor.sum import audit_sums
from auditor.sum_folder import SumFolder
from auditor.sum_release import compared
from server.release import make_release
from shared_model import canonical, release_checks, signing
from shared_model import release as contract
from shared_model import weights as weights_io
from shared_model.errors import OurMistake, Refused
from shared_model.release import Manifest
from shared_model.release_files import read_release
from shared_model.release_signed import ReleaseBytes
from shared_model.sum_evidence import opened_rosters
from shared_model.weights import STATE

ADAM = Story(rounds=3, closed=(2,), adam=True)


@pytest.fixture
def folder(coordinator):
    return write_run(coordinator, ADAM)


def released(coordinator, folder, **options):
    values = {"key": key_of("release"), "created": DAY, "origin": "a test", **options}
    return make_release(coordinator, folder, **values)


def resealed(files: ReleaseBytes, bend, weights: bytes | None = None) -> ReleaseBytes:
    """The release as a dishonest coordinator would sign it."""
    content = json.loads(files.manifest)
    bend(content)
    data = canonical.encode(content)
    signature = signing.sign(key_of("release"), contract.TAG, data)
    return ReleaseBytes(data, signature, weights or files.weights, files.evidence)


def test_a_release_holds_the_model_alone_and_names_the_state(coordinator, folder):
    """Round by round both digests; every node verifies them against the hospitals' receipts."""
    made = released(coordinator, folder)
    found = release_checks.verify(read_release(made.path), public("release"))
    record = folder.record()
    assert set(found.weights) == set(small_model()[1])
    assert found.manifest.schema_version == 4
    assert found.manifest.model_digest == weights_io.digest(folder.weights(record))
    assert found.manifest.model_digest != record.model_digest
    steps = found.manifest.lineage.rounds
    assert [step.sum.parts.joined for step in steps if step.sum] == [
        item.model_out for item in record.rounds if item.outcome == "aggregated"
    ]
    assert all(name.startswith(STATE) for name in folder.standing(record) if "/" in name)


def test_a_release_of_fedavg_is_written_as_before(coordinator):
    """Schema 3, no parts: nodes of older packages install it."""
    made = released(coordinator, write_run(coordinator, Story(rounds=1)))
    data = (made.path / "manifest.json").read_bytes()
    assert made.manifest.schema_version == 3
    assert b"parts" not in data
    assert made.manifest.lineage.rounds[0].sum.parts is None


def test_a_further_run_begins_with_the_weights_and_no_state(coordinator, folder):
    """Its lineage joins that of the release, whose last state goes nowhere."""
    released(coordinator, folder)
    start = folder.weights(folder.record())
    second = write_run(coordinator, Story(run="autumn", rounds=2, start=start, seed=9, adam=True))
    made = released(coordinator, second, origin=None)
    assert made.manifest.lineage.runs == ("spring", "autumn")
    found = release_checks.verify(read_release(made.path), public("release"))
    joined = {step.sum.parts.joined for step in found.manifest.lineage.rounds if step.sum}
    first = next(step for step in found.manifest.lineage.rounds if step.run == "autumn")
    assert first.model_in == weights_io.digest(start)
    assert first.model_in not in joined


def test_a_run_that_goes_on_with_the_state_that_another_left_is_a_fault(coordinator, folder):
    """Every round begins where the one before ended, and yet the state changed hands."""
    released(coordinator, folder)
    start = folder.weights(folder.record())
    second = write_run(coordinator, Story(run="autumn", rounds=1, start=start, seed=9, adam=True))
    manifest = released(coordinator, second, origin=None).manifest
    first, _, last, other = manifest.lineage.rounds
    assert release_checks.chain_faults(manifest) == []
    other = other.model_copy(update={"model_in": first.weights_out})
    last = last.model_copy(update={"model_in": other.model_out})
    bent = manifest.model_copy(
        update={
            "lineage": manifest.lineage.model_copy(update={"rounds": (first, other, last)}),
            "model_digest": last.weights_out,
        }
    )
    faults = release_checks.chain_faults(bent)
    assert faults == ["round 3 of run spring stands after another run that began later."]


def test_a_run_that_takes_up_the_state_of_another_has_no_known_origin(coordinator, folder):
    """Moments of a run that nobody sees in this one: it began from nothing that was released."""
    start = folder.standing(folder.record())
    released(coordinator, folder)
    with pytest.raises(OurMistake, match="neither"):
        released(
            coordinator,
            write_run(coordinator, Story(run="autumn", rounds=1, start=start, adam=True)),
            origin=None,
        )


def last_sum(content):
    return content["lineage"]["rounds"][-1]["sum"]


OTHER_PARTS = {
    "another state": lambda c: last_sum(c)["parts"].update(state="0" * 64),
    "other weights": lambda c: last_sum(c)["parts"].update(weights="0" * 64),
    "parts left out": lambda c: last_sum(c).pop("parts"),
    "schema 3": lambda c: c.update(schema_version=3),
    "parts none": lambda c: last_sum(c).update(parts=None),
}


@pytest.mark.parametrize("what", OTHER_PARTS)
def test_a_release_that_names_other_parts_is_refused(coordinator, folder, what):
    """Whoever signs it: the two digests must join to what the receipts name."""
    files = read_release(released(coordinator, folder).path)
    with pytest.raises(Refused):
        release_checks.verify(resealed(files, OTHER_PARTS[what]), public("release"))


def test_weights_that_no_receipt_names_are_refused(coordinator, folder):
    """Another model under the true parts, and the true model with its state as weights."""
    files = read_release(released(coordinator, folder).path)
    record = folder.record()
    other = {name: value + np.float32(1) for name, value in folder.weights(record).items()}
    for found in (other, folder.standing(record)):
        data = weights_io.to_bytes(found)

        def bend(content, data=data, found=found):
            content["weights"] = {"digest": canonical.digest(data), "size_bytes": len(data)}
            content["model_digest"] = weights_io.digest(found)

        with pytest.raises(Refused) as caught:
            release_checks.verify(resealed(files, bend, data), public("release"))
        assert caught.value.reason == "lineage"


def test_a_fedavg_round_with_parts_is_a_fault(coordinator):
    """The step of the signed request says whether there is a state."""
    made = released(coordinator, write_run(coordinator, Story(rounds=1)))
    files = read_release(made.path)
    parts = contract.ModelParts(weights="0" * 64, state="1" * 64)

    def bend(content):
        content["schema_version"] = 4
        content["lineage"]["rounds"][0]["model_out"] = parts.joined
        content["lineage"]["rounds"][0]["sum"]["parts"] = parts.model_dump()

    bent = resealed(files, bend)
    faults = release_checks.lineage_faults(
        Manifest.from_bytes(bent.manifest), contract.Evidence.from_bytes(files.evidence)
    )
    assert faults


# ---------------------------------------------------------------- the auditor


def verdicts(folder):
    documents = [base64.b64decode(text) for text in folder.record().rosters]
    rosters = opened_rosters(documents, public("root"))
    return {item.check: item for item in audit_sums(SumFolder(folder.path), rosters)}


def test_the_auditor_takes_the_step_again_from_the_stored_state(coordinator, folder):
    """To the bit, in words that name the step; the release tells the same rounds."""
    found = verdicts(folder)
    for number in (1, 3):
        line = found[f"round {number}: model"]
        assert line.verdict == "OK", line
        assert "what fedadam makes of the model before, its state and" in line.detail
    made = released(coordinator, folder)
    (told,) = compared(SumFolder(folder.path), made.manifest)
    assert told.verdict == "OK"


def test_the_auditor_finds_a_state_that_the_run_did_not_make(folder):
    """The checkpoint before the round with one moment changed."""
    model = folder.standing(folder.record(), 1)
    name = next(name for name in model if name.startswith(STATE))
    folder.save_weights(1, {**model, name: model[name] + np.float32(1)})
    assert verdicts(folder)["round 3: model"].verdict == "FAILED"


def test_the_auditor_refuses_a_run_that_began_with_a_state(coordinator, folder):
    """Moments of the coordinator's choice would steer the first rounds."""
    start = folder.standing(folder.record())
    begun = write_run(coordinator, Story(run="autumn", rounds=1, start=start, adam=True))
    line = verdicts(begun)["round 1: model"]
    assert line.verdict == "FAILED"
    assert "began with a state" in line.detail
