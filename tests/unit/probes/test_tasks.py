"""Probe tasks and the table: truths come from the recordings, rows are compared on equal terms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.formats.base import Event
from client.records import Recording
from shared_model.mae import PRESETS
from shared_model.windows import Windows
from simulations.probes import ratios as ratios_module
from simulations.probes import table as table_module
from simulations.probes import tasks as tasks_module
from simulations.probes.evaluate import Prediction, bootstrap_counts, interval, verification
from simulations.probes.rows import RANDOM, Row, random_init
from simulations.probes.table import run_table
from simulations.probes.task import Builder
from simulations.probes.tasks import Task, known_rhythms, load_tasks, share_of_af


def pretend_task(kind: str = "auroc", sensors: tuple[str, ...] = ("ecg",)) -> Task:
    """30 patients, two windows each; the truth is the sign of the window's first sample."""
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(60, 2, 1250)).astype(np.float32)
    group = np.repeat(np.arange(30), 2)
    return Task(
        name="sign",
        kind=kind,
        sensors=sensors,
        signal=signal,
        valid=np.ones((60, 2, 50), dtype=bool),
        unit=np.arange(60),
        truth=(signal[:, 0, 0] > 0).astype(float),
        group=group,
        session=np.tile([0, 1], 30),
    )


def knows(signal: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Features that hold the answer."""
    return np.stack([signal[:, 0, 0], np.ones(len(signal))], axis=1)


def guesses(signal: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Features that hold nothing."""
    return np.random.default_rng(1).normal(size=(len(signal), 2))


def noisy(signal: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Features that hold half of the answer."""
    rng = np.random.default_rng(2)
    return signal[:, 0, :1] + rng.normal(size=(len(signal), 8))


def test_row_that_knows_is_above_random_and_row_that_guesses_is_named() -> None:
    """The paired difference separates them, and the table says which is not above."""
    rows = [Row(RANDOM, (guesses,)), Row("knows", (knows,)), Row("guesses", (guesses,))]
    table = run_table([pretend_task()], rows, seed=0, draws=100, repeats=2)
    gain = {cell.row: cell.gain for cell in table.cells}
    assert gain[RANDOM] is None
    assert gain["knows"] is not None
    assert gain["knows"].low > 0.3
    assert [one["row"] for one in table.not_above()] == ["guesses"]
    assert table.overall["knows"].low > 0
    assert table.overall["guesses"].value == pytest.approx(0.0, abs=1e-9)


def test_a_figure_is_the_mean_over_partitions_into_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """So is every bootstrap sample of it, and of the difference to random-init. Two seeds have no
    partition in common: seed 2 of three has the partitions 6, 7 and 8 of one."""
    counts = bootstrap_counts(30, 40, np.random.default_rng(0))
    monkeypatch.setattr(table_module, "bootstrap_counts", lambda *_: counts)
    rows = [Row(RANDOM, (guesses,)), Row("noisy", (noisy,))]

    def measured(seed: int, repeats: int) -> list[tuple[float, np.ndarray]]:
        found: list[tuple[float, np.ndarray]] = []
        with monkeypatch.context() as spying:
            spying.setattr(
                ratios_module,
                "interval",
                lambda value, draws: (found.append((value, draws)), interval(value, draws))[1],
            )
            run_table([pretend_task()], rows, seed=seed, draws=40, repeats=repeats)
        return found

    alone = [measured(seed, 1) for seed in (6, 7, 8)]
    assert len({one[0][0] for one in alone}) == 3
    for place, (value, draws) in enumerate(measured(2, 3)):
        assert value == pytest.approx(np.mean([one[place][0] for one in alone]))
        np.testing.assert_allclose(draws, np.mean([one[place][1] for one in alone], axis=0))


def test_identity_has_no_folds_and_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fitted; more partitions change nothing, and cost nothing."""
    calls: list[int] = []

    def counted(features: np.ndarray, group: np.ndarray, session: np.ndarray) -> Prediction:
        calls.append(len(features))
        return verification(features, group, session)

    monkeypatch.setattr(table_module, "verification", counted)
    task = replace(pretend_task(), kind="verification")
    run_table([task], [Row(RANDOM, (noisy,))], seed=0, draws=20, repeats=4)
    assert len(calls) == len(task.sensors)


def test_single_sensor_view_hides_the_other_sensor() -> None:
    """What a probe calls ECG only has no PPG in it."""
    signal, valid = pretend_task().windows("ecg")
    assert not valid[:, 1].any()
    assert not signal[:, 1].any()
    assert valid[:, 0].all()


def test_untrained_encoder_gives_missing_features_where_the_sensor_is_missing() -> None:
    """A window without the sensor is not silently zero."""
    row = random_init(PRESETS["tiny"], seeds=1)
    task = pretend_task()
    valid = task.valid.copy()
    valid[3] = False
    made = row.members[0](task.signal, valid)
    assert np.isnan(made[3]).all()
    assert np.isfinite(np.delete(made, 3, axis=0)).all()


def test_units_pool_their_windows_and_ignore_missing_values() -> None:
    """Mean and deviation over the windows of a recording."""
    task = Task(
        "pool", "mae", ("ecg",), np.zeros((3, 2, 1250)), np.ones((3, 2, 50), bool),
        unit=np.array([0, 0, 1]), truth=np.zeros(2), group=np.arange(2), session=np.zeros(2),
        pooling="mean+sd",
    )  # fmt: skip
    pooled = task.pool(np.array([[1.0, np.nan], [3.0, 5.0], [np.nan, 7.0]]))
    assert pooled[0].tolist() == [2.0, 5.0, 1.0, 0.0]
    assert np.isnan(pooled[1, 0])
    assert pooled[1, 1] == 7.0


def test_share_of_atrial_fibrillation_follows_the_rhythm_that_holds() -> None:
    """A rhythm holds until the next one begins."""
    rhythms = [(0.0, "N"), (15.0, "AFIB"), (40.0, "N")]
    assert share_of_af(rhythms, 0.0, 10.0) == 0.0
    assert share_of_af(rhythms, 10.0, 20.0) == pytest.approx(0.5)
    assert share_of_af(rhythms, 20.0, 30.0) == 1.0


def annotated(*events: tuple[float, str]) -> Recording:
    made = tuple(Event(time_s=at, kind=kind) for at, kind in events)
    return Recording(
        patient="p", name="r", channels={}, labels={}, events=made, series={}, digest=""
    )


def test_a_rhythm_noted_at_the_first_beat_was_there_from_the_start() -> None:
    """One that is noted later says nothing of the time before it."""
    assert known_rhythms(annotated((0.3, "rhythm:AFIB"), (60.0, "rhythm:N"))) == [
        (0.0, "AFIB"),
        (60.0, "N"),
    ]
    assert known_rhythms(annotated((12.0, "rhythm:N"), (3.0, "beat:N"))) == [(12.0, "N")]
    assert known_rhythms(annotated((0.3, "beat:N"))) == []


def test_nobody_is_taken_for_free_of_af_whose_rhythm_nobody_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three recordings: AF throughout, sinus from the third window on, no rhythm at all."""
    window = Windows(
        signal=np.zeros((4, 2, 1250), dtype=np.float32),
        valid=np.ones((4, 2, 50), dtype=bool),
        start_s=np.arange(4) * 10.0,
        refusal=np.zeros((4, 2), dtype=np.uint8),
    )
    said = (
        annotated((0.2, "rhythm:AFIB")),
        annotated((20.0, "rhythm:N")),
        annotated((0.2, "beat:N")),
    )
    named = [replace(one, patient=f"p{number}\nx") for number, one in enumerate(said)]
    monkeypatch.setattr(
        tasks_module,
        "holter",
        lambda *_: ((one, window, np.array([]), np.arange(4)) for one in named),
    )
    task = tasks_module.annotated_af("af", [], Builder())
    assert task is not None
    assert task.truth.tolist() == [1.0] * 4 + [0.0] * 2


def test_absent_folders_are_named_and_nothing_else_is_done(tmp_path: Path) -> None:
    """No data, no silent zero."""
    tasks, skipped = load_tasks(tmp_path, only=["hypertension", "nonsense"])
    assert tasks == []
    assert "clinic_ppg_bp" in skipped["hypertension"]
    assert "no such task" in skipped["nonsense"]


def test_real_sites_give_tasks_with_their_labels(data_root: Path) -> None:
    """Hypertension and true VT from the real folders, one unit a patient or alarm."""
    tasks, skipped = load_tasks(data_root, only=["hypertension", "true ventricular tachycardia"])
    assert skipped == {}
    by_name = {task.name: task for task in tasks}
    assert by_name["hypertension"].patients == len(by_name["hypertension"].truth)
    assert set(by_name["hypertension"].truth) == {0.0, 1.0}
    alarms = by_name["true ventricular tachycardia"]
    assert alarms.sensors == ("both", "ecg", "ppg")
    assert alarms.valid.any(axis=2).all(), "windows that lack a sensor are left out"
    assert "windows lack a sensor" in alarms.note
    for task in tasks:
        assert task.group.max() + 1 == task.patients
        assert task.valid.any(axis=(1, 2)).all()
