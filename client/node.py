"""The hospital's two processes: Flower's SuperNode, which speaks to the coordinator, and ours.

Ours takes the coordinator's messages from it and answers them with the installed package only.
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
from shared_model.children import Child, Family
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.files import write_atomic
from shared_model.locks import is_locked, locked
from shared_model.signing import load_key_file, write_secret

QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
WATCH_S = 0.5
_REFUSED = ("Failed to initialize the connection to the SuperLink", "401 Unauthorized")


def serve(home: NodeHome, on_start: Callable[[int], None]) -> None:
    """Run the node until it is interrupted.

    Args:
        on_start: called with the SuperNode's process id once both processes are started.

    Raises:
        OurMistake: not initialised, not joined, running already, or a process ended; says where
            its log is.
        Refused: the policy or the ledger is missing, damaged, edited or older than it was.
        PeerFault: the coordinator does not know this node.
    """
    invitation = keys.pinned(home)
    keys.load_config(home)
    check_books(home)
    flower = home.root / "flower"
    certificate = flower / "coordinator-ca.pem"
    write_atomic(certificate, invitation.ca_certificate.encode())
    port = _free_port()
    with _only_one(home), _secret(flower / "app.secret") as secret, Family() as family:
        node = family.start(
            "SuperNode",
            "client.app:serve_supernode",
            [
                *("--superlink", invitation.address),
                *("--root-certificates", str(certificate)),
                *("--auth-supernode-private-key", str(home.supernode_key)),
                *("--isolation", "process"),
                *("--superexec-auth-secret-file", str(secret)),
                *("--host", "127.0.0.1"),
                *("--port", str(port)),
            ],
            log=home.logs / "supernode.log",
            environment={
                **QUIET,
                "FLWR_HOME": str(flower),
                "FEDPRINT_NODE_HOME": str(home.root),
            },
        )
        worker = family.start(
            "training",
            "client.app:work",
            [f"127.0.0.1:{port}", str(secret)],
            log=home.logs / "training.log",
            environment={
                **QUIET,
                "FLWR_HOME": str(flower),
                "FEDPRINT_NODE_HOME": str(home.root),
            },
        )
        on_start(node.pid)
        while node.wait(WATCH_S) is None:
            if worker.exit_code is not None:
                raise _ended(worker)
        raise _ended(node)


def _ended(child: Child) -> Exception:
    last = child.last_lines()
    if any(words in last for words in _REFUSED):
        return PeerFault(
            "The coordinator does not accept this node.",
            site="coordinator",
            do="Send site.json to the operator, who runs: fedprint-coordinator enrol site.json",
        )
    return OurMistake(
        f"{child.name} ended. The last lines of {child.log}:\n{last}",
        do="Start the node again; its finished work is kept.",
    )


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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
