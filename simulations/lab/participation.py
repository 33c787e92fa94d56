"""Who is asked in a round and who answers, in virtual time: nothing is waited for in fact.

    asked = ask(experiment, sites, round)
    asked.answered          # whose updates are summed
    asked.trained           # who spent privacy: also those that came late or whose reply was lost

Every draw is keyed by seed, round, site and the behaviour's place in the file, so no round depends
on another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from shared_model.errors import OurMistake
from simulations.lab.experiment import Experiment
from simulations.lab.experiment_tables import Behaviour
from simulations.lab.keyed import chosen_sites, generator

Reason = Literal["not asked", "drop-out", "late", "link"]


@dataclass(frozen=True)
class Sends:
    """How often the request to a site, and its reply, were sent; each failed send costs its bytes.

    reply: 0 if there was none to send.
    """

    request: int = 1
    reply: int = 1


@dataclass(frozen=True)
class Asked:
    """One round's participants.

    asked, trained, answered: sites in the order given. Who trained spent privacy, whether or not
        the reply came in time.
    absent: every site that is not in `answered`, and why.
    virtual_s: how long the coordinator waited: for the slowest answer, or until the deadline if
        somebody who was asked is missing.
    sends: of each asked site.
    """

    asked: tuple[str, ...]
    trained: tuple[str, ...]
    answered: tuple[str, ...]
    absent: Mapping[str, Reason] = field(repr=False)
    virtual_s: float
    sends: Mapping[str, Sends] = field(repr=False)


@dataclass
class _Visit:
    """One site in one round, while its behaviours act."""

    takes_s: float
    sends: Sends = field(default_factory=Sends)
    trained: bool = True
    reason: Reason | None = None


def ask(experiment: Experiment, sites: Sequence[str], round: int) -> Asked:
    """Who is asked in this round (the first is 1), and who answers.

    A site takes steps x `step_s`, a straggler its factor times as long. A request and a reply are
    lost and sent again each by itself. A link that fails with the request: the site has not
    trained. Drop-outs do not train.

    Raises:
        OurMistake: more sites a round than there are, a deadline that nobody can meet, or a
            behaviour of a site that is not there.
    """
    rules, seed = experiment.participation, experiment.seed
    usual_s = rules.step_s * experiment.algorithm.steps
    if rules.deadline_s is not None and rules.deadline_s < usual_s:
        raise OurMistake(
            f"No site can ever answer: {experiment.algorithm.steps} steps take {usual_s:g} s and "
            f"the deadline is {rules.deadline_s:g} s.",
            do="Raise participation.deadline_s, or lower step_s.",
        )
    asked = _asked(rules.sites_per_round, sites, seed, round)
    acting = _acting(experiment, sites, round)
    visits = {site: _Visit(usual_s) for site in asked}
    for site in asked:
        visit = visits[site]
        for place, behaviour in acting.get(site, ()):
            _act(visit, behaviour, ("behaviour", seed, round, site, place))
        late = rules.deadline_s is not None and visit.takes_s > rules.deadline_s
        if late and visit.reason is None:
            visit.reason = "late"
    answered = tuple(site for site in asked if visits[site].reason is None)
    absent: dict[str, Reason] = {}
    for site in sites:
        reason = visits[site].reason if site in visits else "not asked"
        if reason is not None:
            absent[site] = reason
    waited_s = max((visits[site].takes_s for site in answered), default=usual_s)
    if len(answered) < len(asked) and rules.deadline_s is not None:
        waited_s = rules.deadline_s
    return Asked(
        asked=asked,
        trained=tuple(site for site in asked if visits[site].trained),
        answered=answered,
        absent=absent,
        virtual_s=waited_s,
        sends={site: visits[site].sends for site in asked},
    )


def _asked(count: int | None, sites: Sequence[str], seed: int, round: int) -> tuple[str, ...]:
    if count is None:
        return tuple(sites)
    if count > len(sites):
        raise OurMistake(
            f"{count} sites cannot be asked a round: there are {len(sites)}.",
            do="Lower participation.sites_per_round, or leave it out to ask all.",
        )
    drawn = generator("asked", seed, round).permutation(len(sites))[:count]
    return tuple(sites[index] for index in sorted(drawn.tolist()))


def _acting(
    experiment: Experiment, sites: Sequence[str], round: int
) -> dict[str, list[tuple[int, Behaviour]]]:
    """Behaviours in force in this round by site; names are checked in every round."""
    acting: dict[str, list[tuple[int, Behaviour]]] = {}
    for place, behaviour in enumerate(experiment.behaviours):
        meant = chosen_sites(behaviour, sites, "behaviour", experiment.seed, place)
        if round >= behaviour.from_round:
            for site in meant:
                acting.setdefault(site, []).append((place, behaviour))
    return acting


def _act(visit: _Visit, behaviour: Behaviour, key: tuple[str | int, ...]) -> None:
    """What one behaviour does to one visit; those that act on updates do nothing here."""
    if behaviour.kind == "straggler":
        visit.takes_s *= behaviour.factor
        return
    if behaviour.kind not in {"drop-out", "link"} or visit.reason is not None:
        return
    purpose, *rest = key
    rng = generator(str(purpose), *rest)
    if behaviour.kind == "drop-out":
        if rng.random() < behaviour.probability:
            visit.reason, visit.trained, visit.sends = "drop-out", False, Sends(reply=0)
        return
    sends = []
    for _ in ("request", "reply"):
        lost = rng.random(behaviour.tries + 1) < behaviour.probability
        sends.append((len(lost) if lost.all() else int((~lost).argmax()) + 1, bool(lost.all())))
    (requests, unheard), (replies, lost_reply) = sends
    if unheard:
        visit.reason, visit.trained, visit.sends = "link", False, Sends(requests, 0)
        return
    visit.sends = Sends(requests, replies)
    if lost_reply:
        visit.reason = "link"
