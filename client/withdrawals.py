"""Who has withdrawn, after a restore: the window store holds the list, and it is older, or gone.

    withdrawals-not-known          there until somebody says that everyone is withdrawn again
    never-back-up/withdrawals      how many the store had when it was last written or looked at

While the first is there, the node uses no window of anybody: it neither trains nor makes
fingerprints, and takes no recordings in. It is put there by `restore`, by `restored`, by `ledger
recover`, and wherever the store is seen to hold fewer withdrawals than the second says: it was put
back, alone or with its folder. A snapshot of the whole machine brings both back, and only the other
hospitals see it, by the ledger.
"""

from __future__ import annotations

from pathlib import Path

from client.epochs import prepare
from client.home import NodeHome
from shared_model.errors import Refused
from shared_model.files import write_atomic

DO = (
    "Withdraw each patient again by identifier (fedprint-node data withdraw), then run: "
    "fedprint-node data withdrawals-hold"
)


def mark_unknown(home: NodeHome) -> None:
    """After a restore of whatever part of the node."""
    text = b"restored: who withdrew since the backup has to be withdrawn again\n"
    write_atomic(home.withdrawals_unknown, text, mode=0o600)


def are_unknown(home: NodeHome) -> bool:
    """Whether the node was restored and nobody has said since that the withdrawals hold."""
    return home.withdrawals_unknown.exists()


def say_they_hold(home: NodeHome) -> bool:
    """Everyone who has withdrawn is withdrawn in the store of now; whether this was open."""
    try:
        home.withdrawals_unknown.unlink()
    except FileNotFoundError:
        return False
    return True


def are_fewer(home: NodeHome, count: int) -> bool:
    """Whether the store, which holds so many withdrawals, is older than this node has seen it."""
    noted = _noted(home)
    return noted is None or count < noted


def compare(home: NodeHome, count: int) -> None:
    """Note how many withdrawals the store holds (0: there is none); mark where they are fewer.

    The mark comes first: whatever interrupts this, it is found again.
    """
    if are_fewer(home, count):
        mark_unknown(home)
    if _noted(home) != count:
        prepare(home.never_back_up)
        write_atomic(_note(home), str(count).encode("ascii"), mode=0o600)


def refuse_unknown(home: NodeHome, *, reason: str) -> None:
    """Before windows are used or recordings are added.

    Raises:
        Refused: the withdrawals of since the backup are not known (with the reason given).
    """
    if are_unknown(home):
        raise Refused(
            "This node was restored from a backup: who has withdrawn since would be used again.",
            reason=reason,
            do=DO,
        )


def _note(home: NodeHome) -> Path:
    return home.never_back_up / "withdrawals"


def _noted(home: NodeHome) -> int | None:
    """0 where there never was one; None: the note is no number, so that every store is older."""
    try:
        return int(_note(home).read_bytes()[:20])
    except FileNotFoundError:
        return 0
    except ValueError:
        return None
