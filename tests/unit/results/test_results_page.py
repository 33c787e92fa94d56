"""The results page: a function of measured files, and nothing else may be on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from shared_model.errors import OurMistake, Refused
from simulations import cli_results, measurement, results_bars, results_figures, results_page
from simulations.lab.frontiers import with_ends
from simulations.lab.plots_style import style
from simulations.measurement import Machine, Measurement
from simulations.results_rows import REQUIRED

ROOT = Path(__file__).resolve().parents[3]


def measured(kind: str, figures: dict[str, Any]) -> Measurement:
    return Measurement(
        measurement=1,
        kind=kind,
        command="fedprint-lab something",
        date="2026-11-29T01:02Z",
        seconds=1.0,
        commit="0" * 40,
        machine=Machine(system="Linux", processor="a processor", cores=2, threads="1"),
        versions={"python": "3.11"},
        weights={"warm start": "ab" * 32},
        figures=figures,
    )


def bench(value: float) -> Measurement:
    figures = {"time_ratio": value}
    return measured("bench", {"name": "dp-step", "quick": False, "figures": figures})


def cell(row: str, value: float) -> dict[str, Any]:
    one = {"value": value, "low": value - 0.1, "high": value + 0.1}
    return {
        "task": "age", "sensors": "both", "row": row, "metric": "AUROC", "patients": 9, "items": 9,
        "estimate": one, "skill": one, "gain_over_random_init": one, "gain_over_hand_made": None,
    }  # fmt: skip


def run(*words: str) -> Any:
    """The command as typed; faults come out as exceptions."""
    app = typer.Typer()
    app.command("other")(lambda: None)
    cli_results.register(app)
    return CliRunner().invoke(app, ["results", *words])


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A generated page of one benchmark and one probe table."""
    folder = tmp_path / "results"
    measurement.write(folder / "speed" / "measured-bench-dp-step.json", bench(1.2))
    probe = {"cells": [cell("random-init", 0.7), cell("ours", 0.8)], "skipped": {"x": "no folder"},
             "single_sensor": [], "bars": {}}  # fmt: skip
    measurement.write(folder / "measured-probe.json", measured("probe", probe))
    assert run("--page", str(tmp_path / "results.md")).exit_code == 0
    return tmp_path / "results.md"


def test_the_page_is_what_the_files_give() -> None:
    """The project's own page was not edited by hand, and is not older than its files."""
    page = ROOT / "docs" / "results.md"
    found = results_page.make(page.with_suffix(""))
    assert results_page.differences(found, page, page.with_suffix("")) == []


def test_a_figure_typed_by_hand_is_refused(page: Path) -> None:
    """One digit in the page, a changed figure, a figure of no file: each is found."""
    assert run("--page", str(page), "--check").exit_code == 0
    text = page.read_text()
    page.write_text(text.replace("1.2 x", "1.1 x"))
    assert isinstance(run("--page", str(page), "--check").exception, Refused)
    page.write_text(text)
    figure = next((page.with_suffix("") / "figures").glob("*.svg"))
    drawn = figure.read_bytes()
    figure.write_bytes(drawn.replace(b"</svg>", b"<!-- --></svg>"))
    refused = run("--page", str(page), "--check").exception
    assert isinstance(refused, Refused)
    assert figure.name in str(refused)
    figure.write_bytes(drawn)
    (figure.parent / "mine.svg").write_bytes(drawn)
    assert "mine.svg" in str(run("--page", str(page), "--check").exception)


def test_check_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    assert isinstance(run("--page", str(tmp_path / "results.md"), "--check").exception, Refused)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_rows_that_nobody_measured_say_so(page: Path) -> None:
    """Every row of the design is on the page: with a figure, or in words."""
    text = page.read_text()
    for row in REQUIRED:
        there = f"- {row}: not measured" in text
        assert there != (row == "random-init"), row
    assert "- x: not measured: no folder" in text
    assert "| PPG -> ECG heart-rate error | <= 2.9 bpm | not measured | not measured |" in text


@pytest.mark.parametrize(("value", "answer"), [(1.25, "**reached**"), (1.26, "not reached")])
def test_answers_to_bars_are_computed(tmp_path: Path, value: float, answer: str) -> None:
    measurement.write(tmp_path / "measured-bench-dp-step.json", bench(value))
    text = results_page.make(tmp_path).text
    assert f"| <= 1.25 | {value:.3g} x | {answer} | measured-bench-dp-step.json |" in text


