"""fedprint-node run: which runs wait for this hospital's yes, what they would cost, yes or no."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.home import NodeHome
from shared_model import terminal
from shared_model.errors import OurMistake, Refused

Home = Annotated[Path | None, typer.Option(help="The node's folder (else FEDPRINT_NODE_HOME).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Run = Annotated[str, typer.Argument(help="Name of the run, as `run list` shows it.")]

app = typer.Typer(
    help="Runs of training: what each would cost, and this hospital's yes or no.",
    no_args_is_help=True,
)


def register(app_: typer.Typer) -> None:
    """Add this part's commands."""
    app_.add_typer(app, name="run")


@app.command("list")
def list_(home: Home = None, as_json: AsJson = False) -> None:
    """List the runs that were ever shown to this node: pending, approved, refused.

    Example: fedprint-node run list
    """
    from client.approvals import approvals_of
    from client.run_words import rows as rows_of

    rows = rows_of(approvals_of(NodeHome.find(home)))
    if as_json:
        terminal.print_json([{k.replace(" ", "_"): v for k, v in row.items()} for row in rows])
    elif rows:
        terminal.show("Runs", [{**row, "plan": row["plan"][:16]} for row in rows], as_json=False)
    else:
        terminal.out.print("No run was shown to this node yet.")


@app.command()
def show(run: Run, home: Home = None, as_json: AsJson = False) -> None:
    """Say in words what a run would do here, what it would cost, and what would be left.

    Example: fedprint-node run show spring
    """
    from client.approvals import approvals_of
    from client.run_cost import facts
    from client.run_words import plan_in_words, weights

    place = NodeHome.find(home)
    book = approvals_of(place)
    plan, state = book.shown(run)
    if as_json:
        cost, booked = book.cost(plan)
        known = facts(plan, cost, code=book.code, weights=weights(place), booked=booked)
        terminal.print_json({"run": run, "state": state, **known})
        return
    _print([f"State: {state}.", *plan_in_words(place, book, plan)])


@app.command()
def approve(
    run: Run,
    home: Home = None,
    yes: Annotated[bool, typer.Option("--yes", help="The plan was read already.")] = False,
    plan: Annotated[
        str, typer.Option(help="Digest of the plan that was read: approve no other.")
    ] = "",
) -> None:
    """Say yes to a run, after its plan was read. The yes is an entry of the privacy ledger.

    Example: fedprint-node run approve spring
    """
    from client.approvals import approvals_of
    from client.run_words import plan_in_words

    place = NodeHome.find(home)
    book = approvals_of(place)
    shown, _ = book.shown(run)
    if plan and plan != shown.digest:
        raise Refused(
            f"The plan of run {run} that is here now is {shown.digest}.",
            reason="another-plan",
            do=f"Read it again: fedprint-node run show {run}",
        )
    _print(plan_in_words(place, book, shown))
    if not yes and not typer.confirm("Take part in this run?"):
        raise Refused(f"Run {run} was not approved; it still waits.", reason="not-approved")
    cost = book.approve(shown)
    _print([f"This hospital takes part in run {run}: at most {cost.rounds_left} rounds."])


@app.command()
def refuse(run: Run, home: Home = None) -> None:
    """Say no to a run, also to one under way: its next round is refused. Holds until approved.

    Example: fedprint-node run refuse spring
    """
    from client.approvals import approvals_of

    approvals_of(NodeHome.find(home)).refuse(run)
    _print([f"This hospital takes no part in run {run}. What was booked stays booked."])


def waiting(place: NodeHome) -> str:
    """For `status`: which runs wait for the operator."""
    from client.approvals import LOOK, RunFiles

    try:
        runs = [kept.plan.run for kept in RunFiles(place).of("pending")]
    except OurMistake as error:
        return str(error)
    return "none" if not runs else f"{', '.join(runs)}. {LOOK} {runs[0]}"


def _print(lines: list[str]) -> None:
    for line in lines:
        terminal.out.print(line, soft_wrap=True, highlight=False)
