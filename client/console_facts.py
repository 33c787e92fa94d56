"""What the console and the metrics say about the node, read anew from its folder.

Nothing here fails because one file does: what cannot be read is a sentence (`Unread`), so that the
page about a node in trouble still comes up. What is slow to compute (epsilon, rounds left, the
store's catalogue) is kept as long as the file that it follows from stays the same.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from client import keys, state, withdrawals
from client.approvals import LOOK, RunFiles
from client.home import NodeHome
from client.ledger_store import LedgerStore
from client.ledger_view import LedgerView
from client.node import is_running
from client.node_parts import epoch_keys, outbox_of
from client.policy import Policy
from client.rosters import APPROVE, RosterBook, today_utc
from client.settings import NodeSettings, settings_of
from shared_model import signing
from shared_model.errors import FedprintError, Refused
from shared_model.roster import Roster

STALE_S = 60.0
"""A node.json that was not written for so long says nothing about now."""
LOW_DISK_BYTES = 5 * 10**9
LOW_FRACTION = 0.1
EXPIRES_DAYS = 30

_T = TypeVar("_T")


@dataclass(frozen=True)
class Unread:
    """Why something cannot be shown, and what to do."""

    words: str
    do: str = ""


def attempt(read: Callable[[], _T]) -> _T | Unread:
    """The value, or why there is none."""
    try:
        return read()
    except FedprintError as error:
        return Unread(error.message, error.do)
    except (OSError, ValueError, KeyError) as error:
        return Unread(f"It cannot be read ({type(error).__name__}).", "See: fedprint-node doctor")


class Kept(Generic[_T]):
    """The last value, for as long as its key stays the same."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: Any = None
        self._value: _T | None = None

    def get(self, key: Any, make: Callable[[], _T]) -> _T:
        with self._lock:
            if self._value is None or self._key != key:
                self._value, self._key = make(), key
            return self._value


@dataclass(frozen=True)
class Now:
    """What the node does, in a word and a sentence. kind: of the badge."""

    word: str
    kind: str
    words: str
    ready: bool


@dataclass(frozen=True)
class Spending:
    """The ledger in numbers; epsilon at `delta`, for `unit`. warning: why it may be old, or ""."""

    view: LedgerView
    warning: str
    epsilon: float
    left: float
    rounds_left: int | None


@dataclass(frozen=True)
class Warning:
    """Something that waits for the person. kind: "warn" or "bad"."""

    words: str
    do: str = ""
    kind: str = "warn"
    link: str = ""


