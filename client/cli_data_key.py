"""fedprint-node data encrypt, rekey, decrypt, verify: the window store at rest."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli_data_parts import AsJson, Home, Yes, confirm, done
from client.home import NodeHome

if TYPE_CHECKING:
    from client.store import WindowStore

REMAINS = (
    "The plain files were removed, not wiped: their blocks may remain on the disk medium, in "
    "snapshots and in back-ups. To be rid of them, overwrite or destroy those."
)


def register(app: typer.Typer) -> None:
    """Add this part's commands."""
    app.command()(encrypt)
    app.command()(rekey)
    app.command()(decrypt)
    app.command()(verify)


def encrypt(
    key_file: Annotated[
        Path | None,
        typer.Option(help="Absolute path of the key; made if absent, and named in node.toml."),
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Encrypt the window store; from then on all that goes into it is encrypted.

    The key is 32 random bytes: `[store] key_file` of node.toml, before it the systemd credential
    fedprint-store-key. Needs free space for a second copy of the store. Keep a copy of the key
    elsewhere: without it the store cannot be read, by anyone.

    Example: fedprint-node data encrypt --key-file /etc/fedprint/store.key
    """
    from client.store_encrypt import encrypt_store

    changed = encrypt_store(NodeHome.find(home), key_file)
    text = f"Made the key {key_file}, mode 0600: keep a copy elsewhere.\n" * changed.key_made
    if changed.settings:
        text += "node.toml names the key now.\n"
    if changed.parts is None:
        text += f"No window store yet; it will be encrypted with the key of {changed.source}."
    elif changed.parts == 0:
        text += f"The window store is encrypted with the key of {changed.source}."
    else:
        text += f"Encrypted {changed.parts} parts with the key of {changed.source}.\n{REMAINS}"
    done({"encrypted": True, **asdict(changed)}, text, as_json=as_json)


def rekey(
    key_file: Annotated[
        Path,
        typer.Argument(help="Absolute path of the new key; made if absent."),
    ],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Encrypt the window store with another key; nothing plain is written. The old key file stays.

    Example: fedprint-node data rekey /etc/fedprint/store-2027.key
    """
    from client.store_encrypt import rekey_store
    from client.store_key import CREDENTIAL, credential_is_given

    changed = rekey_store(NodeHome.find(home), key_file)
    text = f"Made the key {key_file}, mode 0600: keep a copy elsewhere.\n" * changed.key_made
    text += (
        f"The window store is encrypted with the key of {changed.source}. The old key still opens "
        "old copies and back-ups: destroy it only with them."
    )
    if credential_is_given():
        text += f" Replace the credential {CREDENTIAL}: with the old one the store is refused."
    done({"encrypted": True, **asdict(changed)}, text, as_json=as_json)


def decrypt(home: Home = None, yes: Yes = False, as_json: AsJson = False) -> None:
    """Write the window store out as plain files and configure no key. The key file stays.

    Example: fedprint-node data decrypt --yes
    """
    from client.store_encrypt import decrypt_store
    from client.store_key import CREDENTIAL, credential_is_given

    confirm("Write windows and pseudonyms to the disk unencrypted?", yes=yes)
    changed = decrypt_store(NodeHome.find(home))
    text = "The window store is not encrypted any more."
    if credential_is_given():
        text += f" Take {CREDENTIAL} out of the systemd unit: with it the node refuses the store."
    done({"encrypted": False, **asdict(changed)}, text, as_json=as_json)


def verify(home: Home = None, as_json: AsJson = False) -> None:
    """Check every byte of the window store; says whether it is encrypted and where its key is from.

    Exit status: 0 whole, 3 not encrypted as is configured, 4 damaged.

    Example: fedprint-node data verify
    """
    from client.store import open_store

    store = open_store(NodeHome.find(home), full=True)
    document = {"whole": True, "usable_windows": store.window_count, **encryption(store)}
    text = f"The window store is whole: {store.window_count} usable windows. {in_words(store)}"
    done(document, text, as_json=as_json)


def encryption(store: WindowStore) -> dict[str, Any]:
    """For --json."""
    return {"encrypted": store.key_source is not None, "key": store.key_source}


def in_words(store: WindowStore) -> str:
    """For people."""
    if store.key_source is None:
        return "It is not encrypted (fedprint-node data encrypt)."
    return f"It is encrypted (AES-256-GCM); its key comes from {store.key_source}."
