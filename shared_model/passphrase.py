"""Where a backup's passphrase comes from: a file or the terminal, never an argument."""

from __future__ import annotations

from pathlib import Path

import typer

from shared_model.errors import OurMistake
from shared_model.files import read_regular
from shared_model.sealed_stream import check_passphrase

_LARGEST = 4096


def passphrase_of(file: Path | None, *, new: bool) -> str:
    """Read the file's first line, or ask; twice for a new one.

    Raises:
        OurMistake: short, or the file is not text.
    """
    if file is not None:
        try:
            text = read_regular(file, _LARGEST).decode()
        except UnicodeDecodeError as error:
            raise OurMistake(f"{file.name} is not text.") from error
        lines = text.splitlines()
        found = lines[0] if lines else ""
    else:
        found = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=new, err=True)
    if new:
        check_passphrase(found)
    return found
