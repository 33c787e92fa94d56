"""What waits for the operator, in words, each with the command to type. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from server.dashboard_view import DAY_S, Overview, Run, Site

SOON_S = 30 * DAY_S
"""Certificates and rosters that end within this time are told of."""
AWAY_S = 300.0
"""A hospital that is away for longer is told of."""


@dataclass(frozen=True)
class Notice:
    """kind "bad": something does not go on; "warn": it soon will not. do: a command, or ""."""

    kind: Literal["bad", "warn", "note"]
    words: str
    do: str = ""


def notices(overview: Overview) -> tuple[Notice, ...]:
    """Everything that a person should look at, the worst first."""
    order = {"bad": 0, "warn": 1, "note": 2}
    found = [*_of_the_house(overview)]
    found += [one for run in overview.runs for one in _of_a_run(run, overview)]
    found += [one for site in overview.sites for one in _of_a_site(site, overview.now_s)]
    return tuple(sorted(found, key=lambda one: order[one.kind]))


def _of_the_house(overview: Overview) -> Iterator[Notice]:
    for words in overview.damaged:
        yield Notice("bad", words)
    if not overview.registry:
        yield Notice(
            "bad",
            "The registry does not run: no hospital can join, fetch a roster or a release.",
            "fedprint-coordinator registry start"
            if overview.service
            else "fedprint-coordinator serve",
        )
    if overview.roster_version is None:
        yield Notice(
            "warn",
            "The root has signed no roster yet: no run can begin.",
            "fedprint-coordinator roster draft -o draft.json",
        )
    for words in overview.gaps:
        yield Notice("warn", words, "fedprint-coordinator roster draft -o draft.json")
    ends = (
        (
            "The roster",
            overview.roster_ends_s,
            "fedprint-coordinator roster draft -o draft.json",
        ),
        (
            "The coordinator's TLS certificate",
            overview.server_certificate_s,
            "fedprint-coordinator registry renew-certificate",
        ),
    )
    for what, end_s, do in ends:
        if end_s is not None and end_s - overview.now_s < SOON_S:
            yield Notice(_ending(end_s, overview.now_s), f"{what} {_ends(end_s, overview)}", do)
    for release in overview.releases:
        if release.damaged:
            yield Notice("bad", f"Release {release.number} is not whole: {release.damaged}")


def _of_a_run(run: Run, overview: Overview) -> Iterator[Notice]:
    if run.damaged:
        yield Notice("bad", f"Run {run.name} cannot be read: {run.damaged}")
    if run.state == "paused":
        yield Notice("bad", f"Run {run.name} is paused: {run.pause}.", run.do)
    if run.state == "running" and not overview.running:
        yield Notice("bad", f"Run {run.name} is unfinished and nothing works on it.", run.do)
    if run.state == "finished" and run.unverified:
        numbers = ", ".join(str(one.number) for one in run.unverified[:10])
        more = " and more" if len(run.unverified) > 10 else ""
        yield Notice(
            "warn",
            f"Run {run.name} is finished, but the sums of rounds {numbers}{more} are not "
            "verified; it cannot be released.",
            run.do,
        )
    elif run.state == "finished" and run.do:
        yield Notice("note", f"Run {run.name} is finished and not released.", run.do)
    for words in run.without_budget:
        yield Notice("warn", f"Run {run.name}: {words}.")
    for words, count in run.accusations:
        yield Notice("warn", f"Run {run.name}: {words}: {count} times.")


def _of_a_site(site: Site, now_s: float) -> Iterator[Notice]:
    if site.waits:
        yield Notice(
            "warn",
            f"The card of {site.name} waits: {site.waits}.",
            "fedprint-coordinator waiting",
        )
    if site.away_since_s is not None and now_s - site.away_since_s > AWAY_S:
        minutes = (now_s - site.away_since_s) / 60.0
        yield Notice("warn", f"{site.name} is away for {minutes:.0f} minutes.")
    end_s = site.certificate_s
    if end_s is not None and end_s - now_s < SOON_S:
        if end_s <= now_s:
            yield Notice(
                "bad",
                f"The registry certificate of {site.name} has ended.",
                f"fedprint-coordinator invite {site.name} -o token.json",
            )
        else:
            yield Notice(
                "warn",
                f"The registry certificate of {site.name} ends in "
                f"{(end_s - now_s) / DAY_S:.0f} days; its node renews it when it asks.",
            )


def _ending(end_s: float, now_s: float) -> Literal["bad", "warn"]:
    return "bad" if end_s <= now_s else "warn"


def _ends(end_s: float, overview: Overview) -> str:
    days = (end_s - overview.now_s) / DAY_S
    return "has ended." if days <= 0 else f"ends in {days:.0f} days."
