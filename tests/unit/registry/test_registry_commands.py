"""The commands that operators and hospitals type, against a registry over TLS."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from registry_consortium import DAY, SITES, Consortium
from registry_stand_ins import ROOT_KEY, write_a_release

from client import cli_mail, cli_node, cli_registry, cli_roster, keys
from client.home import NodeHome
from client.ledger_store import LedgerStore
from client.rosters import RosterBook
from server import cli_registry as operator
from server import rosters, sites
from shared_model import enrolment, signing
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.ledger import LedgerFault
from shared_model.spoken_words import words_of


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_a_new_hospital_joins_and_both_sides_show_the_same_words(
    consortium: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    node = consortium.join("alpha")
    words = keys.card(node).words_key
    root = enrolment.RootCard(root_key=signing.public_bytes(ROOT_KEY).hex())
    told = shown(capsys)
    for line in (words, keys.pinned(node).words, root.words_key):
        assert line in told
    operator.waiting(consortium.home, as_json=True)
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["site"], row["patients"], row["key in words"]) == ("alpha", 120, words)
    operator.admit("alpha", consortium.home, yes=True)
    assert words in shown(capsys)
    cli_registry.show_status(node.root, as_json=True)
    status = json.loads(capsys.readouterr().out)
    assert (status["state"], status["key_in_words"]) == ("admitted", words)
    assert status["key_at_the_registry"] == words
    assert node.policy.exists()


def test_nothing_is_pinned_or_admitted_until_a_person_says_that_the_words_agree(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    token, place = consortium.token("alpha"), consortium.folder / "alpha"
    with pytest.raises(Refused, match="not pinned"):
        cli_node.join(token, place, patients=120)
    assert not NodeHome(place).coordinator.exists()
    assert not (NodeHome(place).registry / "client.pem").exists()
    with pytest.raises(Refused, match="not admitted"):
        operator.admit("alpha", consortium.home)
    assert sites.roster(consortium.service.home) == []
    monkeypatch.setattr("typer.confirm", lambda *_, **__: True)
    cli_node.join(token, place)  # the same command again, once the telephone is free
    assert NodeHome(place).coordinator.exists()


def test_init_again_keeps_the_registrys_port(tmp_path: Path) -> None:
    from server import cli_run, superlink
    from server.home import CoordinatorHome

    for port in (9001, None):
        cli_run.init(tmp_path / "c", "127.0.0.1:9000", registry_port=port)
        assert superlink.load_config(CoordinatorHome(tmp_path / "c")).registry_port == 9001


def test_a_token_file_is_for_its_owner_and_is_not_overwritten(consortium: Consortium) -> None:
    path = consortium.token("alpha")
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(OurMistake, match="exists already"):
        operator.invite("alpha", path, home=consortium.home)


@pytest.mark.parametrize("damage", [b"{", b"\x00", b'"version":1'])
def test_a_damaged_token_is_refused_before_the_network(
    consortium: Consortium, damage: bytes
) -> None:
    path = consortium.token("alpha")
    path.write_bytes(path.read_bytes().replace(b'"version":1', damage + b" "))
    place = consortium.folder / "alpha"
    with pytest.raises((PeerFault, OurMistake)):
        cli_node.join(path, place, yes=True, patients=120)
    assert not NodeHome(place).identity_key.exists()


def test_a_new_node_says_how_many_patients_it_declares(consortium: Consortium) -> None:
    token, place = consortium.token("alpha"), consortium.folder / "alpha"
    with pytest.raises(OurMistake, match="number of patients"):
        cli_node.join(token, place, yes=True)
    cli_node.join(token, place, yes=True, patients=120)
    with pytest.raises(OurMistake, match="declares 120 patients already"):
        cli_node.join(token, place, yes=True, patients=500)


def test_the_file_based_way_still_works(consortium: Consortium) -> None:
    from server import cli_run

    place = consortium.folder / "alpha"
    cli_node.init("alpha", 120, place)
    cli_run.enrol(place / "site.json", consortium.home)
    cli_run.invitation(consortium.folder / "coordinator.json", consortium.home)
    cli_node.join(consortium.folder / "coordinator.json", place, yes=True)
    assert keys.pinned(NodeHome(place)).address == "127.0.0.1:40001"
    with pytest.raises(OurMistake, match="through no registry"):
        cli_registry.fetch_roster(place)
    with pytest.raises(OurMistake, match="goes with a token"):
        cli_node.join(consortium.folder / "coordinator.json", place, yes=True, patients=1)


def test_a_fetched_roster_waits_for_the_hospital(
    consortium: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    node = consortium.all_joined()[0]
    assert "waits for this hospital's approval" in shown(capsys)
    approved = RosterBook(node).approved()
    assert approved is not None
    assert approved.roster.names == SITES
    cli_registry.fetch_roster(node.root)
    assert "the newest" in shown(capsys)


def test_a_roster_that_another_root_signed_is_refused_and_forgotten(
    consortium: Consortium,
) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from shared_model import roster

    node = consortium.all_joined()[0]
    current = rosters.current(consortium.service.home)
    assert current is not None
    next_one = current.roster.model_copy(update={"version": 2})
    bad = roster.sign(next_one, Ed25519PrivateKey.generate()).to_bytes()
    consortium.service.home.roster.write_bytes(bad)
    with pytest.raises(PeerFault, match="root key"):
        cli_registry.fetch_roster(node.root)
    assert RosterBook(node).pending() is None


def test_releases_are_listed_and_fetched_into_the_inbox(
    consortium: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        write_a_release(consortium.service.home, number)
    node = consortium.join("alpha")
    operator.admit("alpha", consortium.home, yes=True)
    capsys.readouterr()
    cli_registry.list_releases(node.root, as_json=True)
    assert [row["number"] for row in json.loads(capsys.readouterr().out)] == [1, 2]
    cli_registry.fetch_release(home=node.root, as_json=True)
    fetched = json.loads(capsys.readouterr().out)
    assert (fetched["number"], Path(fetched["file"]).name) == (2, "release-2.fedprint")
    with pytest.raises(Refused, match="no such release"):
        cli_registry.fetch_release(7, home=node.root)


def test_files_go_from_mailbox_to_inbox_unopened(
    consortium: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    alpha, beta, _ = consortium.all_joined()
    opaque, entries = consortium.folder / "opaque", consortium.folder / "entries"
    question = b'{"kind": "fedprint-ledger-question", "signature": "wrong, but nobody looks here"}'
    opaque.write_bytes(question)
    entries.write_bytes(b"of the archive")
    cli_mail.send("beta", "ask", opaque, alpha.root)
    operator.mail("beta", entries, consortium.home)
    capsys.readouterr()
    cli_mail.list_mail(beta.root, as_json=True)
    listed = json.loads(capsys.readouterr().out)
    assert [(row["sender"], row["what"]) for row in listed] == [
        ("alpha", "ask"),
        ("coordinator", "entries"),
    ]
    cli_mail.fetch_mail(beta.root, as_json=True)
    files = [Path(row["file"]) for row in json.loads(capsys.readouterr().out)]
    assert [path.read_bytes() for path in files] == [question, b"of the archive"]
    cli_mail.fetch_mail(beta.root, as_json=True)
    assert json.loads(capsys.readouterr().out) == []
    with pytest.raises(OurMistake, match="no name of a hospital"):
        cli_mail.send("Beta", "ask", opaque, alpha.root)


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("ask", b"time_s,ppg\n0.0,0.5\n"),
        ("ask", b'{"kind": "fedprint-ledger-answer"}'),
        ("ask", b"[1]"),
        ("entries", b'{"kind": "fedprint-ledger-question"}'),
        ("ask", b'{"kind": "fedprint-ledger-question", "more": "' + bytes(70_000) + b'"}'),
    ],
)
def test_nothing_but_a_ledgers_question_or_answer_leaves_by_mail(
    consortium: Consortium, what: str, data: bytes
) -> None:
    """A recording given by mistake stays at the hospital; the registry is not even asked."""
    file = consortium.folder / "file"
    file.write_bytes(data)
    with pytest.raises(Refused) as error:
        cli_mail.send("beta", what, file, consortium.folder / "no-node")
    assert error.value.reason in ("files", "size")


@pytest.mark.parametrize("way", ["registry", "file"])
def test_a_key_is_rotated_from_the_first_command_to_the_approved_roster(
    consortium: Consortium, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    node = consortium.all_joined()[0]
    old = keys.card(node)
    cli_registry.rotate_key(node.root)
    assert keys.card(node) == old
    new = signing.public_bytes(signing.load_key_file(node.next_identity_key))
    assert words_of(signing.key_digest(new)) in shown(capsys)
    with pytest.raises(Refused, match="does not list this hospital's next key"):
        cli_registry.rotate_key(node.root, finish=True)
    operator.waiting(consortium.home)
    assert "signed by the enrolled one" in shown(capsys)
    operator.admit("alpha", consortium.home, yes=True)
    assert words_of(signing.key_digest(new)) in shown(capsys)
    by_hand = consortium.folder / "roster.json"
    by_hand.write_bytes(consortium.sign())
    cli_registry.rotate_key(node.root, finish=True, roster=by_hand if way == "file" else None)
    assert keys.card(node).identity == new
    cli_roster.approve(home=node.root, yes=True)
    approved = RosterBook(node).approved()
    assert approved is not None
    assert approved.roster.entry("alpha").identity == new
    cli_registry.renew(node.root)
    cli_registry.show_status(node.root, as_json=True)


def approve(node: NodeHome, run: str) -> None:
    with LedgerStore.open(node, "alpha", signing.load_key_file(node.identity_key)) as store:
        store.approved(run, "0" * 64, bookings=1, epsilon_run=1.0, by="operator", delta=1e-5)


@pytest.mark.parametrize("cut_off", [False, True], ids=["at once", "cut off before the new key"])
def test_a_rotation_hands_the_ledger_over_first(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch, cut_off: bool
) -> None:
    """Killed after the ledger and before the key, the node refuses, and --finish finishes."""
    node = consortium.all_joined()[0]
    approve(node, "spring")
    cli_registry.rotate_key(node.root)
    operator.admit("alpha", consortium.home, yes=True)
    consortium.sign()
    if cut_off:
        with monkeypatch.context() as cut:
            cut.setattr(signing, "write_secret", _killed)
            with pytest.raises(KeyboardInterrupt):
                cli_registry.rotate_key(node.root, finish=True)
        with pytest.raises(LedgerFault, match="hands the ledger over") as told:
            approve(node, "summer")
        assert "rotate-key --finish" in told.value.do
    cli_registry.rotate_key(node.root, finish=True)
    approve(node, "summer")
    with LedgerStore.open(node, "alpha", signing.load_key_file(node.identity_key)) as store:
        kinds = [link.entry.kind for link in store.chain.links]
    assert kinds == ["opened", "approved", "handed-over", "approved"]


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_lost_keys_are_replaced_by_a_token_that_says_so(
    consortium: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/operator.md: A hospital lost its keys."""
    lost = consortium.all_joined()[0]
    fresh = consortium.join("alpha", "alpha-again", replaces=True)
    operator.waiting(consortium.home)
    assert "REPLACES the enrolled keys" in shown(capsys)
    operator.admit("alpha", consortium.home, yes=True)
    with pytest.raises(Refused, match="revoked"):
        cli_registry.show_status(lost.root)
    consortium.sign()
    cli_registry.fetch_roster(fresh.root)
    cli_roster.approve(home=fresh.root, yes=True)
    approved = RosterBook(fresh).approved()
    assert approved is not None
    assert approved.roster.entry("alpha").identity == keys.card(fresh).identity


