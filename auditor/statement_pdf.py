"""The statement as one A4 page, drawn with matplotlib: no browser, no font that is not packaged.

Two columns of text between a first line and the files. If it does not fit, letters get smaller down
to 6 points; then lists are cut short and say so: the HTML file has all.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import matplotlib as mpl
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.dates import AutoDateLocator, DateFormatter, date2num
from matplotlib.figure import Figure as Drawing
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from auditor.statement import Point, Statement

WIDTH_PT, HEIGHT_PT = 595.0, 842.0
MARGIN_PT, GUTTER_PT = 40.0, 22.0
COLUMN_PT = (WIDTH_PT - 2 * MARGIN_PT - GUTTER_PT) / 2
PLOT_PT = 128.0
SIZES_PT = (8.4, 8.0, 7.6, 7.2, 6.8, 6.4, 6.0)
CUTS = (99, 8, 6, 5, 4, 3)
INK, SOFT, RULE, BLUE, RED = "#1d2430", "#5b6573", "#d9dee5", "#1f5fa8", "#a3201d"
COLOURS = {"OK": ("#1c6b3c", "#eef7f1"), "INCOMPLETE": ("#8a5a00", "#fdf5e4")}
BAD = (RED, "#fceeed")


@dataclass(frozen=True)
class Line:
    """A line of text. space: above it, in points; indent: from the column's left."""

    text: str
    size: float
    bold: bool = False
    colour: str = INK
    space: float = 0.0
    indent: float = 0.0
    rule: bool = False
    plot: bool = False

    @property
    def height(self) -> float:
        return self.space + (PLOT_PT if self.plot else 1.32 * self.size)


def render(statement: Statement) -> bytes:
    """The file. The same statement gives the same bytes."""
    with mpl.rc_context({"pdf.fonttype": 42, "font.family": "DejaVu Sans"}):
        head, columns, foot = _fitted(statement)
        drawing = Drawing(figsize=(WIDTH_PT / 72, HEIGHT_PT / 72))
        FigureCanvasPdf(drawing)
        page = _Page(drawing)
        colour, ground = COLOURS.get(statement.verdict, BAD)
        band = [line for line in head if line.bold and line.colour == colour]
        page.box(HEIGHT_PT - MARGIN_PT + 4, sum(line.height for line in band) + 8, ground, colour)
        below = page.lines(head, MARGIN_PT, HEIGHT_PT - MARGIN_PT, statement.points)
        for at, column in enumerate(columns):
            left = MARGIN_PT + at * (COLUMN_PT + GUTTER_PT)
            page.lines(column, left, below - 4, statement.points)
        page.lines(foot, MARGIN_PT, MARGIN_PT + _height(foot), statement.points)
        stream = io.BytesIO()
        title = _plain(f"Privacy statement: {statement.title}")
        drawing.savefig(stream, format="pdf", metadata={"Title": title, "CreationDate": None})
    return stream.getvalue()


def _fitted(
    statement: Statement,
) -> tuple[list[Line], tuple[list[Line], list[Line]], list[Line]]:
    for cut in CUTS:
        for size in SIZES_PT:
            head, foot = _head(statement, size, cut), _foot(statement, size, cut)
            columns = _left(statement, size, cut), _right(statement, size, cut)
            room = HEIGHT_PT - 2 * MARGIN_PT - _height(head) - _height(foot) - 10
            if max(map(_height, columns)) <= room:
                return head, columns, foot
    return head, (_cropped(columns[0], room), _cropped(columns[1], room)), foot


def _cropped(lines: list[Line], room: float) -> list[Line]:
    """What there is room for, and a line that says that it is not all."""
    size = SIZES_PT[-1]
    kept: list[Line] = []
    for line in lines:
        if _height(kept) + line.height + 1.32 * size > room:
            return [*kept, Line("... more in the HTML file", size, colour=SOFT)]
        kept.append(line)
    return kept


def _height(lines: Sequence[Line]) -> float:
    return sum(line.height for line in lines)


