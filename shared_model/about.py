"""`--version` of the four commands: package, protocol and code digest."""

from __future__ import annotations

from typing import Annotated

import typer

from shared_model import protocol, protocol_base


def lines() -> list[str]:
    """What is installed here, one fact a line."""
    from shared_model.release_files import code_digest

    return [protocol.software(), f"protocol {protocol_base.VERSION}", f"code {code_digest()}"]


def _show(wanted: bool) -> None:
    if wanted:
        for line in lines():
            typer.echo(line)
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version",
        callback=_show,
        is_eager=True,
        help="Print package, protocol version and code digest.",
    ),
]
