"""Files of the lab that people write: TOML, and in words what is wrong with them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shared_model.errors import OurMistake


def toml_of(path: Path, what: str) -> dict[str, Any]:
    """The file's values. what: it is called in a fault, such as "The sweep".

    Raises:
        OurMistake: it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OurMistake(f"{what} {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise OurMistake(f"{what} {path} is not TOML: {error}.") from error


def faults_of(error: ValidationError) -> list[str]:
    """What is wrong, `field: how` each; no value is shown."""
    return [
        f"{'.'.join(str(part) for part in one['loc']) or 'the whole'}: "
        f"{one['msg'].removeprefix('Value error, ')}"
        for one in error.errors(include_url=False, include_input=False)
    ]
