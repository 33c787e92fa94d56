"""An existing store encrypted, under another key, or plain again: `fedprint-node data encrypt`,
`rekey`, `decrypt`.

Each step is on the disk before the next, and each can be run again after an interruption:
key, node.toml, store. Between them the node refuses to open the store, and says what to run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from client import store_key
from client.home import NodeHome
from client.pseudonyms import load_key
from client.store import is_encrypted, read_manifest
from client.store_key import StoreKey, key_of
from client.store_seal import StoreCipher
from client.store_write import StoreWriter
from shared_model.errors import OurMistake, Refused


@dataclass(frozen=True)
class Changed:
    """What a command did. source: where the key comes from, in words.

    parts: of the store, written anew; None: there is no store yet. settings: whether node.toml was
    changed.
    """

    source: str
    key_made: bool = False
    settings: bool = False
    parts: int | None = 0


def encrypt_store(
    home: NodeHome,
    key_file: Path | None = None,
    *,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Changed:
    """Encrypt the node's store with the configured key, or with `key_file`, made if absent.

    A store that is encrypted with this key already is left alone.

    Args:
        key_file: absolute; node.toml names it afterwards.
        on_stage: called with the name of each step that has just been finished (for crash tests).

    Raises:
        OurMistake: no key, one that cannot be used, or two; no room on the disk.
        Refused: encrypted with another key (reason "store-key"), or another command is writing
            ("locked").
        DataFault: the store is damaged (cause "store").
    """
    made = named = False
    if key_file is not None:
        made, named = _settle(home, key_file, on_stage)
    key = key_of(home)
    if key is None:
        raise OurMistake(
            "No key is configured for the window store.",
            do="Run: fedprint-node data encrypt --key-file /etc/fedprint/store.key "
            f"(made if absent), or give the systemd credential {store_key.CREDENTIAL}.",
        )
    if not (home.store / "manifest.json").exists():
        return Changed(key.source, made, named, None)
    if is_encrypted(home.store):
        # Refuses another key, and removes plain parts that an interrupted command left behind.
        with StoreWriter(home.store, load_key(home.pseudonym_key), key, on_stage=on_stage):
            return Changed(key.source, made, named)
    with StoreWriter(home.store, load_key(home.pseudonym_key), on_stage=on_stage) as writer:
        parts = writer.reseal(StoreCipher.fresh(key.secret))
    return Changed(key.source, made, named, parts)


def rekey_store(
    home: NodeHome,
    key_file: Path,
    *,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Changed:
    """Encrypt the node's store anew with `key_file`, made if absent; nothing plain is written.

    The present key is the configured one. Afterwards node.toml names the new file; a systemd
    credential has to be replaced by hand. The old key file stays.

    Raises:
        OurMistake, Refused, DataFault: see `encrypt_store`; also if the store is not encrypted.
    """
    there = os.path.lexists(key_file)
    if not is_encrypted(home.store):
        raise OurMistake("The window store is not encrypted.", do="See: data encrypt --help")
    if not there:
        read_manifest(home.store, key_of(home))  # a new key only where the present one opens it
        store_key.make_key_file(home, key_file)
        on_stage("key made")
    key = store_key.read_key_file(home, key_file)
    parts = 0
    if not _opens(home, key):
        with StoreWriter(
            home.store, load_key(home.pseudonym_key), key_of(home), on_stage=on_stage
        ) as writer:
            parts = writer.reseal(StoreCipher.fresh(key.secret))
    named = store_key.name_key_file(home, key_file)
    on_stage("node.toml changed")
    with StoreWriter(home.store, load_key(home.pseudonym_key), key):
        pass  # clears what an interrupted command left under the old key
    return Changed(key.source, not there, named, parts)


def _opens(home: NodeHome, key: StoreKey) -> bool:
    try:
        read_manifest(home.store, key)
    except Refused:
        return False
    return True


def decrypt_store(
    home: NodeHome, *, on_stage: Callable[[str], None] = lambda stage: None
) -> Changed:
    """Make the node's store plain and let node.toml name no key. The key file stays.

    Raises:
        OurMistake, Refused, DataFault: see `encrypt_store`; also if there is nothing to undo.
    """
    key = key_of(home)
    there = (home.store / "manifest.json").exists()
    encrypted = there and is_encrypted(home.store)
    if key is None and not encrypted:
        raise OurMistake("The window store is not encrypted.", do="There is nothing to be done.")
    parts: int | None = 0 if there else None
    if encrypted:
        with StoreWriter(
            home.store, load_key(home.pseudonym_key), key, on_stage=on_stage
        ) as writer:
            parts = writer.reseal(None)
    named = home.config.exists() and store_key.name_key_file(home, None)
    on_stage("node.toml changed")
    return Changed("" if key is None else key.source, settings=named, parts=parts)


def _settle(home: NodeHome, key_file: Path, on_stage: Callable[[str], None]) -> tuple[bool, bool]:
    """Key file and node.toml: (whether the key was made, whether node.toml was changed)."""
    if store_key.credential_is_given():
        raise OurMistake(
            f"The systemd credential {store_key.CREDENTIAL} goes before any file.",
            do="Leave --key-file away.",
        )
    configured = store_key.configured_file(home)
    if configured not in (None, key_file):
        raise OurMistake(
            f"node.toml names another key file, {configured}.",
            do="Leave --key-file away; to change the key: fedprint-node data rekey PATH",
        )
    there = os.path.lexists(key_file)
    encrypted = (home.store / "manifest.json").exists() and is_encrypted(home.store)
    if encrypted and not there:
        raise Refused(
            f"The window store is encrypted already, and {key_file} does not exist.",
            reason="store-key",
            do="Restore the key that belongs to this store; a new one cannot open it.",
        )
    if not there:
        store_key.make_key_file(home, key_file)
        on_stage("key made")
    key: StoreKey = store_key.read_key_file(home, key_file)
    if encrypted:
        read_manifest(home.store, key)  # before node.toml names it
    named = store_key.name_key_file(home, key_file)
    on_stage("node.toml changed")
    return not there, named
