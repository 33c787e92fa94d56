"""The node's bookings and a whole round as an examiner sees them; see `simulations.mechanism`."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client import keys
from client.home import NodeHome
from client.ledger_store import Budget, LedgerStore
from shared_model import accounting, mae, signing
from shared_model.config import PrivacyPlan
from shared_model.errors import OurMistake
from shared_model.ledger import Booked
from shared_model.noise import SystemNoise
from simulations.mechanism import silent_patients

_AMPLE = 1e6
_DIGEST = "0" * 64


def epsilons(plans: Sequence[PrivacyPlan], delta: float) -> dict[str, float]:
    """The node's running accountant and the auditor's second one."""
    return {
        "PLD": accounting.epsilon_pld(plans, delta),
        "PRV": accounting.epsilon_prv(plans, delta),
    }


def booked(
    folder: Path, plans: Sequence[PrivacyPlan], delta: float, rounds_per_run: int
) -> list[float]:
    """Books rounds as a node does, its ledger opened anew for each; epsilon for life after each.

    Runs follow one another, each of so many rounds.
    """
    home = NodeHome(folder)
    keys.make(home, "selftest", 100)
    key = signing.load_key_file(home.identity_key)
    budget = Budget(_AMPLE, _AMPLE, delta)
    told = []
    for number, plan in enumerate(plans):
        run, round_number = divmod(number, rounds_per_run)
        draft = Booked(
            site="selftest", sequence=1, run=f"run-{run}", round=round_number + 1,
            purpose="selftest", **plan.as_dict(), declared_patients=100, delta=delta,
            noise=SystemNoise.name, private=True, model_in=_DIGEST, request_digest=_DIGEST,
            code_digest=_DIGEST, roster_digest=_DIGEST, transcript=_DIGEST, participants=3,
            threshold=2, colluding_sites=0, minimum_contributors=3, dimension=0,
            limit_lifetime=None, limit_run=None, epsilon_lifetime=None, epsilon_run=None,
            outsider_epsilon_lifetime=None, time_s=0,
        )  # fmt: skip
        with LedgerStore.open(home, "selftest", key) as store:
            told.append(store.reserve(draft, budget).epsilon_lifetime or 0.0)
    return told


@dataclass(frozen=True)
class WholeRound:
    """A round over the wire as it is deployed, all hospitals without usable signals.

    standardised: float64 (d,), the step of the model over the deviation that the plan promises.
    claims: what each hospital says about its noise, and whether it says private.
    """

    standardised: np.ndarray
    claims: tuple[tuple[str, bool], ...]


def whole_round(folder: Path, now: datetime.datetime) -> WholeRound:
    """Requests, policy, booking, training, quantisation, secure sum and server step: one round."""
    from server.run_config import RunConfig
    from simulations import federation

    patients = {"east": 20, "north": 20, "west": 20}

    def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        silent = silent_patients(count)
        return silent.signal[:, 0], silent.valid[:, 0]

    plan = {"sample_rate": 1.0, "noise_multiplier": 2.0, "clipping_norm": 0.5, "steps": 2}
    rate = 0.1
    config = RunConfig.from_dict(
        {
            "run": "selftest",
            "preset": "tiny",
            "rounds": 1,
            "privacy": plan,
            "training": {"optimiser": "sgd", "learning_rate": rate, "segments": 1},
            "begin_with": "random-weights",
            "poll_s": 0.05,
        }
    )
    made = federation.found(
        folder, patients, windows_per_patient=1, seed=1, repeatable=False, now=now, draw=draw
    )
    record = federation.train(made, config)
    if record.state != "finished":
        raise OurMistake(f"The round was not finished ({record.pause or record.state}).")
    files = made.folder(config.run)
    before, after = files.weights(record, 0), files.weights(record, 1)
    names = mae.trainable_names(mae.build(mae.PRESETS["tiny"], 0), "head")
    step = np.concatenate(
        [(after[name].astype(np.float64) - before[name]).ravel() for name in names]
    )
    one = plan["noise_multiplier"] * plan["clipping_norm"] * math.sqrt(plan["steps"])
    one *= rate / (plan["sample_rate"] * 20)  # deviation of one hospital's update
    claims = tuple((c.noise, c.private) for c in record.rounds[0].contributors)
    return WholeRound(step / (one / math.sqrt(len(patients))), claims)
