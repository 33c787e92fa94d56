"""What a hospital's own monitor reads at /metrics: Prometheus text, behind a bearer token.

docs/hospital-it.md lists the names. Nothing here is computed from recordings, and there is no count
of patients: phase, restarts, answers and refusals, epsilon, bytes, times, disk.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from client import state
from client.approvals import RunFiles
from client.console_facts import Facts, Unread, attempt
from client.policy import installed_code
from client.rosters import RosterBook
from client.state import Phase
from shared_model.ledger import Answered, Booked
from shared_model.protocol import PRIVACY_UNIT
from shared_model.protocol_words import RefusalReason

_CHUNK_BYTES = 8 * 1024 * 1024
_REASONS = frozenset(get_args(RefusalReason))
_OUTCOMES = ("delivered", "not-taken", "run-over", "expired", "lost")


class Tail:
    """New lines of a JSON-lines file, also over its renaming to `NAME.1`. Starts at its begin."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._at = 0, 0

    def lines(self) -> Iterator[dict[str, Any]]:
        """Whole lines that were added since the last call; others are left out."""
        try:
            found = self._path.stat()
        except OSError:
            return
        if self._inode and found.st_ino != self._inode:
            older = self._path.with_name(f"{self._path.name}.1")
            if older.exists() and older.stat().st_ino == self._inode:
                yield from self._from(older)
            self._inode, self._at = 0, 0
        if found.st_size < self._at:
            self._at = 0
        self._inode = found.st_ino
        yield from self._from(self._path)

    def _from(self, path: Path) -> Iterator[dict[str, Any]]:
        try:
            with path.open("rb") as stream:
                stream.seek(self._at)
                while chunk := stream.read(_CHUNK_BYTES):
                    whole = chunk.rfind(b"\n") + 1
                    if not whole:
                        return
                    self._at += whole
                    stream.seek(self._at)
                    for line in chunk[:whole].splitlines():
                        try:
                            value = json.loads(line)
                        except ValueError:
                            continue
                        if isinstance(value, dict):
                            yield value
        except OSError:
            return


