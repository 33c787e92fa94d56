"""Who is asked and who answers: keyed draws, virtual time, links that fail."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_model.errors import OurMistake
from simulations.lab.experiment import Experiment
from simulations.lab.keyed import chosen_sites
from simulations.lab.participation import Asked, Sends, ask

SITES = tuple(f"site-{number:03d}" for number in range(200))


def experiment(*behaviours: dict[str, Any], seed: int = 1, **participation: Any) -> Experiment:
    return Experiment.from_dict(
        {
            "name": "asked",
            "seed": seed,
            "privacy": {"mode": "none"},
            "participation": participation,
            "behaviours": list(behaviours),
        }
    )


def check(asked: Asked, sites: tuple[str, ...]) -> None:
    """What holds in every round."""
    assert set(asked.answered) | set(asked.absent) == set(sites)
    assert not set(asked.answered) & set(asked.absent)
    assert set(asked.answered) <= set(asked.trained) <= set(asked.asked) == set(asked.sends)
    assert {asked.absent.get(site) for site in sites if site not in asked.asked} <= {"not asked"}
    assert list(asked.asked) == sorted(asked.asked)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    round=st.integers(1, 10_000),
    count=st.integers(1, 20),
    drop=st.floats(0, 1),
    link=st.floats(0, 1),
    tries=st.integers(0, 4),
)
def test_every_site_has_answered_or_a_reason(
    seed: int, round: int, count: int, drop: float, link: float, tries: int
) -> None:
    """Whatever happens in whatever round; and a round does not depend on any other."""
    made = experiment(
        {"share": 0.5, "kind": "drop-out", "probability": drop},
        {"share": 0.5, "kind": "link", "probability": link, "tries": tries},
        {"share": 0.3, "kind": "straggler", "factor": 3.0},
        seed=seed,
        sites_per_round=count,
        deadline_s=12.0,
    )
    asked = ask(made, SITES[:20], round)
    check(asked, SITES[:20])
    assert len(asked.asked) == count
    ask(made, SITES[:20], round + 1)
    assert ask(made, SITES[:20], round) == asked
    for site, sends in asked.sends.items():
        assert 1 <= sends.request <= tries + 1
        assert 0 <= sends.reply <= tries + 1
        assert (sends.reply == 0) == (site not in asked.trained)


def test_without_behaviours_all_are_asked_and_answer() -> None:
    """Each message is sent once; the round takes as long as the steps."""
    asked = ask(experiment(step_s=2.0), SITES, 1)
    assert asked.answered == asked.asked == asked.trained == SITES
    assert asked.absent == {}
    assert asked.virtual_s == 10.0
    assert set(asked.sends.values()) == {Sends(1, 1)}


def test_who_is_asked_changes_with_the_round_and_the_seed() -> None:
    """And over many rounds everybody's turn comes."""
    made = experiment(sites_per_round=50)
    first, second = ask(made, SITES, 1).asked, ask(made, SITES, 2).asked
    assert first != second
    assert ask(experiment(sites_per_round=50, seed=2), SITES, 1).asked != first
    seen = {site for round in range(1, 60) for site in ask(made, SITES, round).asked}
    assert seen == set(SITES)


def test_stragglers_come_too_late_and_the_deadline_is_waited_for() -> None:
    """They have trained: privacy is spent, though the update is not in the sum."""
    slow = {"sites": ["site-003"], "kind": "straggler", "factor": 4.0}
    asked = ask(experiment(slow, deadline_s=10.0), SITES[:5], 1)
    assert asked.absent == {"site-003": "late"}
    assert "site-003" in asked.trained
    assert asked.virtual_s == 10.0
    patient = ask(experiment(slow), SITES[:5], 1)
    assert patient.absent == {}
    assert patient.virtual_s == 20.0


def test_drop_outs_begin_when_they_should_and_as_often() -> None:
    """0.3 of 200 sites in 40 rounds, within five standard deviations; nobody before round 3."""
    made = experiment({"share": 1.0, "kind": "drop-out", "probability": 0.3, "from_round": 3})
    assert ask(made, SITES, 2).absent == {}
    gone = sum(len(ask(made, SITES, round).absent) for round in range(3, 43))
    assert abs(gone - 0.3 * 8000) < 5 * (8000 * 0.21) ** 0.5


def test_a_link_loses_both_ways_and_sends_again() -> None:
    """Answers: (1 - p^(tries + 1))^2 of all; a lost reply has cost privacy, a lost request none."""
    made = experiment({"share": 1.0, "kind": "link", "probability": 0.5, "tries": 1})
    rounds = [ask(made, SITES, round) for round in range(1, 41)]
    there = sum(len(asked.answered) for asked in rounds)
    trained = sum(len(asked.trained) for asked in rounds)
    assert abs(there / 8000 - 0.75**2) < 5 * (0.5625 * 0.4375 / 8000) ** 0.5
    assert abs(trained / 8000 - 0.75) < 5 * (0.75 * 0.25 / 8000) ** 0.5
    sends = [one for asked in rounds for one in asked.sends.values()]
    mean = sum(one.request for one in sends) / len(sends)
    assert abs(mean - 1.5) < 0.05
    dead = ask(experiment({"share": 1.0, "kind": "link", "probability": 1.0, "tries": 3}), SITES, 1)
    assert set(dead.absent.values()) == {"link"}
    assert dead.trained == ()
    assert set(dead.sends.values()) == {Sends(4, 0)}


def test_malicious_sites_answer_like_all_others() -> None:
    """What they do is in `behaviours`."""
    made = experiment({"share": 1.0, "kind": "sign-flip"}, {"share": 1.0, "kind": "free-rider"})
    assert ask(made, SITES, 1).answered == SITES


def test_what_can_never_be_is_refused() -> None:
    """A deadline before anybody is done, more sites than there are, a site that is not there."""
    with pytest.raises(OurMistake, match="No site can ever answer"):
        ask(experiment(step_s=1.0, deadline_s=4.9), SITES, 1)
    with pytest.raises(OurMistake, match="201 sites"):
        ask(experiment(sites_per_round=201), SITES, 1)
    with pytest.raises(OurMistake, match="elsewhere"):
        ask(experiment({"sites": ["elsewhere"], "kind": "drop-out", "from_round": 9}), SITES, 1)


def test_a_share_of_sites_is_drawn_by_seed_and_place() -> None:
    """Two tables of one kind choose apart; a small share is at least one site, none is none."""
    behaviour = experiment({"share": 0.1, "kind": "drop-out"}).behaviours[0]
    one = chosen_sites(behaviour, SITES, "behaviour", 1, 0)
    assert len(one) == 20
    assert list(one) == sorted(one)
    assert one == chosen_sites(behaviour, SITES, "behaviour", 1, 0)
    assert one != chosen_sites(behaviour, SITES, "behaviour", 2, 0)
    assert one != chosen_sites(behaviour, SITES, "behaviour", 1, 1)
    assert len(chosen_sites(behaviour, SITES[:3], "behaviour", 1, 0)) == 1
    nobody = behaviour.model_copy(update={"share": 0.0})
    assert chosen_sites(nobody, SITES, "behaviour", 1, 0) == ()
