"""Fetching a release from the registry: in pieces, resumed where it stopped, checked by digest.

What is fetched is not installed: `fedprint-node install` verifies signatures and lineage.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from client.home import NodeHome
from client.registry_client import Session, Unreachable
from shared_model import registry
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.files import sync_folder
from shared_model.protocol import COORDINATOR
from shared_model.registry import ReleaseEntry
from shared_model.release_files import ARCHIVE_LIMIT_BYTES, ARCHIVE_SUFFIX

ATTEMPTS = 10
"""Tries in a row that bring nothing; a try that brings a byte begins to count anew."""
LONGEST_PAUSE_S = 60.0


def listed(session: Session) -> tuple[ReleaseEntry, ...]:
    """What the registry has, by number."""
    return session.call("Releases", registry.Ask(), registry.Releases).releases


def fetch(
    home: NodeHome,
    session: Session,
    entry: ReleaseEntry,
    *,
    on_bytes: Callable[[int], None],
    pause: Callable[[float], None],
) -> Path:
    """Bring one release into the inbox.

    Args:
        on_bytes: told how many bytes are here.
        pause: waits so many seconds between tries.

    Returns:
        The .fedprint file.

    Raises:
        Refused: too large ("size"), or the registry's reason; what is here is kept.
        PeerFault: not the bytes that were listed (they are removed), or not reachable.
        OurMistake: another fetch of it is under way.
    """
    if entry.size_bytes > ARCHIVE_LIMIT_BYTES:
        raise Refused("The release is larger than a release can be.", reason="size")
    target = home.inbox / f"release-{entry.number}{ARCHIVE_SUFFIX}"
    if target.exists() and _digest(target) == entry.sha256:
        on_bytes(entry.size_bytes)
        return target
    home.inbox.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = home.inbox / f"release-{entry.number}-{entry.sha256[:16]}.part"
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(part, flags, 0o600), "r+b", buffering=0) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OurMistake(
                "This release is being fetched already.", do="Wait for it to end."
            ) from error
        _fill(stream.fileno(), session, entry, on_bytes, pause)
        os.fsync(stream.fileno())
        if _digest(part) != entry.sha256:
            part.unlink()
            raise PeerFault(
                "What came is not the release that the registry listed; it was removed.",
                site=COORDINATOR,
                do="Fetch it again; if that does not help, tell the operator.",
            )
        os.replace(part, target)
    sync_folder(home.inbox)
    return target


def _fill(
    descriptor: int,
    session: Session,
    entry: ReleaseEntry,
    on_bytes: Callable[[int], None],
    pause: Callable[[float], None],
) -> None:
    have = os.fstat(descriptor).st_size
    fruitless = 0
    while have < entry.size_bytes:
        before = have
        try:
            for piece in session.pieces(entry.sha256, have):
                if have + len(piece) > entry.size_bytes:
                    os.ftruncate(descriptor, 0)
                    raise PeerFault("The registry sends more than it listed.", site=COORDINATOR)
                have += _write(descriptor, piece)
                on_bytes(have)
            if have < entry.size_bytes:
                raise Unreachable("The stream ended early.", site=COORDINATOR)
        except (Unreachable, Refused) as error:
            if isinstance(error, Refused) and error.reason not in ("stalled", "rate"):
                raise
            fruitless = fruitless + 1 if have == before else 0
            if fruitless >= ATTEMPTS:
                raise
            pause(min(LONGEST_PAUSE_S, 2.0**fruitless))


def _write(descriptor: int, piece: bytes) -> int:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    return len(piece)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
