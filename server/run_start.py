"""The first moment of a run: what it starts from, its folder; and what each of its rounds asks."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server import rounds
from server.aggregation import dimension_of
from server.checkpoints import RunFolder
from server.desk import NOT_CONTINUED
from server.epochs import Epoch
from server.run_config import RunConfig, norm_bound
from server.run_records import RoundRecord, RunRecord, as_base64
from shared_model import adapters, protocol, signing
from shared_model import roster as rosters
from shared_model import weights as weights_io
from shared_model.config import ModelConfig
from shared_model.distributed import Shares, mechanism, refuse_unfit
from shared_model.errors import OurMistake, Refused
from shared_model.protocol import KnownHead, Participant, RunPlan, SumPlan, TrainRequest
from shared_model.release import EVIDENCE_LIMIT_BYTES
from shared_model.release_files import code_digest
from shared_model.roster import Roster
from shared_model.secure_sum.numbers import Numbers
from shared_model.weights import Weights


@dataclass(frozen=True)
class StartingModel:
    """What a run begins from: configuration, full weights, names of the trainable parameters."""

    config: ModelConfig
    weights: Weights = field(repr=False)
    trainable: tuple[str, ...]


def starting_model(config: RunConfig) -> StartingModel:
    """The model that `begin_with` names.

    Raises:
        OurMistake: unknown preset, or no warm start of it is packaged.
    """
    from shared_model import mae, warm_start

    if config.preset not in mae.PRESETS:
        raise OurMistake(
            f"There is no preset {config.preset!r}.", do=f"Choose one of {', '.join(mae.PRESETS)}."
        )
    if config.begin_with == "random-weights":
        model_config = mae.PRESETS[config.preset]
        weights = mae.weights_of(mae.build(model_config, 0))
    else:
        model_config, weights, _ = warm_start.load(config.preset)
    names = mae.trainable_names(mae.build(model_config, 0), config.training.trainable)
    return StartingModel(model_config, weights, tuple(names))


def begin(
    folder: RunFolder,
    config: RunConfig,
    roster: bytes,
    root_key: bytes,
    key: Ed25519PrivateKey,
    start: StartingModel,
    *,
    software: str | None = None,
) -> RunRecord:
    """Create the run's folder: record and first checkpoint.

    Args:
        roster: the signed roster, as the root's holder gave it. root_key: 32 raw bytes that it
            must be signed with; it stays the run's for good.
        key: the run key.

    Raises:
        PeerFault: of "coordinator"; the root has not signed this roster.
        Refused: the folder holds a run already (reason "exists"), or the roster is out of the
            protocol's bounds ("threshold").
        OurMistake: fewer sites than the minimum, a trainable name the model lacks, numbers that
            make no sum, or more rounds than a release has room for.
    """
    signed = rosters.open_signed(roster, root_key)
    check_bounds(signed.roster)
    trained = adapters.trained_part(start.weights, start.trainable)
    if not trained:
        raise OurMistake("The trainable parameters are not parameters of the model.")
    if start.config.preset != config.preset:
        raise OurMistake("The model is not of the preset that the run names.")
    record = RunRecord(
        run=config.run,
        config=config,
        model=start.config,
        root_key=root_key.hex(),
        rosters=(as_base64(signed.to_bytes()),),
        run_key=signing.public_bytes(key).hex(),
        software=software or protocol.software(),
        initial_model=weights_io.digest(start.weights),
        trainable=tuple(sorted(start.trainable)),
        starts=0,
    )
    settings_of(config, signed.roster)  # checks the roster against the minimum
    check_room(config, signed.roster)
    numbers = numbers_of(config, signed.roster, signed.roster.names, trained)
    if config.privacy.mode == "distributed":
        check_shared_noise(config, signed.roster, numbers.padded)
    with folder.locked():
        if folder.exists:
            raise Refused(
                f"{folder.path} holds a run already.",
                reason="exists",
                do="Start it to continue it, or choose another run name.",
            )
        folder.save_weights(0, start.weights)
        folder.save(record)
    return record


def check_shared_noise(config: RunConfig, roster: Roster, dimension: int) -> None:
    """In mode distributed some noise is left against each hospital of the others.

    Raises:
        OurMistake: it is not, or its integers are too coarse.
    """
    if roster.collusion_bound < 1:
        raise OurMistake(
            "Mode distributed needs a roster that holds against one colluding hospital.",
            do="Enrol at least 3 hospitals, with the default threshold; or choose mode local.",
        )
    mechanism(
        config.privacy,
        dimension=dimension,
        threshold=roster.threshold,
        colluding=roster.collusion_bound,
    )


def refuse_bare(config: RunConfig) -> None:
    """Mode distributed is private under the secure sum only.

    Raises:
        OurMistake: the run is in mode distributed and not masked.
    """
    if config.privacy.mode == "distributed" and config.aggregation != "secure-sum":
        raise OurMistake(
            "Mode distributed is private under the secure sum only.",
            do="Mask the updates, or simulate with noise that repeats and promises nothing.",
        )


def check_bounds(roster: Roster) -> None:
    """Threshold and weights are within the protocol's bounds; validity is for the nodes to judge.

    Raises:
        Refused: they are not (reasons "threshold", "roster").
    """
    rosters.check(roster, colluding_sites=0, allow_two=True, today=roster.valid_from, own=None)


def evidence_bytes(roster: Roster) -> int:
    """About how much a round of all sites adds to a release's evidence, from above.

    Nearly all of it is five signed headers a site (its key, reply with two ledger entries,
    agreement, answer, receipt) and the head of its ledger, in hexadecimal; measured without
    drop-outs, which add 134 bytes for each pair with a dropped site.
    """
    return 3000 + sum(13_000 + 28 * len(site) for site in roster.names)


def check_room(config: RunConfig, roster: Roster) -> None:
    """A release has room for the evidence of all rounds; else that would be found out at its end.

    Raises:
        OurMistake: it has not; says how many rounds fit.
    """
    room = EVIDENCE_LIMIT_BYTES // evidence_bytes(roster)
    if config.aggregation == "secure-sum" and config.rounds > room:
        raise OurMistake(
            f"{config.rounds} rounds of {len(roster.sites)} sites: a release has room for the "
            f"signed evidence of about {room}.",
            do=f"Ask for at most {room} rounds, "
            + (
                "with more steps each."
                if config.privacy.mode == "local"
                else "with a larger sample rate each."
            ),
        )


def settings_of(config: RunConfig, roster: Roster) -> rounds.Settings:
    """The machine's settings of a run over this roster.

    Raises:
        OurMistake: the roster has fewer sites than a round needs.
    """
    return rounds.Settings(
        run=config.run,
        sites=roster.names,
        rounds=config.rounds,
        minimum=config.minimum_contributors,
        threshold=roster.threshold,
        masked=config.aggregation == "secure-sum",
        max_failed=config.max_failed_rounds,
        deadline_s=config.deadline_s,
        trip_s=config.trip_s,
        gather_s=config.gather_s,
        patience_s=config.patience_s,
        rekey_s=config.rekey_s,
        epoch_rounds=config.epoch_rounds,
    )


def numbers_of(
    config: RunConfig,
    roster: Roster,
    participants: tuple[str, ...],
    trainable: Mapping[str, np.ndarray],
) -> Numbers:
    """Parameters of the sum over these participants.

    Raises:
        OurMistake: the sum does not fit 32 bits, or the training does not fit mode distributed.
    """
    weights = roster.weights
    dimension = dimension_of(trainable)
    if config.privacy.mode == "distributed":
        refuse_unfit(config.training)
        return Shares.of_plan(
            config.privacy,
            dimension=dimension,
            threshold=roster.threshold,
            declared=[roster.entry(site).declared_patients for site in participants],
        )
    smallest = min(entry.declared_patients for entry in roster.sites)
    return Numbers.of(
        dimension,
        sum(weights[site] for site in participants),
        norm_bound(config, smallest, dimension),
        config.bits,
    )


def train_request(
    record: RunRecord,
    number: int,
    participants: tuple[str, ...],
    trainable: Mapping[str, np.ndarray],
    body_digest: str,
    epoch: Epoch | None,
    ledger_heads: Sequence[KnownHead],
) -> TrainRequest:
    """What trip 1 of a round asks. epoch: None where masks are off. ledger_heads: see the class."""
    config, roster, plan = record.config, record.roster, plan_of(record)
    numbers = numbers_of(config, roster, participants, trainable)
    return TrainRequest(
        version=plan.lowest_version,
        run=record.run,
        round=number,
        start=record.starts,
        preset=record.model.preset,
        config_digest=record.model.digest,
        model_digest=record.model_digest,
        body_digest=body_digest,
        privacy=config.privacy,
        training=config.training,
        server_step=config.server_step,
        server_learning_rate=config.server_learning_rate,
        server_moments=config.moments,
        rounds=plan.rounds,
        bookings=plan.bookings,
        code_digest=plan.code_digest,
        participants=tuple(
            Participant(site=site, declared_patients=roster.entry(site).declared_patients)
            for site in participants
        ),
        minimum_contributors=config.minimum_contributors,
        sum=SumPlan(
            aggregation=config.aggregation,
            roster_digest=roster.digest,
            threshold=roster.threshold,
            epoch=0 if epoch is None else epoch.number,
            epoch_keys=() if epoch is None else epoch.keys,
            dimension=numbers.dimension,
            bits=numbers.bits,
            modulus_bits=numbers.modulus_bits,
            norm_bound=numbers.norm_bound,
        ),
        ledger_heads=tuple(ledger_heads),
        deadline_s=config.deadline_s,
        software=record.software,
    )


def plan_of(record: RunRecord) -> RunPlan:
    """What the hospitals' operators approve, with the code that is installed here now."""
    config = record.config
    return RunPlan(
        run=record.run,
        purpose="pretrain",
        preset=record.model.preset,
        config_digest=record.model.digest,
        privacy=config.privacy,
        training=config.training,
        rounds=config.rounds,
        bookings=config.rounds + config.max_failed_rounds,
        minimum_contributors=config.minimum_contributors,
        aggregation=config.aggregation,
        server_step=config.server_step,
        server_learning_rate=config.server_learning_rate,
        server_moments=config.moments,
        code_digest=_code_digest(),
    )


