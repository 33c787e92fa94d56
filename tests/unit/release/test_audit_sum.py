"""The auditor adds the submissions again and believes the root key and nothing else."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest
from release_stand_ins import Story, invitation, key_of, public, write_run
from typer.testing import CliRunner

from auditor.cli import app
from auditor.sum import audit_sums
from auditor.sum_folder import SumFolder
from server.audit_bundle import write_bundle
from server.checkpoints import RunFolder
from server.cli import app as coordinator_app
from shared_model import canonical, protocol, protocol_open, roster
from shared_model import weights as weights_io
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.protocol_sum import SumReceipt
from shared_model.sum_evidence import opened_rosters


@pytest.fixture
def told(coordinator):
    """told(story) -> the run's folder."""

    def write(story: Story | None = None) -> RunFolder:
        return write_run(coordinator, story or Story(rounds=2))

    return write


def verdicts(folder: RunFolder, **options) -> dict[str, str]:
    documents = [base64.b64decode(text) for text in record(folder)["rosters"]]
    rosters = opened_rosters(documents, public("root"))
    found = audit_sums(SumFolder(folder.path), rosters, **options)
    return {item.check: item.verdict for item in found}


def failed(folder: RunFolder) -> list[str]:
    return [check for check, verdict in verdicts(folder).items() if verdict == "FAILED"]


def record(folder: RunFolder) -> dict:
    return json.loads((folder.path / "run.json").read_bytes())


def write_record(folder: RunFolder, content: dict) -> None:
    (folder.path / "run.json").write_bytes(canonical.encode(content))


def sign_receipts_anew(folder: RunFolder, number: int, model_out: str) -> None:
    """All hospitals sign that the sum makes this model."""
    closing = folder.closing(number)
    receipts = {}
    for site, text in closing.receipts.items():
        found = protocol_open.open_signed(
            base64.b64decode(text), public(site), SumReceipt, site=site
        )
        changed = found.model_copy(update={"model_out": model_out})
        receipts[site] = base64.b64encode(protocol.seal(changed, key_of(site))).decode()
    folder.save_closing(closing.model_copy(update={"receipts": receipts}))


def test_sound_sums_are_added_again_and_make_the_models(told):
    found = verdicts(told(Story(rounds=2, contributors={2: ("alpha", "beta")}, closed=())))
    for number in (1, 2):
        for check in ("signatures", "statement", "hospitals' answers", "receipts", "added again"):
            assert found[f"round {number}: {check}"] == "OK"
        assert found[f"round {number}: model"] == "OK"
    assert found["collusion"] == "CANNOT CHECK"


def test_a_closed_round_has_no_sum(told):
    folder = told(Story(rounds=2, closed=(1,)))
    assert verdicts(folder)["round 1: closed"] == "OK"
    shutil.copy(folder.path / "sums" / "0002.sum", folder.path / "sums" / "0001.sum")
    assert failed(folder) == ["round 1: closed"]


def test_a_wrong_published_sum_fails(told):
    assert failed(told(Story(rounds=2, wrong_sum=(2,)))) == ["round 2: published sum"]


def test_a_wrong_sum_with_a_matching_statement_fails_by_the_answers(told):
    folder = told()
    packed = folder.summed(1)
    packed = bytes([packed[0] ^ 1]) + packed[1:]
    (folder.path / "sums" / "0001.sum").write_bytes(packed)
    statement = json.loads(folder.statement(1))
    statement["sum_digest"] = canonical.digest(packed)
    (folder.path / "sums" / "0001.statement").write_bytes(canonical.encode(statement))
    assert failed(folder) == ["round 1: hospitals' answers"]


