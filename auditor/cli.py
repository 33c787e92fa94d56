"""fedprint-audit: what privacy auditors run, offline, on exported files."""

from __future__ import annotations

import typer

from shared_model import terminal

app = typer.Typer(
    name="fedprint-audit",
    help="Check releases and privacy claims offline; trust nobody.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def main() -> None:
    """Console script."""
    terminal.run(lambda: app(standalone_mode=False))