_code_digest = functools.cache(code_digest)


def closed_round(item: RoundRecord) -> rounds.ClosedRound:
    """What the machine needs to know of a stored round."""
    silent = frozenset(absent.site for absent in item.absent if absent.ending == "silent")
    spoke = {absent.site for absent in item.absent if absent.ending in ("refused", "unused")}
    other_ledger = {absent.site for absent in item.absent if absent.reason == "ledger"}
    return rounds.ClosedRound(
        number=item.round,
        aggregated=item.outcome == "aggregated",
        exhausted=frozenset(absent.site for absent in item.absent if absent.reason == "budget"),
        incidents=tuple(incident.site for incident in item.incidents if not incident.about),
        barred=frozenset(item.barred) | other_ledger,
        silent=silent,
        answered=frozenset(spoke | {one.site for one in item.contributors}),
        excused=item.reason == NOT_CONTINUED,
    )


def replayed(record: RunRecord) -> rounds.RunState:
    """Where the machine of rounds stands after those of the record."""
    return rounds.replay(
        settings_of(record.config, record.roster),
        [closed_round(item) for item in record.rounds],
        resumed_after=record.resumed_after,
    )


def with_roster(record: RunRecord, data: bytes) -> tuple[tuple[str, ...], Roster | None]:
    """The record's rosters with one that the operator has imported, and that one if it is newer.

    An older one changes nothing; the same takes the last one's place, perhaps with
    countersignatures that have come since.

    Raises:
        PeerFault: of "coordinator"; the run's root key did not sign it.
        Refused: it has the version of the run's and is another ("roster"), or is too large.
        OurMistake: it does not fit the run's settings.
    """
    signed = rosters.open_signed(data, bytes.fromhex(record.root_key))
    version, last = signed.roster.version, record.roster.version
    if version < last:
        return record.rosters, None
    if version == last:
        if signed.roster.digest != record.roster.digest:
            raise Refused(
                f"The imported roster and the run's are both version {version}, and differ.",
                reason="roster",
                do="The root key signed two rosters of one version: call its holder.",
            )
        return (*record.rosters[:-1], as_base64(data)), None
    check_bounds(signed.roster)
    settings_of(record.config, signed.roster)
    return (*record.rosters, as_base64(data)), signed.roster
