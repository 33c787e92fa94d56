"""Files of one part, plain or sealed: written once from beginning to end, read by whole or by row.

files = PartFiles(store, cipher)              # cipher None: plain
files.write("signal.bin", window)             # a sealed store's plain bytes stay in memory
entry = files.finish(catalogue, windows, refused, stage)
"""

from __future__ import annotations

import mmap
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from client import store_format as fmt
from client.store_seal import PartCipher, StoreCipher
from shared_model import canonical
from shared_model.config import CHANNELS, TOKENS, WINDOW_SAMPLES
from shared_model.files import sync_folder

ROWS = {
    "signal.bin": ("<f2", (len(CHANNELS), WINDOW_SAMPLES)),
    "valid.bin": ("u1", (len(CHANNELS), TOKENS)),
}
"""Files that are read by row: type and shape of one row."""


def content(folder: Path, name: str, cipher: PartCipher | None) -> bytes:
    """Plain content of a small file.

    Raises:
        DataFault: a sealed record is not what was written (cause "store").
        FileNotFoundError: the part is not there (a writer may have replaced it).
    """
    data = (folder / name).read_bytes()
    return data if cipher is None else cipher.decrypt_all(name, data)


class Rows(Protocol):
    """Rows of "signal.bin" or "valid.bin"; each access may raise DataFault."""

    def __getitem__(self, row: int, /) -> npt.NDArray[np.generic]: ...


class SealedRows:
    """Rows of a sealed file, mapped; a row is opened when it is asked for.

    Raises at access:
        DataFault: it is not what was written (cause "store").
    """

    def __init__(self, path: Path, rows: int, cipher: PartCipher) -> None:
        self._kind, self._shape = ROWS[path.name]
        self._name = path.name
        self._cipher = cipher
        self._step = fmt.RECORD_BYTES[path.name] + fmt.TAG_BYTES
        with path.open("rb") as stream:  # a file of no bytes cannot be mapped
            self._data = memoryview(
                mmap.mmap(stream.fileno(), rows * self._step, prot=mmap.PROT_READ) if rows else b""
            )

    def __getitem__(self, row: int, /) -> npt.NDArray[np.generic]:
        first = int(row) * self._step
        plain = self._cipher.decrypt(self._name, int(row), self._data[first : first + self._step])
        return np.frombuffer(plain, dtype=self._kind).reshape(self._shape)


def open_rows(folder: Path, name: str, rows: int, cipher: PartCipher | None) -> Rows:
    """Map a file whose size was checked; stays readable when its name is removed."""
    if cipher is not None:
        return SealedRows(folder / name, rows, cipher)
    kind, shape = ROWS[name]
    if rows == 0:
        return np.empty((0, *shape), dtype=kind)
    return np.memmap(folder / name, dtype=kind, mode="r", shape=(rows, *shape))


def records(folder: Path, name: str, cipher: PartCipher | None) -> Iterator[bytes]:
    """Plain content of a file, a record at a time, in order; for copies.

    Raises:
        DataFault: a sealed record is not what was written (cause "store").
    """
    step = fmt.RECORD_BYTES[name] + (0 if cipher is None else fmt.TAG_BYTES)
    with (folder / name).open("rb") as stream:
        for number, data in enumerate(iter(lambda: stream.read(step), b"")):
            yield data if cipher is None else cipher.decrypt(name, number, data)


class _Sink:
    """One file that is being written; seals what comes, record by record."""

    def __init__(self, path: Path, cipher: PartCipher | None) -> None:
        self._name = path.name
        self._cipher = cipher
        self._pending = bytearray()
        self._record = 0
        self._stream: BinaryIO = path.open("wb", buffering=1 << 20)
        os.fchmod(self._stream.fileno(), 0o600)

    def write(self, data: bytes | memoryview) -> None:
        if self._cipher is None:
            self._stream.write(data)
        else:
            self._pending += data
            self._seal(self._cipher, fmt.RECORD_BYTES[self._name])

    def _seal(self, cipher: PartCipher, least_bytes: int) -> None:
        """Write out whole records, and a shorter one if it has `least_bytes`."""
        size = fmt.RECORD_BYTES[self._name]
        view = memoryview(bytes(self._pending))
        done = 0
        while len(view) - done >= least_bytes and done < len(view):
            number, self._record = self._record, self._record + 1  # never again, also if this fails
            self._stream.write(cipher.encrypt(self._name, number, view[done : done + size]))
            done += size
        del self._pending[:done]

    def finish(self) -> None:
        """Write the rest and flush all to disk."""
        if self._cipher is not None:
            self._seal(self._cipher, 1)
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()

    def abandon(self) -> None:
        """Close; never raises."""
        try:
            self._stream.close()
        except OSError:  # a full disk: the folder goes anyway
            return


class PartFiles:
    """The files of one part while they are being written, in a temporary folder.

    The part's identifier, and with it its key, is drawn here and serves no other part.
    """

    def __init__(self, store: Path, cipher: StoreCipher | None) -> None:
        self._id = secrets.token_hex(16)
        self._parts = store / "parts"
        self._folder = self._parts / f".new-{secrets.token_hex(8)}"
        self._folder.mkdir(mode=0o700)
        part = None if cipher is None else cipher.part(self._id)
        self._sinks = {name: _Sink(self._folder / name, part) for name in fmt.PART_FILES}

    def write(self, name: str, data: bytes | memoryview) -> None:
        self._sinks[name].write(data)

    def finish(
        self,
        catalogue: fmt.Catalogue,
        windows: int,
        refused: int,
        stage: Callable[[str], None],
    ) -> fmt.PartEntry:
        """Flush to disk and rename into place."""
        self.write("catalogue.json", canonical.encode(catalogue.model_dump(mode="json")))
        for sink in self._sinks.values():
            sink.finish()
        sync_folder(self._folder)
        stage("part flushed")
        files = {
            name: fmt.FileEntry(
                size=(self._folder / name).stat().st_size,
                sha256=fmt.file_digest(self._folder / name),
            )
            for name in fmt.PART_FILES
        }
        entry = fmt.PartEntry(id=self._id, windows=windows, refused=refused, files=files)
        target = self._parts / entry.id
        self._folder.rename(target)
        self._folder = target
        sync_folder(self._parts)
        stage("part renamed")
        return entry

    def abandon(self) -> None:
        """Close and remove; never raises."""
        for sink in self._sinks.values():
            sink.abandon()
        shutil.rmtree(self._folder, ignore_errors=True)
