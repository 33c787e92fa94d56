"""Messages between the coordinator and the nodes: strict, versioned, canonical, signed.

On the wire a message is a **header** and a **body**, both bytes:

    header = 64-byte Ed25519 signature || canonical JSON of the message
    body   = bytes that the header commits to by SHA-256: the model in safetensors, or what
             docs/secure-sum-wire.md lays out; empty for a refusal

The type tag under the signature is the message's `kind`, so that no message can pass for one of
another kind, and the signature is checked **before** the JSON is parsed. A parser accepts exactly
the bytes that the sender's encoder makes: what it parsed is encoded again and must equal its input.

    coordinator -> node    TrainRequest, signed by the run key; body: the full model (trip 1)
    node -> coordinator    TrainReply, signed by the site's identity key; body: the masked vector,
                           sealed shares and commitments
                           Refusal, signed by the site's identity key; no body

    header = seal(message, key)

The messages of trips 2 and 3, of epochs and of the closing exchange are in `protocol_sum`; what
opens messages is in `protocol_open`. The envelope is the same in all versions: signature, canonical
JSON with `kind`, `version`, in requests `software`, in refusals `reason`.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, PlainSerializer, ValidationError, model_validator

from shared_model import canonical, signing
from shared_model.config import FIRST_TRAINABLE, LocalTraining, PrivacyPlan, ServerMoments, StepName
from shared_model.enrolment import SiteName
from shared_model.errors import FedprintError, OurMistake
from shared_model.ledger import MAX_LINE_BYTES, LedgerHead
from shared_model.protocol_base import (
    OLDEST,
    RoundMessage,
    RoundNumber,
    RunId,
    SignedMessage,
    Sparse,
    Strict,
    Version,
)
from shared_model.protocol_words import RefusalReason

if TYPE_CHECKING:
    from shared_model.server_optimisers import FedAdam, FedAvg

MAX_HEADER_BYTES = 256 * 1024
MAX_BODY_BYTES = 512 * 1024 * 1024
MAX_PARTICIPANTS = 255
"""Shamir shares over GF(2^8) have 255 places."""
MAX_WEIGHT = 8
"""Largest aggregation weight; see `shared_model.roster.weight_of`."""
SIGNATURE_BYTES = 64
MAX_NOTE_ENTRIES = 64
"""Ledger entries that a reply carries at most, and characters of all together: in JSON up to two
bytes each, so that they fit a header."""
MAX_NOTE_CHARACTERS = 120 * 1024
COORDINATOR = "coordinator"
PRIVACY_UNIT = "one patient at one hospital"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Patients = Annotated[int, Field(ge=1, le=100_000_000)]
Weight = Annotated[int, Field(ge=1, le=MAX_WEIGHT)]
ShortText = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[ -~]+$")]

PresetName = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$")]
Training = Annotated[LocalTraining, PlainSerializer(LocalTraining.as_dict, return_type=dict)]
"""As `LocalTraining.as_dict` writes it: what a run does not use is not there."""


class Participant(Strict):
    """One site of a round, with the number of patients that it declared at enrolment."""

    site: SiteName
    declared_patients: Patients


class EpochKeyEntry(Strict):
    """One site's X25519 key of the epoch, signed by its identity key (`protocol_sum.EpochKey`)."""

    site: SiteName
    public_key: Digest
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class SumPlan(Strict):
    """How the updates of a round are added; all of it is in the transcript.

    aggregation: "UnmaskedForSimulation" adds the same integers without masks; nodes of hospitals
        refuse it. threshold: what the signed roster says; nodes compare. epoch_keys: of all sites
        that have one, sorted. norm_bound: L2 bound on an update, from which the scale follows.
    """

    aggregation: Literal["secure-sum", "UnmaskedForSimulation"]
    roster_digest: Digest
    threshold: Annotated[int, Field(ge=2, le=MAX_PARTICIPANTS)]
    epoch: Annotated[int, Field(ge=0, le=2**53)]
    epoch_keys: Annotated[tuple[EpochKeyEntry, ...], Field(max_length=MAX_PARTICIPANTS)]
    dimension: Annotated[int, Field(ge=1, le=2**27)]
    bits: Annotated[int, Field(ge=8, le=24)]
    modulus_bits: Annotated[int, Field(ge=9, le=32)]
    norm_bound: Annotated[float, Field(gt=1e-12, lt=1e12)]

    @model_validator(mode="after")
    def _keys_fit(self) -> SumPlan:
        sites = [entry.site for entry in self.epoch_keys]
        if sites != sorted(set(sites)):
            raise ValueError("epoch keys must be sorted by site, each once")
        if len({entry.public_key for entry in self.epoch_keys}) != len(sites):
            raise ValueError("two sites have the same epoch key")
        return self


