"""What a model is worth is measured on patients that never trained, the same way each time."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, roc_auc_score

sys.path.insert(0, str(Path(__file__).parent))
from measured_run_parts import TINY, experiment, models, simulated, waves

from shared_model.errors import OurMistake
from simulations.lab import evaluate_probes as probes
from simulations.lab.evaluate import evaluate, left_out, loss_of
from simulations.lab.evaluate_rows import FEDERATED, MEDIAN, RANDOM_INIT, UNIT_LOSS, gain_of
from simulations.lab.evaluate_sample import Chosen, Signals, choose
from simulations.lab.evaluate_signals import heart_rate_bpm
from simulations.probes.evaluate import Prediction, bootstrap, bootstrap_counts

WAVES = {"federation": {"source": "waves"}}


def two_labels():
    """An experiment that probes a number and a class."""
    return experiment(evaluation={"every": 1, "draws": 40, "probes": ["age", "rhythm"]})


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    """Three sites of pretend patients, ten of each held out."""
    return simulated(tmp_path_factory.mktemp("simulated"), patients=24, held_out=10)


@pytest.fixture(scope="module")
def sines(tmp_path_factory):
    """Three sites of noisy sines, eight of each held out, no label."""
    return waves(tmp_path_factory.mktemp("waves"), sites=3, held_out=8)


@pytest.fixture(scope="module")
def begun(patients):
    """Rows of round 0 with the warm start."""
    return evaluate(TINY, models(2)[-1], patients, two_labels(), 0, workers=1)


def test_the_number_of_threads_changes_no_figure(patients, begun):
    """Rows of round 0 are those of one thread to the last bit, but for baselines and the round."""
    again = evaluate(TINY, models(2)[-1], patients, two_labels(), 4, workers=3)
    mine = [row | {"round": 4} for row in begun if row["model"] == FEDERATED]
    assert again == mine


def test_round_0_has_the_baselines_and_later_rounds_do_not(patients, begun):
    """A figure without random-init beside it means nothing; the median is there for errors."""
    found = {row["model"] for row in begun}
    assert found == {FEDERATED, RANDOM_INIT, MEDIAN}
    later = evaluate(TINY, models(2)[0], patients, two_labels(), 3, workers=1, epsilon=1.5)
    assert {row["model"] for row in later} == {FEDERATED}
    assert {(row["round"], row["epsilon"]) for row in later} == {(3, 1.5)}
    kinds = {(row["task"], row["kind"]) for row in begun if row["model"] == RANDOM_INIT}
    assert {("rhythm", "auroc"), ("age", "mae"), ("age", "r"), (UNIT_LOSS, "loss")} <= kinds


def test_every_probe_has_three_choices_of_sensors_and_an_interval(begun):
    """Both sensors, and each alone; low <= value <= high; a paired gain over random-init."""
    rows = [row for row in begun if row["task"] == "age" and row["model"] == FEDERATED]
    rows = [row for row in rows if row["site"] == "all" and row["kind"] == "mae"]
    assert {row["sensors"] for row in rows} == {"both", "ecg", "ppg"}
    for row in rows:
        assert row["low"] <= row["value"] <= row["high"]
        assert row["gain_low"] <= row["gain"] <= row["gain_high"]
        assert row["patients"] == 30


def test_the_warm_start_reconstructs_better_than_random_weights(begun):
    """The loss is of the model that was given: the trained one is lower, and is found again."""
    mine = {row["model"]: row["value"] for row in begun if row["task"] == UNIT_LOSS}
    trained = next(row for row in begun if row["task"] == UNIT_LOSS and row["site"] == "all")
    assert trained["value"] < mine[RANDOM_INIT]
    assert loss_of(begun) == trained["value"]


def test_sites_with_eight_held_out_patients_have_figures_of_their_own(patients, sines, begun):
    """Ten or eight are enough; four are not."""
    assert {row["site"] for row in begun} == {"all", *(site.name for site in patients.sites)}
    rows = evaluate(TINY, models(2)[0], sines, experiment(**WAVES), 1, workers=1)
    assert {row["site"] for row in rows} == {"all", *(site.name for site in sines.sites)}


def test_few_held_out_patients_are_no_figure_of_a_site(tmp_path):
    """Seven are too few: only the figure over all is there. Waves have no heart rate."""
    data = waves(tmp_path, sites=2, held_out=7)
    rows = evaluate(TINY, models(2)[0], data, experiment(**WAVES), 1, workers=1)
    assert {row["site"] for row in rows} == {"all"}
    assert "bpm" not in {row["kind"] for row in rows}


def test_nobody_held_out_is_no_figure_and_no_fault(tmp_path):
    """Rows are none, the loss is none."""
    data = waves(tmp_path, sites=2, held_out=0)
    rows = evaluate(TINY, models(2)[0], data, experiment(**WAVES), 0, workers=1)
    assert [row for row in rows if row["model"] == FEDERATED] == []
    assert loss_of(rows) is None


def test_a_site_with_its_own_parameters_is_measured_with_them(sines):
    """Local norms: the rows of that site change, the others' do not."""
    weights = models(2)[-1]
    one = experiment(**WAVES)
    plain = evaluate(TINY, weights, sines, one, 1, workers=1)
    own = {"site-0001": {"fingerprint_norm.weight": 3.0 * weights["fingerprint_norm.weight"]}}
    mine = evaluate(TINY, weights, sines, one, 1, workers=1, own=own)
    changed = {a["site"] for a, b in zip(plain, mine, strict=True) if a != b}
    assert changed == {"all", "site-0001"}


