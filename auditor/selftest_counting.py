"""The self-tests of sampling, accountants and ledger. See `auditor.selftest`."""

from __future__ import annotations

import itertools
import math
import tempfile
from pathlib import Path

import numpy as np

from auditor import selftest_statistics as statistics
from auditor.selftest import Check, Seen, level
from auditor.verify import AGREEMENT, ERROR_BAR
from shared_model.config import LocalTraining, PrivacyPlan
from simulations import mechanism, mechanism_round

PATIENTS, RATE = 20, 0.1
DRAWN, TIMES = 200_000, 10
DELTA = 1e-5
COMPOSED = 25.2
"""Epsilon of 20 rounds x 50 steps at sigma 1, q 0.1, delta 1e-5 (design/privacy.md)."""
ROUNDS = [PrivacyPlan(0.1, 1.0, 1.0, 50)] * 20


def _samples(quick: bool) -> list[np.ndarray]:
    """Patients whom training asked for, step by step."""
    steps = 60 if quick else 400
    data = mechanism.silent_patients(PATIENTS)
    plan = PrivacyPlan(RATE, 1.0, 1.0, steps)
    training = LocalTraining(segments=1, patch_masks=1, optimiser="sgd", learning_rate=1e-3)
    mechanism.take_round(mechanism.SMALL, data, plan, training, PATIENTS)
    return data.by_step


def sampling_rate(quick: bool) -> Seen:
    """How often each patient is in a step of training, and in a draw of the sampler alone."""
    samples = _samples(quick)
    counts = np.bincount(np.concatenate(samples), minlength=PATIENTS)
    p_values = {
        f"patient {patient}": statistics.binomial_p(int(count), len(samples), RATE)
        for patient, count in enumerate(counts)
    }
    inside = int(counts.sum())
    p_values["all patients"] = statistics.binomial_p(inside, len(samples) * PATIENTS, RATE)
    drawn = mechanism.drawn_samples(DRAWN, RATE, TIMES)
    alone = sum(len(sample) for sample in drawn)
    p_values["sampler alone"] = statistics.binomial_p(alone, DRAWN * TIMES, RATE)
    limit = level(len(p_values))
    return Seen(
        p_values=p_values,
        figures={
            "rate in training": inside / (len(samples) * PATIENTS),
            "rate of the sampler": alone / (DRAWN * TIMES),
            "steps": len(samples),
        },
        finds=f"q off by {_rate_found(len(samples) * PATIENTS, limit):.1%} in training, "
        f"by {_rate_found(DRAWN * TIMES, limit):.2%} in the sampler",
    )


def _rate_found(coins: int, limit: float) -> float:
    """Relative error of q that is found in 99 of 100 runs (normal law)."""
    both = statistics.smallest_found(coins, limit) * math.sqrt(2)
    return both * math.sqrt((1.0 - RATE) / RATE)


