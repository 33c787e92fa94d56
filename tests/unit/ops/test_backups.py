"""Backup and restore of a node and of a coordinator, with the commands that people type."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from registry_stand_ins import TODAY, Counter, Hall, coordinator_at, fingerprint, node_at

import client.cli
import server.cli
from client import ledger_file, node
from client.home import NodeHome
from client.ledger_store import LedgerStore
from client.node_parts import outbox_of
from client.policy import Policy
from server import registry, service, superlink
from server.home import CoordinatorHome
from server.registry_book import RegistryBook
from server.registry_limits import RegistryLimits
from shared_model.errors import OurMistake, Refused
from shared_model.ledger import Recovered
from shared_model.locks import locked
from shared_model.signing import load_key_file

PASSPHRASE = "six random words in a row"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase.txt"
    path.write_text(PASSPHRASE + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def alpha(tmp_path: Path) -> NodeHome:
    """A node with an entry in its ledger, an answer in its outbox, and a bit of everything else."""
    home = node_at(tmp_path / "alpha", "alpha")
    Policy.write_default(home.policy, declared_patients=100)
    with LedgerStore.open(home, "alpha", load_key_file(home.identity_key)) as store:
        store.incident("run", 1, "test", 1e-5)
    outbox = outbox_of(home)
    with outbox.locked():
        outbox.begin("run", 1, "ab" * 32)
        outbox.prepare("run", 1, b"body", None)
        outbox.store("run", 1, b"header")
    for name in ("logs/x.log", "state/node.json", "inbox/f", "flower/x", "store/manifest.json"):
        (home.root / name).parent.mkdir(exist_ok=True)
        (home.root / name).write_text("{}")
    return home


def run(app: Any, *words: object) -> None:
    app([str(word) for word in words], standalone_mode=False)


def on_node(*words: object) -> None:
    run(client.cli.app, *words)


def on_coordinator(*words: object) -> None:
    run(server.cli.app, *words)


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_node_comes_back_in_a_new_folder_and_does_not_start_before_it_says_restored(
    alpha: NodeHome, tmp_path: Path, secret: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keys, ledger, outbox and settings are there; the epoch's key, logs and windows are not."""
    file = tmp_path / "alpha.fedprint"
    on_node("backup", file, "--passphrase-file", secret, "--home", alpha.root)
    assert file.stat().st_mode & 0o777 == 0o600
    new = NodeHome(tmp_path / "new")
    on_node("restore", file, "--passphrase-file", secret, "--home", new.root)
    for name in ("keys/identity.pem", "node.toml", "policy.toml", "outbox/run/0000001/reply.body"):
        assert (new.root / name).read_bytes() == (alpha.root / name).read_bytes()
    left_out = ("never-back-up/ledger", "never-back-up/epoch.json", "logs", "state", "store")
    assert not any((new.root / name).exists() for name in left_out)
    assert new.withdrawals_unknown.exists()  # with it who withdrew
    with pytest.raises(Refused, match="restored from a backup") as refused:
        node.check_books(new)
    assert refused.value.reason == "restored"
    assert "fedprint-node restored" in refused.value.do
    on_node("restored", "--home", new.root)
    assert "does not train until then" in capsys.readouterr().out
    with pytest.raises(Refused) as refused:
        node.check_books(new)
    assert "ledger ask" in refused.value.do
    with pytest.raises(Refused):  # nor can it be backed up as if it were current
        on_node("backup", tmp_path / "b", "--passphrase-file", secret, "--home", new.root)


def test_ledger_in_the_backup_is_whole(alpha: NodeHome, tmp_path: Path, secret: Path) -> None:
    """Every entry, verified with the restored key."""
    file, new = tmp_path / "alpha.fedprint", NodeHome(tmp_path / "new")
    on_node("backup", file, "--passphrase-file", secret, "--home", alpha.root)
    on_node("restore", file, "--passphrase-file", secret, "--home", new.root)
    key = load_key_file(new.identity_key)
    with (
        LedgerStore.open(new, "alpha", key, perhaps_old=True) as there,
        LedgerStore.open(alpha, "alpha", key) as here,
    ):
        assert (there.chain.length, there.chain.head) == (here.chain.length, here.chain.head)
        assert there.chain.length == 2


