"""An audit of sums says INCOMPLETE where it could not verify, and compares a release with a run."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest
from release_stand_ins import DAY, Story, invitation, key_of, public, write_run
from test_audit_sum import record, verdicts, write_record
from typer.testing import CliRunner

from auditor import cli
from auditor.sum_folder import SumFolder
from auditor.sum_release import compared
from server.checkpoints import RunFolder
from server.release import Made, make_release
from shared_model.errors import OurMistake, Refused


def audited(folder: RunFolder, tmp_path: Path, *more: str):
    """Exit status and verdict of the command."""
    document = tmp_path / "roster.json"
    document.write_bytes(base64.b64decode(record(folder)["rosters"][0]))
    arguments = ["sum", str(folder.path), "--roster", str(document), "--root-key"]
    done = CliRunner().invoke(
        cli.app, [*arguments, public("root").hex(), "--json", *more], catch_exceptions=False
    )
    return done.exit_code, json.loads(done.stdout)["verdict"]


def released(coordinator, folder: RunFolder) -> Made:
    return make_release(coordinator, folder, key=key_of("release"), created=DAY, origin="a test")


def test_a_sound_run_is_ok_with_status_0(coordinator, tmp_path):
    """Verified by the hospitals and added again."""
    folder = write_run(coordinator, Story(rounds=2))
    assert audited(folder, tmp_path) == (0, "OK")
    assert verdicts(folder)["all sums"] == "OK"


def test_an_audit_of_which_everything_was_removed_is_incomplete_and_never_ok(coordinator, tmp_path):
    """Submissions, sums and answers are gone: nothing failed, and nothing was verified."""
    folder = write_run(coordinator, Story(rounds=2))
    shutil.rmtree(folder.path / "submissions")
    for kind in ("*.sum", "*.closing.json"):
        for path in (folder.path / "sums").glob(kind):
            path.unlink()
    assert audited(folder, tmp_path) == (cli.INCOMPLETE_EXIT, "INCOMPLETE")
    assert cli.INCOMPLETE_EXIT not in (0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("gone", "verdict"),
    [
        ((), "OK"),
        (("submissions",), "OK"),
        (("sums/0001.closing.json",), "OK"),
        (("checkpoints/round-0000.safetensors",), "OK"),
        (("submissions", "sums/0001.closing.json"), "INCOMPLETE"),
        (("sums/0001.closing.json", "checkpoints/round-0000.safetensors"), "INCOMPLETE"),
        (("sums/0001.sum",), "INCOMPLETE"),
    ],
)
def test_one_way_of_verifying_each_sum_is_enough_and_none_is_incomplete(
    coordinator, tmp_path, gone, verdict
):
    """Answers and receipts, or the submissions added again with the model made of them."""
    folder = write_run(coordinator, Story(rounds=2))
    for name in gone:
        path = folder.path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert audited(folder, tmp_path)[1] == verdict


def test_a_run_without_any_sum_is_incomplete(coordinator, tmp_path):
    """There was nothing to verify."""
    folder = write_run(coordinator, Story(rounds=1, closed=(1,)))
    assert audited(folder, tmp_path) == (cli.INCOMPLETE_EXIT, "INCOMPLETE")


def test_a_failed_check_goes_before_an_incomplete_one(coordinator, tmp_path):
    """Status 3, whatever else is missing."""
    folder = write_run(coordinator, Story(rounds=2))
    (folder.path / "sums" / "0001.sum").unlink()
    content = record(folder)
    content["rounds"][1]["model_in"] = "0" * 64
    write_record(folder, content)
    with pytest.raises(Refused) as caught:
        audited(folder, tmp_path)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("agreements", [1, 2, 3])
def test_a_closed_round_that_t_hospitals_agreed_to_may_have_been_opened(coordinator, agreements):
    """t = 2: the files of its sum are not there, which shows nothing."""
    folder = write_run(coordinator, Story(rounds=2))
    content = record(folder)
    last = content["rounds"][-1]
    kept = dict(list(last["agreements"].items())[:agreements])
    last.update(
        outcome="closed",
        model_out=last["model_in"],
        sum_digest="",
        agreements=kept,
        absent=[
            {"site": one["site"], "ending": "unused", "reason": None, "header": one["header"]}
            for one in last["contributors"]
        ],
        contributors=[],
    )
    write_record(folder, content)
    for path in (folder.path / "sums").glob("0002.*"):
        path.unlink()
    wanted = "OK" if agreements < 2 else "CANNOT CHECK"
    assert verdicts(folder)["round 2: closed"] == wanted


def test_the_learning_rate_of_the_audit_is_the_signed_requests(coordinator, tmp_path):
    """What run.json says of rate and trained parameters is signed by nobody, and not read."""
    folder = write_run(coordinator, Story(rounds=1))
    content = record(folder)
    content["config"]["server_learning_rate"] = 3.0
    content["trainable"] = ["trunk"]
    write_record(folder, content)
    assert verdicts(folder)["round 1: model"] == "OK"


# ---------------------------------------------------------------- release


def test_a_release_is_compared_with_the_folder_of_its_run(coordinator, tmp_path):
    """By the command, with the pinned release key; also when the run went on after it."""
    folder = write_run(coordinator, Story(rounds=2, closed=(1,)))
    made = released(coordinator, folder)
    card = tmp_path / "coordinator.json"
    card.write_bytes(invitation(tmp_path))
    more = ("--coordinator", str(card), "--release", str(made.path))
    assert audited(folder, tmp_path, *more) == (0, "OK")
    with pytest.raises(OurMistake, match="pinned"):
        audited(folder, tmp_path, *more[2:])
    found = compared(SumFolder(folder.path), made.manifest)
    assert [item.verdict for item in found] == ["OK"]


def shorter(made: Made):
    lineage = made.manifest.lineage
    return made.manifest.model_copy(
        update={"lineage": lineage.model_copy(update={"rounds": lineage.rounds[:-1]})}
    )


def test_rounds_after_the_release_are_told_and_no_fault(coordinator):
    """A run that was paused, released and resumed."""
    folder = write_run(coordinator, Story(rounds=3))
    found = compared(SumFolder(folder.path), shorter(released(coordinator, folder)))
    assert [item.verdict for item in found] == ["OK"]
    assert "went on for 1 rounds" in found[0].detail


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("model_out", "0" * 64, "model after"),
        ("model_in", "0" * 64, "model before"),
        ("request", "a request", "request"),
        ("contributors", "fewer", "submissions"),
    ],
)
def test_a_release_that_tells_a_round_otherwise_than_the_folder_fails(
    coordinator, field, value, word
):
    """Each of its figures is compared."""
    folder = write_run(coordinator, Story(rounds=2))
    made = released(coordinator, folder)
    content = record(folder)
    item = content["rounds"][1]
    if field == "request":
        item[field] = base64.b64encode(value.encode()).decode()
    elif field == "contributors":
        item[field] = item[field][:-1]
    else:
        item[field] = value
    write_record(folder, content)
    found = compared(SumFolder(folder.path), made.manifest)
    assert [(one.verdict, one.detail) for one in found] == [("FAILED", f"round 2: other {word}")]


def test_another_statement_or_sum_than_the_releases_fails(coordinator):
    """The files beside the record."""
    folder = write_run(coordinator, Story(rounds=2))
    made = released(coordinator, folder)
    for kind, word in (("sum", "sum"), ("statement", "statement")):
        path = folder.path / "sums" / f"0001.{kind}"
        data = path.read_bytes()
        path.write_bytes(data + b"x")
        found = compared(SumFolder(folder.path), made.manifest)
        assert [one.detail for one in found] == [f"round 1: other {word}"]
        path.write_bytes(data)


def test_a_round_that_only_one_of_the_two_has_fails(coordinator):
    """In the middle of the release, or missing from the folder; or no round of the run at all."""
    folder = write_run(coordinator, Story(rounds=3))
    manifest = released(coordinator, folder).manifest
    steps = manifest.lineage.rounds

    def without(*rounds):
        return manifest.model_copy(
            update={"lineage": manifest.lineage.model_copy(update={"rounds": rounds})}
        )

    found = compared(SumFolder(folder.path), without(steps[0], steps[2]))
    assert [one.detail for one in found] == ["round 2 is in the folder and not in the release"]
    other = steps[0].model_copy(update={"run": "autumn"})
    assert "no round of run spring" in compared(SumFolder(folder.path), without(other))[0].detail
    content = record(folder)
    del content["rounds"][2]
    write_record(folder, content)
    found = compared(SumFolder(folder.path), manifest)
    assert [one.detail for one in found] == ["round 3 is in the release and not in the folder"]


def test_a_submission_to_a_closed_round_is_compared_as_well(coordinator):
    """It was paid for: a release that leaves it out states too low a price."""
    folder = write_run(coordinator, Story(rounds=2, closed=(1,)))
    made = released(coordinator, folder)
    lineage = made.manifest.lineage
    first = lineage.rounds[0].model_copy(
        update={"contributors": lineage.rounds[0].contributors[1:]}
    )
    cheaper = made.manifest.model_copy(
        update={"lineage": lineage.model_copy(update={"rounds": (first, *lineage.rounds[1:])})}
    )
    found = compared(SumFolder(folder.path), cheaper)
    assert [one.detail for one in found] == ["round 1: other submissions"]
