"""fedprint-node doctor, backup, restore, systemd."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.home import NodeHome
from shared_model import terminal
from shared_model.errors import OurMistake

Home = Annotated[Path | None, typer.Option(help="The node's folder (else FEDPRINT_NODE_HOME).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="File whose first line is the passphrase; else it is asked for."),
]


def register(app: typer.Typer) -> None:
    """Add this part's commands."""
    for command in (doctor, health, backup, restore, systemd):
        app.command()(command)


def doctor(home: Home = None, as_json: AsJson = False) -> None:
    """Look whether this node can work: one line a check, and what to do. Exit 3: something cannot.

    It changes nothing, and what it prints has no secret and no patient in it.

    Example: fedprint-node doctor
    """
    from client import doctor as checks
    from shared_model.findings_table import show_and_exit

    show_and_exit(checks.examine(NodeHome.find(home)), as_json=as_json)


def health(home: Home = None, as_json: AsJson = False) -> None:
    """Whether the node runs and is well; exit status 3 if not. For a container's health check.

    It looks at the node's lock and at what its supervisor wrote last; doctor looks at the rest.

    Example: fedprint-node health
    """
    import time

    from client import doctor, node, state
    from shared_model.findings_table import show_and_exit

    place = NodeHome.find(home)
    found = doctor.check_running(node.is_running(place), state.node_state(place), time.time())
    show_and_exit([found], as_json=as_json)


def backup(
    file: Annotated[Path, typer.Argument(help="File to write; it must not exist.")],
    passphrase_file: PassphraseFile = None,
    with_store: Annotated[
        bool, typer.Option("--with-store", help="With the windows; else recordings are added anew.")
    ] = False,
    unencrypted: Annotated[
        bool,
        typer.Option(
            "--unencrypted-with-the-keys-in-it", help="Whoever has the file is this hospital."
        ),
    ] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write a backup of this node, which must be stopped: keys, ledger, outbox, rosters, settings.

    Encrypted with a passphrase. never-back-up/ is never in it, the window store only if asked for.

    Example: fedprint-node backup /mnt/backup/node.fedprint
    """
    from client import backup as backups
    from shared_model.passphrase import passphrase_of

    if unencrypted and passphrase_file is not None:
        raise OurMistake("With a passphrase, or without encryption: not both.")
    passphrase = None if unencrypted else passphrase_of(passphrase_file, new=True)
    made = backups.make(NodeHome.find(home), file, passphrase=passphrase, with_store=with_store)
    facts = {
        "file": str(file),
        "site": made.name,
        "files": len(made.files),
        "bytes": made.total_bytes,
        "encrypted": passphrase is not None,
    }
    if as_json:
        terminal.print_json(facts)
        return
    _print(
        [
            f"Wrote {file}: {len(made.files)} files of {made.name}, {made.total_bytes} bytes, "
            + ("encrypted." if passphrase else "NOT encrypted: the keys are in it."),
            "It is of use until the node's next round. Start the node again.",
        ]
    )


def restore(
    file: Annotated[Path, typer.Argument(help="A backup of `fedprint-node backup`.")],
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Restore a backup into a new folder. The node does not start before `fedprint-node restored`.

    Everything is checked before anything is written.

    Example: fedprint-node restore /mnt/backup/node.fedprint
    """
    from client import backup as backups
    from client import withdrawals
    from shared_model.passphrase import passphrase_of

    place = NodeHome.find(home)
    made = backups.restore(file, place.root, lambda: passphrase_of(passphrase_file, new=False))
    if as_json:
        terminal.print_json({"site": made.name, "made": made.made, "files": len(made.files)})
        return
    store = (
        "" if place.store.exists()
        else "The window store was not in it: add recordings anew, at the end. "
    )  # fmt: skip
    _print(
        [
            f"{made.name}, as it was at {made.made}, is at {place.root}. {store}",
            "What it did since is not in it. Next: fedprint-node restored, then docs/ledger.md, "
            f"Recover. {withdrawals.DO}. Never run two nodes of one hospital.",
        ]
    )


def systemd(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; else it is printed.")
    ] = None,
    home: Home = None,
) -> None:
    """Print the systemd unit of this installation; `systemctl edit` changes what is yours.

    Example: fedprint-node systemd -o /etc/systemd/system/fedprint-node.service
    """
    from importlib import resources

    from shared_model import units

    text = resources.files("client").joinpath("systemd", "fedprint-node.service").read_text()
    chosen = None if home is None else NodeHome.find(home).root
    units.put_out(units.filled_in(text, "fedprint-node", chosen), output)


def _print(lines: list[str]) -> None:
    for line in lines:
        terminal.out.print(line, soft_wrap=True, highlight=False)
