"""Rounds of a run as the dashboard shows them: who was asked, who is in the sum, who is not.

Pure: records in, frozen views out. Times in seconds since 1970, UTC; sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from server.desk import NOT_CONTINUED
from server.progress import REFUSALS
from server.run_records import AbsentRecord, ClosingRecord, IncidentRecord, RoundRecord, RunRecord

CLOSED: Mapping[str, str] = {
    "too-few-contributors": "fewer hospitals submitted than are needed",
    "not-agreed": "too few hospitals signed the list of those in the sum",
    "not-opened": "what the hospitals opened was not enough to take the masks off",
    NOT_CONTINUED: "the coordinator could not go on with it after a start",
}
ABSENT: Mapping[str, str] = {
    "refused": "refused",
    "faulty": "sent something wrong",
    "lost": "was lost on the way",
    "silent": "did not answer before the deadline",
    "unused": "submitted, and was not opened",
}
STAGES: Mapping[str, str] = {
    "submit": "hospitals train and submit masked updates",
    "agree": "hospitals sign the list of those in the sum",
    "open": "hospitals open what takes the masks off the sum",
}


@dataclass(frozen=True)
class Absent:
    """A hospital that was asked and is not in the sum."""

    site: str
    ending: str
    words: str


@dataclass(frozen=True)
class Traffic:
    """received: what hospitals sent for the round, as it is stored; None: not stored any more.
    sent: the request and the model, once for each hospital that was asked."""

    received: int | None
    sent: int | None


@dataclass(frozen=True)
class Round:
    """One round that has ended.

    verified: in words; is_verified: enough hospitals signed that the sum is right. verified_by:
    those whose receipts are here. spent: lifetime epsilon that each contributor's reply states (its
    ledger's); None: infinite. late: whose submission came when nobody waited for it any more.
    moved, noise: see `server.curves`; None: not computed.
    """

    number: int
    aggregated: bool
    reason: str
    opened_s: float
    ended_s: float
    asked: tuple[str, ...]
    in_sum: tuple[str, ...]
    absent: tuple[Absent, ...]
    incidents: tuple[str, ...]
    verified: str
    is_verified: bool
    verified_by: tuple[str, ...]
    traffic: Traffic
    spent: tuple[tuple[str, float | None], ...] = ()
    late: tuple[str, ...] = ()
    moved: float | None = None
    noise: float | None = None

    @property
    def duration_s(self) -> float:
        return max(0.0, self.ended_s - self.opened_s)

    def mark(self, site: str) -> str:
        """One word for a cell: "in", why not, or "" if it was not asked."""
        if site in self.in_sum:
            return "in"
        if site in self.late:
            return "late"
        ended = next((one.ending for one in self.absent if one.site == site), None)
        return ended or ("out" if site in self.asked else "")

    def why(self, site: str) -> str:
        """Why a hospital that was asked is not in the sum; "" if it is."""
        if site in self.in_sum:
            return ""
        found = next((one.words for one in self.absent if one.site == site), None)
        words = found or self.reason
        void = "; its submission came too late and is void, and what it cost stays spent"
        return words + void if site in self.late else words

    def epsilon(self, site: str) -> float | None:
        """Lifetime epsilon that its reply states."""
        return dict(self.spent).get(site)

    def with_lengths(self, lengths: tuple[float, float] | None) -> Round:
        """The same with `moved` and `noise`."""
        return self if lengths is None else replace(self, moved=lengths[0], noise=lengths[1])


@dataclass(frozen=True)
class OpenNow:
    """The round that is open. stage: a key of `STAGES`; answered, awaited: in that stage."""

    number: int
    stage: str
    opened_s: float
    asked: tuple[str, ...]
    answered: tuple[str, ...]
    awaited: tuple[str, ...]
    survivors: tuple[str, ...]
    refused: tuple[Absent, ...]

    def age_s(self, now_s: float) -> float:
        """Since it was opened; a clock that was set back makes it no younger than new."""
        return max(0.0, now_s - self.opened_s)

    @property
    def words(self) -> str:
        return STAGES[self.stage]


def incident_words(item: IncidentRecord) -> str:
    """One message that a correct hospital would not have sent, in words."""
    if item.about:
        return (
            f"{item.site} says that it cannot use the shares of {item.about}; one of the two is "
            "wrong"
        )
    return f"{item.site}: {item.reason}"


def absent_words(item: AbsentRecord) -> str:
    """Why a hospital is not in the sum."""
    if item.ending == "refused" and item.reason is not None:
        return (
            f"refused ({item.reason}): it {REFUSALS[item.reason]}"
            if (item.reason in REFUSALS)
            else f"refused: {item.reason}"
        )
    return ABSENT[item.ending]


def round_view(
    item: RoundRecord,
    closing: ClosingRecord | None,
    traffic: Traffic,
    late: tuple[str, ...] = (),
) -> Round:
    """One round. closing: of an aggregated round; None if it cannot be read."""
    aggregated = item.outcome == "aggregated"
    verified = "cannot be read" if aggregated else ""
    if closing is not None:
        verified = closing.in_words
    return Round(
        number=item.round,
        aggregated=aggregated,
        reason="" if aggregated else CLOSED.get(item.reason, item.reason),
        opened_s=item.opened_at,
        ended_s=item.ended_at,
        asked=item.participants,
        in_sum=item.survivors if aggregated else (),
        absent=tuple(
            Absent(one.site, one.ending, absent_words(one))
            for one in sorted(item.absent, key=lambda one: one.site)
        ),
        incidents=tuple(incident_words(one) for one in item.incidents),
        verified=verified,
        is_verified=closing is not None and closing.state == "verified",
        verified_by=() if closing is None else tuple(sorted(closing.receipts)),
        traffic=traffic,
        late=late,
        spent=tuple((one.site, one.privacy.epsilon) for one in item.contributors),
    )


def presence_in_sums(record: RunRecord, site: str) -> tuple[int, int]:
    """Of how many aggregated rounds that asked this hospital it is in the sum: (in sum, asked)."""
    asked = [
        item for item in record.rounds if item.outcome == "aggregated" and site in item.participants
    ]
    return sum(site in item.survivors for item in asked), len(asked)
