"""What the dashboard shows, as frozen values. Pure: `dashboard_reads` brings the records.

No number is made here that is not in a record, a ledger or a certificate. Times in seconds since
1970, UTC; sizes in bytes.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from server.dashboard_rounds import OpenNow, Round, incident_words, presence_in_sums
from server.presence import Presence
from server.progress import PAUSES, spare, without_budget
from server.public_loss import PublicPoint
from server.run_records import RunRecord
from server.run_start import settings_of
from shared_model.enrolment import SiteCard
from shared_model.errors import FedprintError
from shared_model.ledger import Booked, Chain, Recovered
from shared_model.release import Manifest
from shared_model.release_words import statement_in_words
from shared_model.roster import Roster

DAY_S = 86_400.0
STALE_S = 30.0
"""What the run's process wrote longer ago than this says nothing about now."""


@dataclass(frozen=True)
class SitePrivacy:
    """What a hospital's own ledger says, for life. epsilon None: infinite, or unknown."""

    epsilon: float | None
    delta: float
    unit: str
    trust_model: str
    colluding_sites: int
    outsider_epsilon: float | None
    rounds: int
    run: str


@dataclass(frozen=True)
class Call:
    """The last call of a hospital at the registry."""

    at_s: float
    method: str
    outcome: str


@dataclass(frozen=True)
class Site:
    """One hospital. online: None: cannot be known now. certificate_s: when its last valid one ends;
    None: it has none. in_sums, asked: over all runs."""

    name: str
    declared: int | None
    enrolled: bool
    in_roster: bool
    waits: str
    key_words: str
    certificate_s: float | None
    online: bool | None
    seen_s: float | None
    away_since_s: float | None
    call: Call | None
    asked: int
    in_sums: int
    incidents: int
    privacy: SitePrivacy | None


@dataclass(frozen=True)
class Run:
    """One run with all its rounds. damaged: why it cannot be read, else "".

    do: the command that the operator types next, "" if there is none.
    """

    name: str
    state: str
    pause: str
    completed: int
    of: int
    sites: tuple[str, ...]
    needs: str
    plan: str
    trust_model: str
    preset: str
    starts: int
    model: str
    rounds: tuple[Round, ...] = ()
    open: OpenNow | None = None
    without_budget: tuple[str, ...] = ()
    incidents: tuple[tuple[str, int], ...] = ()
    accusations: tuple[tuple[str, int], ...] = ()
    public: tuple[PublicPoint, ...] = ()
    public_note: str = ""
    do: str = ""
    damaged: str = ""
    released: bool = False

    @property
    def unverified(self) -> tuple[Round, ...]:
        return tuple(one for one in self.rounds if one.aggregated and not one.is_verified)

    @property
    def closed(self) -> int:
        return sum(not one.aggregated for one in self.rounds)

    @property
    def received(self) -> int:
        return sum(one.traffic.received or 0 for one in self.rounds)

    @property
    def sent(self) -> int:
        return sum(one.traffic.sent or 0 for one in self.rounds)

    @property
    def span_s(self) -> float:
        """From the opening of the first round to the end of the last."""
        return self.rounds[-1].ended_s - self.rounds[0].opened_s if self.rounds else 0.0


@dataclass(frozen=True)
class Release:
    """One signed release, verified when it was read; damaged: why it is not, else ""."""

    number: int
    name: str
    created: str
    digest: str
    model: str
    runs: tuple[str, ...]
    contributors: tuple[str, ...]
    sums: int
    statements: tuple[str, ...]
    damaged: str = ""

    @property
    def created_s(self) -> float:
        """The end of the day on which it was made."""
        return day_s(self.created)


@dataclass(frozen=True)
class Incident:
    """Something that a person looks into."""

    run: str
    round: int
    at_s: float
    about: str
    words: str


@dataclass(frozen=True)
class Overview:
    """Everything at one moment. running: a run's process holds the coordinator's lock."""

    now_s: float
    address: str
    registry_address: str
    running: bool
    registry: bool
    service: bool
    roster_version: int | None
    roster_ends_s: float | None
    server_certificate_s: float | None
    gaps: tuple[str, ...]
    sites: tuple[Site, ...]
    runs: tuple[Run, ...]
    releases: tuple[Release, ...]
    incidents: tuple[Incident, ...]
    refused_calls: tuple[tuple[str, str, int], ...]
    damaged: tuple[str, ...] = field(default=())

    def run(self, name: str) -> Run | None:
        return next((one for one in self.runs if one.name == name), None)

    @property
    def current(self) -> Run | None:
        """The run that goes on, or waits."""
        return next((one for one in self.runs if one.state in ("running", "paused")), None)


# ------------------------------------------------------------------ makers


def state_words(record: RunRecord) -> str:
    """Why a run waits, in words."""
    if record.state != "paused":
        return ""
    return PAUSES.get(record.pause, record.pause or "it was interrupted")


