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
from pathlib import Path

from client.mapping import Mapping
from client.records import MAPPING_FILE, guess_mapping
from shared_model.errors import OurMistake, Refused
from shared_model.files import read_regular
from shared_model.terminal import plain
from simulations.lots import place_of

LARGEST = 2**20
HOW_READ = (
    f"fedprint-node data mapping FOLDER -o FOLDER/{MAPPING_FILE} writes how a folder is read; "
    "mended there, it is what fedprint-lab reads the folder by"
)
"""What to do where files of a folder could not be read, or a label was not found."""


def mapping_of(folder: Path) -> Mapping:
    """The mapping of a folder's own file, or the one that fits its files best.

    Raises:
        OurMistake: there is neither file nor folder, or the mapping is wrong.
    """
    path = folder / MAPPING_FILE
    if not os.path.lexists(path):
        return guess_mapping(folder)
    try:
        return Mapping.from_toml(read_regular(path, LARGEST).decode("utf-8"))
    except (Refused, UnicodeDecodeError) as error:
        raise OurMistake(
            f"{MAPPING_FILE} of the folder {folder} cannot be read.", do="Mend or remove it."
        ) from error
    except OurMistake as error:
        raise OurMistake(f"{path}: {error}", do=error.do) from error


def own_mappings(folders: Iterable[Path]) -> dict[str, str]:
    """SHA-256, hexadecimal, of the mapping files there are, by the folder's name."""
    found = {}
    for folder in folders:
        path = folder / MAPPING_FILE
        if os.path.lexists(path):
            name = plain(place_of(folder)).replace("\n", " ")
            found[name] = hashlib.sha256(read_regular(path, LARGEST)).hexdigest()
    return found


def mapping_words(found: MappingOf[str, str]) -> list[str]:
    """A line a folder, of `own_mappings`."""
    return [f"{name}: read by its own {MAPPING_FILE}, {one[:12]}" for name, one in found.items()]
