"""How the lab's plots look, and how they are written: for a column of a paper, and by day or night.

Widths in inches: one column of IEEE or Nature is 3.4 to 3.5. Colours are Okabe and Ito's (2008),
which colour-blind readers tell apart; lines differ in dashes too. Fonts are embedded (TrueType,
type 42) or drawn as shapes (SVG). Nothing has a date, so equal figures are equal bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared_model.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN_IN = 3.4
BLUE, VERMILION, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, ORANGE, YELLOW, BLACK = "#56B4E9", "#E69F00", "#F0E442", "#000000"
GREY, PALE = "#6B6B6B", "#C8C8C8"
COLOURS = (BLUE, VERMILION, GREEN, PINK, SKY, ORANGE, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SENSORS = {
    "both": (BLUE, "-", "o", "both sensors"),
    "ecg": (VERMILION, "--", "s", "ECG only"),
    "ppg": (GREEN, ":", "^", "PPG only"),
}
FORMATS = ("pdf", "svg")

_RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 7.0,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.0,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.0,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "fedprint",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class Plot:
    """A plot, or why there is none.

    name: of its files in plots/. caption: what it shows; or the reason, if `files` is empty.
    """

    name: str
    title: str
    caption: str
    files: tuple[Path, ...] = ()

    @property
    def svg(self) -> Path | None:
        """The file for a page."""
        return next((path for path in self.files if path.suffix == ".svg"), None)


class CannotDraw(Exception):
    """There is nothing to draw; the message says why, in words for the plot's place."""


@contextmanager
def style() -> Iterator[None]:
    """The lab's look, in here only."""
    import matplotlib as mpl

    with mpl.rc_context(dict(_RC)):
        yield


def panels(
    rows: int, columns: int = 1, *, height_in: float = 1.5, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure as wide as a column, with panels in reading order."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(COLUMN_IN, rows * height_in + 0.3), layout="constrained")
    made = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(made.ravel())


def draw(
    folder: Path,
    name: str,
    title: str,
    make: Callable[[], tuple[Figure, str]],
    *,
    mode: int = 0o644,
) -> Plot:
    """Draw and write a plot as PDF and SVG; if it cannot be drawn, the reason is its caption.

    Args:
        mode: of the files; 0o600 where they show a patient's signal.
    """
    caption, files = drawn(name, make)
    paths = tuple(folder / one for one in files)
    for path in paths:
        write_atomic(path, files[path.name], mode=mode)
    if not paths:
        for kind in FORMATS:
            (folder / f"{name}.{kind}").unlink(missing_ok=True)
    return Plot(name, title, caption, paths)


def drawn(name: str, make: Callable[[], tuple[Figure, str]]) -> tuple[str, dict[str, bytes]]:
    """Caption and files, by their names, of a plot that is not written; the reason and none."""
    with style():
        try:
            figure, caption = make()
        except CannotDraw as reason:
            return str(reason), {}
        return caption, {f"{name}.{kind}": rendered(figure, kind) for kind in FORMATS}


def rendered(figure: Figure, kind: str) -> bytes:
    """The figure's bytes in a format."""
    dates = {"pdf": {"CreationDate": None, "ModDate": None}, "svg": {"Date": None}}
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, dpi=200, metadata=dates.get(kind, {}))
    return stream.getvalue()


def round_axis(axes: Axes, rounds: Any, label: str = "round") -> None:
    """Whole rounds only."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if len(rounds) and rounds[0] == rounds[-1]:
        axes.set_xlim(rounds[0] - 1, rounds[-1] + 1)
    axes.set_xlabel(label)


def blank(axes: Axes, text: str) -> None:
    """Words in place of a panel."""
    import textwrap

    axes.set_axis_off()
    axes.text(
        0.5, 0.5, textwrap.fill(text, 34), ha="center", va="center", color=GREY,
        transform=axes.transAxes,
    )  # fmt: skip


def counted(number: int, what: str) -> str:
    """ "1 patient", "3 patients"."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
