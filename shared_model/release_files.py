"""A release on disk: a folder of four files, or one `.fedprint` archive of the same four."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from shared_model import canonical
from shared_model.enrolment import MAX_BYTES as MAX_INVITATION_BYTES
from shared_model.enrolment import open_invitation
from shared_model.errors import OurMistake, Refused
from shared_model.files import read_regular, sync_folder, write_atomic
from shared_model.release import (
    EVIDENCE_LIMIT_BYTES,
    MANIFEST_LIMIT_BYTES,
    SIGNATURE_BYTES,
    WEIGHTS_LIMIT_BYTES,
)
from shared_model.release_signed import ReleaseBytes

WEIGHTS_NAME = "fingerprint_head.safetensors"
LIMITS_BYTES = {
    "evidence.json": EVIDENCE_LIMIT_BYTES,
    WEIGHTS_NAME: WEIGHTS_LIMIT_BYTES,
    "manifest.json": MANIFEST_LIMIT_BYTES,
    "manifest.sig": SIGNATURE_BYTES,
}
"""The four files and the largest size of each."""
ARCHIVE_SUFFIX = ".fedprint"
ARCHIVE_LIMIT_BYTES = sum(LIMITS_BYTES.values()) + 2**20
KEY_BYTES = 32

PACKAGES = ("auditor", "client", "server", "shared_model", "simulations")
DEPENDENCIES = (
    "fedprint",
    "cryptography",
    "dp-accounting",
    "flwr",
    "numpy",
    "opacus",
    "pydantic",
    "safetensors",
    "scipy",
    "torch",
)


def read_release(path: Path) -> ReleaseBytes:
    """The bytes of a release folder or `.fedprint` archive, nothing verified yet.

    Raises:
        OurMistake: there is nothing at `path`.
        Refused: a link, an extra or a missing file, a file that is too large, or an archive that
            is not exactly the canonical one (reasons "files", "size").
    """
    try:
        kind = path.lstat().st_mode
    except OSError as error:
        raise OurMistake(f"There is no release at {path}.") from error
    if stat.S_ISDIR(kind):
        return _read_folder(path)
    if stat.S_ISREG(kind):
        return unpack(read_regular(path, ARCHIVE_LIMIT_BYTES))
    raise Refused("A release is a folder or a file, not a link or a device.", reason="files")


def _read_folder(folder: Path) -> ReleaseBytes:
    names = {entry.name for entry in os.scandir(folder)}
    if names != set(LIMITS_BYTES):
        missing = sorted(set(LIMITS_BYTES) - names)
        raise Refused(
            f"{folder} is not a release folder: missing {missing}, "
            f"{len(names - set(LIMITS_BYTES))} foreign files.",
            reason="files",
        )
    return _from_parts(
        {name: read_regular(folder / name, limit) for name, limit in LIMITS_BYTES.items()}
    )


def _from_parts(parts: dict[str, bytes]) -> ReleaseBytes:
    return ReleaseBytes(
        manifest=parts["manifest.json"],
        signature=parts["manifest.sig"],
        weights=parts[WEIGHTS_NAME],
        evidence=parts["evidence.json"],
    )


def parts_of(files: ReleaseBytes) -> dict[str, bytes]:
    """File name -> content."""
    return {
        "evidence.json": files.evidence,
        WEIGHTS_NAME: files.weights,
        "manifest.json": files.manifest,
        "manifest.sig": files.signature,
    }


def write_release(folder: Path, files: ReleaseBytes) -> None:
    """Make the folder whole or not at all.

    Raises:
        OurMistake: `folder` exists.
    """
    if os.path.lexists(folder):
        raise OurMistake(f"{folder} exists already; a release is never overwritten.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".new"))
    try:
        for name, data in parts_of(files).items():
            write_atomic(fresh / name, data)
        fresh.chmod(0o755)
        sync_folder(fresh)
        os.rename(fresh, folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def write_copy(path: Path, files: ReleaseBytes) -> None:
    """A folder, or one archive if the name ends in `.fedprint`.

    Raises:
        OurMistake: `path` exists.
    """
    if path.suffix != ARCHIVE_SUFFIX:
        write_release(path, files)
        return
    if os.path.lexists(path):
        raise OurMistake(f"{path} exists already; a release is never overwritten.")
    write_atomic(path, pack(files))


def pack(files: ReleaseBytes) -> bytes:
    """One uncompressed tar of the four files; equal releases give equal bytes."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in sorted(parts_of(files).items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.mode = 0o644
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def unpack(data: bytes) -> ReleaseBytes:
    """Inverse of `pack`, in memory; nothing is ever extracted to a path of the archive's choice.

    Raises:
        Refused: anything but the exact bytes that `pack` makes of the four files.
    """
    refused = Refused(
        "The file is not a release archive.",
        reason="files",
        do="Give the release's folder, or the .fedprint file that came with it.",
    )
    parts: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            while (member := archive.next()) is not None:
                limit = LIMITS_BYTES.get(member.name)
                if limit is None or member.name in parts or not member.isreg():
                    raise refused
                content = archive.extractfile(member)
                if content is None or member.size > limit:
                    raise refused
                parts[member.name] = content.read(limit + 1)
    except (tarfile.TarError, ValueError, OSError, EOFError, OverflowError):
        raise refused from None
    if set(parts) != set(LIMITS_BYTES):
        raise refused
    files = _from_parts(parts)
    if pack(files) != data:
        raise refused
    return files


