"""What an auditor can check about a release, offline, without believing the coordinator.

Every check is one line with a verdict: OK, FAILED, or CANNOT CHECK with the reason in words. Only
FAILED makes the whole fail; what cannot be checked is never counted as good. INCOMPLETE is said of
a whole (`auditor.sum`) in which what has to be checked could not be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from shared_model import accounting, release_checks, signing
from shared_model.accounting import Priced
from shared_model.errors import FedprintError
from shared_model.release import Evidence, Manifest, SitePrivacy
from shared_model.release_files import code_digest
from shared_model.release_origin import known_origin
from shared_model.release_price import Accountant, price
from shared_model.release_signed import ReleaseBytes, check_evidence, check_signature, check_weights
from shared_model.release_words import statement_in_words

Verdict = Literal["OK", "FAILED", "CANNOT CHECK", "INCOMPLETE"]

AGREEMENT = 0.01
"""Largest relative difference between the accountants, and between them and the statement."""
ERROR_BAR = 0.005
"""Absolute difference in epsilon that the accountants may have besides: PRV's own error bar is
0.01, which is more than 1 % of an epsilon below 1."""
CROSS_CHECKED_UP_TO = 60.0
"""Largest epsilon for which PRV is asked: beyond, its memory grows without bound."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    check: str
    verdict: Verdict
    detail: str


def audit_release(
    files: ReleaseBytes,
    signer: bytes,
    *,
    run_key: bytes | None = None,
    root_key: bytes | None = None,
    accountants: tuple[Accountant, Accountant] | None = None,
) -> list[Finding]:
    """All findings about a release; nothing after a failed signature is looked at.

    Args:
        signer: 32 raw bytes, the release key that the auditor was given.
        run_key: 32 raw bytes, the key that signs requests, if the auditor was given it.
        root_key: 32 raw bytes, the key that signs rosters, if the auditor was given it.
        accountants: (PLD, PRV); replaced in tests only.
    """
    try:
        manifest = check_signature(files, signer)
    except FedprintError as error:
        return [Finding("signature", "FAILED", error.message)]
    findings = [
        Finding(
            "signature",
            "OK",
            f"release {manifest.number} '{manifest.name}', key digest "
            f"{signing.key_digest(signer)[:16]}",
        )
    ]
    findings.append(_digest("weights", lambda: check_weights(manifest, files.weights)))
    findings.append(_digest("evidence", lambda: check_evidence(manifest, files.evidence)))
    findings.append(pinned_key("run key", "requests", manifest.run_key, run_key))
    findings.append(pinned_key("root key", "rosters", manifest.root_key, root_key))
    findings += _lineage(manifest, files)
    pld, prv = accountants or (accounting.epsilon_pld, accounting.epsilon_prv)
    pair = (_remembered(pld), _remembered(prv))
    for one in manifest.privacy:
        findings += statement_findings(manifest, one, pair)
    findings.append(_first_model(manifest))
    findings.append(_code(manifest))
    findings += _cannot_check(manifest)
    return findings


def _remembered(accountant: Accountant) -> Accountant:
    """The same plans are counted once: hospitals that answered the same rounds paid the same."""
    known: dict[tuple[tuple[Priced, ...], float], float] = {}

    def asked(plans: Sequence[Priced], delta: float) -> float:
        key = (tuple(plans), delta)
        if key not in known:
            known[key] = accountant(plans, delta)
        return known[key]

    return asked


def pinned_key(name: str, signed: str, stated: str, pinned: bytes | None) -> Finding:
    """Whether requests, or rosters, are signed by the key that hospitals have pinned."""
    if pinned is None:
        told = signing.key_digest(bytes.fromhex(stated))[:16]
        return Finding(
            name,
            "CANNOT CHECK",
            f"no coordinator.json was given; the {signed} are signed by key digest {told}",
        )
    if stated != pinned.hex():
        return Finding(name, "FAILED", f"the {signed} are signed by another key than pinned")
    return Finding(name, "OK", f"the {signed} are signed by the key that hospitals pinned")


def failed(findings: Sequence[Finding]) -> bool:
    """True if any check failed."""
    return any(item.verdict == "FAILED" for item in findings)


def verdict_of(findings: Sequence[Finding]) -> Verdict:
    """Of the whole: FAILED if a check failed, else INCOMPLETE if one says so, else OK."""
    if failed(findings):
        return "FAILED"
    return "INCOMPLETE" if any(item.verdict == "INCOMPLETE" for item in findings) else "OK"


def _digest(what: str, check: Callable[[], object]) -> Finding:
    try:
        check()
    except FedprintError as error:
        return Finding(what, "FAILED", error.message)
    return Finding(what, "OK", "the bytes are the signed ones")


def _lineage(manifest: Manifest, files: ReleaseBytes) -> list[Finding]:
    rounds = manifest.lineage.rounds
    aggregated = [step for step in rounds if step.outcome == "aggregated"]
    fewest = min((len(step.contributors) for step in aggregated), default=0)
    findings = [
        _faults(
            "lineage",
            release_checks.chain_faults(manifest),
            f"{len(aggregated)} rounds and {len(rounds) - len(aggregated)} closed ones lead from "
            "the first model to the released one without a gap",
        ),
        _faults(
            "contributors",
            release_checks.contributor_faults(manifest),
            f"never fewer than {fewest} hospitals in an aggregate (minimum "
            f"{manifest.lineage.minimum_contributors}); no update was used twice",
        ),
        _faults(
            "statements",
            release_checks.statement_faults(manifest),
            "one for each contributing hospital; rounds, steps, delta and noise are the lineage's",
        ),
    ]
    try:
        evidence = Evidence.from_bytes(files.evidence)
    except FedprintError as error:
        return [*findings, Finding("signed replies", "FAILED", error.message)]
    replies = sum(len(step.contributors) for step in rounds)
    return [
        *findings,
        _faults(
            "signed replies",
            release_checks.evidence_faults(manifest, evidence),
            f"all {replies} replies are signed by their hospitals and say what the lineage says; "
            f"every sum was agreed on, answered for and found right by its hospitals, which have "
            f"signed the model that they computed of it",
        ),
    ]