def sampling_coins(quick: bool) -> Seen:
    """Sizes of the samples, and patients that two steps after one another have in common."""
    samples = _samples(quick)
    many = mechanism.drawn_samples(PATIENTS, RATE, 5000)
    drawn = mechanism.drawn_samples(DRAWN, RATE, TIMES)
    inside = np.zeros((TIMES, DRAWN), dtype=bool)
    for row, sample in zip(inside, drawn, strict=True):
        row[sample] = True
    neighbours = int((inside[:, ::2] & inside[:, 1::2]).sum())
    p_values = {
        "sizes": statistics.sizes_p([len(sample) for sample in samples], PATIENTS, RATE),
        "sizes of the sampler": statistics.sizes_p([len(x) for x in many], PATIENTS, RATE),
        "in two steps": _in_common_p(samples, PATIENTS),
        "in two draws": _in_common_p(drawn, DRAWN),
        "neighbours": statistics.binomial_p(neighbours, DRAWN // 2 * TIMES, RATE**2),
    }
    broken = [
        f"a patient is {len(sample) - np.unique(sample).size + 1} times in step {step}"
        for step, sample in enumerate(samples, start=1)
        if np.unique(sample).size != len(sample)
    ]
    limit = level(len(p_values))
    training, sampler = (
        2.0 * statistics.smallest_found(len(each), limit) for each in (samples, many)
    )
    variance = PATIENTS * RATE * (1.0 - RATE)
    return Seen(
        p_values=p_values,
        broken=broken,
        figures={
            "variance of sizes over binomial": float(np.var([len(x) for x in samples])) / variance,
            "of the sampler": float(np.var([len(x) for x in many])) / variance,
            "steps": len(samples),
        },
        finds="batches of fixed size, patients that come in turn or in pairs; a variance of sizes "
        f"off by about {training:.0%} in training, {sampler:.0%} in the sampler",
    )


def _in_common_p(samples: list[np.ndarray], patients: int) -> float:
    """Exact binomial of patients in both of two samples after one another; no sample twice."""
    pairs = list(zip(samples[::2], samples[1::2], strict=False))
    common = sum(np.intersect1d(one, other).size for one, other in pairs)
    return statistics.binomial_p(common, patients * len(pairs), RATE**2)


def accountants(quick: bool) -> Seen:
    """Both accountants against the design's figure and closed forms."""
    one = PrivacyPlan(0.1, 1.0, 1.0, 1)
    known = [
        ("20 x 50 steps", ROUNDS, COMPOSED),
        ("one step, closed form", [one], statistics.one_step_epsilon(0.1, 1.0, DELTA)),
        (
            "16 full steps, closed form",
            [PrivacyPlan(1.0, 8.0, 1.0, 16)],
            statistics.one_step_epsilon(1.0, 2.0, DELTA),
        ),
    ]
    figures: dict[str, float | int | str] = {}
    broken = []
    for name, plans, epsilon in known:
        told = mechanism_round.epsilons(plans, DELTA)
        figures[name] = told["PLD"]
        for accountant, value in told.items():
            if not abs(value - epsilon) <= max(AGREEMENT * epsilon, ERROR_BAR):
                broken.append(f"{name}: {accountant} says {value:.4g}, known is {epsilon:.4g}")
        if not abs(told["PLD"] - told["PRV"]) <= max(AGREEMENT * epsilon, ERROR_BAR):
            broken.append(f"{name}: {told['PLD']:.4g} and {told['PRV']:.4g} do not agree")
    return Seen(
        broken=broken,
        figures=figures,
        finds="an epsilon off by 1 % (by 0.005 where that is more)",
    )


def ledger(quick: bool) -> Seen:
    """Twenty rounds in two runs are booked, the ledger opened anew for each."""
    with tempfile.TemporaryDirectory() as folder:
        told = mechanism_round.booked(Path(folder), ROUNDS, DELTA, rounds_per_run=10)
    broken = []
    if not abs(told[-1] - COMPOSED) <= AGREEMENT * COMPOSED:
        broken.append(f"20 rounds are booked as {told[-1]:.4g}, they cost {COMPOSED}")
    if any(not after > before for before, after in itertools.pairwise(told)):
        broken.append("a round was booked that did not add to the spend")
    return Seen(
        broken=broken,
        figures={"after 1 round": told[0], "after 20 rounds": told[-1]},
        finds="rounds or runs that are not composed; a round alone costs "
        f"{told[0]:.3g}, not {COMPOSED}",
    )


CHECKS = (
    Check(
        "sampling-rate",
        "each patient is in a step with probability q",
        "exact binomial of each patient and of all, in training and of the sampler alone",
        sampling_rate,
    ),
    Check(
        "sampling-coins",
        "a coin for each patient and step: no shuffled batches, no patient twice",
        "exact law of the spread of sample sizes; exact binomial of repeats in the next step",
        sampling_coins,
    ),
    Check(
        "accountants",
        "both accountants say what is known, and agree",
        "20 x 50 steps cost 25.2; one sampled step and 16 full ones in closed form; to 1 %",
        accountants,
    ),
    Check(
        "ledger",
        "what a node books in its ledger composes over rounds and runs",
        "20 rounds x 50 steps at sigma 1, q 0.1 cost 25.2 +- 1 %; a reset would read 5.2",
        ledger,
    ),
)
