"""The auditor believes nobody: every claim is recomputed or named as one that cannot be."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from release_stand_ins import Story, invitation, key_of, public
from typer.testing import CliRunner

from auditor.cli import app
from auditor.verify import audit_release, failed
from shared_model import accounting, canonical, release, signing
from shared_model.config import PrivacyPlan
from shared_model.errors import Refused
from shared_model.release_files import read_release, write_release


@pytest.fixture
def files(make):
    return read_release(make(Story(rounds=2)).path)


def verdicts(files, **options) -> dict[str, str]:
    return {item.check: item.verdict for item in audit_release(files, public("release"), **options)}


def changed(files, change):
    content = json.loads(files.manifest)
    change(content)
    data = canonical.encode(content)
    return replace(
        files, manifest=data, signature=signing.sign(key_of("release"), release.TAG, data)
    )


def test_a_sound_release_passes_every_check_by_both_accountants(files):
    findings = audit_release(files, public("release"))
    assert not failed(findings)
    told = {item.check: item for item in findings}
    assert told["privacy of alpha"].verdict == "OK"
    assert "PLD" in told["privacy of alpha"].detail
    assert "PRV" in told["privacy of alpha"].detail
    assert told["signed replies"].detail.startswith("all 6 replies")


def test_what_cannot_be_checked_is_said_in_words(files):
    told = {
        item.check: item.detail
        for item in audit_release(files, public("release"))
        if item.verdict == "CANNOT CHECK"
    }
    assert "leaves no trace" in told["collusion"]
    assert "ledger" in told["lifetime"]
    assert signing.key_digest(public("alpha")) in told["hospitals' keys"]
    assert signing.key_digest(public("root")) in told["hospitals' keys"]


def test_a_wrong_signature_ends_the_audit(files):
    findings = audit_release(files, public("mallory"))
    assert [item.verdict for item in findings] == ["FAILED"]


@pytest.mark.parametrize("factor", [0.5, 0.98, 1.02, 2.0])
def test_a_misstated_epsilon_fails_in_both_directions(files, factor):
    def bend(content):
        content["privacy"][1]["epsilon"] *= factor

    assert verdicts(changed(files, bend))["privacy of beta"] == "FAILED"


def test_a_forged_plan_fails_because_the_request_was_signed(files):
    def bend(content):
        for step in content["lineage"]["rounds"]:
            step["plan"]["noise_multiplier"] = 8.0

    assert verdicts(changed(files, bend))["signed replies"] == "FAILED"


def test_a_lifetime_below_the_lineage_fails(make):
    files = read_release(make(Story(rounds=2, lifetime=0.001)).path)
    assert verdicts(files)["lifetime of alpha"] == "FAILED"


def test_accountants_that_disagree_fail(files):
    def low(plans, delta):
        return 0.5

    def high(plans, delta):
        return 0.52

    found = verdicts(files, accountants=(low, high))
    assert found["privacy of alpha"] == "FAILED"
    infinite = verdicts(files, accountants=(lambda *_: math.inf, lambda *_: math.inf))
    assert infinite["privacy of alpha"] == "FAILED"


def test_an_epsilon_beyond_the_second_accountant_is_never_ok(make):
    files = read_release(make(Story(rounds=2, plan=PrivacyPlan(0.5, 0.3, 1.0, 50))).path)
    found = verdicts(files, accountants=(accounting.epsilon_pld, never))
    assert found["privacy of alpha"] == "CANNOT CHECK"


def never(plans, delta):
    raise AssertionError("asked")


def test_the_same_plans_are_counted_once(files):
    asked = []

    def counted(plans, delta):
        asked.append(delta)
        return accounting.epsilon_pld(plans, delta)

    verdicts(files, accountants=(counted, counted))
    assert len(asked) == 2


def test_a_first_model_is_believed_only_if_it_is_known_here(files, monkeypatch):
    assert verdicts(files)["first model"] == "CANNOT CHECK"
    start = json.loads(files.manifest)["lineage"]["warm_start"]["digest"]
    monkeypatch.setattr("shared_model.release_origin.packaged_warm_start", lambda preset: start)
    assert verdicts(files)["first model"] == "FAILED"

    def tell(content):
        content["lineage"]["warm_start"]["origin"] = (
            "packaged warm start, trained on simulated signals only"
        )

    assert verdicts(changed(files, tell))["first model"] == "OK"


def test_requests_of_another_run_key_fail(files):
    assert verdicts(files, run_key=public("run"))["run key"] == "OK"
    assert verdicts(files, run_key=public("mallory"))["run key"] == "FAILED"
    assert verdicts(files)["run key"] == "CANNOT CHECK"


def test_rosters_of_another_root_key_fail(files):
    assert verdicts(files, root_key=public("root"))["root key"] == "OK"
    assert verdicts(files, root_key=public("mallory"))["root key"] == "FAILED"
    assert verdicts(files)["root key"] == "CANNOT CHECK"


def test_too_few_contributors_fail(files):
    def bend(content):
        content["lineage"]["rounds"][0]["contributors"] = content["lineage"]["rounds"][0][
            "contributors"
        ][:1]

    assert verdicts(changed(files, bend))["contributors"] == "FAILED"


def test_swapped_weights_and_evidence_fail_by_name(files):
    assert verdicts(replace(files, weights=files.weights[::-1]))["weights"] == "FAILED"
    assert verdicts(replace(files, evidence=b"{}"))["evidence"] == "FAILED"
    assert verdicts(replace(files, evidence=b"{}"))["signed replies"] == "FAILED"


def test_the_same_code_as_here_is_ok(files, monkeypatch):
    digest = json.loads(files.manifest)["code_digest"]
    monkeypatch.setattr("auditor.verify.code_digest", lambda: digest)
    assert verdicts(files)["code"] == "OK"


def test_other_code_is_named_and_is_no_failure(files):
    def bend(content):
        content["code_digest"] = "0" * 64

    assert verdicts(changed(files, bend))["code"] == "CANNOT CHECK"


@pytest.mark.parametrize(
    ("noise_multiplier", "steps"),
    [(0.7, 20), (1.0, 50), (2.0, 50), (2.0, 400), (6.0, 200), (20.0, 10)],
)
def test_the_two_accountants_agree_to_one_percent(make, noise_multiplier, steps):
    plan = PrivacyPlan(0.1, noise_multiplier, 1.0, steps)
    files = read_release(make(Story(rounds=2, plan=plan)).path)
    assert verdicts(files)["privacy of alpha"] == "OK"


# ---------------------------------------------------------------- command


def test_the_command_needs_only_the_files_and_a_signer(files, tmp_path):
    write_release(tmp_path / "r", files)
    (tmp_path / "coordinator.json").write_bytes(invitation(tmp_path))
    for signer in (public("release").hex(), str(tmp_path / "coordinator.json")):
        done = CliRunner().invoke(
            app,
            ["release", str(tmp_path / "r"), "--signer", signer, "--json"],
            catch_exceptions=False,
        )
        assert done.exit_code == 0
        assert json.loads(done.stdout)["verdict"] == "OK"


def test_the_command_refuses_a_bad_release_after_printing_its_report(files, tmp_path):
    write_release(tmp_path / "r", replace(files, weights=files.weights[::-1]))
    runner = CliRunner()
    arguments = ["release", str(tmp_path / "r"), "--signer", public("release").hex()]
    with pytest.raises(Refused) as caught:
        runner.invoke(app, arguments, catch_exceptions=False)
    assert caught.value.exit_code == 3
    done = runner.invoke(app, [*arguments, "--json"])
    assert json.loads(done.stdout)["verdict"] == "FAILED"
