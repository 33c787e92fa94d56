"""What the operator is told while a run goes on; nothing of it is from patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from server.rounds import RunState
from server.run_records import RunRecord
from shared_model.bundle import DIGEST
from shared_model.protocol_base import OLDEST, SPOKEN

UNMASKED = (
    "MASKS ARE OFF: the coordinator sees what each site adds. For simulations only; hospitals "
    "refuse such rounds, and so does a release."
)

PAUSES: Mapping[str, str] = {
    "budget": "too few hospitals have privacy budget left for another round",
    "barred": "too many hospitals dealt shares that did not fit together, or have another privacy "
    "ledger than the one that was seen before",
    "too-few-sites": "too few hospitals were there for as long as the run was to wait",
    "too-few-keys": "too few hospitals gave a key; has each operator approved the "
    "roster and the run's plan?",
    "failed-rounds": "too many rounds in a row were closed without an aggregate",
}

REFUSALS: Mapping[str, str] = {
    "budget": "has no privacy budget left for this run, which goes on without it",
    "run-approval": "waits for its operator's yes to this run and is asked again",
    "roster-approval": "waits for its operator's yes to the roster and is asked again",
    "policy": "is forbidden by its hospital's policy to take part",
    "ledger": "finds that a privacy ledger is not the one seen before",
    "model": "does not train from this model; its logs/rounds.log says why: another version of "
    'fedprint, or a model that has grown beyond what hospitals train from ("diverged" here)',
    "version": "speaks another protocol version than this coordinator; one of the two has to be "
    "upgraded (docs/upgrade.md)",
    "bundle": "does not take the Flower bundle of this coordinator; its logs/rounds.log names the "
    f"digest that came. fedprint's own bundle is {DIGEST}",
}
"""What a refusal means for the run; the others are told by their word alone."""


@dataclass(frozen=True)
class Progress:
    """One thing that happened, for the operator's eyes.

    kind: "unmasked", "roster", "waiting", "keying", "keyed", "opened", "sent", "accepted",
    "non-private", "refused", "incident", "accuses", "agreeing", "agreed", "opening", "unsealed",
    "aggregated", "diverged", "closed", "late", "verified", "unverified", "paused", "finished",
    "continued".
    """

    kind: str
    round: int
    completed: int
    rounds: int
    site: str = ""
    detail: str = ""
    answered: int = 0
    asked: int = 0


def counts(state: RunState) -> tuple[int, int]:
    """Of how many sites that are asked now how many have answered: (answered, asked)."""
    current = state.current
    if state.phase == "keying" and state.keying is not None:
        asked = len(state.keying.sites)
    elif current is None:
        return 0, 0
    elif state.phase == "agree":
        asked = len(current.survivors)
    elif state.phase == "open":
        asked = len(current.asked)
    else:
        asked = len(current.participants)
    return asked - len(state.awaited), asked


def spare(sites: int, threshold: int) -> str:
    """How many sites may be away, in words."""
    if threshold >= sites:
        return f"all {sites} sites are needed: the run pauses while one is away"
    away = sites - threshold
    return f"{threshold} of {sites} sites are needed: {away} may be away"


def turned_away(record: RunRecord) -> list[str]:
    """Sites that cannot take part with this coordinator's software, in words."""
    said = []
    for one in sorted(record.turned_away, key=lambda one: one.site):
        words = REFUSALS[one.reason]
        if one.speaks is not None:
            words = other_version(one.speaks)
        said.append(f"after round {one.after}: {one.site} {words}")
    return said


def other_version(theirs: int) -> str:
    """What it means that a site speaks this protocol version, after the site's name."""
    who = "the hospital" if theirs < OLDEST else "this coordinator"
    return (
        f"speaks protocol version {theirs}; this coordinator speaks {SPOKEN}. Nothing was booked "
        f"there. Upgrade {who} (docs/upgrade.md)"
    )


def without_budget(record: RunRecord) -> list[str]:
    """Sites that refuse a key or a round because of their privacy budget, in words: since when."""
    last = {one.site: item.round for item in record.rounds for one in item.contributors}
    said = [
        (item.round, absent.site)
        for item in record.rounds
        for absent in item.absent
        if absent.reason == "budget"
    ] + [(one.after + 1, one.site) for one in record.refused_keys]
    first: dict[str, int] = {}
    for number, site in sorted(said):
        if number > last.get(site, 0):
            first.setdefault(site, number)
    return [f"from round {first[s]} on {s} {REFUSALS['budget']}" for s in sorted(first)]
