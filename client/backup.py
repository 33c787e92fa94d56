"""Backup of a node that is stopped, and restore into a new folder.

A restored node is marked: it refuses to start until `fedprint-node restored`, and trains only once
its ledger was recovered (docs/ledger.md), because what it did since the backup is not in it.
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

from client import keys, node
from client.epochs import prepare
from client.home import NodeHome
from client.ledger_store import LedgerStore
from client.node_parts import outbox_of
from shared_model import backup, machine
from shared_model.backup import Manifest
from shared_model.backup_files import destination, files_below, link_entries, opened, placed
from shared_model.errors import OurMistake, Refused
from shared_model.files import write_atomic
from shared_model.locks import locked
from shared_model.signing import load_key_file

LEFT_OUT = ("never-back-up", "logs", "state", "inbox", "flower")
"""The epoch's key; what is made again or fetched again."""
STORE = "store"


def make(home: NodeHome, target: Path, *, passphrase: str | None, with_store: bool) -> Manifest:
    """Write a backup of this node.

    Raises:
        OurMistake: the node runs, the file exists, or a file changed meanwhile.
        Refused: the ledger is not whole and current ("ledger"), or the folder was restored and not
            said so ("restored"): such a node needs recovery, not a backup of its state.
    """
    site = keys.load_config(home).site
    busy = OurMistake(
        f"The node in {home.root} is running.",
        do="Stop it, make the backup, start it: a copy of a running node is not one state.",
    )
    with locked(home.root / "node.lock", busy), outbox_of(home).locked():
        node.check_books(home)
        with (
            tempfile.TemporaryDirectory(dir=home.root, prefix=".backup-") as work,
            locked(home.root / "roster.lock"),
        ):
            files, links = files_below(home.root, LEFT_OUT if with_store else (*LEFT_OUT, STORE))
            copy = Path(work) / "ledger.sqlite"
            _copy_ledger(home, copy)
            files["ledger.sqlite"] = copy
            listed = list(files.items())
            manifest = Manifest(
                of="node",
                name=site,
                fedprint=machine.version_of("fedprint") or "unknown",
                made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                files=backup.entries_of(listed),
                links=link_entries(links),
            )
            with destination(target) as stream:
                backup.write(
                    stream, listed, manifest, passphrase=passphrase, entropy=secrets.token_bytes
                )
    return manifest


def _copy_ledger(home: NodeHome, copy: Path) -> None:
    """A whole copy, also if a command writes an entry meanwhile."""
    with closing(sqlite3.connect(home.ledger)) as source, closing(sqlite3.connect(copy)) as sink:
        source.backup(sink)
    os.chmod(copy, 0o600)
    identity = load_key_file(home.identity_key)
    with LedgerStore.open(home, keys.load_config(home).site, identity) as store:
        length = store.chain.length
    with closing(sqlite3.connect(f"file:{copy}?mode=ro", uri=True)) as check:
        (held,) = check.execute("SELECT count(*) FROM entries").fetchone()
    if held != length:
        raise OurMistake("The ledger grew while it was copied.", do="Make the backup again.")


def restore(source: Path, folder: Path, ask_passphrase: Callable[[], str]) -> Manifest:
    """Everything is checked before anything is written; the folder must not exist.

    Raises:
        OurMistake: the folder exists.
        Refused: anything about the file that is not as it was made (reason "backup").
    """
    with opened(source) as stream:
        passphrase = ask_passphrase() if backup.is_encrypted(stream) else None
        manifest = backup.check(stream, passphrase)
        if manifest.of != "node":
            raise Refused(
                "This is the backup of a coordinator.",
                reason="backup",
                do="Run: fedprint-coordinator restore FILE",
            )
        with placed(folder) as beside:
            backup.unpack(stream, passphrase, beside)
            _mark(NodeHome(beside))
    return manifest


def _mark(home: NodeHome) -> None:
    """As `Outbox.was_rolled_back` reads it: a count that is none is above every other."""
    prepare(home.never_back_up)
    text = b"restored from a backup; run: fedprint-node restored\n"
    write_atomic(home.never_back_up / "writes", text, mode=0o600)
