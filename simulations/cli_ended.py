"""A long command that ends before its time ends in words: what to do to go on, and its status.

    with going_on(out, again("run", str(file), "-o", str(out))):
        ...

130 after Ctrl-C, 143 after SIGTERM; 2 where there is no room to write.
"""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from shared_model import outputs, terminal


def again(*words: str, workers: int | None = None) -> str:
    """The command that goes on, as it is typed.

    Args:
        words: all of it but `--resume`. workers: None where none were asked for.
    """
    more = [] if workers is None else ["--workers", str(workers)]
    return shlex.join(["fedprint-lab", *words, "--resume", *more])


@contextmanager
def told_when_ended(words: str | Callable[[], str]) -> Iterator[None]:
    """A signal ends the block (see `ended_by_signals`); it is said which, and these words.

    Args:
        words: or what makes them once the block has ended.
    """
    from simulations.ablation_workers import Ended, ended_by_signals

    try:
        with ended_by_signals():
            yield
    except KeyboardInterrupt as ended:
        number = ended.number if isinstance(ended, Ended) else signal.SIGINT
        name = signal.Signals(number).name
        said = words if isinstance(words, str) else words()
        terminal.err.print(f"Ended by {name}. {said}", highlight=False, soft_wrap=True)
        raise typer.Exit(128 + number) from ended


@contextmanager
def going_on(folder: Path, command: str) -> Iterator[None]:
    """What a signal or a full disk ends can be gone on with: `command`.

    Raises:
        OurMistake: there is no room in the folder.
    """
    try:
        with told_when_ended(f"Go on with: {command}"):
            yield
    except OSError as error:
        if error.errno not in outputs.NO_ROOM:
            raise
        do = f"Free room, then go on with: {command}"
        raise outputs.cannot_be_written(folder, error, do=do) from error