def _head(s: Statement, size: float, cut: int) -> list[Line]:
    colour, _ = COLOURS.get(s.verdict, BAD)
    wide = WIDTH_PT - 2 * MARGIN_PT
    lines = [
        Line(text, size + 1.4, bold=True, colour=colour, indent=8)
        for text in _wrapped(s.headline, size + 1.4, wide - 16, bold=True)
    ]
    lines.append(Line(_plain(f"Privacy statement: {s.title}"), 15, bold=True, space=14))
    about = (
        f"For the data-protection officer. Made on {s.day} with fedprint-audit from exported files "
        "only, offline, believing nobody but the consortium's root key."
    )
    lines += [Line(text, size, colour=SOFT) for text in _wrapped(about, size, wide)]
    if s.failures:
        lines += _titled("What failed", size)
        lines += _list(s.failures, size, min(cut, 8), wide)
    return lines


def _left(s: Statement, size: float, cut: int) -> list[Line]:
    lines: list[Line] = []
    if s.facts:
        lines += _titled("What was promised, and what is spent", size)
        for what, value in s.facts:
            lines.append(Line(what, size - 0.6, bold=True, colour=SOFT, space=2.5))
            lines += [Line(text, size) for text in _wrapped(value, size, COLUMN_PT)]
    lines += _titled("What the figure means", size)
    for text in s.meaning:
        lines += _paragraph(text, size)
    if s.verified:
        lines += _titled("What was verified", size)
        lines += _list(s.verified, size, 99, COLUMN_PT)
        if s.countersigned:
            lines += _paragraph(f"This ledger: {s.countersigned}.", size)
    return lines


def _right(s: Statement, size: float, cut: int) -> list[Line]:
    lines: list[Line] = []
    if s.points:
        lines += _titled("Epsilon over time", size)
        lines.append(Line("", size, plot=True))
    if s.runs:
        lines += _titled("By run and purpose", size)
        for run, purpose, rounds, steps, pld, prv, start, end in s.runs[:cut]:
            text = (
                f"{run} ({purpose}): {rounds} rounds, {steps} steps, {start} to {end}; epsilon "
                f"{pld} (dp-accounting), {prv} (Opacus)"
            )
            lines += _paragraph(text, size)
        lines += _more(len(s.runs) - cut, size)
        text = "At the delta given. Runs do not simply add up; together they cost what is spent."
        lines += _paragraph(text, size - 0.6, SOFT)
    lines += _titled("What could not be checked", size)
    lines += _list(s.not_checked, size, cut, COLUMN_PT)
    lines += _titled("What this does not cover", size)
    lines += _list(s.not_covered, size, 99, COLUMN_PT)
    return lines


def _foot(s: Statement, size: float, cut: int) -> list[Line]:
    lines = _titled("Files", size)
    for name, digest in s.files[:cut]:
        lines += [
            Line(text, size - 1.4)
            for text in _wrapped(f"{digest}  {name}", size - 1.4, WIDTH_PT - 2 * MARGIN_PT)
        ]
    lines += _more(len(s.files) - cut, size)
    last = (
        "An audit never confirms privacy. It finds contradictions, or does not. To repeat it: "
        "fedprint-audit verify FILE... --root-key root.json"
    )
    return [*lines, Line(last, size - 1.0, colour=SOFT, space=4)]


def _titled(text: str, size: float) -> list[Line]:
    return [Line(text, size + 1.2, bold=True, space=7, rule=True), Line("", 2.0)]


def _paragraph(text: str, size: float, colour: str = INK) -> list[Line]:
    return [
        Line(part, size, colour=colour, space=1.5 if number == 0 else 0.0)
        for number, part in enumerate(_wrapped(text, size, COLUMN_PT))
    ]


def _list(items: Sequence[str], size: float, cut: int, width: float) -> list[Line]:
    lines: list[Line] = []
    for item in items[:cut]:
        for number, part in enumerate(_wrapped(item, size, width - 9)):
            text = f"- {part}" if number == 0 else part
            indent = 0.0 if number == 0 else _width("- ", size, False)
            lines.append(Line(text, size, indent=indent, space=1.2 if number == 0 else 0.0))
    return lines + _more(len(items) - cut, size)


def _more(count: int, size: float) -> list[Line]:
    return [Line(f"and {count} more in the HTML file", size, colour=SOFT)] if count > 0 else []


def _wrapped(text: str, size: float, width: float, *, bold: bool = False) -> Iterator[str]:
    """Lines that are at most `width` points wide; words that are longer are broken."""
    line = ""
    for word in _plain(text).split():
        rest = word
        while rest:
            joined = f"{line} {rest}" if line else rest
            if _width(joined, size, bold) <= width:
                line, rest = joined, ""
            elif line:
                yield line
                line = ""
            else:
                fits = next(
                    n for n in range(len(rest), 0, -1) if _fits(rest[:n], size, bold, width)
                )
                yield rest[:fits]
                rest = rest[fits:]
    if line:
        yield line


