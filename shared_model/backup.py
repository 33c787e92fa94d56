"""A backup: one file, a tar with a manifest of every file's SHA-256, usually encrypted.

    write(stream, [("keys/identity.pem", path), ...], manifest)
    manifest = check(stream)            everything is read and held against the manifest
    unpack(stream, folder)              the same again, and written; into a new folder only

Whoever made the file may be hostile. The tar is read header by header here: regular files with the
manifest's names, in its order, and nothing else; no extension that `tarfile` would follow. Links to
a neighbour (`releases/current`) are in the manifest only, and made last.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from shared_model import canonical
from shared_model.errors import OurMistake
from shared_model.files import sync_folder
from shared_model.protocol import Digest
from shared_model.sealed_stream import MAGIC, SealedReader, SealedWriter, damaged

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 64 * 2**20
MAX_FILES = 200_000
MAX_LINKS = 1000
MAX_TOTAL_BYTES = 2**42
MAX_NAME_BYTES = 99
MAX_DEPTH = 12
_BLOCK = 512
_PIECE = 2**20


class Readable(Protocol):
    """What a backup is read from."""

    def read(self, size: int, /) -> bytes: ...


class Writable(Protocol):
    """What a backup is written to."""

    def write(self, data: bytes, /) -> int: ...


class FileEntry(BaseModel):
    """One file. Its rights are not kept: 0600, its folders 0700."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_BYTES)]
    size_bytes: Annotated[int, Field(ge=0, le=MAX_TOTAL_BYTES)]
    sha256: Digest

    @field_validator("name")
    @classmethod
    def _is_plain(cls, value: str) -> str:
        check_name(value)
        return value


class LinkEntry(BaseModel):
    """A link to something beside it, as `releases/current` is one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_BYTES)]
    target: Annotated[str, Field(min_length=1, max_length=MAX_NAME_BYTES)]

    @field_validator("name", "target")
    @classmethod
    def _is_plain(cls, value: str) -> str:
        check_name(value)
        return value

    @field_validator("target")
    @classmethod
    def _is_beside(cls, value: str) -> str:
        if "/" in value:
            raise ValueError("a link goes to something beside it")
        return value

    @property
    def leads_to(self) -> str:
        """The name below the root."""
        return str(Path(self.name).parent / self.target)


class Manifest(BaseModel):
    """What is in a backup. made: UTC, for people."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["fedprint-backup"] = "fedprint-backup"
    version: Literal[1] = 1
    of: Literal["node", "coordinator"]
    name: Annotated[str, Field(max_length=300)]
    """Site, or the coordinator's address."""
    fedprint: Annotated[str, Field(max_length=64)]
    made: Annotated[str, Field(max_length=32)]
    files: Annotated[tuple[FileEntry, ...], Field(max_length=MAX_FILES)]
    links: Annotated[tuple[LinkEntry, ...], Field(max_length=MAX_LINKS)] = ()

    @model_validator(mode="after")
    def _links_fit(self) -> Self:
        """No file lies behind a link, and every link leads to what is in this backup."""
        there = {entry.name for entry in self.files}
        there |= {str(parent) for name in there for parent in Path(name).parents}
        names = [link.name for link in self.links]
        if names != sorted(set(names)) or there & set(names) or MANIFEST in names:
            raise ValueError("a link is in the place of something else")
        if any(link.leads_to not in there for link in self.links):
            raise ValueError("a link leads to nothing in this backup")
        return self

    @field_validator("files")
    @classmethod
    def _fit(cls, value: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
        names = [entry.name for entry in value]
        if names != sorted(set(names)):
            raise ValueError("names are sorted and different")
        folders = {str(parent) for name in names for parent in Path(name).parents}
        if folders & set(names) or MANIFEST in names:
            raise ValueError("a file is in the place of a folder")
        if sum(entry.size_bytes for entry in value) > MAX_TOTAL_BYTES:
            raise ValueError("too large")
        return value

    @property
    def total_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.files)


def check_name(name: str) -> None:
    """Raises `ValueError` unless this is a plain relative path of printable ASCII."""
    parts = name.split("/")
    if (
        len(name.encode()) > MAX_NAME_BYTES
        or not (name.isascii() and name.isprintable())
        or "\\" in name
        or len(parts) > MAX_DEPTH
        or any(part in ("", ".", "..") or part != part.strip() for part in parts)
    ):
        raise ValueError("not a plain relative name")


def entries_of(files: Sequence[tuple[str, Path]]) -> tuple[FileEntry, ...]:
    """Names, sizes and digests of these files, sorted.

    Raises:
        OurMistake: a name that no backup can hold, or no regular file.
    """
    found = []
    for name, path in sorted(files):
        try:
            check_name(name)
        except ValueError as error:
            raise OurMistake(
                "A file here has a name that a backup cannot hold.",
                do=f"Rename or remove it: {ascii(name)[:120]}",
            ) from error
        digest, size = hashlib.sha256(), 0
        with _regular(path) as stream:
            while piece := stream.read(_PIECE):
                digest.update(piece)
                size += len(piece)
        found.append(FileEntry(name=name, size_bytes=size, sha256=digest.hexdigest()))
    return tuple(found)


def write(
    stream: BinaryIO,
    files: Sequence[tuple[str, Path]],
    manifest: Manifest,
    *,
    passphrase: str | None,
    entropy: Callable[[int], bytes],
) -> None:
    """Write the backup of files whose entries are in the manifest.

    Args:
        passphrase: None: not encrypted; the keys are then in it as they are.

    Raises:
        OurMistake: a file changed meanwhile.
    """
    if passphrase is None:
        _write_tar(stream, files, manifest)
        return
    sealed = SealedWriter(stream, passphrase, entropy)
    _write_tar(sealed, files, manifest)
    sealed.finish()


