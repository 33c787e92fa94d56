"""The hospital's processes: Flower's SuperNode, our training process, the console; kept running.

The SuperNode speaks to the coordinator. The training process takes the coordinator's messages from
it and answers them with the installed package only. What is started and ended when is decided by
`client.supervisor`; this module looks around twice a second and carries it out.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from client import keys
from client.home import NodeHome
from client.ledger_store import LedgerStore
from client.node_loop import QUIET, Loop, Place
from client.settings import settings_of
from shared_model.children import Family
from shared_model.errors import OurMistake, Refused
from shared_model.files import write_atomic
from shared_model.locks import is_locked, locked
from shared_model.signing import load_key_file, write_secret

__all__ = ["QUIET", "check_books", "is_running", "serve"]


def serve(
    home: NodeHome,
    on_start: Callable[[], None],
    tell: Callable[[str], None] = lambda words: None,
    *,
    work: str = "client.app:work",
) -> None:
    """Run the node until it is interrupted.

    Args:
        on_start: called once the processes are started, or the node rests.
        tell: called with a sentence for people whenever how the node is changes.
        work: entry of the training process; another one in simulations only.

    Raises:
        OurMistake: not initialised, not joined, running already, node.toml is wrong.
        Refused: the policy or the ledger is missing, damaged, edited or older than it was.
        PeerFault: the coordinator does not know this node.
    """
    invitation = keys.pinned(home)
    settings = settings_of(home)
    check_books(home)
    flower = home.root / "flower"
    certificate = flower / "coordinator-ca.pem"
    write_atomic(certificate, invitation.ca_certificate.encode())
    with _only_one(home), _secret(flower / "app.secret") as secret:
        place = Place(home, invitation.address, certificate, secret, free_port, check_books, work)
        loop: Loop | None = None
        try:
            with Family() as family:
                loop = Loop(place, settings, family, tell)
                try:
                    loop.run(on_start)
                except BaseException as error:
                    loop.ending(error)
                    raise
        except BaseException as error:
            if loop is not None:
                loop.ended(error)
            raise


def is_running(home: NodeHome) -> bool:
    """Whether this node runs now."""
    return is_locked(home.root / "node.lock")


def check_books(home: NodeHome) -> None:
    """A node with unreadable limits or a broken ledger does not start (design: "The ledger").

    Raises:
        OurMistake: policy.toml is absent or wrong.
        Refused: reasons "ledger" (names the entry), "restored".
    """
    from client.node_parts import outbox_of
    from client.policy import Policy

    Policy.from_file(home.policy)
    if outbox_of(home).was_rolled_back():
        raise Refused(
            "This node's folder was restored from a backup: it does not know all that it has "
            "signed and spent.",
            reason="restored",
            do="Run: fedprint-node restored",
        )
    site = keys.load_config(home).site
    LedgerStore.open(home, site, load_key_file(home.identity_key)).close()


@contextmanager
def _only_one(home: NodeHome) -> Iterator[None]:
    busy = OurMistake(f"The node in {home.root} is running.", do="Stop it first, or choose --home.")
    with locked(home.root / "node.lock", busy):
        yield


@contextmanager
def _secret(path: Path) -> Iterator[Path]:
    """A fresh secret for this start: only our process may take messages from the SuperNode."""
    path.unlink(missing_ok=True)
    write_secret(path, secrets.token_bytes(32))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def free_port(wanted: int = 0) -> int:
    """A port of 127.0.0.1 that is free: the wanted one if it still is."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
