"""`draw_cohort`, `write_site` and the commands: folders that a hospital could ingest."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from client.records import Recording, read_folder
from shared_model.errors import OurMistake
from simulations import cohort_figure
from simulations.cli import app
from simulations.cohort import Cohort, SiteEffects, draw_cohort, draw_windows, write_site
from simulations.cohort_figure import WindowSet, draw_figure, draw_sheet, read_site, spectra

SITE = SiteEffects(
    name="ward",
    fs_ecg_hz=250.0,
    fs_ppg_hz=125.0,
    missing=0.5,
    rhythms={"sinus": 0.5, "af": 0.25, "bigeminy": 0.25},
)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return draw_cohort(np.random.default_rng(1), 5, 4, SITE, recordings_per_patient=2)


def test_a_cohort_has_raw_signals_at_the_sites_rates(cohort: Cohort) -> None:
    """Two recordings of 20 s for each of five plainly pretend patients."""
    assert len(cohort) == 10
    assert cohort.duration_s == 20
    assert cohort.ecg.shape == (10, 5000)
    assert cohort.ppg.shape == (10, 2500)
    assert cohort.patient_ids == ("sim-0001", "sim-0002", "sim-0003", "sim-0004", "sim-0005")
    assert cohort.patient.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert np.isnan(cohort.ecg).any()
    assert np.isfinite(cohort.ecg).mean() > 0.8
    for labels, count in ((cohort.patient_labels, 5), (cohort.recording_labels, 10)):
        assert all(len(column) == count for column in labels.values())


def test_the_same_seed_draws_the_same_cohort(cohort: Cohort) -> None:
    """Bytes of both channels."""
    again = draw_cohort(np.random.default_rng(1), 5, 4, SITE, recordings_per_patient=2)
    assert again.ecg.tobytes() == cohort.ecg.tobytes()
    assert again.ppg.tobytes() == cohort.ppg.tobytes()


def test_wfdb_folder_reads_back_with_wfdb(cohort: Cohort, tmp_path: Path) -> None:
    """16 bits hold the signal to a thousandth; annotations hold every beat."""
    import wfdb

    write_site(tmp_path / "ward", cohort, "wfdb")
    with (tmp_path / "ward" / "recordings.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    assert {row["source"] for row in rows} == {"simulated"}
    for index, row in enumerate(rows):
        record = wfdb.rdrecord(str(tmp_path / "ward" / row["recording"]))
        assert record.fs == 250
        assert record.sig_name == ["II", "PLETH"]
        ecg = record.p_signal[:, 0]
        here = cohort.ecg[index]
        assert np.array_equal(np.isnan(ecg), np.isnan(here))
        span = np.nanmax(here) - np.nanmin(here)
        assert np.nanmax(np.abs(ecg - here)) < 1e-3 * span
        beats = wfdb.rdann(str(tmp_path / "ward" / row["recording"]), "atr")
        found = sum(symbol in "NVA/" for symbol in beats.symbol)
        assert found == pytest.approx(float(row["hr"]) / 60 * 20, abs=3)
        assert beats.aux_note[0].startswith("(")


@pytest.mark.parametrize("form", ["wfdb", "parquet", "csv"])
def test_every_format_goes_through_the_hospitals_own_reader(
    cohort: Cohort, tmp_path: Path, form: str
) -> None:
    """read_folder finds both channels, the rate, the patient and the labels."""
    write_site(tmp_path / form, cohort, form)  # type: ignore[arg-type]
    read = list(read_folder(tmp_path / form))
    assert len(read) == 10
    assert all(isinstance(item, Recording) for item in read)
    recordings = [item for item in read if isinstance(item, Recording)]
    assert {item.patient for item in recordings} == set(cohort.patient_ids)
    for item in recordings:
        assert set(item.channels) == {"ecg", "ppg"}
        assert item.channels["ecg"].fs_hz == 250
        assert len(item.channels["ecg"].samples) == 5000


def test_a_site_never_overwrites_a_folder(cohort: Cohort, tmp_path: Path) -> None:
    """Also an unknown format is refused, before anything is written."""
    (tmp_path / "note").write_text("mine")
    with pytest.raises(OurMistake):
        write_site(tmp_path, cohort)
    with pytest.raises(OurMistake):
        write_site(tmp_path / "new", cohort, "tape")  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_impossible_cohorts_are_refused() -> None:
    """No patients; windows that recordings cannot share out."""
    for wrong in (
        {"patients": 0, "windows_per_patient": 2},
        {"patients": 1, "windows_per_patient": 3},
    ):
        with pytest.raises(OurMistake):
            draw_cohort(np.random.default_rng(0), effects=SITE, recordings_per_patient=2, **wrong)


def test_the_command_writes_hospitals_and_says_that_they_are_simulated(tmp_path: Path) -> None:
    """Two sites, patients numbered through, the same bytes with the same seed."""
    options = ["--patients", "2", "--windows-per-patient", "2", "--sites", "2", "--seed", "3"]
    outputs = []
    for name in ("a", "b"):
        result = CliRunner().invoke(app, ["cohort", str(tmp_path / name), *options, "--json"])
        assert result.exit_code == 0, result.output
        outputs.append(json.loads(result.stdout))
    assert outputs[0]["simulated"] is True
    assert "SIMULATED" in outputs[0]["says"]
    assert [site["site"] for site in outputs[0]["sites"]] == ["icu-1", "holter-2"]
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 2 * (2 * 3 + 1)
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert "sim-0003" in (tmp_path / "a" / "holter-2" / "recordings.csv").read_text()
    again = CliRunner().invoke(app, ["cohort", str(tmp_path / "a"), *options])
    assert again.exit_code != 0
    assert isinstance(again.exception, OurMistake)


def test_the_figure_says_which_real_sites_are_left_out(tmp_path: Path) -> None:
    """Without --data only the simulator is drawn and the output says so."""
    out = tmp_path / "figure.png"
    result = CliRunner().invoke(app, ["cohort-figure", str(out), "--windows", "40", "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["skipped"] == {"real sites": "no folder given with --data"}
    assert told["sets"][0]["hr_bpm_p50"] == pytest.approx(90, abs=30)
    for file in (out, tmp_path / "figure_windows.png"):
        assert file.read_bytes().startswith(b"\x89PNG")


def test_windows_of_real_people_are_drawn_of_open_collections_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ward's are read and compared, and shown only where the command says so."""
    cohort = draw_cohort(np.random.default_rng(1), 3, 3, SiteEffects(name="ward"))
    write_site(tmp_path / "ward", cohort, "parquet")
    ward = read_site(tmp_path / "ward", 10)
    assert isinstance(ward, WindowSet)
    assert not ward.drawn
    signal, valid, _ = draw_windows(np.random.default_rng(1), 20)
    sets = [WindowSet("simulated", True, signal, valid), ward]
    drawn: list[str] = []

    def keep(figure: Figure, *_: object, **__: object) -> None:
        drawn.append(" ".join(axes.get_title(loc="left") for axes in figure.axes))

    monkeypatch.setattr(cohort_figure, "_save", keep)
    for asked in (False, True):
        draw_sheet(tmp_path / "c.png", sets, show_signals=asked)
    assert "ward" not in drawn[0]
    assert drawn[1].count("ward") == 3


