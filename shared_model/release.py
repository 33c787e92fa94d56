"""The release: what is signed, how it is written down, and what makes it acceptable.

Pure: bytes in, verdict out. `shared_model.release_signed` seals and opens what is carried,
`shared_model.release_files` reads and writes the files, `shared_model.release_words` tells a person
what a release says.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    model_serializer,
    model_validator,
)

from shared_model import canonical, weights
from shared_model.config import MINIMUM_CONTRIBUTORS, ModelConfig, PrivacyPlan
from shared_model.enrolment import SiteName
from shared_model.errors import OurMistake, Refused
from shared_model.protocol import MAX_HEADER_BYTES
from shared_model.protocol_base import RunId

SCHEMA = 4
OLDEST_SCHEMA = 3
TAG = "release-manifest"
"""Type tag of the signature: a signature made for anything else never verifies here."""

UNIT = "one patient at one hospital"
ADJACENCY = "add or remove one patient with all of the patient's recordings"
LIMITS = (
    "For research. Not a medical device: not for diagnosis, monitoring or treatment. "
    "The privacy statement counts the rounds of this lineage only; a patient treated at two "
    "hospitals has the sum of both; that a hospital took part is not protected."
)

MANIFEST_LIMIT_BYTES = 16 * 2**20
EVIDENCE_LIMIT_BYTES = 128 * 2**20
WEIGHTS_LIMIT_BYTES = 256 * 2**20
DOCUMENT_LIMIT_BYTES = 2 * 2**20
"""Largest signed roster, and largest statement of a sum."""
SIGNATURE_BYTES = 64

Digest = Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{64}\z")]
Key = Digest
"""A raw Ed25519 public key in hexadecimal."""
Name = Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\z")]
Words = Annotated[str, StringConstraints(pattern=r"\A[ -~]{1,600}\z")]
"""Printable ASCII: nothing that a terminal would obey."""
Date = Annotated[str, StringConstraints(pattern=r"\A[0-9]{4}-[01][0-9]-[0-3][0-9]\z")]
HexBytes = Annotated[
    str, StringConstraints(pattern=r"\A([0-9a-f]{2})+\z", max_length=2 * MAX_HEADER_BYTES)
]
HexDocument = Annotated[
    str, StringConstraints(pattern=r"\A([0-9a-f]{2})*\z", max_length=2 * DOCUMENT_LIMIT_BYTES)
]
Count = Annotated[int, Field(ge=1, le=10**9)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Probability = Annotated[float, Field(gt=0.0, lt=1.0)]


class _Strict(BaseModel):
    """No coercion, no unknown fields, no change after it is made."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Shape(_Strict):
    """`ModelConfig`, as written in the manifest."""

    preset: Name
    width: Annotated[int, Field(ge=1, le=4096)]
    heads: Annotated[int, Field(ge=1, le=256)]
    encoder_blocks: Annotated[int, Field(ge=1, le=128)]
    bottleneck_blocks: Annotated[int, Field(ge=1, le=128)]
    decoder_width: Annotated[int, Field(ge=1, le=4096)]
    decoder_blocks: Annotated[int, Field(ge=1, le=128)]
    mlp_ratio: Annotated[float, Field(gt=0.0, le=16.0)]

    def config(self) -> ModelConfig:
        """The frozen configuration.

        Raises OurMistake if the numbers do not make a model.
        """
        return ModelConfig(**self.model_dump())


class Plan(_Strict):
    """`PrivacyPlan`, as written in the manifest."""

    sample_rate: Annotated[float, Field(gt=0.0, le=1.0)]
    noise_multiplier: Annotated[float, Field(gt=0.0, lt=1e4)]
    clipping_norm: Annotated[float, Field(gt=0.0, lt=1e4)]
    steps: Annotated[int, Field(ge=1, le=100_000)]
    mode: Literal["local", "distributed"]

    def plan(self) -> PrivacyPlan:
        return PrivacyPlan(**self.model_dump())


class SharedNoise(_Strict):
    """Of a round in mode distributed, what its price depends on besides the plan.

    dimension: padded. colluding_sites: the bound of the round's roster.
    """

    dimension: Count
    threshold: Annotated[int, Field(ge=2, le=255)]
    colluding_sites: Annotated[int, Field(ge=1, le=255)]


