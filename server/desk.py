"""What lies on the coordinator's desk while a round is open, and the record that it becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from server.round_folder import StoredReply
from server.rounds import Contribution, Ending
from server.run_records import (
    AbsentRecord,
    ContributorRecord,
    IncidentRecord,
    RoundRecord,
    as_base64,
)
from server.sum_desk import SumDesk
from shared_model import protocol
from shared_model.protocol import Refusal, TrainReply, TrainRequest


@dataclass
class Desk:
    """One round: its request as it was sent, what has come in trip 1, and `sum` for the rest.

    skip: after a restart, the sites of each trip whose answer is stored; they are not asked again.
    """

    request: TrainRequest
    header: bytes = field(repr=False)
    body: bytes = field(repr=False)
    sum: SumDesk
    opened_at: float
    skip: Mapping[str, frozenset[str]] = field(default_factory=dict)
    replies: dict[str, StoredReply] = field(default_factory=dict, repr=False)
    answers: dict[str, tuple[TrainReply, bytes]] = field(default_factory=dict, repr=False)
    refusals: dict[str, tuple[Refusal, bytes]] = field(default_factory=dict, repr=False)
    incidents: list[IncidentRecord] = field(default_factory=list)
    barred: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Of the request's header; replies name it."""
        return protocol.header_digest(self.header)

    def keep(self, site: str) -> None:
        """The submission counts: store it."""
        reply = self.replies.pop(site)
        if site not in self.skip.get("submit", ()):
            self.sum.files.store_submission(reply)

    def record(
        self,
        outcome: Literal["aggregated", "closed"],
        contributions: Sequence[Contribution],
        ended: Mapping[str, Ending],
        *,
        reason: str,
        model_in: str,
        model_out: str,
        sum_digest: str,
        ended_at: float,
    ) -> RoundRecord:
        """The round as it is kept. Submissions to a round that closed are listed as unused."""
        counted = {item.site for item in contributions if outcome == "aggregated"}
        survivors = self.sum.survivors or tuple(sorted(counted))
        agreements = self.sum.agreements
        return RoundRecord(
            round=self.request.round,
            outcome=outcome,
            reason=reason,
            model_in=model_in,
            model_out=model_out,
            participants=self.request.sites,
            request=as_base64(self.header),
            request_digest=self.digest,
            transcript=self.sum.transcript.digest.hex(),
            survivors=survivors,
            sum_digest=sum_digest,
            agreements={site: as_base64(agreements[site]) for site in sorted(agreements)},
            contributors=tuple(self._contributor(site) for site in sorted(counted)),
            absent=tuple(
                self._absent(site, ended) for site in self.request.sites if site not in counted
            ),
            barred=self.barred,
            incidents=tuple(self.incidents),
            opened_at=self.opened_at,
            ended_at=ended_at,
        )

    def _contributor(self, site: str) -> ContributorRecord:
        answer, header = self.answers[site]
        return ContributorRecord(
            site=site,
            header=as_base64(header),
            body_digest=answer.body_digest,
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
        transcript="",
        survivors=(),
        sum_digest="",
        agreements={},
        contributors=(),
        absent=(),
        incidents=(),
        opened_at=now,
        ended_at=now,
    )