def _faults(check: str, faults: Sequence[str], good: str) -> Finding:
    if not faults:
        return Finding(check, "OK", good)
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return Finding(check, "FAILED", faults[0] + more)


def statement_findings(
    manifest: Manifest, one: SitePrivacy, accountants: tuple[Accountant, Accountant]
) -> list[Finding]:
    """Recompute one hospital's epsilon from the plans that the coordinator signed."""
    mine = release_checks.replies_of(manifest.lineage.rounds, one.site)
    verdict, told = _recomputed(one.epsilon, [price(step) for step, _ in mine], one, accountants)
    findings = [Finding(f"privacy of {one.site}", verdict, f"{told}; {statement_in_words(one)}")]
    if one.outsider_epsilon is not None:
        outside = [price(step, outsider=True) for step, _ in mine]
        verdict, told = _recomputed(one.outsider_epsilon, outside, one, accountants)
        findings.append(Finding(f"privacy of {one.site} against outsiders", verdict, told))
    enough = one.lifetime_epsilon >= one.epsilon * (1.0 - AGREEMENT)
    findings.append(
        Finding(
            f"lifetime of {one.site}",
            "OK" if enough else "FAILED",
            f"the hospital states epsilon {one.lifetime_epsilon:.4g} for life, "
            f"{'not less' if enough else 'LESS'} than this lineage alone",
        )
    )
    return findings


def _recomputed(
    stated: float,
    rounds: Sequence[Priced],
    one: SitePrivacy,
    accountants: tuple[Accountant, Accountant],
) -> tuple[Verdict, str]:
    """What two accountants say of an epsilon that a release states for a hospital's rounds."""
    pld_of, prv_of = accountants
    pld = pld_of(rounds, one.delta)
    told = f"stated {stated:.4g}, PLD {pld:.4g}"
    verdict: Verdict
    if not pld <= CROSS_CHECKED_UP_TO:
        verdict = "CANNOT CHECK" if close(stated, pld) else "FAILED"
        told += f"; above {CROSS_CHECKED_UP_TO:g} there is no second accountant, nor much privacy"
    else:
        prv = prv_of(rounds, one.delta)
        verdict = "OK" if agree(pld, prv) and close(stated, pld) else "FAILED"
        told += f", PRV {prv:.4g}"
    return verdict, f"{told} at delta {one.delta:.1e}"


def agree(pld: float, prv: float) -> bool:
    """The two accountants agree, up to the numerical error that they themselves admit."""
    return close(pld, prv) or abs(pld - prv) <= ERROR_BAR


def close(left: float, right: float) -> bool:
    """Within `AGREEMENT` of the larger; infinities and NaN never agree."""
    finite = math.isfinite(left) and math.isfinite(right)
    return finite and abs(left - right) <= AGREEMENT * max(abs(left), abs(right))


def _first_model(manifest: Manifest) -> Finding:
    """The first model costs nothing only if no patient's data made it."""
    start = manifest.lineage.warm_start
    known = known_origin(manifest.model.preset, start.digest)
    if known is None:
        return Finding(
            "first model",
            "CANNOT CHECK",
            f"where it came from, and whether patients' data are in it; the release says: "
            f"{start.origin}",
        )
    if start.origin != known:
        return Finding("first model", "FAILED", f"it is not what the release says, but: {known}")
    return Finding("first model", "OK", f"known here by its digest: {known}")


def _code(manifest: Manifest) -> Finding:
    if manifest.code_digest == code_digest():
        return Finding("code", "OK", "the coordinator ran the very code that is installed here")
    return Finding(
        "code",
        "CANNOT CHECK",
        f"the coordinator ran other code than is installed here (digest "
        f"{manifest.code_digest[:16]}); install that version to compare",
    )


def _cannot_check(manifest: Manifest) -> list[Finding]:
    """What no file of a release can show."""
    root = signing.key_digest(bytes.fromhex(manifest.root_key))
    keys = ", ".join(
        f"{one.site} {signing.key_digest(bytes.fromhex(one.identity_key))}"
        for one in manifest.privacy
    )
    lines = [
        (
            "hospitals' keys",
            "they are the ones of rosters that the consortium's root key signed; compare the key "
            f"digests by telephone: root {root}; {keys}",
        ),
        (
            "noise",
            "that the noise was really drawn, and that one patient's data were clipped, is each "
            "hospital's own statement; its software made it",
        ),
        (
            "lifetime",
            "what a hospital spent in other runs, or in rounds whose reply was lost, stands in "
            "its own ledger: ask the hospital for it (fedprint-node ledger export)",
        ),
        (
            "aggregation",
            "with one's own eyes that each model is made of its round's sum: neither sums nor "
            "models in between are in the release. At least t hospitals of each round have signed "
            "that they computed it; fedprint-audit sum does it from the coordinator's files",
        ),
        (
            "collusion",
            "whether more hospitals than the roster's bound worked with the coordinator to open "
            "single updates: that leaves no trace in a release",
        ),
    ]
    return [Finding(name, "CANNOT CHECK", detail) for name, detail in lines]