class KnownHead(LedgerHead):
    """The head of a site's privacy ledger, signed by that site, as somebody else holds it."""

    site: SiteName

    @property
    def plain(self) -> LedgerHead:
        """Without the name."""
        return LedgerHead(length=self.length, head=self.head, signature=self.signature)


class LedgerNote(LedgerHead):
    """A site's signed head after a round was booked and answered, and the entries up to it.

    entries: lines of `shared_model.ledger`, after the length that the request's `KnownHead` of this
    site names (0 if there is none).
    """

    entries: Annotated[
        tuple[
            Annotated[str, Field(min_length=1, max_length=MAX_LINE_BYTES, pattern=r"^[ -~]+$")], ...
        ],
        Field(max_length=MAX_NOTE_ENTRIES),
    ]

    @model_validator(mode="after")
    def _fits_a_header(self) -> LedgerNote:
        if sum(map(len, self.entries)) > MAX_NOTE_CHARACTERS:
            raise ValueError("the entries are too long together")
        return self

    @property
    def plain(self) -> LedgerHead:
        """Without the entries."""
        return LedgerHead(length=self.length, head=self.head, signature=self.signature)


class RunPlan(Sparse):
    """What a hospital's operator approves before a run's first round.

    rounds: aggregates that the run wants. bookings: rounds that a hospital may have to pay for,
    failed ones included. code_digest: of the coordinator's installed code
    (`release_files.code_digest`).
    """

    run: RunId
    purpose: Literal["pretrain"]
    preset: PresetName
    config_digest: Digest
    privacy: PrivacyPlan
    training: Training
    rounds: RoundNumber
    bookings: RoundNumber
    minimum_contributors: Annotated[int, Field(ge=1, le=MAX_PARTICIPANTS)]
    aggregation: Literal["secure-sum", "UnmaskedForSimulation"]
    server_step: StepName
    server_learning_rate: Annotated[float, Field(gt=0.0, le=10.0)]
    server_moments: ServerMoments | None = None
    code_digest: Digest

    @model_validator(mode="after")
    def _can_be_carried_out(self) -> RunPlan:
        if self.bookings < self.rounds:
            raise ValueError("every round is booked")
        try:
            _ = self.step
        except OurMistake as error:
            raise ValueError(error.message) from error
        return self

    @property
    def step(self) -> FedAvg | FedAdam:
        """The server step."""
        from shared_model.server_optimisers import named, rate_of

        rate = rate_of(self.privacy.mode, self.server_learning_rate, self.training.learning_rate)
        return named(self.server_step, rate, self.server_moments)

    @property
    def lowest_version(self) -> Version:
        """The first protocol version that has all that this plan uses."""
        if self.training.trainable not in FIRST_TRAINABLE:
            return 5
        newer = self.server_moments is not None or self.training.proximal_weight > 0.0
        return 4 if newer else OLDEST

    @property
    def digest(self) -> str:
        """What approves this plan and no other; 64 hexadecimal digits."""
        return canonical.digest_of(self.model_dump(mode="json"))


class TrainRequest(RoundMessage, Sparse):
    """Train one round from these weights.

    participants are sorted by site, each once. `start` counts the coordinator's starts of this
    run. `config_digest` is `ModelConfig.digest`, `model_digest` is `weights.digest` of the body.
    server_step, server_learning_rate, server_moments: what makes the next model of the mean
    update, so that every survivor can compute it from the published sum
    (`shared_model.server_step`). From the second aggregate on, the state of a step that has one is
    in the body beside the model, and `model_digest` is of both.
    rounds, bookings, code_digest: see `RunPlan`. ledger_heads: the last head that the coordinator
    holds of each participant's privacy ledger, as far as it holds one: who finds that its own
    ledger is not beyond that head is a restored backup.
    """

    kind: Literal["train-request"] = "train-request"
    purpose: Literal["pretrain"] = "pretrain"
    start: Annotated[int, Field(ge=1, le=1_000_000)]
    preset: PresetName
    config_digest: Digest
    model_digest: Digest
    body_digest: Digest
    privacy: PrivacyPlan
    training: Training
    server_step: StepName = "fedavg"
    server_learning_rate: Annotated[float, Field(gt=0.0, le=10.0)]
    server_moments: ServerMoments | None = None
    rounds: RoundNumber
    bookings: RoundNumber
    code_digest: Digest
    participants: Annotated[
        tuple[Participant, ...], Field(min_length=1, max_length=MAX_PARTICIPANTS)
    ]
    minimum_contributors: Annotated[int, Field(ge=1, le=MAX_PARTICIPANTS)]
    sum: SumPlan
    ledger_heads: Annotated[tuple[KnownHead, ...], Field(max_length=MAX_PARTICIPANTS)]
    deadline_s: Annotated[float, Field(gt=0.0, le=30 * 86_400.0)]
    software: ShortText

    @model_validator(mode="after")
    def _sorted_once(self) -> TrainRequest:
        sites = [participant.site for participant in self.participants]
        if sites != sorted(set(sites)):
            raise ValueError("participants must be sorted by site, each once")
        known = [head.site for head in self.ledger_heads]
        if known != sorted(set(known)) or not set(known) <= set(sites):
            raise ValueError("ledger heads are of participants, sorted by site, each once")
        return self

    @property
    def lowest_version(self) -> Version:
        """Of the plan, which has to be a legal one."""
        return self.plan.lowest_version

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(participant.site for participant in self.participants)

    @property
    def plan(self) -> RunPlan:
        """What the operator must have approved."""
        return RunPlan(
            run=self.run,
            purpose=self.purpose,
            preset=self.preset,
            config_digest=self.config_digest,
            privacy=self.privacy,
            training=self.training,
            rounds=self.rounds,
            bookings=self.bookings,
            minimum_contributors=self.minimum_contributors,
            aggregation=self.sum.aggregation,
            server_step=self.server_step,
            server_learning_rate=self.server_learning_rate,
            server_moments=self.server_moments,
            code_digest=self.code_digest,
        )

    def known_head(self, site: str) -> LedgerHead | None:
        """The head of this site's ledger that the request shows."""
        found = [head.plain for head in self.ledger_heads if head.site == site]
        return found[0] if found else None