def _fits(text: str, size: float, bold: bool, width: float) -> bool:
    return len(text) == 1 or _width(text, size, bold) <= width


def _width(text: str, size: float, bold: bool) -> float:
    """In points, as it will be drawn, but for kerning beside spaces."""
    words = text.split(" ")
    gap = _unit("n n", bold) - _unit("nn", bold)
    return size / 100.0 * (sum(_unit(word, bold) for word in words) + gap * (len(words) - 1))


@lru_cache(maxsize=4096)
def _unit(word: str, bold: bool) -> float:
    """Width at 100 points."""
    font = FontProperties(family="DejaVu Sans", size=100, weight="bold" if bold else "normal")
    return float(text_to_path.get_text_width_height_descent(word, font, ismath=False)[0])


def _plain(text: str) -> str:
    """Names of files may hold letters that no packaged font has."""
    return text.encode("ascii", "replace").decode()


@dataclass(frozen=True)
class _Page:
    drawing: Drawing

    def box(self, top: float, height: float, ground: str, colour: str) -> None:
        """The band behind the first line."""
        axes = self.drawing.add_axes(
            (
                MARGIN_PT / WIDTH_PT,
                (top - height) / HEIGHT_PT,
                1 - 2 * MARGIN_PT / WIDTH_PT,
                height / HEIGHT_PT,
            )
        )
        axes.set_facecolor(ground)
        axes.set_xticks([])
        axes.set_yticks([])
        for side, spine in axes.spines.items():
            spine.set_visible(side == "left")
            spine.set_color(colour)
            spine.set_linewidth(3)

    def lines(
        self, lines: Sequence[Line], left: float, top: float, points: Sequence[Point]
    ) -> float:
        """Draw them downwards from `top`; where they end."""
        for line in lines:
            top -= line.height
            if line.plot:
                self._plot(left, top, points)
                continue
            self.drawing.text(
                (left + line.indent) / WIDTH_PT,
                (top + 0.3 * line.size) / HEIGHT_PT,
                line.text,
                fontsize=line.size,
                fontweight="bold" if line.bold else "normal",
                color=line.colour,
                parse_math=False,
                va="baseline",
            )
            if line.rule:
                self._rule(left, top)
        return top

    def _rule(self, left: float, y: float) -> None:
        from matplotlib.lines import Line2D

        right = left + COLUMN_PT
        self.drawing.add_artist(
            Line2D([left / WIDTH_PT, right / WIDTH_PT], [y / HEIGHT_PT] * 2, color=RULE, lw=0.7)
        )

    def _plot(self, left: float, bottom: float, points: Sequence[Point]) -> None:
        axes = self.drawing.add_axes(
            (
                (left + 24) / WIDTH_PT,
                (bottom + 22) / HEIGHT_PT,
                (COLUMN_PT - 28) / WIDTH_PT,
                (PLOT_PT - 28) / HEIGHT_PT,
            )
        )
        days = [datetime.fromtimestamp(min(point.time_s, 2**37), UTC) for point in points]
        times = date2num(days)  # type: ignore[no-untyped-call]
        epsilons = [point.epsilon for point in points]
        axes.step(times, epsilons, where="post", color=BLUE, lw=1.4, label="spent for life")
        axes.plot(times, epsilons, ".", color=BLUE, ms=3)
        limits = [float("nan") if point.limit is None else point.limit for point in points]
        if any(point.limit is not None for point in points):
            axes.step(
                times, limits, where="post", color=RED, lw=1, ls="--", label="the hospital's limit"
            )
            if len(points) == 1:
                axes.axhline(limits[0], color=RED, lw=1, ls="--")
        drawn = epsilons + [point.limit for point in points if point.limit is not None]
        axes.set_ylim(0.0, 1.08 * max(drawn) or 1.0)
        axes.tick_params(labelsize=6, colors=SOFT, length=2)
        axes.grid(axis="y", color=RULE, lw=0.5)
        locator = AutoDateLocator(minticks=2, maxticks=3)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(DateFormatter("%d %b %Y"))  # type: ignore[no-untyped-call]
        axes.legend(fontsize=6, frameon=False, loc="best")
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(RULE)
