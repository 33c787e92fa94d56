"""What is kept of a run, as it stands in its folder. Strict; times in seconds since 1970, UTC.

Signed headers are kept verbatim (base64) so that the release and an auditor can verify them again
with `protocol_open.open_train_request` and `protocol_open.open_answer`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.run_config import RunConfig
from shared_model.config import ModelConfig
from shared_model.enrolment import SiteName
from shared_model.errors import OurMistake
from shared_model.protocol import Digest, PrivacyStatement
from shared_model.protocol_base import RoundNumber
from shared_model.protocol_words import RefusalReason
from shared_model.release import ModelParts
from shared_model.roster import Roster, SignedRoster, open_signed

Base64 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/=]*$")]
Absence = Literal["refused", "faulty", "lost", "silent", "unused"]
RESTORE = "Restore the run's folder from a backup, or begin a new run from its last release."


def as_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise OurMistake("A stored header is not base64.", do=RESTORE) from error


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ContributorRecord(_Record):
    """A submission that is in the sum. `header`: the signed header verbatim, base64."""

    site: SiteName
    header: Base64
    body_digest: Digest
    weight: int
    noise: str
    private: bool
    privacy: PrivacyStatement

    @property
    def header_bytes(self) -> bytes:
        return from_base64(self.header)


class AbsentRecord(_Record):
    """A participant that is not in the sum, and why.

    What it signed is kept: a refusal, or the submission to a round that closed ("unused").
    """

    site: SiteName
    ending: Absence
    reason: RefusalReason | None = None
    header: Base64 = ""

    @property
    def header_bytes(self) -> bytes:
        return from_base64(self.header)


class IncidentRecord(_Record):
    """A message that a correct site would not have sent.

    about: the dealer whose shares `site` says that it cannot use. One of the two is wrong; which,
    only they know, so that such a record is counted against neither.
    """

    site: str
    reason: str
    about: str = ""


class RefusedKey(_Record):
    """A site that gave no key for an epoch because its privacy budget holds for no further round.

    after: number of the last round before. header: its signed refusal, base64.
    """

    site: SiteName
    after: int
    header: Base64


class TurnedAway(_Record):
    """A site that cannot take part with this coordinator's software until somebody acts.

    reason: "bundle": it refuses the coordinator's Flower bundle; "version": it speaks protocol
    version `speaks` (None: it only said that ours is not its own). after: round before.
    """

    site: SiteName
    after: int
    reason: Literal["bundle", "version"]
    speaks: int | None = None


class LateRecord(_Record):
    """A submission that came after its round had stopped to wait for it: void, and paid for.

    header: the signed header verbatim, base64. at: when it came.
    """

    site: SiteName
    round: RoundNumber
    at: float
    header: Base64


class RoundRecord(_Record):
    """One round that has ended. Submissions to a closed round are listed; they were not opened.

    parts: of the model after an aggregated round whose server step has a state.
    transcript: "" if the coordinator could not go on with a stored round. survivors: whose
    submissions are in the sum, or would have been; empty if the round closed before that was
    decided. sum_digest: SHA-256 of `sums/NNNN.sum`, "" of a closed round. agreements: signed
    headers, by site. barred: whose shares did not add up, or opened for too few; not asked again
    until the operator resumes the run.
    """

    round: RoundNumber
    outcome: Literal["aggregated", "closed"]
    reason: str = ""
    model_in: Digest
    model_out: Digest
    parts: ModelParts | None = None
    participants: tuple[SiteName, ...]
    request: Base64
    request_digest: Digest
    transcript: Digest | Literal[""]
    survivors: tuple[SiteName, ...]
    sum_digest: Digest | Literal[""]
    agreements: Mapping[SiteName, Base64]
    contributors: tuple[ContributorRecord, ...]
    absent: tuple[AbsentRecord, ...]
    barred: tuple[SiteName, ...] = ()
    incidents: tuple[IncidentRecord, ...]
    opened_at: float
    ended_at: float

    @property
    def request_bytes(self) -> bytes:
        return from_base64(self.request)

    @property
    def dropped(self) -> tuple[str, ...]:
        """Participants that are not in the sum, sorted."""
        return tuple(site for site in self.participants if site not in set(self.survivors))


class ClosingRecord(_Record):
    """How far the verification of a published sum is (sums/NNNN.closing.json).

    answers: `CloseReply` headers by site; receipts: `SumReceipt` headers; refusals: `Refusal`
    headers of sites that did not find it right. state "verified": all survivors have answered,
    the equation holds, and `needed` of them have signed that they checked it.
    """

    round: RoundNumber
    state: Literal["unverified", "verified"] = "unverified"
    survivors: tuple[SiteName, ...]
    needed: int
    statement_digest: Digest | Literal[""]
    answers: Mapping[SiteName, Base64] = {}
    receipts: Mapping[SiteName, Base64] = {}
    refusals: Mapping[SiteName, Base64] = {}

    @property
    def in_words(self) -> str:
        """One short line for the operator."""
        if self.state == "verified":
            return f"verified by {len(self.receipts)} sites"
        if not self.statement_digest:
            return "unverified: masks were off"
        if len(self.answers) < len(self.survivors):
            return f"unverified: {len(self.answers)} of {len(self.survivors)} sites have answered"
        return f"unverified: {len(self.receipts)} of {self.needed} receipts"


class RunRecord(_Record):
    """Everything that is kept about a run.

    rosters: the signed rosters that it went over, by version; the last one counts. root_key: the
    consortium's key that signed them. refused_keys: the last one of each site. turned_away: until
    the site gives a legal answer. late: submissions that are in no sum, at most one of a site and
    round.
    """

    format: Literal[2] = 2
    run: str
    config: RunConfig
    model: ModelConfig
    root_key: Digest
    rosters: Annotated[tuple[Base64, ...], Field(min_length=1)]
    run_key: Digest
    software: str
    initial_model: Digest
    trainable: tuple[str, ...]
    starts: int
    state: Literal["running", "paused", "finished"] = "running"
    pause: str = ""
    resumed_after: int = 0
    rounds: tuple[RoundRecord, ...] = ()
    refused_keys: tuple[RefusedKey, ...] = ()
    turned_away: tuple[TurnedAway, ...] = ()
    late: tuple[LateRecord, ...] = ()

    @property
    def completed(self) -> int:
        return sum(item.outcome == "aggregated" for item in self.rounds)

    def refusing_key(self, site: str, header: bytes) -> tuple[RefusedKey, ...]:
        """`refused_keys` with this one."""
        after = self.rounds[-1].round if self.rounds else 0
        others = (one for one in self.refused_keys if one.site != site)
        return (*others, RefusedKey(site=site, after=after, header=as_base64(header)))

    def turning_away(
        self, site: str, reason: Literal["bundle", "version"] | None, speaks: int | None = None
    ) -> tuple[TurnedAway, ...]:
        """`turned_away` with this site for this reason, or without it (None)."""
        found = tuple(one for one in self.turned_away if one.site != site)
        if reason is None:
            return found
        after = self.rounds[-1].round if self.rounds else 0
        return (*found, TurnedAway(site=site, after=after, reason=reason, speaks=speaks))

    @property
    def model_digest(self) -> str:
        """Digest of the latest model, with the server step's state if it has one."""
        return self.rounds[-1].model_out if self.rounds else self.initial_model

    @property
    def weights_digest(self) -> str:
        """Digest of the latest model without the server step's state: what a release names."""
        for item in reversed(self.rounds):
            if item.outcome == "aggregated":
                return item.model_out if item.parts is None else item.parts.weights
        return self.initial_model

    @property
    def checkpoint_round(self) -> int:
        """Number of the last aggregated round, 0 before any."""
        return max((item.round for item in self.rounds if item.outcome == "aggregated"), default=0)

    @property
    def signed_rosters(self) -> tuple[SignedRoster, ...]:
        """The rosters by version, each verified against the root key."""
        return tuple(_opened(document, self.root_key) for document in self.rosters)

    @property
    def roster(self) -> Roster:
        """The roster that counts now."""
        return _opened(self.rosters[-1], self.root_key).roster

    def roster_named(self, digest: str) -> Roster:
        """The roster that a request of this run names.

        Raises:
            OurMistake: the run had no such roster.
        """
        for signed in self.signed_rosters:
            if signed.roster.digest == digest:
                return signed.roster
        raise OurMistake("The run had no roster of this digest.", do=RESTORE)


@lru_cache(maxsize=64)
def _opened(document: str, root_key: str) -> SignedRoster:
    return open_signed(from_base64(document), bytes.fromhex(root_key))


def check_lineage(record: RunRecord) -> None:
    """Rounds are numbered without gaps and each begins with the model that the last one left.

    Raises:
        OurMistake: they do not, or the versions of the rosters do not increase.
    """
    model, number = record.initial_model, 0
    for item in record.rounds:
        changed = item.model_out != item.model_in
        if item.round != number + 1 or item.model_in != model:
            raise OurMistake(f"The lineage breaks at round {item.round}.", do=RESTORE)
        if item.outcome == "closed" and changed:
            raise OurMistake(f"Round {item.round} was closed but changed the model.", do=RESTORE)
        if item.parts is not None and item.parts.joined != item.model_out:
            raise OurMistake(f"Round {item.round} names parts of another model.", do=RESTORE)
        model, number = item.model_out, item.round
    versions = [signed.roster.version for signed in record.signed_rosters]
    if versions != sorted(set(versions)):
        raise OurMistake("The versions of the run's rosters do not increase.", do=RESTORE)
