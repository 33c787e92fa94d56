"""Around a backup: which files of a folder, where it is written, where it is restored to."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

from shared_model import backup, machine
from shared_model.backup import LinkEntry, Manifest
from shared_model.errors import OurMistake, Refused
from shared_model.files import sync_folder

Side = Literal["node", "coordinator"]


def files_below(root: Path, left_out: Sequence[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """Every regular file by its name below the root; every link to a neighbour, with its target.

    Left out: these folders, locks, and what an interrupted write or an earlier backup left.

    Raises:
        OurMistake: a device, or a link to elsewhere: a backup that followed it would be another; or
            a folder that cannot be read: a backup would silently lack what is in it.
    """
    found: dict[str, Path] = {}
    links: dict[str, str] = {}
    for folder, folders, names in os.walk(root, onerror=_unread):
        here = Path(folder)
        top = here == root
        folders[:] = sorted(
            name
            for name in folders
            if not (top and (name in left_out or name.startswith(".backup-")))
        )
        for name in [*names, *(name for name in folders if (here / name).is_symlink())]:
            path = here / name
            if name.endswith(".lock") or name == "lock" or _unfinished(name):
                continue
            mode = path.lstat().st_mode
            if stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode):
                continue  # of a process; it makes it again
            if stat.S_ISLNK(mode) and "/" not in os.readlink(path) and path.exists():
                links[str(path.relative_to(root))] = os.readlink(path)
                continue
            if not stat.S_ISREG(mode):
                raise OurMistake(
                    f"{path} is a link to elsewhere or a device, which a backup does not follow.",
                    do="Put the file itself there, or move it out of the folder.",
                )
            found[str(path.relative_to(root))] = path
    return found, links


def _unread(error: OSError) -> None:
    raise OurMistake(
        f"{error.filename} cannot be read: {error.strerror}.",
        do="Run as the folder's owner; a command that was run as root may have made it.",
    ) from error


def link_entries(links: Mapping[str, str]) -> tuple[LinkEntry, ...]:
    """As the manifest has them."""
    return tuple(LinkEntry(name=name, target=target) for name, target in sorted(links.items()))


def _unfinished(name: str) -> bool:
    return name.startswith(".") and name.endswith(".new")


@contextmanager
def destination(target: Path) -> Iterator[BinaryIO]:
    """A new file, 0600 from its first byte, under its name only once it is whole.

    Raises:
        OurMistake: it exists, its folder does not, or the disk does not take it.
    """
    if target.exists():
        raise _exists(target)
    folder = target.absolute().parent
    if not folder.is_dir():
        raise OurMistake(f"There is no folder {folder}.", do="Make it first.")
    try:
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=f".{target.name}.", suffix=".new")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            _named(name, target)
        finally:
            Path(name).unlink(missing_ok=True)
        sync_folder(folder)
    except OSError as error:
        raise OurMistake(
            f"The backup {target} cannot be made: {error.strerror}.",
            do="Give a place with room that you may write to.",
        ) from error


def _exists(target: Path) -> OurMistake:
    return OurMistake(f"{target} exists already.", do="Give another name.")


def _named(name: str, target: Path) -> None:
    """Give a whole file its name, never over one that came meanwhile.

    Where a disk knows no hard links (exFAT, shares) the name is taken first, with nothing in it.
    """
    try:
        try:
            os.link(name, target)
        except FileExistsError:
            raise
        except OSError:
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            os.replace(name, target)
    except FileExistsError as error:
        raise _exists(target) from error


def write_backup(
    target: Path,
    listed: Sequence[tuple[str, Path]],
    links: Mapping[str, str],
    *,
    of: Side,
    name: str,
    made: str,
    passphrase: str | None,
    entropy: Callable[[int], bytes],
) -> Manifest:
    """These files as the backup of one side; `made`: now, as the manifest has it.

    Raises:
        OurMistake: as `destination`, or a file changed meanwhile.
    """
    manifest = Manifest(
        of=of,
        name=name,
        fedprint=machine.version_of("fedprint") or "unknown",
        made=made,
        files=backup.entries_of(listed),
        links=link_entries(links),
    )
    with destination(target) as stream:
        backup.write(stream, listed, manifest, passphrase=passphrase, entropy=entropy)
    return manifest


@contextmanager
def restoring(
    source: Path, folder: Path, of: Side, ask_passphrase: Callable[[], str]
) -> Iterator[tuple[Manifest, Path]]:
    """The manifest, and where its files lie until the end, when they become the folder.

    Everything is checked before anything is written.

    Raises:
        OurMistake: as `placed`, or the backup cannot be opened.
        Refused: anything about the file that is not as it was made, or it is the other side's
            (reason "backup").
    """
    with opened(source) as stream:
        passphrase = ask_passphrase() if backup.is_encrypted(stream) else None
        manifest = backup.check(stream, passphrase)
        if manifest.of != of:
            raise Refused(
                f"This is the backup of a {manifest.of}.",
                reason="backup",
                do=f"Run: fedprint-{manifest.of} restore FILE",
            )
        with placed(folder) as beside:
            backup.unpack(stream, passphrase, beside)
            yield manifest, beside


@contextmanager
def opened(source: Path) -> Iterator[BinaryIO]:
    """The backup to be restored.

    Raises:
        OurMistake: it cannot be opened.
    """
    try:
        stream = source.open("rb")
    except OSError as error:
        raise OurMistake(f"{source} cannot be opened: {error.strerror}.") from error
    with stream:
        yield stream


@contextmanager
def placed(folder: Path) -> Iterator[Path]:
    """A name beside the folder; what lies there at the end becomes the folder, in one step.

    Raises:
        OurMistake: the folder is there already (an empty one may be), or cannot be made.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OurMistake(
            f"{folder} is there already.",
            do="Restore into a new folder: --home; move the old one aside, do not remove it.",
        )
    parent = folder.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=parent, prefix=f".{folder.name}-restoring-"))
        try:
            yield work / "home"
            sync_folder(work / "home")  # with the mark that it was restored
            os.replace(work / "home", folder)  # over an empty folder at most
        finally:
            shutil.rmtree(work, ignore_errors=True)
        sync_folder(parent)
    except OSError as error:
        raise OurMistake(
            f"Nothing can be restored to {folder}: {error.strerror}.",
            do="Give a folder that is not there yet, with room and no mount point itself (a volume "
            "of a container is one): --home.",
        ) from error
