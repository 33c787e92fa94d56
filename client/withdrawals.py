"""Who has withdrawn, after a restore: the window store holds the list, and it is older, or gone.

    withdrawals-not-known          there until somebody says that everyone is withdrawn again
    never-back-up/withdrawals      the most that the store has had; no number with the first

While the first is there, the node uses no window of anybody: it neither trains nor makes
fingerprints, and takes no recordings in. It is put there by `restore`, by `restored`, by `ledger
recover`, and by whoever writes the store where it holds fewer withdrawals than the second says: it
was put back, alone or with its folder. Readers refuse such a store without writing anything. A
snapshot of the whole machine brings both back, and only the other hospitals see it, by the ledger.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from client.epochs import prepare
from client.home import NodeHome
from shared_model.errors import OurMistake, Refused
from shared_model.files import write_atomic

_MOST = 10**18
_NO_COUNT = b"restored\n"
DO = (
    "Withdraw each patient again by identifier (fedprint-node data withdraw), then run: "
    "fedprint-node data withdrawals-hold"
)
DO_FORMER = (
    "Run: fedprint-node data remove --all. Withdraw each patient again by identifier "
    "(fedprint-node data withdraw). Then: fedprint-node data add FOLDER --withdrawals-hold"
)


def mark_unknown(home: NodeHome) -> None:
    """After a restore of whatever part of the node. The count goes first: the mark lies in a folder
    that may be put back once more, and no number of withdrawals makes up for it."""
    _write(home, _NO_COUNT)
    text = b"restored: who withdrew since the backup has to be withdrawn again\n"
    write_atomic(home.withdrawals_unknown, text, mode=0o600)


def are_unknown(home: NodeHome) -> bool:
    """Whether the node was restored and nobody has said since that the withdrawals hold."""
    return home.withdrawals_unknown.exists()


def seen(home: NodeHome) -> tuple[int, int] | None:
    """Which mark there is, to look later whether it is still that one; None: there is none."""
    try:
        found = home.withdrawals_unknown.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def say_they_hold(home: NodeHome, count: int) -> None:
    """Everyone who has withdrawn is withdrawn in the store of now, which holds so many. By whoever
    has the store's lock."""
    _write(home, str(count).encode("ascii"))
    home.withdrawals_unknown.unlink(missing_ok=True)


def noted(home: NodeHome) -> int:
    """How many withdrawals the store has had. To be read before its manifest: a withdrawal is
    published first and noted then, so that a store of now never has fewer.

    A note that is no number is above every count, and so is none where the ledger's own, beside
    it, is gone: the folder was put back without `never-back-up/`.

    Raises:
        OurMistake: it cannot be read.
    """
    try:
        text = _note(home).read_bytes()
    except FileNotFoundError:
        return _MOST if home.ledger_marker.exists() and not home.ledger_note.exists() else 0
    except OSError as error:
        raise OurMistake(
            f"{_note(home)} cannot be read ({error.strerror}).",
            do=f"Give it to the node's user (chown). If it is no file: {DO}",
        ) from error
    return int(text) if text.isdigit() and len(text) < len(str(_MOST)) else _MOST


def keep_count(home: NodeHome, count: int) -> None:
    """By whoever has the store's lock, of a store with so many withdrawals: mark where they are
    fewer than there were, else note them. The note never sinks here: the same old store may be put
    back again, and with it the folder that has the mark."""
    before = noted_or_most(home)
    if count < before:
        if not are_unknown(home):
            mark_unknown(home)
    elif count > before:
        _write(home, str(count).encode("ascii"))


def refuse_unknown(home: NodeHome, *, reason: str) -> None:
    """Before recordings are added.

    Raises:
        Refused: the withdrawals of since the backup are not known (with the reason given).
    """
    if are_unknown(home):
        raise refused(reason)


def are_known(home: NodeHome, before: int, count: int) -> bool:
    """Whether the store's list of who has withdrawn is that of now.

    Args:
        before: `noted`, from before the store was opened. count: of the withdrawals in it.
    """
    return not are_unknown(home) and count >= before


def refused(reason: str) -> Refused:
    return Refused(
        "This node was restored from a backup: who has withdrawn since would be used again.",
        reason=reason,
        do=DO,
    )


def _note(home: NodeHome) -> Path:
    return home.never_back_up / "withdrawals"


def noted_or_most(home: NodeHome) -> int:
    """Where it cannot be read every store may be older; nobody is kept from withdrawing."""
    try:
        return noted(home)
    except OurMistake:
        return _MOST


def _write(home: NodeHome, text: bytes) -> None:
    prepare(home.never_back_up)
    note = _note(home)
    if note.is_dir() and not note.is_symlink():  # nothing of ours: kept aside
        note.rename(note.with_name(f"withdrawals.{secrets.token_hex(4)}"))
    write_atomic(note, text, mode=0o600)
