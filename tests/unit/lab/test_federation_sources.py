"""Federations on disk: the same patients for the same seed, written whole, reused if they fit."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.policy import rounded_patients
from shared_model.errors import OurMistake
from simulations.lab import from_formulas, from_pool, processes, sources
from simulations.lab.data import FederationData
from simulations.lab.drawn import POOL, Chunk, chunks, draw
from simulations.lab.experiment import Experiment
from simulations.lab.site_rows import held_out_of

WAVES = {"source": "waves", "hospitals": 4, "patients": 8, "windows_per_patient": 2}
SIMULATED = {"hospitals": 3, "patients": 5, "windows_per_patient": 2}


def experiment(federation: dict[str, Any], **more: Any) -> Experiment:
    return Experiment.from_dict(
        {"name": "made", "privacy": {"mode": "none"}, "federation": federation, **more}
    )


def bytes_of(data: FederationData) -> list[bytes]:
    return [(data.folder / name).read_bytes() for name in ("signal.bin", "valid.bin")]


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> FederationData:
    return sources.prepare(experiment(WAVES), tmp_path_factory.mktemp("waves"))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> FederationData:
    return sources.prepare(experiment(SIMULATED), tmp_path_factory.mktemp("simulated"))


def test_a_federation_has_the_sites_that_were_asked_for(waves: FederationData) -> None:
    """In the order of their names; training patients declared as a hospital would."""
    assert [site.name for site in waves.sites] == ["site-1", "site-2", "site-3", "site-4"]
    for index, site in enumerate(waves.sites):
        training, held_out = waves.patients(index), waves.patients(index, held_out=True)
        assert training.patient_count + held_out.patient_count == 8
        assert held_out.patient_count == 2
        assert site.declared == rounded_patients(training.patient_count)
        signal, valid, _ = training.all(2)
        assert valid.all()
        assert np.allclose(signal.std(axis=2), 1.0, atol=0.01)


def test_waves_say_that_they_mean_nothing(waves: FederationData) -> None:
    """And carry labels by which partitions and probes can be tried."""
    assert "without any meaning" in waves.about["source"]["says"]
    assert set(waves.labels) == {"hr_bpm", "rhythm"}
    assert set(waves.table["rhythm"]) <= {"slow", "middle", "fast"}


def test_the_frequency_of_a_wave_is_its_heart_rate(waves: FederationData) -> None:
    """The PPG beats as the label says, so a probe can find it."""
    rates, first = waves.table["hr_bpm"], waves.table["first"]
    spectrum = np.abs(np.fft.rfft(waves.signal[first, 1].astype(np.float32), 12500, axis=1))
    found = np.fft.rfftfreq(12500, 1 / 125.0)[spectrum.argmax(axis=1)] * 60.0
    assert np.allclose(found, rates, atol=3.0)


def test_simulated_patients_keep_what_a_probe_needs(simulated: FederationData) -> None:
    """Numbers as numbers, classes as words; each hospital says what it is."""
    assert {"rhythm", "hr_bpm", "age", "sex", "sbp", "hypertension", "block"} <= set(
        simulated.labels
    )
    assert simulated.table["rhythm"].dtype.kind == "O"
    assert simulated.table["age"].dtype.kind == "f"
    assert np.nanmin(simulated.table["hr_bpm"]) > 20.0
    assert [site.name for site in simulated.sites] == ["clinic-3", "holter-2", "icu-1"]
    assert "ECG 500 Hz" in simulated.sites[0].about
    assert "SIMULATED" in simulated.about["source"]["says"]


def test_a_simulated_patient_has_a_usable_window(simulated: FederationData) -> None:
    """Windows that the gate refuses are left out, as in a hospital's store."""
    assert simulated.valid.any(axis=(1, 2)).all()
    assert (simulated.table["windows"] >= 1).all()


def test_the_same_seed_is_the_same_federation_and_another_is_another(
    waves: FederationData, tmp_path: Path
) -> None:
    """Digest and bytes; the name, the rounds and the engine do not matter."""
    again = experiment(WAVES, rounds=3, engine={"workers": 1}, algorithm={"steps": 9})
    assert sources.key_of(again) == waves.about["source"]["key"]
    assert sources.prepare(again, tmp_path / "again").digest == waves.digest
    other = sources.prepare(experiment(WAVES, seed=2), tmp_path / "other")
    assert other.digest != waves.digest
    assert bytes_of(other) != bytes_of(waves)


