"""Backup of a node that is stopped, and restore into a new folder.

A restored node is marked: it refuses to start until `fedprint-node restored`, and trains only once
its ledger was recovered (docs/ledger.md), because what it did since the backup is not in it.
"""

from __future__ import annotations

import datetime
import fnmatch
import os
import secrets
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from client import keys, node, withdrawals
from client.epochs import prepare
from client.home import NodeHome
from client.ledger_store import LedgerStore
from client.node_parts import outbox_of
from shared_model.backup import Manifest
from shared_model.backup_files import files_below, restoring, write_backup
from shared_model.errors import OurMistake
from shared_model.files import write_atomic
from shared_model.locks import locked
from shared_model.signing import load_key_file

LEFT_OUT = ("never-back-up", "logs", "state", "inbox", "flower")
"""The epoch's key; what is made again or fetched again."""
STORE = "store"


def _left_out(name: str) -> bool:
    """State of a round in training (ADR 18), of no use without the epoch's key; and what SQLite has
    beside the ledger while a command writes an entry: beside the copy it would undo pages of it."""
    return fnmatch.fnmatchcase(name, "outbox/*/*/step") or name.startswith("ledger.sqlite-")


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
            files = {name: path for name, path in files.items() if not _left_out(name)}
            copy = Path(work) / "ledger.sqlite"
            _copy_ledger(home, copy)
            files["ledger.sqlite"] = copy
            return write_backup(
                target,
                list(files.items()),
                links,
                of="node",
                name=site,
                made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                passphrase=passphrase,
                entropy=secrets.token_bytes,
            )


def _copy_ledger(home: NodeHome, copy: Path) -> None:
    """A whole copy, also if a command writes an entry meanwhile."""
    with closing(sqlite3.connect(home.ledger)) as source, closing(sqlite3.connect(copy)) as sink:
        source.backup(sink)
    os.chmod(copy, 0o600)
    identity = load_key_file(home.identity_key)
    with LedgerStore.open(home, keys.load_config(home).site, identity) as store:
        entries = len(store.chain.links)  # those that were lost have a number, and no row
    with closing(sqlite3.connect(f"file:{copy}?mode=ro", uri=True)) as check:
        (held,) = check.execute("SELECT count(*) FROM entries").fetchone()
    if held != entries:
        raise OurMistake("The ledger grew while it was copied.", do="Make the backup again.")


def restore(source: Path, folder: Path, ask_passphrase: Callable[[], str]) -> Manifest:
    """Everything is checked before anything is written; the folder must not exist.

    Raises:
        OurMistake: the folder exists.
        Refused: anything about the file that is not as it was made (reason "backup").
    """
    with restoring(source, folder, "node", ask_passphrase) as (manifest, beside):
        _mark(NodeHome(beside))
    return manifest


def _mark(home: NodeHome) -> None:
    """As `Outbox.was_rolled_back` reads it: a count that is none is above every other."""
    prepare(home.never_back_up)
    text = b"restored from a backup; run: fedprint-node restored\n"
    write_atomic(home.never_back_up / "writes", text, mode=0o600)
    withdrawals.mark_unknown(home)
