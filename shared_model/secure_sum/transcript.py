"""The transcript: one digest of everything public about a round, from which its seeds follow.

Two nodes that were told different things about a round have different transcripts, hence
different seeds, and their agreements do not fit together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from shared_model import canonical
from shared_model.distributed import Shares, refuse_unfit
from shared_model.errors import OurMistake
from shared_model.protocol import TrainRequest
from shared_model.secure_sum.numbers import Numbers
from shared_model.secure_sum.primitives import tagged_hash
from shared_model.secure_sum.shamir import MAX_RECEIVERS


@dataclass(frozen=True)
class Transcript:
    """What a round's participants must agree on.

    participants: sorted site names; weights in their order. Digests: hexadecimal.
    """

    run: str
    round: int
    participants: tuple[str, ...]
    model_digest: str
    configuration_digest: str
    numbers: Numbers
    roster_digest: str
    epoch: int
    epoch_keys_digest: str
    threshold: int
    weights: tuple[int, ...]
    mode: str

    def __post_init__(self) -> None:
        sites = self.participants
        if list(sites) != sorted(set(sites)) or not 2 <= len(sites) <= MAX_RECEIVERS:
            raise OurMistake("Participants are 2 to 255 sites, sorted, each once.")
        if len(self.weights) != len(sites) or min(self.weights) < 1:
            raise OurMistake("Every participant has a weight of at least 1.")
        if not 2 <= self.threshold <= len(sites):
            raise OurMistake("The threshold is at least 2 and at most the number of participants.")

    @cached_property
    def digest(self) -> bytes:
        """32 raw bytes."""
        return tagged_hash(
            "transcript",
            canonical.encode(
                {
                    "run": self.run,
                    "round": self.round,
                    "participants": list(self.participants),
                    "model_digest": self.model_digest,
                    "configuration_digest": self.configuration_digest,
                    "numbers": self.numbers.as_dict(),
                    "roster_digest": self.roster_digest,
                    "epoch": self.epoch,
                    "epoch_keys_digest": self.epoch_keys_digest,
                    "threshold": self.threshold,
                    "weights": list(self.weights),
                    "mode": self.mode,
                }
            ),
        )

    @cached_property
    def rotation_seed(self) -> bytes:
        """Seed of the public signs; no keys in it, so that a repeated simulation repeats."""
        public = {"run": self.run, "round": self.round, "model_digest": self.model_digest}
        return tagged_hash("rotation", canonical.encode(public))

    def index(self, site: str) -> int:
        """Position among the participants, from 0.

        Raises:
            OurMistake: no participant.
        """
        try:
            return self.participants.index(site)
        except ValueError as error:
            raise OurMistake(f"{site} takes no part in this round.") from error

    def weight(self, site: str) -> int:
        """Public weight of a participant."""
        return self.weights[self.index(site)]

    def divisor(self, survivors: Iterable[str]) -> float:
        """What makes a mean of the sum: the weights; in mode distributed the expected patients.

        Raises:
            OurMistake: no participant.
        """
        if isinstance(self.numbers, Shares):
            return self.numbers.divisor(self.index(site) for site in survivors)
        return sum(self.weight(site) for site in survivors)

    def peers(self, site: str) -> tuple[str, ...]:
        """The other participants, sorted."""
        return tuple(name for name in self.participants if name != site)

    def dropped(self, survivors: tuple[str, ...]) -> tuple[str, ...]:
        """D: participants that are no survivors, sorted.

        Raises:
            OurMistake: the survivors are not sorted participants.
        """
        if list(survivors) != sorted(set(survivors)) or not set(survivors) <= set(
            self.participants
        ):
            raise OurMistake("Survivors are participants, sorted, each once.")
        return tuple(site for site in self.participants if site not in set(survivors))


def of_request(request: TrainRequest, weights: Mapping[str, int]) -> Transcript:
    """The transcript of a request, with the weights of the signed roster; in mode distributed all
    are 1.

    Raises:
        OurMistake: parameters that make no secure sum, or a participant without a weight.
    """
    missing = [site for site in request.sites if site not in weights]
    if missing:
        raise OurMistake(f"{missing[0]} is not in the roster.")
    plan = request.sum
    if request.privacy.mode == "distributed":
        ours: tuple[int, ...] = (1,) * len(request.sites)
        numbers: Numbers = _shares(request)
    else:
        ours = tuple(weights[site] for site in request.sites)
        numbers = Numbers.of(plan.dimension, sum(ours), plan.norm_bound, plan.bits)
    if numbers.modulus_bits != plan.modulus_bits:
        raise OurMistake("The request names another modulus than its weights and bits give.")
    return Transcript(
        run=request.run,
        round=request.round,
        participants=request.sites,
        model_digest=request.model_digest,
        configuration_digest=configuration_digest(request),
        numbers=numbers,
        roster_digest=plan.roster_digest,
        epoch=plan.epoch,
        epoch_keys_digest=epoch_keys_digest(request),
        threshold=plan.threshold,
        weights=ours,
        mode=request.privacy.mode,
    )


def _shares(request: TrainRequest) -> Shares:
    """The parameters of mode distributed, none of which the request may choose otherwise."""
    refuse_unfit(request.training)
    plan = request.sum
    numbers = Shares.of_plan(
        request.privacy,
        dimension=plan.dimension,
        threshold=plan.threshold,
        declared=[one.declared_patients for one in request.participants],
    )
    if (numbers.bits, numbers.norm_bound) != (plan.bits, plan.norm_bound):
        raise OurMistake("The request names other integers than its privacy plan gives.")
    return numbers


def configuration_digest(request: TrainRequest) -> str:
    """Digest of how a round trains, and of how the next model is made of its sum."""
    moments = request.server_moments
    return canonical.digest_of(
        {
            **({} if moments is None else {"server_moments": moments.as_dict()}),
            "purpose": request.purpose,
            "preset": request.preset,
            "config_digest": request.config_digest,
            "privacy": request.privacy.as_dict(),
            "training": request.training.as_dict(),
            "minimum_contributors": request.minimum_contributors,
            "aggregation": request.sum.aggregation,
            "server_step": request.server_step,
            "server_learning_rate": request.server_learning_rate,
            "rounds": request.rounds,
            "bookings": request.bookings,
            "code_digest": request.code_digest,
        }
    )


def epoch_keys_digest(request: TrainRequest) -> str:
    """Digest of all epoch keys with their signatures, sorted by site; hexadecimal."""
    keys = [entry.model_dump(mode="json") for entry in request.sum.epoch_keys]
    return tagged_hash("epoch-keys", canonical.encode(keys)).hex()
