"""What lies on the coordinator's desk while a round is open, and the record that it becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from server.checkpoints import (
    AbsentRecord,
    ContributorRecord,
    IncidentRecord,
    RoundRecord,
    StoredReply,
    as_base64,
)
from server.rounds import Contribution, Ending
from shared_model import protocol
from shared_model.errors import OurMistake
from shared_model.protocol import Refusal, TrainReply, TrainRequest


@dataclass
class Desk:
    """One round's letters.

    asked: message id -> site. pushes: site -> how often sent. unsent: site -> since when the
    transport has not got its message through. skip: sites whose reply is stored already.
    """

    request: TrainRequest | None = None
    header: bytes = field(default=b"", repr=False)
    body: bytes = field(default=b"", repr=False)
    opened_at: float = 0.0
    asked: dict[str, str] = field(default_factory=dict)
    pushes: dict[str, int] = field(default_factory=dict)
    unsent: dict[str, float] = field(default_factory=dict)
    skip: set[str] = field(default_factory=set)
    replies: dict[str, StoredReply] = field(default_factory=dict, repr=False)
    answers: dict[str, tuple[TrainReply, bytes]] = field(default_factory=dict, repr=False)
    refusals: dict[str, tuple[Refusal, bytes]] = field(default_factory=dict, repr=False)
    incidents: list[IncidentRecord] = field(default_factory=list)

    @property
    def asked_for(self) -> TrainRequest:
        """The request of the open round."""
        if self.request is None:
            raise OurMistake("No round is open.")
        return self.request

    def record(
        self,
        outcome: Literal["aggregated", "closed"],
        contributions: Sequence[Contribution],
        ended: Mapping[str, Ending],
        *,
        reason: str,
        model_in: str,
        model_out: str,
        ended_at: float,
    ) -> RoundRecord:
        """The round as it is kept. Replies to a round that closed are listed as unused."""
        counted = {item.site for item in contributions if outcome == "aggregated"}
        return RoundRecord(
            round=self.asked_for.round,
            outcome=outcome,
            reason=reason,
            model_in=model_in,
            model_out=model_out,
            participants=self.asked_for.sites,
            request=as_base64(self.header),
            request_digest=protocol.header_digest(self.header),
            contributors=tuple(self._contributor(site) for site in sorted(counted)),
            absent=tuple(
                self._absent(site, ended) for site in self.asked_for.sites if site not in counted
            ),
            incidents=tuple(self.incidents),
            opened_at=self.opened_at,
            ended_at=ended_at,
        )

    def _contributor(self, site: str) -> ContributorRecord:
        answer, header = self.answers[site]
        return ContributorRecord(
            site=site,
            header=as_base64(header),
            update_digest=answer.update_digest,
            weight=answer.weight,
            noise=answer.noise,
            private=answer.private,
            privacy=answer.privacy,
        )

    def _absent(self, site: str, ended: Mapping[str, Ending]) -> AbsentRecord:
        if site not in ended:
            _, header = self.answers[site]
            return AbsentRecord(site=site, ending="unused", header=as_base64(header))
        if ended[site] == "refused" and site in self.refusals:
            refusal, header = self.refusals[site]
            return AbsentRecord(
                site=site, ending="refused", reason=refusal.reason, header=as_base64(header)
            )
        return AbsentRecord(site=site, ending=ended[site])


def abandoned(number: int, header: bytes, model: str, now: float) -> RoundRecord:
    """Record of a stored round that this version or this model cannot continue."""
    return RoundRecord(
        round=number,
        outcome="closed",
        reason="not-continued",
        model_in=model,
        model_out=model,
        participants=(),
        request=as_base64(header),
        request_digest=protocol.header_digest(header),
        contributors=(),
        absent=(),
        incidents=(),
        opened_at=now,
        ended_at=now,
    )
