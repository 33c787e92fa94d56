"""Is a reply's note the proof that its update was booked? Pure; nothing in it is believed.

The coordinator asks it of every reply, and whoever holds a release asks it again.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared_model import ledger
from shared_model.errors import PeerFault, Refused
from shared_model.ledger import Answered, Booked, Entry, Recovered
from shared_model.protocol import TrainReply, TrainRequest
from shared_model.secure_sum.numbers import padded_dimension


class LedgerMismatch(PeerFault):
    """What a site says of its ledger does not fit what it said before, or what it did."""


def check_note(reply: TrainReply, request: TrainRequest, identity_key: bytes) -> None:
    """The reply's head is signed; its entries lead to it from the head that the request shows (from
    the beginning, if none), each signed; and among them one books exactly this request, and a later
    one answers with exactly this body.

    Args:
        identity_key: of the site, 32 raw bytes.

    Raises:
        LedgerMismatch: names the site.
    """
    site = reply.site
    try:
        reply.ledger.check(site, identity_key)
        entries = _entries(reply, request, identity_key)
    except Refused as error:
        raise LedgerMismatch(
            f"The ledger of {site} is not in order: {error.message}", site=site
        ) from error
    booked = [one for one in entries if isinstance(one, Booked) and _books(one, reply, request)]
    answered = [
        one
        for one in entries
        if isinstance(one, Answered)
        and (one.run, one.round, one.update_digest) == (reply.run, reply.round, reply.body_digest)
    ]
    if len(booked) != 1 or [one.booking for one in answered] != [booked[0].sequence]:
        raise LedgerMismatch(f"The ledger of {site} has not booked what it submits.", site=site)


def _entries(reply: TrainReply, request: TrainRequest, identity_key: bytes) -> Sequence[Entry]:
    """The note's entries, found signed, and to lead from the known head to the new one.

    Raises:
        Refused: they are not ("ledger", "signature").
    """
    site, note, known = reply.site, reply.ledger, request.known_head(reply.site)
    length, head = (0, ledger.NOTHING) if known is None else (known.length, known.head)
    entries: list[Entry] = []
    lines = [line.encode("ascii") for line in note.entries]
    signer = ledger.first_signer(lines, identity_key)
    for line in lines:
        entry, signer = ledger.opened_line(line, signer)
        if isinstance(entry, Recovered) and entry.lost_from == length + 1:
            length, head = entry.lost_to, entry.previous
        elif isinstance(entry, Recovered) and entry.previous != head:
            raise Refused("Its entries do not follow each other.", reason="ledger")
        if (entry.site, entry.sequence) != (site, length + 1):
            raise Refused("Its entries do not follow each other.", reason="ledger")
        length, head = length + 1, ledger.next_head(head, ledger.entry_digest(entry))
        entries.append(entry)
    if signer != identity_key:
        raise Refused("Its last entries are signed by another key.", reason="ledger")
    if (length, head) != (note.length, note.head):
        raise Refused("Its entries do not lead to its head.", reason="ledger")
    return entries


def _books(one: Booked, reply: TrainReply, request: TrainRequest) -> bool:
    found = (
        one.run,
        one.round,
        one.purpose,
        one.plan,
        one.model_in,
        one.roster_digest,
        one.threshold,
        one.request_digest,
        one.transcript,
        one.dimension,
        one.declared_patients,
        one.noise,
        one.private,
        one.epsilon_lifetime,
    )
    return found == (
        request.run,
        request.round,
        request.purpose,
        request.privacy,
        request.model_digest,
        request.sum.roster_digest,
        request.sum.threshold,
        reply.request_digest,
        reply.transcript,
        0 if request.privacy.mode == "local" else padded_dimension(request.sum.dimension),
        reply.declared_patients,
        reply.noise,
        reply.private,
        reply.privacy.epsilon,
    )
