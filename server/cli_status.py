"""fedprint-coordinator status: sites, runs and sums; and which run is unfinished."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from server.home import CoordinatorHome
from shared_model import terminal
from shared_model.errors import OurMistake

Home = Annotated[
    Path | None,
    typer.Option(help="The coordinator's folder (else FEDPRINT_COORDINATOR_HOME)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def status(home: Home = None, as_json: AsJson = False) -> None:
    """Show whether a coordinator runs, the enrolled sites, all runs and which sums are verified.

    Example: fedprint-coordinator status --json
    """
    from server import rosters, sites, superlink

    place = CoordinatorHome.find(home)
    config = superlink.load_config(place)
    running = superlink.is_running(place)
    enrolled = [
        {"site": card.site, "declared patients": card.declared_patients, "digest": card.spoken}
        for card in sites.roster(place)
    ]
    signed = rosters.current(place) if place.root_public.exists() else None
    version = None if signed is None else signed.roster.version
    runs = [_run_status(place, name) for name in run_names(place)]
    if as_json:
        terminal.print_json(
            {
                "running": running,
                "address": config.address,
                "roster": version,
                "sites": enrolled,
                "runs": runs,
            }
        )
        return
    terminal.out.print(
        f"Coordinator at {config.address}: {'running' if running else 'not running'}; "
        f"{'no signed roster' if version is None else f'roster version {version}'}."
    )
    said = ("without_budget", "turned_away", "unverified", "late")
    spoken = ("needs", *said, "incidents", "accusations")
    shown = [{key: run[key] for key in run if key not in spoken} for run in runs]
    for title, rows in (("Enrolled sites", enrolled), ("Runs", shown)):
        if rows:
            terminal.show(title, rows, as_json=False)
        else:
            terminal.out.print(f"{title}: none.")
    for run in runs:
        terminal.out.print(f"Run {run['run']}: {run['needs']}.", soft_wrap=True)
        for words in (words for part in said for words in run[part]):
            terminal.out.print(f"Run {run['run']}, {words}", soft_wrap=True)
        for site, count in run["incidents"].items():
            terminal.out.print(f"Run {run['run']}: {count} wrong messages about {site}.")
        for words, count in run["accusations"].items():
            terminal.out.print(f"Run {run['run']}: {words} ({count} times).", soft_wrap=True)
        if run["unverified"] and run["state"] == "finished":
            terminal.out.print(
                f"Ask the sites again: fedprint-coordinator start --run {run['run']}"
            )


def _run_status(place: CoordinatorHome, name: str) -> dict[str, Any]:
    """One run; `verified` counts the sums that enough hospitals have signed to be right."""
    from server.checkpoints import RunFolder
    from server.progress import spare, turned_away, without_budget
    from server.run_start import settings_of

    folder = RunFolder(place.run_folder(name))
    record = folder.record()
    summed = [item.round for item in record.rounds if item.outcome == "aggregated"]
    closings = {number: folder.closing(number) for number in summed}
    roster = record.roster
    needed = settings_of(record.config, roster).needed
    return {
        "run": record.run,
        "state": record.state,
        "pause": record.pause,
        "rounds": record.completed,
        "of": record.config.rounds,
        "verified": sum(closing.state == "verified" for closing in closings.values()),
        "sites": len(roster.sites),
        "threshold": roster.threshold,
        "minimum": record.config.minimum_contributors,
        "starts": record.starts,
        "aggregation": record.config.aggregation,
        "model": record.model_digest,
        "needs": spare(len(roster.sites), needed),
        "without_budget": without_budget(record),
        "turned_away": turned_away(record),
        "incidents": Counter(
            one.site for item in record.rounds for one in item.incidents if not one.about
        ),
        "accusations": Counter(
            f"{one.site} says that it cannot use the shares of {one.about}; one of the two is wrong"
            for item in record.rounds
            for one in item.incidents
            if one.about
        ),
        "late": [
            f"round {one.round}: the submission of {one.site} came too late; it is void, and paid "
            "for by the hospital's budget"
            for one in record.late
        ],
        "unverified": [
            f"round {number}: {closing.in_words}"
            for number, closing in closings.items()
            if closing.state == "unverified"
        ],
    }


def run_names(place: CoordinatorHome) -> list[str]:
    """Of every run that was begun here, sorted."""
    return sorted(path.parent.name for path in place.runs.glob("*/run.json"))


def unfinished(place: CoordinatorHome) -> str | None:
    """Name of the run that is not finished; None if all are.

    Raises:
        OurMistake: there are several.
    """
    from server.checkpoints import RunFolder

    names = [
        name
        for name in run_names(place)
        if RunFolder(place.run_folder(name)).record().state != "finished"
    ]
    if len(names) > 1:
        raise OurMistake(
            f"Several runs are unfinished: {', '.join(names)}.", do="Choose one with --run."
        )
    return names[0] if names else None
