"""What the four commands share at the terminal: tables with --json, clear errors, exit codes."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import click
import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from shared_model import outputs
from shared_model.errors import FedprintError

INTERRUPTED = 130
WIDE_COLUMNS = 5
_NO_ROOM = "Free room where the output goes, and call it again."


class Screen(Console):
    """A console that shows words as they are, whoever wrote them: what is styled is a Text.

    Nothing in a string is markup or the name of a picture. Whatever is shown, a table and a bar
    too, no character of it drives the terminal.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As rich does it; rich's own orders to the terminal are segments of another kind."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else plain(text), style, control)


out = Screen()
err = Screen(stderr=True)


def run(app: Callable[[], Any]) -> None:
    """Run a Typer application (standalone_mode=False); faults become two lines and an exit code.

    Exit codes: 0 done, 1 unexpected, 2 wrong call or configuration, 3 refused, 4 bad data,
    5 a peer's fault, 6 a check that cannot tell, 130 interrupted.
    """
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its faults are told in our words
    try:
        status = app()
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except FedprintError as error:
        _end_with(error)
    except (KeyboardInterrupt, click.Abort):
        err.print("interrupted")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        _drop_stdout()
        sys.exit(1)
    except OSError as error:
        if error.errno not in outputs.NO_ROOM:
            raise
        _end_with(outputs.cannot_be_written("What this command writes", error, do=_NO_ROOM))
    sys.exit(status if isinstance(status, int) else 0)


def _end_with(error: FedprintError) -> NoReturn:
    """Say what happened and what to do. A full disk may hold what standard output goes to, too."""
    try:
        sys.stdout.flush()
    except OSError:
        _drop_stdout()
    err.print(Text.assemble(("error:", "bold red"), " ", plain(error.message)))
    if error.do:
        err.print(Text.assemble(("do:", "bold"), " ", plain(error.do)))
    sys.exit(error.exit_code)


def _drop_stdout() -> None:
    """What nobody takes is not tried again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show(title: str, rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print rows as one table, or as one JSON array on stdout. One wide row is shown upright.

    A column stands where any row has it, whichever comes first. Title, columns and values are plain
    text, whoever wrote them: nothing in them styles, links, or drives the terminal.
    """
    if as_json:
        print_json(list(rows))
        return
    if len(rows) == 1 and len(rows[0]) > WIDE_COLUMNS:
        rows = [{"what": name, "value": value} for name, value in rows[0].items()]
    table = Table(title=Text(plain(title), style="table.title"), title_justify="left")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in columns:
        right = bool(rows) and all(isinstance(row.get(name), int | float) for row in rows)
        heading = Text(plain(name))
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(row.get(name))) for name in columns))
    out.print(table)


def heading(first: str, rest: str, *, style: str = "bold", soft_wrap: bool = False) -> None:
    """One line on stdout of which the first words stand out."""
    out.print(Text.assemble((plain(first), style), plain(rest)), soft_wrap=soft_wrap)


def figure(value: float | None, form: str) -> str:
    """A number as text, or "not known": a figure that nothing could be measured of."""
    return "not known" if value is None or math.isnan(value) else format(value, form)


def print_json(value: Any) -> None:
    """One JSON document on stdout, nothing else; null where a figure is not known."""
    typer.echo(json.dumps(outputs.finite(value), indent=2, allow_nan=False, default=str))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return figure(value, ".4g")
    return plain(str(value))


def plain(text: str) -> str:
    """Text that a terminal shows and never obeys: blanks and "?" for what no screen shows."""
    return "".join(
        one if one.isprintable() or one == "\n" else " " if one.isspace() else "?" for one in text
    )
