"""Tables at the terminal."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import typer
from rich.progress import Progress, TextColumn

from shared_model import outputs, terminal
from shared_model.errors import OurMistake
from shared_model.findings import Finding
from shared_model.findings_table import show_and_exit


def test_column_that_the_first_row_lacks_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Whichever row is first: a table must not lose what later rows say."""
    terminal.show("Answers", [{"who": 1}, {"who": 2, "probability": 0.75}], as_json=False)
    shown = capsys.readouterr().out
    assert "probability" in shown
    assert "0.75" in shown


def test_figure_that_is_no_number_is_null_or_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    """On the screen, in its JSON and in a file: JSON has no NaN, and a command does not fail at its
    end for one figure."""

    def refused(word: str) -> None:
        raise AssertionError(word)

    rows = [{"task": "af", "auroc": math.nan, "ends": (0.5, -math.inf, [math.inf])}]
    want = [{"task": "af", "auroc": None, "ends": [0.5, None, [None]]}]
    terminal.show("Figures", rows, as_json=True)
    assert json.loads(capsys.readouterr().out, parse_constant=refused) == want
    assert json.loads(outputs.document(rows), parse_constant=refused) == want
    terminal.show("Figures", [{"task": "af", "auroc": math.nan}], as_json=False)
    shown = capsys.readouterr().out
    assert "not known" in shown
    assert "nan" not in shown
    assert [terminal.figure(one, ".2f") for one in (None, math.nan, 0.5)] == [
        "not known", "not known", "0.50",
    ]  # fmt: skip
    with pytest.raises(TypeError):  # what JSON has no type for, no file is to hold as text
        outputs.document({"path": Path()})


HOSTILE = (
    "sub\\[/].csv", "x\\[link=http://evil]y[/link]", "a\\\\[/]", "[bold]b", ":smile:",
    "\x1b]0;pw\x07", "\x1b[2J", "\x9b2J", "\u202eevil",
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_others_wrote_styles_or_drives_the_terminal(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Title, column, value, and both lines of an error are shown as they are, on a real terminal
    too; what no screen shows is a question mark."""

    def fails() -> None:
        raise OurMistake(text, do=text)

    for name, stderr in (("out", False), ("err", True)):
        screen = terminal.Screen(stderr=stderr, force_terminal=True, width=200)
        monkeypatch.setattr(terminal, name, screen)
    terminal.show(text, [{text: text, "n": 1.5}], as_json=False)
    with pytest.raises(SystemExit):
        terminal.run(fails)
    shown = capsys.readouterr()
    styles = re.compile(r"\x1b\[[0-9;]*m")
    table, error = styles.sub("", shown.out), styles.sub("", shown.err)
    as_shown = re.sub(r"[\x00-\x1f\x7f-\x9f\u202e]", "?", text)
    assert table.count(as_shown) == 3
    assert error == f"error: {as_shown}\ndo: {as_shown}\n"
    assert "\x1b" not in table + error


@pytest.mark.parametrize("text", HOSTILE)
def test_no_printed_line_styles_or_drives_the_terminal(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line, a heading, a check's finding and a bar: most of what is printed is no table."""
    screen = terminal.Screen(force_terminal=True, width=200)
    monkeypatch.setattr(terminal, "out", screen)
    terminal.heading("Probes", f" of {text}")
    with pytest.raises(typer.Exit):
        show_and_exit([Finding(text, "ok", text, text)], as_json=False)
    terminal.out.print(f"note: {text}")
    bar = Progress(TextColumn("{task.description}", markup=False), auto_refresh=False)
    bar.add_task(text)
    terminal.out.print(bar.get_renderable())
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    as_shown = re.sub(r"[\x00-\x1f\x7f-\x9f\u202e]", "?", text)
    heading, check, count, line, told = (one.rstrip() for one in shown.splitlines())
    assert heading == f"Probes of {as_shown}"
    assert check == f"ok        {as_shown}  {as_shown}. Do: {as_shown}"
    assert count == "1 ok, 0 attention, 0 broken"
    rung = as_shown.removesuffix("?")  # rich itself leaves out a bell
    assert line in (f"note: {as_shown}", f"note: {rung}")
    assert as_shown.startswith(told)  # a bar is as wide as rich takes its words to be
    assert len(told) >= len(as_shown) - 2
    assert "\x1b" not in shown


def test_reports_of_what_could_not_be_measured_end_in_words() -> None:
    """Unseen patients with one sensor have no cross-modal error; a task with few patients has no
    interval. A command does not fail at its end for that."""
    from simulations import cli_probe, demo_report
    from simulations.probes.evaluate import Estimate

    point = {"masked": 0.5, "cross_modal": None}
    one = {"source": "icu_x", "patients": 3, "curve": [point, point]}
    assert "cross-modal not known (warm start alone: 0.50 and not known)" in demo_report._unseen(
        one
    )
    assert cli_probe._three(Estimate(0.5, math.nan, math.nan)) == "0.500 (no interval)"
    assert cli_probe._three(Estimate(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"
    assert cli_probe._two_lines(Estimate(math.nan, 0.1, 0.2)).startswith("not known\n")
