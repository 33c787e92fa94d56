"""This hospital's privacy ledger as a round uses it: opened anew for each message, under the
policy's budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.home import NodeHome
from client.ledger_file import RECOVER, refuse
from client.ledger_peers import Countersigned
from client.ledger_store import Budget, LedgerStore
from client.policy import installed_code
from client.rest import check_awake
from shared_model.errors import Refused
from shared_model.ledger import MAX_LINE_BYTES, Booked, Chain, LedgerHead, Spent
from shared_model.noise import NoiseSource
from shared_model.protocol import (
    MAX_NOTE_CHARACTERS,
    MAX_NOTE_ENTRIES,
    LedgerNote,
    PrivacyStatement,
    TrainRequest,
)
from shared_model.roster import Roster

if TYPE_CHECKING:
    from shared_model.secure_sum.transcript import Transcript

ENTRIES_OF_A_ROUND = 8
"""Room in a `LedgerNote` for the first entry, `booked`, `answered`, and what comes between."""


@dataclass(frozen=True)
class HospitalLedger:
    """The ledger in this node's folder, opened anew for each message."""

    home: NodeHome
    site: str
    identity_key: Ed25519PrivateKey = field(repr=False)

    def open(self) -> LedgerStore:
        """Raises `LedgerFault`."""
        return LedgerStore.open(self.home, self.site, self.identity_key)


@dataclass(frozen=True)
class HospitalBooks:
    """The ledger of this node under its policy's budget; see `client.node_interfaces.Books`."""

    ledger: HospitalLedger
    budget: Budget
    declared_patients: int

    def check_own(self, head: LedgerHead | None) -> None:
        """See `client.node_interfaces.Books`."""
        with self.ledger.open() as store:
            if head is not None:
                _check_contained(store.chain, head)
            count, size = store.chain.size_after(0 if head is None else head.length)
        room = MAX_NOTE_CHARACTERS - ENTRIES_OF_A_ROUND * MAX_LINE_BYTES
        if count > MAX_NOTE_ENTRIES - ENTRIES_OF_A_ROUND or size > room:
            raise Refused(
                f"The coordinator lacks {count} entries of this ledger, more than one answer "
                "carries.",
                reason="ledger",
                do="Run: fedprint-node ledger export -o ledger.json, and send it to the operator.",
            )

    def reserve(
        self,
        request: TrainRequest,
        noise: NoiseSource,
        *,
        request_digest: str,
        roster: Roster,
        transcript: Transcript,
    ) -> PrivacyStatement:
        """See `client.node_interfaces.Books`; raises also what `LedgerStore.reserve` raises."""
        plan = request.privacy
        shared = plan.mode != "local"
        draft = Booked(
            site=self.ledger.site,
            sequence=1,
            run=request.run,
            round=request.round,
            purpose=request.purpose,
            mode=plan.mode,
            sample_rate=float(plan.sample_rate),
            noise_multiplier=float(plan.noise_multiplier),
            clipping_norm=float(plan.clipping_norm),
            steps=plan.steps,
            declared_patients=self.declared_patients,
            delta=self.budget.delta,
            noise=noise.name,
            private=noise.private,
            model_in=request.model_digest,
            request_digest=request_digest,
            code_digest=installed_code(),
            roster_digest=roster.digest,
            transcript=transcript.digest.hex(),
            participants=len(request.participants),
            threshold=roster.threshold,
            colluding_sites=roster.collusion_bound if shared else 0,
            minimum_contributors=request.minimum_contributors,
            dimension=transcript.numbers.padded if shared else 0,
            limit_lifetime=None,
            limit_run=None,
            epsilon_lifetime=None,
            epsilon_run=None,
            outsider_epsilon_lifetime=None,
            time_s=0,
        )
        with self.ledger.open() as store:
            if store.chain.booking(request.run, request.round) is None:
                check_awake(self.ledger.home)  # what was booked before is finished
            booked = store.reserve(draft, self.budget)
            spent = store.chain.spent(until=booked.sequence)
        return statement(spent, booked)

    def booked(self, run: str, round: int) -> bool:
        """See `client.node_interfaces.Books`."""
        with self.ledger.open() as store:
            return store.chain.booking(run, round) is not None

    def answer(self, run: str, round: int) -> str | None:
        """See `client.node_interfaces.Books`."""
        with self.ledger.open() as store:
            found = store.chain.answer(run, round)
        return None if found is None else found.update_digest

    def settle(self, run: str, round: int, body_digest: str) -> None:
        """See `client.node_interfaces.Books`."""
        with self.ledger.open() as store:
            store.answered(run, round, body_digest)

    def note(self, since: int) -> LedgerNote:
        """See `client.node_interfaces.Books`."""
        with self.ledger.open() as store:
            head = store.signed_head()
            lines = tuple(link.line.decode("ascii") for link in store.chain.after(since))
        return LedgerNote(
            length=head.length, head=head.head, signature=head.signature, entries=lines
        )

    def incident(self, run: str, round: int, reason: str) -> None:
        """See `client.node_interfaces.Books`."""
        with self.ledger.open() as store:
            store.incident(run, round, reason, self.budget.delta)


@dataclass(frozen=True)
class HospitalWitness:
    """What this node keeps of the others' ledgers; see `client.node_interfaces.Witness`."""

    ledger: HospitalLedger

    def see(
        self,
        heads: Mapping[str, LedgerHead],
        links: Mapping[str, Sequence[str]],
        identity_keys: Mapping[str, bytes],
    ) -> None:
        """See `client.node_interfaces.Witness`."""
        with self.ledger.open() as store:
            store.see(heads, links, identity_keys)

    def countersigned(
        self, run: str, round: int, agree_request: bytes, agreements: Mapping[str, bytes]
    ) -> None:
        """See `client.node_interfaces.Witness`."""
        with self.ledger.open() as store:
            store.keep_countersigned(Countersigned(run, round, agree_request, agreements))


def statement(spent: Spent, booked: Booked) -> PrivacyStatement:
    """What a reply says of the ledger after this booking.

    It is only as strong as the weakest round in it: one round in mode distributed, and the whole
    holds against as many colluding hospitals as that one.
    """
    shared = [item for item in spent.bookings if item.mode == "distributed"]
    delta = (spent.losses + 1) * booked.delta
    if not shared:
        return PrivacyStatement(epsilon=booked.epsilon_lifetime, delta=delta)
    return PrivacyStatement(
        epsilon=booked.epsilon_lifetime,
        delta=delta,
        trust_model="distributed",
        colluding_sites=min(item.colluding_sites for item in shared),
        outsider_epsilon=booked.outsider_epsilon_lifetime,
    )


def _check_contained(chain: Chain, head: LedgerHead) -> None:
    try:
        head.check(chain.site, chain.key_at(head.length))
    except Refused as error:
        raise Refused(
            "The coordinator shows a head of this hospital's ledger that it never signed.",
            reason="ledger",
            do="Show this line of the log to the coordinator's operator and the other hospitals.",
        ) from error
    if chain.head_at(head.length) != head.head:
        raise refuse(
            f"This hospital has signed a ledger of {head.length} entries that is not the one here, "
            f"which has {chain.length}: it was put back from an older copy.",
            entry=min(head.length, chain.length + 1),
            do=RECOVER,
        )
