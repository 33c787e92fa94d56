"""fedprint-node roster: show, approve, countersign; and restored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.home import NodeHome
from shared_model import terminal
from shared_model.errors import OurMistake, Refused

if TYPE_CHECKING:
    from client.rosters import RosterBook
    from shared_model.roster import Roster

Home = Annotated[Path | None, typer.Option(help="The node's folder (else FEDPRINT_NODE_HOME).")]
Yes = Annotated[bool, typer.Option("--yes", help="All of it was read and compared already.")]

app = typer.Typer(
    help="The roster: which hospitals take part, and with which keys. This hospital decides.",
    no_args_is_help=True,
)


def register(app_: typer.Typer) -> None:
    """Add this part's commands."""
    app_.add_typer(app, name="roster")
    app_.command()(restored)


@app.command()
def show(
    home: Home = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the approved roster, the one that waits, and what would change.

    Example: fedprint-node roster show
    """
    from client import keys
    from client.rosters import RosterBook
    from shared_model import enrolment, roster, signing

    place = NodeHome.find(home)
    book = RosterBook(place)
    approved, pending = book.approved(), book.pending()
    own = signing.key_digest(keys.card(place).identity)
    changes = roster.differences(book.before(), pending.roster) if pending else []
    if as_json:
        terminal.print_json(
            {
                "key_digest": own,
                "approved": roster.facts(approved.roster) if approved else None,
                "pending": roster.facts(pending.roster) if pending else None,
                "differences": changes,
            }
        )
        return
    _print([f"Digest of this hospital's key: {enrolment.spoken(own)}"])
    if place.coordinator.exists():
        root = enrolment.RootCard(root_key=keys.pinned(place).root_key)
        _print([f"Digest of the root key:        {root.spoken_key}"])
    if approved is None:
        _print(["This hospital has approved no roster."])
    else:
        _print(["Approved:", *roster.in_words(approved.roster)])
    if pending is not None:
        _print(["", "WAITING for approval:", *roster.in_words(pending.roster)])
        _print(["", "What would change:", *(f"- {line}" for line in changes)])


@app.command()
def approve(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="roster.json; else the one that waits, else the newest at the registry.",
            exists=True,
        ),
    ] = None,
    home: Home = None,
    yes: Yes = False,
) -> None:
    """Go by a roster, after what changes was read and new keys were compared by telephone.

    Example: fedprint-node roster approve
    """
    from client import keys
    from client.policy import Policy
    from client.rosters import RosterBook, today_utc

    place = NodeHome.find(home)
    book, policy, root = RosterBook(place), Policy.from_file(place.policy), keys.pinned(place).root
    data = _data(book, file) if file or book.pending() else _from_registry(place, book)
    offered = _shown(book, data, root)
    if not yes and not typer.confirm(
        "Did you compare the digest of the roster, or of each new key, by telephone? Approve?"
    ):
        raise Refused("The roster was not approved.", reason="not-compared")
    book.approve(data, root, policy, today_utc())
    _print([f"This hospital goes by version {offered.version} of the roster."])


@app.command()
def countersign(
    file: Annotated[Path, typer.Argument(help="roster.json", exists=True)],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    home: Home = None,
    yes: Yes = False,
) -> None:
    """Tell the other hospitals, with this hospital's key, that it approves of a roster.

    Example: fedprint-node roster countersign roster.json -o countersignature.json
    """
    from client import keys
    from client.policy import Policy
    from client.rosters import RosterBook, today_utc
    from shared_model.files import write_atomic

    place = NodeHome.find(home)
    book, policy, root = RosterBook(place), Policy.from_file(place.policy), keys.pinned(place).root
    data = file.read_bytes()
    _shown(book, data, root)
    if not yes and not typer.confirm(
        "Others will go by this roster on your word. Did you compare each new key by telephone?"
    ):
        raise Refused("The roster was not countersigned.", reason="not-compared")
    write_atomic(output, book.countersign(data, root, policy, today_utc()))
    _print(
        [
            f"Wrote {output}. Next: send it to the coordinator's operator, who runs: "
            "fedprint-coordinator roster import countersignature.json"
        ]
    )


def restored(
    home: Home = None,
    only_this_folder: Annotated[
        bool,
        typer.Option(
            "--only-this-folder",
            help="never-back-up/ was NOT restored with it: what it says of the ledger holds.",
        ),
    ] = False,
) -> None:
    """After anything of this node was restored from a backup: erase the epoch's key.

    The node then answers nothing of earlier rounds; the coordinator begins a new epoch. It trains
    again once other hospitals have said how far they saw its ledger (fedprint-node ledger ask),
    unless never-back-up/ was not restored and its note says that the ledger is the newest.

    Example: fedprint-node restored
    """
    from client import keys, ledger_file, withdrawals
    from client.ledger_store import LedgerStore
    from client.node_parts import epoch_keys, outbox_of
    from shared_model import signing

    place = NodeHome.find(home)
    if not place.config.exists():
        raise OurMistake(f"There is no node in {place.root}.", do="Choose its folder with --home.")
    outbox = outbox_of(place)
    with outbox.locked():
        withdrawals.mark_unknown(place)  # first: what comes after takes the restore for granted
        if not only_this_folder:
            ledger_file.forget_note(place)
        found = epoch_keys(place).erase()
        outbox.accept_restored()
    _print(
        [
            "Patients who have withdrawn since the backup are not known here, and nothing trains. "
            f"{withdrawals.DO}"
        ]
    )
    _print(["The epoch's key is erased." if found else "There was no epoch's key."])
    try:
        key = signing.load_key_file(place.identity_key)
        LedgerStore.open(place, keys.load_config(place).site, key).close()
    except Refused as error:
        _print([error.message, f"The node does not train until then: {error.do}"])
    else:
        _print(["The ledger is the newest that this node knows of: it can start."])


def _from_registry(place: NodeHome, book: RosterBook) -> bytes:
    """Nothing waits here: the newest roster of the registry, where this node has joined one.

    Raises:
        OurMistake: it has joined none.
    """
    import datetime

    from client import registry_client

    if not registry_client.has_joined(place):
        return _data(book, None)
    with registry_client.opened(place, datetime.datetime.now(datetime.UTC)) as session:
        return registry_client.fetch_roster(session)


def _data(book: RosterBook, file: Path | None) -> bytes:
    if file is not None:
        return file.read_bytes()
    waiting = book.pending()
    if waiting is None:
        raise OurMistake(
            "No roster waits for approval.",
            do="Give the file: fedprint-node roster approve roster.json",
        )
    return waiting.to_bytes()


def _shown(book: RosterBook, data: bytes, root: bytes) -> Roster:
    """Print a roster that the root signed, and what it changes for this hospital."""
    from shared_model import roster

    offered = roster.open_signed(data, root).roster
    before = book.before()
    _print(roster.in_words(offered))
    _print(["", "What changes:"])
    _print([f"- {line}" for line in roster.differences(before, offered)])
    return offered


def _print(lines: list[str]) -> None:
    for line in lines:
        terminal.out.print(line, soft_wrap=True, highlight=False)
