"""Is a release sound? Every check that needs neither the model nor an accountant.

Each `*_faults` function returns sentences, none if all is well, so that the node can refuse at the
first and the auditor can print all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shared_model import canonical, protocol, sum_evidence
from shared_model.errors import FedprintError, PeerFault, Refused
from shared_model.protocol import TrainReply
from shared_model.release import (
    Contribution,
    Evidence,
    Manifest,
    Round,
    RoundSum,
    SignedRound,
    SiteHeader,
)
from shared_model.release_price import fits, shared_noise_of
from shared_model.release_signed import (
    Release,
    ReleaseBytes,
    check_evidence,
    check_signature,
    check_weights,
)
from shared_model.roster import Roster
from shared_model.sum_evidence import Asked


def verify(files: ReleaseBytes, signer: bytes) -> Release:
    """The release, if `signer` (32 raw bytes) signed it and its lineage is sound.

    Raises:
        Refused: reasons "size", "manifest", "signer", "signature", "digest", "weights",
            "evidence", "lineage"; nothing may be used then.
    """
    manifest = check_signature(files, signer)
    found = check_weights(manifest, files.weights)
    evidence = check_evidence(manifest, files.evidence)
    for fault in lineage_faults(manifest, evidence):
        raise Refused(
            f"The lineage of the release is not sound: {fault}",
            reason="lineage",
            do="Ask the coordinator's operator; do not install it.",
        )
    return Release(manifest, found, evidence)


def lineage_faults(manifest: Manifest, evidence: Evidence) -> list[str]:
    """All of the checks below."""
    return [
        *chain_faults(manifest),
        *contributor_faults(manifest),
        *statement_faults(manifest),
        *evidence_faults(manifest, evidence),
    ]


def _label(step: Round) -> str:
    return f"round {step.number} of run {step.run}"


def chain_faults(manifest: Manifest) -> list[str]:
    """Warm start to released digest without a gap; closed rounds change nothing.

    A run begins with the weights that the one before it released, and no state of a server step;
    its rounds stand together.
    """
    faults: list[str] = []
    lineage = manifest.lineage
    standing = weights = lineage.warm_start.digest
    seen: dict[str, int] = {}
    last = ""
    for step in lineage.rounds:
        if step.run not in seen:
            standing = weights
        elif step.run != last:  # its state would be another run's
            faults.append(f"{_label(step)} stands after another run that began later.")
        last = step.run
        if step.run not in lineage.runs:
            faults.append(f"{_label(step)} belongs to no run of the lineage.")
        if step.number <= seen.get(step.run, 0):
            faults.append(f"{_label(step)} is out of order.")
        seen[step.run] = step.number
        if step.model_in != standing:
            faults.append(f"{_label(step)} did not start from the model before it.")
        if step.outcome == "closed" and step.model_out != step.model_in:
            faults.append(f"{_label(step)} was closed and yet changed the model.")
        standing = step.model_out
        if step.outcome == "aggregated":
            weights = step.weights_out
    if weights != manifest.model_digest:
        faults.append("the last round did not make the released model.")
    return faults


def contributor_faults(manifest: Manifest) -> list[str]:
    """Every aggregate is of enough distinct sites, each submission used once."""
    faults: list[str] = []
    least = manifest.lineage.minimum_contributors
    bodies: set[str] = set()
    for step in manifest.lineage.rounds:
        sites = {one.site for one in step.contributors}
        if len(sites) != len(step.contributors):
            faults.append(f"{_label(step)} counts a site twice.")
        if step.outcome == "aggregated" and len(sites) < least:
            faults.append(f"{_label(step)} has {len(sites)} contributors, fewer than {least}.")
        for one in step.contributors:
            if one.body_digest in bodies:
                faults.append(f"{_label(step)} uses a submission that was used before.")
            bodies.add(one.body_digest)
    return faults


def replies_of(rounds: Sequence[Round], site: str) -> list[tuple[Round, Contribution]]:
    """All signed replies of a site, in order, those of closed rounds included."""
    return [(step, one) for step in rounds for one in step.contributors if one.site == site]


def statement_faults(manifest: Manifest) -> list[str]:
    """One statement a site, and its counts are those of the lineage."""
    faults: list[str] = []
    stated = [one.site for one in manifest.privacy]
    present = {one.site for step in manifest.lineage.rounds for one in step.contributors}
    if len(set(stated)) != len(stated) or set(stated) != present:
        return ["the privacy statements are not those of the contributing sites."]
    for one in manifest.privacy:
        mine = replies_of(manifest.lineage.rounds, one.site)
        if one.rounds != len(mine) or one.steps != sum(step.plan.steps for step, _ in mine):
            faults.append(f"the statement of {one.site} counts other rounds or steps.")
        if {item.delta for _, item in mine} != {one.delta}:
            faults.append(f"the statement of {one.site} has another delta than its replies.")
        shared = [step.shared_noise for step, _ in mine if step.shared_noise is not None]
        fewest = min((noise.colluding_sites for noise in shared), default=None)
        if one.colluding_sites != fewest:
            faults.append(f"the statement of {one.site} names another trust model than its rounds.")
        if {item.noise for _, item in mine} != {one.noise}:
            faults.append(f"the statement of {one.site} names another noise than its replies.")
        if {item.declared_patients for _, item in mine} != {one.declared_patients}:
            faults.append(f"the statement of {one.site} declares another number of patients.")
    return faults


def evidence_faults(manifest: Manifest, evidence: Evidence) -> list[str]:
    """Every figure of the lineage stands in a message that its site signed, and every sum was
    agreed on, answered for and found right by its hospitals.

    The root key is that of the manifest: who must not believe the coordinator compares it with the
    one that hospitals have pinned, and the roster's key digests with the hospitals.
    """
    if len(evidence.rounds) != len(manifest.lineage.rounds):
        return ["the evidence has another number of rounds."]
    try:
        rosters = sum_evidence.opened_rosters(
            (bytes.fromhex(one) for one in evidence.rosters), bytes.fromhex(manifest.root_key)
        )
    except FedprintError as error:
        return [f"a roster of the evidence: {error.message}"]
    faults: list[str] = []
    lifetime: dict[str, float] = {}
    for step, signed in zip(manifest.lineage.rounds, evidence.rounds, strict=True):
        try:
            faults += _round_faults(manifest, step, signed, rosters, lifetime)
        except FedprintError as error:
            faults.append(f"{_label(step)}: {error.message}")
    for one in manifest.privacy:
        if lifetime.get(one.site) != one.lifetime_epsilon:
            faults.append(f"{one.site} stated another epsilon for life than the manifest says.")
    return faults


def _round_faults(
    manifest: Manifest,
    step: Round,
    signed: SignedRound,
    rosters: Mapping[str, Roster],
    lifetime: dict[str, float],
) -> list[str]:
    faults: list[str] = []
    asked = sum_evidence.ask(
        bytes.fromhex(signed.request), bytes.fromhex(manifest.run_key), rosters
    )
    request = asked.request
    same = (
        asked.digest == step.request_digest
        and request.run == step.run
        and request.round == step.number
        and request.model_digest == step.model_in
        and request.privacy == step.plan.plan()
        and shared_noise_of(asked) == step.shared_noise
        and request.config_digest == manifest.model.config().digest
        and request.minimum_contributors >= manifest.lineage.minimum_contributors
    )
    if not same:
        faults.append(f"{_label(step)} is not the one that the coordinator asked for.")
    if len(signed.replies) != len(step.contributors):
        return [*faults, f"{_label(step)} has another number of signed replies."]
    keys = {one.site: bytes.fromhex(one.identity_key) for one in manifest.privacy}
    replies: dict[str, TrainReply] = {}
    for one, text in zip(step.contributors, signed.replies, strict=True):
        if keys.get(one.site) != asked.key(one.site):
            faults.append(f"{_label(step)}: {one.site} has another key than its roster says.")
        header = bytes.fromhex(text)
        reply = replies[one.site] = sum_evidence.replied(asked, one.site, header)
        epsilon = reply.privacy.epsilon
        if not reply.private or epsilon is None:
            faults.append(f"{_label(step)}: the update of {one.site} is not private.")
            continue
        lifetime[one.site] = max(epsilon, lifetime.get(one.site, 0.0))
        same = (
            protocol.header_digest(header) == one.reply_digest
            and reply.body_digest == one.body_digest
            and reply.noise == one.noise
            and reply.weight == one.weight
            and reply.privacy.delta == one.delta
            and fits(reply.privacy, step.shared_noise)
            and reply.declared_patients == one.declared_patients
        )
        if not same:
            faults.append(f"{_label(step)}: {one.site} signed other figures.")
    if step.sum is not None:
        faults += _sum_faults(step, step.sum, signed, asked, replies)
    return faults


def _sum_faults(
    step: Round,
    told: RoundSum,
    signed: SignedRound,
    asked: Asked,
    replies: Mapping[str, TrainReply],
) -> list[str]:
    """The sum of an aggregated round: agreed on, answered for, found right, and made the model."""
    data = bytes.fromhex(signed.statement)
    submissions = {one.site: one.reply_digest for one in step.contributors}
    statement = sum_evidence.stated(asked, data, submissions)
    same = (
        told.transcript == asked.transcript_digest
        and told.survivors == statement.survivors
        and told.dropped == statement.dropped
        and told.sum_digest == statement.sum_digest
        and told.statement_digest == canonical.digest(data)
        and (told.parts is None) == (asked.request.server_moments is None)
    )
    sum_evidence.agreed(asked, statement, _by_site(signed.agreements), replies)
    sum_evidence.answered(asked, statement, data, _by_site(signed.answers))
    sum_evidence.received(asked, statement, data, _by_site(signed.receipts), step.model_out)
    return [] if same else [f"{_label(step)} has another sum than its statement says."]


def _by_site(headers: Sequence[SiteHeader]) -> dict[str, bytes]:
    found = {one.site: one.data for one in headers}
    if len(found) != len(headers):
        raise PeerFault("A site is there twice.", site=protocol.COORDINATOR)
    return found
