"""What one exported ledger shows by itself, believing the consortium's root key and nobody else.

    ledger, findings = examine(name, data, root_key, run_key)     # ledger is None if it was refused

`auditor.ledger_between` compares files, `auditor.ledger_epsilon` counts again what was spent,
`auditor.ledger_audit` is the whole. Every check is a `Finding`, as in `auditor.verify`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pydantic import ValidationError

from auditor.ledger import Ledger, Vouch
from auditor.ledger_recovered import recovered
from auditor.verify import AGREEMENT, Finding
from shared_model import canonical, protocol, protocol_open, signing
from shared_model.errors import FedprintError, Refused
from shared_model.ledger import Answered, Approved, Booked, Chain, Incident, LedgerHead
from shared_model.ledger_export import CountersignedRound, open_export
from shared_model.protocol_sum import Agreement, AgreeRequest, agreed_digest


def examine(
    name: str, data: bytes, root_key: bytes, run_key: bytes | None = None
) -> tuple[Ledger | None, list[Finding]]:
    """Everything but epsilon, and but what other files show.

    Args:
        name: of the file, for the report.
        data: the file; hostile.
        root_key: 32 raw bytes.
        run_key: 32 raw bytes, if the auditor was given a coordinator.json.
    """
    try:
        sealed = open_export(data)
        key, rosters = sealed.verified(root_key)
    except FedprintError as error:
        return None, [Finding(f"{name}: signature", "FAILED", error.message)]
    export = sealed.export
    site = export.site
    findings = [
        Finding(
            f"{site}: signature",
            "OK",
            f"file {name}, written {export.created}, digest {sealed.digest[:16]}; signed by {site} "
            f"with key digest {signing.key_digest(key)[:16]}, which a roster names that the root "
            "key signed",
        )
    ]
    try:
        lines = (line.encode() for line in export.lines)
        chain = Chain.verified(lines, key, site=site)
    except FedprintError as error:
        return None, [*findings, Finding(f"{site}: chain", "FAILED", error.message)]
    bare = Ledger(name, sealed.digest, export, key, rosters, chain)
    findings.append(_chain(bare))
    findings += _of_check(bare, "rosters", _roster_faults(bare), _roster_words(bare))
    findings.append(_approvals(bare))
    vouches, countersigned = _countersigned(bare, run_key)
    witnessed = _witnessed(bare)
    answered, restored = recovered(bare)
    findings += [*countersigned, *_notes(bare), *restored, *witnessed]
    vouches += answered
    if not witnessed:
        vouches += tuple(Vouch(site, head.site, head.plain) for head in export.witnessed)
    return replace(bare, vouches=vouches), findings


def _of_check(ledger: Ledger, check: str, faults: Iterator[str], good: str) -> list[Finding]:
    found = list(faults)
    if not found:
        return [Finding(f"{ledger.site}: {check}", "OK", good)] if good else []
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return [Finding(f"{ledger.site}: {check}", "FAILED", found[0] + more)]


def _chain(ledger: Ledger) -> Finding:
    chain = ledger.chain
    if chain.delta is None:
        return Finding(f"{ledger.site}: chain", "OK", "the ledger is empty: nothing was spent")
    answered = sum(isinstance(entry, Answered) for entry in ledger.entries)
    gaps = "".join(f"; entries {first} to {last} are not here" for first, last in ledger.gaps[:3])
    gaps += "; and more" if len(ledger.gaps) > 3 else ""
    return Finding(
        f"{ledger.site}: chain",
        "OK",
        f"{len(chain.links)} entries up to number {chain.length}, each signed by {ledger.site} and "
        f"following from the one before; {len(chain.bookings)} rounds booked, {answered} of them "
        f"answered{gaps}; delta {chain.delta:.1e} in every entry",
    )


def _roster_faults(ledger: Ledger) -> Iterator[str]:
    for booked in ledger.own_bookings:
        roster = ledger.rosters.get(booked.roster_digest)
        where = f"Entry {booked.sequence}: "
        if roster is None:
            yield where + "its roster is not in the file."
        elif ledger.site not in roster.names:
            yield where + "its roster does not name this hospital."
        elif roster.entry(ledger.site).identity != ledger.chain.key_at(booked.sequence):
            yield where + "its roster names another key of this hospital."
        elif booked.declared_patients != roster.entry(ledger.site).declared_patients:
            yield where + "its roster declares another number of patients."
        elif booked.threshold != roster.threshold or booked.participants > len(roster.sites):
            yield where + "threshold or number of participants is not that of its roster."
        elif booked.colluding_sites != (roster.collusion_bound if booked.mode != "local" else 0):
            yield where + "it counts on another number of colluding hospitals than its roster's."


def _roster_words(ledger: Ledger) -> str:
    used = {booked.roster_digest for booked in ledger.own_bookings}
    return (
        f"{len(used)} used, {len(ledger.rosters)} in the file, all signed by the root key; "
        "thresholds and declared patients are theirs"
    )


def _approvals(ledger: Ledger) -> Finding:
    check = f"{ledger.site}: approvals"
    given: dict[str, Approved] = {}
    used: dict[str, int] = {}
    for entry in ledger.entries:
        if isinstance(entry, Approved):
            given[entry.run], used[entry.run] = entry, 0
        elif isinstance(entry, Booked) and entry.run in given:
            used[entry.run] += 1
            fault = _unapproved(entry, given[entry.run], used[entry.run])
            if fault:
                return Finding(check, "FAILED", f"Entry {entry.sequence}: {fault}")
    runs = {booked.run for booked in ledger.own_bookings}
    if not given:
        return Finding(check, "CANNOT CHECK", "the ledger has no entry that approves a run")
    bare = sorted(runs - set(given))
    if bare:
        return Finding(check, "FAILED", f"rounds of {_first(bare)} are booked, not approved")
    if ledger.gaps:
        return Finding(check, "CANNOT CHECK", "which rounds were booked among the lost entries")
    told = [f"{run} by {one.by} for {one.bookings} rounds" for run, one in sorted(given.items())]
    return Finding(check, "OK", f"no round beyond what was approved: {_first(told)}")


def _first(told: Sequence[str]) -> str:
    """A line of a report is short, however many there are."""
    return ", ".join(told[:10]) + (f" and {len(told) - 10} more" if len(told) > 10 else "")


def _unapproved(booked: Booked, given: Approved, used: int) -> str:
    if used > given.bookings:
        return f"run {booked.run} was approved for {given.bookings} rounds; this is one more."
    most = math.inf if given.epsilon_run is None else given.epsilon_run
    stated = math.inf if booked.epsilon_run is None else booked.epsilon_run
    if stated > most * (1.0 + AGREEMENT):
        return f"run {booked.run} has cost {stated:.4g}; {most:.4g} was approved."
    return ""


def _countersigned(
    ledger: Ledger, run_key: bytes | None
) -> tuple[tuple[Vouch, ...], list[Finding]]:
    """What the coordinator and others have signed about the newest rounds."""
    site = ledger.site
    rounds = ledger.export.countersigned
    vouches: list[Vouch] = []
    try:
        for item in rounds:
            vouches += _round(ledger, item, run_key)
    except FedprintError as error:
        return (), [Finding(f"{site}: countersignatures", "FAILED", error.message)]
    if not rounds:
        detail = "no round is in the file that others have countersigned"
        return (), [Finding(f"{site}: countersignatures", "CANNOT CHECK", detail)]
    told = ", ".join(f"round {item.round} of {item.run}" for item in rounds)
    findings = [
        Finding(
            f"{site}: countersignatures",
            "OK",
            f"{told}: each head is signed by its hospital, this ledger's own are its own at that "
            "length, and every agreement is signed by a hospital of the roster over these heads",
        )
    ]
    if run_key is None:
        findings.append(
            Finding(
                f"{site}: coordinator",
                "CANNOT CHECK",
                "no coordinator.json was given, so who asked for these rounds is not known",
            )
        )
    else:
        findings.append(
            Finding(
                f"{site}: coordinator",
                "OK",
                "these rounds were asked for with the run key that hospitals have pinned",
            )
        )
    return tuple(vouches), findings


def _round(ledger: Ledger, item: CountersignedRound, run_key: bytes | None) -> list[Vouch]:
    """Verified heads of a countersigned round.

    Raises:
        FedprintError: something is not signed, or is about another round or ledger.
    """
    site = ledger.site
    label = f"Round {item.round} of run {item.run}"
    header = bytes.fromhex(item.request)
    request = (
        _unsigned(header, label)
        if run_key is None
        else protocol_open.open_signed(header, run_key, AgreeRequest, site=protocol.COORDINATOR)
    )
    if (request.run, request.round) != (item.run, item.round) or site not in request.survivors:
        raise Refused(f"{label}: the request is about another.", reason="ledger")
    heads = dict(zip(request.survivors, request.heads, strict=True))
    own = heads[site]
    if not ledger.may_have_had(own.length, own.head):
        raise Refused(
            f"{label}: others have countersigned entry {own.length} of another ledger of {site}.",
            reason="ledger",
        )
    if ledger.lost(own.length):
        return []
    booking = ledger.bookings.get((item.run, item.round))
    answer = ledger.answers.get((item.run, item.round))
    roster = ledger.rosters.get(booking.roster_digest) if booking else None
    if booking is None or roster is None or booking.transcript != request.transcript:
        raise Refused(f"{label} is countersigned, and not booked as it was.", reason="ledger")
    if answer is None or answer.sequence > own.length:
        raise Refused(f"{label} is countersigned before its answer was entered.", reason="ledger")
    for name, head in heads.items():
        head.check(name, roster.entry(name).identity)
    expected = agreed_digest(request.survivors, request.submissions, request.heads)
    for one in item.agreements:
        key = roster.entry(one.site).identity
        signed = protocol_open.open_signed(bytes.fromhex(one.header), key, Agreement, site=one.site)
        same = (
            signed.site == one.site
            and one.site in heads
            and (signed.run, signed.round) == (item.run, item.round)
            and signed.transcript == request.transcript
            and signed.agreed == expected
        )
        if not same:
            raise Refused(f"{label}: {one.site} has agreed to something else.", reason="ledger")
    return [
        Vouch(one.site, name, head)
        for one in item.agreements
        for name, head in heads.items()
        if name != one.site
    ]


def _unsigned(header: bytes, label: str) -> AgreeRequest:
    """The request as it reads; that hospitals have signed its content is checked later."""
    data = header[protocol.SIGNATURE_BYTES :]
    try:
        request = AgreeRequest.model_validate_json(data)
        same = canonical.encode(request.model_dump(mode="json")) == data
    except (ValidationError, ValueError, RecursionError, FedprintError):
        same = False
    if not same:
        raise Refused(f"{label}: the request cannot be read.", reason="ledger")
    return request


def _witnessed(ledger: Ledger) -> list[Finding]:
    """Faults of the heads that this hospital holds of others."""
    faults = []
    for head in ledger.export.witnessed:
        if not _is_signed(head.plain, head.site, ledger):
            faults.append(
                Finding(
                    f"{ledger.site}: witnessed heads",
                    "FAILED",
                    f"the head of {head.site} in this file is not signed by {head.site}",
                )
            )
    return faults


def _is_signed(head: LedgerHead, site: str, ledger: Ledger) -> bool:
    """With any key that the site had: it may have changed since it signed."""
    try:
        keys = ledger.keys_of(site)
    except FedprintError:
        return False
    return head.is_signed_by(site, keys)


def _notes(ledger: Ledger) -> list[Finding]:
    """What a reader has to know, in words."""
    incidents = [entry for entry in ledger.entries if isinstance(entry, Incident)]
    found = []
    if ledger.imported:
        found.append(
            Finding(
                f"{ledger.site}: older rounds",
                "CANNOT CHECK",
                f"{len(ledger.imported)} rounds were taken over from the spend table of an older "
                "version: they are counted, but it knew no roster, request, limit or approval",
            )
        )
    if incidents:
        told = ", ".join(f"{x.reason} (round {x.round} of {x.run})" for x in incidents[:5])
        more = f" and {len(incidents) - 5} more" if len(incidents) > 5 else ""
        found.append(
            Finding(
                f"{ledger.site}: incidents",
                "CANNOT CHECK",
                f"{len(incidents)} requests that no honest coordinator sends: {told}{more}; "
                "whose fault it was, the ledger does not tell",
            )
        )
    return found
