"""From a run's folder to a signed release: read, verify every signature again, count, sign, write.

What goes into the manifest comes out of the headers that the sites signed, not out of the
coordinator's own notes; the notes only have to agree. Before a byte is written the finished
release is verified by the same code that the hospitals run.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server.checkpoints import RunFolder, RunRecord
from server.home import CoordinatorHome
from server.release_numbers import next_number, releases_of
from server.release_rounds import Road, collect
from server.sites import roster
from shared_model import accounting, canonical, release_signed, signing
from shared_model import release as contract
from shared_model import weights as weights_io
from shared_model.errors import OurMistake, Refused
from shared_model.release import Manifest
from shared_model.release_checks import replies_of, verify
from shared_model.release_files import (
    code_digest,
    package_versions,
    read_release,
    write_copy,
    write_release,
)
from shared_model.release_origin import known_origin
from shared_model.release_price import price_of
from shared_model.release_signed import ReleaseBytes


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
        Refused: the run is not private (reason "not-private"), its masks were off ("secure-sum"),
            a published sum was not verified by its hospitals ("unverified"), a signature, key,
            chain or minimum fails, the run is being worked on ("busy"), or a round is open
            ("open-round").
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
        if not record.completed:
            raise OurMistake("The run has no aggregated round yet; there is nothing to release.")
        weights = weights_io.to_bytes(run.weights(record))
        collected, evidence = collect(run, record, enrolled_keys(home, record))
    lineage, evidence = _joined(home, record, collected, evidence, key, origin)
    with next_number(home) as number:
        files = _seal(record, lineage, evidence, weights, key, number, created, name)
        manifest = verify(files, signing.public_bytes(key)).manifest
        folder = home.releases / f"{number:04d}"
        write_release(folder, files)
        if output is not None:
            write_copy(output, files)
    return Made(manifest, output or folder)


def enrolled_keys(home: CoordinatorHome, record: RunRecord) -> dict[str, str]:
    """Identity key (hexadecimal) of every site of the run's rosters.

    Raises:
        Refused: a site has another key today, or had another in the course of the run.
    """
    keys: dict[str, str] = {}
    for signed in record.signed_rosters:
        for entry in signed.roster.sites:
            if keys.setdefault(entry.site, entry.identity_key) != entry.identity_key:
                raise Refused(
                    f"{entry.site} changed its key in the course of the run.",
                    reason="enrolled",
                    do="Begin a new run with the new roster.",
                )
    for card in roster(home):
        if keys.get(card.site, card.identity_key) != card.identity_key:
            raise Refused(
                f"{card.site} is enrolled with another key than in this run.",
                reason="enrolled",
                do="Ask the hospital which of the two keys is its own.",
            )
    return keys


def _joined(
    home: CoordinatorHome,
    record: RunRecord,
    path: Road,
    evidence: contract.Evidence,
    key: Ed25519PrivateKey,
    origin: str | None,
) -> tuple[Road, contract.Evidence]:
    """Put the lineage of the release in front that this run began from, or name the warm start."""
    before = _released_before(home, path.start, signing.public_bytes(key))
    if before is not None:
        manifest, old = before
        if manifest.run_key != record.run_key:
            raise Refused("The earlier release has another run key.", reason="lineage")
        if manifest.root_key != record.root_key:
            raise Refused("The earlier release has another root key.", reason="lineage")
        keys = {one.site: one.identity_key for one in manifest.privacy}
        for site, value in keys.items():
            if path.keys.get(site, value) != value:
                raise Refused(f"{site} had another key in the earlier release.", reason="enrolled")
        lifetime = {one.site: one.lifetime_epsilon for one in manifest.privacy}
        for site, epsilon in path.lifetime.items():
            lifetime[site] = max(epsilon, lifetime.get(site, 0.0))
        joined = Road(
            runs=(*manifest.lineage.runs, *path.runs),
            rounds=(*manifest.lineage.rounds, *path.rounds),
            keys={**path.keys, **keys},
            lifetime=lifetime,
            start=manifest.lineage.warm_start.digest,
            origin=manifest.lineage.warm_start.origin,
            minimum=min(manifest.lineage.minimum_contributors, path.minimum),
        )
        both = contract.Evidence(
            rosters=tuple(dict.fromkeys((*old.rosters, *evidence.rosters))),
            rounds=(*old.rounds, *evidence.rounds),
        )
        return joined, both
    return replace(path, origin=_origin(record, origin)), evidence


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
    path: Road,
    evidence: contract.Evidence,
    weights: bytes,
    key: Ed25519PrivateKey,
    number: int,
    created: str,
    name: str | None,
) -> ReleaseBytes:
    proof = evidence.to_bytes()
    draft = {
        "schema_version": contract.schema_of(path.rounds),
        "name": name or record.run,
        "number": number,
        "created": created,
        "signer": signing.public_bytes(key).hex(),
        "run_key": record.run_key,
        "root_key": record.root_key,
        "model": record.model.as_dict(),
        "model_digest": record.weights_digest,
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
        "aggregation": "secure-sum",
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
    return ReleaseBytes(manifest.to_bytes(), release_signed.seal(manifest, key), weights, proof)


def _statements(path: Road) -> list[dict[str, object]]:
    """One privacy statement a site, over all its replies, closed rounds included."""
    sites = sorted({one.site for item in path.rounds for one in item.contributors})
    made: list[dict[str, object]] = []
    for site in sites:
        mine = replies_of(path.rounds, site)
        last = mine[-1][1]
        cost = price_of(mine, last.delta, accounting.epsilon_pld)
        made.append(
            {
                "site": site,
                "identity_key": path.keys[site],
                "epsilon": cost.epsilon,
                "delta": last.delta,
                "unit": contract.UNIT,
                "adjacency": contract.ADJACENCY,
                "trust_model": cost.trust_model,
                "colluding_sites": cost.colluding_sites,
                "outsider_epsilon": cost.outsider_epsilon,
                "lifetime_epsilon": path.lifetime[site],
                "noise": last.noise,
                "declared_patients": last.declared_patients,
                "rounds": len(mine),
                "steps": sum(item.plan.steps for item, _ in mine),
            }
        )
    return made
