"""The window store as it is written: one writer, immutable parts, one manifest swapped by rename.

Whatever happens, also `kill -9` between any two instructions, the store on disk is the one before
or the one after a change: a part is written in a temporary folder, flushed, renamed into place, and
only then named by a new manifest. What the manifest does not name is removed at the next opening.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from client import store_format as fmt
from client.pseudonyms import keyed_digest
from client.store import read_manifest
from client.store_key import StoreKey
from client.store_part_write import PartWriter
from client.store_parts import PartFiles, content, open_rows, records
from client.store_seal import PartCipher, StoreCipher
from shared_model.errors import OurMistake, Refused
from shared_model.files import write_atomic

SPARE_BYTES = 16 << 20
"""Left free on the disk when the store is written anew."""


def _no_stage(stage: str) -> None:
    """Default of `on_stage`: nothing."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else changes the store meanwhile; where there is no folder there is nothing to keep.

    Raises:
        Refused: another command is changing it (reason "locked").
    """
    if not path.is_dir():
        yield
        return
    lock = _take_lock(path)
    try:
        yield
    finally:
        os.close(lock)


def _take_lock(path: Path) -> int:
    lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise Refused(
            "Another command is changing the window store.",
            reason="locked",
            do="Wait until it has finished, then run this command again.",
        ) from error
    except BaseException:
        os.close(lock)
        raise
    return lock


class StoreWriter:
    """The only writer of a store; a context manager that holds the lock.

    Args:
        path: the store's folder; made if absent.
        key: pseudonym key; a store made with another key is refused.
        store_key: what the store is encrypted with, a new one from its first byte; None: plain.
        on_stage: called with the name of each step that has just been finished (for crash tests).
    """

    def __init__(
        self,
        path: Path,
        key: bytes,
        store_key: StoreKey | None = None,
        *,
        on_stage: Callable[[str], None] = _no_stage,
    ) -> None:
        self.path = path
        self._key = key
        self._store_key = store_key
        self.cipher: StoreCipher | None
        self._stage = on_stage
        self._lock = -1
        self.manifest: fmt.Manifest

    def __enter__(self) -> Self:
        """Take the lock, check the store, clear what an interrupted writer left.

        Raises:
            Refused: another command is writing (reason "locked"), the store was made with another
                pseudonym key (reason "key"), or is not encrypted with this key ("store-key").
            DataFault: the store is damaged (cause "store").
        """
        for folder in (self.path, self.path / "parts"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _take_lock(self.path)
        try:
            check = keyed_digest(self._key, "store", "key check")
            if (self.path / "manifest.json").exists():
                self.manifest, self.cipher = read_manifest(self.path, self._store_key)
            else:
                self.manifest = fmt.Manifest(key_check=check)
                secret = self._store_key
                self.cipher = None if secret is None else StoreCipher.fresh(secret.secret)
            if self.manifest.key_check != check:
                raise Refused(
                    "The window store was made with another pseudonym key.",
                    reason="key",
                    do="Restore the key that belongs to this store.",
                )
            self._clean()
            self._catalogues = {part.id: self._load(part) for part in self.manifest.parts}
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._lock)

    def _folder(self, part: fmt.PartEntry) -> Path:
        return self.path / "parts" / part.id

    def _load(self, part: fmt.PartEntry) -> fmt.Catalogue:
        try:
            fmt.check_files(self._folder(part), part)
        except FileNotFoundError as error:
            raise fmt.damaged(f"part {part.id} is gone") from error
        data = content(self._folder(part), "catalogue.json", part_cipher(self.cipher, part))
        return fmt.load_catalogue(data, part)

    def _clean(self) -> None:
        """Remove everything under the store that the manifest does not name."""
        known = {part.id for part in self.manifest.parts}
        for entry in (self.path / "parts").iterdir():
            if entry.name not in known:
                _remove(entry)
        for entry in self.path.glob(".manifest.json.*.new"):
            _remove(entry)

    @property
    def withdrawn(self) -> frozenset[str]:
        return frozenset(self.manifest.withdrawn)

    def refuse_former_names(self, *, withdrawals_hold: bool) -> None:
        """Before recordings are added: one person under two rules of names would be two privacy
        units, and who withdrew would come back. What `withdrawals_hold` says is kept with the next
        recordings.

        Raises:
            Refused: it holds patients named by an earlier version, or withdrawals of one of which
                nobody says that they hold (reason "names").
        """
        if self.manifest.former:
            raise Refused(
                "The window store is of a version that spelled some identifiers otherwise: its "
                "patients could be added a second time, under other names.",
                reason="names",
                do="Run: fedprint-node data remove --all. Then add each folder again.",
            )
        named = self.manifest.named_anew()
        if named.withdrawn_before and not withdrawals_hold:
            raise Refused(
                f"{named.withdrawn_before} withdrawals are of an earlier store, which spelled some "
                "identifiers otherwise: these patients could come back under other names.",
                reason="names",
                do="Withdraw each patient again by identifier (fedprint-node data withdraw), those "
                "too who may have been already; then say --withdrawals-hold.",
            )
        self.manifest = named.model_copy(update={"withdrawn_before": 0})

    def recordings(self) -> dict[str, set[str]]:
        """Keyed digest of every recording in the store -> pseudonyms of its patients."""
        known: dict[str, set[str]] = {}
        for catalogue in self._catalogues.values():
            for row in catalogue.recordings:
                known.setdefault(row.key, set()).add(catalogue.patients[row.patient])
        return known

    def data_set_of(self, source: str) -> fmt.DataSet | None:
        """The data set that was added from the folder with this keyed digest."""
        return next((known for known in self.manifest.data_sets if known.source == source), None)

    def new_part(self, data_set: str, source: str) -> PartWriter:
        """Begin a part; nothing shows before its `commit`.

        Raises:
            OurMistake: the name belongs to another folder.
        """
        for known in self.manifest.data_sets:
            if known.name == data_set and known.source != source:
                raise OurMistake(
                    f"A data set named {data_set!r} was added from another folder.",
                    do="Choose another name with --name.",
                )
        return PartWriter(self, data_set, source)

    def withdraw(self, pseudonym: str) -> int:
        """Erase a patient and remember the pseudonym: out of every later round, also if re-added.

        Returns:
            Recordings erased (0 when there were none: the withdrawal still holds for later adds).
        """
        erased = sum(
            catalogue.patients[row.patient] == pseudonym
            for catalogue in self._catalogues.values()
            for row in catalogue.recordings
        )
        withdrawn = sorted({*self.manifest.withdrawn, pseudonym})
        self._rewrite(lambda row, who: who != pseudonym, withdrawn=withdrawn)
        return erased

    def remove(self, data_set: str | None) -> int:
        """Erase a data set, or everything (None). Withdrawals stay.

        Returns:
            Recordings erased.

        Raises:
            OurMistake: no such data set.
        """
        names = {known.name for known in self.manifest.data_sets}
        if data_set is not None and data_set not in names:
            raise OurMistake(
                f"There is no data set {data_set!r}.",
                do=f"Data sets of this node: {', '.join(sorted(names)) or 'none'}.",
            )
        gone = names if data_set is None else {data_set}
        erased = sum(
            row.data_set in gone
            for catalogue in self._catalogues.values()
            for row in catalogue.recordings
        )
        left = [known for known in self.manifest.data_sets if known.name not in gone]
        self._rewrite(lambda row, who: row.data_set not in gone, data_sets=left)
        return erased

    def _rewrite(self, keep: Callable[[fmt.RecordingRow, str], bool], **changes: list[Any]) -> None:
        """New parts without the recordings that `keep` rejects, one swap, old parts removed."""
        parts: list[fmt.PartEntry] = []
        for part in self.manifest.parts:
            catalogue = self._catalogues[part.id]
            kept = [keep(row, catalogue.patients[row.patient]) for row in catalogue.recordings]
            if all(kept):
                parts.append(part)
            elif any(kept):
                parts.append(self._copy_part(part, catalogue, np.array(kept)))
        self.publish(parts, **changes)

    def _copy_part(
        self, part: fmt.PartEntry, catalogue: fmt.Catalogue, kept: npt.NDArray[np.bool_]
    ) -> fmt.PartEntry:
        source = self._folder(part)
        cipher = part_cipher(self.cipher, part)
        index = fmt.load_index(content(source, "index.bin", cipher), part, catalogue)
        rows = np.flatnonzero(kept[index["recording"]])
        shown = [i for i, (recording, _, _) in enumerate(catalogue.refused) if kept[recording]]
        rank = np.cumsum(kept) - 1
        recordings = [row for row, good in zip(catalogue.recordings, kept, strict=True) if good]
        people = sorted({row.patient for row in recordings})
        place = {old: new for new, old in enumerate(people)}
        files = PartFiles(self.path, self.cipher)
        try:
            for name in ("signal.bin", "valid.bin"):
                stored = open_rows(source, name, part.windows, cipher)
                for row in rows.tolist():
                    files.write(name, stored[row].tobytes())
            for row, data in enumerate(records(source, "refused.bin", cipher)):
                if row in shown:
                    files.write("refused.bin", data)
            index = index[rows].copy()
            index["recording"] = rank[index["recording"]]
            files.write("index.bin", index.tobytes())
            smaller = fmt.Catalogue(
                patients=[catalogue.patients[old] for old in people],
                recordings=[
                    row.model_copy(update={"patient": place[row.patient]}) for row in recordings
                ],
                refused=[
                    (int(rank[recording]), ecg, ppg)
                    for recording, ecg, ppg in (catalogue.refused[i] for i in shown)
                ],
            )
            entry = files.finish(smaller, len(rows), len(shown), self._stage)
        except BaseException:
            files.abandon()
            raise
        return entry

    def publish(self, parts: list[fmt.PartEntry], **changes: list[Any]) -> None:
        """Swap in a manifest with these parts, then clear what it no longer names."""
        changed = {"parts": parts, "generation": self.manifest.generation + 1, **changes}
        self.manifest = self.manifest.model_copy(update=changed).named_anew()
        data = fmt.encode_manifest(self.manifest)
        if self.cipher is not None:
            data = self.cipher.seal_manifest(data)
        write_atomic(self.path / "manifest.json", data, mode=0o600)
        self._stage("manifest swapped")
        self._clean()
        self._stage("old parts removed")
        self._catalogues = {part.id: self._load(part) for part in self.manifest.parts}

    def reseal(self, cipher: StoreCipher | None) -> int:
        """Write every part anew, sealed by `cipher` (None: plain), then swap in their manifest.

        The store on disk stays as it was until then. What the parts hold does not change.

        Returns:
            Parts written.

        Raises:
            OurMistake: there is no room for both on the disk.
            DataFault: a part is damaged (cause "store"); nothing has changed.
        """
        needed = sum(file.size for part in self.manifest.parts for file in part.files.values())
        if shutil.disk_usage(self.path).free < needed + SPARE_BYTES:
            raise OurMistake(
                f"The disk has no room for a second copy of the store ({needed / 1e6:.0f} MB).",
                do="Make room, then run this command again.",
            )
        try:
            parts = [self._reseal_part(part, cipher) for part in self.manifest.parts]
        except BaseException:
            self._clean()
            raise
        self.cipher = cipher
        self.publish(parts)
        return len(parts)

    def _reseal_part(self, part: fmt.PartEntry, cipher: StoreCipher | None) -> fmt.PartEntry:
        source = self._folder(part)
        fmt.check_files(source, part, fmt.PART_FILES)
        files = PartFiles(self.path, cipher)
        try:
            for name in ("signal.bin", "valid.bin", "index.bin", "refused.bin"):
                for data in records(source, name, part_cipher(self.cipher, part)):
                    files.write(name, data)
            catalogue = self._catalogues[part.id]
            return files.finish(catalogue, part.windows, part.refused, self._stage)
        except BaseException:
            files.abandon()
            raise

    def stage(self, name: str) -> None:
        self._stage(name)


def part_cipher(store: StoreCipher | None, part: fmt.PartEntry) -> PartCipher | None:
    """What opens this part's files; None: they are plain."""
    return None if store is None else store.part(part.id)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()
