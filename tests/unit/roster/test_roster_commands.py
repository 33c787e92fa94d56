"""The ceremony as people do it: three kinds of machines, files by hand, one question each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from roster_stand_ins import TODAY, Hospital, roster_of

import client.cli
import client.rosters
import server.cli
import server.rosters
from client import withdrawals
from client.epochs import EpochKeys
from client.home import NodeHome
from client.rosters import RosterBook
from shared_model import roster
from shared_model.errors import OurMistake, Refused
from shared_model.roster import SignedRoster

SITES = ("alpha", "beta", "gamma", "delta")


class Ceremony:
    """All machines are folders; `said` is what the last command printed."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys

    def root(self, *words: str) -> str:
        return self._run(server.cli.app, ["root", *words, "--home", self.at("root")])

    def coordinator(self, *words: str) -> str:
        return self._run(server.cli.app, [*words, "--home", self.at("coordinator")])

    def node(self, site: str, *words: str) -> str:
        return self._run(client.cli.app, [*words, "--home", self.at(site)])

    def at(self, name: str) -> str:
        return str(self.folder / name)

    def next_roster(self, *options: str) -> str:
        self.coordinator("roster", "draft", "-o", self.at("draft.json"), *options)
        self.root("sign", self.at("draft.json"), "-o", self.at("roster.json"), "--yes")
        return self.coordinator("roster", "import", self.at("roster.json"))

    def enrol(self, site: str) -> None:
        self.node(site, "init", "--site", site, "--patients", "120")
        self.node(site, "join", self.at("coordinator.json"), "--yes")
        self.coordinator("enrol", str(self.folder / site / "site.json"))

    def _run(self, app: Any, words: list[str]) -> str:
        self.capsys.readouterr()
        app(words, standalone_mode=False)
        return self.capsys.readouterr().out


