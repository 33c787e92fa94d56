"""fedprint-audit: what privacy auditors run, offline, on exported files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared_model import terminal
from shared_model.errors import Refused

app = typer.Typer(
    name="fedprint-audit",
    help="Check releases and privacy claims offline; trust nobody.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def root() -> None:
    """Check releases and privacy claims offline; trust nobody."""


@app.command("release")
def release(
    folder: Annotated[
        Path, typer.Argument(metavar="RELEASE", help="A release folder or .fedprint file.")
    ],
    signer: Annotated[
        str,
        typer.Option(
            help="The release key: 64 hexadecimal digits, or a coordinator.json that a hospital "
            "has pinned."
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document instead of a table.")
    ] = False,
) -> None:
    """Check signature, lineage and replies; recompute what each hospital's patients paid.

    Needs no network. The exit status is 3 if any check fails. What cannot be checked is named.

    Example: fedprint-audit release heart-1.fedprint --signer coordinator.json
    """
    from auditor.verify import audit_release, failed
    from shared_model.release_files import read_pinned_keys, read_release

    key, run_key = read_pinned_keys(signer)
    findings = audit_release(read_release(folder), key, run_key=run_key)
    bad = failed(findings)
    if as_json:
        terminal.print_json(
            {
                "verdict": "FAILED" if bad else "OK",
                "findings": [vars(item) for item in findings],
            }
        )
    else:
        rows = [vars(item) for item in findings]
        terminal.show(f"Release {folder.name}", rows, as_json=False)
    if bad:
        count = sum(item.verdict == "FAILED" for item in findings)
        raise Refused(
            f"{count} of {len(findings)} checks failed.",
            reason="audit",
            do="Do not use this release; show the report to the coordinator's operator.",
        )
    if not as_json:
        typer.echo("No check failed. The lines CANNOT CHECK are not a verdict of any kind.")


def main() -> None:
    """Console script."""
    terminal.run(lambda: app(standalone_mode=True))
