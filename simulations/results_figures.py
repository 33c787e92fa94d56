"""Figures of the results page, drawn from the numbers of a file alone (SVG, no date)."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


LEFT = -1.0
"""Least skill on the axis: as far below knowing nothing as perfection is above."""


def draw(kind: str, figures: dict[str, Any], form: str = "svg") -> dict[str, bytes]:
    """Bytes in a format ("svg", "png", "pdf") by name; empty for a kind without a figure."""
    from simulations.lab.plots_style import rendered, style

    makers = {
        "probe": {"skill": _skill},
        "probe-sites": {"skill": _skill},
        "probe-pretend": {"skill": _skill},
        "cross-modal": {"rate-error": _rates},
        "gain": {"gain": _bars},
        "private-stage": _STAGES,
        "private-stage-unseen": _STAGES,
        "ablation": {"error": _bars},
    }
    result = {}
    with style():
        for name, make in makers.get(kind, {}).items():
            figure = make(figures)
            if figure is not None:
                result[name] = rendered(figure, form)
    return result


def drawn_by(svg: bytes) -> str:
    """Which matplotlib drew it; other versions draw other bytes."""
    found = re.search(rb"Matplotlib v[\w.+-]{1,40}", svg[:4000])
    return found.group().decode() if found else ""


def _ends(one: dict[str, Any]) -> tuple[float, float]:
    """Lengths of an interval below and above its value; zero where there is none."""
    value = one["value"]
    low = value if one["low"] is None else one["low"]
    high = value if one["high"] is None else one["high"]
    return max(0.0, value - low), max(0.0, high - value)


def _skill(figures: dict[str, Any]) -> Figure | None:
    """Skill of every row on every task, 95 % over patients."""
    from simulations.lab.plots_style import COLOURS, MARKERS, panels
    from simulations.probes.few import cells_of

    cells = cells_of(figures)
    lines = list(dict.fromkeys((cell["task"], cell["sensors"]) for cell in cells))
    rows = list(dict.fromkeys(cell["row"] for cell in cells))
    if not lines:
        return None
    line_in = max(0.26, 0.05 * len(rows))
    figure, (axes,) = panels(1, height_in=0.4 + line_in * len(lines) + 0.08 * len(rows))
    for k, row in enumerate(rows):
        again = k // len(COLOURS)  # a colour that comes again has another marker
        found = [
            cell for cell in cells if cell["row"] == row and cell["skill"]["value"] is not None
        ]
        at = [
            len(lines) - 1 - lines.index((cell["task"], cell["sensors"]))
            + 0.3 - 0.6 * k / max(1, len(rows) - 1)
            for cell in found
        ]  # fmt: skip
        ends = [_ends(cell["skill"]) for cell in found]
        axes.errorbar(
            [cell["skill"]["value"] for cell in found], at,
            xerr=[[low for low, _ in ends], [high for _, high in ends]],
            fmt=MARKERS[(k + again) % len(MARKERS)], color=COLOURS[k % len(COLOURS)], lw=0.7,
            ms=3.0, label=row,
        )  # fmt: skip
        for cell, height in zip(found, at, strict=True):
            if cell["skill"]["value"] < LEFT:
                words = f" $\\leftarrow$ {cell['skill']['value']:.1f}"
                axes.text(LEFT, height, words, color=COLOURS[k % len(COLOURS)], va="bottom")
    names = [task if sensors == "both" else f"{task}, {sensors}" for task, sensors in lines]
    axes.set_yticks(range(len(lines) - 1, -1, -1), names)
    axes.set_ylim(-0.5, len(lines) - 0.5)  # a single task's markers would lie on the edges
    axes.axvline(0, color="#999999", lw=0.6)
    axes.set_xlim(left=max(LEFT, axes.get_xlim()[0]), right=1.0)
    axes.locator_params(axis="x", nbins=5)
    drawn = figures.get("release", {}).get("pretend_patients")
    whose = ""
    if drawn is not None:
        most = max(cell["patients"] for cell in cells)
        whose = f"\n{drawn} SIMULATED patients, {most} measured"
    axes.set_xlabel(f"skill (0: knows nothing, 1: perfect){whose}")
    figure.legend(loc="outside upper center", ncols=2 if max(map(len, rows)) < 30 else 1)
    return figure


def _rates(figures: dict[str, Any]) -> Figure | None:
    """Heart-rate error of the ECG made from PPG and of the PPG itself, by site."""
    from simulations.cross_modal import bar_counts
    from simulations.lab.plots_style import BLACK, BLUE, GREY, VERMILION, panels

    sites = figures["directions"]["ppg_to_ecg"]
    if not sites:
        return None
    figure, (axes,) = panels(1, height_in=0.5 + 0.24 * len(sites))
    shown = (
        ("rate_error_bpm", "ECG made from PPG", VERMILION, "o", 0.2),
        ("raw_rate_error_bpm", "PPG itself", BLUE, "s", 0.0),
        ("constant_rate_error_bpm", "always the others' median", GREY, "^", -0.2),
    )
    for key, words, colour, marker, up in shown:
        known = [(k, row[key]) for k, row in enumerate(sites.values()) if row[key] is not None]
        ends = [_ends(one) for _, one in known]
        axes.errorbar(
            [one["value"] for _, one in known], [len(sites) - 1 - k + up for k, _ in known],
            xerr=[[low for low, _ in ends], [high for _, high in ends]],
            fmt=marker, color=colour, lw=0.7, label=words,
        )  # fmt: skip
    if bar_counts(figures):
        axes.axvline(figures["bar"]["bar_bpm"], color=BLACK, lw=0.7, ls="--", label="bar")
    axes.set_yticks(range(len(sites) - 1, -1, -1), list(sites))
    axes.set_xlabel("heart-rate error, bpm, mean over patients")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def _bars(figures: dict[str, Any]) -> Figure | None:
    """`plotted`: [{"name", "value", "low", "high"}] and `plotted_words`; `plotted_line`: one such
    that the others are held against."""
    from simulations.lab.plots_style import BLUE, panels

    found = [one for one in figures.get("plotted", []) if one["value"] is not None]
    if not found:
        return None
    names = [textwrap.fill(one["name"], 32) for one in found]
    lines = max(name.count("\n") + 1 for name in names)
    figure, (axes,) = panels(1, height_in=0.5 + (0.1 + 0.12 * lines) * len(found))
    ends = [_ends(one) for one in found]
    axes.errorbar(
        [one["value"] for one in found], range(len(found) - 1, -1, -1),
        xerr=[[low for low, _ in ends], [high for _, high in ends]],
        fmt="o", color=BLUE, lw=0.8,
    )  # fmt: skip
    axes.set_yticks(range(len(found) - 1, -1, -1), names, fontsize=5.5)
    axes.set_xlabel(textwrap.fill(figures["plotted_words"], 36))
    if _held_against(figures, axes.axvline):
        axes.axvline(0, color="#999999", lw=0.6)
        figure.legend(loc="outside upper center")
    return figure


def _held_against(figures: dict[str, Any], line: Callable[..., Any]) -> bool:
    """Draw `plotted_line`, if there is one."""
    from simulations.lab.plots_style import BLACK

    one = figures.get("plotted_line")
    if one is not None:
        line(one["value"], color=BLACK, lw=0.7, ls="--", label=one["name"])
    return one is not None


_APART, _ALIKE = 1.1, 1.1
"""Points with numbers of parameters that are alike (within the second factor) stand side by side,
the first factor apart: else they cover each other."""


def _parameters(figures: dict[str, Any]) -> Figure | None:
    """Trained parameters against the fall of the loss, of every private point."""
    from simulations.lab.plots_style import COLOURS, MARKERS, panels

    found = [row for row in figures["rows"] if row["epsilon"] is not None]
    if not found:
        return None
    figure, (axes,) = panels(1, height_in=2.2 + 0.16 * len(found))
    places = _side_by_side([row["parameters"] for row in found])
    for k, (row, x) in enumerate(zip(found, places, strict=True)):
        low, high = _ends(row["fall"])
        y = row["fall"]["value"]
        axes.errorbar(
            [x], [y], yerr=[[low], [high]], fmt=MARKERS[(k + k // len(COLOURS)) % len(MARKERS)],
            color=COLOURS[k % len(COLOURS)], lw=0.7, ms=3.0,
            label=f"{row['number']} {row['point']}",
        )  # fmt: skip
        axes.annotate(str(row["number"]), (x, y), xytext=(2, 2), textcoords="offset points",
                      fontsize=5.0)  # fmt: skip
    return _falls_over(figure, axes, figures, "trained parameters (alike: side by side)")


def _epsilons(figures: dict[str, Any]) -> Figure | None:
    """Epsilon against the fall of the loss, by mode: points that differ from the base in nothing
    else. None where no mode has two."""
    from simulations.lab.plots_style import COLOURS, MARKERS, panels

    modes: dict[str, list[dict[str, Any]]] = {}
    for row in figures["rows"]:
        if row.get("only_privacy") and row["epsilon"] is not None:
            modes.setdefault(row["mode"], []).append(row)
    if max(map(len, modes.values()), default=0) < 2:
        return None
    figure, (axes,) = panels(1, height_in=2.4)
    for k, (mode, rows) in enumerate(sorted(modes.items())):
        rows.sort(key=lambda row: row["epsilon"])
        ends = [_ends(row["fall"]) for row in rows]
        axes.errorbar(
            [row["epsilon"] for row in rows], [row["fall"]["value"] for row in rows],
            yerr=[[low for low, _ in ends], [high for _, high in ends]],
            fmt=MARKERS[k], color=COLOURS[k], lw=0.8, ls="-", ms=3.5, label=mode,
        )  # fmt: skip
    made = _falls_over(figure, axes, figures, "epsilon spent by one patient at one hospital")
    spent = {f"{row['epsilon']:.2g}": row["epsilon"] for rows in modes.values() for row in rows}
    axes.set_xticks(list(spent.values()), list(spent))
    axes.minorticks_off()
    return made


def _falls_over(figure: Figure, axes: Axes, figures: dict[str, Any], what: str) -> Figure:
    """Finish a picture of falls of the loss over something that is drawn on a log axis."""
    _held_against(figures, axes.axhline)
    axes.axhline(0, color="#999999", lw=0.6)
    axes.set_xscale("log")
    axes.set_xlabel(what)
    axes.set_ylabel(textwrap.fill(figures["plotted_words"], 34))
    figure.legend(loc="outside upper center", ncols=1)
    return figure


_STAGES = {"fall": _bars, "fall-by-parameters": _parameters, "fall-by-epsilon": _epsilons}


def _side_by_side(numbers: list[int]) -> list[float]:
    """Where points stand on a log axis: each at its number, those that are alike around it."""
    groups: list[list[int]] = []
    for k in sorted(range(len(numbers)), key=lambda k: (numbers[k], k)):
        if groups and numbers[k] <= _ALIKE * numbers[groups[-1][0]]:
            groups[-1].append(k)
        else:
            groups.append([k])
    places = [0.0] * len(numbers)
    for group in groups:
        middle = (len(group) - 1) / 2.0
        for place, k in enumerate(sorted(group)):
            places[k] = numbers[k] * _APART ** (place - middle)
    return places
