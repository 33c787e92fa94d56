"""What a hospital keeps of the other hospitals' ledgers, and who countersigned its own.

The heads of others are in the same file as the own ledger. They only grow: a head that is shorter,
another one of the same length, or one that the links do not lead to is refused, because the
hospital that signed it has rolled back, forked or rewritten its ledger.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from client import ledger_file
from shared_model import canonical
from shared_model.errors import Refused
from shared_model.ledger import LedgerHead, follows

ROUNDS_KEPT = 3


@dataclass(frozen=True)
class Countersigned:
    """Headers of a round: the coordinator's AgreeRequest, and Agreements by site."""

    run: str
    round: int
    request: bytes = field(repr=False)
    agreements: Mapping[str, bytes] = field(repr=False)


def peers(connection: sqlite3.Connection) -> dict[str, LedgerHead]:
    """The newest head held of each other hospital.

    Raises:
        LedgerFault: what lies in the file are no heads.
    """
    with _as_written():
        rows = connection.execute("SELECT site, length, head, signature FROM peers ORDER BY site")
        return {
            site: LedgerHead(length=length, head=head, signature=signature)
            for site, length, head, signature in rows.fetchall()
        }


def see(
    connection: sqlite3.Connection,
    heads: Mapping[str, LedgerHead],
    links: Mapping[str, Sequence[str]],
    identity_keys: Mapping[str, bytes],
) -> None:
    """Inside a transaction; see `client.node_interfaces.Witness`."""
    held = peers(connection)
    for site in sorted(heads):
        new = heads[site]
        _check(site, new, held.get(site), links.get(site, ()), identity_keys.get(site))
        _hold(connection, site, new)


def accept(connection: sqlite3.Connection, site: str, old: LedgerHead, new: LedgerHead) -> None:
    """Inside a transaction: hold `new` of this site from now on, which the operator has seen.

    Raises:
        Refused: another head than `old` is held meanwhile ("ledger").
    """
    if peers(connection).get(site) != old:
        raise _refuse(f"What this hospital holds of {site} has changed meanwhile.")
    _hold(connection, site, new)


def _hold(connection: sqlite3.Connection, site: str, new: LedgerHead) -> None:
    connection.execute(
        "INSERT INTO peers VALUES (?, ?, ?, ?) ON CONFLICT (site) DO UPDATE SET"
        " length = excluded.length, head = excluded.head, signature = excluded.signature",
        (site, new.length, new.head, new.signature),
    )


def _check(
    site: str, new: LedgerHead, old: LedgerHead | None, links: Sequence[str], key: bytes | None
) -> None:
    try:
        if key is None:
            raise Refused("The approved roster has no such site.", reason="ledger")
        new.check(site, key)
    except Refused as error:
        raise _refuse(f"The head of the ledger of {site} is not signed by {site}.") from error
    if old is None:
        return
    grown = new.length - old.length
    if grown < 0:
        raise _refuse(
            f"The ledger of {site} has {new.length} entries; this hospital has seen {old.length}: "
            "it was rolled back."
        )
    if len(links) < grown or follows(old.head, links[len(links) - grown :]) != new.head:
        raise _refuse(
            f"The ledger of {site} does not follow from entry {old.length} that this hospital has "
            "seen: it was forked or rewritten, or the links are missing."
        )


def _refuse(message: str) -> Refused:
    return Refused(
        message,
        reason="ledger",
        do="That hospital runs: fedprint-node ledger ask; show it what this one holds. If it has "
        "recovered since, take its exported ledger: fedprint-node ledger accept FILE",
    )


def keep_countersigned(connection: sqlite3.Connection, new: Countersigned) -> None:
    """Inside a transaction; the newest three rounds stay, of the same round the fuller one."""
    agreements = {site: header.hex() for site, header in new.agreements.items()}
    with _as_written():
        row = connection.execute(
            "SELECT agreements FROM countersignatures WHERE run = ? AND round = ?",
            (new.run, new.round),
        ).fetchone()
        if row is not None:
            agreements = {**json.loads(row[0]), **agreements}
    connection.execute(
        "INSERT INTO countersignatures (run, round, request, agreements) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (run, round) DO UPDATE SET agreements = excluded.agreements",
        (new.run, new.round, new.request, canonical.encode(agreements).decode()),
    )
    connection.execute(
        "DELETE FROM countersignatures WHERE number NOT IN"
        " (SELECT number FROM countersignatures ORDER BY number DESC LIMIT ?)",
        (ROUNDS_KEPT,),
    )


def countersigned(connection: sqlite3.Connection) -> tuple[Countersigned, ...]:
    """Of the newest rounds, in their order.

    Raises:
        LedgerFault: what lies in the file are no countersignatures.
    """
    with _as_written():
        rows = connection.execute(
            "SELECT run, round, request, agreements FROM countersignatures ORDER BY number"
        )
        return tuple(
            Countersigned(
                str(run),
                int(number),
                b"" + request,
                {site: bytes.fromhex(text) for site, text in json.loads(agreements).items()},
            )
            for run, number, request, agreements in rows.fetchall()
        )


@contextmanager
def _as_written() -> Iterator[None]:
    """Whoever owns the machine may have put anything there."""
    try:
        yield
    except (sqlite3.Error, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ledger_file.refuse(
            "What the ledger's file holds of other hospitals is damaged."
        ) from error
