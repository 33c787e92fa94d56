"""What `fedprint-coordinator start` shows while a run goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from server.progress import REFUSALS
from shared_model import terminal


class Display:
    """Rounds, sites and time left on standard error, as a bar and one line for each event."""

    def __init__(self, name: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Left

        self.state, self.pause = "interrupted", ""
        self.began = time.monotonic()
        self.bar = Progress(
            TextColumn(f"{name}: {{task.description}}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("rounds, left"),
            Left(),
            console=terminal.err,
            transient=True,
        )
        self.task = self.bar.add_task("starting", total=None)
        self.bar.start()

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "ended":
            self.state, self.pause = str(event["state"]), str(event["pause"])
        if event["event"] != "progress":
            return
        sites = (
            f", {event['answered']} of {event['asked']} sites answered" if event["asked"] else ""
        )
        self.bar.update(
            self.task,
            total=event["rounds"],
            completed=event["completed"],
            description=f"round {event['round']} {event['kind']}{sites}",
        )
        detail = str(event["detail"])
        if event["kind"] == "refused" and detail in REFUSALS:
            detail = f"{detail}: {REFUSALS[detail]}"
        about = " ".join(words for words in (str(event["site"]), detail) if words)
        self.bar.console.print(
            f"{time.monotonic() - self.began:7.1f} s  round {event['round']}  {event['kind']}"
            f"{': ' if about else ''}{about}",
            highlight=False,
        )

    def close(self) -> None:
        self.bar.stop()
