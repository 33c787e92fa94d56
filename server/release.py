"""From a run's folder to a signed release: read, verify every signature again, count, sign, write.

What goes into the manifest comes out of the headers that the sites signed, not out of the
coordinator's own notes; the notes only have to agree. Before a byte is written the finished
release is verified by the same code that the hospitals run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server.checkpoints import (
    AbsentRecord,
    ContributorRecord,
    RoundRecord,
    RunFolder,
    RunRecord,
)
from server.home import CoordinatorHome
from server.release_numbers import next_number, releases_of
from server.sites import roster
from shared_model import accounting, canonical, protocol, signing
from shared_model import release as contract
from shared_model import weights as weights_io
from shared_model.config import PrivacyPlan
from shared_model.errors import FedprintError, OurMistake, Refused
from shared_model.noise import SystemNoise
from shared_model.release import Manifest, ReleaseBytes
from shared_model.release_checks import replies_of, verify
from shared_model.release_files import (
    code_digest,
    package_versions,
    read_release,
    write_copy,
    write_release,
)
from shared_model.release_origin import known_origin


@dataclass(frozen=True)
class Made:
    """A release that was written."""

    manifest: Manifest
    path: Path


def make_release(
    home: CoordinatorHome,
    run: RunFolder,
    *,
    key: Ed25519PrivateKey,
    created: str,
    name: str | None = None,
    origin: str | None = None,
    output: Path | None = None,
) -> Made:
    """Build, verify, sign and write a release of the run's latest model.

    Args:
        created: date YYYY-MM-DD.
        name: of the release; default: the run's name.
        origin: where the first model came from, in words; needed only if it is neither the
            packaged warm start nor a model that was released before.
        output: a further copy, a folder or a `.fedprint` file; the release itself goes to
            `home.releases/NNNN`.

    Raises:
        Refused: the run is not private (reason "not-private"), a signature, key, chain or minimum
            fails, the run is being worked on (reason "busy"), or a round is open ("open-round").
        OurMistake: no aggregated round, unknown origin, or `output` exists.
    """
    if output is not None and os.path.lexists(output):
        raise OurMistake(f"{output} exists already; a release is never overwritten.")
    if not run.exists:
        raise OurMistake(f"There is no run in {run.path}.", do="See: fedprint-coordinator status")
    with run.locked():
        record = run.record()
        open_round = run.stored_open_round(record)
        if open_round is not None and open_round.replies:
            raise Refused(
                f"Round {open_round.number} is open and hospitals have answered it.",
                reason="open-round",
                do="Let the run finish or pause first: fedprint-coordinator start",
            )
        weights = weights_io.to_bytes(run.weights(record)) if record.completed else b""
    if not weights:
        raise OurMistake("The run has no aggregated round yet; there is nothing to release.")
    collected, signed = collect(record, enrolled_keys(home, record))
    lineage, evidence = _joined(home, record, collected, signed, key, origin)
    with next_number(home) as number:
        files = _seal(record, lineage, evidence, weights, key, number, created, name)
        manifest = verify(files, signing.public_bytes(key)).manifest
        folder = home.releases / f"{number:04d}"
        write_release(folder, files)
        if output is not None:
            write_copy(output, files)
    return Made(manifest, output or folder)


def enrolled_keys(home: CoordinatorHome, record: RunRecord) -> dict[str, str]:
    """Identity key (hexadecimal) of every site of the run's roster.

    Raises:
        Refused: a site is enrolled today with another key than when the run began.
    """
    keys = {site.site: site.identity_key for site in record.roster}
    for card in roster(home):
        if keys.get(card.site, card.identity_key) != card.identity_key:
            raise Refused(
                f"{card.site} is enrolled with another key than in this run.",
                reason="enrolled",
                do="Ask the hospital which of the two keys is its own.",
            )
    return keys


@dataclass(frozen=True)
class _Path:
    """The lineage as far as it is collected."""

    runs: tuple[str, ...]
    rounds: tuple[contract.Round, ...]
    keys: Mapping[str, str]
    lifetime: Mapping[str, float]
    start: str
    origin: str
    minimum: int


def collect(
    record: RunRecord, keys: Mapping[str, str]
) -> tuple[_Path, tuple[contract.SignedRound, ...]]:
    """The rounds of a run, from the headers as they were signed.

    Raises:
        Refused: a reply is not private, or a header is not what the record says it is.
    """
    rounds: list[contract.Round] = []
    evidence: list[contract.SignedRound] = []
    lifetime: dict[str, float] = {}
    for item in record.rounds:
        try:
            made, signed = _round(record, item, keys, lifetime)
        except FedprintError as error:
            if isinstance(error, Refused):
                raise
            raise Refused(
                f"Round {item.round} cannot be released: {error.message}", reason="lineage"
            ) from error
        rounds.append(made)
        evidence.append(signed)
    path = _Path(
        runs=(record.run,),
        rounds=tuple(rounds),
        keys=dict(keys),
        lifetime=lifetime,
        start=record.initial_model,
        origin="",
        minimum=record.config.minimum_contributors,
    )
    return path, tuple(evidence)


def _round(
    record: RunRecord, item: RoundRecord, keys: Mapping[str, str], lifetime: dict[str, float]
) -> tuple[contract.Round, contract.SignedRound]:
    header = item.request_bytes
    request = protocol.open_train_request(header, bytes.fromhex(record.run_key))
    contributors: list[contract.Contribution] = []
    answers = _replies(item)
    for one in answers:
        if one.site not in keys:
            raise Refused(f"{one.site} is not in the run's roster.", reason="roster")
        reply = protocol.open_answer(one.header_bytes, bytes.fromhex(keys[one.site]), site=one.site)
        if not isinstance(reply, protocol.TrainReply):
            raise Refused(f"{one.site} refused round {item.round}.", reason="lineage")
        epsilon = reply.privacy.epsilon
        if not reply.private or epsilon is None or reply.noise != SystemNoise.name:
            raise Refused(
                f"Round {item.round} of {one.site} was trained without private noise "
                f"({reply.noise}): epsilon is infinite.",
                reason="not-private",
                do="There is no override. Repeat the run with the noise of the operating system.",
            )
        if isinstance(one, ContributorRecord) and (
            (reply.update_digest, reply.weight) != (one.update_digest, one.weight)
        ):
            raise Refused(f"The record of {one.site} is not what it signed.", reason="lineage")
        lifetime[one.site] = max(epsilon, lifetime.get(one.site, 0.0))
        contributors.append(
            contract.Contribution(
                site=one.site,
                declared_patients=reply.declared_patients,
                weight=reply.weight,
                noise=reply.noise,
                delta=reply.privacy.delta,
                update_digest=reply.update_digest,
                reply_digest=protocol.header_digest(one.header_bytes),
            )
        )
    made = contract.Round(
        run=request.run,
        number=request.round,
        outcome=item.outcome,
        plan=contract.Plan(**request.privacy.as_dict()),
        request_digest=protocol.header_digest(header),
        model_in=item.model_in,
        model_out=item.model_out,
        contributors=tuple(contributors),
    )
    signed = contract.SignedRound(
        request=header.hex(), replies=tuple(one.header_bytes.hex() for one in answers)
    )
    return made, signed


def _replies(item: RoundRecord) -> list[ContributorRecord | AbsentRecord]:
    """Every reply that came, by site. A closed round used none of them, yet each update was seen by
    the coordinator and was paid for."""
    found: list[ContributorRecord | AbsentRecord] = [*item.contributors]
    if item.outcome == "closed":
        found += [one for one in item.absent if one.ending == "unused"]
    return sorted(found, key=lambda one: one.site)


def _joined(
    home: CoordinatorHome,
    record: RunRecord,
    path: _Path,
    evidence: tuple[contract.SignedRound, ...],
    key: Ed25519PrivateKey,
    origin: str | None,
) -> tuple[_Path, contract.Evidence]:
    """Put the lineage of the release in front that this run began from, or name the warm start."""
    before = _released_before(home, path.start, signing.public_bytes(key))
    if before is not None:
        manifest, old = before
        if manifest.run_key != record.run_key:
            raise Refused("The earlier release has another run key.", reason="lineage")
        keys = {one.site: one.identity_key for one in manifest.privacy}
        for site, value in keys.items():
            if path.keys.get(site, value) != value:
                raise Refused(f"{site} had another key in the earlier release.", reason="enrolled")
        lifetime = {one.site: one.lifetime_epsilon for one in manifest.privacy}
        for site, epsilon in path.lifetime.items():
            lifetime[site] = max(epsilon, lifetime.get(site, 0.0))
        joined = _Path(
            runs=(*manifest.lineage.runs, *path.runs),
            rounds=(*manifest.lineage.rounds, *path.rounds),
            keys={**path.keys, **keys},
            lifetime=lifetime,
            start=manifest.lineage.warm_start.digest,
            origin=manifest.lineage.warm_start.origin,
            minimum=min(manifest.lineage.minimum_contributors, path.minimum),
        )
        return joined, contract.Evidence(rounds=(*old.rounds, *evidence))
    named = replace(path, origin=_origin(record, origin))
    return named, contract.Evidence(rounds=evidence)


def _origin(record: RunRecord, origin: str | None) -> str:
    """Words for the first model; what this version itself can make is recognised by its digest."""
    known = known_origin(record.model.preset, record.initial_model)
    if known is not None:
        return known
    if origin is None:
        raise OurMistake(
            "The run began neither from what this version packages nor from a released model.",
            do='Say where its first model came from: --origin "..."',
        )
    return f"as the operator states: {origin}"


def _released_before(
    home: CoordinatorHome, model_digest: str, signer: bytes
) -> tuple[Manifest, contract.Evidence] | None:
    """The latest release of this coordinator with this model."""
    for folder in sorted(releases_of(home), reverse=True):
        found = verify(read_release(folder), signer)
        if found.manifest.model_digest == model_digest:
            return found.manifest, found.evidence
    return None


def _seal(
    record: RunRecord,
    path: _Path,
    evidence: contract.Evidence,
    weights: bytes,
    key: Ed25519PrivateKey,
    number: int,
    created: str,
    name: str | None,
) -> ReleaseBytes:
    proof = evidence.to_bytes()
    draft = {
        "schema_version": contract.SCHEMA,
        "name": name or record.run,
        "number": number,
        "created": created,
        "signer": signing.public_bytes(key).hex(),
        "run_key": record.run_key,
        "model": record.model.as_dict(),
        "model_digest": record.model_digest,
        "weights": {"digest": canonical.digest(weights), "size_bytes": len(weights)},
        "evidence": {"digest": canonical.digest(proof), "size_bytes": len(proof)},
        "lineage": {
            "runs": list(path.runs),
            "warm_start": {"digest": path.start, "origin": path.origin},
            "minimum_contributors": path.minimum,
            "rounds": [item.model_dump(mode="json") for item in path.rounds],
        },
        "privacy": _statements(path),
        "private": True,
        "aggregation": "insecure_aggregation" if record.insecure_aggregation else "secure_sum",
        "code_digest": code_digest(),
        "packages": package_versions(),
        "limits": contract.LIMITS,
    }
    try:
        manifest = Manifest.from_bytes(canonical.encode(draft))
    except Refused as error:
        raise OurMistake(
            f"The release would not be legal: {error.message}",
            do="A name has letters, digits, dots, hyphens; words are printable ASCII.",
        ) from error
    return ReleaseBytes(manifest.to_bytes(), contract.seal(manifest, key), weights, proof)


def _statements(path: _Path) -> list[dict[str, object]]:
    """One privacy statement a site, over all its replies, closed rounds included."""
    sites = sorted({one.site for item in path.rounds for one in item.contributors})
    made: list[dict[str, object]] = []
    for site in sites:
        mine = replies_of(path.rounds, site)
        last = mine[-1][1]
        plans: list[PrivacyPlan] = [item.plan.plan() for item, _ in mine]
        made.append(
            {
                "site": site,
                "identity_key": path.keys[site],
                "epsilon": accounting.epsilon_pld(plans, last.delta),
                "delta": last.delta,
                "unit": contract.UNIT,
                "adjacency": contract.ADJACENCY,
                "trust_model": "local",
                "lifetime_epsilon": path.lifetime[site],
                "noise": last.noise,
                "declared_patients": last.declared_patients,
                "rounds": len(mine),
                "steps": sum(plan.steps for plan in plans),
            }
        )
    return made
