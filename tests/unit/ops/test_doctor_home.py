"""The checks of a node's folder, and the whole doctor, on nodes that joined a real registry."""

from __future__ import annotations

import datetime
import json
import sys
import time
from pathlib import Path

import pytest
import typer
from deployed_parts import fill_store
from registry_stand_ins import ROOT_KEY, TODAY, Served

from client import cli_node, cli_ops, cli_roster, doctor, doctor_home, ledger_file
from client.home import NodeHome
from client.node_parts import outbox_of
from client.policy import installed_code
from client.state import NodeState
from client.store_encrypt import encrypt_store
from server import cli_registry as operator
from server import rosters
from shared_model.findings import Finding, tried

SITES = ("alpha", "beta", "gamma")


def joined(service: Served, folder: Path) -> dict[str, NodeHome]:
    """Three hospitals that joined by token, were admitted, and approved their roster."""
    place = service.home.root
    nodes = {}
    for site in SITES:
        token = folder / f"{site}-token.json"
        operator.invite(site, token, home=place)
        cli_node.join(token, folder / site, yes=True, patients=120)
        operator.admit(site, place, yes=True)
        nodes[site] = NodeHome(folder / site)
    rosters.sign_here(service.home, ROOT_KEY, today=TODAY.date().isoformat())
    for node in nodes.values():
        cli_roster.approve(home=node.root, yes=True)  # nothing waits: it is fetched
    return nodes


@pytest.fixture
def node(service: Served, tmp_path: Path) -> NodeHome:
    return joined(service, tmp_path)["alpha"]


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def test_joined_node_is_well_but_for_what_is_not_there_yet(node: NodeHome, service: Served) -> None:
    """Registry, clock, versions, roster, ledger; no SuperLink, no recordings, no store key yet."""
    found = by_name(doctor.examine(node))
    wrong = {name for name, one in found.items() if one.state == "broken"}
    assert wrong == set(), [found[name] for name in wrong]
    for name in ("clock", "registry", "registry certificate", "registry health", "version"):
        assert found[name].state == "ok", found[name]
    for name in (
        "keys",
        "ledger",
        "restored",
        "roster",
        "own certificate",
        "rights",
        "policy.toml",
    ):
        assert found[name].state == "ok", found[name]
    for name in ("superlink", "store", "store key"):
        assert found[name].state == "attention", found[name]


