"""Probes without recordings: the simulator's own truths, said to be that."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from client.fingerprints import SENSORS
from shared_model.errors import OurMistake
from simulations import measurement, results_page
from simulations.cli import app
from simulations.probes.pretend import pretend_tasks


def test_tasks_are_of_patients_with_both_sensors_and_the_same_each_time() -> None:
    tasks = pretend_tasks(80, 3)
    again = pretend_tasks(80, 3, ["heart rate"])[0]
    rate = next(one for one in tasks if one.name == "heart rate")
    assert (rate.signal.tobytes(), rate.truth.tobytes()) == (
        again.signal.tobytes(),
        again.truth.tobytes(),
    )
    for one in tasks:
        assert one.sensors == SENSORS
        assert one.valid.any(axis=2).all()
        assert np.isfinite(one.truth).all()
        assert one.patients == len(one.truth) <= 80
    assert pretend_tasks(80, 4, ["heart rate"])[0].signal.tobytes() != rate.signal.tobytes()
    twice = pretend_tasks(80, 3, ["age", "age"])
    assert [one.name for one in twice] == ["age"]
    with pytest.raises(OurMistake, match="no task 'identity'"):
        pretend_tasks(80, 3, ["identity"])


def test_the_command_says_that_nobody_is_real_and_counts_no_bar(tmp_path: Path) -> None:
    command = [
        "probe", "warm-start:tiny", "--pretend", "80", "--task", "heart rate", "--random-seeds",
        "1", "--draws", "20", "--repeats", "2", "-o", str(tmp_path / "found"),
    ]  # fmt: skip
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert "80 SIMULATED patients" in " ".join(shown.output.split())
    assert "bar" not in shown.output
    document = json.loads((tmp_path / "found" / "probe.json").read_text())
    assert document["bars"] == {}
    assert "80 SIMULATED patients" in document["data"]
    assert {cell["sensors"] for cell in document["cells"]} == set(SENSORS)
    assert {one["sensors"] for one in document["single_sensor"]} == {"ecg", "ppg"}
    found = measurement.read(tmp_path / "found" / "measured-probe.json")
    assert found.kind == "probe-pretend"
    page = results_page.make(tmp_path / "found")
    assert "80 simulated patients" in page.text
    assert document["repeats"] == 2
    assert "the mean over 2 partitions of patients into folds" in page.text
    assert "heart rate, ECG only: mean absolute error" in page.text
    assert "above random-init on" not in page.text
    assert "local-only, DP: not measured" not in page.text
    (figure,) = [data for name, data in page.figures.items() if name.endswith("skill.svg")]
    most = max(cell["patients"] for cell in document["cells"])
    assert f"80 SIMULATED patients, {most} measured".encode() in figure


@pytest.mark.parametrize("more", [["--data", "x"], ["--unseen-by", "x"]])
def test_pretend_patients_and_recordings_are_not_mixed(more: list[str]) -> None:
    shown = CliRunner().invoke(app, ["probe", "warm-start:tiny", "--pretend", "80", *more])
    assert isinstance(shown.exception, OurMistake)
    assert "--pretend" in shown.exception.message


def test_windows_that_tasks_share_are_encoded_once() -> None:
    from simulations.probes.rows import RANDOM, Row
    from simulations.probes.table import run_table

    asked: list[int] = []

    def encode(signal: np.ndarray, valid: np.ndarray) -> np.ndarray:
        asked.append(len(signal))
        return np.stack([signal.std(axis=(1, 2)), valid.mean(axis=(1, 2))], axis=1)

    def other(signal: np.ndarray, valid: np.ndarray) -> np.ndarray:
        return -encode(signal, valid)

    tasks = pretend_tasks(120, 3, ["age", "systolic pressure"])
    assert tasks[0].signal is tasks[1].signal
    rows = [Row(RANDOM, (encode, other)), Row("a", (encode,))]
    table = run_table(tasks, rows, seed=0, draws=20, repeats=1)
    assert len(asked) == 2 * len(SENSORS)  # two encoders; a row's name does not matter
    apart = [run_table([one], rows, seed=0, draws=20, repeats=1) for one in tasks]
    assert table.cells == (*apart[0].cells, *apart[1].cells)
