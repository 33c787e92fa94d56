"""The packaged systemd units, with the paths of this installation."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from shared_model.errors import OurMistake
from shared_model.files import write_atomic

_UNSAFE = set(" \t\n\"'\\%$;")


def filled_in(text: str, command: str, home: Path | None) -> str:
    """The unit that runs this very installation.

    Args:
        text: the packaged unit. command: its console script. home: the folder; None: /var/lib/...

    Raises:
        OurMistake: a path that a unit cannot hold.
    """
    script = Path(sys.executable).parent / command
    text = text.replace(f"/opt/fedprint/bin/{command}", _path(script))
    if home is not None:
        folder = _path(home)
        text = text.replace(f"/var/lib/{command}", folder)
        if folder != f"/var/lib/{command}":
            text = text.replace(f"StateDirectory={command}\n", f"ReadWritePaths={folder}\n")
            text = text.replace("StateDirectoryMode=0700\n", "")
    return text


def put_out(text: str, output: Path | None) -> None:
    """Print it, or write it."""
    if output is None:
        typer.echo(text, nl=False)
        return
    write_atomic(output, text.encode())
    typer.echo(
        f"Wrote {output}. Next: systemctl daemon-reload && systemctl enable --now {output.stem}",
        err=True,
    )


def _path(path: Path) -> str:
    text = str(path)
    if not path.is_absolute() or _UNSAFE & set(text) or not text.isprintable():
        raise OurMistake(
            f"A unit cannot hold the path {text!a}.", do="Choose one without blanks or signs."
        )
    return text