@pytest.fixture
def ceremony(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Ceremony:
    """Root key made, coordinator set up, three hospitals enrolled; all on one fixed day."""
    for module in (server.rosters, client.rosters):
        monkeypatch.setattr(module, "today_utc", lambda: TODAY)
    made = Ceremony(tmp_path, capsys)
    made.root("init")
    made.coordinator("init", "--address", "127.0.0.1:8443", "--root", made.at("root/root.json"))
    made.coordinator("invitation", "-o", made.at("coordinator.json"))
    for site in SITES[:3]:
        made.enrol(site)
    return made


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What the person at the keyboard says, in order."""
    given: list[bool] = []
    monkeypatch.setattr(typer, "confirm", lambda *_: given.pop(0))
    return given


def test_a_coordinator_without_a_root_key_invites_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Ceremony(tmp_path, capsys)
    assert "--root root.json" in made.coordinator("init")
    with pytest.raises(OurMistake, match="no root key"):
        made.coordinator("invitation", "-o", made.at("coordinator.json"))
    digest = made.root("init").split("Digest of the root key:\n")[1].splitlines()[0]
    said = made.coordinator("init", "--root", made.at("root/root.json"))
    assert digest in said
    made.coordinator("invitation", "-o", made.at("coordinator.json"))
    made.node("alpha", "init", "--site", "alpha", "--patients", "120")
    assert digest in made.node("alpha", "join", made.at("coordinator.json"), "--yes")


def test_root_init_inside_a_coordinator_and_the_reverse_are_refused(ceremony: Ceremony) -> None:
    inside = str(Path(ceremony.at("coordinator")) / "root")
    with pytest.raises(Refused, match="folder of a coordinator"):
        ceremony._run(server.cli.app, ["root", "init", "--home", inside])
    with pytest.raises(Refused, match="holds a root key"):
        ceremony._run(server.cli.app, ["init", "--home", ceremony.at("root")])
    assert not (ceremony.folder / "root" / "coordinator.toml").exists()


def test_a_roster_goes_the_whole_way(ceremony: Ceremony) -> None:
    said = ceremony.next_roster()
    signed = SignedRoster.from_bytes(Path(ceremony.at("roster.json")).read_bytes())
    assert signed.roster.spoken in said
    for site in SITES[:3]:
        said = ceremony.node(site, "roster", "approve", ceremony.at("roster.json"), "--yes")
        assert "goes by version 1" in said
        approved = RosterBook(NodeHome(ceremony.folder / site)).approved()
        assert approved is not None
        assert approved.roster == signed.roster


def test_the_root_shows_everything_before_it_asks(
    ceremony: Ceremony, answers: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    ceremony.coordinator("roster", "draft", "-o", ceremony.at("draft.json"))
    answers.append(False)
    with pytest.raises(Refused, match="not signed") as caught:
        ceremony.root("sign", ceremony.at("draft.json"), "-o", ceremony.at("roster.json"))
    assert caught.value.reason == "not-compared"
    shown = capsys.readouterr().out
    draft = roster.Roster.from_bytes(Path(ceremony.at("draft.json")).read_bytes())
    for line in roster.in_words(draft):
        assert line in shown
    for site in draft.names:
        assert draft.entry(site).spoken_key in shown
    assert "first roster" in shown
    assert not Path(ceremony.at("roster.json")).exists()
    assert not (ceremony.folder / "root" / "last_roster.json").exists()
    answers.append(True)
    ceremony.root("sign", ceremony.at("draft.json"), "-o", ceremony.at("roster.json"))
    assert Path(ceremony.at("roster.json")).exists()


def test_the_root_says_what_changed_since_it_signed_last(ceremony: Ceremony) -> None:
    ceremony.next_roster()
    ceremony.coordinator("remove", "gamma")
    ceremony.enrol("delta")
    ceremony.coordinator("roster", "draft", "-o", ceremony.at("draft.json"))
    said = ceremony.root("show", ceremony.at("draft.json"))
    assert "Since the last roster that this key signed:" in said
    assert "delta is ADDED" in said
    assert "gamma is REMOVED" in said
    assert "Nothing changes." in ceremony.root("show", ceremony.at("roster.json"))


def test_a_swapped_key_is_named_to_root_and_hospital(
    ceremony: Ceremony, answers: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    """A coordinator enrols its own key under the name of a hospital."""
    ceremony.next_roster()
    ceremony.node("alpha", "roster", "approve", ceremony.at("roster.json"), "--yes")
    ceremony.coordinator("remove", "gamma")
    impostor = Ceremony(ceremony.folder / "impostor", capsys)
    impostor.node("gamma", "init", "--site", "gamma", "--patients", "120")
    ceremony.coordinator("enrol", impostor.at("gamma/site.json"))
    ceremony.coordinator("roster", "draft", "-o", ceremony.at("draft.json"))
    assert "KEY of gamma is SWAPPED" in ceremony.root("show", ceremony.at("draft.json"))
    ceremony.next_roster()
    answers.append(False)
    with pytest.raises(Refused, match="not approved"):
        ceremony.node("alpha", "roster", "approve", ceremony.at("roster.json"))
    assert "KEY of gamma is SWAPPED" in capsys.readouterr().out
    approved = RosterBook(NodeHome(ceremony.folder / "alpha")).approved()
    assert approved is not None
    assert approved.roster.version == 1
    with pytest.raises(Refused, match="not this node's"):
        ceremony.node("gamma", "roster", "approve", ceremony.at("roster.json"), "--yes")


def test_hospitals_countersign_and_the_last_one_need_not_be_asked(ceremony: Ceremony) -> None:
    ceremony.next_roster()
    for site in SITES[:3]:
        ceremony.node(site, "roster", "approve", ceremony.at("roster.json"), "--yes")
    ceremony.next_roster("--valid-days", "400")
    new = Path(ceremony.at("roster.json")).read_bytes()
    for site in SITES[:3]:
        out = ceremony.at(f"{site}-countersignature.json")
        ceremony.node(site, "roster", "countersign", ceremony.at("roster.json"), "-o", out, "--yes")
        said = ceremony.coordinator("roster", "import", out)
    assert "countersigned by alpha, beta, gamma" in said
    said = ceremony.coordinator("roster", "show")
    assert "keys of version 1: alpha, beta, gamma" in said
    relayed = (ceremony.folder / "coordinator" / "roster.json").read_bytes()
    assert relayed != new
    book = RosterBook(NodeHome(ceremony.folder / "alpha"))
    from client import keys
    from client.policy import Policy

    policy = Policy.from_file(book.home.policy)
    assert book.offer(relayed, keys.pinned(book.home).root, policy, TODAY).version == 2


def test_a_person_who_did_not_compare_does_not_countersign(
    ceremony: Ceremony, answers: list[bool]
) -> None:
    ceremony.next_roster()
    ceremony.node("alpha", "roster", "approve", ceremony.at("roster.json"), "--yes")
    ceremony.next_roster()
    answers.append(False)
    out = ceremony.at("countersignature.json")
    with pytest.raises(Refused, match="not countersigned"):
        ceremony.node("alpha", "roster", "countersign", ceremony.at("roster.json"), "-o", out)
    assert not Path(out).exists()


def test_a_node_shows_what_waits_and_what_would_change(ceremony: Ceremony) -> None:
    from client import keys
    from client.policy import Policy

    home = NodeHome(ceremony.folder / "alpha")
    assert "approved no roster" in ceremony.node("alpha", "roster", "show")
    with pytest.raises(OurMistake, match="No roster waits"):
        ceremony.node("alpha", "roster", "approve", "--yes")
    ceremony.next_roster()
    ceremony.node("alpha", "roster", "approve", ceremony.at("roster.json"), "--yes")
    ceremony.enrol("delta")
    ceremony.next_roster()
    relayed = Path(ceremony.at("roster.json")).read_bytes()
    policy, root = Policy.from_file(home.policy), keys.pinned(home).root
    with pytest.raises(Refused, match="waits"):
        RosterBook(home).offer(relayed, root, policy, TODAY)
    said = ceremony.node("alpha", "roster", "show")
    assert "WAITING" in said
    assert "delta is ADDED" in said
    shown = json.loads(ceremony.node("alpha", "roster", "show", "--json"))
    assert (shown["approved"]["version"], shown["pending"]["version"]) == (1, 2)
    assert any("delta is ADDED" in line for line in shown["differences"])
    assert "goes by version 2" in ceremony.node("alpha", "roster", "approve", "--yes")
    shown = json.loads(ceremony.node("alpha", "roster", "show", "--json"))
    assert (shown["approved"]["version"], shown["pending"]) == (2, None)


def test_the_coordinator_shows_its_roster_for_machines_too(ceremony: Ceremony) -> None:
    with pytest.raises(OurMistake, match="no roster yet"):
        ceremony.coordinator("roster", "show")
    ceremony.next_roster("--threshold", "2")
    ceremony.enrol("delta")
    shown = json.loads(ceremony.coordinator("roster", "show", "--json"))
    assert (shown["roster"]["threshold"], shown["roster"]["may_drop_out"]) == (2, 1)
    assert shown["gaps"] == ["delta is enrolled but not in the roster: it is not asked."]
    assert "delta is enrolled but not in the roster" in ceremony.coordinator("roster", "show")


def test_after_a_restore_the_epoch_key_is_erased(ceremony: Ceremony) -> None:
    home = NodeHome(ceremony.folder / "alpha")
    epochs = EpochKeys(folder=home.never_back_up, counter=home.epochs)
    secret = X25519PrivateKey.generate().private_bytes_raw()
    epochs.renew(7, "ab" * 32, lambda size: secret[:size])
    assert epochs.held == 7
    assert "is erased" in ceremony.node("alpha", "restored")
    assert (epochs.held, epochs.last) == (0, 7)
    assert withdrawals.are_unknown(home)
    assert "no epoch's key" in ceremony.node("alpha", "restored")
    with pytest.raises(OurMistake, match="no node"):
        ceremony.node("nowhere", "restored")


def test_a_restore_that_was_accepted_halfway_has_marked_its_withdrawals(
    ceremony: Ceremony, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the node would start, on patients who have withdrawn."""
    home = NodeHome(ceremony.folder / "alpha")

    def cut(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(EpochKeys, "erase", cut)
    with pytest.raises(RuntimeError):
        ceremony.node("alpha", "restored")
    assert withdrawals.are_unknown(home)


def test_the_offline_machine_needs_four_packages_only(tmp_path: Path) -> None:
    """docs/root-key.md says which are to be carried there; all others are kept from loading."""
    script = """
import importlib.abc, sys

class Away(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in {"torch", "numpy", "flwr", "scipy", "opacus", "pyarrow", "safetensors",
                    "dp_accounting", "matplotlib", "jinja2", "wfdb", "pydicom", "pyedflib"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Away())
from server.cli import app
for words in sys.argv[1:]:
    app(words.split("|"), standalone_mode=False)
"""
    sites = [Hospital(site, Ed25519PrivateKey.generate(), 100) for site in SITES]
    draft, out = tmp_path / "draft.json", tmp_path / "roster.json"
    today = client.rosters.today_utc()
    draft.write_bytes(roster_of(sites, first=today, last="2099-12-31").to_bytes())
    home = f"--home|{tmp_path / 'root'}"
    subprocess.run(
        [
            sys.executable,
            "-c",
            script,
            f"root|init|{home}",
            f"root|show|{draft}|{home}",
            f"root|sign|{draft}|-o|{out}|--yes|{home}",
        ],
        check=True,
        timeout=120,
        cwd=Path(client.cli.__file__).parents[1],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert SignedRoster.from_bytes(out.read_bytes()).roster.names == tuple(sorted(SITES))