def test_who_was_revoked_is_told_so_and_may_come_back_with_a_new_token(
    consortium: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    node = consortium.join("alpha")
    operator.admit("alpha", consortium.home, yes=True)
    operator.revoke("alpha", consortium.home, yes=True)
    with pytest.raises(Refused, match="revoked"):
        cli_registry.show_status(node.root)
    with pytest.raises(OurMistake, match="has nothing here"):
        operator.revoke("alpha", consortium.home, yes=True)
    cli_node.join(consortium.token("alpha"), node.root, yes=True)
    operator.admit("alpha", consortium.home, yes=True)
    capsys.readouterr()
    cli_registry.show_status(node.root, as_json=True)
    assert json.loads(capsys.readouterr().out)["state"] == "admitted"


def test_a_hospital_leaves_and_keeps_its_books(consortium: Consortium) -> None:
    node = consortium.all_joined()[0]
    kept = {path: path.read_bytes() for path in node.identity_key.parent.iterdir()}
    cli_registry.leave(node.root, yes=True)
    assert sites.card_of(consortium.service.home, "alpha") is None
    assert not node.coordinator.exists()
    with pytest.raises(OurMistake, match="through no registry"):
        cli_registry.show_status(node.root)
    assert kept == {path: path.read_bytes() for path in node.identity_key.parent.iterdir()}
    assert RosterBook(node).approved() is not None
    gaps = rosters.gaps(
        consortium.service.home, rosters.usable(consortium.service.home, DAY).roster
    )
    assert any("alpha is in the roster but not enrolled" in line for line in gaps)


def test_leaving_offline_needs_no_registry(consortium: Consortium) -> None:
    node = consortium.join("alpha")
    consortium.service.stop()
    try:
        with pytest.raises(PeerFault, match="cannot be reached"):
            cli_registry.leave(node.root, yes=True)
        assert node.coordinator.exists()
        cli_registry.leave(node.root, yes=True, offline=True)
        assert not node.coordinator.exists()
    finally:
        consortium.service.start()


def test_the_operator_sees_every_certificate(
    consortium: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    consortium.join("alpha")
    consortium.token("beta")
    capsys.readouterr()
    operator.status(consortium.home, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["address"] == f"127.0.0.1:{consortium.service.port}"
    assert [(row["site"], row["kind"], row["state"]) for row in told["certificates"]] == [
        ("alpha", "token", "used"),
        ("alpha", "site", "valid"),
        ("beta", "token", "open"),
    ]
    operator.renew_certificate(consortium.home)
    assert "restart the registry" in shown(capsys)
