"""The operator's and the hospital's commands: what they refuse before anything is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from books_stand_ins import draft

from client import cli_ledger, cli_node
from client.home import NodeHome
from client.ledger_store import Budget, LedgerStore
from server import cli_root, cli_run, cli_status, coordinate, rosters, sites, superlink
from server.checkpoints import RunFolder
from server.home import CoordinatorHome
from shared_model import enrolment, mae, signing
from shared_model.errors import OurMistake, Refused


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    root = tmp_path / "coordinator"
    cli_root.init(tmp_path / "root")
    cli_run.init(root, "127.0.0.1:8443", root=tmp_path / "root" / "root.json")
    for site in ("alpha", "beta"):
        cli_node.init(site, 100, tmp_path / site)
        cli_run.enrol(tmp_path / site / "site.json", root)
    sign_roster(tmp_path)
    return CoordinatorHome(root)


def sign_roster(folder: Path) -> None:
    """The root's machine, beside the coordinator for once."""
    rosters.sign_here(
        CoordinatorHome(folder / "coordinator"),
        signing.load_key_file(folder / "root" / "root.pem"),
        today=rosters.today_utc(),
    )


@pytest.fixture
def conducted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs that would have been conducted; a random model in place of the warm start."""
    names: list[str] = []

    def conduct(home: CoordinatorHome, run: str, on_event: Any, **_: object) -> None:
        names.append(run)
        on_event({"event": "ended", "state": "finished", "pause": ""})

    def starting(config: object) -> coordinate.StartingModel:
        model = mae.build(mae.PRESETS["tiny"], 0)
        names_of = tuple(mae.trainable_names(model, "head"))
        return coordinate.StartingModel(mae.PRESETS["tiny"], mae.weights_of(model), names_of)

    monkeypatch.setattr(superlink, "conduct", conduct)
    monkeypatch.setattr(coordinate, "starting_model", starting)
    return names


def start(home: CoordinatorHome, **options: Any) -> None:
    cli_run.start(home=home.root, **options)


def test_init_again_changes_nothing(home: CoordinatorHome) -> None:
    before = {p: p.read_bytes() for p in home.root.rglob("*") if p.is_file()}
    cli_run.init(home.root, "127.0.0.1:8443")
    assert before == {p: p.read_bytes() for p in home.root.rglob("*") if p.is_file()}
    with pytest.raises(OurMistake, match="another address"):
        cli_run.init(home.root, "127.0.0.1:9999")


def test_a_start_without_a_signed_roster_is_refused(
    home: CoordinatorHome, conducted: list[str]
) -> None:
    """Enrolled cards alone are no consortium."""
    home.roster.unlink()
    with pytest.raises(OurMistake, match="no roster yet"):
        start(home, minimum=2, rounds=2)
    assert conducted == []


def test_without_a_run_a_start_needs_rounds(home: CoordinatorHome, conducted: list[str]) -> None:
    with pytest.raises(OurMistake, match="number of rounds"):
        start(home)


def test_a_start_begins_a_run_and_the_next_continues_it(
    home: CoordinatorHome, conducted: list[str]
) -> None:
    start(home, minimum=2, rounds=2, steps=3)
    start(home)
    assert conducted == ["run-1", "run-1"]
    record = RunFolder(home.run_folder("run-1")).record()
    assert (record.config.rounds, record.config.privacy.steps) == (2, 3)
    assert record.roster.names == ("alpha", "beta")


def test_the_configuration_of_a_run_that_has_begun_is_fixed(
    home: CoordinatorHome, conducted: list[str]
) -> None:
    start(home, minimum=2, rounds=2)
    with pytest.raises(OurMistake, match="is fixed"):
        start(home, minimum=2, rounds=3)


def test_several_unfinished_runs_need_a_name(home: CoordinatorHome, conducted: list[str]) -> None:
    start(home, minimum=2, rounds=2, run="one")
    start(home, minimum=2, rounds=2, run="two")
    with pytest.raises(OurMistake, match="one, two"):
        start(home)


def test_a_run_that_pauses_ends_with_a_refusal(
    home: CoordinatorHome, conducted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def conduct(home: CoordinatorHome, run: str, on_event: Any, **_: object) -> None:
        on_event({"event": "ended", "state": "paused", "pause": "budget"})

    monkeypatch.setattr(superlink, "conduct", conduct)
    with pytest.raises(Refused, match="paused: budget"):
        start(home, minimum=2, rounds=2)


def test_status_lists_sites_and_runs(
    home: CoordinatorHome, conducted: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    start(home, minimum=2, rounds=2)
    capsys.readouterr()
    cli_status.status(home.root, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["roster"] == 1
    assert [item["site"] for item in shown["sites"]] == ["alpha", "beta"]
    assert (shown["runs"][0]["run"], shown["runs"][0]["of"], shown["running"]) == (
        "run-1",
        2,
        False,
    )


def test_an_invitation_is_pinned_only_after_the_call(
    home: CoordinatorHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import typer

    invitation = tmp_path / "coordinator.json"
    cli_run.invitation(invitation, home.root)
    node = NodeHome(tmp_path / "alpha")
    monkeypatch.setattr(typer, "confirm", lambda *_: False)
    with pytest.raises(Refused, match="not pinned"):
        cli_node.join(invitation, node.root)
    assert not node.coordinator.exists()
    monkeypatch.setattr(typer, "confirm", lambda *_: True)
    cli_node.join(invitation, node.root)
    assert enrolment.open_invitation(node.coordinator.read_bytes()).address == "127.0.0.1:8443"


def test_declared_patients_are_rounded_alike_in_card_and_policy(tmp_path: Path) -> None:
    from client import keys
    from client.policy import Policy

    cli_node.init("gamma", 1234, tmp_path / "gamma")
    home = NodeHome(tmp_path / "gamma")
    assert keys.card(home).declared_patients == 1200
    assert Policy.from_file(home.policy).declared_patients == 1200


def test_show_says_epsilon_with_delta_unit_and_trust_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli_node.init("gamma", 100, tmp_path / "gamma")
    home = NodeHome(tmp_path / "gamma")
    with LedgerStore.open(home, "gamma", signing.load_key_file(home.identity_key)) as store:
        store.reserve(draft("spring", 1, site="gamma", steps=2), Budget(8.0, 3.0, 1e-5))
    capsys.readouterr()
    cli_ledger.show(home.root, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert 0.0 < shown["epsilon"] < 8.0
    for word in ("epsilon", "delta 1e-05", "one patient at one hospital", "trust model local"):
        assert word in shown["in_words"]
    (row,) = shown["rounds"]
    assert (row["run"], row["round"], row["answered"]) == ("spring", 1, False)


def test_show_refuses_when_the_ledger_was_deleted(tmp_path: Path) -> None:
    cli_node.init("gamma", 100, tmp_path / "gamma")
    home = NodeHome(tmp_path / "gamma")
    home.ledger.unlink()
    with pytest.raises(Refused, match="missing"):
        cli_ledger.show(tmp_path / "gamma")


def test_a_site_that_was_removed_is_not_in_the_next_run(
    home: CoordinatorHome, tmp_path: Path, conducted: list[str]
) -> None:
    cli_node.init("gamma", 100, tmp_path / "gamma")
    cli_run.enrol(tmp_path / "gamma" / "site.json", home.root)
    cli_run.remove("beta", home.root)
    sign_roster(tmp_path)
    assert [card.site for card in sites.roster(home)] == ["alpha", "gamma"]
    start(home, minimum=2, rounds=1)
    record = RunFolder(home.run_folder("run-1")).record()
    assert record.roster.names == ("alpha", "gamma")


def test_a_node_with_a_broken_ledger_or_policy_does_not_start(
    tmp_path: Path, home: CoordinatorHome
) -> None:
    """Not one process is started; which of the two is wrong is said."""
    place = NodeHome(tmp_path / "alpha")
    cli_run.invitation(tmp_path / "coordinator.json", home.root)
    cli_node.join(tmp_path / "coordinator.json", place.root, True)
    place.ledger.unlink()
    with pytest.raises(Refused) as caught:
        cli_node.start(place.root)
    assert caught.value.reason == "ledger"
    place.policy.write_text("epsilon_lifetime = 'much'")
    with pytest.raises(OurMistake, match="policy"):
        cli_node.start(place.root)
