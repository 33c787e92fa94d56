"""Messages of the secure sum beside trip 1: epochs, agree, open, closing exchange.

Same form as in `protocol`: signature and canonical JSON as header, bytes as body. What the bodies
hold is in docs/secure-sum-wire.md.

    coordinator -> node                         node -> coordinator
    EpochRequest   (body: signed roster)        EpochKey
    AgreeRequest   (body: links of ledgers)     Agreement
    OpenRequest    (body: sealed rows)          SharesReply (body: shares and pair seeds)
    CloseRequest   (body: statement)            CloseReply
    VerifyRequest  (body: sum and answers)      SumReceipt

Trip 1 is `TrainRequest` and `TrainReply`. Any of them may be answered by a `Refusal`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from shared_model import canonical
from shared_model.enrolment import SiteName
from shared_model.ledger import LedgerHead
from shared_model.protocol import (
    MAX_PARTICIPANTS,
    Digest,
    EpochKeyEntry,
    RunPlan,
    ShortText,
    encode,
)
from shared_model.protocol_base import RoundMessage, SignedMessage, Version

SUBSETS = 128
"""Random subsets of the coordinates that the closing exchange asks for."""

EpochNumber = Annotated[int, Field(ge=1, le=2**53)]
Sites = Annotated[tuple[SiteName, ...], Field(max_length=MAX_PARTICIPANTS)]
HexHeader = Annotated[str, Field(pattern=r"^(?:[0-9a-f]{2})+$", max_length=8192)]
Word = Annotated[int, Field(ge=0, lt=2**32)]
SubsetSums = Annotated[tuple[Word, ...], Field(min_length=SUBSETS, max_length=SUBSETS)]


def _sorted_once(sites: tuple[str, ...], what: str) -> None:
    if list(sites) != sorted(set(sites)):
        raise ValueError(f"{what} must be sorted by site, each once")


class EpochRequest(SignedMessage):
    """Make a new X25519 key for this epoch of this roster and erase the old one.

    Body: the signed roster's document. Epochs strictly increase at every node. plan: of the run
    that the epoch is for; the operator sees it before the first round.
    """

    kind: Literal["epoch-request"] = "epoch-request"
    version: Version = 3
    epoch: EpochNumber
    roster_digest: Digest
    body_digest: Digest
    plan: RunPlan
    software: ShortText

    @model_validator(mode="after")
    def _of_its_version(self) -> EpochRequest:
        if self.version != self.plan.lowest_version:
            raise ValueError("a message is of the lowest version that has its fields")
        return self


class EpochKey(SignedMessage):
    """A site's public key of an epoch; the signed statement that others verify."""

    kind: Literal["epoch-key"] = "epoch-key"
    version: Literal[3] = 3
    site: SiteName
    epoch: EpochNumber
    roster_digest: Digest
    public_key: Digest


class AgreeRequest(RoundMessage):
    """The survivors U: whose submissions will be in the sum.

    submissions: digests of the headers of their replies, in the order of U. heads: of their privacy
    ledgers, as those replies have them. Body: links that lead to these heads (`ledger_lines`).
    """

    kind: Literal["agree-request"] = "agree-request"
    transcript: Digest
    survivors: Annotated[Sites, Field(min_length=2)]
    submissions: Annotated[tuple[Digest, ...], Field(max_length=MAX_PARTICIPANTS)]
    heads: Annotated[tuple[LedgerHead, ...], Field(max_length=MAX_PARTICIPANTS)]
    body_digest: Digest

    @model_validator(mode="after")
    def _fits(self) -> AgreeRequest:
        _sorted_once(self.survivors, "survivors")
        if not len(self.submissions) == len(self.heads) == len(self.survivors):
            raise ValueError("every survivor has one submission and one head")
        return self


class Agreement(RoundMessage):
    """Signed once per (run, round). `agreed` is `agreed_digest` of U, its submissions and the heads
    of its ledgers, which this hospital keeps: it countersigns them."""

    kind: Literal["agreement"] = "agreement"
    site: SiteName
    transcript: Digest
    agreed: Digest


class OpenRequest(RoundMessage):
    """Agreements of t distinct survivors, and the sealed rows for this node.

    missing: survivors that do not answer any more; for them shares of their pair seeds with sites
    that are no survivors are asked for. agreements: headers, in the order of their sites.
    """

    kind: Literal["open-request"] = "open-request"
    transcript: Digest
    survivors: Annotated[Sites, Field(min_length=2)]
    submissions: Annotated[tuple[Digest, ...], Field(max_length=MAX_PARTICIPANTS)]
    missing: Sites
    signers: Annotated[Sites, Field(min_length=2)]
    agreements: Annotated[tuple[HexHeader, ...], Field(max_length=MAX_PARTICIPANTS)]
    body_digest: Digest

    @model_validator(mode="after")
    def _fits(self) -> OpenRequest:
        for sites, what in (
            (self.survivors, "survivors"),
            (self.missing, "missing"),
            (self.signers, "signers"),
        ):
            _sorted_once(sites, what)
        if len(self.submissions) != len(self.survivors):
            raise ValueError("every survivor has one submission")
        if len(self.signers) != len(self.agreements):
            raise ValueError("every signer has one agreement")
        if not set(self.missing) | set(self.signers) <= set(self.survivors):
            raise ValueError("who is missing or signs is a survivor")
        return self


