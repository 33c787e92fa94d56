"""The statement as one HTML file: no script, nothing that is fetched; readable on a telephone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from jinja2 import Environment, PackageLoader, select_autoescape

from auditor.statement import Point, Statement

WIDTH, HEIGHT = 480.0, 230.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 8.0, 12.0, 34.0


@dataclass(frozen=True)
class Plot:
    """Coordinates of a drawing of WIDTH x HEIGHT. ticks: (position, label)."""

    line: str
    limit: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    last: tuple[float, float]
    words: str
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM


def render(statement: Statement) -> bytes:
    """The file, UTF-8."""
    environment = Environment(
        loader=PackageLoader("auditor"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("statement.html")
    text = template.render(s=statement, plot=plot_of(statement.points))
    return text.encode()


def plot_of(points: tuple[Point, ...]) -> Plot | None:
    """Steps of epsilon over time, and of the limit; None if there is nothing to draw."""
    if not points:
        return None
    first, last = points[0].time_s, points[-1].time_s
    span = max(last - first, 3600)
    first -= span // 50
    span = max(last - first, 1)
    limits = [point.limit for point in points if point.limit is not None]
    top = 1.08 * max([point.epsilon for point in points] + limits) or 1.0

    def x(time_s: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (time_s - first) / span, 2)

    def y(epsilon: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * epsilon / top, 2)

    spent = f"M{x(first)},{y(0.0)}"
    for point in points:
        spent += f"H{x(point.time_s)}V{y(point.epsilon)}"
    limit, standing = "", None
    for number, point in enumerate(points):
        start = first if number == 0 else point.time_s
        if point.limit is None:
            standing = None
            continue
        end = points[number + 1].time_s if number + 1 < len(points) else last
        limit += f"H{x(start)}V{y(point.limit)}" if standing else f"M{x(start)},{y(point.limit)}"
        limit += f"H{x(end)}"
        standing = point.limit
    step = _nice(top / 5)
    y_ticks = tuple((y(step * at), f"{step * at:g}") for at in range(int(top / step) + 1))
    x_ticks = tuple((x(day), _day(day)) for day in (first, last))
    words = f"Epsilon for life rises in {len(points)} steps to {points[-1].epsilon:.3g}" + (
        f"; the limit then is {points[-1].limit:.4g}." if points[-1].limit else "."
    )
    end_point = (x(last), y(points[-1].epsilon))
    return Plot(spent, limit, x_ticks, y_ticks, end_point, words)


def _nice(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** int(f"{step:e}".split("e")[1])
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= step)


def _day(time_s: float) -> str:
    try:
        return datetime.fromtimestamp(time_s, UTC).strftime("%d %b %Y")
    except (OverflowError, ValueError, OSError):
        return ""
