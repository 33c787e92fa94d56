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

The messages of trips 2 and 3, of epochs and of the closing exchange are in `protocol_sum`.

    header = seal(message, key)
    request = open_train_request(header, run_key)          # node
    answer = open_answer(header, identity_key, site=...)   # coordinator: TrainReply | Refusal
    check_body(request.body_digest, body, site=...)

Open functions raise `PeerFault(site=...)` for anything that is not such a message, and of these
`OtherVersion` for one that is signed as it should be and of another protocol version. The envelope
is the same in all versions: signature, canonical JSON with `kind`, `version`, in requests
`software`, in refusals `reason`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from shared_model import canonical, signing
from shared_model.config import (
    FIRST_TRAINABLE,
    LocalTraining,
    PrivacyPlan,
    ServerMoments,
    StepName,
)
from shared_model.enrolment import SiteName
from shared_model.errors import FedprintError, OurMistake, PeerFault, Refused
from shared_model.ledger import MAX_LINE_BYTES, LedgerHead

if TYPE_CHECKING:
    from shared_model.server_optimisers import FedAdam, FedAvg

Version = Literal[3, 4, 5]
VERSION: Version = 5
"""The contract between installations: `version` of every message. See docs/adr/0023."""
OLDEST: Version = 3
"""Is read, too. A message carries the lowest version that has all of its fields: runs that use
nothing newer are the same bytes in all versions since. 4: server moments, proximal weight. 5: what
is trained is "norms", "bottleneck" or "adapters"."""
SPOKEN = ", ".join(str(one) for one in range(OLDEST, VERSION + 1))
SPOKEN = " and ".join(SPOKEN.rsplit(", ", 1))
MAX_VERSION = 1_000_000
_PRINTABLE = re.compile(r"[ -~]+")
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

RunId = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RoundNumber = Annotated[int, Field(ge=1, le=1_000_000)]
Patients = Annotated[int, Field(ge=1, le=100_000_000)]
Weight = Annotated[int, Field(ge=1, le=MAX_WEIGHT)]
ShortText = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[ -~]+$")]

PresetName = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$")]

RefusalReason = Literal[
    "signature",  # not signed by the pinned run key, or not a message at all
    "version",  # another protocol or package version
    "roster",  # this site is not asked, or its declared number of patients is another one
    "contributors",  # fewer participants or a lower minimum than the node's policy asks for
    "secure-sum",  # masks off, other sum parameters than this node computes, or a sum gone wrong
    "threshold",  # too few hospitals, too low a threshold or collusion bound
    "roster-approval",  # the node's operator has not approved this roster
    "run-approval",  # the node's operator has not approved this run's plan, or not so many rounds
    "ledger",  # a privacy ledger, this site's or a peer's, is not the one that was seen before
    "epoch",  # no key of this epoch here: a new epoch is needed
    "late",  # a later step of this run was taken already
    "policy",  # the plan crosses another limit of the node's policy
    "model",  # unknown preset, another configuration, weights that do not fit or are far too large
    "budget",  # the round would cross the privacy budget
    "conflict",  # another request for this round was answered already, or the round is past
    "interrupted",  # this request was begun, not finished, and cannot be taken up again
    "not-ready",  # the node has nothing to train on
    "internal",  # a fault at the node; its operator reads why in the node's own log
]

