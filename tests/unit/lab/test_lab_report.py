"""A run's plots and page: from its folder alone, words first, nothing fetched, nobody's signals."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from measured_run_parts import experiment, waves, write_run

from shared_model.errors import OurMistake
from simulations import cli_plot
from simulations.lab import lab_report
from simulations.lab.figures import RunData
from simulations.lab.plots import draw_all
from simulations.lab.plots_style import Plot

LOCAL = {"mode": "local", "epsilon": 3.0}


def row(round: int, task: str, kind: str, value: float, **changed) -> dict:
    """A row of probes.parquet."""
    content = {
        "round": round, "task": task, "sensors": "both", "site": "all", "model": "federated",
        "kind": kind, "value": value, "low": value - 0.05, "high": value + 0.05, "gain": None,
        "gain_low": None, "gain_high": None, "patients": 40, "epsilon": 0.5 * round or None,
    }  # fmt: skip
    return content | changed


def probed(sites: int) -> list[dict]:
    """Rows as an evaluation gives them: two rounds, one label, random-init, sites."""
    rows = []
    for number, value in ((0, 0.6), (3, 0.9)):
        gain = {"gain": value - 0.6, "gain_low": value - 0.7, "gain_high": value - 0.5}
        rows += [row(number, "rhythm", "auroc", value, sensors=s, **gain) for s in ("both", "ecg")]
        for task in ("unit loss", "masked reconstruction", "cross-modal reconstruction"):
            rows.append(row(number, task, "loss", 2.0 - value))
        rows += [
            row(number, "unit loss", "loss", 1.5 + 0.01 * k - value, site=f"site-{k:04d}")
            for k in range(sites)
        ]
    rows.append(row(0, "rhythm", "auroc", 0.55, model="random-init"))
    rows.append(row(0, "unit loss", "loss", 2.1, model="random-init"))
    return rows


@pytest.fixture(scope="module")
def sines(tmp_path_factory):
    """Patients of a whole run."""
    return waves(tmp_path_factory.mktemp("run") / "federation", sites=3, held_out=6, labels=True)


@pytest.fixture(scope="module")
def run(sines):
    """A run that has ended, with a private mode."""
    one = experiment(federation={"source": "waves"}, privacy=LOCAL, rounds=3)
    return write_run(sines.folder.parent, one, sines, probes=probed(3), few=[2])


@pytest.fixture(scope="module")
def written(run):
    """Its report."""
    return lab_report.write(run)


def drawn(plots) -> dict[str, Plot]:
    return {plot.name: plot for plot in plots}


def test_every_plot_of_a_whole_run_is_drawn_twice_over(written):
    """PDF and SVG of each, with a sentence that says what it shows."""
    plots = drawn(written.plots)
    assert set(plots) == {
        "loss", "probes-rounds", "probes-epsilon", "fairness", "rounds", "communication",
        "reconstructions-1", "fingerprints",
    }  # fmt: skip
    for plot in plots.values():
        assert [path.suffix for path in plot.files] == [".pdf", ".svg"], plot
        assert all(path.stat().st_size > 1000 for path in plot.files)
        assert len(plot.caption) > 60


def test_equal_figures_are_equal_bytes(run, written):
    """Drawn again, the files are the same: no date, no random name in them."""
    before = {path: path.read_bytes() for plot in written.plots for path in plot.files}
    draw_all(RunData.read(run), run / "plots")
    assert {path: path.read_bytes() for path in before} == before


def test_fonts_are_embedded_in_every_pdf(written):
    """TrueType outlines, none of Type 3, which journals refuse."""
    for plot in written.plots:
        data = plot.files[0].read_bytes()
        assert b"/FontFile2" in data
        assert b"/Type3" not in data


def test_the_page_fetches_nothing_and_says_the_words_first(run, written):
    """Self-contained; what must be known stands before the first figure; sentences of findings."""
    page = written.path.read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert not re.search(r"<script|@import|url\(", page)
    words = page.index("Masks are off and there is no ledger.")
    assert words < page.index("<h2") < page.index("<figure")
    assert "1 of 3 rounds had too few survivors" in page
    assert "none of this means anything" in page
    assert page.count("data:image/svg+xml;base64,") == len(written.plots)


def test_findings_name_what_is_above_random_init_and_above_the_start(written):
    """Both sensors of the label are above; the start's interval does not meet the last one's."""
    said = " ".join(written.words)
    assert "2 of 2 are above random-init" in said
    assert "Clearly better than at round 0 (intervals do not meet, both sensors): rhythm." in said
    assert "worst" in said


def test_seeded_noise_is_called_no_privacy_in_the_caption_of_epsilon(written):
    """Nobody may take the axis for a promise."""
    assert "NOBODY IS PROTECTED" in drawn(written.plots)["probes-epsilon"].caption


def test_a_run_that_goes_on_is_said_to_go_on(tmp_path, sines):
    """No model, no result: curves are drawn, the reason stands in place of the rest."""
    one = experiment(federation={"source": "waves"}, privacy=LOCAL, rounds=3)
    folder = write_run(tmp_path / "out", one, sines, probes=probed(3), done=False)
    made = lab_report.write(folder)
    assert made.words[0].startswith("THE RUN HAS NOT ENDED: 3 of 3 rounds")
    assert any("NO PRIVACY" in line for line in made.words)
    plots = drawn(made.plots)
    assert plots["loss"].files
    assert plots["fingerprints"].caption == "The run has no final model yet."
    assert "Not drawn: Maps of fingerprints." in made.path.read_text()


def test_a_run_with_nothing_but_its_file_still_has_a_page(tmp_path):
    """Interrupted before the first round: every plot has a reason, and nothing fails."""
    one = experiment(federation={"source": "waves"})
    (tmp_path / "experiment.toml").write_text(one.to_toml())
    made = lab_report.write(tmp_path)
    assert not any(plot.files for plot in made.plots)
    assert all(plot.caption for plot in made.plots)
    assert "Nothing was measured" in " ".join(made.words)
    assert "no noise and NO PRIVACY" in made.path.read_text()


def test_a_run_without_one_sum_says_that_the_model_is_its_start(tmp_path, sines):
    """All rounds too few: said in capitals, and drawn all the same."""
    one = experiment(federation={"source": "waves"}, rounds=3)
    folder = write_run(tmp_path / "out", one, sines, probes=probed(2), few=[1, 2, 3])
    made = lab_report.write(folder)
    assert any(line.startswith("NO ROUND WAS SUMMED") for line in made.words)
    assert drawn(made.plots)["rounds"].files
    assert not drawn(made.plots)["probes-epsilon"].files


def test_a_plot_that_cannot_be_drawn_any_more_leaves_no_old_file(tmp_path, sines):
    """An old figure beside a new page would be believed."""
    one = experiment(federation={"source": "waves"}, rounds=3)
    folder = write_run(tmp_path / "out", one, sines, probes=[], done=False)
    old = [folder / "plots" / name for name in ("loss.pdf", "loss.svg", "reconstructions-1.svg")]
    old[0].parent.mkdir()
    for path in old:
        path.write_bytes(b"old")
    lab_report.write(folder)
    assert not any(path.exists() for path in old)


def test_signals_of_real_people_are_drawn_only_when_asked(tmp_path):
    """Source folders: the place of the plot names the option; with it, the caption says whose."""
    data = waves(tmp_path / "federation", sites=2, held_out=6)
    folders = {"source": "folders", "folders": ["a"]}
    one = experiment(federation=folders, evaluation={"reconstructions": 1})
    write_run(tmp_path, one, data, probes=[])
    plots = drawn(lab_report.write(tmp_path).plots)
    assert not plots["reconstructions"].files
    assert "--show-signals" in plots["reconstructions"].caption
    assert not list((tmp_path / "plots").glob("reconstructions*"))
    assert (tmp_path / "report.html").stat().st_mode & 0o777 == 0o600  # a point is a patient
    page = lab_report.write(tmp_path, show_signals=True)
    shown = drawn(page.plots)
    assert "REAL PEOPLE" in shown["reconstructions-1"].caption
    for path in (page.path, *shown["reconstructions-1"].files):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_thousand_sites_are_one_readable_page(tmp_path, sines):
    """Dots without bars, a table of the worst, and where the rest is."""
    one = experiment(federation={"source": "waves"}, rounds=3)
    many = type("Many", (), {})()
    names = [type("S", (), {"name": f"site-{k:04d}", "declared": 9})() for k in range(1000)]
    many.sites, many.digest = names, sines.digest
    folder = write_run(tmp_path / "out", one, many, probes=probed(1000), done=False)
    made = lab_report.write(folder)
    page = made.path.read_text()
    assert "unit loss at 1,000 of 1,000 sites" in drawn(made.plots)["fairness"].caption
    assert "970 more sites are in metrics/sites.parquet." in page
    assert page.index("site-0999") < page.index("site-0971")
    assert len(page) < 2_000_000


def test_names_of_sites_are_text_and_never_markup(tmp_path, sines):
    """A folder's name is a site's name, and may hold anything."""
    one = experiment(federation={"source": "waves"}, rounds=3)
    rows = [r | {"site": "<script>x</script>"} if r["site"] != "all" else r for r in probed(1)]
    folder = write_run(tmp_path / "out", one, sines, probes=rows, done=False)
    assert "<script>" not in lab_report.write(folder).path.read_text()


def test_a_trackers_address_is_not_in_the_page(tmp_path, sines):
    """It may hold a password."""
    one = experiment(
        federation={"source": "waves"}, tracking={"mlflow": "https://me:secret@host/"}, rounds=3
    )
    folder = write_run(tmp_path / "out", one, sines, probes=[], done=False)
    assert "secret" not in lab_report.write(folder).path.read_text()


def test_report_prints_json_and_refuses_another_folder(tmp_path, sines):
    """The command gives the same words, files and reasons; no run is an error with advice."""
    one = experiment(federation={"source": "waves"}, rounds=3)
    run = write_run(tmp_path / "out", one, sines, probes=[], done=False)
    app = typer.Typer()
    cli_plot.register(app)
    app.callback()(lambda: None)
    result = CliRunner().invoke(app, ["report", str(run), "--no-umap", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["report"] == str(run / "report.html")
    by_name = {plot["name"]: plot for plot in document["plots"]}
    assert len(by_name["communication"]["files"]) == 2
    assert by_name["loss"]["not_drawn"].startswith("Nothing was measured yet")
    assert document["in_words"][0].startswith("THE RUN HAS NOT ENDED")
    with pytest.raises(OurMistake, match="holds no run"):
        lab_report.write(tmp_path)


@pytest.mark.long
def test_umap_is_drawn_when_it_is_asked_for(run):
    """Seeded: two drawings are equal bytes, and differ from the page without it."""
    first = draw_all(RunData.read(run), run / "plots", umap=True)[-1]
    data = first.files[1].read_bytes()
    assert draw_all(RunData.read(run), run / "plots", umap=True)[-1].files[1].read_bytes() == data
    assert draw_all(RunData.read(run), run / "plots")[-1].files[1].read_bytes() != data


def test_the_series_of_a_run_is_what_was_measured(run):
    """Rounds in order, intervals beside, none for what was never measured."""
    read = RunData.read(run)
    series = read.series("rhythm", "auroc")
    assert series.round.tolist() == [0, 3]
    assert series.value.tolist() == [0.6, 0.9]
    assert len(read.series("rhythm", "auroc", sensors="ppg")) == 0
    assert read.baseline("rhythm", "auroc")["value"] == 0.55
