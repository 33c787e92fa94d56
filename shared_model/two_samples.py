"""Are two groups of patients alike? Permutation tests whose unit is a patient, never a window.

    found = mmd_test(first, second)      # first, second: (patient, feature)
    found.statistic, found.p_value

Kernel maximum mean discrepancy (Gretton et al., JMLR 13, 2012) with a Gaussian kernel of the median
distance (Garreau et al., 1707.07269), and the difference of means for a single figure. The p-value
is (1 + permutations at least as far apart) / (1 + permutations): exact at any number of patients if
patients are exchangeable (Phipson & Smyth, 1603.05766). Deterministic: the permutations are public.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared_model.errors import OurMistake

Array = npt.NDArray[np.float64]
PERMUTATIONS = 2000
MOST_PATIENTS = 400
"""Of each group; more are drawn from, evenly."""
_AT_ONCE = 250


@dataclass(frozen=True)
class Tested:
    """statistic: MMD, or the difference of means (second less first)."""

    statistic: float
    p_value: float
    first: int
    second: int


def mmd_test(first: Array, second: Array) -> Tested:
    """Whether two groups of feature vectors are of one distribution.

    Raises:
        OurMistake: fewer than two patients in a group, other shapes, values that are not finite.
    """
    first, second = _some(_checked(first)), _some(_checked(second))
    if first.shape[1] != second.shape[1]:
        raise OurMistake("Both groups have the same features.")
    kernel = _kernel(np.concatenate([first, second]))
    found = _permuted(kernel, len(first), len(second))
    apart = float(np.sqrt(max(found[0], 0.0)))
    return Tested(apart, _p_value(found, kernel), len(first), len(second))


def mean_test(first: Array, second: Array) -> Tested:
    """Whether one figure of a patient has the same mean in two groups; two-sided.

    Raises:
        OurMistake: as `mmd_test`.
    """
    first, second = _some(_checked(first[:, None])), _some(_checked(second[:, None]))
    pooled = np.concatenate([first, second])[:, 0]
    pooled = pooled - pooled.mean()  # the statistic does not change, its rounding gets smaller
    kernel = np.outer(pooled, pooled)
    found = _permuted(kernel, len(first), len(second))
    difference = float(second.mean() - first.mean())
    return Tested(difference, _p_value(found, kernel), len(first), len(second))


def mmd(first: Array, second: Array) -> float:
    """MMD alone, as `mmd_test` has it."""
    first, second = _some(_checked(first)), _some(_checked(second))
    kernel = _kernel(np.concatenate([first, second]))
    signs = _signs(len(first), len(second))
    return float(np.sqrt(max(float(signs @ kernel @ signs), 0.0)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values that hold for all tests together (Holm, 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def _permuted(kernel: Array, first: int, second: int) -> Array:
    """z' K z of the given groups, then of each permutation, z = 1 / n of its group, signed."""
    rng = np.random.default_rng(0)
    signs = _signs(first, second)
    found = [np.array([signs @ kernel @ signs])]
    for start in range(0, PERMUTATIONS, _AT_ONCE):
        count = min(_AT_ONCE, PERMUTATIONS - start)
        drawn = rng.permuted(np.tile(signs, (count, 1)), axis=1)
        found.append(np.einsum("pi,pi->p", drawn @ kernel, drawn))
    return np.concatenate(found)


def _p_value(found: Array, kernel: Array) -> float:
    """Permutations that differ by rounding alone are as far apart."""
    slack = 1e-12 * float(np.abs(kernel).max())
    least = int((found[1:] >= found[0] - slack).sum())
    return (1 + least) / (1 + PERMUTATIONS)


def _signs(first: int, second: int) -> Array:
    return np.concatenate([np.full(first, 1.0 / first), np.full(second, -1.0 / second)])


def _kernel(values: Array) -> Array:
    """exp(-squared distance / median squared distance); all ones where all are alike."""
    squares = np.square(values).sum(1)
    apart: Array = np.maximum(squares[:, None] + squares[None, :] - 2 * values @ values.T, 0.0)
    np.fill_diagonal(apart, 0.0)
    width = float(np.median(apart[np.triu_indices(len(apart), 1)]))
    made: Array = np.exp(-apart / width) if width > 0 else np.ones_like(apart)
    return made


def _checked(values: Array) -> Array:
    made = np.asarray(values, dtype=np.float64)
    if made.ndim != 2 or len(made) < 2 or not np.isfinite(made).all():
        raise OurMistake("A group is (patient, feature), two patients at least, all finite.")
    return made


def _some(values: Array) -> Array:
    if len(values) <= MOST_PATIENTS:
        return values
    return values[np.linspace(0, len(values) - 1, MOST_PATIENTS).round().astype(np.int64)]
