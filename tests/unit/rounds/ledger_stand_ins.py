"""A real privacy ledger in memory: entries, chain, heads and refusals are those of `ledger`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared_model import canonical, ledger, signing
from shared_model.errors import BudgetExhausted, Refused
from shared_model.ledger import Answered, Booked, Chain, Incident, LedgerHead, Opened
from shared_model.noise import NoiseSource
from shared_model.protocol import LedgerNote, PrivacyStatement, RunPlan, TrainRequest
from shared_model.roster import Roster
from shared_model.secure_sum.numbers import padded_dimension
from shared_model.secure_sum.transcript import Transcript

DELTA = 1e-5


def key_of(name: str) -> Ed25519PrivateKey:
    """A fixed key for a name; tests only."""
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))


def opened(site: str, key: Ed25519PrivateKey, *, ledger_id: str = "ab" * 16) -> Chain:
    """A ledger with its first entry."""
    public = signing.public_bytes(key)
    first = Opened(
        site=site,
        sequence=1,
        ledger=ledger_id,
        identity_key=public.hex(),
        delta=DELTA,
        software="test",
        time_s=0,
    )
    return Chain(site, public).extended([ledger.seal(first, key)])


def booking(
    chain: Chain,
    request: TrainRequest,
    *,
    request_digest: str,
    transcript: str,
    epsilon: float | None,
    noise: str,
    declared_patients: int,
    **changes: Any,
) -> Booked:
    """The entry that books this request next in the chain."""
    plan = request.privacy
    values: dict[str, Any] = {
        "site": chain.site,
        "sequence": chain.length + 1,
        "run": request.run,
        "round": request.round,
        "purpose": request.purpose,
        "mode": plan.mode,
        "sample_rate": plan.sample_rate,
        "noise_multiplier": plan.noise_multiplier,
        "clipping_norm": plan.clipping_norm,
        "steps": plan.steps,
        "declared_patients": declared_patients,
        "delta": DELTA,
        "noise": noise,
        "private": epsilon is not None,
        "model_in": request.model_digest,
        "request_digest": request_digest,
        "code_digest": request.code_digest,
        "roster_digest": request.sum.roster_digest,
        "transcript": transcript,
        "participants": len(request.participants),
        "threshold": request.sum.threshold,
        "colluding_sites": 0,
        "minimum_contributors": request.minimum_contributors,
        "dimension": 0 if plan.mode == "local" else padded_dimension(request.sum.dimension),
        "limit_lifetime": None,
        "limit_run": None,
        "epsilon_lifetime": epsilon,
        "epsilon_run": epsilon,
        "outsider_epsilon_lifetime": epsilon,
        "time_s": 0,
    }
    return Booked(**{**values, **changes})


def answering(chain: Chain, run: str, round: int, body_digest: str) -> Answered:
    """The entry that answers a booked round."""
    booked = chain.booking(run, round)
    assert booked is not None
    return Answered(
        site=chain.site,
        sequence=chain.length + 1,
        booking=booked.sequence,
        run=run,
        round=round,
        update_digest=body_digest,
    )


def head_of(chain: Chain, key: Ed25519PrivateKey) -> LedgerHead:
    return ledger.sign_head(key, chain.site, chain.length, chain.head)


def note_of(chain: Chain, key: Ed25519PrivateKey, since: int = 0) -> LedgerNote:
    """Signed head and the entries beyond `since`."""
    lines = tuple(link.line.decode("ascii") for link in chain.after(since))
    return LedgerNote(**head_of(chain, key).model_dump(), entries=lines)


def rebooked(
    note: LedgerNote,
    key: Ed25519PrivateKey,
    body_digest: str,
    before: str = ledger.NOTHING,
) -> LedgerNote:
    """As a site that lies about its body would write its last entry: it answers with this one."""
    lines = [line.encode("ascii") for line in note.entries]
    entry, _ = ledger.parse(lines[-1])
    assert isinstance(entry, Answered)
    answered = entry.model_copy(update={"update_digest": body_digest})
    earlier = [ledger.entry_digest(ledger.parse(line)[0]) for line in lines[:-1]]
    head = ledger.follows(before, [*earlier, ledger.entry_digest(answered)])
    made = ledger.sign_head(key, entry.site, note.length, head)
    line = ledger.seal(answered, key).decode("ascii")
    return LedgerNote(**made.model_dump(), entries=(*note.entries[:-1], line))


@dataclass
class FakeBooks:
    """`budget` rounds and no more. site: set by `make_node`."""

    budget: int = 1000
    site: str = ""
    _chain: Chain | None = None

    @property
    def key(self) -> Ed25519PrivateKey:
        return key_of(self.site)

    @property
    def chain(self) -> Chain:
        if self._chain is None:
            self._chain = opened(self.site, self.key)
        return self._chain

    @chain.setter
    def chain(self, chain: Chain) -> None:
        self._chain = chain

    @property
    def reserved(self) -> list[tuple[str, int]]:
        return [(item.run, item.round) for item in self.chain.bookings]

    @property
    def settled(self) -> dict[tuple[str, int], str]:
        entries = [link.entry for link in self.chain.links]
        return {(e.run, e.round): e.update_digest for e in entries if isinstance(e, Answered)}

    @property
    def incidents(self) -> list[tuple[str, int, str]]:
        entries = [link.entry for link in self.chain.links]
        return [(e.run, e.round, e.reason) for e in entries if isinstance(e, Incident)]

    def append(self, entry: Any) -> None:
        self.chain = self.chain.extended([ledger.seal(entry, self.key)])

    def check_own(self, head: LedgerHead | None) -> None:
        if head is None:
            return
        head.check(self.site, signing.public_bytes(self.key))
        if self.chain.head_at(head.length) != head.head:
            raise Refused("This ledger is not the one that was seen before.", reason="ledger")

    def reserve(
        self,
        request: TrainRequest,
        noise: NoiseSource,
        *,
        request_digest: str,
        roster: Roster,
        transcript: Transcript,
    ) -> PrivacyStatement:
        assert roster.digest == request.sum.roster_digest
        before = self.chain.booking(request.run, request.round)
        if before is not None:
            if before.request_digest != request_digest:
                raise Refused("Booked already.", reason="replay")
            return PrivacyStatement(epsilon=before.epsilon_lifetime, delta=DELTA)
        if len(self.reserved) >= self.budget:
            raise BudgetExhausted("No budget.")
        epsilon = 0.5 * (len(self.reserved) + 1) if noise.private else None
        self.append(
            booking(
                self.chain,
                request,
                request_digest=request_digest,
                transcript=transcript.digest.hex(),
                epsilon=epsilon,
                noise=noise.name,
                declared_patients=roster.entry(self.site).declared_patients,
            )
        )
        return PrivacyStatement(epsilon=epsilon, delta=DELTA)

    def booked(self, run: str, round: int) -> bool:
        return (run, round) in self.reserved

    def answer(self, run: str, round: int) -> str | None:
        return self.settled.get((run, round))

    def settle(self, run: str, round: int, body_digest: str) -> None:
        if (run, round) not in self.reserved:
            raise Refused("It is not booked.", reason="ledger")
        if (run, round) not in self.settled:
            self.append(answering(self.chain, run, round, body_digest))
        assert self.settled[run, round] == body_digest

    def note(self, since: int) -> LedgerNote:
        return note_of(self.chain, self.key, since)

    def incident(self, run: str, round: int, reason: str) -> None:
        if (run, round, reason) not in self.incidents:
            number = self.chain.length + 1
            self.append(
                Incident(site=self.site, sequence=number, run=run, round=round, reason=reason)
            )


@dataclass
class FakeWitness:
    """Keeps heads in memory, by the rules of `client.node_interfaces.Witness`."""

    heads: dict[str, LedgerHead] = field(default_factory=dict)
    kept: dict[tuple[str, int], tuple[bytes, dict[str, bytes]]] = field(default_factory=dict)

    def see(
        self,
        heads: Mapping[str, LedgerHead],
        links: Mapping[str, Sequence[str]],
        identity_keys: Mapping[str, bytes],
    ) -> None:
        for site, head in heads.items():
            try:
                head.check(site, identity_keys[site])
            except Refused as error:
                raise Refused(f"The head of {site} is not signed.", reason="ledger") from error
            held = self.heads.get(site)
            if held is None:
                continue
            new = head.length - held.length
            found = list(links.get(site, ()))
            if new < 0 or len(found) < new:
                raise Refused(f"The ledger of {site} is shorter than it was.", reason="ledger")
            if ledger.follows(held.head, found[len(found) - new :]) != head.head:
                raise Refused(f"The ledger of {site} is another one.", reason="ledger")
        self.heads.update(heads)

    def countersigned(
        self, run: str, round: int, agree_request: bytes, agreements: Mapping[str, bytes]
    ) -> None:
        self.kept[run, round] = (agree_request, dict(agreements))


@dataclass
class FakeApprovals:
    """The operator's yes to everything, unless `approved` says otherwise."""

    approved: bool = True
    asked: list[RunPlan] = field(default_factory=list)

    def check(self, plan: RunPlan, *, booked: bool = False) -> None:
        self.asked.append(plan)
        if not self.approved:
            raise Refused("It waits.", reason="run-approval")


CODE = canonical.digest(b"code")
