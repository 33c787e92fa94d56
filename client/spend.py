"""The spend table: every private step that this hospital's patients were ever put through.

Written ahead: a row is on the disk before training starts, so that a crash can overstate what was
spent and never understate it. Looking up the history, composing it with the new round, comparing
with the budget and writing the row are one SQLite transaction that locks out other processes.

Files: `spend.sqlite` (rollback journal: one file holds everything committed, where the log of a
write-ahead journal could be left behind in a copy) and beside it `spend.marker`, which says that
there is a table, which one, and how many rows it had at least. A table that is missing, exchanged
for another, or put back from an older copy is refused. Someone who deletes both files is not
detected here: that is what the countersigned hash chain is for.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from client.spend_file import (
    LOCK_TIMEOUT_S,
    Marker,
    check,
    create,
    read_marker,
    refuse,
    write_marker,
)
from shared_model import accounting
from shared_model.config import PrivacyPlan
from shared_model.errors import BudgetExhausted, OurMistake, Refused


@dataclass(frozen=True)
class Budget:
    """The hospital's limits. Infinite ones exist for simulations only: a policy cannot say them."""

    epsilon_lifetime: float
    epsilon_per_run: float
    delta: float

    def __post_init__(self) -> None:
        if not (self.epsilon_lifetime > 0.0 and self.epsilon_per_run > 0.0):
            raise OurMistake("A budget's epsilon must be above 0.")
        if not 0.0 < self.delta < 1.0:
            raise OurMistake("A budget's delta must be in (0, 1).")

    @classmethod
    def unlimited_non_private_for_tests(cls, delta: float = 1e-5) -> Budget:
        """Lets rounds with non-private noise through; for `tests` and `simulations` only."""
        return cls(epsilon_lifetime=float("inf"), epsilon_per_run=float("inf"), delta=delta)


@dataclass(frozen=True)
class Reservation:
    """A row as it is on the disk. `update_digest` None: not known to have been answered."""

    sequence: int
    run: str
    round: int
    site: str
    plan: PrivacyPlan
    declared_patients: int
    delta: float
    noise: str
    private: bool
    model_digest: str
    epsilon_lifetime_after: float
    epsilon_run_after: float
    reserved_at_s: int
    update_digest: str | None
    settled_at_s: int | None

    def as_dict(self) -> dict[str, Any]:
        """For tables and `--json`; an infinite epsilon is null."""
        finite = {
            name: None if value == float("inf") else value
            for name, value in (
                ("epsilon_lifetime_after", self.epsilon_lifetime_after),
                ("epsilon_run_after", self.epsilon_run_after),
            )
        }
        return {
            "sequence": self.sequence,
            "run": self.run,
            "round": self.round,
            "site": self.site,
            "unit": "patient",
            **self.plan.as_dict(),
            "declared_patients": self.declared_patients,
            "delta": self.delta,
            "noise": self.noise,
            "private": self.private,
            "model_digest": self.model_digest,
            **finite,
            "reserved_at_s": self.reserved_at_s,
            "update_digest": self.update_digest,
            "settled_at_s": self.settled_at_s,
        }


