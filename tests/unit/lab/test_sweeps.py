"""A sweep is carried out once, whatever its runs do, and says how each of them ended."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from pyarrow import parquet
from typer.testing import CliRunner

from shared_model.errors import OurMistake
from shared_model.locks import locked
from simulations import cli_sweep
from simulations.cli_ended import going_on
from simulations.cli_sweep import SAME_COMMAND, on_the_bar
from simulations.lab import sweeps
from simulations.lab.experiment import Experiment
from simulations.lab.space import Sweep, points_of
from simulations.lab.sweep_run import Outcome
from simulations.lab.sweeps import Swept, again, sweep

CONDUCT = "sweep_stand_in:conduct"
FAILS, CRASHES, WAITS, BREAKS, FULL = 2.0, 3.0, 4.0, 5.0, 6.0
"""As in `sweep_stand_in`, which only the runs' own processes import."""


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs' processes find the stand-in where this file is."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def of(**tables: Any) -> Sweep:
    """A sweep of plain values."""
    base = {"name": "base", "rounds": 2, "privacy": {"epsilon": 1.0}}
    return Sweep.from_dict({"experiment": Experiment.from_dict(base).as_dict()} | tables)


def begun(found: Swept, number: int) -> int:
    """How often a run was begun."""
    row = next(row for row in found.rows if row["number"] == number)
    return len((found.folder / "runs" / row["run"] / "run" / "starts").read_text())


def without_time(found: Swept) -> list[dict[str, Any]]:
    """Rows without their seconds."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found.rows]


def test_the_table_has_what_each_run_found(tmp_path: Path) -> None:
    """Varied fields, loss, the probe of the run's own model with its interval, bytes, digest."""
    asked = of(grid={"privacy.epsilon": [1.0, 4.0]}, seeds=[1, 2])
    found = sweep(asked, tmp_path / "out", workers=2, conduct=CONDUCT)
    assert [row["number"] for row in found.rows] == [1, 2, 3, 4]
    assert {row["state"] for row in found.rows} == {"finished"}
    last = found.rows[-1]
    assert (last["privacy.epsilon"], last["seed"], last["rounds done"]) == (4.0, 2, 2)
    assert last["loss"] == pytest.approx(0.25 + 1e-3 + 2e-3)
    assert (last["auroc rhythm"], last["auroc rhythm start"]) == (0.7, 0.6)
    assert (last["auroc rhythm low"], last["auroc rhythm high"]) == pytest.approx((0.65, 0.75))
    assert (last["loss start"], last["bytes_up"], last["bytes_down"]) == (2.0, 20, 40)
    assert len({row["model"] for row in found.rows}) == 4
    assert found.probes == ("auroc rhythm",)
    assert last["private"] == "NO PRIVACY: noise repeats"
    assert found.words[0].startswith("NO PRIVACY")


def test_the_files_say_what_the_rows_say(tmp_path: Path) -> None:
    """CSV and Parquet have every row and column."""
    found = sweep(of(seeds=[1, 2]), tmp_path / "out", workers=2, conduct=CONDUCT)
    read = list(csv.DictReader((tmp_path / "out" / "sweep.csv").read_text().splitlines()))
    table = parquet.read_table(tmp_path / "out" / "sweep.parquet").to_pylist()
    assert [float(row["loss"]) for row in read] == [row["loss"] for row in found.rows]
    assert table == list(found.rows)
    assert json.loads((tmp_path / "out" / "result.json").read_text())["runs"] == 2


def test_any_number_of_workers_makes_the_same_table(tmp_path: Path) -> None:
    """But for the seconds."""
    asked = of(grid={"privacy.epsilon": [1.0, 2.0, 4.0]})
    one = sweep(asked, tmp_path / "one", workers=1, conduct=CONDUCT)
    many = sweep(asked, tmp_path / "many", workers=3, conduct=CONDUCT)
    assert without_time(one) == without_time(many)


def test_a_run_that_fails_is_a_row_and_ends_nothing(tmp_path: Path) -> None:
    """An error in words, an unforeseen one, a process that dies: the others are finished."""
    asked = of(grid={"participation.step_s": [1.0, FAILS, CRASHES, BREAKS, FULL, 1.5]})
    told: list[str] = []
    found = sweep(
        asked,
        tmp_path / "out",
        workers=2,
        conduct=CONDUCT,
        on_run=lambda done, total, what: told.append(what),
    )
    assert [row["state"] for row in found.rows] == [
        "finished",
        "failed",
        "failed",
        "failed",
        "failed",
        "finished",
    ]
    assert found.rows[1]["error"] == "It was told to fail. Mend it."
    assert "ended with status 7" in found.rows[2]["error"]
    assert found.rows[3]["error"].startswith("ZeroDivisionError")
    assert found.rows[4]["error"].startswith("OSError: No space left on device; see")
    assert "patient-17" not in found.rows[4]["error"]  # a file may be called by an identifier
    assert "loss" not in found.rows[1]
    assert any("4 runs failed" in line for line in found.words)
    assert sum("It was told to fail." in line for line in told) == 1


