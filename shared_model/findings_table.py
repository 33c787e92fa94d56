"""Findings at the terminal: a table, or JSON, and the exit code that they make."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from shared_model import terminal
from shared_model.findings import Finding, exit_code

_COLOURS = {"ok": "green", "attention": "yellow", "broken": "bold red"}


def show_and_exit(findings: Sequence[Finding], *, as_json: bool) -> None:
    """Print them, one line a check.

    Raises:
        typer.Exit: 3 if something is broken.
    """
    if as_json:
        terminal.print_json([finding.content() for finding in findings])
    else:
        width = max((len(finding.check) for finding in findings), default=0)
        for finding in findings:
            line = f" {finding.check:{width}}  {finding.found}"
            if finding.do:
                line += f". Do: {finding.do}"
            style = _COLOURS[finding.state]
            terminal.heading(f"{finding.state:9}", line, style=style, soft_wrap=True)
        count = {state: sum(f.state == state for f in findings) for state in _COLOURS}
        words = ", ".join(f"{number} {state}" for state, number in count.items())
        terminal.out.print(words, highlight=False)
    raise typer.Exit(exit_code(findings))
