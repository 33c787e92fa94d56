"""The key that encrypts the window store: from a systemd credential, else from a file.

    key = key_of(home)                            # None: none is configured, the store is plain

The key is the hospital's: it is read at every start, never copied, never shown. It must not lie in
the node's own folder, so that a copy or back-up of that folder never holds both.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client.home import NodeHome
from client.settings import settings_of
from shared_model.errors import OurMistake
from shared_model.files import write_atomic
from shared_model.signing import write_secret

KEY_BYTES = 32
CREDENTIAL = "fedprint-store-key"
_WRITABLE_OR_FOR_ALL = 0o027
"""systemd gives the service's user a read entry in an access list, which shows as the group's."""


@dataclass(frozen=True)
class StoreKey:
    """secret: KEY_BYTES of the hospital's. source: where from, in words, for people."""

    secret: bytes = field(repr=False)
    source: str


def key_of(home: NodeHome) -> StoreKey | None:
    """The key that is configured for this node; None if none is.

    Raises:
        OurMistake: one is configured and cannot be used; says why. Never its content.
    """
    credential = _credential()
    if credential is not None:
        return credential
    configured = configured_file(home)
    return None if configured is None else read_key_file(home, configured)


def configured_file(home: NodeHome) -> Path | None:
    """`[store] key_file` of node.toml; None if it names none, or the node has no node.toml yet.

    Raises:
        OurMistake: node.toml is wrong, or the path is none of the root's.
    """
    if not home.config.exists():
        return None
    named = settings_of(home).store.key_file
    return checked_path(home, named) if named else None


def checked_path(home: NodeHome, named: str) -> Path:
    """Where a key file may lie: an absolute path outside of the node's own folder.

    Raises:
        OurMistake: it is another one.
    """
    path = Path(named)
    if not path.is_absolute():
        raise OurMistake(
            f"The store's key file {named!r} is not an absolute path.",
            do="Write the whole path, for example /etc/fedprint/store.key.",
        )
    if path.resolve().is_relative_to(home.root.resolve()):
        raise OurMistake(
            f"The store's key file {path} lies in the node's own folder, beside what it protects.",
            do="Move it out of the folder, for example to /etc/fedprint/store.key.",
        )
    return path


def read_key_file(home: NodeHome, path: Path) -> StoreKey:
    """Read a key file of the hospital.

    Raises:
        OurMistake: absent, a link or no regular file, of another owner, readable by others, or not
            exactly KEY_BYTES long.
    """
    return StoreKey(_read(checked_path(home, str(path)), 0o077), f"the file {path}")


def make_key_file(home: NodeHome, path: Path) -> None:
    """Write a new key from the operating system's entropy, mode 0600; durable on return.

    Raises:
        OurMistake: the file exists (a key is never overwritten), or it cannot be written there.
    """
    checked_path(home, str(path))
    try:
        write_secret(path, os.urandom(KEY_BYTES))
    except OSError as error:
        raise OurMistake(
            f"The store's key cannot be written to {path}: {os.strerror(error.errno or 0)}.",
            do="Make its folder, as the user that the node runs as.",
        ) from error


def credential_is_given() -> bool:
    """Whether systemd handed this process a key."""
    return _credential_path() is not None


def name_key_file(home: NodeHome, path: Path | None) -> bool:
    """Let `[store] key_file` of node.toml name this file, or none; nothing else in it changes.

    Returns:
        Whether it had to be changed.

    Raises:
        OurMistake: the line cannot be found by itself; says what to write.
    """
    wanted = "" if path is None else str(path)
    if settings_of(home).store.key_file == wanted:
        return False
    text = home.config.read_text()
    target: dict[str, Any] = tomllib.loads(text)
    target["store"] = {**target.get("store", {}), "key_file": wanted}
    line = f"key_file = {json.dumps(wanted, ensure_ascii=False)}"
    for changed in (
        re.sub(r"(?m)^[ \t]*key_file[ \t]*=.*$", lambda _: line, text, count=1),
        re.sub(r"(?m)^[ \t]*\[store\][ \t]*$", lambda _: f"[store]\n{line}", text, count=1),
        f"{text.rstrip()}\n\n[store]\n{line}\n",
    ):
        try:
            right = tomllib.loads(changed) == target
        except tomllib.TOMLDecodeError:
            continue
        if right:
            mode = stat.S_IMODE(home.config.stat().st_mode)
            write_atomic(home.config, changed.encode(), mode=mode)
            return True
    raise OurMistake(
        f"{home.config} could not be changed by itself.",
        do=f"Write under [store]: {line} Then run this command again.",
    )


def _credential_path() -> Path | None:
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if not folder:
        return None
    path = Path(folder) / CREDENTIAL
    return path if os.path.lexists(path) else None


def _credential() -> StoreKey | None:
    path = _credential_path()
    if path is None:
        return None
    return StoreKey(_read(path, _WRITABLE_OR_FOR_ALL), f"the systemd credential {CREDENTIAL}")


def _read(path: Path, forbidden: int) -> bytes:
    """Content of a key file; `forbidden` are the mode bits that it must not have."""
    do = "Restore the key from where the hospital keeps it; without it the store cannot be read."
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        words = os.strerror(error.errno or 0)
        raise OurMistake(f"The store's key {path} cannot be read: {words}.", do=do) from error
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise OurMistake(f"The store's key {path} is not a regular file.", do=do)
        if about.st_uid not in (os.geteuid(), 0):
            raise OurMistake(
                f"The store's key {path} belongs to another user.",
                do=f"As root, give it to the node's user: chown USER {path}",
            )
        if about.st_mode & forbidden:
            raise OurMistake(f"Others may use the store's key {path}.", do=f"chmod 600 {path}")
        secret = os.read(descriptor, KEY_BYTES + 1)
    finally:
        os.close(descriptor)
    if not secret:
        raise OurMistake(
            f"The store's key {path} is empty.",
            do="If an interrupted `data encrypt` left it so, remove it and run it again. Else: "
            + do,
        )
    if len(secret) != KEY_BYTES:
        raise OurMistake(
            f"The store's key {path} is not exactly {KEY_BYTES} bytes long.",
            do="A key is raw bytes, no text. " + do,
        )
    return secret
