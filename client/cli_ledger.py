"""fedprint-node ledger: show, verify, export, ask, witness, recover, accept, import-spend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.home import NodeHome
from shared_model import terminal
from shared_model.errors import OurMistake, Refused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from client.ledger_recovery import Recovery
    from client.ledger_store import LedgerStore
    from client.ledger_view import LedgerView
    from shared_model.roster import Roster

Home = Annotated[Path | None, typer.Option(help="The node's folder (else FEDPRINT_NODE_HOME).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Plot = Annotated[
    Path | None, typer.Option("--plot", help="Also draw epsilon over time: FILE.png or FILE.svg.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write.")]

app = typer.Typer(
    help="The privacy ledger: what was spent, what is left; proof of it; recovery after a restore.",
    invoke_without_command=True,
)


def register(app_: typer.Typer) -> None:
    """Add this part's commands."""
    app_.add_typer(app, name="ledger")
    app_.command(name="spend", hidden=True)(show)


@app.callback()
def ledger(
    context: typer.Context, home: Home = None, as_json: AsJson = False, plot: Plot = None
) -> None:
    """The privacy ledger: what was spent, what is left; proof of it; recovery after a restore.

    Example: fedprint-node ledger
    """
    if context.invoked_subcommand is None:
        show(home, as_json, plot)


@app.command()
def show(home: Home = None, as_json: AsJson = False, plot: Plot = None) -> None:
    """Show what was spent, for life and of each run, and what is left, also in rounds.

    Example: fedprint-node ledger show --plot spent.svg
    """
    from client import ledger_view

    if plot is not None and plot.suffix not in {".png", ".svg"}:
        raise OurMistake("A plot is FILE.png or FILE.svg.")
    view, warning = _view(NodeHome.find(home))
    if plot is not None:
        ledger_view.plot(view, plot)
    if as_json:
        terminal.print_json({**view.facts(), "not_current": warning or None})
        return
    if view.chain.last_booking:
        terminal.show("Rounds", view.rounds(), as_json=False)
        terminal.show("Runs", view.runs(), as_json=False)
    _print([view.in_words, *([warning] if warning else [])])
    if plot is not None:
        _print([f"Wrote {plot}."])


@app.command()
def verify(home: Home = None, as_json: AsJson = False) -> None:
    """Check every entry's signature and place, and compute epsilon again.

    Example: fedprint-node ledger verify
    """
    from client import ledger_file

    place = NodeHome.find(home)
    terminal.err.print("Verifying every entry (about 0.2 ms each) ...")
    with _store(place) as store:
        chain, peers = store.chain, store.peers()
        countersigners = sorted({s for kept in store.countersigned() for s in kept.agreements})
    view, _ = _view(place)
    wrong = view.misstated()
    if wrong is not None:
        raise ledger_file.refuse(
            f"Entry {wrong.sequence} says another epsilon than its bookings cost.",
            entry=wrong.sequence,
        )
    facts = {
        "entries": chain.length,
        "head": chain.head,
        "peers_held": {site: head.length for site, head in peers.items()},
        "countersigned_lately_by": countersigners,
        "in_words": view.in_words,
    }
    if as_json:
        terminal.print_json(facts)
        return
    _print(
        [
            f"The ledger is whole: {chain.length} entries, each signed by this hospital and "
            "chained to the one before; epsilon agrees.",
            f"Head: {chain.head}",
            f"Countersigned lately by: {', '.join(countersigners) or 'nobody yet'}",
            view.in_words,
        ]
    )


@app.command()
def export(output: Output, home: Home = None) -> None:
    """Write the ledger as one signed file for auditors and the coordinator; no patient data.

    Example: fedprint-node ledger export -o ledger.json
    """
    from client import ledger_file_export
    from shared_model.files import write_atomic

    place = NodeHome.find(home)
    data, entries = ledger_file_export.export(place, *_own(place))
    write_atomic(output, data)
    _print(
        [
            f"Wrote {output}: {entries} entries, signed by this hospital. Anyone can check it: "
            f"fedprint-audit verify {output.name}"
        ]
    )


