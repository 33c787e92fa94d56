"""What the demo's steps share: settings, hospitals, paths, and how a command is run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared_model.errors import OurMistake

RUN = "demo"
ROOT_MACHINE = "machine-without-network"
CONSOLE = "simulations.demo_run:console"
"""Entry of a child that is one of our commands."""


@dataclass(frozen=True)
class Settings:
    """What the caller chose. data None: simulated hospitals."""

    output: Path
    data: Path | None
    rounds: int
    steps: int
    epsilon: float
    replace: bool
    patients: int = 40


@dataclass(frozen=True)
class Site:
    """One hospital of the demo."""

    name: str
    recordings: Path
    declared_patients: int
    real: bool


@dataclass
class Step:
    """One line of the live display and of the report."""

    title: str
    state: str = "waiting"
    seconds: float = 0.0
    detail: str = ""


@dataclass
class Demo:
    """Paths, sites and what happened so far."""

    settings: Settings
    sites: tuple[Site, ...] = ()
    held_out: tuple[Path, ...] = ()
    steps: list[Step] = field(default_factory=list)
    commands: list[dict[str, Any]] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.settings.output.absolute()

    @property
    def real(self) -> bool:
        return all(site.real for site in self.sites)

    @property
    def coordinator(self) -> Path:
        return self.root / "coordinator"

    @property
    def root_machine(self) -> Path:
        """Stands for a machine that has no network."""
        return self.root / ROOT_MACHINE

    def carried(self, name: str, source: Path) -> Path:
        """A file as it is after somebody carried it over by hand."""
        target = self.root / name
        shutil.copyfile(source / name, target)
        return target

    @property
    def release(self) -> Path:
        return self.root / "release-1"

    def node(self, site: Site) -> Path:
        return self.root / site.name

    def command(self, *words: str, check: bool = True) -> str:
        """Run one of our commands to its end; its output goes to logs/. Returns stdout.

        Raises:
            OurMistake: it ended with another exit code than 0, with the end of its output.
        """
        log = self.root / "logs" / f"{len(self.commands) + 1:02d}-{words[0]}-{words[1]}.log"
        began = time.monotonic()
        done = subprocess.run(
            [str(script(words[0])), *words[1:]],
            cwd=self.root,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - began
        log.write_text(f"$ {' '.join(words)}\n{done.stdout}{done.stderr}")
        self.commands.append(
            {"command": self._short(words), "exit": done.returncode, "seconds": round(seconds, 1)}
        )
        if check and done.returncode != 0:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
            raise OurMistake(
                f"{' '.join(words[:2])} ended with exit code {done.returncode}:\n{tail}",
                do=f"See {log}",
            )
        return done.stdout

    def _short(self, words: Sequence[str]) -> str:
        return " ".join(word.replace(f"{self.root}/", "") for word in words)


def script(name: str) -> Path:
    """The console script of this installation."""
    return Path(sys.executable).parent / name


def environment() -> dict[str, str]:
    """One thread a process where several train on few cores."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160", "NO_COLOR": "1"}