Phase = Literal[
    "waiting", "keying", "preparing", "submit", "agree", "open", "aggregating", "finished", "paused"
]
_SUBMIT: frozenset[Phase] = frozenset({"submit", "agree", "aggregating", "waiting", "paused"})
_AGREE: frozenset[Phase] = frozenset({"agree", "open", "waiting", "paused"})
_OPEN: frozenset[Phase] = frozenset({"open", "waiting", "paused"})
_KEYING: frozenset[Phase] = frozenset({"keying", "waiting"})
TRANSITIONS: Mapping[Phase, Mapping[str, frozenset[Phase]]] = {
    "waiting": {
        "SitesSeen": frozenset({"waiting", "keying", "preparing", "paused"}),
    },
    "keying": {
        "KeyArrived": _KEYING,
        "RefusalArrived": _KEYING,
        "FaultyReply": _KEYING,
        "SiteLost": _KEYING,
        "DeadlinePassed": _KEYING,
    },
    "preparing": {
        "RoundOpened": frozenset({"submit", "agree"}),
    },
    "submit": {
        "ReplyArrived": _SUBMIT,
        "RefusalArrived": _SUBMIT,
        "FaultyReply": _SUBMIT,
        "SiteLost": _SUBMIT,
        "DeadlinePassed": _SUBMIT,
    },
    "agree": {
        "AgreementArrived": _AGREE,
        "RefusalArrived": _AGREE,
        "FaultyReply": _AGREE,
        "SiteLost": _AGREE,
        "DeadlinePassed": _AGREE,
    },
    "open": {
        "SharesArrived": frozenset({"open", "aggregating", "waiting", "paused"}),
        "AgreementArrived": _OPEN,
        "RefusalArrived": _OPEN,
        "FaultyReply": _OPEN,
        "SiteLost": _OPEN,
        "DeadlinePassed": _OPEN,
    },
    "aggregating": {
        "Aggregated": frozenset({"waiting", "finished"}),
        "NotOpened": frozenset({"waiting", "paused"}),
    },
    "paused": {
        "Resumed": frozenset({"waiting"}),
    },
    "finished": {},
}
"""Legal transitions of a run: phase -> event -> phases it may lead to. Only rounds whose masks are
off (simulations) go from "submit" to "aggregating". Once a round is in "agree" it ends in an
aggregate or is closed for good; it never returns to "submit". A stored round whose survivors are
stored goes from "preparing" to "agree"; who agrees late, in "open", still opens. Messages that come
in a phase that does not list them change no phase; they are ignored or counted."""


class OtherVersion(PeerFault):
    """A message that is signed by who it should be, and is of another protocol version.

    version: of the message. software: what it names, "" if nothing (answers do not).
    """

    def __init__(self, version: int, software: str, *, site: str) -> None:
        theirs = f" ({software})" if software else ""
        super().__init__(
            f"{site.capitalize() if site == COORDINATOR else site} speaks protocol version "
            f"{version}{theirs}; this installation ({_ours()}) speaks {SPOKEN}.",
            site=site,
            do="Upgrade the older of the two; docs/upgrade.md says which versions talk.",
        )
        self.version = version
        self.software = software


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Training = Annotated[LocalTraining, PlainSerializer(LocalTraining.as_dict, return_type=dict)]
"""As `LocalTraining.as_dict` writes it: what a run does not use is not there."""


