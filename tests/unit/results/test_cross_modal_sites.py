"""`cross-modal --site`: a name below the data folder, or a path of one's own."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from shared_model.errors import DataFault, OurMistake
from simulations import measurement
from simulations.cli import app
from simulations.cli_cross_modal import _print, cross_modal
from simulations.cross_modal import ALL_SITES, BAR_SITES, bar, bar_counts
from simulations.cross_modal_windows import folders_of, read_pairs
from simulations.results_bars import _rate
from simulations.site_mapping import HOW_READ


def test_a_site_is_a_name_below_the_data_or_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An absolute path ended in a traceback; a folder named twice is one."""
    data = tmp_path / "data"
    for name in (
        "data/icu_a",
        "data/icu_b",
        "data/icu_bidmc",
        "own/ward7",
        "own/ward [8]",
        "own/icu_a",
        "here",
    ):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "own" / "file").touch()
    monkeypatch.chdir(tmp_path / "own")

    def found(*sites: str) -> list[Path]:
        return [folder.resolve() for folder in folders_of(data, sites)[0]]

    ward, icu = tmp_path / "own" / "ward7", data / "icu_a"
    for site in (str(ward), "ward7", "./ward7", "../own/ward7", "war?7", f"{tmp_path}/own/ward?"):
        assert found(site) == [ward]
    assert found("icu_a") == [icu]  # below the data, not the one beside it
    assert found("./icu_a") == [tmp_path / "own" / "icu_a"]
    assert found("icu_?") == found(f"{data}/icu_?") == [icu, data / "icu_b"]
    assert found("ward [8]") == [tmp_path / "own" / "ward [8]"]
    assert found("ward7", str(ward), "icu_a", "icu_?") == [ward, icu, data / "icu_b"]
    assert [folder.name for folder in folders_of(data, ["."])[0]] == ["own"]
    for site in ("", "file", "nowhere", str(tmp_path / "nowhere"), "/nowhere_*", "a**", "x" * 999):
        assert folders_of(data, [site]) == ([], [site])
    monkeypatch.chdir(data)
    assert folders_of(tmp_path)[0] == []  # nobody named what lies here
    assert folders_of(data)[0] == [data / "icu_bidmc"]


def test_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    """Figures and counts are by name, and one would hide the other."""
    for name in ("one/ward7", "two/ward7"):
        (tmp_path / name).mkdir(parents=True)
    words = ["--site", str(tmp_path / "one" / "ward7"), "--site", str(tmp_path / "two" / "ward7")]
    done = CliRunner().invoke(app, ["cross-modal", "warm-start", *words])
    assert isinstance(done.exception, OurMistake)
    assert "2 folders are called ward7" in done.exception.message


def test_a_folder_of_ones_own_without_windows_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No traceback, and no data folder is wanted where sites have paths of their own."""
    monkeypatch.setenv("FEDPRINT_DATA", str(tmp_path / "absent"))
    (tmp_path / "ward7").mkdir()
    for site, words in (("ward7", "No window"), ("ward8", "None of the sites")):
        place = str(tmp_path / site)
        done = CliRunner().invoke(app, ["cross-modal", "warm-start", "--site", place])
        assert isinstance(done.exception, DataFault)
        assert words in done.exception.message
        assert "--site" in done.exception.do or "ECG and PPG" in done.exception.do


def test_windows_of_ones_own_folder_are_measured_and_never_drawn(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given by its path, outside of the data; rates are drawn, no waveform is. The bar is not asked
    of them: 21 patients of anybody's had "reached"."""
    own = tmp_path / "ward7"
    shutil.copytree(data_root / "icu_uci_bp", own)
    words = ["cross-modal", "warm-start", "--site", str(own), "--windows", "4", "--draws", "20"]
    done = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    drawn = sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".json")
    assert drawn == ["cross-modal-rates.pdf", "cross-modal-rates.svg"]
    figures = measurement.read(tmp_path / "out" / "measured-cross-modal.json").figures
    assert figures["bar"]["reached"] is None
    assert figures["bar"]["value_bpm"] is not None
    _print(figures)
    shown = capsys.readouterr().out
    assert "no bar counts for these folders" in " ".join(shown.split())
    assert "reached" not in shown


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ({}, True),
        ({"default_sites": True}, True),
        ({"default_sites": False}, False),
        ({"met": {"ward7": 62}}, False),
        ({"windows_of_a_patient": 3}, False),
        ({"absent_sites": ["icu_uci_bp"]}, False),
        ({"trained_here": [{"model": "release", "run": "r", "folders": ["icu_bidmc"]}]}, False),
    ],
)
def test_the_bar_is_asked_of_the_default_folders_and_sizes_alone(
    changed: dict[str, Any], counts: bool
) -> None:
    """A file of before `default_sites` says by its folders' names whose it is."""
    estimate = {"value": 2.49, "low": 0.29, "high": 6.75}
    row = {"rate_error_bpm": estimate, "rate_lost": estimate, "raw_rate_error_bpm": estimate}
    figures = {
        "directions": {"ppg_to_ecg": {ALL_SITES: row}},
        "met": dict.fromkeys(BAR_SITES, 9),
        "windows_of_a_patient": inspect.signature(cross_modal).parameters["windows"].default,
        "absent_sites": [],
        **changed,
    }
    assert bar({ALL_SITES: row}, bar_counts(figures))["reached"] is (True if counts else None)
    (found,) = _rate(figures)
    assert found.reached is (True if counts else None)
    assert found.value.startswith("all sites: 2.49 [0.29, 6.75] bpm")
    assert ("not asked of these" in found.value) is not counts


def test_files_that_cannot_be_read_are_told_where_nothing_is_left(tmp_path: Path) -> None:
    """Ten recordings that nobody lists were "name sites whose recordings hold ECG and PPG"."""
    for number in range(3):
        rows = "\n".join(f"{0.008 * k:.3f},{k % 7},{k % 5}" for k in range(40))
        (tmp_path / f"m{number}.csv").write_text(f"time_s,ecg,ppg\n{rows}\n", encoding="utf-8")
    with pytest.raises(DataFault, match=r"3 files \(no-patient 3\)") as caught:
        read_pairs([tmp_path], 5)
    assert HOW_READ in caught.value.do