class PrivacyStatement(Strict):
    """What the site has spent for life, this round included; never epsilon alone.

    epsilon None stands for infinity: nothing is promised (noise that is not private).
    colluding_sites, outsider_epsilon: in mode distributed only, epsilon holds against so many
    colluding hospitals, and outsider_epsilon (None: infinity) against those outside.
    """

    epsilon: Annotated[float, Field(ge=0.0)] | None
    delta: Annotated[float, Field(gt=0.0, lt=1.0)]
    unit: Literal["one patient at one hospital"] = "one patient at one hospital"
    trust_model: Literal["local", "distributed"] = "local"
    colluding_sites: Annotated[int, Field(ge=0, le=MAX_PARTICIPANTS)] | None = None
    outsider_epsilon: Annotated[float, Field(ge=0.0)] | None = None

    @model_validator(mode="after")
    def _of_its_mode(self) -> PrivacyStatement:
        local = self.trust_model == "local"
        if local != (self.colluding_sites is None) or (local and self.outsider_epsilon is not None):
            raise ValueError("only mode distributed names colluders and outsiders")
        return self


class TrainReply(RoundMessage):
    """The submission of one site for one round: what its body holds is masked.

    No digest of the update itself travels: the body is all that leaves.
    """

    kind: Literal["train-reply"] = "train-reply"
    site: SiteName
    request_digest: Digest
    transcript: Digest
    body_digest: Digest
    declared_patients: Patients
    weight: Weight
    noise: ShortText
    private: bool
    privacy: PrivacyStatement
    ledger: LedgerNote
    software: ShortText

    @model_validator(mode="after")
    def _no_promise_without_noise(self) -> TrainReply:
        if self.private != (self.privacy.epsilon is not None):
            raise ValueError("epsilon is finite if and only if the noise is private")
        return self


class Refusal(RoundMessage):
    """The site does not take part in this round. Carries a word of a closed set and no more."""

    kind: Literal["refusal"] = "refusal"
    site: SiteName
    request_digest: Digest
    reason: RefusalReason


def encode(message: SignedMessage) -> bytes:
    """Canonical JSON bytes of a message.

    Raises:
        OurMistake: the message would not be accepted by its own parser.
    """
    data = canonical.encode(message.model_dump(mode="json"))
    try:
        normal = type(message).model_validate_json(data)
        data = canonical.encode(normal.model_dump(mode="json"))
    except (ValidationError, FedprintError) as error:
        raise OurMistake(f"This {message.kind} is not a legal message.") from error
    if len(data) + SIGNATURE_BYTES > MAX_HEADER_BYTES:
        raise OurMistake(f"This {message.kind} is too long.")
    return data


def seal(message: SignedMessage, key: Ed25519PrivateKey) -> bytes:
    """Header bytes: signature over (kind, canonical JSON), then the canonical JSON."""
    data = encode(message)
    return signing.sign(key, message.kind, data) + data


def header_digest(header: bytes) -> str:
    """SHA-256 of a header as it travelled; a reply names its request by it."""
    return canonical.digest(header)


def kind_of(model: type[SignedMessage]) -> str:
    """The type tag of a message class."""
    return str(model.model_fields["kind"].default)


def software() -> str:
    """Name and version of this installation, as messages carry it."""
    return f"fedprint {metadata.version('fedprint')}"
