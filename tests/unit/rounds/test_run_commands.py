"""What the operator's commands say about a run, and how its submissions are forgotten."""

from __future__ import annotations

import json

import pytest
import typer
from round_stand_ins import SITES, begun

from server import cli_run, cli_status, cli_submissions, superlink
from server.checkpoints import (
    ClosingRecord,
    IncidentRecord,
    RoundRecord,
    RunFolder,
    StoredReply,
)
from server.home import CoordinatorHome
from server.run_records import LateRecord, check_lineage
from shared_model import weights as weights_io
from shared_model.errors import OurMistake, Refused


@pytest.fixture
def home(tmp_path) -> CoordinatorHome:
    """A coordinator with the run "spring", of whose two rounds the first was summed."""
    place = CoordinatorHome(tmp_path)
    place.make()
    superlink.write_config(place, superlink.CoordinatorConfig(address="127.0.0.1:8443"))
    folder = begun(tmp_path)
    record = folder.record()
    changed = {**folder.weights(record)}
    changed["head"] = changed["head"] + 1
    folder.save_weights(1, changed)
    done = RoundRecord(
        round=1,
        outcome="aggregated",
        model_in=record.initial_model,
        model_out=weights_io.digest(changed),
        participants=SITES,
        request="",
        request_digest="0" * 64,
        transcript="0" * 64,
        survivors=SITES,
        sum_digest="0" * 64,
        agreements={},
        contributors=(),
        absent=(),
        incidents=(
            IncidentRecord(site="beta", reason="not a legal answer"),
            IncidentRecord(site="alpha", reason="it says so", about="gamma"),
        ),
        opened_at=0.0,
        ended_at=1.0,
    )
    folder.save(record.model_copy(update={"rounds": (done,), "state": "finished"}))
    folder.save_closing(closing())
    for number in (1, 2):
        for site in SITES:
            folder.round(number).store_submission(StoredReply(site, b"header", b"body"))
    return place


def closing(**changes):
    values = {"round": 1, "survivors": SITES, "needed": 3, "statement_digest": "0" * 64}
    return ClosingRecord(**{**values, **changes})


def spring(home):
    return RunFolder(home.run_folder("spring"))


def test_status_says_how_many_sites_may_be_away_and_which_sums_are_not_verified(home, capsys):
    """n = 3 and t = 3: the run pauses when one site is away."""
    cli_status.status(home.root, as_json=True)
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert run["needs"] == "all 3 sites are needed: the run pauses while one is away"
    assert run["unverified"] == ["round 1: unverified: 0 of 3 sites have answered"]
    assert (run["verified"], run["aggregation"]) == (0, "secure-sum")
    assert run["incidents"] == {"beta": 1}
    cli_status.status(home.root)
    told = " ".join(capsys.readouterr().out.split())
    assert "the run pauses while one is away" in told
    assert "start --run spring" in told
    assert "wrong messages about beta" in told
    assert "wrong messages about alpha" not in told
    assert "alpha says that it cannot use the shares of gamma; one of the two is wrong" in told


def test_status_names_submissions_that_came_too_late(home, capsys):
    """They are in no sum, and the hospital's budget has paid for them."""
    folder = RunFolder(home.run_folder("spring"))
    late = LateRecord(site="gamma", round=1, at=2.0, header="")
    folder.save(folder.record().model_copy(update={"late": (late,)}))
    cli_status.status(home.root)
    told = " ".join(capsys.readouterr().out.split())
    assert "round 1: the submission of gamma came too late; it is void" in told
    cli_status.status(home.root, as_json=True)
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert len(run["late"]) == 1


def test_status_counts_verified_sums(home, capsys):
    """With the receipts of t survivors."""
    spring(home).save_closing(closing(state="verified", receipts=dict.fromkeys(SITES, "")))
    cli_status.status(home.root, as_json=True)
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["verified"], run["unverified"]) == (1, [])


def test_submissions_are_forgotten_only_on_the_operators_word(home, monkeypatch, capsys):
    """And never those of a round that has not ended; unverified sums are named first."""
    folder = spring(home)
    monkeypatch.setattr(typer, "confirm", lambda *_: False)
    with pytest.raises(Refused, match="Nothing was removed"):
        cli_submissions.forget("spring", home.root)
    assert "Not verified yet: round 1" in capsys.readouterr().err
    assert folder.round(1).submitted == SITES
    cli_submissions.forget("spring", home.root, yes=True)
    assert folder.round(1).submitted == ()
    assert folder.round(2).submitted == SITES
    with pytest.raises(OurMistake, match="no run autumn"):
        cli_submissions.forget("autumn", home.root)


def test_submissions_of_a_run_that_goes_on_are_not_forgotten(home):
    """Its coordinator holds the folder."""
    with spring(home).locked(), pytest.raises(Refused) as caught:
        cli_submissions.forget("spring", home.root, yes=True)
    assert caught.value.reason == "busy"


def test_masks_cannot_be_switched_off_from_the_command_line(home, tmp_path):
    """Only simulations can; hospitals would refuse such rounds anyway."""
    config = tmp_path / "run.toml"
    config.write_text(
        'run = "autumn"\npreset = "tiny"\nrounds = 1\naggregation = "UnmaskedForSimulation"\n'
        "[privacy]\nsample_rate = 0.1\nnoise_multiplier = 1.0\nclipping_norm = 1.0\nsteps = 2\n"
    )
    with pytest.raises(Refused, match="simulations only"):
        cli_run.start(home=home.root, run="autumn", config=config)
    assert not home.run_folder("autumn").exists()


def test_a_damaged_closing_record_is_noticed(home):
    """It is what the release goes by."""
    path = spring(home).path / "sums" / "0001.closing.json"
    path.write_text('{"round": 1, "state": "verified"}')
    with pytest.raises(OurMistake, match="cannot be read"):
        spring(home).closing(1)
    path.write_text(closing(round=2).model_dump_json())
    with pytest.raises(OurMistake, match="another round"):
        spring(home).closing(1)


def test_a_record_keeps_its_rosters_in_order(home):
    """A version that comes back would be a downgrade."""
    record = spring(home).record()
    with pytest.raises(OurMistake, match="do not increase"):
        check_lineage(record.model_copy(update={"rosters": record.rosters * 2}))
    with pytest.raises(OurMistake, match="no roster of this digest"):
        record.roster_named("0" * 64)
    assert record.roster_named(record.roster.digest) == record.roster
