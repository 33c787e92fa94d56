"""The first moment of a run: what it starts from, its folder, and what must be said before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server import rounds
from server.checkpoints import RunFolder, RunRecord
from server.run_config import RosterSite, RunConfig
from shared_model import protocol, signing
from shared_model import weights as weights_io
from shared_model.config import ModelConfig
from shared_model.errors import OurMistake, Refused
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
    roster: Sequence[RosterSite],
    key: Ed25519PrivateKey,
    start: StartingModel,
    *,
    software: str | None = None,
) -> RunRecord:
    """Create the run's folder: record and first checkpoint. The roster is fixed for the run.

    Raises:
        Refused: `insecure_aggregation` is not true (reason "insecure-aggregation"), or the folder
            holds a run already (reason "exists").
        OurMistake: fewer enrolled sites than the minimum, or a trainable name the model lacks.
    """
    require_insecure_aggregation(config)
    sites = tuple(sorted(roster, key=lambda item: item.site))
    missing = set(start.trainable) - set(start.weights)
    if missing or not start.trainable:
        raise OurMistake("The trainable parameters are not parameters of the model.")
    if start.config.preset != config.preset:
        raise OurMistake("The model is not of the preset that the run names.")
    record = RunRecord(
        run=config.run,
        config=config,
        model=start.config,
        roster=sites,
        run_key=signing.public_bytes(key).hex(),
        insecure_aggregation=config.insecure_aggregation,
        software=software or protocol.software(),
        initial_model=weights_io.digest(start.weights),
        trainable=tuple(sorted(start.trainable)),
        starts=0,
    )
    settings_of(record)  # checks the roster against the minimum
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


def require_insecure_aggregation(config: RunConfig) -> None:
    """Refuse to start unless the configuration says in so many words what is not protected."""
    if not config.insecure_aggregation:
        raise Refused(
            "This version can aggregate only updates that reach the coordinator in clear.",
            reason="insecure-aggregation",
            do="If that is what you want, set insecure_aggregation = true in the run's "
            "configuration and allow_insecure_aggregation = true in every node's policy.",
        )


def settings_of(record: RunRecord) -> rounds.Settings:
    """The machine's settings of a run."""
    config = record.config
    return rounds.Settings(
        run=record.run,
        sites=tuple(item.site for item in record.roster),
        rounds=config.rounds,
        minimum=config.minimum_contributors,
        max_failed=config.max_failed_rounds,
        deadline_s=config.deadline_s,
        gather_s=config.gather_s,
        patience_s=config.patience_s,
    )
