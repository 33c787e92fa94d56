"""fedprint-coordinator ledger: what is held of the hospitals' privacy ledgers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.home import CoordinatorHome
from shared_model import terminal
from shared_model.errors import OurMistake, Refused

if TYPE_CHECKING:
    from shared_model.ledger import LedgerHead
    from shared_model.ledger_export import Export

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

    Only what continues the archive, is signed by the enrolled key and lies before a head that the
    hospital's peers have countersigned.

    Example: fedprint-coordinator ledger import ledger.json
    """
    from server import sites
    from shared_model.files import read_regular
    from shared_model.ledger_export import MAX_EXPORT_BYTES, open_export

    place = CoordinatorHome.find(home)
    export = open_export(read_regular(file, MAX_EXPORT_BYTES)).export
    cards = {card.site: card.identity_key for card in sites.roster(place)}
    if export.site not in cards:
        raise OurMistake(f"{export.site} is not enrolled.")
    key = bytes.fromhex(cards[export.site])
    lines = [line.encode("ascii") for line in export.lines]
    head = _countersigned_head(export, key)
    count = _archive(place).take_in(export.site, lines, head, key)
    terminal.out.print(f"Took in {count} entries of {export.site}; {len(lines)} are held now.")


def _countersigned_head(export: Export, key: bytes) -> LedgerHead:
    """The newest head of its own that the hospital has signed, from the rounds in its export.

    Raises:
        OurMistake: there is none.
    """
    from shared_model.protocol import SIGNATURE_BYTES
    from shared_model.protocol_sum import AgreeRequest

    found = []
    for item in export.countersigned:
        try:
            asked = AgreeRequest.model_validate_json(bytes.fromhex(item.request)[SIGNATURE_BYTES:])
            head = asked.heads[asked.survivors.index(export.site)]
            head.check(export.site, key)
        except (ValueError, Refused):
            continue
        found.append(head)
    if not found:
        raise OurMistake("The export holds no head that the hospital's peers have countersigned.")
    return max(found, key=lambda head: head.length)


def _archive(place: CoordinatorHome) -> Any:
    from server.ledgers import LedgerArchive

    return LedgerArchive(place.ledgers)


def _key(place: CoordinatorHome, site: str) -> bytes:
    """The identity key that the first entry names; that the hospital's card has the same is checked
    where there is a card.

    Raises:
        OurMistake: another key than the one that was enrolled.
    """
    from server import sites
    from shared_model import ledger

    first = (place.ledgers / f"{site}.jsonl").read_bytes().split(b"\n")[0]
    try:
        entry, _ = ledger.parse(first)
    except ledger.LedgerFault as error:
        raise OurMistake(f"The archive of the ledger of {site} is damaged.") from error
    cards = {card.site: card.identity_key for card in sites.roster(place)}
    key = entry.identity_key if isinstance(entry, ledger.Opened) else cards.get(site, "")
    if cards.get(site, key) != key or not key:
        raise OurMistake(f"The ledger held of {site} is of another key than the enrolled one.")
    return bytes.fromhex(key)


def _row(place: CoordinatorHome, site: str) -> dict[str, object]:
    chain = _archive(place).chain(site, _key(place, site))
    last = chain.bookings[-1] if chain.bookings else None
    return {
        "site": site,
        "entries": chain.length,
        "head": chain.head,
        "booked rounds": len(chain.bookings),
        "last run": "" if last is None else last.run,
        "last round": 0 if last is None else last.round,
        "epsilon": 0.0 if last is None else last.epsilon_lifetime,
        "delta": chain.delta,
        "unit": "one patient at one hospital",
        "trust model": "" if last is None else last.mode,
    }