def test_labels_without_enough_patients_are_named_with_the_reason(patients):
    """A label that names patients is no class; rare classes are said to be left out."""
    words = left_out(patients, experiment())
    assert "names patients" in words["ward"]
    assert "too few" in words["rhythm"]
    with pytest.raises(OurMistake, match="no label 'shoe size'") as fault:
        left_out(patients, experiment(evaluation={"probes": ["shoe size"]}))
    assert "rhythm" in fault.value.do


def test_a_backdoor_is_measured_where_the_experiment_has_one(sines, begun):
    """Only then; random-init is measured too."""
    attack = {"kind": "backdoor", "sites": ["site-0000"]}
    one = experiment(**WAVES, behaviours=[attack])
    rows = evaluate(TINY, models(2)[-1], sines, one, 0, workers=1)
    found = {(row["model"], row["kind"]) for row in rows if row["task"] == "backdoor"}
    assert found == {(m, k) for m in (FEDERATED, RANDOM_INIT) for k in ("shift", "captured")}
    assert "backdoor" not in {row["task"] for row in begun}


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=30),
    most=st.integers(10, 60),
    seed=st.integers(0, 5),
)
def test_measured_patients_never_trained_and_are_bounded(sizes, most, seed):
    """Fitted and measured patients are disjoint; each choice holds at most so many."""
    site = np.repeat(np.arange(len(sizes)), sizes)
    held_out = np.random.default_rng(seed).random(len(site)) < 0.4
    data = SimpleNamespace(table={"site": site, "held_out": held_out})
    one = experiment(seed=seed, evaluation={"most_patients": most})
    chosen = choose(data, one)  # type: ignore[arg-type]
    assert not held_out[chosen.fitted].any()
    assert held_out[chosen.measured].all()
    assert held_out[chosen.by_site].all()
    for rows in (chosen.fitted, chosen.measured, chosen.by_site):
        assert len(np.unique(rows)) == len(rows) <= most
    again = choose(data, one)  # type: ignore[arg-type]
    for name, rows in vars(chosen).items():
        assert np.array_equal(rows, vars(again)[name])


