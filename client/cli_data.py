"""fedprint-node data: filled by the ingest part."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True)
