"""What a person reads about a release: its lineage, its price and its limits, in words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shared_model import signing
from shared_model.release import Manifest, SitePrivacy
from shared_model.release_origin import known_origin


def statement_in_words(one: SitePrivacy) -> str:
    """The whole promise; epsilon is never printed alone."""
    return (
        f"{one.site}: epsilon {one.epsilon:.3g} at delta {one.delta:.1e}; protects {one.unit} "
        f"({one.adjacency}); trust model '{one.trust_model}': {trust_in_words(one)}; "
        f"noise: {one.noise}; {one.rounds} rounds, {one.steps} steps, "
        f"{one.declared_patients} declared patients. Over its whole life the hospital states "
        f"epsilon {one.lifetime_epsilon:.3g} at the same delta."
    )


def trust_in_words(one: SitePrivacy) -> str:
    """Against whom the epsilon holds."""
    if one.trust_model == "local" or one.outsider_epsilon is None:
        return (
            "each hospital adds the full noise itself, so it holds against the coordinator, the "
            "other hospitals and anyone who has the model"
        )
    return (
        "the hospitals share the noise out, so it holds only while the secure sum does, and "
        f"against {one.colluding_sites} hospitals that work with the coordinator; against those "
        f"who work with none, as who has the model only, epsilon is {one.outsider_epsilon:.3g}"
    )


def aggregation_in_words(manifest: Manifest) -> str:
    """What the coordinator saw on the way, and what was checked."""
    sums = [step.sum for step in manifest.lineage.rounds if step.sum is not None]
    dropped = sum(len(one.dropped) for one in sums)
    return (
        "secure sum: of every round the coordinator learned the sum of the hospitals' noised "
        "updates and no single one, unless more of them than the roster's bound worked with it. "
        f"All {len(sums)} sums were verified by the hospitals in them"
        + (f"; {dropped} times a hospital that was asked is not in the sum." if dropped else ".")
    )


def describe(manifest: Manifest) -> dict[str, Any]:
    """What `show` prints as JSON."""
    lineage = manifest.lineage
    return {
        "name": manifest.name,
        "number": manifest.number,
        "created": manifest.created,
        "digest": manifest.digest,
        "model": manifest.model.preset,
        "model_digest": manifest.model_digest,
        "signer_key_digest": signing.key_digest(bytes.fromhex(manifest.signer)),
        "runs": list(lineage.runs),
        "warm_start": lineage.warm_start.model_dump(),
        "rounds": sum(step.outcome == "aggregated" for step in lineage.rounds),
        "closed_rounds": sum(step.outcome == "closed" for step in lineage.rounds),
        "minimum_contributors": lineage.minimum_contributors,
        "aggregation": aggregation_in_words(manifest),
        "privacy": [one.model_dump() for one in manifest.privacy],
        "limits": manifest.limits,
    }


def _origin(manifest: Manifest) -> str:
    start = manifest.lineage.warm_start
    known = known_origin(manifest.model.preset, start.digest)
    if known is not None:
        return f"{known} (known here by its digest)"
    return f"{start.origin} (as the coordinator states, verified by nobody)"


def words(manifest: Manifest) -> Iterable[str]:
    """What a person reads before saying yes, line by line."""
    rounds = sum(step.outcome == "aggregated" for step in manifest.lineage.rounds)
    yield f"Release {manifest.number} '{manifest.name}' of {manifest.created}"
    yield f"model {manifest.model.preset}, digest {manifest.model_digest[:16]}"
    yield f"signed by key digest {signing.key_digest(bytes.fromhex(manifest.signer))[:16]}"
    yield f"{rounds} rounds from the first model: {_origin(manifest)}"
    yield "Privacy, per hospital:"
    for one in manifest.privacy:
        yield f"  {statement_in_words(one)}"
    yield f"Aggregation: {aggregation_in_words(manifest)}"
    yield f"Limits: {manifest.limits}"
