"""What a data-protection officer reads about one hospital's ledger: the facts, in words. Pure.

    for one in statements(audit, day="2026-11-28"):
        html, pdf = statement_html.render(one), statement_pdf.render(one)

Nothing here is computed that `auditor.ledger_audit` has not verified or found to be wrong; a file
that was refused gets a statement that says so and no figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from auditor.ledger import Ledger
from auditor.ledger_audit import AuditedLedger, LedgerAudit
from auditor.ledger_epsilon import Figure
from auditor.ledger_recovered import in_words as recovered_in_words
from auditor.verify import Finding, Verdict
from shared_model import signing
from shared_model.ledger import Booked, Recovered

UNCOMFORTABLE = 5.0
"""Epsilon above which the bound is said to be no comfort; a way of speaking, no threshold."""

MOST_RESTORES = 3
"""The last ones are told; all are among the findings."""

LARGEST = 1e4
"""Epsilon that is drawn at most."""

UNIT = "one patient at one hospital: all of the patient's recordings together"
ADJACENCY = "with or without any one patient"
COUNTED_BY = "dp-accounting (privacy loss distributions) and Opacus (PRV accountant)"

NOT_COVERED = (
    "The same patient treated at two hospitals: the figures of both add up.",
    "That this hospital takes part, how many patients it declared, when it answered: all public.",
    "What is true of people in general, and so of patients whose data were never used.",
    "Data inside the hospital, and any use of it outside this system.",
)


@dataclass(frozen=True)
class Point:
    """Epsilon for life at a time (seconds since 1970), and the limit then; None: none."""

    time_s: int
    epsilon: float
    limit: float | None


@dataclass(frozen=True)
class Statement:
    """One hospital, one file. verdict: of the whole audit, all files.

    headline: the first line. facts: (what, value). runs: rows of (run, purpose, rounds, steps,
    PLD, PRV, from, to). files: (name, SHA-256), this one first.
    """

    title: str
    slug: str
    day: str
    verdict: Verdict
    headline: str
    failures: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    meaning: tuple[str, ...]
    points: tuple[Point, ...]
    runs: tuple[tuple[str, ...], ...]
    countersigned: str
    verified: tuple[str, ...]
    not_checked: tuple[str, ...]
    files: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...]

    not_covered: tuple[str, ...] = NOT_COVERED


def statements(audit: LedgerAudit, *, day: str) -> Iterator[Statement]:
    """One for each file, in their order.

    Args:
        day: of the audit, YYYY-MM-DD.
    """
    sound = {one.ledger.name: one for one in audit.ledgers}
    sites = [one.ledger.site for one in audit.ledgers]
    for number, (name, digest) in enumerate(audit.files.items(), start=1):
        one = sound.get(name)
        if one is None:
            title, slug = f"the file {name}", f"file-{number}-refused"
        else:
            title, slug = one.ledger.site, one.ledger.site
            if sites.count(title) > 1:
                slug = f"{title}-{number}"
        others = tuple(item for item in audit.files.items() if item[0] != name)
        yield Statement(
            title=title,
            slug=slug,
            day=day,
            verdict=audit.verdict,
            headline=_headline(audit),
            failures=tuple(
                f"{item.check}: {item.detail}"
                for item in audit.findings
                if item.verdict == "FAILED"
            ),
            facts=_facts(one) if one else (),
            meaning=_meaning(one),
            points=tuple(_points(one)) if one else (),
            runs=tuple(_runs(one)) if one and one.price else (),
            countersigned=one.reach.in_words() if one and audit.verdict != "FAILED" else "",
            verified=tuple(_verified(one, audit)) if one else (),
            not_checked=tuple(_not_checked(audit, one.ledger.site if one else "")),
            files=((name, digest), *others),
            findings=audit.findings,
        )


def _headline(audit: LedgerAudit) -> str:
    match audit.verdict:
        case "OK":
            return "Verified: no check failed, and all that have to be made were made."
        case "FAILED":
            count = sum(item.verdict == "FAILED" for item in audit.findings)
            return (
                "VERIFICATION FAILED: do not rely on any figure of these files. "
                f"{count} {'check' if count == 1 else 'checks'} failed."
            )
        case _:
            whole = next(item for item in audit.findings if item.check == "all ledgers")
            return (
                "INCOMPLETE: no check failed, but not all that have to be made could be: "
                f"{whole.detail}."
            )


def _life(one: AuditedLedger | None) -> Figure | None:
    return one.price.life if one and one.price else None


def _spent(figure: Figure) -> float | None:
    """The larger of both figures, if both are there."""
    known = [value for value in (figure.pld, figure.prv) if value is not None]
    return max(known) if known else None


def _facts(one: AuditedLedger) -> tuple[tuple[str, str], ...]:
    ledger = one.ledger
    bookings = ledger.chain.bookings
    roster = ledger.newest_roster
    facts = [
        (
            "Who",
            f"{ledger.site}, signed with key digest {signing.key_digest(ledger.key)[:16]}; one of "
            f"{len(roster.sites)} hospitals in version {roster.version} of the signed roster",
        ),
        ("Protected", f"{UNIT}, {ADJACENCY}"),
        ("Trust model", _trust(bookings)),
    ]
    figure = _life(one)
    if figure is not None:
        facts += _amounts(figure, one)
    elif not bookings and one.price is not None:
        facts.append(("Spent", "nothing: no round was ever booked"))
    if bookings:
        facts.append(
            (
                "Over",
                f"{len(bookings)} rounds with {sum(b.steps for b in bookings)} steps, "
                f"{_day(bookings[0].time_s)} to {_day(bookings[-1].time_s)} by the hospital's "
                f"clock; {bookings[-1].declared_patients} declared patients",
            )
        )
    facts += [
        ("Restored", recovered_in_words(entry))
        for entry in ledger.entries
        if isinstance(entry, Recovered)
    ][-MOST_RESTORES:]
    return tuple(facts)


def _amounts(figure: Figure, one: AuditedLedger) -> Iterator[tuple[str, str]]:
    bookings = one.ledger.chain.bookings
    delta = f"at delta {_decimal(figure.delta)}"
    spent = _spent(figure)
    limit = bookings[-1].limit_lifetime if bookings else None
    of_run = bookings[-1].limit_run if bookings else None
    if limit is not None and of_run is not None:
        yield (
            "Promised",
            f"never more than epsilon {limit:.4g} for life and {of_run:.4g} for one run, {delta}, "
            "by the hospital's own policy when it last booked",
        )
    if spent is None or not math.isfinite(spent):
        yield "Spent for life", f"no bound is known: {figure.why}"
        return
    both = [] if figure.pld is None else [f"dp-accounting {figure.pld:.3f}"]
    both.append("Opacus not" if figure.prv is None else f"Opacus {figure.prv:.3f}")
    counted = f"epsilon {spent:.2f} {delta} (counted twice: {', '.join(both)})"
    if figure.losses:
        counted += (
            f". NOT VERIFIED: {figure.charged:.2f} of it is what the hospital itself states for "
            "entries that it has lost"
        )
    yield "Spent for life", counted
    if limit is not None and not figure.losses:
        yield "Left for life", f"epsilon {max(0.0, limit - spent):.2f} {delta}"
    outsider = one.price.outsider if one.price else None
    if outsider is not None:
        value = _spent(outsider)
        told = "not known" if value is None else f"epsilon {value:.2f} {delta}"
        yield "Against outsiders", f"{told}, if no hospital works with the coordinator"


def _trust(bookings: tuple[Booked, ...]) -> str:
    local = (
        "local: the hospital adds all of the noise itself, so the promise holds against the "
        "coordinator, the other hospitals and everyone who gets a model"
    )
    shared = [one for one in bookings if one.mode == "distributed"]
    if not shared:
        return local
    colluding = sorted({one.colluding_sites for one in shared})
    several = " or ".join(str(count) for count in colluding)
    text = (
        f"distributed (in {len(shared)} of {len(bookings)} rounds): the hospitals share the noise "
        f"out; the promise holds only while the secure sum does, against the coordinator together "
        f"with at most {several} of the hospitals"
    )
    return text if len(shared) == len(bookings) else f"{text}. In the other rounds {local}"


def _meaning(one: AuditedLedger | None) -> tuple[str, ...]:
    figure = _life(one)
    spent = _spent(figure) if figure else None
    basis = (
        "Epsilon bounds what can be learned about one person. Suppose somebody wonders whether a "
        "certain patient was among those whose data were used, and holds the odds to be even, 1 "
        "to 1. Whatever that somebody knows besides, and whatever of this hospital's training "
        "they ever see, their odds can become at most e^epsilon to 1 (e is 2.718). At epsilon 0 "
        "nothing can be learned; every round adds to it, and nothing takes it away."
    )
    if figure is None or spent is None or not math.isfinite(spent):
        return (basis,)
    odds = f"at most {math.exp(min(spent, 50.0)):,.{1 if spent < 3 else 0}f}"
    if spent > 50.0:
        odds = "no bound worth the name, more than 10^21"
    here = "Here, if what the hospital states is true" if figure.losses else "Here"
    here += (
        f": {odds} to 1. Delta {_decimal(figure.delta)}, one in "
        f"{1 / figure.delta:,.0f}, is how likely it is that this bound does not hold."
    )
    if spent > UNCOMFORTABLE:
        here += " A bound so high limits the worst case only, and is no comfort by itself."
    return (basis, here)


def _points(one: AuditedLedger) -> Iterator[Point]:
    """Nothing beyond `LARGEST` is drawn. A clock that went back stands still."""
    time_s, limit, last = 0, None, 0.0
    if one.price is None:
        return
    for entry in one.ledger.entries:
        if isinstance(entry, Booked):
            limit = entry.limit_lifetime
            limit = None if limit is None or limit > LARGEST else limit
            last = math.inf if entry.epsilon_lifetime is None else entry.epsilon_lifetime
        elif isinstance(entry, Recovered) and entry.epsilon_charged is not None:
            last += entry.epsilon_charged
        else:
            continue
        time_s = max(time_s, entry.time_s)
        if last <= LARGEST:
            yield Point(time_s, last, limit)


def _runs(one: AuditedLedger) -> Iterator[tuple[str, ...]]:
    rounds: dict[str, list[Booked]] = {}
    for booked in one.ledger.chain.bookings:
        rounds.setdefault(booked.run, []).append(booked)
    for figure in one.price.runs if one.price else ():
        mine = rounds[figure.what]
        yield (
            figure.what,
            ", ".join(sorted({b.purpose for b in mine})),
            str(figure.rounds),
            str(figure.steps),
            "?" if figure.pld is None else f"{figure.pld:.3f}",
            "?" if figure.prv is None else f"{figure.prv:.3f}",
            _day(mine[0].time_s),
            _day(mine[-1].time_s),
        )


def _verified(one: AuditedLedger, audit: LedgerAudit) -> Iterator[str]:
    """The good lines about this hospital, shortened to what was found; all is in `findings`."""
    site = one.ledger.site
    good = {item.check for item in audit.findings if item.verdict == "OK"}
    words = (
        (
            "signature",
            "the file is signed by this hospital, whose key the consortium's root signed",
        ),
        ("chain", _entries_in_words(one.ledger)),
        ("rosters", "every round was booked under a roster that the root key signed"),
        ("approvals", "no round beyond what the hospital approved"),
        ("limits", "the hospital's limits were never crossed"),
        ("stated epsilon", "what the entries say was spent is what was counted again"),
        ("countersignatures", "other hospitals' countersignatures in the file are genuine"),
        ("coordinator", "the coordinator's own signature under the newest rounds is genuine"),
        ("seen by others", "what other hospitals have seen of this ledger is in it"),
        ("release", "the rounds of the given release are the rounds of this ledger"),
    )
    for check, said in words:
        if f"{site}: {check}" in good:
            yield said
    if one.price and all(figure.verdict == "OK" for figure in one.price.figures):
        yield f"epsilon was counted by {COUNTED_BY}; they agree within one percent"


def _entries_in_words(ledger: Ledger) -> str:
    if ledger.losses:
        return f"the {len(ledger.entries)} entries that are not lost are signed"
    return f"all {len(ledger.entries)} entries are signed and follow each other"


def _not_checked(audit: LedgerAudit, site: str) -> Iterator[str]:
    about = {one.ledger.site for one in audit.ledgers}
    for item in audit.findings:
        owner, _, check = item.check.rpartition(": ")
        if item.verdict == "CANNOT CHECK" and (owner == site or owner not in about):
            yield f"{check}: {item.detail}"


def _decimal(value: float) -> str:
    """0.00001, not 1e-05: two digits that count."""
    return np.format_float_positional(value, precision=2, fractional=False, trim="-")


def _day(time_s: int) -> str:
    """UTC; far beyond any calendar: the number."""
    try:
        return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d")
    except (OverflowError, ValueError, OSError):
        return f"second {time_s}"
