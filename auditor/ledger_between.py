"""What exported ledgers of several hospitals show about each other, and who has countersigned.

A hospital that removes, edits or re-signs entries makes a chain that is whole by itself. It is
found by what it had signed before: heads that others hold, in their files or in its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from auditor.ledger import Ledger, Vouch
from auditor.verify import Finding
from shared_model.ledger import LedgerHead


@dataclass(frozen=True)
class Stretch:
    """How far others have countersigned entries that follow from each other.

    first, last: their numbers. lengths: of each other hospital, up to which of them it has seen.
    others: how many of them have to have seen an entry for it to count: t - 1, with the hospital
    itself t.
    """

    first: int
    last: int
    lengths: dict[str, int]
    others: int

    @property
    def vouched(self) -> int:
        """The last entry that `others` hospitals have countersigned; 0: none."""
        seen = sorted(self.lengths.values(), reverse=True)
        return seen[self.others - 1] if len(seen) >= self.others else 0

    @property
    def unseen(self) -> int:
        """Entries at the end that nobody has countersigned."""
        return self.last - max(self.lengths.values(), default=self.first - 1)

    def in_words(self) -> str:
        seen = sorted(self.lengths.items(), key=lambda item: (-item[1], item[0]))
        if not seen:
            return "nobody else has countersigned any entry"
        told = ", ".join(f"{site} up to entry {length}" for site, length in seen)
        needed = "1 other hospital" if self.others == 1 else f"{self.others} other hospitals"
        text = f"countersigned up to entry {self.vouched} by at least {needed}"
        if self.vouched == 0:
            text = f"no entry is countersigned by {needed}"
        last = "entry" if self.unseen == 1 else f"{self.unseen} entries"
        tail = f"; the last {last} by nobody yet" if self.unseen else ""
        return f"{text} ({told}){tail}"


@dataclass(frozen=True)
class Reach:
    """How far others have countersigned a ledger: each stretch between lost entries by itself,
    because a head says nothing of what stands before a gap."""

    stretches: tuple[Stretch, ...]

    @property
    def lengths(self) -> dict[str, int]:
        """Of each other hospital, the last entry here that it has seen."""
        return {site: length for one in self.stretches for site, length in one.lengths.items()}

    @property
    def unseen(self) -> int:
        """Entries at the ends that nobody has countersigned."""
        return sum(one.unseen for one in self.stretches)

    def in_words(self) -> str:
        if not self.lengths:
            return "nobody else has countersigned any entry"
        if len(self.stretches) == 1:
            return self.stretches[0].in_words()
        told = [f"of {one.first} to {one.last}: {one.in_words()}" for one in self.stretches[:3]]
        more = len(self.stretches) - len(told)
        return "; ".join([*told, *([f"and {more} more stretches"] if more else [])])


def reach(ledger: Ledger, ledgers: Sequence[Ledger]) -> Reach:
    """Over all files; call it when `contradictions` has found none."""
    firsts = [first for first, _ in ledger.stretches]
    lengths: list[dict[str, int]] = [{} for _ in firsts]
    for vouch in (one for other in ledgers for one in other.vouches):
        if vouch.of != ledger.site or vouch.by == ledger.site:
            continue
        length = min(vouch.head.length, ledger.chain.length)
        at = bisect_right(firsts, length) - 1
        if at >= 0 and not ledger.lost(length):
            lengths[at][vouch.by] = max(length, lengths[at].get(vouch.by, 0))
    others = max(1, ledger.newest_roster.threshold - 1)
    stretches = zip(ledger.stretches, lengths, strict=True)
    return Reach(tuple(Stretch(*ends, seen, others) for ends, seen in stretches))


def between(ledgers: Sequence[Ledger]) -> list[Finding]:
    """One finding for each contradiction, or one for each file that says that there is none."""
    findings = _rosters(ledgers)
    findings += [one for ledger in ledgers for one in _keys(ledger, ledgers)]
    for at, ledger in enumerate(ledgers):
        findings += [
            one
            for other in ledgers[:at]
            if other.site == ledger.site
            for one in _same(other, ledger)
        ]
        found = _contradictions(ledger, ledgers)
        findings += found
        if not found:
            findings.append(_good(ledger, ledgers))
    return findings


def _good(ledger: Ledger, ledgers: Sequence[Ledger]) -> Finding:
    check = f"{ledger.site}: seen by others"
    reached = reach(ledger, ledgers)
    if not reached.lengths and ledger.chain.bookings:
        return Finding(
            check,
            "CANNOT CHECK",
            "nobody else has countersigned it: that it was not rewritten, no file shows",
        )
    if ledger.losses:
        detail = f"{reached.in_words()}; what others have seen of lost entries is not here"
        return Finding(check, "CANNOT CHECK", detail)
    return Finding(check, "OK", reached.in_words())


def _contradictions(ledger: Ledger, ledgers: Sequence[Ledger]) -> list[Finding]:
    found: dict[str, Finding] = {}
    signed: dict[LedgerHead, bool] = {}
    for other in ledgers:
        for vouch in other.vouches:
            if vouch.of == ledger.site and vouch.by not in found:
                if vouch.head not in signed:
                    signed[vouch.head] = _is_signed(ledger, vouch.head)
                fault = _fault(ledger, vouch, signed[vouch.head])
                if fault:
                    check = f"{ledger.site}: seen by others"
                    found[vouch.by] = Finding(check, "FAILED", f"{fault} (file {other.name})")
    return list(found.values())


def _is_signed(ledger: Ledger, head: LedgerHead) -> bool:
    """By the key of that time; among lost entries it may have changed, and changed again."""
    chain = ledger.chain
    keys = chain.keys if ledger.lost(head.length) else (chain.key_at(head.length),)
    return head.is_signed_by(ledger.site, keys)


def _fault(ledger: Ledger, vouch: Vouch, signed: bool) -> str:
    site, length = ledger.site, vouch.head.length
    if not signed:
        return f"the head of {site} that {vouch.by} holds is signed with another key of {site}"
    if length > ledger.chain.length:
        return (
            f"ROLLED BACK: {vouch.by} has seen {length} entries of the ledger of {site}, signed by "
            f"{site}; this file has {ledger.chain.length}. Unless {site} sends a newer file with "
            "the rest, entries were removed"
        )
    if not ledger.may_have_had(length, vouch.head.head):
        return (
            f"FORKED: {site} has signed another ledger for {vouch.by} up to entry {length} than "
            "the one in this file"
        )
    return ""


def _same(old: Ledger, new: Ledger) -> list[Finding]:
    """Two files of one hospital: one continues the other."""
    short, long = sorted((old, new), key=lambda one: one.chain.length)
    if short.key in long.chain.keys and long.may_have_had(short.chain.length, short.chain.head):
        return []
    return [
        Finding(
            f"{new.site}: two files",
            "FAILED",
            f"FORKED: {long.name} does not continue {short.name}",
        )
    ]


def _keys(ledger: Ledger, ledgers: Sequence[Ledger]) -> list[Finding]:
    """The newest roster in any file that names this hospital must name this key."""
    rosters = [
        roster
        for other in ledgers
        for roster in other.rosters.values()
        if ledger.site in roster.names
    ]
    newest = max(rosters, key=lambda roster: roster.version)
    if newest.entry(ledger.site).identity == ledger.key:
        return []
    return [
        Finding(
            f"{ledger.site}: key",
            "FAILED",
            f"version {newest.version} of the roster names another key of {ledger.site} than the "
            "one that signed this file",
        )
    ]


def _rosters(ledgers: Sequence[Ledger]) -> list[Finding]:
    """The root has signed one roster of each version."""
    known: dict[int, tuple[str, str]] = {}
    for ledger in ledgers:
        for digest, roster in ledger.rosters.items():
            before, where = known.setdefault(roster.version, (digest, ledger.name))
            if before != digest:
                detail = (
                    f"the root key has signed two rosters of version {roster.version}: one is in "
                    f"{where}, another in {ledger.name}"
                )
                return [Finding("rosters", "FAILED", detail)]
    return []