class SharesReply(RoundMessage):
    """What this node opens. unreadable: rows that could not be opened (the coordinator or the
    dealer changed them); accused: dealers that sealed another share than they committed to."""

    kind: Literal["shares-reply"] = "shares-reply"
    site: SiteName
    transcript: Digest
    request_digest: Digest
    unreadable: Sites
    accused: Sites
    body_digest: Digest


class CloseRequest(RoundMessage):
    """The statement of the published sum (body); asks for the survivor's subset sums."""

    kind: Literal["close-request"] = "close-request"
    transcript: Digest
    statement_digest: Digest


class CloseReply(RoundMessage):
    """Sums mod 2^m of the submitted vector over the challenge's subsets; the site found its own
    submission and seeds in the statement to be its own."""

    kind: Literal["close-reply"] = "close-reply"
    site: SiteName
    transcript: Digest
    statement_digest: Digest
    sums: SubsetSums


class VerifyRequest(RoundMessage):
    """Statement, published sum and all survivors' `CloseReply`s (body): check them."""

    kind: Literal["verify-request"] = "verify-request"
    transcript: Digest
    statement_digest: Digest
    body_digest: Digest


class SumReceipt(RoundMessage):
    """This site has checked the published sum against all answers and found it right.

    model_out: digest of the model after the round, which this site has computed itself from the
    model that it was sent, the published sum and the signed request's server step.
    """

    kind: Literal["sum-receipt"] = "sum-receipt"
    site: SiteName
    transcript: Digest
    statement_digest: Digest
    model_out: Digest


class Statement(SignedMessage):
    """What the coordinator says it opened and summed; canonical JSON as a body, not signed by
    itself (the `CloseRequest` commits to its digest)."""

    kind: Literal["sum-statement"] = "sum-statement"
    version: Literal[3] = 3
    run: str
    round: int
    transcript: Digest
    participants: Sites
    survivors: Annotated[Sites, Field(min_length=2)]
    submissions: tuple[Digest, ...]
    modulus_bits: Annotated[int, Field(ge=9, le=32)]
    padded: Annotated[int, Field(ge=32, le=2**28)]
    sum_digest: Digest
    self_seeds: tuple[Digest, ...]
    pair_seeds: tuple[tuple[Digest, ...], ...]

    @model_validator(mode="after")
    def _fits(self) -> Statement:
        _sorted_once(self.participants, "participants")
        _sorted_once(self.survivors, "survivors")
        if not set(self.survivors) <= set(self.participants):
            raise ValueError("a survivor is a participant")
        if not len(self.submissions) == len(self.self_seeds) == len(self.survivors):
            raise ValueError("every survivor has one submission and one seed")
        dropped = len(self.participants) - len(self.survivors)
        rows = len(self.survivors) if dropped else 0
        if len(self.pair_seeds) != rows or any(len(row) != dropped for row in self.pair_seeds):
            raise ValueError("pair seeds are a row for each survivor, one for each dropped site")
        return self

    @property
    def dropped(self) -> tuple[str, ...]:
        """Participants that are not in the sum, sorted."""
        return tuple(site for site in self.participants if site not in set(self.survivors))


REQUESTS: tuple[type[SignedMessage], ...] = (
    EpochRequest,
    AgreeRequest,
    OpenRequest,
    CloseRequest,
    VerifyRequest,
)
"""What a coordinator sends beside `TrainRequest`."""


def agreed_digest(
    survivors: Sequence[str], submissions: Sequence[str], heads: Sequence[LedgerHead]
) -> str:
    """What an `Agreement` signs about U; submissions and ledger heads in its order."""
    ledgers = [[one.length, one.head] for one in heads]
    return canonical.digest_of(["agreed", list(survivors), list(submissions), ledgers])


def epoch_key_statement(entry: EpochKeyEntry, epoch: int, roster_digest: str) -> bytes:
    """The canonical JSON that the site signed, rebuilt from an entry of a `SumPlan`."""
    return encode(
        EpochKey(
            site=entry.site, epoch=epoch, roster_digest=roster_digest, public_key=entry.public_key
        )
    )