def run_view(
    record: RunRecord,
    rounds: tuple[Round, ...],
    open_now: OpenNow | None,
    public: tuple[PublicPoint, ...],
    public_note: str,
    *,
    running: bool,
    service: bool,
    released: frozenset[str],
) -> Run:
    """A run; `released`: digests of released models."""
    roster, config = record.roster, record.config
    try:
        needs = spare(len(roster.sites), settings_of(config, roster).needed)
    except FedprintError as error:
        needs = error.message
    plan = config.privacy
    is_released = record.weights_digest in released and record.completed > 0
    made = Run(
        name=record.run,
        state=record.state,
        pause=state_words(record),
        completed=record.completed,
        of=config.rounds,
        sites=roster.names,
        needs=needs,
        plan=f"q {plan.sample_rate:g}, noise multiplier {plan.noise_multiplier:g}, clipping norm "
        f"{plan.clipping_norm:g}, {plan.steps} steps a round{config.step_words}",
        trust_model=plan.mode,
        preset=record.model.preset,
        starts=record.starts,
        model=record.model_digest,
        rounds=rounds,
        open=open_now,
        without_budget=tuple(without_budget(record)),
        incidents=_counted(
            one.site for item in record.rounds for one in item.incidents if not one.about
        ),
        accusations=_counted(
            incident_words(one) for item in record.rounds for one in item.incidents if one.about
        ),
        public=public,
        public_note=public_note,
        released=is_released,
    )
    return replace(made, do=next_command(made, running=running, service=service))


def next_command(run: Run, *, running: bool, service: bool) -> str:
    """What the operator types next about this run; "": nothing."""
    if run.state == "paused":
        return (
            f"fedprint-coordinator resume {run.name}"
            if service
            else f"fedprint-coordinator start --run {run.name} --resume"
        )
    if run.state == "running":
        return "" if running else "fedprint-coordinator serve"
    if run.unverified:
        return (
            f"fedprint-coordinator resume {run.name}"
            if service
            else f"fedprint-coordinator start --run {run.name}"
        )
    return "" if run.released else f"fedprint-coordinator release {run.name}"


def privacy_of(chain: Chain) -> SitePrivacy | None:
    """What a ledger says: its last booking, and what was charged for lost entries since.

    None before the first booking or charge. At (losses + 1) x delta (`shared_model.ledger.Spent`).
    """
    last = chain.last_booking
    since = 0 if last is None else last.sequence
    lost = [one for one in chain.entries(Recovered) if one.sequence > since]
    if last is None and not lost:
        return None
    charges = [entry.epsilon_charged for entry in lost]
    parts = [0.0 if last is None else (last.epsilon_lifetime if last.private else None), *charges]
    return SitePrivacy(
        epsilon=None if None in parts else sum(part for part in parts if part is not None),
        delta=(chain.spent().losses + 1) * (chain.delta or 0.0),
        unit=chain.opened.unit,
        trust_model="" if last is None else last.mode,
        colluding_sites=0 if last is None else last.colluding_sites,
        outsider_epsilon=last.outsider_epsilon_lifetime if last and last.private else None,
        rounds=chain.count(Booked),
        run="" if last is None else last.run,
    )


def site_views(
    cards: Mapping[str, SiteCard],
    roster: Roster | None,
    waits: Mapping[str, str],
    certificates: Mapping[str, float],
    presence: Presence | None,
    calls: Mapping[str, Call],
    records: Iterable[RunRecord],
    privacy: Mapping[str, SitePrivacy | None],
    *,
    running: bool,
    now_s: float,
) -> tuple[Site, ...]:
    """Every hospital that is enrolled, in the roster, waits, or has a ledger here; by name.

    Args:
        waits: what waits for the operator, in words. certificates: when the last valid one ends.
    """
    signed = {entry.site: entry for entry in roster.sites} if roster is not None else {}
    kept = list(records)
    seen = {one.site: one for one in presence.sites} if presence is not None else {}
    fresh = running and presence is not None and now_s - presence.written_s <= STALE_S
    wrong = Counter(
        one.site
        for record in kept
        for item in record.rounds
        for one in item.incidents
        if not one.about
    )
    made = []
    for name in sorted({*cards, *signed, *waits, *privacy}):
        card, entry, last = cards.get(name), signed.get(name), seen.get(name)
        counts = [presence_in_sums(record, name) for record in kept]
        known = card or entry
        made.append(
            Site(
                name=name,
                declared=None if known is None else known.declared_patients,
                enrolled=card is not None,
                in_roster=entry is not None,
                waits=waits.get(name, ""),
                key_words="" if card is None else card.words_key,
                certificate_s=certificates.get(name),
                online=(last is not None and last.away_since_s is None) if fresh and card else None,
                seen_s=None if last is None else last.seen_s,
                away_since_s=last.away_since_s if fresh and last is not None else None,
                call=calls.get(name),
                asked=sum(asked for _, asked in counts),
                in_sums=sum(inside for inside, _ in counts),
                incidents=wrong[name],
                privacy=privacy.get(name),
            )
        )
    return tuple(made)


def incident_views(records: Iterable[RunRecord]) -> tuple[Incident, ...]:
    """All incidents and accusations, the latest first."""
    found = [
        Incident(record.run, item.round, item.ended_at, one.about or one.site, incident_words(one))
        for record in records
        for item in record.rounds
        for one in item.incidents
    ]
    return tuple(sorted(found, key=lambda one: (-one.at_s, one.run, -one.round)))


def release_view(manifest: Manifest) -> Release:
    """A release whose signature and evidence were verified."""
    rounds = manifest.lineage.rounds
    return Release(
        number=manifest.number,
        name=manifest.name,
        created=manifest.created,
        digest=manifest.digest,
        model=manifest.model_digest,
        runs=manifest.lineage.runs,
        contributors=tuple(one.site for one in manifest.privacy),
        sums=sum(one.sum is not None for one in rounds),
        statements=tuple(statement_in_words(one) for one in manifest.privacy),
    )


def day_s(day: str) -> float:
    """The end of a day (YYYY-MM-DD, UTC) in seconds since 1970."""
    date = datetime.date.fromisoformat(day) + datetime.timedelta(days=1)
    return datetime.datetime(date.year, date.month, date.day, tzinfo=datetime.UTC).timestamp()


def _counted(words: Iterable[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(Counter(words).items()))
