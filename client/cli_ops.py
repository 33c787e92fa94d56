"""fedprint-node doctor, backup, restore, systemd."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.home import NodeHome

Home = Annotated[Path | None, typer.Option(help="The node's folder (else FEDPRINT_NODE_HOME).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add this part's commands."""
    for command in (doctor,):
        app.command()(command)


def doctor(home: Home = None, as_json: AsJson = False) -> None:
    """Look whether this node can work: one line a check, and what to do. Exit 3: something cannot.

    It changes nothing, and what it prints has no secret and no patient in it.

    Example: fedprint-node doctor
    """
    from client import doctor as checks
    from shared_model.findings_table import show_and_exit

    show_and_exit(checks.examine(NodeHome.find(home)), as_json=as_json)
