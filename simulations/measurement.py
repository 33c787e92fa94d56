"""A measurement as a file: figures, and what made them, so that a page can be generated from it."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared_model import outputs
from shared_model.errors import OurMistake
from shared_model.files import read_regular

LARGEST_FILE = 20 * 2**20
PACKAGES = ("fedprint", "numpy", "scipy", "torch", "scikit-learn", "neurokit2", "flwr")
NO_COMMIT = "not known: not run from a checkout"
_SHORT = Field(max_length=2000)


class Machine(BaseModel):
    """What ran it. Nothing that names a host or a user. devices: what torch computed on."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    system: str = _SHORT
    processor: str = _SHORT
    cores: int = Field(ge=1)
    threads: str = Field(max_length=40)
    devices: str = Field("cpu", max_length=400)


class Measurement(BaseModel):
    """One JSON file of `docs/results`.

    kind: which table it fills. command: as typed, weights and folders as named there. date: UTC,
    when it ended. commit: of the source, with "+ changes" where files differed from it.
    weights: digest of each model that was measured, by its row's name. figures: the kind's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    measurement: int = Field(1, ge=1, le=1)
    kind: str = Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")
    command: str = _SHORT
    date: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\dZ$")
    seconds: float = Field(ge=0)
    commit: str = Field(
        pattern=r"^([0-9a-f]{40}( \+ changes)?|not known: not run from a checkout)$"
    )
    machine: Machine
    versions: dict[str, str]
    weights: dict[str, str]
    figures: dict[str, Any]

    def to_bytes(self) -> bytes:
        """The file."""
        return (outputs.document(self.model_dump(), indent=1) + "\n").encode()


def made_now(
    kind: str,
    figures: dict[str, Any],
    *,
    weights: dict[str, str],
    seconds: float,
    devices: str = "cpu",
    packages: tuple[str, ...] = (),
) -> Measurement:
    """A measurement that this process has just made, with its own command line.

    Args:
        packages: others than `PACKAGES` whose versions are said.
    """
    return Measurement(
        measurement=1,
        kind=kind,
        command=command_line(),
        date=now(),
        seconds=round(seconds, 1),
        commit=commit_of(Path(__file__).parent),
        machine=Machine(
            system=platform.platform(),
            processor=processor(),
            cores=os.cpu_count() or 1,
            threads=os.environ.get("OMP_NUM_THREADS", "as many as cores"),
            devices=devices,
        ),
        versions=versions(packages),
        weights=weights,
        figures=figures,
    )


def now() -> str:
    """The minute, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ")


def write(path: Path, measured: Measurement) -> None:
    """Write the file whole, or not at all.

    Raises:
        OurMistake: it cannot be written.
    """
    outputs.write_all(path.parent, {path.name: measured.to_bytes()})


def read(path: Path) -> Measurement:
    """Read a file.

    Raises:
        OurMistake: it is no measurement; which field is wrong is said, no value is shown.
        Refused: a link, no regular file, or too large.
    """
    data = read_regular(path, LARGEST_FILE)
    try:
        return Measurement.model_validate(json.loads(data))
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, one["loc"])) or "the whole" for one in error.errors())
        raise OurMistake(
            f"{path.name} is no measurement of fedprint-lab: {wrong}.",
            do="Write it with a command of fedprint-lab and -o; do not edit it.",
        ) from error
    except (ValueError, RecursionError) as error:
        raise OurMistake(f"{path.name} is not JSON.") from error


def command_line(argv: list[str] | None = None) -> str:
    """`fedprint-lab ...` as it was called."""
    return " ".join(["fedprint-lab", *map(shlex.quote, (argv or sys.argv)[1:])])[:2000]


def commit_of(folder: Path) -> str:
    """The checkout's commit, and whether files differ from it; in words where there is none."""
    try:
        commit = _git(folder, "rev-parse", "HEAD").strip()
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no").strip()
    except (OSError, subprocess.SubprocessError):
        return NO_COMMIT
    return f"{commit} + changes" if changed else commit


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20, check=True
    )
    return done.stdout


def processor() -> str:
    """Its name as Linux says it, else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions(more: tuple[str, ...] = ()) -> dict[str, str]:
    """Of Python and of the packages that figures depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *more):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