def test_a_wrong_sum_that_colluders_answered_for_fails_when_it_is_added_again(told):
    """All hospitals sign answers that suit a wrong sum; what they submitted shows it."""
    from shared_model.protocol_sum import CloseReply
    from shared_model.secure_sum.numbers import unpack
    from shared_model.secure_sum.submission import Submission
    from shared_model.secure_sum.transcript import of_request
    from shared_model.secure_sum.verification import challenge, subset_sums

    folder = told()
    run = folder.record()
    request = protocol_open.open_train_request(run.rounds[0].request_bytes, public("run"))
    transcript = of_request(request, run.roster.weights)
    numbers = transcript.numbers
    packed = folder.summed(1)
    packed = bytes([packed[0] ^ 1]) + packed[1:]  # coordinate 0 differs by one
    error = int(unpack(packed, numbers.modulus_bits, numbers.padded)[0]) - int(
        unpack(folder.summed(1), numbers.modulus_bits, numbers.padded)[0]
    )
    (folder.path / "sums" / "0001.sum").write_bytes(packed)
    statement = json.loads(folder.statement(1))
    statement["sum_digest"] = canonical.digest(packed)
    data = canonical.encode(statement)
    (folder.path / "sums" / "0001.statement").write_bytes(data)
    about = {
        "run": "spring",
        "round": 1,
        "transcript": transcript.digest.hex(),
        "statement_digest": canonical.digest(data),
    }
    asked = challenge(transcript.digest, bytes.fromhex(canonical.digest(data)), numbers.padded)
    closing = json.loads((folder.path / "sums" / "0001.closing.json").read_bytes())
    for site in statement["survivors"]:
        body = folder.round(1).submission(site).body
        own = unpack(
            Submission.parse(body, transcript, site).packed, numbers.modulus_bits, numbers.padded
        ).copy()
        if site == "beta":
            own[0] = (int(own[0]) + error) % (1 << numbers.modulus_bits)
        sums = subset_sums(asked, own, numbers.modulus_bits)
        answer = protocol.seal(CloseReply(**about, site=site, sums=sums), key_of(site))
        model_out = run.rounds[0].model_out
        receipt = protocol.seal(SumReceipt(**about, site=site, model_out=model_out), key_of(site))
        closing["answers"][site] = base64.b64encode(answer).decode()
        closing["receipts"][site] = base64.b64encode(receipt).decode()
    (folder.path / "sums" / "0001.closing.json").write_bytes(canonical.encode(closing))
    found = verdicts(folder)
    assert found["round 1: hospitals' answers"] == "OK"
    assert failed(folder) == ["round 1: added again"]


def test_a_changed_submission_fails(told):
    folder = told()
    path = folder.round(1).submissions / "beta.body"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(bytes(data))
    assert failed(folder) == ["round 1: added again"]


@pytest.mark.parametrize("colluding", [False, True])
def test_a_model_that_is_not_made_of_the_sum_fails_and_the_next_round_with_it(told, colluding):
    """By the receipts; if the hospitals have signed the false one, by computing it again."""
    folder = told()
    content = record(folder)
    model = weights_io.from_bytes(folder.checkpoint(1).read_bytes())
    model["head"] = model["head"] + model["head"].dtype.type(1e-3)
    folder.checkpoint(1).write_bytes(weights_io.to_bytes(model))
    content["rounds"][0]["model_out"] = weights_io.digest(model)
    write_record(folder, content)
    if colluding:
        sign_receipts_anew(folder, 1, weights_io.digest(model))
    check = "model" if colluding else "receipts"
    assert failed(folder) == [f"round 1: {check}", "round 2: lineage"]


def test_missing_answers_and_receipts_are_unverified_and_never_ok(told):
    folder = told(Story(rounds=2, silent={1: ("beta",)}, receipts={2: 1}))
    found = verdicts(folder)
    assert found["round 1: hospitals' answers"] == "CANNOT CHECK"
    assert found["round 2: receipts"] == "CANNOT CHECK"
    assert found["round 1: added again"] == "OK"
    assert failed(folder) == []


def test_forgotten_submissions_are_said_to_be_forgotten(told):
    folder = told()
    assert folder.forget_submissions(folder.record()) == 6
    found = verdicts(folder)
    assert found["round 1: added again"] == "CANNOT CHECK"
    assert found["round 1: model"] == "OK"


def test_a_run_without_masks_fails(told):
    assert failed(told(Story(rounds=1, unmasked=True))) == ["round 1: signatures"]


def test_an_agreement_less_than_the_threshold_fails(told):
    folder = told(Story(rounds=1, threshold=3))
    content = record(folder)
    del content["rounds"][0]["agreements"]["beta"]
    write_record(folder, content)
    assert failed(folder) == ["round 1: statement"]


