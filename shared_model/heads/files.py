"""A head as a folder: `head.json`, `head.safetensors`, `MODEL_CARD.md`, and once signed `head.sig`.

    write(folder, head)                     sign(folder, key)
    read(folder)                            verify(folder, signer)

Whatever lies in the folder is hostile until it is read: regular files of these names alone are
opened, links are not followed, and the card must be the one that is made from the manifest (of
format 1 or 2, whose cards were worded otherwise, the one whose digest it has: such a head is read,
and neither signed nor verified). What the commands show is made from the manifest, never the file.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared_model import signing
from shared_model.canonical import digest
from shared_model.errors import OurMistake, Refused
from shared_model.files import read_regular, write_atomic
from shared_model.heads import arrays as arrays_io
from shared_model.heads.arrays import Head
from shared_model.heads.card import card
from shared_model.heads.manifest import (
    ARRAYS_LIMIT_BYTES,
    CARD_IS_MADE,
    MANIFEST_LIMIT_BYTES,
    TAG,
    HeadManifest,
)

MANIFEST, ARRAYS, CARD, SIGNATURE = "head.json", "head.safetensors", "MODEL_CARD.md", "head.sig"
FILES = (MANIFEST, ARRAYS, CARD, SIGNATURE)
"""All that a head is; what else lies in its folder nothing vouches for."""
PLOTS = "plots"
"""Folder that a command may draw into. Its pictures should show what the manifest says; nobody
vouches for that, the signature neither."""
DRAWN = {"classes": ("reliability", "coverage"), "number": (), "identity": ("identity",)}
"""Their names, by the kind of head (`simulations.heads.plots`), each as PDF and SVG."""
CARD_LIMIT_BYTES = 2**20
SIGNATURE_BYTES = 64


def write(folder: Path, head: Head) -> None:
    """Write a head for its owner; the manifest comes last, and without it the folder is no head.

    Mode 0600: most heads must not leave the site. Whoever publishes one decides who may read it.

    Raises:
        OurMistake: the folder holds a head already, or cannot be written.
    """
    if (folder / MANIFEST).exists():
        raise OurMistake(f"{folder} holds a head already.", do="Choose another folder.")
    try:
        write_atomic(folder / ARRAYS, arrays_io.to_bytes(head.arrays), mode=0o600)
        write_atomic(folder / CARD, card(head.manifest).encode(), mode=0o600)
        write_atomic(folder / MANIFEST, head.manifest.to_bytes(), mode=0o600)
    except OSError as error:
        raise OurMistake(f"{folder} cannot be written: {error.strerror}.") from error


def read(folder: Path) -> Head:
    """Read a head that is not known to be anybody's.

    Raises:
        OurMistake: there is no such folder.
        Refused: a file is missing, a link, too large, or not what it must be.
    """
    if not folder.is_dir():
        raise OurMistake(f"{folder} is no folder.", do="Name the folder of a head.")
    if not os.path.lexists(folder / MANIFEST):
        raise Refused(
            f"{folder} holds no head: {MANIFEST} is absent.",
            reason="files",
            do="Name the folder of a head.",
        )
    manifest = HeadManifest.from_bytes(read_regular(folder / MANIFEST, MANIFEST_LIMIT_BYTES))
    head = arrays_io.opened(manifest, read_regular(folder / ARRAYS, ARRAYS_LIMIT_BYTES))
    found = read_regular(folder / CARD, CARD_LIMIT_BYTES)
    made = manifest.format < CARD_IS_MADE or found == card(manifest).encode()
    if digest(found) != manifest.card_digest or not made:
        raise Refused(
            "MODEL_CARD.md is not the card of this head.",
            reason="card",
            do="Ask whoever gave you the head for it again.",
        )
    return head


def card_words(manifest: HeadManifest) -> str:
    """What is known of the card in the folder of a head that `read` took."""
    if manifest.format < CARD_IS_MADE:
        return "NOT CHECKED, made by an earlier version"
    return "as made from the manifest"


def is_signed(folder: Path) -> bool:
    """Whether something lies where the signature would; it is not looked at."""
    return os.path.lexists(folder / SIGNATURE)


def _refuse_older(head: Head, do: str) -> None:
    """Raises Refused (reason "format") where nobody can say whether the card is the head's."""
    if head.manifest.format < CARD_IS_MADE:
        raise Refused(
            "This head was made by an earlier version: that its card says what it is cannot be "
            "checked.",
            reason="format",
            do=do,
        )


def _others(folder: Path, names: Collection[str]) -> list[Path]:
    """What lies in a folder but regular files of these names; links are none."""
    known = {folder / name for name in names}
    return [
        one for one in folder.iterdir() if one not in known or one.is_symlink() or not one.is_file()
    ]


def _refuse_others(folder: Path, manifest: HeadManifest) -> None:
    """Raises OurMistake where the folder, or `plots` in it, holds anything that is not of the head:
    who sends the folder would send that too. A head whose figures have noise has no plots: others,
    of patients as they are, would pass for its own. Says how many: a name may name a patient."""
    found, plots, also = _others(folder, FILES), folder / PLOTS, ""
    if manifest.figures_from == "patients" and plots.is_dir() and not plots.is_symlink():
        drawn = [f"{name}.{form}" for name in DRAWN[manifest.kind] for form in ("pdf", "svg")]
        found = [*(one for one in found if one != plots), *_others(plots, drawn)]
        also = f", and in {PLOTS}/ {', '.join(drawn)}" if drawn else ""
    if found:
        raise OurMistake(
            f"In the folder, or in {PLOTS}/ of it, are files or folders that are not of the head, "
            f"and that the signature is not for: {len(found)}.",
            do=f"Take out all but {', '.join(FILES)}{also}; then sign again.",
        )


def sign(folder: Path, key: Ed25519PrivateKey) -> Head:
    """Sign a head for other hospitals.

    Raises:
        OurMistake: the folder, or `plots` in it, holds other files.
        Refused: it was trained without noise on data that are not open (reason "not private"), an
            earlier version made it (reason "format"), or as `read`.
    """
    head = read(folder)
    _refuse_older(head, "Train it again.")
    why = head.manifest.why_stays
    if why:
        raise Refused(
            f"This head {why}; it must not leave the site.",
            reason="not private",
            do="Train it with: fedprint-lab head federate. Or, if everybody has the data anyway, "
            "train it again with --open-data and the reason.",
        )
    _refuse_others(folder, head.manifest)
    body = head.manifest.to_bytes()
    write_atomic(folder / SIGNATURE, signing.sign(key, TAG, body))
    return head


def verify(folder: Path, signer: bytes) -> Head:
    """Read a head that `signer` (32 raw bytes) signed.

    Raises:
        Refused: not signed by it (reason "signature"); trained without noise on data that are not
            open (reason "not private"); of an earlier version (reason "format"); or as `read`.
    """
    head = read(folder)
    _refuse_older(head, "Ask whoever gave you the head for one of this version.")
    signature = read_regular(folder / SIGNATURE, SIGNATURE_BYTES)
    signing.verify(signer, TAG, head.manifest.to_bytes(), signature)
    why = head.manifest.why_stays
    if why:
        raise Refused(
            f"This head {why}; it should not be here.",
            reason="not private",
            do="Do not use it, and tell whoever signed it.",
        )
    return head
