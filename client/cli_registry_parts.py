"""What the commands of the registry share: options, the time, lines for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared_model import terminal

if TYPE_CHECKING:
    import datetime

Home = Annotated[Path | None, typer.Option(help="The node's folder (else FEDPRINT_NODE_HOME).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def now() -> datetime.datetime:
    """The time in UTC, by which certificates are judged."""
    import datetime

    return datetime.datetime.now(datetime.UTC)


def print_lines(lines: list[str]) -> None:
    """On standard output, as they are."""
    for line in lines:
        terminal.out.print(line, soft_wrap=True, highlight=False)
