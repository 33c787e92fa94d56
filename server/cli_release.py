"""fedprint-coordinator release and audit-bundle: what leaves the coordinator to be judged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from shared_model import terminal

if TYPE_CHECKING:
    from shared_model.release_signed import Release


class _MakeByDefault(typer.core.TyperGroup):
    """`release RUN` means `release make RUN`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["make", *args]
        return super().parse_args(ctx, args)


release = typer.Typer(no_args_is_help=True, cls=_MakeByDefault)

Home = Annotated[Path | None, typer.Option("--home", help="The coordinator's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]
Signer = Annotated[
    str | None,
    typer.Option(
        help="Release key to trust: 64 hexadecimal digits or a coordinator.json. "
        "Default: this coordinator's own."
    ),
]


def register(app: typer.Typer) -> None:
    """Add this part's commands."""
    app.add_typer(
        release,
        name="release",
        help="Make (release RUN), show and verify signed releases.",
    )
    app.command("audit-bundle")(audit_bundle)


@release.command("make")
def make(
    run: Annotated[str, typer.Argument(help="Name of a run of this coordinator, or its folder.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Where to write it: a new folder, or a file NAME.fedprint."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the release; default: the run's.")] = (
        None
    ),
    origin: Annotated[
        str | None,
        typer.Option(help="Where the first model came from, if it is not the warm start."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="The release key, if it is kept elsewhere.")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Sign the latest model of a run, with its lineage and what it cost each patient.

    Every hospital's signed reply is verified again; a run with any update that was not made
    with private noise is refused. The number of the release is one more than the last one's.

    Example: fedprint-coordinator release run-1 -o heart-1.fedprint
    """
    import datetime

    from server.checkpoints import RunFolder
    from server.home import CoordinatorHome
    from server.release import make_release
    from shared_model import signing
    from shared_model.release_words import describe, words

    place = CoordinatorHome.find(home)
    folder = place.run_folder(run) if place.run_folder(run).is_dir() else Path(run)
    made = make_release(
        place,
        RunFolder(folder),
        key=signing.load_key_file(key or place.release_key),
        created=datetime.datetime.now(datetime.UTC).date().isoformat(),
        name=name,
        origin=origin,
        output=output,
    )
    if as_json:
        terminal.print_json({**describe(made.manifest), "folder": str(made.path)})
        return
    for line in words(made.manifest):
        typer.echo(line)
    typer.echo(f"written: {made.path}")


@release.command("show")
def show(
    folder: Annotated[Path, typer.Argument(help="A release folder or .fedprint file.")],
    signer: Signer = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Say in words what a release is, after its signature was verified.

    Example: fedprint-coordinator release show heart-1.fedprint
    """
    from shared_model.release_words import describe, words

    found = _verified(folder, signer, home)
    if as_json:
        terminal.print_json(describe(found.manifest))
        return
    for line in words(found.manifest):
        typer.echo(line)


@release.command("verify")
def verify(
    folder: Annotated[Path, typer.Argument(help="A release folder or .fedprint file.")],
    signer: Signer = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Check signatures, digests and lineage of a release; exit status 3 if it is refused.

    Example: fedprint-coordinator release verify heart-1.fedprint --signer coordinator.json
    """
    manifest = _verified(folder, signer, home).manifest
    if as_json:
        terminal.print_json(
            {"verified": True, "number": manifest.number, "digest": manifest.digest}
        )
        return
    typer.echo(f"verified: release {manifest.number} '{manifest.name}', digest {manifest.digest}")


def audit_bundle(
    run: Annotated[str, typer.Argument(help="Name of a run of this coordinator, or its folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="New folder to write.")],
    without_submissions: Annotated[
        bool,
        typer.Option(
            "--without-submissions",
            help="Smaller; the auditor then cannot add the submissions again.",
        ),
    ] = False,
    home: Home = None,
) -> None:
    """Copy what an auditor needs to check the published sums: submissions, sums, answers, models.

    Example: fedprint-coordinator audit-bundle run-1 -o bundle
    """
    from server.audit_bundle import write_bundle
    from server.checkpoints import RunFolder
    from server.home import CoordinatorHome

    place = CoordinatorHome.find(home)
    folder = place.run_folder(run) if place.run_folder(run).is_dir() else Path(run)
    record = write_bundle(RunFolder(folder), output, submissions=not without_submissions)
    typer.echo(
        f"written: {output}, {record.completed} sums. The auditor, with a roster and the root key "
        "from a hospital:\n"
        f"  fedprint-audit sum {output} --roster roster.json --root-key root.json"
    )


def _verified(folder: Path, signer: str | None, home: Path | None) -> Release:
    from server.home import CoordinatorHome
    from shared_model import signing
    from shared_model.release_checks import verify as verified
    from shared_model.release_files import read_release, read_signer

    if signer is not None:
        key = read_signer(signer)
    else:
        place = CoordinatorHome.find(home)
        key = signing.public_bytes(signing.load_key_file(place.release_key))
    return verified(read_release(folder), key)
