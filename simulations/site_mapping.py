"""How the lab reads a folder of recordings: by the mapping that lies in it, else by a guess.

    mapping = mapping_of(folder)
    for item in read_folder(folder, mapping): ...

Names of channels, units and columns that no guess knows are said once, in the folder itself
(`client.records.MAPPING_FILE`), for all commands and experiments that read it. A node takes no file
of a folder at its word, for a mapping says who is one patient: there it is `--mapping`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from pathlib import Path

from client.mapping import Mapping
from client.pseudonyms import SPELLING
from client.records import MAPPING_FILE, guess_mapping
from shared_model.errors import OurMistake, Refused
from shared_model.files import read_regular
from simulations.lots import place_of, shown

LARGEST = 2**18
"""Bytes; `Mapping.from_toml` takes fewer characters."""
HOW_READ = (
    f"fedprint-node data mapping FOLDER -o FOLDER/{MAPPING_FILE} writes how a folder is read; "
    "mended there, it is what fedprint-lab reads the folder by"
)
"""What to do where files of a folder could not be read, or a label was not found."""
_SOURCE = "source"
"""Column in which pretend patients say that they are nobody's."""


@dataclass(frozen=True)
class OwnMapping:
    """A folder's own. digest: SHA-256 of the file, hexadecimal."""

    mapping: Mapping
    digest: str


def own_mapping(folder: Path) -> OwnMapping | None:
    """What the folder's file says; None without one.

    Raises:
        OurMistake: it is a link or no file, or wrong; never passed over for a guess.
    """
    path = folder / MAPPING_FILE
    if not os.path.lexists(path):
        return None
    try:
        content = read_regular(path, LARGEST)
        return OwnMapping(
            Mapping.from_toml(content.decode("utf-8")), hashlib.sha256(content).hexdigest()
        )
    except (Refused, UnicodeDecodeError) as error:
        raise OurMistake(
            f"{MAPPING_FILE} of the folder {folder} cannot be read.", do="Mend or remove it."
        ) from error
    except OurMistake as error:
        raise OurMistake(f"{path}: {error.message}", do=error.do) from error


def mapping_of(folder: Path) -> Mapping:
    """The mapping of a folder's own file, or the one that fits its files best. The column that says
    that patients are simulated is kept, whatever the folder's file says.

    Raises:
        OurMistake: there is neither file nor folder, or the mapping is wrong.
    """
    own = own_mapping(folder)
    if own is None:
        return guess_mapping(folder)
    mapping = own.mapping
    called = {mapping.label_names.get(one, one).strip().casefold() for one in mapping.labels}
    if _SOURCE in called:
        return mapping
    told = [one for one in guess_mapping(folder).labels if one.strip().casefold() == _SOURCE]
    return mapping.model_copy(update={"labels": (*mapping.labels, *told[:1])})


def own_mappings(folders: Iterable[Path]) -> dict[str, str]:
    """Digest of each folder's own mapping, by the folder's name; of those that have one.

    Raises:
        OurMistake: one is wrong.
    """
    found = {folder: own_mapping(folder) for folder in folders}
    return {shown(place_of(folder)): own.digest for folder, own in found.items() if own is not None}


def mapping_words(found: MappingOf[str, str]) -> list[str]:
    """A line a folder, of `own_mappings`."""
    return [f"{name}: read by its own {MAPPING_FILE}, {one[:12]}" for name, one in found.items()]


def refuse_other_mappings(
    run: str, then: MappingOf[str, str], folders: Iterable[Path], *, spelling: int
) -> None:
    """A mapping says who is a patient, and a patient's lot follows from his name: read otherwise
    than the run read them, patients whom it trained on would count as unread.

    Args:
        then: `own_mappings` of the run.
        spelling: `client.pseudonyms.SPELLING` of the run.

    Raises:
        OurMistake: a folder that both read is not read alike, or is not there.
    """
    folders = list(folders)
    if folders and spelling != SPELLING:
        raise OurMistake(
            f"The run {run} is of a version that gave some patients other names, so that nobody "
            "can say whom it has read.",
            do="Run it anew.",
        )
    for folder in folders:
        name = shown(place_of(folder))
        if not folder.is_dir():
            raise OurMistake(
                f"The folder {folder} that the run {run} has read is not there.",
                do="Put it back: who was read follows from its recordings' names.",
            )
        now = own_mapping(folder)
        if then.get(name) != (None if now is None else now.digest):
            raise OurMistake(
                f"The run {run} read the folder {name} by another mapping than there is now, so "
                "that nobody can say whom it has read.",
                do=f"Put the {MAPPING_FILE} back that the run had (or none), or run it anew.",
            )
