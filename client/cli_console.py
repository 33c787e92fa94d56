"""fedprint-node console: a one-time link to the node's page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.home import NodeHome
from shared_model import terminal

Home = Annotated[Path | None, typer.Option(help="The node's folder (else FEDPRINT_NODE_HOME).")]


def register(app: typer.Typer) -> None:
    """Add this part's commands."""
    app.command()(console)


def console(
    home: Home = None,
    serve: Annotated[
        bool,
        typer.Option("--serve", help="Run the console here, without the node, until Ctrl-C."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print a link that logs one browser in to the node's console, once, within ten minutes.

    The console runs with `fedprint-node start`, at 127.0.0.1 of this machine only.

    Example: fedprint-node console
    """
    from client import console_app

    place = NodeHome.find(home)

    def show(_: int = 0) -> None:
        made = console_app.link(place)
        if as_json:
            terminal.print_json({"link": made, "expires_in_s": 600})
        else:
            typer.echo(made)

    if serve:
        console_app.run(place, show)
    else:
        show()
