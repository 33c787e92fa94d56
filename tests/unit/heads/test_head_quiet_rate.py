"""The learning rate that noise allows: how far answers go where patients say nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from head_stand_ins import MODEL, asked, made_up
from private_head_stand_ins import ask, hospitals_of

from simulations.heads.federate import LEARNING_RATE, private_head, quiet_rate
from simulations.heads.hospitals import Hospital
from simulations.heads.public import NUMBERS, PublicSpace, of_fingerprints

PUBLIC = made_up(patients=200, seed=99, strength=0.0)
ROUNDS = 40


def silent(declared: tuple[int, ...], space: PublicSpace) -> list[Hospital]:
    """Hospitals whose patients have no gradient: in the middle of all, with the middle's truth."""
    made = []
    dealt = hospitals_of(made_up("number", patients=400), len(declared))
    for one, number in zip(dealt, declared, strict=True):
        centre = np.full_like(one.fit.truth, NUMBERS[one.fit.task][0])
        middle = np.repeat(space.mean[None], len(centre), 0).astype(np.float32)
        fit = replace(one.fit, truth=centre, fingerprints=middle)
        made.append(replace(one, fit=fit, told=number))
    return made


@pytest.mark.parametrize(
    ("declared", "changes"),
    [
        ((70, 70, 70), {"mode": "local"}),
        ((1800, 18, 18), {"mode": "local"}),  # small ones weigh one eighth of the large one each
        ((1800, 18, 18), {"mode": "local", "rounds": 10, "steps": 4}),
        ((70,) * 3, {"mode": "distributed"}),
        ((70,) * 10, {"mode": "distributed", "threshold": 2}),  # the noise of five times as many
    ],
)
def test_noise_by_itself_moves_answers_by_half_a_unit(
    declared: tuple[int, ...], changes: dict[str, Any]
) -> None:
    """It was 3.1 units, 63 years of age, where one hospital is large and others are small, for
    weights were taken to follow patients; and shares above the threshold's were not counted."""
    space = of_fingerprints(PUBLIC.fingerprints, 32)
    moved, rates = [], []
    for seed in range(4):
        asks = ask(**({"rounds": ROUNDS, "sample_rate": 0.2} | changes))
        own = replace(asked(), seed=seed)
        made = private_head(silent(declared, space), MODEL, space, asks, own, borders="made up")
        weight, bias = (made.head.arrays[name][0].astype(float) for name in ("weight", "bias"))
        centre, unit = NUMBERS["age"]
        answers = space.x(PUBLIC.fingerprints) @ weight + bias - centre
        moved.append(np.mean((answers / unit) ** 2))
        rates.append(made.settled.setup.experiment.algorithm.learning_rate)
        assert rates[-1] == pytest.approx(quiet_rate(made.settled, space.components))
    assert rates[0] < LEARNING_RATE
    assert 0.15 < np.sqrt(np.mean(moved)) < 0.6  # half of it, or less: of the last steps' mean
