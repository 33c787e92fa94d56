"""A bar on stderr with the time left; silent where stderr is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared_model import terminal


@contextmanager
def counting_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Gives what is told (done, of), of patients or rows."""
    from rich import progress

    bar = progress.Progress(
        progress.TextColumn(what, markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        console=terminal.err,
        disable=not terminal.err.is_terminal,
        transient=True,
    )
    task = bar.add_task(what, total=None)
    with bar:
        yield lambda done, of: bar.update(task, completed=done, total=of)