def test_the_speed_up_of_onnx_says_over_what_and_what_it_is_over_the_other() -> None:
    """2.1 over torch stood there alone; over the float32 file of the same export it was 1.76."""
    figures = {"speedup_vs_torch": 2.1, "speedup_vs_onnx_float32": 1.76}
    found = {name: results_bars.lines({"f": measured("bench", {
        "name": "onnx", "quick": False, "figures": figures | changed})})[-1]
        for name, changed in (("both", {}), ("slower", {"speedup_vs_torch": 1.9}),
                              ("whole", {"speedup_one_call_32": 1.9}))}  # fmt: skip
    _, bar, value, answer, _ = found["both"]
    over = "over the float32 model in torch; 1.76 x over the float32 ONNX file of the same export"
    assert (bar, value, answer) == (">= 2", f"2.1 x {over}", "**reached**; over torch")
    assert (
        "2.1 x over the float32 model in torch (1.9 x with 32 windows in one" in found["whole"][2]
    )
    assert found["slower"][2:4] == (f"1.9 x {over}", "not reached; over torch")


def test_the_bar_of_the_gain_says_whose_batch_it_is_of() -> None:
    """256 at each hospital; 256 over all of them is another question."""
    shares = [one.figure for one in results_bars.BARS if one.figure.startswith("share of the gain")]
    assert len(shares) == 2
    assert all("expected batch 256 at each hospital" in one for one in shares)


def test_a_bar_of_probes_says_whose_patients_it_is_of(tmp_path: Path) -> None:
    """All of the folders, or those alone that the runs of the models had not read."""
    sure, unsure = ({"value": 0.2, "low": low, "high": 0.3} for low in (0.1, -0.1))
    cells = [
        {**cell("ours", 0.8), "task": f"task {k}", "gain_over_hand_made": sure if k < 4 else unsure}
        for k in range(7)
    ]
    probe = {"cells": cells, "skipped": {}, "single_sensor": []}
    for seen, words in ((None, "all patients"), ({"runs": [], "left_out": {}}, "no run has read")):
        figures = {**probe, "release": {"unseen_by": seen}}
        measurement.write(tmp_path / "measured-probe.json", measured("probe", figures))
        text = results_page.make(tmp_path).text
        assert f"{words}: above hand-made features on 4 of 7 by interval, 7 by point" in text


