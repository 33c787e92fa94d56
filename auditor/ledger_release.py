"""Do exported ledgers and a release tell the same rounds?

Every reply in the lineage is booked and answered in its hospital's ledger, as it was; what the
ledger books of the same runs and the release leaves out is listed: it cost, and made no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from auditor.ledger import Ledger
from auditor.verify import Finding, Verdict, close
from shared_model import protocol_open
from shared_model.errors import FedprintError
from shared_model.ledger import Booked
from shared_model.protocol import Refusal, TrainReply
from shared_model.release import Contribution, Manifest, Round
from shared_model.release_signed import Release


def with_release(ledgers: Sequence[Ledger], release: Release) -> list[Finding]:
    """Findings about each hospital of the lineage and each file.

    Args:
        release: verified (`release_checks.verify`) with the release key that hospitals pinned.
    """
    manifest = release.manifest
    given = {ledger.site for ledger in ledgers}
    contributors = {one.site for step in manifest.lineage.rounds for one in step.contributors}
    findings = [
        Finding(
            f"{site}: release",
            "CANNOT CHECK",
            f"release {manifest.number} is also of {site}, whose ledger was not given",
        )
        for site in sorted(contributors | {one.site for one in manifest.privacy})
        if site not in given
    ]
    for ledger in ledgers:
        findings += _one(ledger, release)
    return findings


def _one(ledger: Ledger, release: Release) -> list[Finding]:
    check = f"{ledger.site}: release"
    manifest = release.manifest
    told = list(_told(release, ledger.site))
    if not told:
        detail = f"{ledger.site} has no part in release {manifest.number}"
        findings = [Finding(check, "OK", detail)]
    else:
        judged = [item for step, one, reply in told for item in _judged(ledger, step, one, reply)]
        findings = []
        for verdict in ("FAILED", "CANNOT CHECK"):
            words = [text for found, text in judged if found == verdict]
            findings += [Finding(check, verdict, text) for text in words[:5]]
            if len(words) > 5:
                findings.append(Finding(check, verdict, f"{len(words) - 5} more of these"))
        if not judged:
            steps = sum(step.plan.steps for step, _, _ in told)
            findings.append(
                Finding(
                    check,
                    "OK",
                    f"all {len(told)} replies ({steps} steps) in release {manifest.number} are "
                    "booked and answered here: same plan, model, request and body; heads that "
                    "they carry are heads of this ledger",
                )
            )
    return findings + _left_out(ledger, manifest, {(step.run, step.number) for step, _, _ in told})


def _told(release: Release, site: str) -> Iterator[tuple[Round, Contribution, bytes]]:
    """Each round with the site's contribution and the header of its reply."""
    rounds = zip(release.manifest.lineage.rounds, release.evidence.rounds, strict=True)
    for step, signed in rounds:
        for one, header in zip(step.contributors, signed.replies, strict=True):
            if one.site == site:
                yield step, one, bytes.fromhex(header)


def _judged(
    ledger: Ledger, step: Round, one: Contribution, header: bytes
) -> Iterator[tuple[Verdict, str]]:
    """What is wrong with a round, or cannot be known of it; nothing: all is as it was."""
    where = f"round {step.number} of run {step.run}"
    booked = ledger.bookings.get((step.run, step.number))
    reply = _opened(ledger, booked, header)
    if reply is None:
        yield "FAILED", f"{where}: the reply is signed with another key of {ledger.site}"
        return
    if not isinstance(reply, TrainReply):
        yield "FAILED", f"{where}: the reply in the release is a refusal"
        return
    head = reply.ledger
    answer = ledger.answers.get((step.run, step.number))
    if booked is None or answer is None:
        if ledger.lost(head.length) and ledger.may_have_had(head.length, head.head):
            yield "CANNOT CHECK", f"{where} is in the release, and among the entries that are lost"
            return
        what = "not booked" if booked is None else "booked and not answered"
        yield "FAILED", f"{where} is in the release and {what} in this ledger"
        return
    same = {
        "plan": booked.plan == step.plan.plan() and _same_noise(booked, step),
        "delta": booked.delta == one.delta,
        "declared patients": booked.declared_patients == one.declared_patients,
        "noise": booked.noise == one.noise and booked.private,
        "model": booked.model_in == step.model_in,
        "request": booked.request_digest == step.request_digest,
        "transcript": booked.transcript == reply.transcript,
        "body": answer.update_digest == one.body_digest,
        "epsilon for life": _as_stated(booked, reply),
    }
    different = [what for what, good in same.items() if not good]
    if different:
        yield "FAILED", f"{where}: other {', '.join(different)} in the release than in this ledger"
    if head.length > ledger.chain.length:
        detail = (
            f"{where}: ROLLED BACK: its reply was sent when the ledger had {head.length} entries; "
            f"this file has {ledger.chain.length}"
        )
        yield "FAILED", detail
    elif not ledger.may_have_had(head.length, head.head):
        yield "FAILED", f"{where}: FORKED: its reply was sent from another ledger than this one"


def _opened(ledger: Ledger, booked: Booked | None, header: bytes) -> TrainReply | Refusal | None:
    """The answer, None if the hospital's key of that time did not sign it: for a round that is not
    here (it may be lost), any key that it had."""
    chain = ledger.chain
    for key in chain.keys if booked is None else (chain.key_at(booked.sequence),):
        try:
            return protocol_open.open_answer(header, key, site=ledger.site)
        except FedprintError:
            continue
    return None


def _same_noise(booked: Booked, step: Round) -> bool:
    """In mode distributed the price depends on the roster and the dimension, too."""
    shared = step.shared_noise
    return shared is None or (
        (booked.dimension, booked.threshold, booked.colluding_sites)
        == (shared.dimension, shared.threshold, shared.colluding_sites)
    )


def _as_stated(booked: Booked, reply: TrainReply) -> bool:
    stated, entered = reply.privacy.epsilon, booked.epsilon_lifetime
    if stated is None or entered is None:
        return stated is entered
    return close(stated, entered)


def _left_out(ledger: Ledger, manifest: Manifest, told: set[tuple[str, int]]) -> list[Finding]:
    runs = set(manifest.lineage.runs)
    missing = [
        booked
        for booked in ledger.chain.bookings
        if booked.run in runs and (booked.run, booked.round) not in told
    ]
    if not missing:
        return []
    shown = ", ".join(f"round {booked.round} of {booked.run}" for booked in missing[:10])
    more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    return [
        Finding(
            f"{ledger.site}: not in the release",
            "OK",
            f"{shown}{more}: booked and paid for, but no part of this release (closed, lost, or "
            "later)",
        )
    ]
