"""What a run writes down of a round (rounds.parquet, sites.parquet) and of itself (result.json)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shared_model.weights import Weights
from simulations.lab import evaluate, run_words
from simulations.lab.beginning import Settled
from simulations.lab.checkpoint import Checkpoint
from simulations.lab.experiment import Experiment
from simulations.lab.participation import Asked
from simulations.lab.pool import Told


def sites_of(
    asked: Asked, place: Mapping[str, int], told: Told, reply_bytes: int, request_bytes: int
) -> list[dict[str, Any]]:
    """What the journal has of each site that was asked.

    Args:
        place: of each site, by its name.
    """
    known = {one["site"]: one for one in told}
    trained, rows = set(asked.trained), []
    for name in asked.asked:
        one, sends = known.get(place[name], {}), asked.sends[name]
        rows.append(
            {
                "place": place[name],
                "reason": asked.absent.get(name, ""),
                "booked": int(name in trained),
                "behaviour": one.get("behaviour", ""),
                "norm": one.get("norm"),
                "up": reply_bytes * sends.reply,
                "down": request_bytes * sends.request,
            }
        )
    return rows


def round_of(
    settled: Settled,
    now: Checkpoint,
    sites: Sequence[Mapping[str, Any]],
    told: Told,
    mean: Weights,
    measured: list[dict[str, Any]],
) -> dict[str, Any]:
    """A row of rounds.parquet, but for the wall-clock time. sites: as `sites_of` gives them."""
    done = bool(told)
    places = [one["site"] for one in told]
    squares = [float(np.square(mean[name]).sum()) for name in sorted(mean)]
    private = settled.privacy
    return {
        "round": now.round,
        "participants": len(sites),
        "survivors": sum(not one["reason"] for one in sites),
        "outcome": "aggregated" if done else "too few",
        "loss": evaluate.loss_of(measured),
        "update_norm": math.sqrt(math.fsum(squares)) if done else None,
        "noise_to_signal": private.noise_to_signal(
            [settled.declared[one] for one in places],
            [settled.weights[one] for one in places],
        )
        if done
        else None,
        "epsilon": largest_epsilon(settled, now),
        "delta": None if private.mode == "none" else private.delta,
        "bytes_up": sum(one["up"] for one in sites),
        "bytes_down": sum(one["down"] for one in sites),
        "virtual_s": now.virtual_s,
        "clipped": sum(one["clipped"] for one in told),
        "scaled": sum(one["scaled"] for one in told),
        "model": now.model,
        "refusal": run_words.refusal_of(now.weights),
    }


def result_of(
    experiment: Experiment, settled: Settled, last: Checkpoint, rounds: list[dict[str, Any]]
) -> dict[str, Any]:
    """result.json of a run that is done. rounds: all of them, in order."""
    refused = run_words.refused(rounds, run_words.refusal_of(settled.start))
    epsilon = largest_epsilon(settled, last)
    private = settled.privacy
    return {
        "name": experiment.name,
        "identity": experiment.identity,
        "state": "done",
        "rounds": len(rounds),
        "aggregated": sum(row["outcome"] == "aggregated" for row in rounds),
        "hospitals": len(settled.declared),
        "model": last.model,
        "loss": next((row["loss"] for row in rounds[::-1] if row["loss"] is not None), None),
        "epsilon": epsilon if epsilon is None or math.isfinite(epsilon) else None,
        "delta": None if private.mode == "none" else private.delta,
        "noise_multiplier": None if private.mode == "none" else private.plan.noise_multiplier,
        "bytes_up": sum(row["bytes_up"] for row in rounds),
        "bytes_down": sum(row["bytes_down"] for row in rounds),
        "virtual_s": last.virtual_s,
        "refused_from_round": None if refused is None else refused[0],
        "in_words": [*settled.words, *run_words.said(rounds, epsilon, refused)],
    }


def largest_epsilon(settled: Settled, now: Checkpoint) -> float | None:
    """Of the hospital that has trained in most rounds; None without DP."""
    return settled.privacy.epsilon(max(now.booked))