def test_a_site_with_one_channel_is_drawn_too(tmp_path: Path) -> None:
    """Real sites often have one; and a set without a whole window has no figures."""
    signal, valid, _ = draw_windows(np.random.default_rng(1), 20)
    valid[:, 1] = False
    short = WindowSet("short", False, signal, np.zeros_like(valid))
    draw_figure(tmp_path / "a.png", [WindowSet("simulated", True, signal, valid), short])
    draw_sheet(tmp_path / "b.png", [WindowSet("ecg only", False, signal, valid)])
    assert (tmp_path / "b.png").stat().st_mode & 0o777 == 0o600
    assert short.figures()["hr_bpm_p50"] is None
    with pytest.raises(OurMistake):
        draw_sheet(tmp_path / "none" / "b.png", [short])


def test_real_windows_lie_inside_the_simulated_spectra(data_root: Path) -> None:
    """The median real spectrum of an ICU, both channels, is one that the simulator draws."""
    signal, valid, _ = draw_windows(np.random.default_rng(1), 256)
    real = read_site(data_root / "icu_bidmc", 40)
    assert isinstance(real, WindowSet)
    for channel, (low_hz, high_hz) in enumerate(((1.0, 38.0), (0.8, 7.0))):
        frequency, mine = spectra(signal[valid[:, channel].all(axis=1), channel])
        _, theirs = spectra(real.whole(channel))
        low, high = np.percentile(mine, (3, 97), axis=0)
        middle = np.median(theirs, axis=0)
        band = (frequency >= low_hz) & (frequency <= high_hz)
        inside = (middle[band] >= low[band]) & (middle[band] <= high[band])
        assert inside.mean() > 0.85
