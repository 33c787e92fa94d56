"""Who has withdrawn, after a restore: the window store holds the list, and it is older, or gone.

Until somebody says that everyone is withdrawn again, the node uses no window of anybody: it neither
trains nor makes fingerprints, and takes no recordings in.
"""

from __future__ import annotations

from client.home import NodeHome
from shared_model.errors import Refused
from shared_model.files import write_atomic

WITHDRAW = "Withdraw each patient again by identifier (fedprint-node data withdraw)"
HOLD = "fedprint-node data withdrawals-hold"


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


def refuse_unknown(home: NodeHome, *, reason: str) -> None:
    """Before windows are used or recordings are added.

    Raises:
        Refused: the withdrawals of since the backup are not known (with the reason given).
    """
    if are_unknown(home):
        raise Refused(
            "This node was restored from a backup: who has withdrawn since would be used again.",
            reason=reason,
            do=f"{WITHDRAW}, then run: {HOLD}",
        )
