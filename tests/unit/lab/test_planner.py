"""What a plan predicts moves the right way, holds its epsilon, and says what is not there."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.policy import DEFAULT_REPLY_CLOCK_S
from shared_model.errors import OurMistake
from simulations.lab.advice import advice, around, changed, needed, other_mode
from simulations.lab.calibrate import Speed
from simulations.lab.experiment import Experiment
from simulations.lab.planner import Mode, Plan, asked, most_times, patients_of, plan
from simulations.lab.privacy_of_run import PrivacyOfRun
from simulations.lab.traffic import Line

EPSILONS = (1.0, 3.0)
"""Few, so that the accountant answers most of them from its cache."""
MODES: tuple[Mode, ...] = ("local", "distributed")
SPEED = Speed(step_s=0.01, patient_s=0.02)


def quick(hospitals: int, patients: int, epsilon: float, mode: Mode = "local") -> Plan:
    """Noise alone."""
    return plan(asked(hospitals, patients, epsilon=epsilon, mode=mode), messages=False)


def known(value: float | None) -> float:
    """A figure that has to be there."""
    assert value is not None
    return value


@pytest.mark.parametrize("mode", MODES)
def test_more_epsilon_takes_less_noise(mode: Mode) -> None:
    """Sigma and noise-to-signal fall as epsilon grows."""
    found = [quick(6, 300, epsilon, mode) for epsilon in EPSILONS]
    sigmas = [known(one.privacy.noise_multiplier) for one in found]
    ratios = [known(one.noise.mean) for one in found]
    assert sigmas == sorted(sigmas, reverse=True)
    assert ratios == sorted(ratios, reverse=True)
    assert len(set(sigmas)) == len(set(ratios)) == len(EPSILONS)


@settings(max_examples=30, deadline=None)
@given(
    patients=st.integers(2, 5_000),
    more=st.integers(100, 5_000),
    hospitals=st.integers(3, 40),
    mode=st.sampled_from(MODES),
)
def test_more_patients_or_hospitals_leave_less_noise(
    patients: int, more: int, hospitals: int, mode: Mode
) -> None:
    """Noise-to-signal of the mean falls with patients; in mode local with hospitals too."""
    before = known(quick(hospitals, patients, 3.0, mode).noise.mean)
    assert known(quick(hospitals, patients + more, 3.0, mode).noise.mean) < before
    if mode == "local":
        assert known(quick(hospitals + 1, patients, 3.0).noise.mean) < before


@settings(max_examples=20, deadline=None)
@given(hospitals=st.integers(3, 500), patients=st.integers(10, 2_000))
def test_equal_hospitals_divide_the_noise_by_the_root_of_their_number(
    hospitals: int, patients: int
) -> None:
    """Mode local: one site's sigma sqrt(d) / (q N), over sqrt(hospitals) in the mean."""
    found = quick(hospitals, patients, 3.0)
    sigma = known(found.privacy.noise_multiplier)
    alone = sigma * math.sqrt(found.noise.parameters) / (0.1 * found.declared)
    assert known(found.noise.one_site) == pytest.approx(alone)
    assert known(found.noise.mean) == pytest.approx(alone / math.sqrt(hospitals))


@pytest.mark.parametrize("mode", MODES)
def test_the_noise_is_enough_and_no_more(mode: Mode) -> None:
    """Epsilon is kept over all rounds; with a hundredth less noise it would not be."""
    experiment = asked(6, 300, epsilon=3.0, mode=mode)
    found = plan(experiment, messages=False)
    assert 2.97 < known(found.privacy.epsilon) <= 3.0
    sigma = 0.99 * known(found.privacy.noise_multiplier)
    less = experiment.with_values({"privacy.epsilon": None, "privacy.noise_multiplier": sigma})
    assert known(plan(less, messages=False).privacy.epsilon) > 3.0
    assert known(found.privacy.with_failures) > known(found.privacy.epsilon)


