"""The self-tests of noise, clipping and sensitivity. See `auditor.selftest`."""

from __future__ import annotations

import datetime
import itertools
import math
import tempfile
from pathlib import Path

import numpy as np

from auditor import selftest_statistics as statistics
from auditor.selftest import Check, Seen, level
from shared_model.config import LocalTraining, PrivacyPlan
from shared_model.mae import PRESETS
from simulations import mechanism, mechanism_round

MODEL = PRESETS["tiny"]
ALL = LocalTraining(segments=1, patch_masks=1, optimiser="sgd", learning_rate=1.0, trainable="all")
CLIP = 0.05
_ROUNDING = 0.01
"""How far quantisation may move the deviation of a whole round's model step, either way."""


def noise_deviation(quick: bool) -> Seen:
    """Rounds of several steps on patients whose gradient is zero: the update is noise alone."""
    cases = [
        (PrivacyPlan(1.0, 1.0, 1.0, 3), 1),
        (PrivacyPlan(1.0, 2.5, 0.1, 4), 3),
        (PrivacyPlan(1.0, 0.7, 3.0, 2), 2),
    ] * (1 if quick else 4)
    p_values, everything = {}, []
    for number, (plan, patients) in enumerate(cases, start=1):
        data = mechanism.silent_patients(patients)
        taken = mechanism.take_round(MODEL, data, plan, ALL, patients)
        std = plan.noise_multiplier * plan.clipping_norm * math.sqrt(plan.steps)
        everything.append(taken.total / std)
        start = 0
        for part, size in enumerate(taken.parts):
            values = taken.total[start : start + size]
            p_values[f"round {number}, tensor {part}"] = statistics.deviation_p(values, std)
            start += size
    values = np.concatenate(everything)
    p_values["all together"] = statistics.deviation_p(values, 1.0)
    found = statistics.smallest_found(values.size, level(len(p_values)))
    return Seen(
        p_values=p_values,
        figures={
            "deviation over sigma C": float(np.sqrt(np.mean(values**2))),
            "values": values.size,
        },
        finds=f"sigma off by {found:.2%} in all tensors",
    )


def noise_shape(quick: bool) -> Seen:
    """Steps on an empty store, coordinate by coordinate."""
    p_values = {}
    rounds = 1 if quick else 4
    size = 0
    for number in range(1, rounds + 1):
        values = mechanism.noise_alone(MODEL)
        size = values.size
        p_values[f"law, round {number}"] = statistics.shape_p(values)
        p_values[f"coordinates, round {number}"] = statistics.correlation_p(values)
    limit = level(len(p_values))
    return Seen(
        p_values=p_values,
        figures={"values": size * rounds, "smallest p": min(p_values.values())},
        finds=f"a law {statistics.law_found(size, limit):.2g} away from the Gaussian's; "
        f"a stream of which {statistics.correlation_found(size, limit):.1%} is used twice",
    )


def noise_fresh(quick: bool) -> Seen:
    """Rounds that must have nothing in common, pair by pair, at every shift."""
    runs = {"one": mechanism.noise_alone(MODEL), "again": mechanism.noise_alone(MODEL)}
    unreached, carried = [], None
    if mechanism.can("fork"):
        for number, values in enumerate(mechanism.noise_in_processes(MODEL, "fork", 2), start=1):
            runs[f"fork {number}"] = values
        carried = mechanism.noise_of_carried_source()
    else:
        unreached.append("this system cannot fork")
    if not quick:
        for number, values in enumerate(mechanism.noise_in_processes(MODEL, "spawn", 2), start=1):
            runs[f"process {number}"] = values
    p_values = {
        f"{one} with {other}": statistics.correlation_p(runs[one], runs[other])
        for one, other in itertools.combinations(runs, 2)
    }
    if carried is not None:
        p_values["one source on both sides of a fork"] = statistics.correlation_p(*carried)
    reused = statistics.correlation_found(runs["one"].size, level(len(p_values)))
    return Seen(
        p_values=p_values,
        unreached=unreached,
        figures={"rounds": len(runs), "smallest p": min(p_values.values())},
        finds=f"{reused:.1%} of a round's noise used again",
    )


def empty_batch(quick: bool) -> Seen:
    """Nobody in the store; and patients of whom nobody is sampled."""
    p_values, broken = {}, []
    never = 1e-12
    for name, patients, rate in (("no patient", 0, 0.3), ("nobody sampled", 3, never)):
        plan = PrivacyPlan(rate, 1.5, 0.4, 3)
        data = mechanism.silent_patients(patients)
        # chosen so that the noise is large beside the weights, whatever q is
        training = LocalTraining(optimiser="sgd", learning_rate=1.0, trainable="all")
        declared = 5 if rate > 0.1 else round(1.0 / never)
        taken = mechanism.take_round(MODEL, data, plan, training, declared)
        std = plan.noise_multiplier * plan.clipping_norm * math.sqrt(plan.steps)
        p_values[name] = statistics.deviation_p(taken.total, std)
        if taken.steps != plan.steps:
            broken.append(f"{name}: {taken.steps} steps of {plan.steps}")
        size = taken.total.size
    found = statistics.smallest_found(size, level(2))
    return Seen(
        p_values=p_values,
        broken=broken,
        figures={"smallest p": min(p_values.values())},
        finds=f"one step of three left out; sigma off by {found:.2%}",
    )


