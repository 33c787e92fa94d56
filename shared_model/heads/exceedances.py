"""How many new patients lie beyond a limit that was chosen among other patients. Pure.

    expected = Expected.of(patients=146, level=0.99, one_item=True)
    expected.share                       # of patients like those: (n + 1 - k) / (n + 1)
    expected.p_value(beyond, among)      # that many or more, by chance

The limit is the k-th smallest distance of n patients left out, k = ceil(level n). Which share of
further patients of the same kind lies beyond it is not 1 - level: it is random, Beta(n + 1 - k, k),
and how many of m do is beta-binomial (Gumbel and von Schelling 1950, "The distribution of the
number of exceedances", 10.1214/aoms/1177729803). With 26 patients the limit is the largest
distance of all, and 3.7 % are beyond, not 1 %; a binomial test against 1 % would cry wolf.

Exact if the distances of both groups are exchangeable and the limit is of one item a patient. Where
a head's patients have several items the limit lies where the patients' mean share reaches the
level, which one item a patient would overshoot: n + 1 - k is then (1 - level) n + 1, a little more
than the true one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from shared_model.heads.distance import Numbers

ERROR = 0.01
"""Share of alike sites that one check calls unlike."""


@dataclass(frozen=True)
class Expected:
    """Share beyond the limit among patients as those it was chosen among: Beta(over, under)."""

    over: float
    under: float

    @classmethod
    def of(cls, patients: int, level: float, *, one_item: bool) -> Expected:
        """Of a limit at `level` of so many patients.

        Args:
            one_item: whether each of them had one item.
        """
        beyond = (1.0 - level) * patients
        if one_item:
            beyond = math.floor(beyond + 1e-9)
        return cls(beyond + 1.0, max(patients - beyond, 1e-9))

    @property
    def share(self) -> float:
        """Mean share beyond."""
        return self.over / (self.over + self.under)

    def p_value(self, beyond: int, among: int) -> float:
        """Probability of so many or more of `among` further patients."""
        return float(self._tails(among)[beyond])

    def alarm_from(self, among: int, error: float = ERROR) -> int | None:
        """Fewest patients beyond that chance explains with a probability below `error`; None where
        not even all of them would."""
        rare = np.flatnonzero(self._tails(among) < error)
        return int(rare[0]) if len(rare) else None

    def _tails(self, among: int) -> Numbers:
        """P(so many or more) for 0 ... among, (count,)."""
        from scipy.stats import betabinom

        mass = betabinom.pmf(np.arange(among + 1), among, self.over, self.under)
        tails = np.cumsum(mass[::-1])[::-1]
        return np.asarray(np.minimum(tails, 1.0))
