"""The engine: any number of workers, dead workers, rounds with too few, what is booked."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared_model import accounting
from shared_model import weights as weights_io
from shared_model.errors import FedprintError, OurMistake, Refused
from shared_model.secure_sum.primitives import Words
from shared_model.weight_bounds import check_bounds
from simulations.lab import conduct, hospital, packet, run_words
from simulations.lab.beginning import settle
from simulations.lab.client_app import Job
from simulations.lab.data import FederationData
from simulations.lab.experiment import Experiment
from simulations.lab.figures import RunData
from simulations.lab.hospital import NoNoiseNotPrivate
from simulations.lab.lab_report_words import notices
from simulations.lab.pool import in_process
from simulations.lab.privacy_of_run import PrivacyOfRun
from simulations.lab.terms import RoundInput, Setup

SMALL: dict[str, Any] = {
    "name": "small",
    "rounds": 2,
    "model": {"begin_with": "random-weights"},
    "federation": {
        "source": "waves",
        "hospitals": 5,
        "patients": 5,
        "windows_per_patient": 1,
        "held_out": 0.0,
    },
    "algorithm": {"steps": 1, "segments": 1},
    "privacy": {"noise_multiplier": 1.0, "sample_rate": 0.4},
    "evaluation": {"every": 100},
    "engine": {"workers": 1},
}


def small(values: dict[str, Any] | None = None) -> Experiment:
    """The small experiment, with some fields changed."""
    return Experiment.from_dict(SMALL).with_values(values or {})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FederationData:
    return conduct.sources.prepare(small(), tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def setup(data: FederationData) -> Setup:
    return settle(small(), data, data.folder / "states").setup


def given_of(setup: Setup, data: FederationData, number: int = 1) -> RoundInput:
    """A round of all five sites, from the starting weights."""
    from simulations.lab.beginning import starting_model

    _, weights = starting_model(setup.experiment)
    return RoundInput(number, (0, 1, 2, 3, 4), bytes(32), weights, {}, {})


# ------------------------------------------------------------------ workers


def test_any_number_of_workers_and_any_order_of_sites_give_the_same_sum(
    setup: Setup, data: FederationData
) -> None:
    """Two processes, or this one; the sum and what is told are equal, round after round."""
    size = setup.numbers([site.declared for site in data.sites], [8] * 5).padded
    found = []
    for workers, order in ((1, (0, 1, 2, 3, 4)), (2, (4, 2, 0, 1, 3))):
        with in_process(Job.of(setup), workers) as engine:
            rounds = [engine.round(given_of(setup, data, n), order, size) for n in (1, 2)]
        found.append([(total.tolist(), told) for total, told in rounds])
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]


def test_some_of_the_sites_are_summed_without_the_others(
    setup: Setup, data: FederationData
) -> None:
    """The sum over all is the sum over two parts: a round begins from nothing each time."""
    size = setup.numbers([site.declared for site in data.sites], [8] * 5).padded
    with in_process(Job.of(setup), 1) as engine:
        parts: list[Words] = []
        for number, sites in enumerate([(0, 1, 2, 3, 4), (0, 3), (1, 2, 4)]):
            given = given_of(setup, data)
            told = RoundInput(
                given.number + 10 * number, given.asked, bytes(32), given.weights, {}, {}
            )
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(hospital.Hospitals, "noise", same_noise)
                parts.append(engine.round(told, sites, size)[0])
    assert (parts[0] == parts[1] + parts[2]).all()


def same_noise(self: hospital.Hospitals, site: str) -> Any:
    """Noise that does not look at the round."""
    return hospital.NonPrivateForTests("test", site, 1, 1)


def test_a_dead_worker_ends_the_run_with_a_word(setup: Setup, data: FederationData) -> None:
    """It is not waited for; the word says how it died."""
    with in_process(Job.of(setup), 2) as engine:
        process = engine._desks[1].process  # type: ignore[attr-defined]
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(FedprintError, match="killed by signal 9") as dead:
            engine.round(given_of(setup, data), range(5), 110_592)
    assert "--resume" in dead.value.do


def test_a_fault_in_a_hospital_is_told_in_its_own_words(
    setup: Setup, data: FederationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What explains itself comes through; what does not is on standard error."""
    faults = iter([OurMistake("The dog ate it.", do="Feed the dog."), ZeroDivisionError("dog")])

    def work(self: hospital.Hospitals, site: int) -> Any:
        raise next(faults)

    monkeypatch.setattr(hospital.Hospitals, "work", work)
    with in_process(Job.of(setup), 1) as engine:
        with pytest.raises(OurMistake, match="The dog ate it") as told:
            engine.round(given_of(setup, data), [0], 110_592)
        with pytest.raises(FedprintError, match="standard error"):
            engine.round(given_of(setup, data), [0], 110_592)
    assert told.value.do == "Feed the dog."