def test_everything_unreachable_ends_within_the_deadline(
    node: NodeHome, service: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that takes connections and says nothing: the slowest of all ways to be cut off."""
    import socket

    silent = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{silent.getsockname()[1]}")
    begun = time.monotonic()
    found = by_name(doctor.examine(node))
    took = time.monotonic() - begun
    silent.close()
    assert found["proxy"].state == "broken"
    assert found["registry health"].state == "broken"
    assert took < 20


def test_what_doctor_prints_has_no_secret_and_its_exit_code_tells(
    node: NodeHome, service: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a line of a key file nor the store key; exit 3 once something is broken."""
    capsys.readouterr()
    with pytest.raises(typer.Exit) as ended:
        cli_ops.doctor(home=node.root, as_json=True)
    assert ended.value.exit_code == 0
    shown = capsys.readouterr().out
    assert all(set(row) == {"check", "state", "found", "do"} for row in json.loads(shown))
    secrets = [path for path in (node.root / "keys").iterdir()] + [node.registry / "client.pem"]
    for path in secrets:
        text = path.read_bytes()
        for line in [part for part in text.splitlines() if len(part) > 20 and b"---" not in part]:
            assert line not in shown.encode()
    node.policy.write_text("epsilon_lifetime = -1")
    with pytest.raises(typer.Exit) as ended:
        cli_ops.doctor(home=node.root)
    assert ended.value.exit_code == 3
    assert "broken" in capsys.readouterr().out


def test_folder_without_a_node_is_one_broken_line_and_not_made(tmp_path: Path) -> None:
    """Doctor changes nothing."""
    found = by_name(doctor.examine(NodeHome(tmp_path / "none")))
    assert found["node.toml"].state == "broken"
    assert "join" in found["node.toml"].do
    assert not (tmp_path / "none").exists()


def test_damage_to_each_file_is_seen_by_its_own_check(node: NodeHome, service: Served) -> None:
    """One file after another is spoilt; its line is broken and says what to do."""
    key = node.identity_key
    key.chmod(0o644)
    assert doctor_home.check_files(node).state == "broken"
    assert tried("keys", lambda: doctor_home.check_keys(node)).state == "broken"
    key.chmod(0o600)
    node.never_back_up.joinpath("writes").write_text("restored")
    assert doctor_home.check_restored(node).state == "broken"
    outbox_of(node).accept_restored()
    assert doctor_home.check_restored(node).state == "ok"
    ledger_file.forget_note(node)
    assert tried("ledger", lambda: doctor_home.check_ledger(node)).state == "broken"
    node.policy.write_text(
        node.policy.read_text().replace(
            "allowed_code_digests = []", f'allowed_code_digests = ["{"ab" * 32}"]'
        )
    )
    assert doctor_home.check_code(node).state == "broken"
    node.policy.write_text(node.policy.read_text().replace("ab" * 32, installed_code()))
    assert doctor_home.check_code(node).state == "ok"
    node.config.write_text(node.config.read_text() + "\nunknown = 1\n")
    assert tried("node.toml", lambda: doctor_home.check_settings(node)).state == "broken"
    node.roster.write_text("{}")
    today = datetime.date.today()
    assert tried("roster", lambda: doctor_home.check_roster(node, today)).state == "broken"


def test_roster_and_certificate_that_end_soon_or_have_ended_are_told(
    node: NodeHome, service: Served
) -> None:
    """Before it is too late, and after."""
    roster_ends = TODAY.date() + datetime.timedelta(days=364)
    soon, gone = roster_ends, roster_ends + datetime.timedelta(days=500)
    assert doctor_home.check_roster(node, soon).state == "attention"
    assert doctor_home.check_roster(node, gone).state == "broken"
    early = TODAY.date() - datetime.timedelta(days=9)
    assert doctor_home.check_roster(node, early).state == "broken"
    for days, state in ((100, "ok"), (160, "attention"), (200, "broken")):
        later = TODAY + datetime.timedelta(days=days)
        assert doctor_home.check_certificate(node, later).state == state


def test_store_and_its_key_are_looked_at_together(
    node: NodeHome, service: Served, tmp_path: Path
) -> None:
    """No key, a usable one, one that is open to others or short; an encrypted store without one."""

    def key() -> Finding:
        return tried("store key", lambda: doctor_home.check_store_key(node))

    def store() -> Finding:
        return tried("store", lambda: doctor_home.check_store(node))

    assert (key().state, store().state) == ("attention", "attention")
    fill_store(node.root, patients=2, seed=1)
    assert (store().state, "not encrypted" in store().found) == ("ok", True)
    path = tmp_path / "store.key"
    encrypt_store(node, path)
    assert key().state == "ok"
    assert str(path) in key().found
    assert (store().state, "encrypted" in store().found) == ("ok", True)
    path.chmod(0o644)
    assert (key().state, store().state) == ("broken", "broken")
    path.chmod(0o600)
    path.write_bytes(bytes(31))
    assert (key().state, store().state) == ("broken", "broken")
    path.write_bytes(bytes(32))
    assert store().state == "broken"  # another key
    node.config.write_text(node.config.read_text().replace(f'"{path}"', '""'))
    assert (key().state, store().state) == ("attention", "attention")


@pytest.mark.parametrize(
    ("locked", "phase", "age_s", "state"),
    [
        (True, "running", 1.0, "ok"),
        (True, "paused", 1.0, "ok"),
        (True, "outside-hours", 1.0, "ok"),
        (True, "trouble", 1.0, "broken"),
        (True, "running", 1000.0, "broken"),
        (True, None, 0.0, "broken"),
        (False, "running", 1.0, "broken"),
    ],
)
def test_health_is_of_a_node_that_lives_and_says_so(
    locked: bool, phase: str | None, age_s: float, state: str
) -> None:
    """At rest is well; dead, hung and in trouble are not."""
    seen = None
    if phase is not None:
        seen = NodeState.model_validate(
            {"phase": phase, "since_s": 0.0, "written_s": 5000.0 - age_s, "pid": 1, "why": "x"}
        )
    found = doctor.check_running(locked, seen, 5000.0)
    assert found.state == state
    assert bool(found.do) == (state != "ok")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_registry_that_does_not_know_this_node_is_told_in_its_words(
    node: NodeHome, service: Served
) -> None:
    """Revoked: the registry's reason, and what to do."""
    operator.revoke("alpha", service.home.root, yes=True)
    answer = doctor.asked(node)
    assert answer is not None
    assert "revoked" in answer.fault