def declared_number(quick: bool) -> Seen:
    """The same declared number, more and fewer patients: the noise in the mean stays the same."""
    declared = 4
    plan = PrivacyPlan(1.0, 1.0, 1.0, 1)
    p_values = {}
    for patients in (1, 4, 12):
        data = mechanism.silent_patients(patients)
        taken = mechanism.take_round(MODEL, data, plan, ALL, declared)
        p_values[f"{patients} patients, {declared} declared"] = statistics.deviation_p(
            taken.total, plan.noise_multiplier * plan.clipping_norm
        )
    found = statistics.smallest_found(taken.total.size, level(3))
    return Seen(
        p_values=p_values,
        figures={"smallest p": min(p_values.values())},
        finds=f"a divisor off by {found:.2%}",
    )


def _clipping(segments: int, masks: int, quick: bool) -> Seen:
    plan = PrivacyPlan(1.0, 1.0, CLIP, 1)
    training = LocalTraining(
        segments=segments, patch_masks=masks, optimiser="sgd", learning_rate=1.0
    )
    sizes = (1.0, 1e3) if quick else (0.01, 1.0, 30.0, 1e3, 1e6)
    reached = {}
    broken = []
    for size in (*sizes, math.nan):
        data = mechanism.loud_patients([size], segments)
        vector = mechanism.contribution(MODEL, data, plan, training, 4)
        norm = float(np.linalg.norm(vector)) / CLIP
        reached[size] = norm
        if not norm <= 1.0:
            broken.append(f"a patient {size:g} times as large adds {norm:.4g} C")
    largest = max(norm for size, norm in reached.items() if math.isfinite(size))
    return Seen(
        broken=broken,
        unreached=[] if largest > 0.5 else ["no patient came near C"],
        figures={"largest over C": largest, "patients": len(reached)},
        finds="a contribution above C",
    )


def clipping(quick: bool) -> Seen:
    """One segment, one patch mask."""
    return _clipping(1, 1, quick)


def clipping_segments(quick: bool) -> Seen:
    """Six segments under two patch masks, all alike."""
    return _clipping(6, 2, quick)


def sensitivity(quick: bool) -> Seen:
    """The last patient of each adversarial batch is taken out."""
    plan = PrivacyPlan(1.0, 1.0, CLIP, 1)
    sizes = [(8, 1)] if quick else [(8, 1), (8, 3), (16, 2)]
    reached, broken = [], []
    for patients, segments in sizes:
        training = LocalTraining(segments=segments, optimiser="sgd", learning_rate=1.0)
        for odd_one in mechanism.ODD_ONES:
            data = mechanism.near_duplicates(patients, segments, odd_one)
            vector = mechanism.contribution(MODEL, data, plan, training, patients)
            reached.append(float(np.linalg.norm(vector)) / CLIP)
            if not reached[-1] <= 1.0:
                broken.append(f"one of {patients} ({odd_one}) moves the sum by {reached[-1]:.4g} C")
    return Seen(
        broken=broken,
        unreached=[] if max(reached) > 0.5 else ["no patient came near C"],
        figures={"largest change over C": max(reached), "batches": len(reached)},
        finds="a change above C on these batches",
    )


def whole_round(quick: bool) -> Seen:
    """Three pretend hospitals and a coordinator, over the deployed messages."""
    with tempfile.TemporaryDirectory() as folder:
        seen = mechanism_round.whole_round(Path(folder), datetime.datetime.now(datetime.UTC))
    values = seen.standardised
    p_values = {
        "too small": statistics.below_p(values, 1.0 - _ROUNDING),
        "too large": 1.0 - statistics.below_p(values, 1.0 + _ROUNDING),
    }
    claims = {name for name, private in seen.claims if private}
    broken = []
    if len(claims) != 1 or not all(private for _, private in seen.claims):
        broken.append("a hospital does not say that its noise is private")
    found = _ROUNDING + statistics.smallest_found(values.size, level(2))
    return Seen(
        p_values=p_values,
        broken=broken,
        figures={
            "deviation over promised": float(np.sqrt(np.mean(values**2))),
            "values": values.size,
        },
        finds=f"sigma off by {found:.2%}; noise that two hospitals have in common",
    )


CHECKS = (
    Check(
        "noise-deviation",
        "the noise of every step, in every tensor, has deviation sigma C and is drawn anew",
        "chi-square of the update on patients with zero gradient, by tensor and as a whole",
        noise_deviation,
    ),
    Check(
        "noise-shape",
        "the noise is Gaussian and its coordinates are independent",
        "Kolmogorov-Smirnov; largest autocorrelation over all shifts",
        noise_shape,
    ),
    Check(
        "noise-fresh",
        "no round's noise repeats another's: in one process, after a fork, in new processes",
        "largest correlation of each pair over all shifts",
        noise_fresh,
    ),
    Check(
        "empty-batch",
        "a step that sampled nobody is taken and has its full noise",
        "chi-square; number of steps",
        empty_batch,
    ),
    Check(
        "declared-number",
        "the sum is divided by q times the declared, never the sampled number",
        "chi-square with 1, 4 and 12 patients of 4 declared",
        declared_number,
    ),
    Check(
        "clipping",
        "no patient, however extreme or broken the signal, adds more than C to a step",
        "norm of the difference of two steps with and without the patient, noise alike",
        clipping,
    ),
    Check(
        "clipping-segments",
        "a patient's six segments under two patch masks add C together, not C each",
        "as clipping",
        clipping_segments,
    ),
    Check(
        "sensitivity",
        "one patient changes the step by at most C in a batch made so that coupling shows",
        "as clipping, on near-duplicates and one patient unlike them: five kinds",
        sensitivity,
    ),
    Check(
        "whole-round",
        "the published model of a deployed round carries the noise of every hospital",
        "chi-square of the model's step; what the hospitals signed about their noise",
        whole_round,
    ),
)