def test_outsiders_learn_less_than_colluding_hospitals() -> None:
    """Mode distributed: epsilon against those who collude with nobody is smaller."""
    found = quick(6, 300, 3.0, "distributed").privacy
    assert found.colluding > 0
    assert known(found.outsider) < known(found.epsilon)


def test_the_budget_has_room_for_so_many_runs_and_for_none_more() -> None:
    """Composed by the accountant, not added up."""
    experiment = asked(6, 300, epsilon=3.0)
    found = plan(experiment, budget=8.0)
    assert found.budget is not None
    runs = found.budget.runs
    assert runs is not None
    assert runs > 8 // 3
    sites = patients_of(experiment)
    asks = PrivacyOfRun.of(
        experiment, declared=sites, dimension=found.noise.parameters, asked=len(sites)
    )
    assert (
        known(asks.epsilon(runs * found.rounds))
        <= 8.0
        < known(asks.epsilon((runs + 1) * found.rounds))
    )
    assert most_times(asks, found.rounds, 8.0) == runs


def test_what_would_be_enough_is_enough() -> None:
    """With the patients, hospitals or rounds that are named, noise is no larger than the signal."""
    found = quick(8, 1300, 3.0)
    assert known(found.noise.mean) > 1.0
    enough = needed(found)
    assert enough.patients is not None
    assert enough.hospitals is not None
    assert enough.rounds is not None
    for values in (
        {"federation.patients": enough.patients},
        {"federation.hospitals": enough.hospitals},
        {"rounds": enough.rounds},
    ):
        there = plan(changed(found.experiment, values), messages=False)
        assert known(there.noise.mean) <= 1.01
    fewer = changed(found.experiment, {"federation.hospitals": enough.hospitals * 9 // 10})
    assert known(plan(fewer, messages=False).noise.mean) > 1.0


def test_an_epsilon_that_cannot_be_met_is_answered_with_what_can() -> None:
    """No error, no figure of noise; and the number of rounds that is named can be met."""
    experiment = asked(4, 300, epsilon=0.005, rounds=20_000, privacy__sample_rate=1.0)
    found = plan(experiment)
    assert not found.possible
    assert found.noise.mean is None
    assert found.traffic is None
    said = advice(found)
    assert said[0].startswith("This cannot be met: No noise multiplier")
    rounds = next(line for line in said if "rounds = " in line).split("rounds = ")[1].split()[0]
    assert plan(experiment.with_values({"rounds": int(rounds)}), messages=False).possible


def test_more_hospitals_than_a_roster_holds_have_no_deployed_round() -> None:
    """Bytes and hours are not there, and the words say why; noise is."""
    found = plan(asked(300, 300, epsilon=3.0), speed=SPEED)
    assert found.traffic is None
    assert found.time is None
    assert found.possible
    assert any("2 to 255 hospitals" in line for line in found.words)
    assert known(found.simulation_s) > 0.0


def test_mode_none_has_no_epsilon_and_says_so() -> None:
    """No noise, no epsilon; never a figure that could be taken for privacy."""
    found = plan(asked(4, 300, mode="none"), budget=8.0)
    assert (found.privacy.epsilon, found.privacy.noise_multiplier) == (None, None)
    assert found.noise.mean == 0.0
    assert any(line.startswith("NO PRIVACY") for line in found.words)
    assert found.budget is not None
    assert found.budget.left is None


def test_too_few_hospitals_for_a_sum_are_said() -> None:
    """A round that could never be summed is no plan."""
    experiment = asked(4, 300, epsilon=3.0, participation__minimum_contributors=5)
    assert "needs 5 survivors" in plan(experiment, messages=False).privacy.why_not


def test_noise_beyond_32_bits_is_said() -> None:
    """Mode distributed, where the integers of the sum do not fit."""
    experiment = asked(4, 300, epsilon=3.0, mode="distributed").with_values(
        {"privacy.epsilon": None, "privacy.noise_multiplier": 5000.0}
    )
    assert "bits" in plan(experiment, messages=False).privacy.why_not


def test_patients_of_folders_are_asked_for() -> None:
    """Real folders are not read: their numbers must be given."""
    experiment = Experiment.from_dict(
        {
            "name": "real",
            "federation": {"source": "folders", "folders": ["a", "b", "c"]},
            "privacy": {"epsilon": 3.0},
        }
    )
    with pytest.raises(OurMistake, match="How many patients"):
        plan(experiment)
    assert plan(experiment, declared=[100, 200, 300], messages=False).declared == 100


def test_held_out_patients_do_not_train() -> None:
    """A fifth of 100 patients is held out: 80 are declared."""
    experiment = Experiment.from_dict({"name": "held", "privacy": {"epsilon": 3.0}})
    assert patients_of(experiment) == [80] * 10


@pytest.mark.parametrize("mode", MODES)
def test_hours_add_up_and_follow_the_line(mode: Mode) -> None:
    """Parts make the round, the reply leaves on a tick, and a faster line is faster."""
    experiment = asked(6, 300, epsilon=3.0, mode=mode)
    slow = plan(experiment, speed=SPEED, line=Line(1.0, 500.0)).time
    fast = plan(experiment, speed=SPEED, line=Line(100.0, 1.0)).time
    assert slow is not None
    assert fast is not None
    parts = slow.training_s + slow.transfer_s + slow.reply_clock_s + slow.trips_s
    assert slow.round_s == pytest.approx(parts)
    assert slow.hours == pytest.approx(experiment.rounds * slow.round_s / 3600.0)
    ticks = (slow.training_s + slow.reply_clock_s) / DEFAULT_REPLY_CLOCK_S
    assert ticks == pytest.approx(round(ticks))
    assert ticks >= 1.0
    assert fast.transfer_s < slow.transfer_s
    assert fast.trips_s < slow.trips_s


def test_a_line_without_bandwidth_is_refused() -> None:
    """No division by zero, no negative delay."""
    for bad in ((0.0, 1.0), (1.0, -1.0), (float("nan"), 1.0), (1.0, float("inf"))):
        with pytest.raises(OurMistake):
            Line(*bad)


def test_the_other_trust_model_has_as_many_steps() -> None:
    """Advice compares like with like: same epsilon, same steps, less noise."""
    now = asked(6, 300, epsilon=3.0)
    other = other_mode(now)
    assert other.rounds * other.algorithm.steps == now.rounds * now.algorithm.steps
    shared, alone = plan(other, messages=False), plan(now, messages=False)
    assert known(shared.noise.mean) < known(alone.noise.mean)
    assert any(f"{known(shared.noise.mean):.2g}" in line for line in advice(alone))


def test_what_stands_around_begins_with_what_was_asked() -> None:
    """The first row is the plan; with half the patients there is more noise, with twice less."""
    base = asked(6, 300, epsilon=3.0, rounds=4, algorithm__steps=1)
    given = base.with_values({"privacy.epsilon": None, "privacy.noise_multiplier": 4.0})
    found = plan(given)
    rows = {row["what"]: row for row in around(found, Line())}
    assert next(iter(rows)) == "as asked"
    assert rows["as asked"]["noise-to-signal"] == found.noise.mean
    names = ("patients 600", "as asked", "patients 150")
    ratios = [rows[name]["noise-to-signal"] for name in names]
    assert ratios == sorted(ratios)
    assert rows["rounds 8"]["epsilon"] > rows["as asked"]["epsilon"] > rows["rounds 2"]["epsilon"]


def test_a_plan_is_plain_values() -> None:
    """For --json: experiment, what dominates, no infinity."""
    content = plan(asked(4, 300, epsilon=3.0), speed=SPEED, budget=8.0).as_dict()
    assert content["experiment"]["federation"]["hospitals"] == 4
    assert content["traffic"]["dominates"] == "the model"
    assert content["time"]["dominates"] == "reply clock"