def turned_round(value: Any) -> Any:
    """The same with every verdict the other way, and without what repeats verdicts."""
    if isinstance(value, list):
        return [turned_round(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: not one if key == "reached" else turned_round(one)
        for key, one in value.items()
        if key not in {"bars", "worst"}
    }


def test_no_verdict_that_a_file_holds_is_on_the_page() -> None:
    """The project's own files with every "reached" turned round: the same bars, the same tables."""
    files = results_page.read_all(ROOT / "docs" / "results")
    turned = {
        name: one.model_copy(update={"figures": turned_round(one.figures)})
        for name, one in files.items()
    }
    assert any('"reached"' in json.dumps(one.figures) for one in files.values())
    assert results_bars.lines(turned) == results_bars.lines(files)
    for name, one in files.items():
        show = results_page.SECTIONS[one.kind][1]
        assert show(turned[name].figures) == show(one.figures), name


def test_a_verdict_of_older_rules_is_made_anew(tmp_path: Path) -> None:
    """A share below its bar that the file calls reached, in the bars and in the table."""
    row = {"measure": "unit loss", "epsilon": 3.0, "trained": "so", "seeds": 5,
           "gain": {"value": 0.1, "low": 0.1, "high": 0.1}}  # fmt: skip
    kept = {**row, "mode": "local", "share": 0.39, "bar": 0.3, "reached": True,
            "words": "99 % of it [30, 48]"}  # fmt: skip
    free = {**row, "mode": "none", "epsilon": None, "share": 1.0, "bar": None, "reached": None,
            "words": ""}  # fmt: skip
    run_of = {"mode": "local", "epsilon": 3.0, "measure": "unit loss", "reached": True,
              "words": "99 %", "as_asked": True}  # fmt: skip
    figures = {"rows": [free, kept], "shares": [run_of], "in_words": []}
    measurement.write(tmp_path / "measured-gain.json", measured("gain", figures))
    text = results_page.make(tmp_path).text
    assert "| unit loss: 39 % of the gain kept (5 seeds) [30, 48] | not reached |" in text
    assert "| 0.39 | 0.4 | False | 39 % of the gain kept (5 seeds) [30, 48] |" in text
    assert "99 %" not in text


def pooled(pooled_auroc: float, **more: Any) -> dict[str, Any]:
    """One task; the starting model is at 0.8, the federated one at 0.9."""
    row = {"task": "rhythm", "metric": "AUROC", "starting model": 0.8, "federated": 0.9,
           "pooled": pooled_auroc, "ratio": 1.0, "bar": "", "reached": True}  # fmt: skip
    return {"rows": [row], "worst": {"words": "1 of 1", "reached": True}, "in_words": [], **more}


@pytest.mark.parametrize(
    ("figures", "answer"),
    [
        (pooled(0.9, pooled_skill_gain=0.2), "| **reached** |"),
        (pooled(0.95, pooled_skill_gain=0.2), "| not reached |"),
        (pooled(0.9, pooled_skill_gain=-0.1), "| **reached**; but pooled training gained nothing,"),
        (pooled(0.95, pooled_skill_gain=0), "| not reached; but pooled training gained nothing,"),
        (pooled(0.9, in_words=["Pooled training moved mean skill by -0.0014: where"]),
         "| **reached**; but pooled training gained nothing,"),
        (pooled(0.9), "| **reached**; the file does not say whether pooled training gained |"),
    ],
)  # fmt: skip
def test_ratios_to_a_pooled_model_that_gained_nothing_say_so_in_the_same_cell(
    tmp_path: Path, figures: dict[str, Any], answer: str
) -> None:
    """The issue's bar is of ratios: they are shown, and so is that they may be empty."""
    measurement.write(
        tmp_path / "measured-against-pooled.json", measured("against-pooled", figures)
    )
    lines = results_page.make(tmp_path).text.splitlines()
    line = next(line for line in lines if line.startswith("| federated without DP against pooled"))
    assert answer in line
    assert f"ratio {0.9 / figures['rows'][0]['pooled']:.3f}" in line
    assert ("by -0.0014 and is above the starting model on 1 of 1" in line) == bool(
        figures["in_words"]
    )


def test_ratios_of_several_seeds_are_shown_with_their_interval(tmp_path: Path) -> None:
    """Answer and table are made of each seed's figures; a verdict of the file is not read."""
    sides = ((0.90, 0.96), (0.96, 0.90))
    row = {"task": "rhythm", "metric": "AUROC", "reached": False, "ratio": 9.0, "by_seed": [
        {"seed": k, "starting model": 0.8, "federated": ours, "pooled": theirs}
        for k, (ours, theirs) in enumerate(sides)]}  # fmt: skip
    over_seeds = with_ends([ours / theirs for ours, theirs in sides])
    figures = {"rows": [row], "seeds": [0, 1], "in_words": [], "trained": "long",
               "pooled_skill_gain_interval": with_ends([0.11, 0.12])}  # fmt: skip
    measurement.write(
        tmp_path / "measured-against-pooled.json", measured("against-pooled", figures)
    )
    lines = results_page.make(tmp_path).text.splitlines()
    line = next(line for line in lines if line.startswith("| federated without DP against pooled"))
    assert "long: ratios within their bars: 1 of 1 tasks by the mean of 2 seeds, 0 with all" in line
    assert "0 beyond with all of it" in line
    shown = f"{over_seeds['value']:.3f} [{over_seeds['low']:.3f}, {over_seeds['high']:.3f}]"
    assert f"ratio {shown}" in line
    assert "moved mean skill by +0.1150 [+0.0515, +0.1785]" in line
    assert "| **reached** |" in line
    assert any(one.startswith("| rhythm ") and f"| {shown} |" in one for one in lines)
    assert not any("by_seed" in one for one in lines)


def test_figures_of_a_warm_start_that_was_replaced_say_so(tmp_path: Path) -> None:
    """By its digest, for nobody remembers which file was measured when; the packaged one says
    nothing."""
    from shared_model import warm_start, weights
    from shared_model.release_origin import EARLIER_WARM_STARTS

    earlier = next(iter(EARLIER_WARM_STARTS["small"]))
    now = weights.digest(warm_start.load("small")[1])
    for digest, said in ((earlier, True), (now, False)):
        made = bench(1.2).model_copy(update={"weights": {"warm-start:small": digest}})
        measurement.write(tmp_path / "results" / "measured-bench-dp-step.json", made)
        page = results_page.make(tmp_path / "results").text
        assert ("which this package has replaced" in page) == said
        assert ("`warm-start:small` is an earlier warm start of `small`" in page) == said
    both = {"warm-start:small": now, "before": earlier}
    made = bench(1.2).model_copy(update={"weights": both})
    measurement.write(tmp_path / "results" / "measured-bench-dp-step.json", made)
    page = results_page.make(tmp_path / "results").text
    assert "`before` is an earlier warm start of `small`" in page
    assert "`warm-start:small` is" not in page


def test_quick_sizes_answer_no_bar(tmp_path: Path) -> None:
    figures = {"name": "dp-step", "quick": True, "figures": {"time_ratio": 1.0}}
    measurement.write(tmp_path / "measured-bench-x.json", measured("bench", figures))
    assert "| no answer |" in results_page.make(tmp_path).text


def test_a_figure_beside_a_file_must_be_the_one_its_command_drew(tmp_path: Path) -> None:
    """Examples of windows cannot be drawn again from numbers; their digest holds them."""
    about = {"title": "t", "caption": "c", "sha256": "0" * 64}
    figures = {
        "directions": {"ppg_to_ecg": {}, "ecg_to_ppg": {}}, "words": {}, "left_out": {}, "met": {},
        "absent_sites": [], "note": "", "bar": {"bar_bpm": 2.9}, "figures": {"a": about},
        "cited": {"source": "s", "raw_ppg_bpm": 1.0, "made_ecg_bpm": 1.0},
    }  # fmt: skip
    measurement.write(tmp_path / "measured-cross-modal.json", measured("cross-modal", figures))
    with pytest.raises(Refused):
        results_page.make(tmp_path)
    (tmp_path / "a.svg").write_bytes(b"<svg/>")
    with pytest.raises(OurMistake, match="not the figure"):
        results_page.make(tmp_path)


@pytest.mark.parametrize(
    "bent",
    [
        {"commit": "mine"},
        {"date": "today"},
        {"kind": "no such kind"},
        {"extra": 1},
        {"seconds": -1},
    ],
)
def test_a_file_that_was_bent_by_hand_is_refused(tmp_path: Path, bent: dict[str, Any]) -> None:
    path = tmp_path / "measured-x.json"
    path.write_text(json.dumps(bench(1.0).model_dump() | bent))
    with pytest.raises(OurMistake):
        results_page.make(tmp_path)


def test_files_that_are_no_measurements_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "measured-x.json"
    for content in ("[" * 100_000, "not JSON", "[]", "{}"):
        path.write_text(content)
        with pytest.raises(OurMistake):
            measurement.read(path)
    measurement.write(path, measured("probe", {"cells": []}))
    with pytest.raises(OurMistake, match="has not what its kind has"):
        results_page.make(tmp_path)


def test_a_measurement_says_what_made_it(tmp_path: Path) -> None:
    made = measurement.made_now("bench", {}, weights={}, seconds=0.1)
    assert made.versions["fedprint"]
    assert measurement.commit_of(tmp_path) == measurement.NO_COMMIT
    command = measurement.command_line(["/path/fedprint-lab", "probe", "a b"])
    assert command == "fedprint-lab probe 'a b'"


def test_no_two_rows_of_the_skill_figure_look_alike_and_all_names_fit() -> None:
    """Twelve rows are more than there are colours; a name that is cut off says nothing."""
    names = [f"a row with quite a long name, number {number}" for number in range(12)]
    skill = {"value": 0.5, "low": 0.4, "high": 0.6}
    cells = [{"task": "age", "sensors": "ppg", "row": name, "skill": skill} for name in names]
    with style():
        figure = results_figures._skill({"cells": cells})
        assert figure is not None
        figure.canvas.draw()
        (legend,) = figure.legends
        box, whole = legend.get_window_extent(), figure.bbox
    points = [one.lines[0] for one in figure.axes[0].containers]
    assert len({(one.get_color(), one.get_marker()) for one in points}) == len(names)
    assert whole.x0 <= box.x0
    assert box.x1 <= whole.x1


def test_a_skill_that_is_off_the_axis_is_said_in_figures() -> None:
    """It was off the picture, with only the end of its interval in sight."""
    far = {"value": -2.04, "low": -3.0, "high": -0.9}
    near = {"value": -0.99, "low": -1.5, "high": -0.5}
    cells = [
        {"task": "age", "sensors": "ppg", "row": name, "skill": skill}
        for name, skill in (("far", far), ("near", near))
    ]
    with style():
        figure = results_figures._skill({"cells": cells})
        assert figure is not None
        (axes,) = figure.axes
    (words,) = axes.texts
    assert "-2.0" in words.get_text()
    assert words.get_position() == (axes.get_xlim()[0], axes.containers[0].lines[0].get_ydata()[0])


def test_a_picture_of_one_task_does_not_cut_its_markers() -> None:
    cells = [cell(row, 0.8) for row in ("random-init", "hand-made features", "warm start")]
    with style():
        figure = results_figures._skill({"cells": cells})
    assert figure is not None
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    heights = [float(line.get_ydata()[0]) for line in axes.lines if line.get_marker() != "None"]
    assert len(heights) >= 3
    assert all(low + 0.1 < height < high - 0.1 for height in heights)
    tasks = [{**one, "task": task} for one in cells for task in ("age", "sex", "identity")]
    with style():
        several = results_figures._skill({"cells": tasks})
    assert several is not None
    assert several.axes[0].get_ylim() == (-0.5, 2.5)
