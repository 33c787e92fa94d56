"""One page about one run: words first, then figures with intervals, then how to do it again.

    report = write(Path("out"))           # out/plots/, out/report.html

From the run's folder alone, at any time: also of a run that goes on or was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulations.lab import lab_report_tables as tables
from simulations.lab import lab_report_words as words
from simulations.lab.figures import RunData
from simulations.lab.plots import FINGERPRINTS, RECONSTRUCTIONS, draw_all
from simulations.lab.plots_style import Plot
from simulations.report import Figure, Section, write_report

NUMBERS = (
    "MAE is the mean absolute error, in the label's unit; a gain is positive where the model is "
    "better than random-init. Median: always predicting the median.",
)
CURVES = ("loss", "probes-rounds", "probes-epsilon")


@dataclass(frozen=True)
class Report:
    """What was written. path: the page. words: its first sentences."""

    path: Path
    plots: tuple[Plot, ...]
    words: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "report": str(self.path),
            "in_words": list(self.words),
            "plots": [
                {
                    "name": plot.name,
                    "title": plot.title,
                    "files": [str(path) for path in plot.files],
                    "caption" if plot.files else "not_drawn": plot.caption,
                }
                for plot in self.plots
            ],
        }


def write(
    folder: Path,
    *,
    umap: bool = False,
    show_signals: bool = False,
    on_plot: Callable[[str], None] = lambda _: None,
) -> Report:
    """Draw all plots of a run's folder and write its page.

    Args:
        umap: draw it too; its library takes half a minute to load.
        show_signals: draw signals of real people (source "folders").
        on_plot: called with the title of each plot before it is drawn.

    Raises:
        OurMistake: the folder holds no run of the lab, or a damaged one.
    """
    folder = folder.absolute()
    run = RunData.read(folder)
    plots = draw_all(run, folder / "plots", umap=umap, show_signals=show_signals, on_plot=on_plot)
    notices = words.notices(run)
    found = words.findings(run)
    path = folder / "report.html"
    title, sections = f"Experiment {run.experiment.name}", _sections(run, plots, found)
    real = run.experiment.federation.source == "folders"  # a point of a map is a patient
    mode = 0o600 if real else 0o644
    write_report(path, title, _subtitle(run), notices, sections, mode=mode)
    return Report(path, tuple(plots), (*notices, *found))


def _subtitle(run: RunData) -> str:
    asked = run.experiment
    source = {
        "simulated": "SIMULATED patients",
        "waves": "WAVES without meaning",
        "folders": "real recordings",
    }[asked.federation.source]
    sites = run.about.get("hospitals") or (len(run.data.sites) if run.data else None)
    return " · ".join(
        [
            "done" if run.done else "not ended",
            source,
            f"{sites:,} sites" if sites else "sites not known",
            f"{asked.rounds} rounds",
            asked.algorithm.name,
            f"privacy mode {asked.privacy.mode}",
            f"model {asked.model.preset}, {asked.model.trainable}",
            f"seed {asked.seed}",
        ]
    )


def _sections(run: RunData, plots: list[Plot], found: list[str]) -> list[Section]:
    by_name = {plot.name: plot for plot in plots}
    drawn = [plot for plot in plots if plot.name.startswith(RECONSTRUCTIONS)]
    measured = [tables.probes(run), tables.reconstruction(run)] if run.evaluated else []
    site_table, more_sites = tables.sites(run)
    round_table, more_rounds = tables.rounds(run)
    repeat, commands, origin = tables.again(run)
    return [
        Section("What it says", texts=tuple(found)),
        _plotted("Loss and probes", [by_name[name] for name in CURVES]),
        _plotted("Fairness between sites", [by_name["fairness"]], (more_sites,), site_table),
        _plotted("Each sensor drawn from the other", drawn),
        _plotted("Maps of fingerprints", [by_name[FINGERPRINTS]]),
        Section("In numbers", NUMBERS, tuple(measured)),
        _plotted(
            "Rounds, communication, time", [by_name["rounds"], by_name["communication"]],
            (more_rounds,), round_table,
        ),
        Section("Privacy", tables=(tables.privacy(run),)),
        Section("What was measured", texts=tuple(tables.whom(run))),
        Section("How to do it again", tuple(repeat), (origin,), blocks=("\n".join(commands),)),
        Section("Every parameter", tables=(tables.parameters(run),)),
    ]  # fmt: skip


def _plotted(title: str, plots: list[Plot], texts: tuple[str, ...] = (), *shown: Any) -> Section:
    """Plots with their captions; the reason in place of one that could not be drawn."""
    missing = tuple(f"Not drawn: {plot.title}. {plot.caption}" for plot in plots if not plot.files)
    figures = tuple(Figure.of(plot.svg, plot.caption) for plot in plots if plot.svg is not None)
    kept = tuple(text for text in texts if text)
    return Section(title, texts=(*missing, *kept), tables=tuple(shown), figures=figures)
