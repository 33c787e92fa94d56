"""Is what was signed in one round the record of one sound secure sum? Pure; nothing is believed.

The release (at the coordinator, at each node, at the auditor) and `fedprint-audit sum` ask these,
one after the other; each takes only what the one before has verified.

    rosters = opened_rosters(documents, root_key)
    asked = ask(request_header, run_key, rosters)             # the request, its roster, transcript
    reply = replied(asked, site, header)                      # trip 1, each site
    statement = stated(asked, data, digests)                  # what the coordinator says it summed
    agreed(asked, statement, headers, replies)                # trip 2, at least t of them
    answers = answered(asked, statement, data, headers)       # closing exchange, every survivor
    received(asked, statement, data, headers, model_out)      # receipts, at least t of them

That the sum is right is in the receipts, and which model it makes: each hospital has checked the
published sum against all answers, and has computed the model after the round itself. Who has the
published sum can check it again: `shared_model.secure_sum.verification.check_equation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from shared_model import canonical, protocol, protocol_open, signing
from shared_model.errors import PeerFault, Refused
from shared_model.ledger_note import check_note
from shared_model.protocol import COORDINATOR, TrainReply, TrainRequest
from shared_model.protocol_sum import (
    Agreement,
    CloseReply,
    Statement,
    SumReceipt,
    agreed_digest,
    epoch_key_statement,
)
from shared_model.roster import Roster, check, open_signed
from shared_model.secure_sum.transcript import Transcript, of_request
from shared_model.secure_sum.verification import read_statement


@dataclass(frozen=True)
class Asked:
    """A verified request with everything that follows from it."""

    request: TrainRequest
    header: bytes = field(repr=False)
    roster: Roster
    transcript: Transcript

    @property
    def digest(self) -> str:
        """Of the request's header; replies name it."""
        return protocol.header_digest(self.header)

    @property
    def transcript_digest(self) -> str:
        return self.transcript.digest.hex()

    @property
    def label(self) -> str:
        return f"round {self.request.round} of run {self.request.run}"

    def key(self, site: str) -> bytes:
        """Identity key of a site, 32 raw bytes, as the signed roster has it.

        Raises:
            PeerFault: the roster does not name the site.
        """
        if site not in self.roster.names:
            raise PeerFault(f"{site} is not in the signed roster.", site=site)
        return bytes.fromhex(self.roster.entry(site).identity_key)


def opened_rosters(documents: Iterable[bytes], root_key: bytes) -> dict[str, Roster]:
    """Digest -> roster, each verified with the consortium's root key (32 raw bytes).

    Raises:
        PeerFault: a document that the root key did not sign.
        Refused: a roster out of the protocol's bounds (reasons "threshold", "roster").
    """
    rosters = [open_signed(document, root_key).roster for document in documents]
    for roster in rosters:
        check(roster, colluding_sites=0, allow_two=True, today=roster.valid_from, own=None)
    return {roster.digest: roster for roster in rosters}


def ask(header: bytes, run_key: bytes, rosters: Mapping[str, Roster]) -> Asked:
    """The request of a round, if masks are on and all its public figures are those of the roster.

    Raises:
        PeerFault: not signed by the run key, or not a request.
        Refused: masks off, an unknown roster, another threshold, weight, declared number or epoch
            key than the roster's (reason "secure-sum").
    """
    request = protocol_open.open_train_request(header, run_key)
    plan = request.sum
    where = f"Round {request.round} of run {request.run}"
    if plan.aggregation != "secure-sum":
        raise Refused(
            f"{where} was run without masks (UnmaskedForSimulation).",
            reason="secure-sum",
            do="There is no override. Repeat the run with the secure sum.",
        )
    roster = rosters.get(plan.roster_digest)
    if roster is None:
        raise Refused(f"{where} is of a roster that is not given here.", reason="secure-sum")
    declared = {entry.site: entry.declared_patients for entry in roster.sites}
    named = all(
        declared.get(one.site) == one.declared_patients for one in request.participants
    ) and set(request.sites) <= {entry.site for entry in plan.epoch_keys}
    if not named or plan.threshold != roster.threshold:
        raise Refused(f"{where} does not keep to its signed roster.", reason="secure-sum")
    transcript = of_request(request, {site: roster.entry(site).weight for site in request.sites})
    asked = Asked(request, header, roster, transcript)
    for entry in plan.epoch_keys:
        signed = epoch_key_statement(entry, plan.epoch, plan.roster_digest)
        signing.verify(asked.key(entry.site), "epoch-key", signed, bytes.fromhex(entry.signature))
    return asked


def replied(asked: Asked, site: str, header: bytes) -> TrainReply:
    """A site's submission, signed for exactly this request, and booked in its privacy ledger.

    Raises:
        PeerFault: not signed by the site, a refusal, or about something else (`LedgerMismatch`: or
            not booked).
    """
    reply = protocol_open.open_answer(header, asked.key(site), site=site)
    if not isinstance(reply, TrainReply):
        raise PeerFault(f"{site} refused {asked.label} and is counted.", site=site)
    entry = asked.roster.entry(site)
    same = (
        (reply.run, reply.round) == (asked.request.run, asked.request.round)
        and site in asked.request.sites
        and reply.request_digest == asked.digest
        and reply.transcript == asked.transcript_digest
        and reply.declared_patients == entry.declared_patients
        and reply.weight == asked.transcript.weight(site)
    )
    if not same:
        raise PeerFault(f"The reply of {site} is not to {asked.label}.", site=site)
    check_note(reply, asked.request, asked.key(site))
    return reply


