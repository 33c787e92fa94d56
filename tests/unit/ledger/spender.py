"""A process that books rounds; the tests kill it or run several of it at once.

Usage: spender.py TABLE RUN FIRST LAST [die-before-commit | die-after-commit]
Prints one line for every round that was booked, after it was booked.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from client.spend import Budget, SpendTable

from shared_model.config import PrivacyPlan
from shared_model.errors import BudgetExhausted

PLAN = PrivacyPlan(sample_rate=0.1, noise_multiplier=2.0, clipping_norm=1.0, steps=20)
BUDGET = Budget(epsilon_lifetime=3.0, epsilon_per_run=3.0, delta=1e-5)


class Dying(SpendTable):
    """Kills its own process around the commit, as a power cut would."""

    when = ""

    def _commit(self) -> None:
        if self.when == "die-before-commit":
            os.kill(os.getpid(), signal.SIGKILL)
        super()._commit()
        if self.when == "die-after-commit":
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    path, run, first, last = sys.argv[1:5]
    Dying.when = sys.argv[5] if len(sys.argv) > 5 else ""
    table = Dying.open(Path(path))
    if not Dying.when:
        print("ready", flush=True)
        sys.stdin.readline()
    for number in range(int(first), int(last)):
        try:
            table.reserve(run, number, PLAN, 100, 1e-5, BUDGET)
        except BudgetExhausted:
            print("refused", flush=True)
            return
        print(f"booked {number}", flush=True)


if __name__ == "__main__":
    main()
