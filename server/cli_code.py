"""fedprint-coordinator code: say, signed, which code the consortium published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Home = Annotated[Path | None, typer.Option("--home", help="The coordinator's folder.")]

app = typer.Typer(help="Sign what hospitals install.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Sign what hospitals install."""


@app.command()
def sign(
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write code.json.")],
    key: Annotated[
        Path | None, typer.Option(help="The release key, if it is kept elsewhere.")
    ] = None,
    home: Home = None,
) -> None:
    """Sign the code that is installed here: version, protocol, digest, SHA-256 of each file.

    Hospitals give the file to `fedprint-node approve`, which says then who signed the code.

    Example: fedprint-coordinator code sign -o code.json
    """
    from server.home import CoordinatorHome
    from shared_model import code, signing
    from shared_model.errors import OurMistake
    from shared_model.files import write_atomic

    if output.exists():
        raise OurMistake(f"{output} exists already.", do="Choose another name.")
    place = CoordinatorHome.find(home)
    statement = code.statement_of(code.installed())
    data = code.seal(statement, signing.load_key_file(key or place.release_key))
    write_atomic(output, data)
    typer.echo(
        f"fedprint {statement.version}, protocol version {statement.protocol}, "
        f"{len(statement.files)} files\ncode digest {statement.code_digest}\nwritten: {output}"
    )