def stated(asked: Asked, data: bytes, submissions: Mapping[str, str]) -> Statement:
    """The coordinator's statement, if it is about this round and exactly these submissions.

    Args:
        submissions: site -> digest of its reply's header.

    Raises:
        PeerFault: not a statement, or about another round, other sites or other submissions.
        Refused: fewer survivors than the threshold or the request's minimum ("secure-sum").
    """
    statement = read_statement(data)
    request = asked.request
    same = (
        (statement.run, statement.round) == (request.run, request.round)
        and statement.transcript == asked.transcript_digest
        and statement.participants == request.sites
        and statement.modulus_bits == request.sum.modulus_bits
        and statement.padded == asked.transcript.numbers.padded
        and dict(zip(statement.survivors, statement.submissions, strict=True)) == dict(submissions)
    )
    if not same:
        raise PeerFault(f"The statement of {asked.label} is about another.", site=COORDINATOR)
    if len(statement.survivors) < max(asked.roster.threshold, request.minimum_contributors):
        raise Refused(f"The sum of {asked.label} is of too few hospitals.", reason="secure-sum")
    return statement


def agreed(
    asked: Asked,
    statement: Statement,
    headers: Mapping[str, bytes],
    replies: Mapping[str, TrainReply],
) -> None:
    """At least t survivors have signed this set of survivors and no other, and the heads of their
    privacy ledgers.

    Args:
        replies: of every survivor, as `replied` has verified them.

    Raises:
        PeerFault: one is not such a signature.
        Refused: fewer than t ("secure-sum").
    """
    ledgers = [replies[site].ledger for site in statement.survivors]
    expected = agreed_digest(statement.survivors, statement.submissions, ledgers)
    for site, header in headers.items():
        found = protocol_open.open_signed(header, asked.key(site), Agreement, site=site)
        _about(asked, found, site, statement)
        if found.agreed != expected:
            raise PeerFault(f"{site} agreed to other survivors or other ledgers.", site=site)
    _enough(asked, headers, "agreements")


def answered(
    asked: Asked, statement: Statement, data: bytes, headers: Mapping[str, bytes]
) -> dict[str, tuple[int, ...]]:
    """Subset sums that every survivor signed about its own submission, for this statement.

    Raises:
        PeerFault: one is not such an answer.
        Refused: a survivor's answer is missing ("unverified").
    """
    found: dict[str, tuple[int, ...]] = {}
    digest = canonical.digest(data)
    for site, header in headers.items():
        reply = protocol_open.open_signed(header, asked.key(site), CloseReply, site=site)
        _about(asked, reply, site, statement)
        if reply.statement_digest != digest:
            raise PeerFault(f"{site} answered to another statement.", site=site)
        found[site] = reply.sums
    missing = sorted(set(statement.survivors) - set(found))
    if missing:
        raise Refused(
            f"The sum of {asked.label} is UNVERIFIED: no answer of {', '.join(missing)}.",
            reason="unverified",
            do=START_AGAIN,
        )
    return found


def received(
    asked: Asked,
    statement: Statement,
    data: bytes,
    headers: Mapping[str, bytes],
    model_out: str,
) -> None:
    """At least t survivors have checked the published sum, and computed this model of it.

    Args:
        model_out: digest of the model after the round, as it is claimed.

    Raises:
        PeerFault: one is not such a receipt, or is for another model.
        Refused: fewer than t ("unverified").
    """
    digest = canonical.digest(data)
    for site, header in headers.items():
        receipt = protocol_open.open_signed(header, asked.key(site), SumReceipt, site=site)
        _about(asked, receipt, site, statement)
        if receipt.statement_digest != digest:
            raise PeerFault(f"The receipt of {site} is for another statement.", site=site)
        if receipt.model_out != model_out:
            raise PeerFault(
                f"{asked.label}: {site} has signed that the sum makes another model.", site=site
            )
    _enough(asked, headers, "receipts")


START_AGAIN = "Start the run again while the hospitals are there: it asks for what is missing."


def _about(
    asked: Asked,
    message: Agreement | CloseReply | SumReceipt,
    site: str,
    statement: Statement,
) -> None:
    same = (
        message.site == site
        and site in statement.survivors
        and (message.run, message.round) == (asked.request.run, asked.request.round)
        and message.transcript == asked.transcript_digest
    )
    if not same:
        raise PeerFault(f"A message of {site} is not about {asked.label}.", site=site)


def _enough(asked: Asked, headers: Mapping[str, bytes] | Sequence[str], what: str) -> None:
    if len(headers) < asked.roster.threshold:
        reason = "unverified" if what == "receipts" else "secure-sum"
        raise Refused(
            f"{len(headers)} {what} of {asked.label}; {asked.roster.threshold} are needed.",
            reason=reason,
            do=START_AGAIN if what == "receipts" else "",
        )
