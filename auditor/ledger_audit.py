"""Exported ledgers audited as a whole: what `fedprint-audit verify` and `report` do.

    audit = audit_ledgers({"alpha.ledger": data, ...}, root_key, accountants=...)
    audit.verdict        # OK, FAILED or INCOMPLETE

FAILED if any check failed. INCOMPLETE if none did, but for some hospital epsilon was not counted by
both accountants, or nobody else has countersigned what it booked. Epsilon is not counted for files
that failed otherwise: what a forged ledger would have cost is of no use to anyone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from auditor.ledger import Ledger, examine
from auditor.ledger_between import Reach, between, reach
from auditor.ledger_epsilon import Accountants, Price, price
from auditor.ledger_release import with_release
from auditor.verify import Finding, Verdict, failed, verdict_of
from shared_model import canonical
from shared_model.errors import OurMistake
from shared_model.release import Release


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
    if release is not None:
        findings += with_release(ledgers, release)
    sound = not failed(findings)
    audited, missing = [], []
    for ledger in ledgers:
        counted = None
        if sound:
            say(f"{ledger.name}: epsilon by two accountants")
            counted, found = price(ledger, accountants)
            findings += found
            if any(item.verdict == "CANNOT CHECK" for item in found):
                missing.append(f"what {ledger.site} has spent could not be counted in full, twice")
        reached = reach(ledger, ledgers)
        if ledger.chain.bookings and not reached.lengths:
            missing.append(f"nobody else has countersigned the ledger of {ledger.site}")
        audited.append(AuditedLedger(ledger, reached, counted))
    if not failed(findings):
        findings.append(_whole(audited, missing))
    findings += _what_no_file_shows()
    digests = {name: canonical.digest(data) for name, data in files.items()}
    return LedgerAudit(digests, tuple(audited), tuple(findings))


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