def test_a_roster_that_the_auditor_was_not_given_fails(told):
    folder = told()
    run = folder.record()
    other = roster.Roster.model_validate_json(
        canonical.encode({**run.roster.content(), "version": 2})
    )
    found = audit_sums(SumFolder(folder.path), {other.digest: other})
    assert [item.check for item in found if item.verdict == "FAILED"] == [
        "round 1: signatures",
        "round 2: signatures",
    ]


def test_requests_of_another_run_key_fail(told):
    folder = told()
    assert verdicts(folder, run_key=public("run"))["run key"] == "OK"
    assert verdicts(folder, run_key=public("mallory")) == {"run key": "FAILED"}
    assert verdicts(folder)["run key"] == "CANNOT CHECK"


def test_a_link_in_the_folder_is_refused(told, tmp_path):
    folder = told()
    statement = folder.path / "sums" / "0001.statement"
    statement.rename(tmp_path / "elsewhere")
    statement.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused) as caught:
        verdicts(folder)
    assert caught.value.reason == "files"


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, b'{"run":"../../x"}'])
def test_what_is_no_run_record_is_refused(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(Refused) as caught:
        audit_sums(SumFolder(tmp_path), {})
    assert caught.value.reason == "files"


# ---------------------------------------------------------------- bundle and commands


def test_a_bundle_holds_what_the_audit_needs_and_no_open_round(told, tmp_path):
    folder = told()
    folder.round(3).begin(b"request of an open round")
    write_bundle(folder, tmp_path / "bundle")
    names = {path.name for path in (tmp_path / "bundle").iterdir()}
    assert names == {"run.json", "checkpoints", "sums", "submissions", "rosters"}
    found = verdicts(RunFolder(tmp_path / "bundle"))
    assert found == verdicts(folder)
    with pytest.raises(OurMistake, match="exists already"):
        write_bundle(folder, tmp_path / "bundle")


def test_a_bundle_without_submissions_says_so_at_the_audit(told, tmp_path):
    write_bundle(told(), tmp_path / "bundle", submissions=False)
    found = verdicts(RunFolder(tmp_path / "bundle"))
    assert found["round 1: added again"] == "CANNOT CHECK"


def test_the_commands_lead_from_the_run_to_the_auditors_verdict(told, coordinator, tmp_path):
    folder = told()
    bundle = tmp_path / "bundle"
    done = CliRunner().invoke(
        coordinator_app,
        ["audit-bundle", "spring", "-o", str(bundle), "--home", str(coordinator.root)],
        catch_exceptions=False,
    )
    assert done.exit_code == 0
    (tmp_path / "coordinator.json").write_bytes(invitation(tmp_path))
    arguments = [
        *("sum", str(bundle), "--roster", str(bundle / "rosters" / "1.json")),
        *("--coordinator", str(tmp_path / "coordinator.json"), "--json"),
    ]
    runner = CliRunner()
    right = [*arguments, "--root-key", public("root").hex()]
    done = runner.invoke(app, right, catch_exceptions=False)
    assert json.loads(done.stdout)["verdict"] == "OK"
    wrong = ["--root-key", public("mallory").hex()]
    with pytest.raises(Refused, match="another root key"):
        runner.invoke(app, [*arguments, *wrong], catch_exceptions=False)
    with pytest.raises(PeerFault, match="root key"):
        runner.invoke(app, [*arguments[:4], *wrong], catch_exceptions=False)
    (bundle / "sums" / "0001.sum").write_bytes(folder.summed(2))
    with pytest.raises(Refused) as caught:
        runner.invoke(app, right, catch_exceptions=False)
    assert caught.value.exit_code == 3


def test_the_root_key_may_be_a_file(told, tmp_path):
    from shared_model import enrolment

    folder = told(Story(rounds=1))
    card = enrolment.RootCard(root_key=public("root").hex())
    (tmp_path / "root.json").write_bytes(enrolment.seal(card, key_of("root")))
    document: Path = tmp_path / "roster.json"
    document.write_bytes(folder.record().signed_rosters[0].to_bytes())
    arguments = ["sum", str(folder.path), "--roster", str(document), "--root-key"]
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "root.json")])
    assert done.exit_code == 0, done.output
    with pytest.raises(OurMistake, match="neither"):
        CliRunner().invoke(app, [*arguments, "nonsense"], catch_exceptions=False)