@dataclass(eq=False)
class NodeMetrics(Collector):
    """Of one node. Counters of logs begin with the console's process, at the log's present file."""

    facts: Facts
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _messages: Counter[tuple[str, str]] = field(default_factory=Counter, repr=False)
    _sent: Counter[str] = field(default_factory=Counter, repr=False)
    _last_reply_s: float = 0.0

    def __post_init__(self) -> None:
        logs = self.facts.home.logs
        self._rounds, self._left = Tail(logs / "rounds.log"), Tail(logs / "sent.log")
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """All of it now."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing is read for it."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Metrics as they are now; what cannot be read is left out."""
        with self._lock:
            self._read_logs()
            yield from self._of_the_node()
            yield from self._of_messages()
            yield from self._of_the_ledger()
            yield from self._of_what_waits()

    def _of_the_node(self) -> Iterator[Metric]:
        facts = self.facts
        settings = facts.settings()
        site = "unknown" if isinstance(settings, Unread) else settings.site
        info = GaugeMetricFamily(
            "fedprint_node_info", "This node: always 1.", labels=["site", "code_digest"]
        )
        info.add_metric([site, installed_code()], 1)
        yield info
        now, written = facts.now(), state.node_state(facts.home)
        phase = GaugeMetricFamily(
            "fedprint_node_phase", "1 for the phase that the node is in.", labels=["phase"]
        )
        for name in get_args(Phase):
            phase.add_metric([name], float(name == now.word))
        yield phase
        yield GaugeMetricFamily(
            "fedprint_node_ready", "Whether it does what it is there for.", value=float(now.ready)
        )
        paused = float(state.paused(facts.home) is not None)
        yield GaugeMetricFamily("fedprint_node_paused", "The operator said pause.", value=paused)
        restarts = CounterMetricFamily(
            "fedprint_node_process_restarts",
            "Restarts of a process since the node was started.",
            labels=["process"],
        )
        for process in written.processes if written else ():
            restarts.add_metric([process.name], process.restarts)
        yield restarts
        progress = state.progress(facts.home)
        yield GaugeMetricFamily(
            "fedprint_node_round", "Round that is being answered; 0: none.",
            value=progress.round if progress else 0,
        )  # fmt: skip
        yield GaugeMetricFamily(
            "fedprint_node_disk_free_bytes", "Free on the disk of the node's folder.",
            value=facts.disk_free_bytes(),
        )  # fmt: skip

    def _of_messages(self) -> Iterator[Metric]:
        messages = CounterMetricFamily(
            "fedprint_node_messages",
            "Messages of the coordinator, replied to or refused, by reason.",
            labels=["outcome", "reason"],
        )
        for (outcome, reason), count in sorted(self._messages.items()):
            messages.add_metric([outcome, reason], count)
        yield messages
        yield CounterMetricFamily(
            "fedprint_node_sent_bytes", "Bytes of messages handed over to leave.",
            value=self._sent["bytes"],
        )  # fmt: skip
        delivered = CounterMetricFamily(
            "fedprint_node_sent_messages", "Messages that ended so.", labels=["outcome"]
        )
        for outcome in _OUTCOMES:
            delivered.add_metric([outcome], self._sent[outcome])
        yield delivered
        yield GaugeMetricFamily(
            "fedprint_node_last_reply_timestamp_seconds",
            "When the last message was handed over to leave; 0: none since the console began.",
            value=self._last_reply_s,
        )

    def _of_the_ledger(self) -> Iterator[Metric]:
        found = self.facts.spending()
        whole = not isinstance(found, Unread) and not found.warning
        yield GaugeMetricFamily(
            "fedprint_node_ledger_current", "The ledger is whole and the newest that is known.",
            value=float(whole),
        )  # fmt: skip
        if isinstance(found, Unread):
            return
        view = found.view
        names = ["delta", "unit", "trust_model"]
        labels = [f"{view.delta:g}", PRIVACY_UNIT, view.trust_model]
        for name, words, value in (
            ("spent", "Epsilon spent for life.", found.epsilon),
            ("left", "Epsilon for life that is left.", found.left),
            ("limit", "Epsilon for life that the policy allows.", view.policy.epsilon_lifetime),
        ):
            gauge = GaugeMetricFamily(f"fedprint_node_epsilon_{name}", words, labels=names)
            gauge.add_metric(labels, value)
            yield gauge
        if found.rounds_left is not None:
            yield GaugeMetricFamily(
                "fedprint_node_rounds_left", "Rounds like the last that the budget has room for.",
                value=found.rounds_left,
            )  # fmt: skip
        yield CounterMetricFamily(
            "fedprint_node_rounds_booked", "Rounds booked in the ledger.",
            value=view.chain.count(Booked),
        )  # fmt: skip
        yield CounterMetricFamily(
            "fedprint_node_rounds_answered", "Booked rounds whose update could leave.",
            value=view.chain.count(Answered),
        )  # fmt: skip

    def _of_what_waits(self) -> Iterator[Metric]:
        home = self.facts.home
        waits = GaugeMetricFamily(
            "fedprint_node_waiting", "Decisions that wait for the operator.", labels=["what"]
        )
        runs = attempt(lambda: RunFiles(home).of("pending"))
        if not isinstance(runs, Unread):
            waits.add_metric(["run"], len(runs))
        pending = attempt(RosterBook(home).pending)
        if not isinstance(pending, Unread):
            waits.add_metric(["roster"], float(pending is not None))
        yield waits

    def _read_logs(self) -> None:
        for line in self._rounds.lines():
            outcome, reason = line.get("outcome"), line.get("reason", "")
            if outcome in {"replied", "refused"}:
                known = reason if reason in _REASONS else "" if outcome == "replied" else "other"
                self._messages[outcome, known] += 1
        for line in self._left.lines():
            if isinstance(line.get("handed_over_s"), float | int):
                self._sent["bytes"] += _count(line, "header_bytes") + _count(line, "body_bytes")
                self._last_reply_s = max(self._last_reply_s, float(line["handed_over_s"]))
            elif line.get("outcome") in _OUTCOMES:
                self._sent[str(line["outcome"])] += 1


def _count(line: dict[str, Any], key: str) -> int:
    value = line.get(key, 0)
    return value if isinstance(value, int) and value >= 0 else 0
