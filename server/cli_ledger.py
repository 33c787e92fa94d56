"""fedprint-coordinator ledger: what is held of the hospitals' privacy ledgers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.home import CoordinatorHome
from shared_model import terminal
from shared_model.errors import OurMistake, Refused

if TYPE_CHECKING:
    from server.ledgers import LedgerArchive

app = typer.Typer(
    help="The archive of the hospitals' privacy ledgers, as their replies have shown them.",
    no_args_is_help=True,
)
Home = Annotated[
    Path | None,
    typer.Option(help="The coordinator's folder (else FEDPRINT_COORDINATOR_HOME)."),
]


@app.callback()
def main() -> None:
    """The archive of the hospitals' privacy ledgers, as their replies have shown them."""


@app.command()
def show(
    home: Home = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show for each hospital how far its ledger is held here, verified anew, and what it says.

    Epsilon is for life, with the ledger's delta, per patient at this hospital, in the trust model
    of the last booked round.

    Example: fedprint-coordinator ledger show --json
    """
    place = CoordinatorHome.find(home)
    rows = [_row(place, site) for site in _archive(place).sites]
    if rows or as_json:
        terminal.show("Privacy ledgers held here", rows, as_json=as_json)
    else:
        terminal.out.print("No hospital has shown its privacy ledger yet.")


@app.command()
def entries(
    site: Annotated[str, typer.Argument(help="Name of the hospital.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    home: Home = None,
) -> None:
    """Write the entries of a hospital's ledger to a file, for its recovery after a restore.

    The hospital verifies them: each is signed with its own key.

    Example: fedprint-coordinator ledger entries north-clinic -o north-clinic.jsonl
    """
    from shared_model.files import write_atomic

    place = CoordinatorHome.find(home)
    if site not in _archive(place).sites:
        raise OurMistake(
            f"Nothing is held of the ledger of {site}.", do="See: fedprint-coordinator ledger show"
        )
    chain = _archive(place).chain(site, _key(place, site))
    write_atomic(output, b"".join(link.line + b"\n" for link in chain.links), mode=0o600)
    terminal.out.print(f"Wrote {chain.length} entries of {site} to {output}.", soft_wrap=True)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="ledger.json of fedprint-node ledger export.")],
    home: Home = None,
) -> None:
    """Take in a hospital's exported ledger, where the archive here lacks too many of its entries.

    Only what continues the archive and is signed by the enrolled key, up to a head that is, too.
    Not while the coordinator runs.

    Example: fedprint-coordinator ledger import ledger.json
    """
    from server import sites, superlink
    from shared_model.files import read_regular
    from shared_model.ledger_export import MAX_EXPORT_BYTES, open_export

    place = CoordinatorHome.find(home)
    if superlink.is_running(place):
        raise Refused(
            "The coordinator runs, and goes by the archive that it has read.",
            reason="busy",
            do="Stop it (Ctrl-C), import, and start it with --resume.",
        )
    export = open_export(read_regular(file, MAX_EXPORT_BYTES)).export
    cards = {card.site: card.identity_key for card in sites.roster(place)}
    if export.site not in cards:
        raise OurMistake(f"{export.site} is not enrolled.")
    key = bytes.fromhex(cards[export.site])
    if export.head is None:
        raise Refused(
            f"The file has no signed head of the ledger of {export.site}.",
            reason="ledger",
            do="Ask the hospital to write it with this version: fedprint-node ledger export",
        )
    export.head.check(export.site, key)
    lines = [line.encode("ascii") for line in export.lines]
    count = _archive(place).take_in(export.site, lines, export.head, key)
    terminal.out.print(f"Took in {count} entries of {export.site}; {len(lines)} are held now.")


def _archive(place: CoordinatorHome) -> LedgerArchive:
    from server.ledgers import LedgerArchive

    return LedgerArchive(place.ledgers)


def _key(place: CoordinatorHome, site: str) -> bytes:
    """The identity key of the hospital's card; without one, the key that the ledger ends with.

    A ledger that ends with an earlier key is the hospital's if that key was ever enrolled: the
    rosters say so.

    Raises:
        OurMistake: the archive is damaged, or its keys are none of this hospital's.
    """
    from server import rosters, sites

    cards = {card.site: card.identity for card in sites.roster(place)}
    chain = _archive(place).chain(site, cards.get(site, bytes(32)))
    known = {one.entry(site).identity for one in rosters.ever(place) if site in one.names}
    known |= {cards[site]} if site in cards else set()
    if known and chain.identity_key not in known:
        raise OurMistake(f"The ledger held of {site} is of another key than the enrolled one.")
    return cards.get(site, chain.identity_key)


def _row(place: CoordinatorHome, site: str) -> dict[str, object]:
    from shared_model.ledger import Booked

    chain = _archive(place).chain(site, _key(place, site))
    last = chain.last_booking
    return {
        "site": site,
        "entries": chain.length,
        "head": chain.head,
        "booked rounds": chain.count(Booked),
        "last run": "" if last is None else last.run,
        "last round": 0 if last is None else last.round,
        "epsilon": 0.0 if last is None else last.epsilon_lifetime,
        "delta": chain.delta,
        "unit": "one patient at one hospital",
        "trust model": "" if last is None else last.mode,
    }
