"""Backup of a coordinator that is stopped, and restore into a new folder.

A restored coordinator is marked: its registry does not start until `fedprint-coordinator restored`,
because certificates that were revoked since the backup are valid in it again. Its open tokens are
void at once.
"""

from __future__ import annotations

import datetime
import os
import secrets
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from server import registry, superlink
from server.home import CoordinatorHome
from server.registry_book import Listed, RegistryBook
from shared_model.backup import Manifest
from shared_model.backup_files import files_below, restoring, write_backup
from shared_model.errors import OurMistake
from shared_model.files import write_atomic

LEFT_OUT = ("flower", "logs", "release-archives")
"""What is made again."""
_OF_SQLITE = ("-journal", "-wal", "-shm")
"""Beside a database that a process has open; its copy is whole without them."""


def make(home: CoordinatorHome, target: Path, *, passphrase: str | None) -> Manifest:
    """Write a backup of this coordinator.

    Raises:
        OurMistake: it or its registry runs, the file exists, or a file changed meanwhile.
    """
    config = superlink.load_config(home)
    with (
        superlink.only_one(home),
        registry.only_one(home),
        tempfile.TemporaryDirectory(dir=home.root, prefix=".backup-") as work,
    ):
        files, links = files_below(home.root, LEFT_OUT)
        for path in [path for name, path in files.items() if name.endswith(".sqlite")]:
            copy = Path(work) / f"{len(list(Path(work).iterdir()))}.sqlite"
            with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as sink:
                source.backup(sink)
            os.chmod(copy, 0o600)
            files[str(path.relative_to(home.root))] = copy
        listed = [item for item in files.items() if not item[0].endswith(_OF_SQLITE)]
        return write_backup(
            target,
            listed,
            links,
            of="coordinator",
            name=config.address,
            made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            passphrase=passphrase,
            entropy=secrets.token_bytes,
        )


def restore(source: Path, folder: Path, ask_passphrase: Callable[[], str]) -> Manifest:
    """Everything is checked before anything is written; the folder must not exist.

    Raises:
        OurMistake: the folder exists.
        Refused: anything about the file that is not as it was made (reason "backup").
    """
    with restoring(source, folder, "coordinator", ask_passphrase) as (manifest, beside):
        home = CoordinatorHome(beside)
        write_atomic(home.restored, b"run: fedprint-coordinator restored\n", mode=0o600)
        _void_tokens(home)
    return manifest


def _void_tokens(home: CoordinatorHome) -> None:
    if not home.registry_book.exists():
        return
    with RegistryBook(home) as book, book.change():
        for item in book.certificates():
            if item.state == "open":
                book.set_state(item.fingerprint, "revoked")


def valid_again(home: CoordinatorHome) -> list[Listed]:
    """Certificates that the restored registry takes for valid."""
    with RegistryBook(home) as book:
        return [item for item in book.certificates() if item.state == "valid"]


def accept_restored(home: CoordinatorHome) -> None:
    """The operator has read `valid_again`.

    Raises:
        OurMistake: this folder was not restored.
    """
    if not home.restored.exists():
        raise OurMistake("This folder was not restored from a backup.")
    home.restored.unlink()