@dataclass(frozen=True)
class Facts:
    """Reads one node's folder. clock: seconds since 1970."""

    home: NodeHome
    clock: Callable[[], float] = time.time
    _spending: Kept[tuple[float, float, int | None]] = field(default_factory=Kept, repr=False)

    def settings(self) -> NodeSettings | Unread:
        return attempt(lambda: settings_of(self.home))

    def now(self) -> Now:
        """The phase; a file that is old, or of a node that ended, is not believed."""
        found, running = state.node_state(self.home), is_running(self.home)
        if not running:
            return Now("stopped", "bad", "The node does not run. Start it: fedprint-node start",
                       ready=False)  # fmt: skip
        age_s = self.clock() - (found.written_s if found else 0.0)
        if found is None or not -STALE_S < age_s < STALE_S:
            return Now("running", "warn", "The node runs; it has not said lately what it does.",
                       ready=found is None)  # fmt: skip
        why = f" {found.why}" if found.why else ""
        words, kind = {
            "starting": ("The node is starting.", "accent"),
            "running": ("The node runs and takes part in approved runs.", "good"),
            "paused": ("Paused by the operator: nothing new is trained.", "warn"),
            "outside-hours": ("Outside its training hours: nothing new is trained.", "accent"),
            "trouble": ("The node is in trouble and tries again.", "bad"),
            "stopping": ("The node is stopping.", "warn"),
            "stopped": ("The node is stopped.", "bad"),
        }[found.phase]
        ready = found.phase in {"running", "paused", "outside-hours"}
        return Now(found.phase, kind, words + why, ready)

    def roster(self) -> Roster | Unread | None:
        def read() -> Roster | None:
            approved = RosterBook(self.home).approved()
            return None if approved is None else approved.roster

        return attempt(read)

    def epoch(self) -> str:
        """The epoch's number, in words."""

        def read() -> str:
            epochs = epoch_keys(self.home)
            if epochs.held:
                return str(epochs.held)
            return f"no key; the last was {epochs.last}" if epochs.last else "none yet"

        found = attempt(read)
        return found.words if isinstance(found, Unread) else found

    def spending(self) -> Spending | Unread:
        """The ledger, verified; its figures are computed once for each new entry."""
        return attempt(self._read_spending)

    def disk_free_bytes(self) -> int:
        return shutil.disk_usage(self.home.root).free

    def warnings(self) -> list[Warning]:
        """What waits for the person, the worst first."""
        found = [*self._of_the_books(), *self._of_the_roster(), *self._of_runs()]
        if self.disk_free_bytes() < LOW_DISK_BYTES:
            gigabytes = self.disk_free_bytes() / 1e9
            found.append(Warning(f"The disk has {gigabytes:.1f} GB left.", "Make room."))
        return sorted(found, key=lambda one: one.kind != "bad")

    def _read_spending(self) -> Spending:
        policy, warning = Policy.from_file(self.home.policy), ""
        site, key = keys.load_config(self.home).site, signing.load_key_file(self.home.identity_key)
        with LedgerStore.open(self.home, site, key, perhaps_old=True) as store:
            try:
                store.check_current()
            except Refused as error:
                warning = f"NOT CURRENT. {error}"
            view = LedgerView(store.chain, policy)
        epsilon, left, rounds_left = self._spending.get(
            (view.chain.head, policy), lambda: (view.epsilon, view.left, view.rounds_left)
        )
        return Spending(view, warning, epsilon, left, rounds_left)

    def _of_the_books(self) -> list[Warning]:
        found = []
        restored = attempt(lambda: outbox_of(self.home).was_rolled_back())
        if isinstance(restored, Unread) or restored:
            found.append(
                Warning("This node's folder was restored from a backup: it does not know all "
                        "that it has signed and spent.", "Run: fedprint-node restored", "bad")
            )  # fmt: skip
        elif self._may_lack_withdrawals():
            found.append(
                Warning("This node was restored from a backup: who has withdrawn since is not "
                        "known, and nothing trains.",
                        withdrawals.DO, "bad")
            )  # fmt: skip
        spending = self.spending()
        if isinstance(spending, Unread):
            return [*found, Warning(spending.words, spending.do, "bad", "/privacy")]
        if spending.warning:
            found.append(Warning(spending.warning, "", "bad", "/privacy"))
        limit = spending.view.policy.epsilon_lifetime
        if spending.left < LOW_FRACTION * limit:
            found.append(
                Warning(
                    f"Of epsilon {limit:g} for life, {spending.left:.2f} is left.",
                    "Only the hospital can raise the limit, in policy.toml.",
                    link="/privacy",
                )
            )
        return found

    def _may_lack_withdrawals(self) -> bool:
        """Without a store, or its key, by the mark alone."""
        from client.store import withdrawals_are_known

        known = attempt(lambda: withdrawals_are_known(self.home))
        return withdrawals.are_unknown(self.home) if isinstance(known, Unread) else not known

    def _of_the_roster(self) -> list[Warning]:
        pending, approved = attempt(lambda: RosterBook(self.home).pending()), self.roster()
        found = []
        for one in (pending, approved):
            if isinstance(one, Unread):
                found.append(Warning(one.words, one.do, "bad", "/rosters"))
        if pending is not None and not isinstance(pending, Unread):
            words = f"Roster version {pending.roster.version} waits for approval."
            found.append(Warning(words, APPROVE, link="/rosters"))
        if approved is None:
            found.append(
                Warning("This hospital has approved no roster: it takes part in nothing.",
                        "", link="/rosters")
            )  # fmt: skip
        elif not isinstance(approved, Unread) and _days(approved.valid_until) < EXPIRES_DAYS:
            found.append(
                Warning(f"The roster is valid until {approved.valid_until}.",
                        "Ask the operator for the next one.", link="/rosters")
            )  # fmt: skip
        return found

    def _of_runs(self) -> list[Warning]:
        pending = attempt(lambda: RunFiles(self.home).of("pending"))
        if isinstance(pending, Unread):
            return [Warning(pending.words, pending.do, "bad", "/runs")]
        return [
            Warning(f"Run {kept.plan.run} waits for this hospital's yes or no.",
                    f"{LOOK} {kept.plan.run}", link=f"/runs/{kept.plan.run}")
            for kept in pending
        ]  # fmt: skip


def _days(until: str) -> int:
    """Days from today (UTC) to YYYY-MM-DD."""
    import datetime

    today = datetime.date.fromisoformat(today_utc())
    return (datetime.date.fromisoformat(until) - today).days
