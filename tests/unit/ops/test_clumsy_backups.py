"""Backups by people who run commands as the wrong user, and to disks that cannot do everything."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from registry_stand_ins import node_at

from client import backup as node_backup
from client.home import NodeHome
from client.ledger_store import LedgerStore
from client.policy import Policy
from shared_model import backup_files
from shared_model.backup_files import destination, files_below
from shared_model.errors import OurMistake
from shared_model.signing import load_key_file


@pytest.fixture
def alpha(tmp_path: Path) -> NodeHome:
    home = node_at(tmp_path / "alpha", "alpha")
    Policy.write_default(home.policy, declared_patients=100)
    with LedgerStore.open(home, "alpha", load_key_file(home.identity_key)) as store:
        store.incident("run", 1, "test", 1e-5)
    return home


def test_folder_that_cannot_be_looked_into_ends_the_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that was run as root left a folder of root's: no backup without what is in it."""
    (tmp_path / "outbox" / "run").mkdir(parents=True)
    scandir = os.scandir

    def refused(path: str) -> object:
        if Path(path).name == "run":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(OurMistake, match="run cannot be read"):
        files_below(tmp_path, ())


def overtaken(target: Path) -> None:
    """Another file gets the name while ours is written."""
    with destination(target) as stream:
        stream.write(b"ours")
        target.write_bytes(b"another's")


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_a_disk_without_hard_links_takes_a_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A stick with exFAT, a share of Windows; what came meanwhile is still never written over."""

    def link(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    with destination(tmp_path / "b") as stream:
        stream.write(b"whole")
    assert (tmp_path / "b").read_bytes() == b"whole"
    with pytest.raises(OurMistake, match="exists already"):
        overtaken(tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]
    assert (tmp_path / "c").read_bytes() == b"another's"


def test_a_file_that_came_meanwhile_is_told_in_words(tmp_path: Path) -> None:
    """With hard links, too."""
    with pytest.raises(OurMistake, match="exists already"):
        overtaken(tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == b"another's"


def test_a_full_disk_leaves_no_half_backup_and_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a traceback after a minute of writing."""

    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(backup_files.os, "fsync", fsync)
    with pytest.raises(OurMistake, match="No space left"), destination(tmp_path / "b") as stream:
        stream.write(b"half")
    assert list(tmp_path.iterdir()) == []


def test_journal_of_the_ledger_is_in_no_backup(alpha: NodeHome, tmp_path: Path) -> None:
    """The copy is whole without it; beside the copy SQLite would undo pages of it."""
    for name in ("ledger.sqlite-journal", "ledger.sqlite-wal", "ledger.sqlite-shm"):
        (alpha.root / name).write_bytes(b"")
    made = node_backup.make(alpha, tmp_path / "b", passphrase=None, with_store=False)
    assert [entry.name for entry in made.files if "sqlite" in entry.name] == ["ledger.sqlite"]


@pytest.mark.parametrize("where", ["parent", "place"])
def test_a_place_that_cannot_be_written_is_told_in_words(
    alpha: NodeHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A volume of a container is a mount point: its parent is read-only, and it is not replaced."""
    node_backup.make(alpha, tmp_path / "b", passphrase=None, with_store=False)
    new = tmp_path / "volumes" / "new"
    new.mkdir(parents=True)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    if where == "parent":
        monkeypatch.setattr(backup_files.tempfile, "mkdtemp", fail)
    else:
        monkeypatch.setattr(backup_files.os, "replace", fail)
    with pytest.raises(OurMistake, match="Read-only") as told:
        node_backup.restore(tmp_path / "b", new, lambda: "")
    assert "mount point" in told.value.do
    assert list(new.parent.iterdir()) == [new]
    assert list(new.iterdir()) == []


def test_the_mark_of_a_restored_node_is_durable_before_the_folder_is_in_its_place(
    alpha: NodeHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut must not leave a restored node that does not know that it was."""
    node_backup.make(alpha, tmp_path / "b", passphrase=None, with_store=False)
    synced: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def placed(old: str | Path, new: str | Path) -> None:
        if Path(new) == tmp_path / "new":
            mark = str(Path(old) / "never-back-up")
            assert synced.index(str(old), synced.index(mark)) > synced.index(mark)
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", placed)
    node_backup.restore(tmp_path / "b", tmp_path / "new", lambda: "")
    assert (tmp_path / "new" / "never-back-up" / "writes").is_file()
