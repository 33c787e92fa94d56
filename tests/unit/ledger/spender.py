"""A process that books rounds; the tests kill it or run several of it at once.

Usage: spender.py FOLDER RUN FIRST LAST [die-before-commit | die-after-commit | die-before-notes]
Prints one line for every round that was booked, after it was booked.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from books_stand_ins import KEY, SITE, book

from client.home import NodeHome
from client.ledger_store import Budget, LedgerStore
from shared_model.errors import BudgetExhausted
from shared_model.ledger import Chain

BUDGET = Budget(epsilon_lifetime=3.0, epsilon_per_run=3.0, delta=1e-5)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Dying(LedgerStore):
    """Kills its own process around the commit, as a power cut would."""

    when = ""

    def _commit(self) -> None:
        if self.when == "die-before-commit":
            die()
        super()._commit()
        if self.when == "die-after-commit":
            die()

    def _committed(self, chain: Chain) -> None:
        if self.when == "die-before-notes":
            die()
        super()._committed(chain)


def main() -> None:
    folder, run, first, last = sys.argv[1:5]
    Dying.when = sys.argv[5] if len(sys.argv) > 5 else ""
    store = Dying.open(NodeHome(Path(folder)), SITE, KEY)
    if not Dying.when:
        print("ready", flush=True)
        sys.stdin.readline()
    for number in range(int(first), int(last)):
        try:
            book(store, run, number, BUDGET)
        except BudgetExhausted:
            print("refused", flush=True)
            return
        print(f"booked {number}", flush=True)


if __name__ == "__main__":
    main()