class SpendTable:
    """Opened by `SpendTable.open`; usable by several processes at once."""

    def __init__(
        self, path: Path, connection: sqlite3.Connection, table_id: str, clock: Callable[[], float]
    ) -> None:
        self._path = path
        self._connection = connection
        self._table_id = table_id
        self._clock = clock

    @classmethod
    def open(cls, path: Path, *, clock: Callable[[], float] = time.time) -> SpendTable:
        """Open the table, or make the first one of this node.

        Raises:
            Refused: reason "spend_table": missing although this node had one, damaged, not a
                spend table, of another version, exchanged for another, or older than it was.
        """
        marker = read_marker(path)
        if marker is not None and not path.exists():
            raise refuse("The spend table is missing, though this node has trained before.")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT_S, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA synchronous = EXTRA")
            connection.execute("PRAGMA fullfsync = ON")
            connection.execute("PRAGMA trusted_schema = OFF")
            if marker is None:
                create(connection, path)
            table_id = check(connection)
            table = cls(path, connection, table_id, clock)
            if marker is not None:
                table._hold_against(marker)
            count = len(table.rows())
            if marker is None or marker.rows < count:
                table._write_marker(count)
        except sqlite3.DatabaseError as error:
            connection.close()
            raise refuse(f"The spend table cannot be read ({error}).") from error
        except BaseException:
            connection.close()
            raise
        return table

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def reserve(
        self,
        run: str,
        round: int,
        plan: PrivacyPlan,
        declared_patients: int,
        delta: float,
        budget: Budget,
        *,
        site: str = "",
        model_digest: str = "",
        noise: str = "system entropy, AES-256-CTR",
        private: bool = True,
    ) -> Reservation:
        """Book a round before anything is trained; on the disk when this returns.

        Composes all rows (and all rows of the run) with the new plan at the table's delta. A
        round with non-private noise costs infinity, and so does everything composed with it.

        Args:
            private: `noise.private` of the source that the round will use.

        Raises:
            BudgetExhausted: the hospital's or the run's epsilon would be crossed.
            Refused: reason "replay": this (run, round) is booked already: answer with the stored
                reply or not at all; reason "delta": not the delta this table started with.
        """
        if round < 0 or not run or declared_patients < 1:
            raise OurMistake(
                "A reservation needs a run, a round and a declared number of patients."
            )
        if delta != budget.delta:
            raise OurMistake("The delta of the round and of the budget differ.")
        with self._transaction() as connection:
            rows = self.rows()
            if any(row.run == run and row.round == round for row in rows):
                raise Refused(
                    f"Round {round} of this run is booked already.",
                    reason="replay",
                    do="Send the stored reply again; a new attempt is a new round.",
                )
            self._fix_delta(delta)
            lifetime, of_run = self._cost(rows, run, plan, private, delta)
            _hold_within(budget, lifetime, of_run)
            sequence = connection.execute(
                "INSERT INTO rounds (run, round, site, mode, unit, sample_rate, noise_multiplier,"
                " clipping_norm, steps, declared_patients, delta, noise, private, model_digest,"
                " epsilon_lifetime_after, epsilon_run_after, reserved_at_s)"
                " VALUES (?, ?, ?, ?, 'patient', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    run,
                    round,
                    site,
                    plan.mode,
                    float(plan.sample_rate),
                    float(plan.noise_multiplier),
                    float(plan.clipping_norm),
                    plan.steps,
                    declared_patients,
                    delta,
                    noise,
                    int(private),
                    model_digest,
                    lifetime,
                    of_run,
                    int(self._clock()),
                ),
            ).lastrowid
        self._write_marker(int(sequence or 0))
        found = self.find(run, round)
        if found is None:
            raise refuse("A row of the spend table vanished while it was being written.")
        return found

    def settle(self, reservation: Reservation, update_digest: str) -> None:
        """Record the digest of the update that the round produced, once.

        Raises:
            OurMistake: the row does not exist or was settled before.
        """
        if not update_digest:
            raise OurMistake("An update has a digest.")
        with self._transaction() as connection:
            changed = connection.execute(
                "UPDATE rounds SET update_digest = ?, settled_at_s = ?"
                " WHERE sequence = ? AND run = ? AND round = ? AND update_digest IS NULL",
                (
                    update_digest,
                    int(self._clock()),
                    reservation.sequence,
                    reservation.run,
                    reservation.round,
                ),
            ).rowcount
            if changed != 1:
                raise OurMistake("This round is not open in the spend table.")

    def find(self, run: str, round: int) -> Reservation | None:
        """The row of a round, if it was ever booked."""
        return next((row for row in self.rows() if (row.run, row.round) == (run, round)), None)

    def rows(self) -> tuple[Reservation, ...]:
        """All rows in the order in which they were booked.

        Raises:
            Refused: a row is missing or makes no sense.
        """
        self._connection.row_factory = sqlite3.Row
        rows = self._connection.execute("SELECT * FROM rounds ORDER BY sequence").fetchall()
        last = self._connection.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = 'rounds'"
        ).fetchone()
        wanted = int(last["seq"]) if last is not None else 0
        if [int(row["sequence"]) for row in rows] != list(range(1, wanted + 1)):
            raise refuse("Rows of the spend table are missing.")
        return tuple(_reservation(row) for row in rows)

    @property
    def delta(self) -> float | None:
        """Fixed at the first reservation; None before."""
        value = self._connection.execute("SELECT delta FROM identity").fetchone()[0]
        return None if value is None else float(value)

    def epsilon(self, delta: float | None = None, *, run: str | None = None) -> float:
        """What was spent, over everything or over one run; infinity after a non-private round.

        Args:
            delta: the table's own if None.
        """
        rows = [row for row in self.rows() if run is None or row.run == run]
        if not rows:
            return 0.0
        if not all(row.private for row in rows):
            return float("inf")
        chosen = self.delta if delta is None else delta
        if chosen is None:
            raise OurMistake("The spend table has no delta yet.")
        return accounting.epsilon_pld([row.plan for row in rows], chosen)

    def _cost(
        self,
        rows: tuple[Reservation, ...],
        run: str,
        plan: PrivacyPlan,
        private: bool,
        delta: float,
    ) -> tuple[float, float]:
        costs = []
        for chosen in (rows, tuple(row for row in rows if row.run == run)):
            if private and all(row.private for row in chosen):
                plans = [row.plan for row in chosen]
                costs.append(accounting.epsilon_pld([*plans, plan], delta))
            else:
                costs.append(float("inf"))
        return costs[0], costs[1]

    def _fix_delta(self, delta: float) -> None:
        fixed = self.delta
        if fixed is None:
            self._connection.execute("UPDATE identity SET delta = ?", (delta,))
        elif fixed != delta:
            raise Refused(
                f"This hospital's delta was fixed at {fixed:g}; the policy now says {delta:g}.",
                reason="delta",
                do="Put the first delta back into policy.toml.",
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One writer at a time across processes; durable at the end, undone by any exception."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise refuse(f"The spend table cannot be written ({error}).") from error
        try:
            yield self._connection
        except BaseException:
            self._connection.rollback()
            raise
        self._commit()

    def _commit(self) -> None:
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._connection.rollback()
            raise refuse(f"The spend table cannot be written ({error}).") from error

    def _hold_against(self, marker: Marker) -> None:
        if marker.table_id != self._table_id:
            raise refuse("The spend table is not the one that this node has kept so far.")
        if marker.rows > len(self.rows()):
            raise refuse("The spend table is older than it was: rows were lost.")

    def _write_marker(self, rows: int) -> None:
        write_marker(self._path, Marker(self._table_id, rows))


def _hold_within(budget: Budget, lifetime: float, of_run: float) -> None:
    for what, cost, limit in (
        ("lifetime", lifetime, budget.epsilon_lifetime),
        ("run", of_run, budget.epsilon_per_run),
    ):
        if not cost <= limit:
            raise BudgetExhausted(
                f"This round would bring the {what}'s epsilon to {cost:.2f} per patient (delta "
                f"{budget.delta:g}); the hospital allows {limit:g}.",
                do="Only the hospital can raise the limit, in policy.toml.",
            )


def _reservation(row: sqlite3.Row) -> Reservation:
    try:
        plan = PrivacyPlan(
            sample_rate=float(row["sample_rate"]),
            noise_multiplier=float(row["noise_multiplier"]),
            clipping_norm=float(row["clipping_norm"]),
            steps=int(row["steps"]),
            mode=row["mode"],
        )
    except OurMistake as error:
        raise refuse(f"Row {row['sequence']} of the spend table makes no sense.") from error
    return Reservation(
        sequence=int(row["sequence"]),
        run=str(row["run"]),
        round=int(row["round"]),
        site=str(row["site"]),
        plan=plan,
        declared_patients=int(row["declared_patients"]),
        delta=float(row["delta"]),
        noise=str(row["noise"]),
        private=bool(row["private"]),
        model_digest=str(row["model_digest"]),
        epsilon_lifetime_after=float(row["epsilon_lifetime_after"]),
        epsilon_run_after=float(row["epsilon_run_after"]),
        reserved_at_s=int(row["reserved_at_s"]),
        update_digest=row["update_digest"],
        settled_at_s=row["settled_at_s"],
    )
