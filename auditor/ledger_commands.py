"""`fedprint-audit verify` and `report`: exported ledgers, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from auditor.ledger_audit import LedgerAudit, audit_ledgers
from shared_model import enrolment, terminal
from shared_model.errors import OurMistake, Refused
from shared_model.files import read_regular
from shared_model.ledger_export import MAX_EXPORT_BYTES
from shared_model.release_signed import Release

INCOMPLETE_EXIT = 6
"""Exit status of an audit that found no fault and could not check what it has to."""
PATIENCE_S = 1800.0
"""The default: PRV took 79 s for 100 unequal plans."""

Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE...", help="What hospitals wrote with: fedprint-node ledger export -o FILE"
    ),
]
RootKey = Annotated[
    str, typer.Option(help="The root key: 64 hexadecimal digits, or root.json. From its holder.")
]
Coordinator = Annotated[
    Path | None,
    typer.Option(exists=True, help="coordinator.json that a hospital has pinned."),
]
ReleasePath = Annotated[
    Path | None,
    typer.Option(
        "--release",
        exists=True,
        help="Compare the ledgers with this release, too; needs --coordinator.",
    ),
]
Seconds = Annotated[
    float,
    typer.Option(
        "--patience-s", min=0.001, help="Seconds for the accountants; what they miss is not OK."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]


def verify(
    files: Files,
    root_key: RootKey,
    release: ReleasePath = None,
    coordinator: Coordinator = None,
    patience_s: Seconds = PATIENCE_S,
    as_json: AsJson = False,
) -> None:
    """Check exported ledgers, hold them against each other, count epsilon again, twice.

    Needs no network and believes the root key only. Give the files of all hospitals: who has
    rewritten a ledger is found by what others hold. The exit status is 3 if any check fails, 6 if
    none fails and something that has to be checked could not be (INCOMPLETE).

    Example: fedprint-audit verify alpha.ledger beta.ledger gamma.ledger --root-key root.json
    """
    audit = audited(files, root_key, release, coordinator, patience_s)
    if as_json:
        terminal.print_json(as_plain(audit))
    else:
        terminal.show("Ledgers", [vars(item) for item in audit.findings], as_json=False)
    leave(audit, as_json=as_json)


def report(
    files: Files,
    root_key: RootKey,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the statements; made if absent.")
    ],
    release: ReleasePath = None,
    coordinator: Coordinator = None,
    patience_s: Seconds = PATIENCE_S,
    as_json: AsJson = False,
) -> None:
    """Write a one-page statement for each hospital's data-protection officer: HTML and PDF.

    Made from exported files only, after the checks of fedprint-audit verify, with the same exit
    status. A statement about files that failed says so in its first line.

    Example: fedprint-audit report alpha.ledger beta.ledger --root-key root.json -o statements
    """
    from datetime import UTC, datetime

    from auditor import statement_html, statement_pdf
    from auditor.statement import statements
    from shared_model.files import write_atomic

    audit = audited(files, root_key, release, coordinator, patience_s)
    written = []
    for one in statements(audit, day=datetime.now(UTC).strftime("%Y-%m-%d")):
        for suffix, render in (("html", statement_html.render), ("pdf", statement_pdf.render)):
            path = output / f"{one.slug}.{suffix}"
            write_atomic(path, render(one))
            written.append({"statement": one.title, "file": str(path), "says": one.headline})
    if as_json:
        terminal.print_json({**as_plain(audit), "statements": written})
    else:
        terminal.show("Statements", written, as_json=False)
    leave(audit, as_json=as_json)


def audited(
    paths: list[Path],
    root_key: str,
    release: Path | None,
    coordinator: Path | None,
    patience_s: float,
) -> LedgerAudit:
    """Read what was given and audit it; progress goes to stderr.

    Raises:
        OurMistake, Refused, PeerFault: a file cannot be read, or keys do not fit together.
    """
    from auditor.patience import Patience

    key = root_key_of(root_key)
    pinned = None
    if coordinator is not None:
        pinned = enrolment.open_invitation(read_regular(coordinator, enrolment.MAX_BYTES))
        if pinned.root != key:
            raise Refused("coordinator.json names another root key.", reason="signer")
    names = [str(path) for path in paths]
    if len(set(names)) != len(names):
        raise OurMistake("A file is given twice.")
    data = {str(path): read_regular(path, MAX_EXPORT_BYTES) for path in paths}
    with Patience(patience_s, _say) as patience:
        return audit_ledgers(
            data,
            key,
            accountants=patience.accountants,
            run_key=pinned.run if pinned else None,
            release=_release(release, pinned),
            say=_say,
        )


def _release(path: Path | None, pinned: enrolment.Invitation | None) -> Release | None:
    from shared_model.release_checks import verify as verified
    from shared_model.release_files import read_release

    if path is None:
        return None
    if pinned is None:
        raise OurMistake(
            "Whose release it is, only a pinned key says.",
            do="Give --coordinator coordinator.json as well.",
        )
    return verified(read_release(path), pinned.release)


def root_key_of(value: str) -> bytes:
    """32 raw bytes, from digits or from root.json.

    Raises:
        OurMistake: neither of the two.
    """
    if len(value) == 64 and all(c in "0123456789abcdefABCDEF" for c in value):
        return bytes.fromhex(value)
    try:
        data = Path(value).read_bytes()
    except (OSError, ValueError) as error:
        raise OurMistake(
            "The root key is neither 64 hexadecimal digits nor a readable root.json."
        ) from error
    return enrolment.open_root_card(data).root


def as_plain(audit: LedgerAudit) -> dict[str, Any]:
    """For machines."""
    return {
        "verdict": audit.verdict,
        "files": dict(audit.files),
        "ledgers": [
            {
                "site": one.ledger.site,
                "file": one.ledger.name,
                "created": one.ledger.export.created,
                "entries": one.ledger.chain.length,
                "head": one.ledger.chain.head,
                "countersigned": {"lengths": one.reach.lengths, "unseen": one.reach.unseen},
                "epsilon": [_finite(vars(figure)) for figure in one.price.figures]
                if one.price
                else None,
            }
            for one in audit.ledgers
        ],
        "findings": [vars(item) for item in audit.findings],
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity."""
    return {name: "infinite" if value == float("inf") else value for name, value in values.items()}


def leave(audit: LedgerAudit, *, as_json: bool) -> None:
    """The last line and the exit status.

    Raises:
        Refused: a check failed.
        typer.Exit: with 6, INCOMPLETE.
    """
    if audit.verdict == "FAILED":
        count = sum(item.verdict == "FAILED" for item in audit.findings)
        raise Refused(
            f"{count} of {len(audit.findings)} checks failed.",
            reason="audit",
            do="Show the report to all hospitals whose files these are.",
        )
    if audit.verdict == "INCOMPLETE":
        typer.echo("INCOMPLETE: no check failed, but not all could be made.", err=True)
        raise typer.Exit(INCOMPLETE_EXIT)
    if not as_json:
        typer.echo("No check failed. The lines CANNOT CHECK are not a verdict of any kind.")


def _say(line: str) -> None:
    typer.echo(line, err=True)
