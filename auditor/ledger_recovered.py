"""What `recovered` entries of a ledger rest on: the question and the answers in its file.

That a restored hospital asked, who answered, and which head they vouch for can be checked. What
lost entries cost cannot: it is charged by the hospital's own word. A ledger with such a charge is
never OK, whoever vouches for its length.
"""

from __future__ import annotations

from collections.abc import Iterable

from auditor.ledger import Ledger, Vouch
from auditor.verify import Finding
from shared_model import ledger_recovery as rules
from shared_model.errors import FedprintError, Refused
from shared_model.ledger import Recovered, Replaced
from shared_model.ledger_export import RecoveryEvidence
from shared_model.ledger_recovery import Answer, Vouched
from shared_model.roster import Roster

Evidence = tuple[Vouched, tuple[Answer, ...]]


def recovered(ledger: Ledger) -> tuple[tuple[Vouch, ...], list[Finding]]:
    """Heads that the answers show others to hold, and a finding for each `recovered` entry."""
    entries = [one for one in ledger.entries if isinstance(one, Recovered)]
    named = {one.evidence_digest for one in entries}
    known: dict[str, Evidence | str] = {
        one.digest: _opened(ledger, one) for one in ledger.export.recoveries if one.digest in named
    }
    findings = [_finding(ledger, one, known.get(one.evidence_digest)) for one in entries]
    sound = [one for one in known.values() if not isinstance(one, str)]
    vouches = tuple(
        Vouch(answer.witness, ledger.site, answer.held)
        for _, answers in sound
        for answer in answers
        if answer.held is not None
    )
    return vouches, findings


def _finding(ledger: Ledger, entry: Recovered, evidence: Evidence | str | None) -> Finding:
    check = f"{ledger.site}: recovered"
    words = in_words(entry)
    if evidence is None and entry.epsilon_charged is None:
        detail = f"{words}; the question and the answers that it names are not in the file"
        return Finding(check, "CANNOT CHECK", detail)
    fault = (
        "the question and the answers that it names are not in the file."
        if evidence is None
        else evidence
        if isinstance(evidence, str)
        else _fault(ledger, entry, evidence[0])
    )
    if fault:
        return Finding(check, "FAILED", f"Entry {entry.sequence} continues a ledger: {fault}")
    if entry.epsilon_charged is not None:
        return Finding(check, "CANNOT CHECK", words)
    return Finding(check, "OK", words)


def _opened(ledger: Ledger, evidence: RecoveryEvidence) -> Evidence | str:
    """What the files show by a roster that names this hospital with this key, or their fault."""
    fault = "no roster in the file names this hospital with the key of its ledger."
    for roster in _rosters(ledger):
        try:
            question = rules.open_question(bytes.fromhex(evidence.question), roster)
            if question.site != ledger.site:
                raise Refused(f"{question.site} asked, about another ledger.", reason="ledger")
            answers = [
                rules.open_answer(bytes.fromhex(one), roster, ledger.chain.keys)
                for one in evidence.answers
            ]
            return rules.vouched(question, answers, roster), tuple(answers)
        except FedprintError as error:
            fault = error.message
    return fault


def _rosters(ledger: Ledger) -> Iterable[Roster]:
    """Newest first; those with the same keys and threshold say the same."""
    found: dict[object, Roster] = {}
    for roster in ledger.newest_first:
        keys = tuple((one.site, one.identity_key) for one in roster.sites)
        if any((ledger.site, key.hex()) in keys for key in ledger.chain.keys):
            found.setdefault((roster.threshold, keys), roster)
    return found.values()


def _fault(ledger: Ledger, entry: Recovered, found: Vouched) -> str:
    if not entry.witnesses or not set(entry.witnesses) <= set(found.witnesses):
        return f"it names other witnesses than answered ({', '.join(found.witnesses)})."
    if entry.lost_from and (found.length, found.head) != (entry.lost_to, entry.previous):
        return (
            f"it goes on from entry {entry.lost_to} of a ledger of which they vouch for "
            f"entry {found.length}, or for another head."
        )
    if found.length >= entry.sequence:
        return f"they had seen {found.length} entries, and it says that none was lost."
    for length, head, witness in found.heads:
        if not ledger.may_have_had(length, head):
            return f"FORKED: {witness} answered with another entry {length} than the one here."
    return ""


def in_words(entry: Recovered) -> str:
    """What a restore did to the ledger, and what of it is the hospital's own word."""
    vouched = f"by the word, it says, of {', '.join(entry.witnesses) or 'nobody'}"
    if isinstance(entry, Replaced):
        vouched += ", and taken over by another key because the one before was lost"
    if entry.epsilon_charged is None:
        return f"entry {entry.sequence}: restored {vouched}; no entry was lost"
    lost = (
        f"{lost_in_words(entry)}; {vouched} the ledger goes on from there"
        if entry.lost_from
        else f"{lost_in_words(entry)}, by the hospital's own notes"
    )
    return (
        f"entry {entry.sequence}: {lost}. For what was lost epsilon {entry.epsilon_charged:.4g} is "
        f"charged and delta {entry.delta:.1e} counts once more, by {entry.site}'s own word: this "
        "is what it states and not what anybody has verified"
    )


def lost_in_words(entry: Recovered) -> str:
    """Which entries are not here."""
    if entry.lost_from:
        return f"entries {entry.lost_from} to {entry.lost_to} are lost"
    return f"entries before number {entry.sequence}, nobody knows how many, are lost"
