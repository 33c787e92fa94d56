"""What `fedprint-lab demo` does: the road of `demo_road`, shown live, then the report."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.live import Live
from rich.table import Table

from shared_model import terminal
from shared_model.children import Family
from shared_model.errors import OurMistake
from simulations.demo_parts import Demo, Settings, Step
from simulations.demo_road import STEPS

__all__ = ["Settings", "console", "run"]

MARKER = ".fedprint-demo"


def console(arguments: list[str]) -> None:
    """Entry of a child: the console script's own main (see shared_model.children)."""
    import client.cli
    import server.cli

    mains: dict[str, Callable[[], None]] = {
        "fedprint-node": client.cli.main,
        "fedprint-coordinator": server.cli.main,
    }
    sys.argv = arguments
    mains[arguments[0]]()


def run(settings: Settings) -> dict[str, Any]:
    """The whole demo; returns the summary that is also in OUTPUT/summary.json."""
    demo = Demo(settings)
    _prepare_folder(demo)
    began = time.monotonic()
    with Live(console=terminal.err, auto_refresh=False) as live:
        with Family() as family:
            _road(demo, family, lambda: live.update(_display(demo, began), refresh=True))
        from simulations.demo_report import summarise

        with _step(
            demo, "write the report", lambda: live.update(_display(demo, began), refresh=True)
        ):
            summary = summarise(demo, time.monotonic() - began)
    terminal.err.print(f"Report: {demo.root / 'report.html'} (opens without a network)")
    for line in summary["in_words"]:
        terminal.err.print(f"- {line}", highlight=False)
    return summary


def _prepare_folder(demo: Demo) -> None:
    root = demo.root
    if root.exists():
        ours = (root / MARKER).exists()
        if not (demo.settings.replace and ours):
            raise OurMistake(
                f"{root} exists already.",
                do="Choose another folder" + (", or pass --replace." if ours else "."),
            )
        shutil.rmtree(root)
    (root / "logs").mkdir(parents=True)
    (root / MARKER).touch()


def _road(demo: Demo, family: Family, refresh: Callable[[], None]) -> None:
    for title, act in STEPS:
        with _step(demo, title, refresh) as step:
            step.detail = act(demo, family, refresh)


@contextmanager
def _step(demo: Demo, title: str, refresh: Callable[[], None]) -> Iterator[Step]:
    step = Step(title, state="running")
    demo.steps.append(step)
    refresh()
    began = time.monotonic()
    try:
        yield step
        step.state = "done"
    except BaseException:
        step.state = "failed"
        raise
    finally:
        step.seconds = time.monotonic() - began
        refresh()
        if not terminal.err.is_terminal:
            line = f"{step.seconds:6.0f} s  {step.title}: {step.state}  {step.detail}"
            terminal.err.print(line, highlight=False)


def _display(demo: Demo, began: float) -> Table:
    table = Table(title=f"fedprint demo · {time.monotonic() - began:.0f} s", title_justify="left")
    table.add_column("step")
    table.add_column("state")
    table.add_column("s", justify="right")
    table.add_column("what happened", overflow="fold")
    for step in demo.steps:
        seconds = f"{step.seconds:.0f}" if step.seconds else ""
        table.add_row(step.title, step.state, seconds, step.detail)
    return table
