"""What the commands of fedprint-node data share: options, a question, an answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from shared_model import terminal
from shared_model.errors import OurMistake

Home = Annotated[
    Path | None,
    typer.Option("--home", help="The node's folder (else FEDPRINT_NODE_HOME, ~/.fedprint/node)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def confirm(question: str, *, yes: bool) -> None:
    """Ask, unless --yes; a pipe that cannot answer is refused.

    Raises:
        OurMistake: nobody is there to ask.
        typer.Abort: the answer was no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise OurMistake("Nobody is there to be asked.", do="Give --yes if you are sure.")
    typer.confirm(question, abort=True, err=True)


def done(document: dict[str, Any], text: str, *, as_json: bool) -> None:
    if as_json:
        terminal.print_json(document)
    else:
        terminal.out.print(text, highlight=False, soft_wrap=True)