@app.command()
def ask(output: Output, home: Home = None) -> None:
    """After a restore: ask the other hospitals how far they saw this hospital's ledger.

    Earlier questions, and answers to them, no longer count.

    Example: fedprint-node ledger ask -o ask.json
    """
    from client import ledger_recovery
    from shared_model.files import write_atomic

    place = NodeHome.find(home)
    site, key = _own(place)
    roster = _roster(place)
    write_atomic(output, ledger_recovery.ask(place, site, key))
    needed = min(roster.threshold, len(roster.sites) - 1)
    _print(
        [
            f"Wrote {output}. Next: send it to the other hospitals; at least {needed} of "
            f"{', '.join(name for name in roster.names if name != site)} run: "
            f"fedprint-node ledger witness {output.name} -o answer.json",
            "Ask the coordinator's operator for this hospital's entries: "
            f"fedprint-coordinator ledger entries {site} -o entries.jsonl",
            f"Then run: fedprint-node ledger recover {output.name} ANSWER... --entries "
            "entries.jsonl",
        ]
    )


@app.command()
def witness(
    file: Annotated[Path, typer.Argument(help="ask.json of another hospital", exists=True)],
    output: Output,
    home: Home = None,
) -> None:
    """Answer another hospital's question: how far this one saw its ledger.

    Example: fedprint-node ledger witness ask.json -o answer.json
    """
    from client import ledger_recovery
    from shared_model.files import write_atomic

    place = NodeHome.find(home)
    site, key = _own(place)
    data, answer = ledger_recovery.witness(place, site, key, _read(file), _roster(place))
    write_atomic(output, data)
    held = "no entry" if answer.held is None else f"{answer.held.length} entries"
    _print([f"This hospital saw {held} of {answer.subject}. Wrote {output}: send it back."])


@app.command()
def recover(
    file: Annotated[Path, typer.Argument(help="ask.json as it was sent", exists=True)],
    answers: Annotated[list[Path], typer.Argument(help="answers of others", exists=True)],
    entries: Annotated[
        Path | None, typer.Option(help="Entries from the coordinator's archive.", exists=True)
    ] = None,
    charge_what_is_left: Annotated[
        bool,
        typer.Option(
            "--charge-what-is-left",
            help="Lost entries cannot be had again: count all that is left of the budget as spent.",
        ),
    ] = False,
    home: Home = None,
    lost_key: Annotated[
        Path | None,
        typer.Option(
            help="site.json of the key that was lost, if there are no entries.", exists=True
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="The lost key was compared already.")] = False,
) -> None:
    """Continue this hospital's ledger from where enough others saw it.

    Also with a new identity key, after the old one was lost (docs/ledger.md, "A lost key").

    Example: fedprint-node ledger recover ask.json a.json b.json --entries entries.jsonl
    """
    from client import ledger_recovery, withdrawals
    from client.policy import Policy
    from shared_model import signing
    from shared_model.enrolment import open_site_card
    from shared_model.spoken_words import words_of

    place = NodeHome.find(home)
    site, key = _own(place)

    def agree(plan: Recovery) -> None:
        if plan.replaces is not None:
            old = signing.key_digest(plan.replaces)
            if not yes and not typer.confirm(
                f"The entries are signed by another key: {words_of(old)} ({old}). Is this the key "
                "that this hospital has lost, and shall the present one take its ledger over?"
            ):
                raise Refused("Nothing was changed.", reason="not-confirmed")
        if plan.charge is not None and not charge_what_is_left:
            raise Refused(
                _charge_in_words(plan),
                reason="ledger",
                do="Get the entries from the coordinator's operator (--entries). Only if nobody "
                "has them: --charge-what-is-left",
            )

    done = ledger_recovery.recover(
        place,
        site,
        key,
        asked=_read(file),
        answers=[_read(path) for path in answers],
        entries=[] if entries is None else ledger_recovery.entries_of(entries),
        roster=_roster(place),
        policy=Policy.from_file(place.policy),
        agree=agree,
        lost_key=None if lost_key is None else open_site_card(_read(lost_key)).identity,
    )
    view, _ = _view(place)
    charged = "" if done.charge is None else f" Charged: epsilon {done.charge:g}."
    _print(
        [
            f"The ledger is current again, on the word of {', '.join(done.vouched.witnesses)}: "
            f"{len(done.lines)} entries came back, {done.lost} did not.{charged}",
            view.in_words,
            f"Who has withdrawn since the backup is not known here. {withdrawals.DO}. "
            "Next: fedprint-node start",
        ]
    )


