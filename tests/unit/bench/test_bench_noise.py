"""`bench noise` runs and prints its figures; its tests of a law find laws that are wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from typer.testing import CliRunner

from shared_model.noise import NonPrivateForTests
from simulations import bench_noise
from simulations.cli import app
from simulations.noise_laws import gaussian_p_values, integer_p_value

TINY = bench_noise.Sizes(dimension=1000, repeats=1, sample=200_000)
SPEEDS = {
    "draws_per_s_per_core",
    "torch_draws_per_s_per_core",
    "integer_draws_per_s_per_core",
    "ratio_vs_torch_normal",
}
LAWS = {"ks_p", "mean_p", "variance_p", "autocorrelation_p", "tail_p"}


def seeded() -> NonPrivateForTests:
    return NonPrivateForTests("bench", "noise", 1, 1)


def test_bench_noise_prints_the_promised_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speeds and p-values, as JSON; what is being done is told on stderr."""
    monkeypatch.setattr(bench_noise, "QUICK", TINY)
    done = CliRunner().invoke(app, ["bench", "noise", "--quick", "--json"])
    assert done.exit_code == 0
    found = json.loads(done.stdout)["figures"]
    laws = {f"{kind}_{name}" for kind in ("normal", "integer") for name in LAWS}
    assert set(found) == SPEEDS | laws | {"integer_pmf_p"}
    assert all(found[name] > 0.0 for name in SPEEDS)
    assert all(1e-7 < found[name] <= 1.0 for name in set(found) - SPEEDS)
    assert "turn 1 of 1" in done.stderr


def test_our_noise_passes_its_own_tests() -> None:
    """A fixed seed, so that the p-values are always the same; more than one piece."""
    noise = seeded()
    found = gaussian_p_values(lambda size: noise.normal(size, 1.0), 2_500_000)
    assert min(found.values()) > 1e-3
    draws = noise.discrete_gaussian(1_000_000, Fraction(1, 4))
    assert integer_p_value(draws, Fraction(1, 4)) > 1e-3


def _cut(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -3.99, 3.99)


def _smooth(x: np.ndarray) -> np.ndarray:
    return (x + 0.02 * np.roll(x, 3)) / np.sqrt(1.0004)


def _shared_radius(x: np.ndarray) -> np.ndarray:
    """The second half has the sizes of the first and signs of its own, as Box-Muller's pairs."""
    half = 1 << 15
    parts = [part for start in range(0, x.size - 2 * half + 1, 2 * half)
             for part in (x[start : start + half],
                          np.copysign(x[start : start + half], x[start + half : start + 2 * half]))
             ]  # fmt: skip
    return np.concatenate(parts)


@pytest.mark.parametrize(
    ("wrong", "which"),
    [
        (lambda x: x * 1.01, "variance_p"),
        (lambda x: x + 0.01, "mean_p"),
        (lambda x: np.sign(x) * np.abs(x) ** 1.05, "ks_p"),
        (_cut, "tail_p"),
        (_smooth, "autocorrelation_p"),
        (_shared_radius, "autocorrelation_p"),
    ],
    ids=["too wide", "off centre", "bent", "tail cut at 3.99", "lag 3", "common radius"],
)
def test_wrong_laws_are_found(wrong: Callable[[np.ndarray], np.ndarray], which: str) -> None:
    """Each by the test that is made for it."""
    noise = seeded()
    found = gaussian_p_values(lambda size: wrong(noise.normal(size, 1.0)), 1 << 20)
    assert found[which] < 1e-6


def test_integers_of_a_rounded_gaussian_are_told_from_a_discrete_one() -> None:
    """At sigma 1/2 the two laws differ by more than a million draws can hide."""
    rounded = np.rint(seeded().normal(1_000_000, 0.5)).astype(np.int64)
    assert integer_p_value(rounded, Fraction(1, 4)) < 1e-6
