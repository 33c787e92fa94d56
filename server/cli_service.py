"""fedprint-coordinator serve, resume, dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.home import CoordinatorHome
from shared_model import terminal
from shared_model.errors import OurMistake

Home = Annotated[
    Path | None,
    typer.Option(help="The coordinator's folder (else FEDPRINT_COORDINATOR_HOME)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

app = typer.Typer(
    help="The page that shows sites, runs, releases and incidents. It only shows.",
    no_args_is_help=True,
)


def register(app_: typer.Typer) -> None:
    """Add this part's commands."""
    app_.command()(serve)
    app_.command()(resume)
    app_.add_typer(app, name="dashboard")


def serve(home: Home = None) -> None:
    """Run registry, dashboard and the unfinished run, and start again whatever dies.

    Runs until SIGTERM or Ctrl-C; says READY to systemd. Begin a run for it with
    start --only-begin. Logs: logs/service.log and beside it.

    Example: fedprint-coordinator serve
    """
    import os

    from server import service

    service.serve(CoordinatorHome.find(home), environment=os.environ)


def resume(run: Annotated[str, typer.Argument(help="Name of the run.")], home: Home = None) -> None:
    """Let a paused run go on; or ask the hospitals again about the sums of a finished one.

    Takes effect when serve or start works on the run.

    Example: fedprint-coordinator resume run-1
    """
    from server import service_runs, superlink

    place = CoordinatorHome.find(home)
    words = service_runs.resume(place, run)
    terminal.out.print(words, soft_wrap=True)
    if not service_runs.is_served(place) and not superlink.is_running(place):
        terminal.out.print("Nothing works on it now. Next: fedprint-coordinator serve")


@app.callback()
def main() -> None:
    """The page that shows sites, runs, releases and incidents. It only shows."""


@app.command()
def start(home: Home = None) -> None:
    """Serve the dashboard until Ctrl-C. fedprint-coordinator serve does so, too.

    At 127.0.0.1 by default; on another address (init --dashboard-bind) with TLS only.

    Example: fedprint-coordinator dashboard start
    """
    from server import dashboard, dashboard_config

    place = CoordinatorHome.find(home)
    listens = dashboard_config.listening(place)
    terminal.err.print(
        f"The dashboard is at {listens.url}. To log in: fedprint-coordinator dashboard link",
        soft_wrap=True,
    )
    dashboard.serve(place)


@app.command()
def link(home: Home = None, as_json: AsJson = False) -> None:
    """Print a link that logs one browser in, once, within ten minutes.

    Example: fedprint-coordinator dashboard link
    """
    from server import dashboard, dashboard_config

    place = CoordinatorHome.find(home)
    if not place.config.exists():
        raise OurMistake("This folder is no coordinator's.", do="See: --home")
    listens = dashboard_config.listening(place)
    url = f"{listens.url}/login?token={dashboard.links(place).issue()}"
    if as_json:
        terminal.print_json({"url": url, "lasts_s": dashboard.LINK_S})
        return
    typer.echo(url)
    terminal.err.print(
        f"Good once, for {dashboard.LINK_S / 60:.0f} minutes. Who has it can read the dashboard.",
        soft_wrap=True,
    )
