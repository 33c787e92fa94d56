"""Hospitals whose ledgers, rosters and countersignatures are really signed; nobody trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared_model import canonical, ledger, ledger_cost, ledger_export, protocol, roster, signing
from shared_model import ledger_recovery as rules
from shared_model.config import PrivacyPlan
from shared_model.ledger import (
    Answered,
    Approved,
    Booked,
    Chain,
    Entry,
    HandedOver,
    LedgerHead,
    Opened,
    Recovered,
)
from shared_model.ledger_export import Export
from shared_model.protocol_sum import Agreement, AgreeRequest, agreed_digest
from shared_model.roster import Roster

PLAN = PrivacyPlan(0.1, 2.0, 1.0, 10)
DELTA = 1e-5
DECLARED = {"alpha": 1000, "beta": 260, "gamma": 500}
DAY = "2026-11-28"
START_S = 1_790_000_000


def key_of(name: str) -> Ed25519PrivateKey:
    """A fixed key for a name; tests only."""
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))


def public(name: str) -> bytes:
    return signing.public_bytes(key_of(name))


@dataclass(frozen=True)
class Card:
    site: str
    identity_key: str
    declared_patients: int


def roster_of(sites: Sequence[str], threshold: int, version: int = 1) -> Roster:
    return roster.draft(
        [Card(site, public(site).hex(), DECLARED[site]) for site in sites],
        version,
        threshold,
        valid_from="2026-01-01",
        valid_until="2126-01-01",
    )


def digest(*words: object) -> str:
    return canonical.digest_of([str(word) for word in words])


@dataclass
class Hospital:
    """One hospital's ledger and what it holds of others."""

    site: str
    chain: Chain
    witnessed: dict[str, LedgerHead] = field(default_factory=dict)
    rounds: list[tuple[str, int, bytes, Mapping[str, bytes]]] = field(default_factory=list)
    recoveries: list[bytes] = field(default_factory=list)
    signer: str = ""
    """Whose key signs now, if not the site's first."""

    @property
    def key(self) -> Ed25519PrivateKey:
        return key_of(self.signer or self.site)

    @property
    def head(self) -> LedgerHead:
        return ledger.sign_head(self.key, self.site, self.chain.length, self.chain.head)

    @property
    def lines(self) -> list[bytes]:
        return [link.line for link in self.chain.links]

    def append(self, entry: Entry) -> None:
        self.chain = self.chain.extended([ledger.seal(entry, self.key)])