def test_ledger_with_lost_entries_is_backed_up(
    alpha: NodeHome, tmp_path: Path, secret: Path
) -> None:
    """Those that were lost have a number and no row: it is not a ledger that grew meanwhile."""
    key = load_key_file(alpha.identity_key)
    with LedgerStore.open(alpha, "alpha", key) as store:
        entry = Recovered(
            site="alpha",
            sequence=6,
            lost_from=3,
            lost_to=5,
            previous="ab" * 32,
            epsilon_charged=1.0,
            delta=1e-5,
            witnesses=("beta",),
            evidence_digest="ab" * 32,
            time_s=0,
        )
        store.restore(store.chain, [], lambda chain: entry)
        before = store.chain
    file, new = tmp_path / "alpha.fedprint", NodeHome(tmp_path / "new")
    on_node("backup", file, "--passphrase-file", secret, "--home", alpha.root)
    on_node("restore", file, "--passphrase-file", secret, "--home", new.root)
    with LedgerStore.open(new, "alpha", key, perhaps_old=True) as store:
        assert store.chain == before
        assert (store.chain.length, len(store.chain.links)) == (6, 3)


def test_running_node_is_not_backed_up(alpha: NodeHome, tmp_path: Path, secret: Path) -> None:
    """No order of copying makes one state of it."""
    file = tmp_path / "b"
    with (
        locked(alpha.root / "node.lock"),
        pytest.raises(OurMistake, match="is running"),
    ):
        on_node("backup", file, "--passphrase-file", secret, "--home", alpha.root)
    assert not file.exists()