class Contribution(_Strict):
    """One site's signed reply in one round, as in `evidence.json`."""

    site: SiteName
    declared_patients: Count
    weight: Count
    noise: Words
    delta: Probability
    body_digest: Digest
    """SHA-256 of the masked submission; it tells nothing about the update under the mask."""
    reply_digest: Digest
    """SHA-256 of the signed reply header."""


class ModelParts(_Strict):
    """What the model after a round is made of where the server step has a state.

    weights: digest of the model's own arrays. state: of the state's.
    """

    weights: Digest
    state: Digest

    @property
    def joined(self) -> str:
        """What the round's receipts name."""
        return weights.joined_digest(self.weights, self.state)


class RoundSum(_Strict):
    """The published sum of an aggregated round; what it says stands in signed messages.

    parts: of the model after it, if the server step has a state; then only is it written.
    """

    transcript: Digest
    survivors: Annotated[tuple[SiteName, ...], Field(min_length=MINIMUM_CONTRIBUTORS)]
    """Sites whose submissions are in the sum, sorted."""
    dropped: tuple[SiteName, ...]
    """Sites that were asked and are not in the sum, sorted."""
    sum_digest: Digest
    statement_digest: Digest
    parts: ModelParts | None = None

    @model_serializer(mode="wrap")
    def _written(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        value: dict[str, Any] = plain(self)
        return {name: value[name] for name in value if name != "parts" or self.parts is not None}


class Round(_Strict):
    """One ask-train-aggregate cycle. A closed round changes no weights but has its price.

    `sum` is there if and only if the round was aggregated, `shared_noise` if and only if its mode
    is distributed.
    """

    run: RunId
    number: Count
    outcome: Literal["aggregated", "closed"]
    plan: Plan
    shared_noise: SharedNoise | None
    request_digest: Digest
    """SHA-256 of the signed request header, which holds the plan."""
    model_in: Digest
    model_out: Digest
    contributors: tuple[Contribution, ...]
    sum: RoundSum | None

    @model_validator(mode="after")
    def _sum_if_aggregated(self) -> Round:
        if (self.sum is not None) != (self.outcome == "aggregated"):
            raise ValueError("an aggregated round has a sum, a closed one has none")
        if (self.shared_noise is not None) != (self.plan.mode == "distributed"):
            raise ValueError("only rounds of mode distributed share their noise")
        parts = None if self.sum is None else self.sum.parts
        if parts is not None and parts.joined != self.model_out:
            raise ValueError("the model after a round is not of the parts that are named")
        return self

    @property
    def weights_out(self) -> str:
        """Digest of the model's own arrays after an aggregated round."""
        parts = None if self.sum is None else self.sum.parts
        return self.model_out if parts is None else parts.weights


class WarmStart(_Strict):
    """Where round 1 began."""

    digest: Digest
    origin: Words


class Lineage(_Strict):
    """From the warm start to the released weights."""

    runs: Annotated[tuple[RunId, ...], Field(min_length=1)]
    warm_start: WarmStart
    minimum_contributors: Annotated[int, Field(ge=MINIMUM_CONTRIBUTORS)]
    rounds: Annotated[tuple[Round, ...], Field(min_length=1)]


class SitePrivacy(_Strict):
    """What the lineage cost each patient of one site."""

    site: SiteName
    identity_key: Key
    epsilon: Positive
    delta: Probability
    unit: Literal["one patient at one hospital"]
    adjacency: Words
    trust_model: Literal["local", "distributed"]
    """The weakest that any of its rounds depends on."""
    colluding_sites: Annotated[int, Field(ge=1, le=255)] | None
    """In mode distributed: epsilon holds against so many hospitals that work with the coordinator,
    the fewest of any round."""
    outsider_epsilon: Positive | None
    """In mode distributed: against those who work with no hospital."""
    lifetime_epsilon: Positive
    """The site's own statement in its last reply: everything that its patients ever paid."""
    noise: Words
    declared_patients: Count
    rounds: Count
    steps: Count

    @model_validator(mode="after")
    def _of_its_mode(self) -> SitePrivacy:
        shared = self.trust_model == "distributed"
        if shared != (self.colluding_sites is not None) or shared != (
            self.outsider_epsilon is not None
        ):
            raise ValueError("mode distributed, and no other, names colluders and outsiders")
        return self


class WeightsFile(_Strict):
    digest: Digest
    """SHA-256 of the file's bytes."""
    size_bytes: Annotated[int, Field(ge=1, le=WEIGHTS_LIMIT_BYTES)]


class EvidenceFile(_Strict):
    digest: Digest
    size_bytes: Annotated[int, Field(ge=2, le=EVIDENCE_LIMIT_BYTES)]


class Manifest(_Strict):
    """What the release key signs."""

    schema_version: Literal[3, 4]
    """4 if a round had a server step with a state, which 3 does not know; else 3."""
    name: Name
    number: Count
    created: Date
    signer: Key
    run_key: Key
    """Signs the requests in the evidence."""
    root_key: Key
    """Signs the rosters in the evidence; kept offline by the consortium."""
    model: Shape
    model_digest: Digest
    weights: WeightsFile
    evidence: EvidenceFile
    lineage: Lineage
    privacy: Annotated[tuple[SitePrivacy, ...], Field(min_length=MINIMUM_CONTRIBUTORS)]
    private: Literal[True]
    aggregation: Literal["secure-sum"]
    code_digest: Digest
    packages: Annotated[dict[Name, Words], Field(max_length=64)]
    limits: Words

    @model_validator(mode="after")
    def _of_its_schema(self) -> Manifest:
        if self.schema_version != schema_of(self.lineage.rounds):
            raise ValueError("the schema is the lowest that has all fields")
        return self

    def to_bytes(self) -> bytes:
        """Canonical bytes: what is signed and what lies in `manifest.json`."""
        return canonical.encode(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Parse hostile bytes.

        Raises:
            Refused: too large, not a manifest, unknown fields, or not the canonical spelling
                (reason "size" or "manifest").
        """
        if len(data) > MANIFEST_LIMIT_BYTES:
            raise Refused("The manifest is larger than any real one.", reason="size")
        try:
            manifest = cls.model_validate_json(data)
            same = manifest.to_bytes() == data
        except (ValidationError, OurMistake, ValueError, RecursionError) as error:
            raise Refused(
                f"The manifest is not one of this version{_where(error)}.",
                reason="manifest",
                do="Ask the coordinator's operator for the release again.",
            ) from None
        if not same:
            raise Refused("The manifest is not in its canonical spelling.", reason="manifest")
        return manifest

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes; names this release and no other."""
        return canonical.digest(self.to_bytes())


def schema_of(rounds: Iterable[Round]) -> int:
    """Of a manifest with these rounds."""
    stateful = any(step.sum is not None and step.sum.parts is not None for step in rounds)
    return SCHEMA if stateful else OLDEST_SCHEMA


def _where(error: Exception) -> str:
    """The first field at fault, never its content."""
    if not isinstance(error, ValidationError):
        return ""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    known = set(Manifest.model_fields)
    parts = [str(part) for part in first["loc"][:1] if str(part) in known]
    return f" (field {parts[0]})" if parts else ""


class SiteHeader(_Strict):
    """A header that one site signed, in hexadecimal."""

    site: SiteName
    header: HexBytes

    @property
    def data(self) -> bytes:
        return bytes.fromhex(self.header)


class SignedRound(_Strict):
    """Messages of one round exactly as they were signed (see `protocol` and `protocol_sum`).

    All but request and replies are empty for a closed round. Each site is there at most once.
    """

    request: HexBytes
    replies: tuple[HexBytes, ...]
    """`TrainReply` of each contributor."""
    agreements: tuple[SiteHeader, ...]
    statement: HexDocument
    answers: tuple[SiteHeader, ...]
    """`CloseReply` of each survivor."""
    receipts: tuple[SiteHeader, ...]


class Evidence(_Strict):
    """`evidence.json`: the signed rosters, and the messages of every round of the lineage."""

    rosters: Annotated[tuple[HexDocument, ...], Field(min_length=1, max_length=1000)]
    rounds: tuple[SignedRound, ...]

    def to_bytes(self) -> bytes:
        return canonical.encode(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes) -> Evidence:
        """Parse hostile bytes.

        Raises Refused if too large or not evidence (reason "size" or "evidence").
        """
        if len(data) > EVIDENCE_LIMIT_BYTES:
            raise Refused("The evidence is larger than any real one.", reason="size")
        try:
            evidence = cls.model_validate_json(data)
        except (ValidationError, ValueError, RecursionError):
            raise Refused("evidence.json cannot be read.", reason="evidence") from None
        if evidence.to_bytes() != data:
            raise Refused("evidence.json is not in its canonical spelling.", reason="evidence")
        return evidence