@dataclass
class Consortium:
    """limits: epsilon for life and of a run that every hospital's policy has."""

    roster: Roster
    hospitals: dict[str, Hospital]
    limits: tuple[float, float] = (8.0, 4.0)
    clock_s: int = START_S
    bodies: dict[tuple[str, str, int], str] = field(default_factory=dict)
    documents: list[bytes] = field(default_factory=list)
    """Earlier rosters, signed."""

    def rotate(self, site: str, heir: str, entry: Entry | None = None) -> None:
        """Another key from now on, named by the next roster; entry: what says so, if another."""
        one = self.hospitals[site]
        old, one.signer = one.key, one.signer
        made = entry or HandedOver(
            site=site,
            sequence=one.chain.length + 1,
            previous_key=signing.public_bytes(old).hex(),
            identity_key=public(heir).hex(),
            time_s=self.tick(),
        )
        if entry is not None:
            one.signer = heir
        one.append(made)
        one.signer = heir
        self.documents.append(self.document())
        cards = [
            Card(name, signing.public_bytes(other.key).hex(), DECLARED[name])
            for name, other in sorted(self.hospitals.items())
        ]
        self.roster = roster.draft(
            cards,
            self.roster.version + 1,
            self.roster.threshold,
            valid_from="2026-01-01",
            valid_until="2126-01-01",
        )

    @classmethod
    def after(
        cls,
        *,
        rounds: int,
        run: str = "spring",
        plan: PrivacyPlan = PLAN,
        threshold: int = 2,
        limits: tuple[float, float] = (8.0, 4.0),
        sites: Sequence[str] = ("alpha", "beta", "gamma"),
    ) -> Consortium:
        """Ledgers opened, the run approved, and so many rounds of it."""
        made = cls(roster_of(sites, threshold), {}, limits)
        for site in sites:
            made.hospitals[site] = Hospital(site, Chain(site, public(site)))
            made.open(site)
        made.approve(run, bookings=max(1, rounds + 2), epsilon=limits[1])
        for number in range(1, rounds + 1):
            made.round(run, number, plan=plan)
        return made

    def tick(self) -> int:
        self.clock_s += 3600
        return self.clock_s

    def open(self, site: str) -> None:
        self.hospitals[site].append(
            Opened(
                site=site,
                sequence=1,
                ledger=digest(site)[:32],
                identity_key=public(site).hex(),
                delta=DELTA,
                software="fedprint test",
                time_s=self.tick(),
            )
        )

    def approve(self, run: str, *, bookings: int, epsilon: float = 4.0) -> None:
        for site, one in self.hospitals.items():
            one.append(
                Approved(
                    site=site,
                    sequence=one.chain.length + 1,
                    run=run,
                    plan_digest=digest("plan", run),
                    bookings=bookings,
                    epsilon_run=epsilon,
                    by="operator",
                    time_s=self.tick(),
                )
            )

    def draft(self, site: str, run: str, number: int, plan: PrivacyPlan = PLAN) -> Booked:
        """The booking of a round, with what it costs."""
        one = self.hospitals[site]
        shared = plan.mode == "distributed"
        bare = Booked(
            site=site,
            sequence=one.chain.length + 1,
            run=run,
            round=number,
            purpose="pretrain",
            mode=plan.mode,
            sample_rate=plan.sample_rate,
            noise_multiplier=plan.noise_multiplier,
            clipping_norm=plan.clipping_norm,
            steps=plan.steps,
            declared_patients=DECLARED[site],
            delta=DELTA,
            noise="ChaCha20 of the operating system",
            private=True,
            model_in=digest("model", run, number - 1),
            request_digest=digest("request", run, number),
            code_digest=digest("code"),
            roster_digest=self.roster.digest,
            transcript=digest("transcript", run, number),
            participants=len(self.roster.sites),
            threshold=self.roster.threshold,
            colluding_sites=self.roster.collusion_bound if shared else 0,
            minimum_contributors=2,
            dimension=1024 if shared else 0,
            limit_lifetime=self.limits[0],
            limit_run=self.limits[1],
            epsilon_lifetime=None,
            epsilon_run=None,
            outsider_epsilon_lifetime=None,
            time_s=self.tick(),
        )
        spent = one.chain.spent()
        life, _ = ledger_cost.epsilon(spent, DELTA, [bare])
        outsider, _ = ledger_cost.epsilon(spent, DELTA, [bare], colluding=0)
        of_run, _ = ledger_cost.epsilon(spent.of_run(run), DELTA, [bare])
        return bare.model_copy(
            update={
                "epsilon_lifetime": life,
                "outsider_epsilon_lifetime": outsider,
                "epsilon_run": of_run,
            }
        )

    def book(self, site: str, run: str, number: int, plan: PrivacyPlan = PLAN) -> None:
        self.hospitals[site].append(self.draft(site, run, number, plan))

    def answer(self, site: str, run: str, number: int) -> None:
        one = self.hospitals[site]
        booking = one.chain.booking(run, number)
        assert booking is not None
        body = self.bodies.get((site, run, number), digest("body", site, run, number))
        one.append(
            Answered(
                site=site,
                sequence=one.chain.length + 1,
                booking=booking.sequence,
                run=run,
                round=number,
                update_digest=body,
            )
        )

    def round(self, run: str, number: int, plan: PrivacyPlan = PLAN) -> None:
        """Booked, answered, agreed on by all, heads kept by all."""
        for site in self.hospitals:
            self.book(site, run, number, plan)
            self.answer(site, run, number)
        request, agreements = self.agreed(run, number)
        heads = {site: one.head for site, one in self.hospitals.items()}
        for site, one in self.hospitals.items():
            one.witnessed.update({name: head for name, head in heads.items() if name != site})
            one.rounds = [*one.rounds, (run, number, request, agreements)][-3:]

    def agreed(
        self, run: str, number: int, *, run_key: str = "run"
    ) -> tuple[bytes, dict[str, bytes]]:
        """The coordinator's request to agree, and what every hospital signs."""
        sites = tuple(sorted(self.hospitals))
        about = {"run": run, "round": number, "transcript": digest("transcript", run, number)}
        heads = tuple(self.hospitals[site].head for site in sites)
        submissions = tuple(digest("reply", site, run, number) for site in sites)
        request = AgreeRequest(
            **about,
            survivors=sites,
            submissions=submissions,
            heads=heads,
            body_digest=canonical.digest(b"{}"),
        )
        agreed = agreed_digest(sites, submissions, heads)
        agreements = {
            site: protocol.seal(
                Agreement(**about, site=site, agreed=agreed), self.hospitals[site].key
            )
            for site in sites
        }
        return protocol.seal(request, key_of(run_key)), agreements

    def recover(self, site: str, kept: int, *, charge: float | None = None) -> None:
        """Restored with the first `kept` entries: asks, is answered by all others, goes on.

        charge: for the rest, which is lost; None: all entries came back.
        """
        one = self.hospitals[site]
        held = {
            name: other.witnessed[site] for name, other in self.hospitals.items() if name != site
        }
        question = rules.Question(
            site=site,
            nonce=digest(self.tick())[:32],
            length=kept,
            head=one.chain.head_at(kept) or "",
        )
        answers = [
            rules.Answer(
                witness=name,
                subject=site,
                question=question.digest,
                nonce=question.nonce,
                held=head,
            )
            for name, head in held.items()
        ]
        evidence = rules.evidence(
            rules.seal(question, key_of(site)),
            [rules.seal(answer, key_of(answer.witness)) for answer in answers],
        )
        one.recoveries = [*one.recoveries, evidence]
        newest = max(held.values(), key=lambda head: head.length)
        if charge is not None:
            one.chain = Chain.verified(one.lines[:kept], public(site), site=site)
        one.append(
            Recovered(
                site=site,
                sequence=one.chain.length + 1 if charge is None else newest.length + 1,
                lost_from=0 if charge is None else kept + 1,
                lost_to=0 if charge is None else newest.length,
                previous=one.chain.head if charge is None else newest.head,
                epsilon_charged=charge,
                delta=DELTA,
                witnesses=tuple(sorted(held)),
                evidence_digest=canonical.digest(evidence),
                time_s=self.tick(),
            )
        )

    def document(self) -> bytes:
        return roster.sign(self.roster, key_of("root")).to_bytes()

    def export(self, site: str, **changes: object) -> Export:
        """What the hospital would write; changes: of `ledger_export.build`."""
        one = self.hospitals[site]
        values: dict[str, object] = {
            "site": site,
            "created": DAY,
            "software": "fedprint test",
            "code_digest": digest("code"),
            "lines": one.lines,
            "rosters": [*self.documents, self.document()],
            "witnessed": one.witnessed,
            "countersigned": one.rounds,
            "releases": [],
            "recoveries": one.recoveries,
        }
        return ledger_export.build(**{**values, **changes})  # type: ignore[arg-type]

    def file(self, site: str, *, signer: str | None = None, **changes: object) -> bytes:
        return ledger_export.seal(
            self.export(site, **changes),
            key_of(signer) if signer else self.hospitals[site].key,
        )

    def files(self) -> dict[str, bytes]:
        return {site: self.file(site) for site in self.hospitals}


def resigned(entries: Sequence[Entry], signer: str) -> list[bytes]:
    """Lines of these entries, numbered anew, all signed by one key: history written again."""
    return [
        ledger.seal(entry.model_copy(update={"sequence": number}), key_of(signer))
        for number, entry in enumerate(entries, start=1)
    ]