def test_windows_are_in_the_backup_only_if_asked_for(
    alpha: NodeHome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And without a passphrase only by the option's whole name."""
    file, new = tmp_path / "b", NodeHome(tmp_path / "new")
    plain = "--unencrypted-with-the-keys-in-it"
    on_node("backup", file, plain, "--with-store", "--json", "--home", alpha.root)
    facts = json.loads(capsys.readouterr().out)
    assert (facts["site"], facts["encrypted"]) == ("alpha", False)
    on_node("restore", file, "--home", new.root)
    assert (new.root / "store" / "manifest.json").exists()
    assert new.withdrawals_unknown.exists()  # who withdrew after the backup is in it again


def test_restore_never_writes_over_a_folder(alpha: NodeHome, tmp_path: Path) -> None:
    """The node that is there may know more than the backup."""
    file = tmp_path / "b"
    on_node("backup", file, "--unencrypted-with-the-keys-in-it", "--home", alpha.root)
    before = names(alpha.root)
    with pytest.raises(OurMistake, match="there already"):
        on_node("restore", file, "--home", alpha.root)
    with pytest.raises(OurMistake, match="exists already"):
        on_node("backup", file, "--unencrypted-with-the-keys-in-it", "--home", alpha.root)
    assert names(alpha.root) == before


def test_broken_ledger_is_not_backed_up_as_if_it_were_whole(
    alpha: NodeHome, tmp_path: Path
) -> None:
    """Such a node needs recovery; a copy of it would replace a better one."""
    ledger_file.forget_note(alpha)
    with pytest.raises(Refused):
        on_node("backup", tmp_path / "b", "--unencrypted-with-the-keys-in-it", "--home", alpha.root)


@pytest.mark.parametrize("to", [on_node, on_coordinator])
def test_each_side_takes_its_own_backups_only(
    tmp_path: Path, alpha: NodeHome, to: Callable[..., None]
) -> None:
    """A node's keys are no coordinator's."""
    home, plain = coordinator_at(tmp_path), "--unencrypted-with-the-keys-in-it"
    (on_coordinator if to is on_node else on_node)(
        "backup", tmp_path / "b", plain, "--home", home.root if to is on_node else alpha.root
    )
    with pytest.raises(Refused, match="This is the backup of"):
        to("restore", tmp_path / "b", "--home", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_state_of_a_round_in_training_is_left_out(
    alpha: NodeHome, tmp_path: Path, secret: Path
) -> None:
    """ADR 18: without the epoch's key it is of no use, and it is as private as an update."""
    step = next(alpha.outbox.glob("*/*")) / "step"
    step.write_bytes(b"state")
    new = tmp_path / "new"
    on_node("backup", tmp_path / "b", "--passphrase-file", secret, "--home", alpha.root)
    on_node("restore", tmp_path / "b", "--passphrase-file", secret, "--home", new)
    assert str(step.relative_to(alpha.root)) not in names(new)
    assert any(name.startswith("outbox/run/") for name in names(new))


def test_restored_coordinator_voids_open_tokens_and_waits_for_its_operator(
    tmp_path: Path, secret: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Certificates revoked since the backup are valid again: somebody has to have read which."""
    home = coordinator_at(tmp_path)
    with Counter(home, RegistryLimits()) as counter:
        member = Hall(tmp_path, counter).admitted("alpha")
        open_token = counter.invite("beta")
    file, new = tmp_path / "c", CoordinatorHome(tmp_path / "new")
    on_coordinator("backup", file, "--passphrase-file", secret, "--home", home.root)
    on_coordinator("restore", file, "--passphrase-file", secret, "--home", new.root)
    assert new.run_key.read_bytes() == home.run_key.read_bytes()
    with RegistryBook(new) as book:
        states = {item.fingerprint: item.state for item in book.certificates()}
    assert states[fingerprint(open_token.certificate)] == "revoked"
    assert states[member.certificate] == "valid"
    with pytest.raises(Refused, match="restored from a backup"):
        registry.serve(new, lambda port: None)
    with pytest.raises(Refused, match="restored from a backup"):
        superlink.conduct(new, "spring", lambda _: None)
    with pytest.raises(Refused, match="restored from a backup"):
        service.serve(new, environment={})
    on_coordinator("restored", "--yes", "--home", new.root)
    assert "alpha" in capsys.readouterr().out
    assert not new.restored.exists()
    with pytest.raises(OurMistake, match="not restored"):
        on_coordinator("restored", "--yes", "--home", new.root)


def test_running_registry_is_not_backed_up(tmp_path: Path) -> None:
    """Nor a running coordinator."""
    home = coordinator_at(tmp_path)
    for lock in (home.lock, home.registry_lock):
        with locked(lock), pytest.raises(OurMistake, match="is running"):
            on_coordinator(
                *("backup", tmp_path / "b", "--unencrypted-with-the-keys-in-it"),
                *("--home", home.root),
            )


def test_damaged_database_in_a_backup_is_not_believed(alpha: NodeHome, tmp_path: Path) -> None:
    """A ledger edited in an unencrypted backup does not verify, whatever its manifest says."""
    file, new = tmp_path / "b", NodeHome(tmp_path / "new")
    copy = NodeHome(tmp_path / "copy")
    shutil.copytree(alpha.root, copy.root)
    with sqlite3.connect(copy.ledger) as base:
        base.execute("DROP TRIGGER entries_are_never_deleted")
        base.execute("DELETE FROM entries WHERE sequence = 2")
    base.close()
    with pytest.raises(Refused):
        on_node("backup", file, "--unencrypted-with-the-keys-in-it", "--home", copy.root)
    assert not new.root.exists()


def test_coordinators_doctor_tells_what_is_there_and_what_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No roster: broken. A registry that does not run: attention. Keys open to all: broken."""
    from server import doctor

    home = coordinator_at(tmp_path)
    found = {one.check: one for one in doctor.examine(home)}
    assert found["roster"].state == "broken"
    assert found["registry"].state == "attention"
    for name in ("coordinator.toml", "keys", "rights", "authority", "server certificate"):
        assert found[name].state == "ok", found[name]
    home.run_key.chmod(0o644)
    home.restored.touch()
    again = {one.check: one for one in doctor.examine(home)}
    assert again["rights"].state == again["keys"].state == again["restored"].state == "broken"
    assert TODAY.year > 2000
    none = doctor.examine(CoordinatorHome(tmp_path / "none"))
    assert [one.state for one in none] == ["broken"]
