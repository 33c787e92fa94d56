"""fedprint-coordinator submissions: what the hospitals have submitted, masked, and its removal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.home import CoordinatorHome
from shared_model import terminal
from shared_model.errors import OurMistake, Refused

app = typer.Typer(
    help="The masked submissions of a run, kept so that an auditor can add them again.",
    no_args_is_help=True,
)


@app.callback()
def main() -> None:
    """The masked submissions of a run, kept so that an auditor can add them again."""


@app.command()
def forget(
    run: Annotated[str, typer.Argument(help="Name of the run.")],
    home: Annotated[
        Path | None,
        typer.Option(help="The coordinator's folder (else FEDPRINT_COORDINATOR_HOME)."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove the submissions of all rounds of a run that have ended, once the run was audited.

    Sums, statements, answers and receipts stay; nobody can add the submissions again.

    Example: fedprint-coordinator submissions forget run-1
    """
    from server.checkpoints import RunFolder

    folder = RunFolder(CoordinatorHome.find(home).run_folder(run))
    if not folder.exists:
        raise OurMistake(f"There is no run {run}.", do="See: fedprint-coordinator status")
    with folder.locked():
        record = folder.record()
        open_sums = [
            item.round
            for item in record.rounds
            if item.outcome == "aggregated" and folder.closing(item.round).state == "unverified"
        ]
        if open_sums:
            terminal.err.print(
                f"Not verified yet: round {', '.join(map(str, open_sums))}. The submissions are "
                "the only other way to check these sums."
            )
        if not yes and not typer.confirm(f"Remove the submissions of run {run} for good?"):
            raise Refused("Nothing was removed.", reason="not-confirmed")
        count = folder.forget_submissions(record)
    terminal.out.print(f"Removed {count} submissions of run {run}.")
