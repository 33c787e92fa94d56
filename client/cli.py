"""fedprint-node: what hospital IT runs."""

from __future__ import annotations

import typer

from client import (
    cli_code,
    cli_console,
    cli_data,
    cli_drift,
    cli_ledger,
    cli_node,
    cli_ops,
    cli_personal,
    cli_registry,
    cli_release,
    cli_roster,
    cli_run,
)
from shared_model import about, commands, terminal

app = typer.Typer(
    name="fedprint-node",
    help="The hospital's node: data, keys, policy, training, releases. "
    "Nothing leaves but noised updates.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(cli_data.app, name="data", help="Add, show, remove recordings of this hospital.")
cli_node.register(app)
cli_ledger.register(app)
cli_release.register(app)
cli_roster.register(app)
cli_run.register(app)
cli_registry.register(app)
cli_ops.register(app)
cli_console.register(app)
cli_code.register(app)
cli_personal.register(app)
cli_drift.register(app)


@app.callback()
def root(version: about.Version = False) -> None:
    """The hospital's node: data, keys, policy, training, releases.

    Nothing leaves but noised updates.
    """


def main() -> None:
    """Console script."""
    terminal.run(lambda: commands.command_of(app)(standalone_mode=False))
