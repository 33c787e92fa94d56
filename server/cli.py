"""fedprint-coordinator: what the consortium's operator runs."""

from __future__ import annotations

import typer

from server import (
    cli_code,
    cli_ledger,
    cli_ops,
    cli_registry,
    cli_release,
    cli_root,
    cli_roster,
    cli_run,
    cli_service,
)
from shared_model import about, commands, terminal

app = typer.Typer(
    name="fedprint-coordinator",
    help="The coordinator: sites, runs, releases. It never sees a recording.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
cli_run.register(app)
cli_release.register(app)
app.add_typer(cli_ledger.app, name="ledger")
cli_registry.register(app)
cli_service.register(app)
cli_ops.register(app)
app.add_typer(cli_code.app, name="code")
app.add_typer(cli_root.app, name="root")
app.add_typer(cli_roster.app, name="roster")


@app.callback()
def root(version: about.Version = False) -> None:
    """The coordinator: sites, runs, releases. It never sees a recording."""


def main() -> None:
    """Console script."""
    terminal.run(lambda: commands.command_of(app)(standalone_mode=False))
