"""The node's key of the current epoch: one file, replaced by the next epoch's, never backed up.

    never-back-up/epoch.json    epoch, roster and private key (X25519), mode 0600
    epochs.json                 number of the last epoch; this one belongs into backups

Whoever has an epoch key and the node's traffic can strip masks of that epoch, and a node that
answered a round twice with one epoch key would have masked two vectors alike. So the key is in no
backup; after a restore a new epoch has to begin, and nothing of earlier rounds is answered. What
restores a whole disk brings the key back with it: then `fedprint-node restored` erases it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared_model import canonical
from shared_model.errors import OurMistake, Refused
from shared_model.files import sync_folder, write_atomic
from shared_model.secure_sum import keys

_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n"
_README = (
    "Never back this folder up and never restore it: it holds a key that is worth something for\n"
    "one epoch only, and says how long the ledger was. After a restore of the whole disk run:\n"
    "fedprint-node restored\n"
)


@dataclass(frozen=True)
class EpochKeys:
    """Where a node keeps its epoch key. Changes are made under `Outbox.locked`.

    folder: left out of backups. counter: file with the last epoch's number.
    """

    folder: Path
    counter: Path

    @property
    def last(self) -> int:
        """Number of the last epoch that this node made a key for; 0 before the first.

        Raises:
            OurMistake: epochs.json is damaged.
        """
        held = self.held
        if not self.counter.is_file():
            return held
        try:
            counted = int(json.loads(self.counter.read_bytes())["last_epoch"])
        except (ValueError, KeyError, TypeError) as error:
            raise OurMistake(
                f"{self.counter} is damaged.", do="Put the newest copy of it back."
            ) from error
        return max(counted, held)

    @property
    def held(self) -> int:
        """Number of the epoch whose key is here; 0 if none is."""
        content = self._read()
        return 0 if content is None else int(content["epoch"])

    def renew(self, epoch: int, roster_digest: str, entropy: Callable[[int], bytes]) -> bytes:
        """Make a key for a new epoch and erase the old one; the same epoch again keeps its key.

        Returns:
            The public key, 32 raw bytes.

        Raises:
            Refused: not a new epoch, and its key is gone or was made for another roster ("epoch").
        """
        if epoch == self.held:
            return keys.public_key(self.key(epoch, roster_digest))
        if epoch <= self.last:
            raise Refused(
                f"Epoch {epoch} is not above the last one of this node, {self.last}.",
                reason="epoch",
            )
        key = keys.new_epoch_key(entropy)
        prepare(self.folder)
        self.erase()
        content = {
            "epoch": epoch,
            "roster_digest": roster_digest,
            "private_key": key.private_bytes_raw().hex(),
        }
        # the number first: killed in between, this epoch has no key here and never gets two
        write_atomic(self.counter, canonical.encode({"last_epoch": epoch}), mode=0o600)
        write_atomic(self._path, canonical.encode(content), mode=0o600)
        return keys.public_key(key)

    def key(self, epoch: int, roster_digest: str) -> X25519PrivateKey:
        """The private key of this epoch and roster.

        Raises:
            Refused: none is here ("epoch").
        """
        content = self._read()
        if content is None or content["epoch"] != epoch:
            raise Refused("This node has no key of this epoch.", reason="epoch")
        if content["roster_digest"] != roster_digest:
            raise Refused("The key of this epoch is for another roster.", reason="epoch")
        return X25519PrivateKey.from_private_bytes(bytes.fromhex(str(content["private_key"])))

    def erase(self) -> bool:
        """Overwrite and remove the key, and what an interrupted write left; was there one?

        Overwriting does not reach copies that a file system or a drive keeps by itself.
        """
        if not self.folder.is_dir():
            return False
        found = self._path.is_file()
        for path in [self._path, *self.folder.glob(f".{self._path.name}.*.new")]:
            if path.is_file():
                with path.open("r+b") as stream:
                    stream.write(bytes(path.stat().st_size))
                    stream.flush()
                    os.fsync(stream.fileno())
                path.unlink()
        sync_folder(self.folder)
        return found

    @property
    def _path(self) -> Path:
        return self.folder / "epoch.json"

    def _read(self) -> dict[str, Any] | None:
        if not self._path.is_file():
            return None
        try:
            content = json.loads(self._path.read_bytes())
            int(content["epoch"]), str(content["roster_digest"])
            X25519PrivateKey.from_private_bytes(bytes.fromhex(content["private_key"]))
        except (ValueError, KeyError, TypeError):
            return None  # unreadable is absent: a new epoch heals it
        return dict(content)


def prepare(folder: Path) -> None:
    """Make never-back-up/, with the tag by which back-up programs leave it out."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, text in (("CACHEDIR.TAG", _TAG), ("README", _README)):
        if not (folder / name).is_file():
            write_atomic(folder / name, text.encode())
