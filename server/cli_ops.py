"""fedprint-coordinator doctor, backup, restore, restored, systemd."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.home import CoordinatorHome
from shared_model import terminal
from shared_model.errors import OurMistake, Refused

Home = Annotated[
    Path | None,
    typer.Option(help="The coordinator's folder (else FEDPRINT_COORDINATOR_HOME)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="File whose first line is the passphrase; else it is asked for."),
]


def register(app: typer.Typer) -> None:
    """Add this part's commands."""
    for command in (doctor, backup, restore, restored, systemd):
        app.command()(command)


def doctor(home: Home = None, as_json: AsJson = False) -> None:
    """Look whether this coordinator can work: one line a check. Exit 3: something cannot.

    Example: fedprint-coordinator doctor
    """
    from server import doctor as checks
    from shared_model.findings_table import show_and_exit

    show_and_exit(checks.examine(CoordinatorHome.find(home)), as_json=as_json)


def backup(
    file: Annotated[Path, typer.Argument(help="File to write; it must not exist.")],
    passphrase_file: PassphraseFile = None,
    unencrypted: Annotated[
        bool,
        typer.Option(
            "--unencrypted-with-the-keys-in-it", help="Whoever has the file is the coordinator."
        ),
    ] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write a backup of this coordinator, which must be stopped, and its registry too.

    Encrypted with a passphrase. Flower's queue, logs and packed releases are made again.

    Example: fedprint-coordinator backup /mnt/backup/coordinator.fedprint
    """
    from server import backup as backups
    from shared_model.passphrase import passphrase_of

    if unencrypted and passphrase_file is not None:
        raise OurMistake("With a passphrase, or without encryption: not both.")
    passphrase = None if unencrypted else passphrase_of(passphrase_file, new=True)
    made = backups.make(CoordinatorHome.find(home), file, passphrase=passphrase)
    if as_json:
        facts = {"file": str(file), "files": len(made.files), "bytes": made.total_bytes}
        terminal.print_json({**facts, "encrypted": passphrase is not None})
        return
    how = "encrypted." if passphrase else "NOT encrypted: the keys are in it."
    _print([f"Wrote {file}: {len(made.files)} files, {made.total_bytes} bytes, {how}"])


def restore(
    file: Annotated[Path, typer.Argument(help="A backup of `fedprint-coordinator backup`.")],
    passphrase_file: PassphraseFile = None,
    home: Home = None,
) -> None:
    """Restore a backup into a new folder. The registry does not start before `restored`.

    Everything is checked before anything is written. Open tokens of then are void.

    Example: fedprint-coordinator restore /mnt/backup/coordinator.fedprint
    """
    from server import backup as backups
    from shared_model.passphrase import passphrase_of

    place = CoordinatorHome.find(home)
    made = backups.restore(file, place.root, lambda: passphrase_of(passphrase_file, new=False))
    _print(
        [
            f"The coordinator at {made.name}, as it was at {made.made}, is at {place.root}.",
            "Next: fedprint-coordinator restored",
        ]
    )


def restored(
    home: Home = None,
    yes: Annotated[bool, typer.Option("--yes", help="The list was read already.")] = False,
) -> None:
    """After a restore: read which certificates are valid again, then let the registry start.

    Example: fedprint-coordinator restored
    """
    from server import backup as backups

    place = CoordinatorHome.find(home)
    if not place.restored.exists():
        raise OurMistake("This folder was not restored from a backup.")
    rows = [
        {"site": item.site, "issued": item.issued, "expires": item.expires}
        for item in backups.valid_again(place)
    ]
    terminal.show("Certificates that are valid again", rows, as_json=False)
    _print(
        [
            "Whoever you revoked since the backup: revoke again. Whoever joined or renewed since: "
            "invite again; their new certificates are not known here."
        ]
    )
    if not yes and not typer.confirm("Have you read the list?"):
        raise Refused("The registry does not start yet.", reason="not-confirmed")
    backups.accept_restored(place)
    _print(["The registry can start. A run goes on from where this copy has it: start --resume"])


def systemd(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; else it is printed.")
    ] = None,
    home: Home = None,
) -> None:
    """Print the systemd unit of this installation.

    Example: fedprint-coordinator systemd -o /etc/systemd/system/fedprint-coordinator.service
    """
    from importlib import resources

    from shared_model import units

    name = "fedprint-coordinator"
    text = resources.files("server").joinpath("systemd", f"{name}.service").read_text()
    chosen = None if home is None else CoordinatorHome.find(home).root
    units.put_out(units.filled_in(text, name, chosen), output)


def _print(lines: list[str]) -> None:
    for line in lines:
        terminal.out.print(line, soft_wrap=True, highlight=False)
