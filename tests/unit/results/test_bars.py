"""The issue's bars, read off a probe table: what is above what, and by which word."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulations.probes import bars
from simulations.probes.evaluate import Estimate
from simulations.probes.rows import HAND_MADE, RANDOM, Row
from simulations.probes.table import Cell, ProbeTable, SensorLoss, run_table
from simulations.probes.tasks import Task

SURE, UNSURE, WORSE = Estimate(0.2, 0.1, 0.3), Estimate(0.2, -0.1, 0.5), Estimate(-0.1, -0.2, 0.0)


def cell(task: str, over_random: Estimate, over_hand: Estimate, sensors: str = "ecg") -> Cell:
    return Cell(task, sensors, "ours", "auroc", 9, 9, SURE, SURE, over_random, over_hand)


def test_above_needs_the_whole_interval_and_points_are_counted_beside_it() -> None:
    """An interval that holds zero is no "above"; the point estimate counts on its own."""
    table = ProbeTable(
        (cell("a", SURE, UNSURE), cell("b", UNSURE, SURE), cell("c", WORSE, WORSE)), {}, {}
    )
    row = bars.summary(table.as_dict())["ours"]
    assert row["above_random_init"]["by_interval"] == 1
    assert row["above_random_init"]["by_point_estimate"] == 2
    assert row["above_random_init"]["not_by_interval"] == ["b", "c"]
    assert not row["above_random_init"]["reached"]


def test_heart_rate_is_left_out_of_the_count_over_hand_made_features_only() -> None:
    cells = [cell(f"task {k}", SURE, SURE if k < 4 else WORSE) for k in range(7)]
    table = ProbeTable((*cells, cell("heart rate (ECG)", SURE, SURE)), {}, {})
    row = bars.summary(table.as_dict())["ours"]
    assert (row["above_random_init"]["tasks"], row["above_hand_made"]["tasks"]) == (8, 7)
    assert row["above_hand_made"]["by_interval"] == 4
    assert row["above_hand_made"]["reached"]


def test_a_task_of_several_collections_is_one_and_above_where_most_of_them_are() -> None:
    """Four heart rates are no four tasks; half is not most."""
    four = (SURE, SURE, WORSE, WORSE)
    three = (SURE, SURE, WORSE)
    table = ProbeTable(
        tuple(cell(f"sex ({k})", one, WORSE) for k, one in enumerate(four))
        + tuple(cell(f"heart rate ({k})", one, SURE) for k, one in enumerate(three))
        + (cell("age", SURE, SURE),),
        {},
        {},
    )
    row = bars.summary(table.as_dict())["ours"]
    assert row["above_random_init"]["tasks"] == 3
    assert row["above_random_init"]["by_interval"] == 2
    assert row["above_random_init"]["not_by_interval"] == ["sex (2)", "sex (3)", "heart rate (2)"]
    assert (row["above_hand_made"]["tasks"], row["above_hand_made"]["by_interval"]) == (2, 1)


def test_a_task_counts_once_by_its_first_sensors() -> None:
    """Both sensors decide; ECG alone being worse takes nothing away."""
    table = ProbeTable((cell("a", SURE, SURE, "both"), cell("a", WORSE, WORSE, "ecg")), {}, {})
    assert bars.summary(table.as_dict())["ours"]["above_random_init"]["tasks"] == 1


def test_the_largest_loss_of_a_single_sensor_decides() -> None:
    losses = (
        SensorLoss("a", "ecg", "ours", "auroc", Estimate(0.01, 0.0, 0.02)),
        SensorLoss("a", "ppg", "ours", "auroc", Estimate(0.07, 0.0, 0.2)),
        SensorLoss("b", "ppg", "ours", "mae", Estimate(0.9, 0.0, 1.0)),
    )
    single = bars.summary(ProbeTable((cell("a", SURE, SURE),), {}, {}, losses).as_dict())["ours"]
    assert single["single_sensor"]["largest_relative_loss"] == 0.07
    assert not single["single_sensor"]["reached"]
    assert bars.loss_words(single["single_sensor"]) == "7.0 % [0.0, 20.0] (a, ppg only)"
    nothing = bars.summary(ProbeTable((cell("a", SURE, SURE),), {}, {}).as_dict())["ours"]
    assert nothing["single_sensor"] is None


def test_a_loss_against_chance_is_named_and_not_counted() -> None:
    """By the interval of the figure of both sensors, whatever is lost."""
    losses = tuple(
        SensorLoss(task, "ppg", "ours", "auroc", Estimate(loss, 0.0, 0.9))
        for task, loss in (("coin", 0.4), ("known", 0.02))
    )
    coin = replace(cell("coin", SURE, SURE, "both"), skill=UNSURE)
    known = cell("known", SURE, SURE, "both")
    table = ProbeTable((coin, known), {}, {}, losses)
    single = bars.summary(table.as_dict())["ours"]["single_sensor"]
    assert (single["task"], single["reached"]) == ("known", True)
    assert single["not_above_chance"] == ["coin"]
    assert "no better than chance: coin" in bars.sentences(table.as_dict())[-1]
    alone = ProbeTable((coin,), {}, {}, losses[:1]).as_dict()
    assert bars.summary(alone)["ours"]["single_sensor"] is None


def test_differences_to_hand_made_features_and_losses_are_measured_pairwise() -> None:
    """A row that knows the answer from the ECG beats both baselines; the PPG alone loses it."""
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(60, 2, 1250)).astype(np.float32)
    task = Task(
        name="value",
        kind="mae",
        sensors=("both", "ecg", "ppg"),
        signal=signal,
        valid=np.ones((60, 2, 50), dtype=bool),
        unit=np.arange(60),
        truth=signal[:, 0, 0].astype(float),
        group=np.repeat(np.arange(30), 2),
        session=np.tile([0, 1], 30),
    )

    def knows(signal: np.ndarray, valid: np.ndarray) -> np.ndarray:
        return (signal[:, 0, 0] + 0.7 * signal[:, 1, 0])[:, None]

    def guesses(signal: np.ndarray, valid: np.ndarray) -> np.ndarray:
        return signal[:, :, 5]

    rows = [Row(RANDOM, (guesses,)), Row(HAND_MADE, (guesses,)), Row("ours", (knows,))]
    table = run_table([task], rows, seed=0, draws=60, repeats=2)
    by_row = {c.row: c for c in table.cells if c.sensors == "both"}
    ours, hand = by_row["ours"], by_row[HAND_MADE]
    assert ours.over_hand_made is not None
    assert ours.gain is not None
    assert ours.over_hand_made.low > 0.2
    assert hand.over_hand_made is None
    assert hand.gain is not None
    assert hand.gain.value == 0.0
    assert np.isnan([hand.gain.low, hand.gain.high]).all()  # the same in every sample
    loss = {one.sensors: one.loss for one in table.losses if one.row == "ours"}
    assert loss["ecg"].value < 0  # the PPG only disturbs
    assert loss["ppg"].value == pytest.approx(by_ppg(table) / ours.estimate.value - 1.0)
    assert loss["ppg"].low > 0.2


def by_ppg(table: ProbeTable) -> float:
    """Error of the row that knows, with the PPG alone."""
    return next(c.estimate.value for c in table.cells if c.sensors == "ppg" and c.row == "ours")
