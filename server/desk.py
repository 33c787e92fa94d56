"""What lies on the coordinator's desk while a round is open, and the record that it becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from server.round_folder import RoundFolder, StoredReply
from server.rounds import Contribution, Ending
from server.run_records import (
    AbsentRecord,
    ContributorRecord,
    IncidentRecord,
    RoundRecord,
    RunRecord,
    as_base64,
)
from server.sum_desk import SumDesk
from shared_model import protocol, protocol_open
from shared_model.errors import OurMistake, PeerFault
from shared_model.protocol import Refusal, TrainReply, TrainRequest
from shared_model.release import ModelParts
from shared_model.roster import Roster

NOT_CONTINUED = "not-continued"
"""Reason of a round that the coordinator could not go on with after a start."""


Terms = tuple[str, float]
"""Name of the noise, and delta, of a reply."""


def terms_of(rounds: Sequence[RoundRecord]) -> dict[str, Terms]:
    """Noise and delta of each site's first reply in these rounds, also to rounds that closed."""
    found: dict[str, Terms] = {}
    for item in rounds:
        for one in item.contributors:
            found.setdefault(one.site, (one.noise, one.privacy.delta))
        for absent in item.absent:
            if absent.ending == "unused":
                said = protocol_open.readable(absent.header_bytes)
                found.setdefault(absent.site, (said["noise"], said["privacy"]["delta"]))
    return found


@dataclass
class Desk:
    """One round: its request as it was sent, what has come in trip 1, and `sum` for the rest.

    skip: after a restart, the sites of each trip whose answer is stored; they are not asked again.
    terms: noise and delta of each site's replies before, in this run. barred: whose shares or
    ledger did not fit.
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
    terms: Mapping[str, Terms] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of the request's header; replies name it."""
        return protocol.header_digest(self.header)

    def keep(self, site: str) -> None:
        """The submission counts: store it."""
        reply = self.replies.pop(site)
        self.sum.keep_ledger(self.answers[site][0])
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
        parts: ModelParts | None,
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
            parts=parts,
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


def abandoned(
    files: RoundFolder, record: RunRecord, header: bytes, run_key: bytes, now: float
) -> RoundRecord:
    """Record of a stored round that this version, model or roster cannot continue.

    Submissions that had come are listed as unused: they were paid for, and a release counts them.
    """
    model = record.model_digest
    try:
        request = protocol_open.open_train_request(header, run_key)
        paid = _paid(files, record.roster_named(request.sum.roster_digest), header)
    except (PeerFault, OurMistake):
        paid = ()
    return RoundRecord(
        round=files.number,
        outcome="closed",
        reason=NOT_CONTINUED,
        model_in=model,
        model_out=model,
        participants=tuple(item.site for item in paid),
        request=as_base64(header),
        request_digest=protocol.header_digest(header),
        transcript="",
        survivors=(),
        sum_digest="",
        agreements={},
        contributors=(),
        absent=paid,
        incidents=(),
        opened_at=now,
        ended_at=now,
    )


def _paid(files: RoundFolder, roster: Roster, request: bytes) -> tuple[AbsentRecord, ...]:
    """Whoever has submitted to this request, with what it signed."""
    found = []
    for site in files.submitted:
        try:
            said = files.submission_header(site)
            answer = protocol_open.open_answer(said, roster.entry(site).identity, site=site)
        except (PeerFault, OurMistake):
            continue
        if answer.request_digest == protocol.header_digest(request):
            found.append(AbsentRecord(site=site, ending="unused", header=as_base64(said)))
    return tuple(found)
