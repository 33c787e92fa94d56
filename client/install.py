"""Install a release at a node: verify, refuse what is older, switch in one rename.

    releases/000007-1f0c9a2b3c4d/   the four files, as verified
    releases/current                relative link to the installed folder
    releases/installed.json         for each signer: the highest number ever installed, its digest

What was verified is what is written: the files are read once, into memory.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.home import NodeHome
from client.install_checks import (
    check_model,
    check_names,
    check_origin,
    check_own_rounds,
    check_price,
    check_rosters,
    config_of,
)
from client.keys import pinned
from shared_model.config import ModelConfig
from shared_model.errors import OurMistake, Refused
from shared_model.files import sync_folder, write_atomic
from shared_model.locks import locked
from shared_model.release_checks import verify
from shared_model.release_files import read_release, write_release
from shared_model.release_signed import Release, ReleaseBytes
from shared_model.weights import Weights

if TYPE_CHECKING:
    from shared_model.mae import MaskedAutoencoder

_FOLDER = re.compile(r"\A[0-9]{6,10}-[0-9a-f]{12}\Z")


@dataclass(frozen=True)
class Checked:
    """A release that may be installed at this node."""

    release: Release
    files: ReleaseBytes
    again: bool
    """This very release is installed already."""

    @property
    def folder(self) -> str:
        manifest = self.release.manifest
        return f"{manifest.number:06d}-{manifest.digest[:12]}"


def trusted_signer(home: NodeHome) -> bytes:
    """The release key (32 raw bytes) that this node pinned when it joined.

    Raises:
        OurMistake: the node has joined no coordinator.
    """
    return pinned(home).release


def check(
    home: NodeHome,
    path: Path,
    confirmed: Collection[str] = (),
    origins: Collection[str] = (),
) -> Checked:
    """Verify a release folder or archive for this node; changes nothing.

    Args:
        confirmed: digests of rosters that this node never approved and its operator, asked for
            this release, vouches for.
        origins: digests of first models that the operator vouches for.

    Raises:
        Refused: reasons "files", "size", "manifest", "signer", "signature", "digest", "weights",
            "evidence", "lineage", "roster-approval", "price", "model", "downgrade".
        OurMistake: nothing at `path`, or the node has joined no coordinator.
    """
    signer = trusted_signer(home)
    files = read_release(path)
    release = verify(files, signer)
    check_names(home, release)
    check_rosters(home, release, confirmed)
    check_own_rounds(home, release)
    check_price(release)
    check_model(release)
    check_origin(release, origins)
    return Checked(release, files, again=_not_older(home, release))


def opened(home: NodeHome, path: Path) -> Release:
    """A release to be used without installing it; an older one may be, since the caller names it.

    Raises:
        Refused: as `check`, but for "downgrade".
    """
    release = verify(read_release(path), trusted_signer(home))
    check_names(home, release)
    check_rosters(home, release)
    check_model(release)
    return release


def install(home: NodeHome, checked: Checked) -> Path:
    """Write the verified files and switch to them; the release before is kept.

    Returns:
        The installed folder.

    Raises:
        Refused: meanwhile a newer release was installed (reason "downgrade").
    """
    manifest = checked.release.manifest
    with _locked(home):
        _not_older(home, checked.release)
        before = _current_name(home)
        target = home.releases / checked.folder
        if not _holds(target, checked.files):
            _remove(target)
            write_release(target, checked.files)
        _note(home, manifest.signer, manifest.number, manifest.digest)
        _switch(home, checked.folder)
        _forget_others(home, {checked.folder, before or checked.folder})
    return target


def current(home: NodeHome) -> Release | None:
    """The installed release, verified again against the pinned key; None if there is none.

    Raises:
        Refused: the installed files are not what was installed.
    """
    name = _current_name(home)
    if name is None:
        return None
    release = verify(read_release(home.releases / name), trusted_signer(home))
    check_model(release)
    return release


def previous(home: NodeHome) -> str | None:
    """Folder name of the release that was installed before the current one."""
    now = _current_name(home)
    return next((name for name in reversed(_folders(home)) if name != now), None)


def digests(home: NodeHome) -> tuple[str, ...]:
    """Manifest digests of the newest release of each signer that was ever installed here.

    Raises:
        OurMistake: installed.json cannot be read.
    """
    path = home.releases / "installed.json"
    signers = json.loads(path.read_bytes()) if path.exists() else {}
    return tuple(sorted({_highest(home, signer)[1] for signer in signers}))


def load_model(release: Release) -> MaskedAutoencoder:
    """The released model, ready for fingerprints."""
    return model_of(config_of(release), release.weights)


def model_of(config: ModelConfig, weights: Weights) -> MaskedAutoencoder:
    """A model with these weights."""
    from shared_model import mae

    model = mae.build(config, seed=0)
    mae.load_weights(model, weights)
    return model


def _not_older(home: NodeHome, release: Release) -> bool:
    """True if exactly this release was the last one installed.

    Raises:
        Refused: a lower number, or the same number with another content (reason "downgrade").
    """
    manifest = release.manifest
    number, digest = _highest(home, manifest.signer)
    if manifest.number < number:
        raise Refused(
            f"Release {manifest.number} is older than release {number}, which was installed here.",
            reason="downgrade",
            do="Install the coordinator's latest release.",
        )
    if manifest.number == number and manifest.digest != digest:
        raise Refused(
            f"Another release {number} was installed here: the signer used a number twice.",
            reason="downgrade",
            do="Tell the coordinator's operator; one of the two is false.",
        )
    return manifest.number == number and _current_name(home) is not None


def _highest(home: NodeHome, signer: str) -> tuple[int, str]:
    """Highest number ever installed from this signer and its manifest digest; (0, "") if none."""
    path = home.releases / "installed.json"
    if not path.exists():
        return 0, ""
    try:
        entry = json.loads(path.read_bytes()).get(signer, {"number": 0, "digest": ""})
        return int(entry["number"]), str(entry["digest"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OurMistake(
            f"{path} cannot be read; without it a downgrade would go unseen.",
            do="Restore the file from a backup, or remove the folder releases/ and install anew.",
        ) from error


def _note(home: NodeHome, signer: str, number: int, digest: str) -> None:
    path = home.releases / "installed.json"
    known = json.loads(path.read_bytes()) if path.exists() else {}
    known[signer] = {"number": number, "digest": digest}
    write_atomic(path, json.dumps(known, indent=1, sort_keys=True).encode(), mode=0o600)


def _current_name(home: NodeHome) -> str | None:
    """Folder that `releases/current` points to.

    Raises:
        Refused: it points anywhere else than to a release beside it (reason "files").
    """
    link = home.releases / "current"
    if not os.path.lexists(link):
        return None
    try:
        name = os.readlink(link)
    except OSError:
        name = ""
    if not _FOLDER.match(name):
        raise Refused(
            f"{link} is not the link that the installation made.",
            reason="files",
            do="Remove it and install the release again.",
        )
    return name


def _switch(home: NodeHome, name: str) -> None:
    fresh = home.releases / ".current.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(name)
    os.replace(fresh, home.releases / "current")
    sync_folder(home.releases)


def _holds(folder: Path, files: ReleaseBytes) -> bool:
    try:
        return read_release(folder) == files
    except (Refused, OurMistake):
        return False


def _remove(path: Path) -> None:
    """Remove a damaged release folder; a link in its place is removed, not followed."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _folders(home: NodeHome) -> list[str]:
    if not home.releases.is_dir():
        return []
    return sorted(entry.name for entry in home.releases.iterdir() if _FOLDER.match(entry.name))


def _forget_others(home: NodeHome, keep: set[str]) -> None:
    """Remove releases that are neither the current nor the one before, and unfinished writes.

    When the installed release is installed again, the one before it stays too.
    """
    kept = set(keep)
    if len(kept) == 1:
        kept.update(_folders(home)[-2:])
    for entry in list(home.releases.iterdir()):
        unfinished = entry.name.startswith(".") and entry.name.endswith(".new")
        if unfinished or (_FOLDER.match(entry.name) and entry.name not in kept):
            _remove(entry)


@contextmanager
def _locked(home: NodeHome) -> Iterator[None]:
    home.make()
    home.releases.mkdir(exist_ok=True, mode=0o700)
    with locked(home.releases / ".lock"):
        yield
