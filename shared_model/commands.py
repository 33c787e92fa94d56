"""A Typer application as the commands that people run, with what Typer and Click lose or let pass.

- Click 8.5 gives arguments a help of their own, and with it empties what Typer 0.20 had noted:
  `--help` then explains options, and no argument. It is put back.
- "nan" is a number to Click, and lies in every range: no comparison with it is true. It is refused.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import click
import typer
from typer.models import ParameterInfo
from typer.utils import get_params_from_function

Callback = Callable[[click.Context, click.Parameter, Any], Any]


def command_of(app: typer.Typer) -> click.Command:
    """The program. Every argument has the help that was written for it; no number is nan."""
    made = typer.main.get_command(app)
    for _, one in walk(made):
        _put_back_help(one)
        for param in one.params:
            if isinstance(param.type, click.types.FloatParamType):
                param.callback = _no_nan(param.callback)
    return made


def walk(command: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A command and all below it, each with its words."""
    yield path, command
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            yield from walk(one, *path, name)


def _put_back_help(command: click.Command) -> None:
    if command.callback is None:
        return
    written = get_params_from_function(inspect.unwrap(command.callback))
    for param in command.params:
        said = written[param.name].default if param.name in written else None
        if isinstance(said, ParameterInfo) and not getattr(param, "help", None):
            param.help = said.help


def _no_nan(before: Callback | None) -> Callback:
    def checked(context: click.Context, param: click.Parameter, value: Any) -> Any:
        if isinstance(value, float) and math.isnan(value):
            raise click.BadParameter("nan is no number.", ctx=context, param=param)
        return value if before is None else before(context, param, value)

    return checked