@app.command()
def accept(
    file: Annotated[Path, typer.Argument(help="Exported ledger of another hospital.", exists=True)],
    home: Home = None,
    yes: Annotated[bool, typer.Option("--yes", help="The words were read already.")] = False,
) -> None:
    """Follow another hospital's ledger behind entries that it has lost and paid for.

    Needed where this hospital saw some of the lost entries: it refuses the other until then.

    Example: fedprint-node ledger accept north-clinic.ledger
    """
    from client import ledger_accept
    from shared_model.files import read_regular
    from shared_model.ledger_export import MAX_EXPORT_BYTES

    place = NodeHome.find(home)
    data = read_regular(file, MAX_EXPORT_BYTES)
    terminal.err.print("Verifying every entry (about 0.2 ms each) ...")
    with _store(place) as store:
        held = store.peers()
        found = ledger_accept.judged(data, held=held, roster=_roster(place), own=_own(place)[0])
        _print(found.in_words)
        if not yes and not typer.confirm(f"Follow this ledger of {found.site}?"):
            raise Refused("Nothing was accepted.", reason="not-accepted")
        store.accept_peer(found.site, found.held, found.head)
    _print([f"This hospital now holds {found.head.length} entries of {found.site}."])


@app.command("import-spend")
def import_spend(home: Home = None) -> None:
    """Make the ledger of a node of an earlier version: book every row of its spend.sqlite.

    A node that never trained gets an empty ledger.

    Example: fedprint-node ledger import-spend
    """
    from client import spend_import
    from client.cli_progress import counting_bar
    from client.policy import Policy

    place = NodeHome.find(home)
    site, key = _own(place)
    delta = Policy.from_file(place.policy).delta
    with counting_bar("booking rows") as on_row:
        count = spend_import.import_spend(place, site, key, delta, on_row)
    view, _ = _view(place)
    _print(
        [
            f"The ledger has {count} rounds of spend.sqlite, which is not read any more: keep it.",
            view.in_words,
        ]
    )


def _charge_in_words(plan: Recovery) -> str:
    if plan.lost:
        what = (
            f"Other hospitals saw {plan.vouched.length} entries of this ledger; here there are "
            f"{plan.longer.length}, so {plan.lost} are lost."
        )
    else:
        what = "This node's own notes know of entries that are not here, or of another ledger."
    return (
        f"{what} Nobody can say what they cost. To go on without them counts all that is left of "
        f"the budget, epsilon {plan.charge:g}, as spent, and delta once more: this hospital trains "
        "no more unless its privacy officer raises epsilon_lifetime in policy.toml."
    )


def _view(place: NodeHome) -> tuple[LedgerView, str]:
    """The ledger, and why it cannot be gone by if it may be old."""
    from client.ledger_view import LedgerView
    from client.policy import Policy

    policy, warning = Policy.from_file(place.policy), ""
    with _store(place, perhaps_old=True) as store:
        try:
            store.check_current()
        except Refused as error:
            warning = f"NOT CURRENT. {error}"
        return LedgerView(store.chain, policy), warning


def _store(place: NodeHome, *, perhaps_old: bool = False) -> LedgerStore:
    from client.ledger_store import LedgerStore

    return LedgerStore.open(place, *_own(place), perhaps_old=perhaps_old)


def _own(place: NodeHome) -> tuple[str, Ed25519PrivateKey]:
    from client import keys
    from shared_model import signing

    return keys.load_config(place).site, signing.load_key_file(place.identity_key)


def _roster(place: NodeHome) -> Roster:
    """The roster that this hospital approved; it may have expired since."""
    from client.rosters import RosterBook

    approved = RosterBook(place).approved()
    if approved is None:
        raise OurMistake(
            "This hospital has approved no roster: it does not know who the others are.",
            do="Run: fedprint-node roster approve roster.json",
        )
    return approved.roster


def _read(path: Path) -> bytes:
    from shared_model.files import read_regular
    from shared_model.ledger_recovery import MAX_BYTES

    return read_regular(path, MAX_BYTES)


def _print(lines: list[str]) -> None:
    for line in lines:
        terminal.out.print(line, soft_wrap=True, highlight=False)