def planted(kind: str, strength: float) -> float:
    """The metric of a probe of features that hold the truth with some strength."""
    rng = np.random.default_rng(3)
    count = 160
    truth = (rng.random(count) < 0.4).astype(float) if kind == "auroc" else rng.normal(size=count)
    features = rng.normal(size=(count, 16)).astype(np.float32)
    features[:, 3] += strength * truth
    rows = np.arange(count)
    chosen = Chosen(rows[:80], rows[80:], rows[:0])
    empty = np.zeros((count, 0))
    classes = (1,) if kind == "auroc" else ()
    label = probes.Label("planted", kind, classes, ("no", "yes"), truth)
    scores = probes.fit(label, features, Signals(rows, empty, empty), chosen, seed=1)  # type: ignore[arg-type]
    assert scores is not None
    found = scores.among(chosen.measured, probes.LEAST_MEASURED)
    counts = bootstrap_counts(80, 50, np.random.default_rng(0))
    return probes.measured(found, counts, "r" if kind == "mae" else kind).value


@pytest.mark.parametrize("kind", ["auroc", "mae"])
def test_a_probe_finds_what_is_there_and_nothing_else(kind):
    """A strong feature gives a high figure on patients that were not fitted; noise gives chance."""
    chance = 0.5 if kind == "auroc" else 0.0
    assert planted(kind, 4.0) > 0.9
    assert abs(planted(kind, 0.0) - chance) < 0.2


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), ties=st.booleans(), kind=st.sampled_from(["auroc", "mae"]))
def test_bootstrap_metrics_are_those_of_scikit_learn(seed, ties, kind):
    """All draws at once give what one weighted call a draw gives, with ties too."""
    rng = np.random.default_rng(seed)
    truth = np.array([0.0, 1.0, *rng.integers(0, 2, 18)])
    score = np.round(rng.normal(size=20), 1 if ties else 9)
    counts = bootstrap_counts(20, 12, rng)
    found = bootstrap(Prediction(kind, truth, score, np.arange(20)), counts)
    for value, weight in zip(found, counts, strict=True):
        if kind == "mae":
            assert value == pytest.approx(mean_absolute_error(truth, score, sample_weight=weight))
        elif len(np.unique(truth[weight > 0])) == 2:
            assert value == pytest.approx(roc_auc_score(truth, score, sample_weight=weight))
        else:
            assert np.isnan(value)


def test_weighted_correlation_is_that_of_repeated_rows():
    """A patient drawn twice counts twice."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 9)) + 50.0
    weight = np.array([2, 0, 1, 3, 1, 1, 0, 2, 1])
    again = np.corrcoef(np.repeat(x, weight), np.repeat(y, weight))[0, 1]
    assert probes.weighted_r(x, y, weight[None].astype(float))[0] == pytest.approx(again)
    assert probes.weighted_r(x, np.ones(9), weight[None].astype(float))[0] == 0.0


def test_a_model_has_no_gain_over_itself():
    """Paired differences: no draw of patients changes it (no interval), which unpaired ones never
    are."""
    one = probes.Measured(0.8, np.linspace(0.7, 0.9, 20), 40)
    assert gain_of("auroc", one, one) == {"gain": 0.0, "gain_low": None, "gain_high": None}
    better = probes.Measured(9.0, np.linspace(8.0, 10.0, 20), 40)
    worse = probes.Measured(10.0, np.linspace(9.0, 11.0, 20), 40)
    assert gain_of("mae", better, worse)["gain"] == pytest.approx(1.0)
    assert gain_of("auroc", one, probes.Measured(0.5, one.draws, 39)) == {}


@pytest.mark.parametrize(("channel", "rate_hz"), [(0, 1.2), (1, 1.5)])
def test_heart_rate_is_found_in_pretend_beats_and_not_in_a_flat_line(channel, rate_hz):
    """Spikes or pulses at a known rate; a constant has none."""
    time_s = np.arange(1250) / 125.0
    phase = (time_s * rate_hz) % 1.0
    width = 0.02 if channel == 0 else 0.12
    beats = np.exp(-(((phase - 0.5) / width) ** 2))
    assert heart_rate_bpm(beats, channel) == pytest.approx(60 * rate_hz, abs=3)
    assert np.isnan(heart_rate_bpm(np.zeros(1250), channel))
