"""Pages of the node console that show: overview, data, what left, releases, rosters, log; pause.

Approvals are in `client.console_runs`, the budget in `client.console_privacy`. Each page is a plain
function of a `Call` (`shared_model.web.site`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from client import state
from client.console_facts import Facts, Kept, Unread, attempt
from client.console_log import ConsoleLog
from client.home import NodeHome
from client.ledger_view import day
from client.reply_clock import tick_of
from client.rosters import RosterBook
from client.state import Progress
from shared_model import roster as rosters
from shared_model.web.site import Answer, Call, Done, Page, Shown, size

SHOWN_SENT = 200
_STAGES = {
    "training": "training",
    "holding": "done; the reply leaves at the next tick of the reply clock",
    "answering": "answering the coordinator",
}
_KINDS = {
    "train-reply": "update of a round: noised, booked in the ledger, masked",
    "epoch-key": "public key of an epoch",
    "agreement": "which hospitals are in the sum, signed",
    "shares-reply": "shares that open the sum of one set of hospitals",
    "close-reply": "check of the published sum",
    "sum-receipt": "receipt: the published sum is right",
    "refusal": "refusal, in one word of a closed list",
    "error": "a bare word that there is no answer",
}


class SentLike(Protocol):
    """One message that left; `client.sent.SentEntry` is one. Times: seconds since 1970."""

    @property
    def handed_over_s(self) -> float: ...
    @property
    def kind(self) -> str: ...
    @property
    def run(self) -> str: ...
    @property
    def round(self) -> int: ...
    @property
    def why(self) -> Sequence[str]: ...
    @property
    def header_bytes(self) -> int: ...
    @property
    def header_digest(self) -> str: ...
    @property
    def body_bytes(self) -> int: ...
    @property
    def body_digest(self) -> str: ...
    @property
    def outcome(self) -> str: ...
    @property
    def delivered_s(self) -> float | None: ...


Sent = Callable[[int], Sequence[SentLike]]
"""The last so many, the newest first."""


@dataclass(frozen=True)
class Pages:
    """Of one node."""

    home: NodeHome
    facts: Facts
    log: ConsoleLog
    sent: Sent
    _data: Kept[dict[str, Any]] = field(default_factory=Kept, repr=False)

    def all(self) -> list[Page]:
        return [
            Page("/", self.overview, nav="Overview"),
            Page("/live/now", self.now),
            Page("/pause", self.pause, method="POST"),
            Page("/resume", self.resume, method="POST"),
            Page("/data", self.data, nav="Data"),
            Page("/sent", self.what_left, nav="Sent"),
            Page("/releases", self.releases, nav="Releases"),
            Page("/rosters", self.rosters, nav="Rosters"),
            Page("/log", self.what_was_done, nav="Log"),
        ]

    # Overview

    def overview(self, call: Call) -> Answer:
        return Shown("overview.html", {**self._now(), **self._standing()})

    def now(self, call: Call) -> Answer:
        return Shown("part_now.html", self._now())

    def _now(self) -> dict[str, Any]:
        found = state.node_state(self.home)
        now = self.facts.now()
        progress = state.progress(self.home) if now.word != "stopped" else None
        return {
            "now": now,
            "since_s": found.since_s if found and now.word == found.phase else None,
            "progress": progress,
            "stage": _STAGES[progress.stage] if progress else "",
            "share": _share(progress),
            "warnings": self.facts.warnings(),
            "processes": found.processes if found and now.word != "stopped" else (),
        }

    def _standing(self) -> dict[str, Any]:
        settings, roster = self.facts.settings(), self.facts.roster()
        facts: list[tuple[str, Any]] = []
        if isinstance(settings, Unread):
            facts.append(("Settings", settings.words))
        else:
            training = settings.training
            facts += [
                ("Hospital", settings.site),
                ("Training hours", str(training.hours) if training.hours else "the whole day"),
                ("Cores", training.cores or "all"),
                ("GPUs", training.gpus or "none"),
                ("Memory", f"{training.memory_gb:g} GB" if training.memory_gb else "no limit"),
            ]
        if isinstance(roster, Unread):
            facts.append(("Roster", roster.words))
        elif roster is None:
            facts.append(("Roster", "none approved"))
        else:
            words = f"version {roster.version}, {len(roster.sites)} hospitals"
            facts.append(("Roster", f"{words}, until {roster.valid_until}"))
        facts += [("Epoch", self.facts.epoch()), ("Reply clock", f"{tick_of(self.home):g} s")]
        facts.append(("Disk free", size(self.facts.disk_free_bytes())))
        return {"facts": facts, "paused": state.paused(self.home)}

    def pause(self, call: Call) -> Answer:
        state.pause(self.home, f"console, session {call.session.id}")
        self.log.write(call.session.id, "pause", "done")
        return Done("/", "Paused: nothing new is trained. What was begun is finished.")

    def resume(self, call: Call) -> Answer:
        state.resume(self.home)
        self.log.write(call.session.id, "resume", "done")
        return Done("/", "Resumed: training goes on in approved runs.")

    # What is here, and what left

    def data(self, call: Call) -> Answer:
        manifest = self.home.store / "manifest.json"
        if not manifest.exists():
            return Shown("data.html", {"summary": None, "fault": None})
        found = attempt(lambda: self._data.get(_stamp(manifest), lambda: summary_of(self.home)))
        if isinstance(found, Unread):
            return Shown("data.html", {"summary": None, "fault": found})
        channels = found["refusals"]
        reasons = sorted({reason for counts in channels.values() for reason in counts})
        refusals: list[dict[str, Any]] = [
            {
                "reason": "accepted",
                **{c: found["windows"] - sum(counts.values()) for c, counts in channels.items()},
            }
        ]
        refusals += [
            {"reason": one, **{c: counts.get(one, 0) for c, counts in channels.items()}}
            for one in reasons
        ]
        return Shown("data.html", {"summary": found, "fault": None, "refusals": refusals})

    def what_left(self, call: Call) -> Answer:
        entries = self.sent(SHOWN_SENT)
        rows = [
            {
                "when_s": one.handed_over_s,
                "what": _KINDS.get(one.kind, "another message"),
                "run": one.run,
                "round": one.round if one.run else None,
                "why": "; ".join(one.why),
                "bytes": one.header_bytes + one.body_bytes,
                "digests": [one.header_digest, *([one.body_digest] if one.body_bytes else [])],
                "outcome": one.outcome,
                "delivered_s": one.delivered_s,
            }
            for one in entries
        ]
        total = size(sum(one.header_bytes + one.body_bytes for one in entries))
        return Shown("sent.html", {"rows": rows, "total": total})

    # Releases, rosters, log

    def releases(self, call: Call) -> Answer:
        from client import install
        from shared_model.release_words import words

        found = attempt(lambda: install.current(self.home))
        lines = list(words(found.manifest)) if found and not isinstance(found, Unread) else []
        before = attempt(lambda: install.previous(self.home))
        inbox = self.home.inbox
        waiting = sorted(path.name for path in inbox.glob("*.fedprint")) if inbox.is_dir() else []
        return Shown(
            "releases.html",
            {
                "fault": found if isinstance(found, Unread) else None,
                "lines": lines,
                "before": None if isinstance(before, Unread) else before,
                "waiting": waiting[:32],
            },
        )

    def rosters(self, call: Call) -> Answer:
        book = RosterBook(self.home)
        approved, pending = self.facts.roster(), attempt(book.pending)
        known = attempt(book.before)
        old = None if isinstance(known, Unread) else known
        waits = pending.roster if pending and not isinstance(pending, Unread) else None
        return Shown(
            "rosters.html",
            {
                "faults": [one for one in (approved, pending) if isinstance(one, Unread)],
                "approved": rosters.in_words(approved)
                if approved and not isinstance(approved, Unread)
                else [],
                "pending": rosters.in_words(waits) if waits else [],
                "changes": rosters.differences(old, waits) if waits else [],
            },
        )

    def what_was_done(self, call: Call) -> Answer:
        return Shown("log.html", {"rows": self.log.last(200), "own": call.session.id})


def summary_of(home: NodeHome) -> dict[str, Any]:
    """What `fedprint-node data show --json` prints, without reading every window again."""
    from client import cli_data_key
    from client.cli_data import summary_of_store
    from client.store import open_store

    store = open_store(home)
    return {**summary_of_store(store), "at_rest": cli_data_key.in_words(store)}


def when(seconds: float) -> str:
    """YYYY-MM-DD HH:MM UTC."""
    return f"{day(int(seconds))} UTC" if 0 < seconds < 2**40 else "unknown"


def _share(progress: Progress | None) -> tuple[int, int]:
    """(steps done, steps)."""
    if progress is None:
        return 0, 0
    return max(0, min(progress.step, progress.steps)), max(0, progress.steps)


def _stamp(path: Any) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size