def test_a_setup_comes_back_from_its_bytes(setup: Setup) -> None:
    """What a worker is told is what the coordinator computed."""
    assert Setup.from_bytes(setup.to_bytes()) == setup


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault of ours
@given(st.dictionaries(st.text(min_size=1, max_size=8), st.integers(0, 3), max_size=4))
def test_values_and_arrays_come_back_from_their_bytes(sizes: dict[str, int]) -> None:
    """Names of any letters, empty arrays, equal bytes for equal content."""
    arrays = {name: np.arange(size, dtype=np.float32) for name, size in sizes.items()}
    data = packet.pack({"round": 3}, packet.named("weights", arrays))
    meta, found = packet.unpack(data)
    assert meta == {"round": 3}
    back = packet.part(found, "weights")
    assert {name: value.tolist() for name, value in back.items()} == {
        name: value.tolist() for name, value in arrays.items()
    }
    assert packet.pack(meta, found) == data


@given(st.binary(max_size=64))
def test_bytes_that_are_no_packet_are_refused(data: bytes) -> None:
    """Never another exception."""
    with pytest.raises(Refused):
        packet.unpack(data)


def test_a_gpu_that_is_not_there_is_not_replaced_in_silence(
    setup: Setup, data: FederationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for a GPU, a machine without one refuses."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = setup.experiment.with_values({"engine.gpus_per_client": 0.5})
    with (
        in_process(Job.of(replace(setup, experiment=asked)), 1) as engine,
        pytest.raises(OurMistake, match="finds none"),
    ):
        engine.round(given_of(setup, data), [0], 110_592)


# ------------------------------------------------------------------ rounds


def test_rounds_with_too_few_survivors_are_spent_and_not_summed(tmp_path: Path) -> None:
    """The model stays; sites that trained have booked; drop-outs have not."""
    experiment = small(
        {
            "behaviours": [
                {"kind": "drop-out", "sites": ["site-1", "site-2"], "from_round": 2},
                {"kind": "link", "sites": ["site-3"], "tries": 0, "from_round": 2},
            ],
        }
    )
    result = conduct.run(experiment, tmp_path / "out")
    rounds, sites = result.rounds().to_pylist(), result.sites().to_pylist()
    assert [row["outcome"] for row in rounds] == ["aggregated", "too few"]
    assert rounds[0]["model"] == rounds[1]["model"] == result.digest
    assert [row["survivors"] for row in rounds] == [5, 2]
    second = {row["site"]: row for row in sites if row["round"] == 2}
    reasons = {name: row["reason"] for name, row in second.items()}
    assert reasons == {
        "site-1": "drop-out",
        "site-2": "drop-out",
        "site-3": "link",
        "site-4": "",
        "site-5": "",
    }
    once, twice = second["site-1"]["epsilon"], second["site-4"]["epsilon"]
    plan = accounting.Mechanism(0.4, 1.0, 1)
    assert once == pytest.approx(accounting.epsilon_pld([plan], rounds[0]["delta"]))
    assert twice == pytest.approx(accounting.epsilon_pld([plan, plan], rounds[0]["delta"]))
    assert rounds[1]["epsilon"] == twice
    assert any("too few" in line for line in result.words)


def test_only_the_sites_that_are_drawn_are_asked(tmp_path: Path) -> None:
    """The others have a row that says so, and have spent nothing."""
    experiment = small({"participation.sites_per_round": 3, "privacy.mode": "none"} | NO_NOISE)
    result = conduct.run(experiment, tmp_path / "out")
    rows = result.sites().to_pylist()
    assert [sum(r["answered"] for r in rows if r["round"] == n) for n in (1, 2)] == [3, 3]
    idle = [row for row in rows if row["reason"] == "not asked"]
    assert len(idle) == 4
    assert all(row["bytes_up"] == row["bytes_down"] == 0 for row in idle)
    assert all(row["epsilon"] is None for row in rows)
    assert any("mode none" in line for line in result.words)


NO_NOISE = {"privacy.noise_multiplier": None}


def test_malicious_sites_change_the_model_and_honest_ones_do_not_move(tmp_path: Path) -> None:
    """A site that flips its update leads elsewhere; its rows say what it did."""
    honest = conduct.run(small({"rounds": 1}), tmp_path / "honest")
    lying = small({"rounds": 1, "behaviours": [{"kind": "sign-flip", "sites": ["site-2"]}]})
    result = conduct.run(lying, tmp_path / "lying")
    assert result.digest != honest.digest
    rows = {row["site"]: row for row in result.sites().to_pylist()}
    assert [name for name, row in rows.items() if row["behaviour"]] == ["site-2"]
    before = {row["site"]: row["update_norm"] for row in honest.sites().to_pylist()}
    assert {name: row["update_norm"] for name, row in rows.items()} == pytest.approx(before)


def test_a_model_that_hospitals_would_refuse_ends_no_run_and_is_named(tmp_path: Path) -> None:
    """An attack in round 2 makes it: round 3 is the first that would be refused, and is run."""
    attack = {"kind": "scaled", "sites": ["site-2"], "factor": 1e6, "from_round": 2}
    values = {"rounds": 3, "algorithm.norm_bound": 1e4, "behaviours": [attack]}
    result = conduct.run(small(values), tmp_path / "out")
    with pytest.raises(Refused) as caught:  # what a node does with the model
        check_bounds(result.weights())
    rounds = result.rounds().to_pylist()
    assert [row["refusal"] for row in rounds] == [None, caught.value.message, caught.value.message]
    assert [row["outcome"] for row in rounds] == ["aggregated"] * 3
    assert result.about["refused_from_round"] == 3
    (said,) = [line for line in result.words if "REFUSE" in line]
    assert "FROM ROUND 3 ON" in said
    assert caught.value.message in said
    (tmp_path / "out" / "result.json").unlink()  # cut off before its end
    assert said in notices(RunData.read(tmp_path / "out"))


def test_a_run_that_hospitals_would_carry_out_says_nothing_of_refusal(tmp_path: Path) -> None:
    """Else the words would mean nothing."""
    result = conduct.run(small(), tmp_path / "out")
    assert [row["refusal"] for row in result.rounds().to_pylist()] == [None, None]
    assert result.about["refused_from_round"] is None
    assert not any("REFUSE" in line for line in result.words)


def test_a_start_that_hospitals_would_refuse_is_refused_from_the_first_round(
    tmp_path: Path,
) -> None:
    """Weights of somebody's own file; and such that are no numbers."""
    from simulations.lab.beginning import starting_model

    _, weights = starting_model(small())
    large = {name: value * np.float32(1e4) for name, value in weights.items()}
    (tmp_path / "large.safetensors").write_bytes(weights_io.to_bytes(large))
    values = {"rounds": 1, "model.weights": str(tmp_path / "large.safetensors")}
    result = conduct.run(small(values), tmp_path / "out")
    assert result.about["refused_from_round"] == 1
    assert any("FROM ROUND 1 ON" in line for line in result.words)
    broken = {name: np.full_like(value, np.nan) for name, value in weights.items()}
    assert run_words.refusal_of(broken) == "The weights are not finite."


def test_local_norms_stay_at_their_sites(tmp_path: Path) -> None:
    """No LayerNorm of the model moves; each site has its own, and goes on from it."""
    result = conduct.run(small({"algorithm.local_norms": True}), tmp_path / "out")
    from shared_model import mae
    from simulations.lab.beginning import starting_model

    config, start = starting_model(small())
    norms = mae.norm_names(mae.build(config, 0))
    after = result.weights()
    assert all((after[name] == start[name]).all() for name in norms)
    moved = [name for name in start if not (after[name] == start[name]).all()]
    assert moved
    kept = sorted((tmp_path / "out" / "state" / "sites").glob("*/*.safetensors"))
    assert len(kept) == 10
    own = packet.unpack(kept[-1].read_bytes())[1]
    assert {name.removeprefix("norms/") for name in own} == set(norms)


# ------------------------------------------------------------------ privacy


def test_mode_none_draws_no_noise_and_the_rest_as_seeded_noise_does() -> None:
    """The very samples of the seeded source, and zeros; nothing about it is private."""
    none = NoNoiseNotPrivate("lab", "site", 1, 7)
    seeded = hospital.NonPrivateForTests("lab", "site", 1, 7)
    assert not none.private
    assert "NOT PRIVATE" in none.name
    assert not none.normal(5, 2.0).any()
    assert (none.poisson_sample(50, 0.3) == seeded.poisson_sample(50, 0.3)).all()
    assert none.rounding_seed() == seeded.rounding_seed()


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_the_noise_that_follows_from_epsilon_keeps_it(mode: str) -> None:
    """All rounds together cost at most epsilon, and nearly that."""
    values = {"privacy.noise_multiplier": None, "privacy.epsilon": 3.0, "rounds": 40}
    shared = {"algorithm.optimiser": "sgd", "privacy.mode": "distributed"}
    experiment = small(values | (shared if mode == "distributed" else {}))
    privacy = PrivacyOfRun.of(experiment, declared=[200] * 9, dimension=110_592, asked=9)
    spent = privacy.epsilon(40)
    assert spent is not None
    assert 2.9 < spent <= 3.0
    assert privacy.threshold == (5 if mode == "distributed" else 0)


def test_rounds_that_could_never_be_summed_are_refused_before_training(
    data: FederationData,
) -> None:
    """Minimum and threshold against the hospitals that are asked; bits against the modulus."""
    for values, word in (
        ({"participation.minimum_contributors": 6}, "closed without a sum"),
        ({"participation.sites_per_round": 2}, "closed without a sum"),
        ({"algorithm.bits": 24, "algorithm.norm_bound": 1.0}, None),
    ):
        if word is None:
            assert settle(small(values), data, data.folder).setup.bits == 24
            continue
        with pytest.raises(OurMistake, match=word):
            settle(small(values), data, data.folder)


def test_fewer_bits_are_taken_for_many_hospitals_and_it_is_said(
    data: FederationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand hospitals of weight 8: 32 bits hold sums of 19."""
    many = tuple(
        type(data.sites[0])(name=f"site-{n:04d}", declared=10, about="") for n in range(1000)
    )
    monkeypatch.setattr(FederationData, "sites", many)
    data = FederationData(data.folder)
    settled = settle(small(), data, data.folder)
    assert settled.setup.bits == 19
    assert any("19 bits (fewer than 20" in line for line in settled.words)
    with pytest.raises(OurMistake, match="room for 19"):
        settle(small({"algorithm.bits": 20}), data, data.folder)