class _Sparse(_Strict):
    """What a run does not use is not written, so that runs without it have the bytes of version 3:
    fields of `_UNUSED` that are None."""

    @model_serializer(mode="wrap")
    def _written(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        value: dict[str, Any] = plain(self)
        return {
            name: value[name] for name in value if name not in _UNUSED or value[name] is not None
        }


_UNUSED = frozenset({"server_moments"})


class Participant(_Strict):
    """One site of a round, with the number of patients that it declared at enrolment."""

    site: SiteName
    declared_patients: Patients


class EpochKeyEntry(_Strict):
    """One site's X25519 key of the epoch, signed by its identity key (`protocol_sum.EpochKey`)."""

    site: SiteName
    public_key: Digest
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class SumPlan(_Strict):
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


class RunPlan(_Sparse):
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


class SignedMessage(_Strict):
    """Base of everything that is sealed; `kind` is the type tag under the signature."""

    kind: str


class RoundMessage(SignedMessage):
    """A message of one round of one run."""

    version: Version = 3
    run: RunId
    round: RoundNumber

    @model_validator(mode="after")
    def _of_its_version(self) -> Self:
        if self.version != self.lowest_version:
            raise ValueError("a message is of the lowest version that has its fields")
        return self

    @property
    def lowest_version(self) -> Version:
        """The first protocol version that has all fields that are used here."""
        return OLDEST


class TrainRequest(RoundMessage, _Sparse):
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


class PrivacyStatement(_Strict):
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


_M = TypeVar("_M", bound=SignedMessage)


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


def open_train_request(header: bytes, run_key: bytes) -> TrainRequest:
    """The coordinator's request, verified against the pinned run key.

    Raises:
        PeerFault: of site "coordinator": oversize, wrong signature, unknown field, wrong type,
            out of bounds, or not in canonical form.
    """
    return open_signed(header, run_key, TrainRequest, site=COORDINATOR)


def open_answer(header: bytes, identity_key: bytes, *, site: str) -> TrainReply | Refusal:
    """A site's answer to a `TrainRequest`, verified against its identity key of the roster.

    Raises:
        PeerFault: as for requests, and when the answer names another site.
    """
    return open_answer_of(header, identity_key, TrainReply, site=site)


def open_signed(header: bytes, public_key: bytes, model: type[_M], *, site: str) -> _M:
    """A message of this one kind, signed by this key.

    Raises:
        PeerFault: of `site`: oversize, wrong signature or kind, unknown field, wrong type, out of
            bounds, or not in canonical form.
    """
    _bounded(header, site)
    _verified(header, public_key, kind_of(model), site)
    return _parsed(model, header[SIGNATURE_BYTES:], site)


def open_answer_of(
    header: bytes, identity_key: bytes, model: type[_M], *, site: str
) -> _M | Refusal:
    """A site's answer of this kind, or its refusal.

    Raises:
        PeerFault: as `open_signed`, and when the answer names another site.
    """
    _bounded(header, site)
    answer: _M | Refusal
    if is_signed(header, identity_key, kind_of(model)):
        answer = open_signed(header, identity_key, model, site=site)
    elif is_signed(header, identity_key, "refusal"):
        answer = open_signed(header, identity_key, Refusal, site=site)
    else:
        raise PeerFault(f"The answer of {site} has no valid signature.", site=site, do=_KEY_HINT)
    if getattr(answer, "site", None) != site:
        raise PeerFault(f"An answer of {site} names another site.", site=site)
    return answer


def kind_of(model: type[SignedMessage]) -> str:
    """The type tag of a message class."""
    return str(model.model_fields["kind"].default)


_KEY_HINT = "Compare the key digest with the one that was enrolled; enrol again if it changed."


def check_body(expected_digest: str, body: bytes, *, site: str) -> None:
    """The body must be the one that the signed header commits to.

    Raises:
        PeerFault: oversize, or another SHA-256.
    """
    if len(body) > MAX_BODY_BYTES:
        raise PeerFault(f"The body of {site} is longer than allowed.", site=site)
    if canonical.digest(body) != expected_digest:
        raise PeerFault(f"The body of {site} is not the one its header signs.", site=site)


def is_signed(header: bytes, public_key: bytes, kind: str) -> bool:
    """Whether the header is of this kind and signed by this key, legal message or not."""
    try:
        _bounded(header, COORDINATOR)
        _verified(header, public_key, kind, COORDINATOR)
    except PeerFault:
        return False
    return True


def _other_version(model: type[SignedMessage], data: bytes, site: str) -> OtherVersion | None:
    """Whether a signed message that is not legal is one of another protocol version.

    For that every version has `version` in its JSON, and requests have `software`.
    """
    if "version" not in model.model_fields:
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    version, named = value.get("version"), value.get("software")
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        return None
    if OLDEST <= version <= VERSION:
        return None
    if not isinstance(named, str) or len(named) > 64 or not _PRINTABLE.fullmatch(named):
        named = ""
    return OtherVersion(version, named, site=site)


def _ours() -> str:
    try:
        return software()
    except metadata.PackageNotFoundError:
        return "fedprint"


def software() -> str:
    """Name and version of this installation, as messages carry it."""
    return f"fedprint {metadata.version('fedprint')}"


def readable(header: bytes) -> dict[str, Any]:
    """The JSON of a header **without** verifying anything: for display only.

    Raises:
        OurMistake: not a header.
    """
    try:
        value = json.loads(header[SIGNATURE_BYTES:])
    except (ValueError, RecursionError) as error:
        raise OurMistake("This is not a message header.") from error
    if not isinstance(value, dict):
        raise OurMistake("This is not a message header.")
    return value


def _bounded(header: bytes, site: str) -> None:
    if not SIGNATURE_BYTES < len(header) <= MAX_HEADER_BYTES:
        raise PeerFault(f"A message of {site} has a length that no message has.", site=site)


def _verified(header: bytes, public_key: bytes, kind: str, site: str) -> None:
    try:
        signing.verify(public_key, kind, header[SIGNATURE_BYTES:], header[:SIGNATURE_BYTES])
    except Refused as error:
        raise PeerFault(
            f"A message of {site} has no valid signature.", site=site, do=_KEY_HINT
        ) from error


def _parsed(model: type[_M], data: bytes, site: str) -> _M:
    try:
        message = model.model_validate_json(data)
        again = canonical.encode(message.model_dump(mode="json"))
    except (ValidationError, FedprintError, ValueError, RecursionError) as error:
        other = _other_version(model, data, site)
        if other is not None:
            raise other from None
        # The cause names fields of the peer's making; it stays in the chain, not in the message.
        raise PeerFault(f"A signed message of {site} is not a legal message.", site=site) from error
    if again != data:
        raise PeerFault(f"A signed message of {site} is not in canonical form.", site=site)
    return message
