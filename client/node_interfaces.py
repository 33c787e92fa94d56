"""What answering the coordinator takes, as interfaces: `Node` and the parts that it is put together
of. `client.node_parts` makes the deployed ones, `client.round` asks them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.epochs import EpochKeys
from client.outbox import Outbox
from shared_model.ledger import LedgerHead
from shared_model.protocol import LedgerNote, PrivacyStatement, RunPlan, TrainRequest
from shared_model.roster import Roster
from shared_model.weights import Weights

if TYPE_CHECKING:
    from client.steps import StepKeeper
    from client.training import PatientBatches
    from shared_model.noise import NoiseSource
    from shared_model.secure_sum.transcript import Transcript


class Books(Protocol):
    """This hospital's privacy ledger; `client.books.HospitalBooks` in a deployed node."""

    def check_own(self, head: LedgerHead | None) -> None:
        """The ledger contains this head, which the coordinator says this site has signed.

        Raises:
            Refused: it does not ("ledger"): it is an older copy, or another ledger; or more entries
                follow than a `LedgerNote` has room for.
        """

    def reserve(
        self,
        request: TrainRequest,
        noise: NoiseSource,
        *,
        request_digest: str,
        roster: Roster,
        transcript: Transcript,
    ) -> PrivacyStatement:
        """Write `booked`, durably, before data is read; what is then spent for life.

        The very same again (request, plan, code, roster, noise) changes nothing and costs nothing:
        what was booked is gone on with.

        Raises:
            Refused: the budget would be crossed; the round is booked for another request
                ("replay"), or for this one under other circumstances ("interrupted").
        """

    def booked(self, run: str, round: int) -> bool:
        """Whether the round is booked."""

    def answer(self, run: str, round: int) -> str | None:
        """Digest of the body that `settle` wrote for this round; None before."""

    def settle(self, run: str, round: int, body_digest: str) -> None:
        """Write `answered` with the digest of the body that leaves; again changes nothing."""

    def note(self, since: int) -> LedgerNote:
        """The signed head, and the entries beyond this length."""

    def incident(self, run: str, round: int, reason: str) -> None:
        """Write `incident`, at most once for these three; never raises for a full table."""


class Witness(Protocol):
    """The heads of the other hospitals' ledgers, as this hospital keeps them."""

    def see(
        self,
        heads: Mapping[str, LedgerHead],
        links: Mapping[str, Sequence[str]],
        identity_keys: Mapping[str, bytes],
    ) -> None:
        """Keep these heads, durably; all or none. The first head of a site is taken as it is.

        Raises:
            Refused: names the site; its head is not signed by it, shorter than the one held here,
                another at the same length, or the links do not lead to it ("ledger").
        """

    def countersigned(
        self, run: str, round: int, agree_request: bytes, agreements: Mapping[str, bytes]
    ) -> None:
        """Keep the headers of a round that prove who has countersigned the heads that it names."""


class Approvals(Protocol):
    """Which runs this hospital's operator, or its policy in advance, said yes to."""

    def check(self, plan: RunPlan, *, booked: bool = False) -> None:
        """Return if this very plan is approved, for one more round at least.

        Args:
            booked: the round is booked already: no further one has to be approved.

        Raises:
            Refused: against the policy ("policy", "contributors"), it cannot be afforded
                ("budget"), or it waits for the operator ("run-approval").
        """


class Rosters(Protocol):
    """The consortium as this hospital's operator approved it."""

    def approved(self) -> Roster:
        """The approved roster, held anew against the policy and today's date.

        Raises:
            Refused: none yet ("roster-approval"), or it fails now ("roster", "threshold").
        """

    def offer(self, data: bytes) -> Roster:
        """What the coordinator sends, once it is approved.

        Raises:
            PeerFault: not signed by the root.
            Refused: it waits for the operator ("roster-approval"), or is refused ("roster",
                "threshold").
        """


class Policy(Protocol):
    """What the hospital allows, asked before anything is read."""

    def __call__(self, request: TrainRequest) -> None:
        """Raises Refused: "roster", "contributors", "policy"."""


class Trainer(Protocol):
    """Private training of one round: received weights in, update of the trainable names out.

    In mode distributed what comes out is minus the clipped sum, float64, and not private yet.
    steps: where private states are kept, and the one to go on from.
    """

    def __call__(
        self,
        request: TrainRequest,
        weights: Weights,
        data: PatientBatches,
        noise: NoiseSource,
        declared_patients: int,
        steps: StepKeeper,
    ) -> Weights: ...


@dataclass(frozen=True)
class Node:
    """Everything that answering takes. `from_home` makes the deployed one.

    ready: raises Refused("not-ready") if the operator has set up no store; it reads nothing in it.
    able: raises Refused("not-ready") if this machine cannot train such a round from such weights.
    data: called only after the spend is booked, once for each round.
    minimum_contributors: fewest survivors in a sum that this hospital agrees to.
    dimension: number of parameters that the request trains.
    awake: raises Refused("not-ready") if the node rests; see `client.rest`.
    allow_unmasked: simulations only; see `PretendNode`.
    """

    site: str
    declared_patients: int
    identity_key: Ed25519PrivateKey = field(repr=False)
    run_key: bytes = field(repr=False)
    policy: Policy
    minimum_contributors: int
    rosters: Rosters
    epochs: EpochKeys
    books: Books
    witness: Witness
    approvals: Approvals
    outbox: Outbox
    ready: Callable[[], None]
    data: Callable[[], PatientBatches]
    noise: Callable[[TrainRequest], NoiseSource]
    check_model: Callable[[TrainRequest, bytes], Weights]
    dimension: Callable[[TrainRequest, Weights], int]
    train: Trainer
    log: Callable[[dict[str, object]], None]
    entropy: Callable[[int], bytes] = os.urandom
    allow_unmasked: bool = False
    awake: Callable[[], None] = lambda: None
    able: Callable[[TrainRequest, Weights], None] = lambda request, weights: None


@dataclass(frozen=True)
class PretendNode:
    """What a simulated hospital has instead of its own: patients, noise that may repeat itself.

    Reachable from `simulations` and `tests` only (a test checks the imports). Replies made with
    noise that is not private say so and promise no epsilon; a release refuses them, and the
    hospital's budget does too unless `unlimited_budget` (needed with `NonPrivateForTests`).
    noise: called with (request, site). allow_unmasked: take part in rounds whose masks are off
    (`UnmaskedForSimulation`), in which the coordinator sees every update; the sum is the same.
    """

    data: PatientBatches | None = None
    noise: Callable[[TrainRequest, str], NoiseSource] | None = None
    unlimited_budget: bool = False
    allow_unmasked: bool = False
