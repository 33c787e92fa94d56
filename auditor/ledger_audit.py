"""Exported ledgers audited as a whole: what `fedprint-audit verify` and `report` do.

    audit = audit_ledgers({"alpha.ledger": data, ...}, root_key, accountants=...)
    audit.verdict        # OK, FAILED or INCOMPLETE

FAILED if any check failed. INCOMPLETE if none did, but for some hospital epsilon was not counted by
both accountants, entries were lost and are charged by its own word, nobody else has countersigned
what it booked, or the release that was given says more than the files show. Epsilon is not counted
if a check failed: what a forged ledger would have cost is of no use to anyone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from auditor.ledger import Ledger
from auditor.ledger_between import Reach, between, reach
from auditor.ledger_counting import Accountants
from auditor.ledger_epsilon import Price, price
from auditor.ledger_examine import examine
from auditor.ledger_recovered import lost_in_words
from auditor.ledger_release import with_release
from auditor.verify import Finding, Verdict, failed, verdict_of
from shared_model import canonical
from shared_model.errors import OurMistake
from shared_model.release_signed import Release


@dataclass(frozen=True)
class AuditedLedger:
    """A file with what it costs and how far others have countersigned it.

    price: None where a check had failed before anything was counted.
    """

    ledger: Ledger
    reach: Reach
    price: Price | None


@dataclass(frozen=True)
class LedgerAudit:
    """files: name -> SHA-256, refused ones included. ledgers: those whose chain is whole."""

    files: Mapping[str, str]
    ledgers: tuple[AuditedLedger, ...]
    findings: tuple[Finding, ...] = field(repr=False)

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.findings)


def audit_ledgers(
    files: Mapping[str, bytes],
    root_key: bytes,
    *,
    accountants: Accountants,
    run_key: bytes | None = None,
    release: Release | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> LedgerAudit:
    """All findings about these files.

    Args:
        files: name -> content, hostile.
        root_key: 32 raw bytes; the only thing that is believed.
        accountants: (PLD, PRV), see `auditor.patience`.
        run_key: 32 raw bytes of the run key that hospitals have pinned, if it is known.
        release: verified; compared with the ledgers if given.
        say: takes lines of progress.

    Raises:
        OurMistake: no files.
    """
    if not files:
        raise OurMistake("There is no file to audit.")
    findings: list[Finding] = []
    ledgers: list[Ledger] = []
    for name, data in files.items():
        say(f"{name}: signatures and chain")
        ledger, found = examine(name, data, root_key, run_key)
        findings += found
        ledgers += [] if ledger is None else [ledger]
    findings += between(ledgers)
    missing = []
    if release is not None:
        told = with_release(ledgers, release)
        findings += told
        missing += [item.detail for item in told if item.verdict == "CANNOT CHECK"]
    missing += [text for ledger in ledgers for text in _own_word(ledger, findings)]
    sound = not failed(findings)
    audited = []
    for ledger in ledgers:
        counted = None
        if sound:
            say(f"{ledger.name}: epsilon by two accountants")
            counted, found = price(ledger, accountants)
            findings += found
            if not ledger.losses and any(item.verdict == "CANNOT CHECK" for item in found):
                missing.append(f"what {ledger.site} has spent could not be counted in full, twice")
        reached = reach(ledger, ledgers)
        if ledger.chain.bookings and not reached.lengths:
            missing.append(f"nobody else has countersigned the ledger of {ledger.site}")
        audited.append(AuditedLedger(ledger, reached, counted))
    if not failed(findings):
        findings.append(_whole(audited, missing))
    findings += _others(ledgers) + _what_no_file_shows()
    digests = {name: canonical.digest(data) for name, data in files.items()}
    return LedgerAudit(digests, tuple(audited), tuple(findings))


def _own_word(ledger: Ledger, findings: list[Finding]) -> list[str]:
    """What of this hospital's ledger rests on its own word after a restore."""
    site = ledger.site
    if ledger.losses:
        lost = [lost_in_words(one) for one in ledger.losses]
        more = f" and {len(lost) - 3} more times" if len(lost) > 3 else ""
        return [
            f"of the ledger of {site} {'; '.join(lost[:3])}{more}: what they cost is charged by "
            f"{site}'s own word; its epsilon is what it states, not what anybody has verified"
        ]
    if any((one.check, one.verdict) == (f"{site}: recovered", "CANNOT CHECK") for one in findings):
        return [f"that {site} asked the others how long its ledger was, its file does not show"]
    return []


def _others(ledgers: list[Ledger]) -> list[Finding]:
    """Hospitals that these files name, and whose own were not given."""
    vouches = [vouch for ledger in ledgers for vouch in ledger.vouches]
    named = {name for ledger in ledgers for name in ledger.newest_roster.names}
    named |= {name for vouch in vouches for name in (vouch.of, vouch.by)}
    absent = sorted(named - {ledger.site for ledger in ledgers})
    if not absent:
        return []
    more = f" and {len(absent) - 10} more" if len(absent) > 10 else ""
    detail = f"{', '.join(absent[:10])}{more}: named by these files; their ledgers were not given"
    return [Finding("other hospitals", "CANNOT CHECK", detail)]


def _whole(audited: list[AuditedLedger], missing: list[str]) -> Finding:
    if missing:
        return Finding("all ledgers", "INCOMPLETE", "; ".join(missing))
    return Finding(
        "all ledgers",
        "OK",
        f"{len(audited)} verified; epsilon counted by both accountants; others have countersigned",
    )


def _what_no_file_shows() -> list[Finding]:
    lines = [
        (
            "noise",
            "that the noise was really drawn, and that one patient's data were clipped, is each "
            "hospital's own statement; its software made it",
        ),
        (
            "other ledgers",
            "whether a hospital trained on the same patients under another name or key, or "
            "without any ledger",
        ),
        (
            "collusion",
            "whether all hospitals that have countersigned, and the coordinator, worked together",
        ),
        (
            "root key",
            "whose key it is: compare its digest with the root's holder by telephone",
        ),
    ]
    return [Finding(name, "CANNOT CHECK", detail) for name, detail in lines]