@pytest.mark.parametrize("values", [[1.0, 1.5], [1.0, FAILS]])
def test_a_command_whose_runs_failed_says_so_by_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: list[float]
) -> None:
    """It ended with 0, and a script went on with what was not there. The table is shown all the
    same, with the cause."""
    found = sweep(
        of(
            grid={
                "participation.step_s": values,
                **{f"federation.{name}": [20] for name in ("hospitals", "patients")},
                **{"privacy.mode": ["local"], "privacy.epsilon": [1.0]},
            }
        ),
        tmp_path / "out",
        workers=2,
        conduct=CONDUCT,
    )
    monkeypatch.setattr(sweeps, "sweep", lambda *_, **__: found)
    app = typer.Typer()
    cli_sweep.register(app)
    for command in (["sweep", "sweep.toml", "-o", "new"], ["frontier", str(tmp_path / "out")]):
        for more in ([], ["--json"]):
            done = CliRunner().invoke(app, [*command, *more])
            assert done.exit_code == int(FAILS in values), done.output
            assert "loss" in done.output
            assert ("It was told to fail. Mend it." in done.output) == (FAILS in values)


def test_resume_keeps_what_is_finished_and_tries_what_failed(tmp_path: Path) -> None:
    """A finished run is never begun again."""
    out, asked = tmp_path / "out", of(grid={"participation.step_s": [1.0, FAILS]})
    sweep(asked, out, workers=2, conduct=CONDUCT)
    (out / "mended").touch()
    found = sweep(asked, out, workers=2, resume=True, conduct=CONDUCT)
    assert {row["state"] for row in found.rows} == {"finished"}
    assert (begun(found, 1), begun(found, 2)) == (1, 2)


def test_a_larger_sweep_takes_over_what_a_smaller_one_found(tmp_path: Path) -> None:
    """More seeds later: the first ones are not run again."""
    out = tmp_path / "out"
    first = sweep(of(seeds=[1]), out, workers=1, conduct=CONDUCT)
    found = sweep(of(seeds=[1, 2]), out, workers=1, resume=True, conduct=CONDUCT)
    assert begun(found, 1) == 1
    assert found.rows[0]["model"] == first.rows[0]["model"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_sweep_ends_its_runs_and_goes_on_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals, status: int
) -> None:
    """Ctrl-C or SIGTERM while a run is at work: it is ended, it has no outcome, and resume finishes
    it."""
    out, asked = tmp_path / "out", of(grid={"participation.step_s": [1.0, WAITS]})

    def interrupt(done: int, total: int, what: str) -> None:
        if done == 1:
            signal.raise_signal(number)

    with pytest.raises(typer.Exit) as ended, going_on(out, SAME_COMMAND), on_the_bar():
        sweep(asked, out, workers=1, conduct=CONDUCT, on_run=interrupt)
    assert ended.value.exit_code == status
    said = capsys.readouterr().err
    assert f"Ended by {number.name}. Go on with: the same command and --resume" in said
    waiting = points_of(asked)[1].name
    assert Outcome.read(out / "runs" / waiting / "outcome.json") is None
    (out / "mended").touch()
    found = sweep(asked, out, workers=1, resume=True, conduct=CONDUCT)
    assert {row["state"] for row in found.rows} == {"finished"}
    assert begun(found, 1) == 1


def test_a_killed_sweep_leaves_no_run_behind_and_goes_on_later(tmp_path: Path) -> None:
    """kill -9 while a run is at work: its process ends too, and resume finishes everything."""
    out, asked = tmp_path / "out", of(grid={"participation.step_s": [WAITS, 1.0]})
    told = tmp_path / "asked.json"
    told.write_text(asked.model_dump_json())
    code = (
        "import json, sys; from pathlib import Path; from simulations.lab.space import Sweep; "
        "from simulations.lab.sweeps import sweep; "
        "content = json.loads(Path(sys.argv[1]).read_text()); "
        "asked = Sweep.from_dict({k: v for k, v in content.items() if v is not None}); "
        f"sweep(asked, Path(sys.argv[2]), workers=1, conduct={CONDUCT!r})"
    )
    here = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(told), str(out)], env=os.environ | {"PYTHONPATH": here}
    )
    try:
        assert until(lambda: (out / "waiting").exists() and (out / "waiting").read_text())
    finally:
        process.kill()
        process.wait()
    child = int((out / "waiting").read_text())
    assert until(lambda: not Path(f"/proc/{child}").exists())
    (out / "mended").touch()
    found = sweep(asked, out, workers=1, resume=True, conduct=CONDUCT)
    assert {row["state"] for row in found.rows} == {"finished"}
    assert begun(found, 1) == 2


def until(done: Callable[[], Any], limit_s: float = 60.0) -> bool:
    """Look until it is so, or the time is over."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if done():
            return True
        time.sleep(0.02)
    return False


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    """Without --resume; with it, if it holds no sweep."""
    (tmp_path / "something").touch()
    for resume, said in ((False, "is there already"), (True, "holds no sweep")):
        with pytest.raises(OurMistake, match=said):
            sweep(of(), tmp_path, resume=resume, conduct=CONDUCT)


def test_two_sweeps_do_not_work_in_one_folder(tmp_path: Path) -> None:
    """The second is refused while the first is at work."""
    sweep(of(), tmp_path / "out", workers=1, conduct=CONDUCT)
    with (
        locked(tmp_path / "out" / "lock"),
        pytest.raises(OurMistake, match="Another sweep is at work"),
    ):
        sweep(of(), tmp_path / "out", resume=True, conduct=CONDUCT)


def test_the_table_can_be_made_again_without_running(tmp_path: Path) -> None:
    """Of what is there; a run that was never begun is waiting."""
    found = sweep(of(seeds=[1, 2]), tmp_path / "out", workers=1, conduct=CONDUCT)
    assert without_time(again(tmp_path / "out")) == without_time(found)
    (tmp_path / "out" / "runs" / found.rows[1]["run"] / "outcome.json").unlink()
    assert again(tmp_path / "out").rows[1]["state"] == "waiting"
    with pytest.raises(OurMistake, match="holds no sweep"):
        again(tmp_path)
