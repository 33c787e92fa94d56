"""Line charts as SVG that a strict Content-Security-Policy lets through, light and dark.

No `style` attribute, no script: colours come from the stylesheet by class (`series-1`, `limit-1`,
...). A chart has a title and a description that screen readers say; the page shows its numbers as a
table beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 14, 46
_LARGEST = 1e15
SERIES = 6
"""Classes that the stylesheet knows; further series begin again with the first."""


@dataclass(frozen=True)
class Line:
    """points: (x, y), x growing; y that is not finite breaks the line. steps: it holds its value
    until the next point. name: "" if another line of the same colour has it."""

    name: str
    points: tuple[tuple[float, float], ...]
    colour: int = 1
    steps: bool = False


@dataclass(frozen=True)
class Limit:
    """A level that must not be crossed."""

    name: str
    y: float
    colour: int = 1


def line_chart(
    *,
    id: str,
    title: str,
    description: str,
    y_label: str,
    x_label: str,
    lines: Sequence[Line],
    limits: Sequence[Limit] = (),
    x_text: Callable[[float], str] = lambda x: f"{x:g}",
    whole_x: bool = False,
    from_zero: bool = True,
) -> Markup:
    """One chart; without a finite point it says so.

    Args:
        id: letters, digits and hyphens; of this chart alone on its page.
        x_text: how a tick of x is written. whole_x: ticks at whole numbers only.
        from_zero: 0 is within y.
    """
    finite = [(x, y) for line in lines for x, y in line.points if _drawn(x, y)]
    parts = [
        Markup(
            '<div class="chart-box" tabindex="0" role="group" aria-label="{}">'
            '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-labelledby="{}-t {}-d">'
            '<title id="{}-t">{}</title><desc id="{}-d">{}</desc>'
        ).format(title, WIDTH, HEIGHT, id, id, id, title, id, description)
    ]
    if not finite:
        parts.append(_text(WIDTH / 2, HEIGHT / 2, "nothing to draw yet", "middle"))
        return Markup("").join([*parts, Markup("</svg></div>")])
    heights = [y for _, y in finite] + [limit.y for limit in limits if _drawn(0.0, limit.y)]
    y_ticks = nice_ticks(min([*heights, 0.0] if from_zero else heights), max(heights), 5)
    low, high = y_ticks[0], y_ticks[-1]
    first, last = min(x for x, _ in finite), max(x for x, _ in finite)
    if last - first <= 1e-9 * max(abs(first), abs(last)):
        margin = max(0.5, 1e-9 * abs(first))
        first, last = first - margin, last + margin

    def at_x(x: float) -> float:
        return _LEFT + (x - first) / (last - first) * (WIDTH - _LEFT - _RIGHT)

    def at_y(y: float) -> float:
        return HEIGHT - _BOTTOM - (y - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    for y in y_ticks:
        parts.append(_rule("grid", _LEFT, at_y(y), WIDTH - _RIGHT, at_y(y)))
        parts.append(_text(_LEFT - 8, at_y(y) + 4, f"{y:g}", "end"))
    ends = max(len(x_text(first)), len(x_text(last)))
    fitting = max(2, min(6, int((WIDTH - _LEFT - _RIGHT) / (8.0 * ends + 24.0))))
    for x in _x_ticks(first, last, whole_x, fitting):
        place = "start" if at_x(x) < _LEFT + 40 else "end" if at_x(x) > WIDTH - 60 else "middle"
        parts.append(_rule("axis", at_x(x), HEIGHT - _BOTTOM, at_x(x), HEIGHT - _BOTTOM + 5))
        parts.append(_text(at_x(x), HEIGHT - _BOTTOM + 19, x_text(x), place))
    parts.append(_rule("axis", _LEFT, HEIGHT - _BOTTOM, WIDTH - _RIGHT, HEIGHT - _BOTTOM))
    parts.append(_text((_LEFT + WIDTH) / 2, HEIGHT - 8, x_label, "middle"))
    middle = (HEIGHT - _BOTTOM + _TOP) / 2
    parts.append(
        Markup('<text class="words" transform="translate(14 {}) rotate(-90)" ').format(
            f"{middle:.1f}"
        )
        + Markup('text-anchor="middle">{}</text>').format(y_label)
    )
    for limit in limits:
        if _drawn(0.0, limit.y):
            css = f"limit-{_colour(limit.colour)}"
            parts.append(_rule(css, _LEFT, at_y(limit.y), WIDTH - _RIGHT, at_y(limit.y)))
    for line in lines:
        path = _path(line, at_x, at_y)
        if path:
            parts.append(Markup('<path class="series-{}" d="{}"/>').format(
                _colour(line.colour), path))  # fmt: skip
        for x, y in line.points:
            if _drawn(x, y):
                parts.append(Markup('<circle class="point-{}" cx="{}" cy="{}" r="2.5"/>').format(
                    _colour(line.colour), f"{at_x(x):.1f}", f"{at_y(y):.1f}"))  # fmt: skip
    return Markup("").join([*parts, Markup("</svg></div>"), _legend(lines, limits)])


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """About `most` round numbers from at or below low to at or above high; at least two."""
    if not math.isfinite(low):
        low = 0.0
    if not math.isfinite(high) or high - low <= 1e-9 * max(abs(low), abs(high)):
        high = low + (abs(low) or 1.0)
    rough = (high - low) / most
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if size * factor >= rough)
    begin, end = math.floor(low / step), math.ceil(high / step - 1e-9)
    return [float(f"{n * step:.12g}") for n in range(begin, max(end, begin + 1) + 1)]


def _x_ticks(first: float, last: float, whole: bool, most: int) -> list[float]:
    if not whole:
        return [first + (last - first) * part / (most - 1) for part in range(most)]
    about = nice_ticks(first, last, most)
    step = max(1, math.ceil(about[1] - about[0]))
    return [float(n * step) for n in range(math.ceil(first / step), math.floor(last / step) + 1)]


def _drawn(x: float, y: float) -> bool:
    """Whether a point is drawn: numbers that nothing here has break the line as if infinite."""
    return abs(x) <= _LARGEST and abs(y) <= _LARGEST


def _path(line: Line, at_x: Callable[[float], float], at_y: Callable[[float], float]) -> str:
    words, joined = [], False
    for x, y in line.points:
        if not _drawn(x, y):
            joined = False
            continue
        if joined and line.steps:
            words.append(f"H{at_x(x):.1f}V{at_y(y):.1f}")
        else:
            words.append(f"{'L' if joined else 'M'}{at_x(x):.1f} {at_y(y):.1f}")
        joined = True
    return "".join(words)


def _rule(css: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        css, f"{x1:.1f}", f"{y1:.1f}", f"{x2:.1f}", f"{y2:.1f}"
    )


def _text(x: float, y: float, words: str, anchor: str) -> Markup:
    return Markup('<text class="words" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        f"{x:.1f}", f"{y:.1f}", anchor, words
    )


def _legend(lines: Sequence[Line], limits: Sequence[Limit]) -> Markup:
    keys = [(f"series-{_colour(one.colour)}", one.name) for one in lines if one.name]
    keys += [(f"limit-{_colour(one.colour)}", one.name) for one in limits]
    if not keys:
        return Markup("")
    items = [
        Markup(
            '<li><svg class="key" viewBox="0 0 28 10" aria-hidden="true">'
            '<line class="{}" x1="1" y1="5" x2="27" y2="5"/></svg>{}</li>'
        ).format(css, escape(name))
        for css, name in keys
    ]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))


def _colour(number: int) -> int:
    return (number - 1) % SERIES + 1