def test_any_number_of_processes_draws_the_same_patients(
    simulated: FederationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes against this one."""
    monkeypatch.setattr(from_formulas, "_PARALLEL_WINDOWS", 1)
    made = experiment(SIMULATED, engine={"workers": 2})
    assert from_formulas.workers_for(made) == 2
    assert sources.prepare(made, tmp_path).digest == simulated.digest


def test_what_fits_is_not_made_again(
    waves: FederationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is drawn, and the digest is the same."""

    def refuse(order: Chunk) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(from_formulas, "draw", refuse)
    assert sources.prepare(experiment(WAVES), waves.folder).digest == waves.digest
    with pytest.raises(AssertionError, match="drawn again"):
        sources.prepare(experiment(WAVES, seed=9), waves.folder.parent / "new")


def test_other_code_or_packages_make_it_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A federation of an older version is not taken for this one's."""
    before = sources.key_of(experiment(WAVES))
    monkeypatch.setattr(sources, "code_digest", lambda: "0" * 64)
    assert sources.key_of(experiment(WAVES)) != before


def test_half_a_federation_never_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off while written, or a file cut short: made anew, with the same digest."""
    whole = sources.prepare(experiment(WAVES), tmp_path / "one").digest
    real, drawn = draw, []

    def cut_off(order: Chunk) -> Any:
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(order)
        return real(order)

    with monkeypatch.context() as patch:
        patch.setattr(from_formulas, "draw", cut_off)
        with pytest.raises(KeyboardInterrupt):
            sources.prepare(experiment(WAVES), tmp_path / "two")
    assert not (tmp_path / "two" / "federation.json").exists()
    assert sources.prepare(experiment(WAVES), tmp_path / "two").digest == whole
    path = tmp_path / "two" / "signal.bin"
    path.write_bytes(path.read_bytes()[:-1])
    assert not FederationData(tmp_path / "two").whole
    again = sources.prepare(experiment(WAVES), tmp_path / "two")
    assert again.whole
    assert again.digest == whole


def test_who_has_mapped_an_older_federation_keeps_it(tmp_path: Path) -> None:
    """New files take the place of old ones; nothing is written over under a reader."""
    old = sources.prepare(experiment(WAVES), tmp_path)
    before = np.array(old.signal)
    sources.prepare(experiment(WAVES, seed=2), tmp_path)
    assert np.array_equal(old.signal, before)


def test_experiments_with_one_federation_share_a_folder(tmp_path: Path) -> None:
    """Of a cache; another federation gets one of its own."""
    one = sources.prepare_shared(experiment(WAVES), tmp_path)
    two = sources.prepare_shared(experiment(WAVES, rounds=7), tmp_path)
    other = sources.prepare_shared(experiment({**WAVES, "hospitals": 3}), tmp_path)
    assert one.folder == two.folder != other.folder
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("kind", ["iid", "size", "dirichlet", "pathological", "id"])
def test_a_pool_is_shared_out_whole(kind: str, tmp_path: Path) -> None:
    """Every window of the pool is at one site once, with its patient's labels."""
    partition = {"kind": kind, "smallest": 4, "alpha": 5.0}
    made = experiment({**WAVES, "patients": 20, "partition": partition})
    data = sources.prepare(made, tmp_path)
    order = Chunk("waves", POOL, None, 0, 80, 2, 1)
    pool = [draw(one) for one in chunks(order)]
    wanted = Counter(one.tobytes() for part in pool for one in part.signal)
    assert Counter(one.tobytes() for one in np.asarray(data.signal)) == wanted
    rates = {
        part.signal[2 * row].tobytes(): part.labels["hr_bpm"][row]
        for part in pool
        for row in range(len(part))
    }
    for first, rate in zip(data.table["first"], data.table["hr_bpm"], strict=True):
        assert rates[data.signal[first].tobytes()] == rate
    assert not (tmp_path / "pool.new").exists()
    if kind == "id":
        assert {site.name for site in data.sites} == {
            "rhythm-fast", "rhythm-middle", "rhythm-slow",
        }  # fmt: skip


def test_batches_of_a_site_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site that is copied in parts is the same site, its effects included."""
    made = experiment(
        {
            **WAVES,
            "partition": {"kind": "iid"},
            "effects": [{"share": 1.0, "ecg_noise": 1.0, "missing_ppg": 0.4}],
        }
    )
    whole = sources.prepare(made, tmp_path / "one")
    monkeypatch.setattr(from_pool, "_BATCH_WINDOWS", 3)
    parts = sources.prepare(made, tmp_path / "two")
    assert parts.digest == whole.digest
    assert len(parts.sites) == 4


def test_an_effect_is_at_its_sites_and_nowhere_else(waves: FederationData, tmp_path: Path) -> None:
    """Windows of the others are the same bytes, and the site's words say what it has."""
    made = experiment({**WAVES, "effects": [{"sites": ["site-2"], "invert_ecg": True}]})
    data = sources.prepare(made, tmp_path)
    for index, site in enumerate(data.sites):
        plain, changed = waves.patients(index).all(9)[0], data.patients(index).all(9)[0]
        if site.name == "site-2":
            assert np.allclose(changed[:, 0], -plain[:, 0], atol=5e-3)
            assert "effects: invert_ecg" in site.about
        else:
            assert changed.tobytes() == plain.tobytes()
            assert "effects" not in site.about


@settings(deadline=None)
@given(
    patients=st.integers(3, 400),
    share=st.floats(0.0, 0.89),
    seed=st.integers(0, 2**32 - 1),
)
def test_two_train_and_one_is_held_out_at_least(patients: int, share: float, seed: int) -> None:
    """Otherwise the share, to the nearest patient; none is held out if none should be."""
    held_out = held_out_of(patients, share, "site-1", seed)
    assert (~held_out).sum() >= 2
    assert held_out.any() == (share > 0)
    if 1 <= round(share * patients) <= patients - 2:
        assert held_out.sum() == round(share * patients)
    assert np.array_equal(held_out, held_out_of(patients, share, "site-1", seed))


def test_a_site_with_too_few_patients_is_refused(tmp_path: Path) -> None:
    """Two patients are enough only if nobody is held out."""
    with pytest.raises(OurMistake, match="has 2 patients and needs 3"):
        sources.prepare(experiment({**WAVES, "patients": 2}), tmp_path / "one")
    made = experiment({**WAVES, "patients": 2, "held_out": 0.0})
    assert sources.prepare(made, tmp_path / "two").about["held_out"] == 0


def test_a_disk_that_is_too_small_is_told_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With how much is needed; a partition needs twice as much for a while."""

    def free(_: object) -> Any:
        return type("Usage", (), {"free": 64 * 5100 + 1000})

    monkeypatch.setattr(sources.shutil, "disk_usage", free)
    sources.prepare(experiment(WAVES), tmp_path / "fits")
    with pytest.raises(OurMistake, match="GB of disk"):
        sources.prepare(experiment({**WAVES, "partition": {"kind": "iid"}}), tmp_path / "no")


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    """Patients drawn, then sites written, each up to its total."""
    seen: list[tuple[str, int, int]] = []
    made = experiment({**WAVES, "partition": {"kind": "iid"}})
    sources.prepare(made, tmp_path, lambda *step: seen.append(step))
    for what in ("drawing patients", "writing sites"):
        steps = [(done, total) for name, done, total in seen if name == what]
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)
        assert steps[-1] == (32, 32)


class _Here:
    """A pool that computes when it is asked, in this process, and counts."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def submit(self, function: Any, order: Any) -> Future[Any]:
        asked.append(order)
        made: Future[Any] = Future()
        made.set_result(function(order))
        return made


asked: list[Any] = []


def test_results_come_in_order_and_few_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two for each process at most, so that memory does not grow with the federation."""
    monkeypatch.setattr(processes, "ProcessPoolExecutor", _Here)
    asked.clear()
    taken = []
    for result in processes.in_order(abs, list(range(-100, 0)), 3):
        taken.append(result)
        assert len(asked) - len(taken) <= 2 * 3
    assert taken == list(range(100, 0, -1))