def read_signer(value: str) -> bytes:
    """The release key to trust: 64 hexadecimal digits, or the path of a `coordinator.json`.

    Returns:
        32 raw bytes.

    Raises:
        OurMistake: neither of the two.
        PeerFault: the file is not an invitation that is signed by its own key.
    """
    return read_pinned_keys(value).release


@dataclass(frozen=True)
class PinnedKeys:
    """Raw public keys, 32 bytes; run and root only where a coordinator.json was given."""

    release: bytes
    run: bytes | None = None
    root: bytes | None = None


def read_pinned_keys(value: str) -> PinnedKeys:
    """As `read_signer`: the release key and, where a file names them, run key and root key."""
    if len(value) == 2 * KEY_BYTES and all(c in "0123456789abcdefABCDEF" for c in value):
        return PinnedKeys(bytes.fromhex(value))
    path = Path(value)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_INVITATION_BYTES + 1)
    except (OSError, ValueError) as error:
        raise OurMistake(
            "The signer is neither 64 hexadecimal digits nor a readable coordinator.json.",
            do="Give the coordinator.json that the operator sent, or the release key's digits.",
        ) from error
    invitation = open_invitation(data)
    return PinnedKeys(invitation.release, invitation.run, invitation.root)


def code_files(root: Path | None = None) -> dict[str, bytes]:
    """The source files of the five installed packages by name, sorted.

    Compiled files, hidden files and whatever lies beside the packages do not count, so that a
    checkout and the wheel made of it agree.
    """
    base = root or Path(__file__).resolve().parent.parent
    found: dict[str, bytes] = {}
    for package in PACKAGES:
        for path in sorted((base / package).rglob("*")):
            relative = path.relative_to(base)
            hidden = any(part.startswith(".") or part == "__pycache__" for part in relative.parts)
            if hidden or not path.is_file() or path.suffix == ".pyc":
                continue
            found[relative.as_posix()] = path.read_bytes()
    return dict(sorted(found.items()))


def digest_of_files(digests: Mapping[str, str]) -> str:
    """The code digest that follows from the SHA-256 of each file."""
    return canonical.digest_of(sorted([name, value] for name, value in digests.items()))


def code_digest(root: Path | None = None) -> str:
    """SHA-256 over names and contents of the source files of the five installed packages."""
    return digest_of_files(
        {name: canonical.digest(data) for name, data in code_files(root).items()}
    )


def package_versions() -> dict[str, str]:
    """Versions of what a result depends on, as installed here."""
    found: dict[str, str] = {}
    for name in DEPENDENCIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found