def _write_tar(out: Writable, files: Sequence[tuple[str, Path]], manifest: Manifest) -> None:
    data = canonical.encode(manifest.model_dump(mode="json"))
    out.write(_header(MANIFEST, len(data)) + data + _padding(len(data)))
    places = dict(files)
    for entry in manifest.files:
        out.write(_header(entry.name, entry.size_bytes))
        digest, left = hashlib.sha256(), entry.size_bytes
        with _regular(places[entry.name]) as stream:
            while left and (piece := stream.read(min(_PIECE, left))):
                digest.update(piece)
                left -= len(piece)
                out.write(piece)
            changed = left != 0 or bool(stream.read(1))
        if changed or digest.hexdigest() != entry.sha256:
            raise OurMistake(
                f"{entry.name} changed while it was read.",
                do="Stop whatever writes into this folder; then make the backup again.",
            )
        out.write(_padding(entry.size_bytes))
    out.write(bytes(2 * _BLOCK))


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info.tobuf(tarfile.GNU_FORMAT)  # one block: names are short; sizes may pass 8 GiB


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


@contextmanager
def _regular(path: Path) -> Iterator[BinaryIO]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise OurMistake(f"{path} cannot be read.", do="Run as the folder's owner.") from error
    with os.fdopen(descriptor, "rb") as stream:
        yield stream


def is_encrypted(stream: BinaryIO) -> bool:
    """Whether it begins like an encrypted backup; the stream is at its beginning afterwards."""
    stream.seek(0)
    begin = stream.read(len(MAGIC))
    stream.seek(0)
    return begin == MAGIC


def check(stream: BinaryIO, passphrase: str | None) -> Manifest:
    """Read all of it, write nothing.

    Raises:
        Refused: wrong passphrase; not a backup; anything that is not as its manifest says
            (reason "backup").
    """
    return _read(stream, passphrase, None)


def unpack(stream: BinaryIO, passphrase: str | None, folder: Path) -> Manifest:
    """Write its files into a folder that is made now; on any fault the folder is removed again.

    Raises:
        OurMistake: the folder exists.
        Refused: as `check`.
    """
    try:
        folder.mkdir(mode=0o700, parents=False)
    except OSError as error:
        raise OurMistake(
            f"{folder} cannot be made: {error.strerror}.", do="Give a folder that is not there yet."
        ) from error
    try:
        return _read(stream, passphrase, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _read(stream: BinaryIO, passphrase: str | None, folder: Path | None) -> Manifest:
    stream.seek(0)
    source: Readable = stream if passphrase is None else SealedReader(stream, passphrase)
    size = _member(source, MANIFEST)
    if size > MAX_MANIFEST_BYTES:
        raise damaged("its manifest is too large")
    data = _exactly(source, size)
    try:
        manifest = Manifest.model_validate_json(data)
        if canonical.encode(manifest.model_dump(mode="json")) != data:
            raise damaged("its manifest is malformed")
    except (ValidationError, ValueError, RecursionError) as error:
        raise damaged("its manifest is malformed") from error
    _skip_padding(source, size)
    for entry in manifest.files:
        if _member(source, entry.name) != entry.size_bytes:
            raise damaged(f"{entry.name} has another size than the manifest says")
        _content(source, entry, folder)
        _skip_padding(source, entry.size_bytes)
    if _exactly(source, 2 * _BLOCK) != bytes(2 * _BLOCK) or source.read(1):
        raise damaged("something follows its last file")
    if folder is not None:
        for link in manifest.links:  # after all files: none is written through one
            (folder / link.name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            (folder / link.name).symlink_to(link.target)
        for made in sorted(
            path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink()
        ):
            sync_folder(made)
        sync_folder(folder)
    return manifest


def _member(source: Readable, name: str) -> int:
    """The size of the next member, which must be a regular file of this name.

    Raises:
        Refused: reason "backup".
    """
    try:
        info = tarfile.TarInfo.frombuf(_exactly(source, _BLOCK), "ascii", "strict")
    except (tarfile.HeaderError, ValueError) as error:
        raise damaged("it is no tar, or cut off") from error
    if info.type != tarfile.REGTYPE or info.name != name or info.linkname:
        raise damaged("a member is not the file that the manifest has at this place")
    if not 0 <= info.size <= MAX_TOTAL_BYTES:
        raise damaged("a member has no possible size")
    return info.size


def _content(source: Readable, entry: FileEntry, folder: Path | None) -> None:
    digest, left = hashlib.sha256(), entry.size_bytes
    with _sink(entry, folder) as sink:
        while left:
            piece = _exactly(source, min(_PIECE, left))
            digest.update(piece)
            left -= len(piece)
            if sink is not None:
                sink.write(piece)
    if digest.hexdigest() != entry.sha256:
        raise damaged(f"{entry.name} is not the file that was backed up")


@contextmanager
def _sink(entry: FileEntry, folder: Path | None) -> Iterator[BinaryIO | None]:
    if folder is None:
        yield None
        return
    path = folder / entry.name
    for parent in reversed(path.relative_to(folder).parents):
        (folder / parent).mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def _skip_padding(source: Readable, size: int) -> None:
    if any(_exactly(source, -size % _BLOCK)):
        raise damaged("something is hidden between two files")


def _exactly(source: Readable, size: int) -> bytes:
    data = source.read(size)
    if len(data) != size:
        raise damaged("it is cut off")
    return data
