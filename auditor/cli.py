"""fedprint-audit: what privacy auditors run, offline, on exported files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from auditor import cli_selftest
from auditor.ledger_commands import INCOMPLETE_EXIT, report, root_key_of, verify
from shared_model import about, commands, terminal
from shared_model.errors import OurMistake, Refused

app = typer.Typer(
    name="fedprint-audit",
    help="Check releases and privacy claims offline; trust nobody.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
cli_selftest.register(app)


@app.callback()
def root(version: about.Version = False) -> None:
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

    keys = read_pinned_keys(signer)
    findings = audit_release(
        read_release(folder), keys.release, run_key=keys.run, root_key=keys.root
    )
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


@app.command("sum")
def sum_of_run(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_FOLDER_OR_BUNDLE",
            help="A run's folder, or what fedprint-coordinator audit-bundle wrote.",
        ),
    ],
    roster: Annotated[
        list[Path],
        typer.Option(
            exists=True, help="roster.json as a hospital has it; again for each version of the run."
        ),
    ],
    root_key: Annotated[
        str, typer.Option(help="The root key: 64 hexadecimal digits, or root.json.")
    ],
    coordinator: Annotated[
        Path | None,
        typer.Option(
            exists=True, help="coordinator.json that a hospital has pinned: who may sign requests."
        ),
    ] = None,
    release_path: Annotated[
        Path | None,
        typer.Option(
            "--release",
            exists=True,
            help="Compare this release with the folder, too; needs --coordinator.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document instead of a table.")
    ] = False,
) -> None:
    """Add up again what the hospitals submitted, and hold it against the published sums and models.

    Needs no network. The exit status is 3 if any check fails, 6 if none fails and a sum could not
    be verified (INCOMPLETE). What cannot be checked is named.

    Example: fedprint-audit sum bundle --roster roster.json --root-key root.json
    """
    from auditor.sum import audit_sums
    from auditor.sum_folder import SumFolder
    from auditor.sum_release import compared
    from auditor.verify import verdict_of
    from shared_model import enrolment
    from shared_model.release_checks import verify
    from shared_model.release_files import read_release
    from shared_model.sum_evidence import opened_rosters

    key = root_key_of(root_key)
    pinned = None
    if coordinator is not None:
        pinned = enrolment.open_invitation(coordinator.read_bytes())
        if pinned.root != key:
            raise Refused("coordinator.json names another root key.", reason="signer")
    rosters = opened_rosters((path.read_bytes() for path in roster), key)
    findings = audit_sums(SumFolder(folder), rosters, run_key=pinned.run if pinned else None)
    if release_path is not None:
        if pinned is None:
            raise OurMistake(
                "Whose release it is, only a pinned key says.",
                do="Give --coordinator coordinator.json as well.",
            )
        manifest = verify(read_release(release_path), pinned.release).manifest
        findings += compared(SumFolder(folder), manifest)
    verdict = verdict_of(findings)
    if as_json:
        terminal.print_json({"verdict": verdict, "findings": [vars(item) for item in findings]})
    else:
        terminal.show(f"Sums of {folder.name}", [vars(item) for item in findings], as_json=False)
    if verdict == "FAILED":
        count = sum(item.verdict == "FAILED" for item in findings)
        raise Refused(
            f"{count} of {len(findings)} checks failed.",
            reason="audit",
            do="Do not use models of this run; show the report to the hospitals.",
        )
    if verdict == "INCOMPLETE":
        typer.echo("INCOMPLETE: no check failed, but not every sum was verified.", err=True)
        raise typer.Exit(INCOMPLETE_EXIT)
    if not as_json:
        typer.echo("No check failed. The lines CANNOT CHECK are not a verdict of any kind.")


app.command("verify")(verify)
app.command("report")(report)


def main() -> None:
    """Console script."""
    terminal.run(lambda: commands.command_of(app)(standalone_mode=True))
