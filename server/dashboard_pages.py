"""The dashboard's pages: from an overview to a template and its values. Pure but for `look`."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from server.dashboard_notices import notices
from server.dashboard_rounds import Round
from server.dashboard_view import DAY_S, Overview, Run
from shared_model.errors import OurMistake
from shared_model.web.charts import Line, line_chart
from shared_model.web.site import Answer, Call, Page, Shown

ROUNDS_A_PAGE = 50
POINTS = 300
"""A curve of more rounds is thinned out to about so many."""
LINES = 6
"""Hospitals whose epsilon is drawn by name; of more, the highest."""

Look = Callable[[], Overview]


def pages(look: Look) -> Sequence[Page]:
    """All of them; parts that the script fetches again are below /live/."""
    return (
        Page("/", _page("now.html", look, _now), nav="Now"),
        Page("/live/now", _page("part_now.html", look, _now)),
        Page("/sites", _page("sites.html", look, _everything), nav="Hospitals"),
        Page("/live/sites", _page("part_sites.html", look, _everything)),
        Page("/runs", _page("runs.html", look, _everything), nav="Runs"),
        Page("/runs/{run}", _page("run.html", look, _run)),
        Page("/live/runs/{run}", _page("part_run.html", look, _run)),
        Page("/runs/{run}/rounds/{round}", _page("round.html", look, _round)),
        Page("/releases", _page("releases.html", look, _everything), nav="Releases"),
        Page("/incidents", _page("incidents.html", look, _everything), nav="Incidents"),
    )


Values = Callable[[Overview, Call], Mapping[str, Any]]


def _page(template: str, look: Look, values: Values) -> Callable[[Call], Answer]:
    def answer(call: Call) -> Answer:
        overview = look()
        return Shown(template, {"o": overview, **values(overview, call)})

    return answer


def _everything(overview: Overview, call: Call) -> Mapping[str, Any]:
    return {}


def _now(overview: Overview, call: Call) -> Mapping[str, Any]:
    return {"notices": notices(overview), "run": overview.current}


def _named(overview: Overview, call: Call) -> Run:
    found = overview.run(call.path.get("run", ""))
    if found is None:
        raise OurMistake("There is no run of this name.", do="See the page Runs.")
    return found


def _run(overview: Overview, call: Call) -> Mapping[str, Any]:
    run = _named(overview, call)
    before = _number(call.query.get("before", ""))
    older = [one for one in run.rounds if before is None or one.number < before]
    shown = tuple(reversed(older[-ROUNDS_A_PAGE:]))
    return {
        "run": run,
        "rounds": shown,
        "older": shown[-1].number if len(older) > len(shown) else None,
        "newer": before is not None,
        "columns": _columns(run, shown),
        "lengths": lengths_chart(run),
        "thin": thinned(tuple(one for one in run.rounds if one.moved is not None)),
        "public_chart": public_chart(run),
        "spent_chart": spent_chart(run),
        "times_chart": times_chart(run),
    }


def _round(overview: Overview, call: Call) -> Mapping[str, Any]:
    run, number = _named(overview, call), _number(call.path.get("round", ""))
    found = next((one for one in run.rounds if one.number == number), None)
    if found is None:
        raise OurMistake("No round of this number has ended.", do="See the page of the run.")
    return {"run": run, "round": found}


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 7 else None


def _columns(run: Run, rounds: Sequence[Round]) -> list[str]:
    """Hospitals of the table of rounds: of the roster, and who was asked before it."""
    return sorted({*run.sites, *(site for one in rounds for site in one.asked)})


# ---------------------------------------------------------------- charts


def thinned(rounds: Sequence[Round]) -> tuple[Round, ...]:
    """Evenly, with the first and the last."""
    if len(rounds) <= POINTS:
        return tuple(rounds)
    step = math.ceil(len(rounds) / POINTS)
    chosen = list(rounds[::step])
    return tuple(chosen if chosen[-1] is rounds[-1] else [*chosen, rounds[-1]])


def lengths_chart(run: Run) -> Markup:
    """How far the model moved in each round, beside noise alone."""
    rounds = thinned([one for one in run.rounds if one.moved is not None])
    return line_chart(
        id="lengths",
        title=f"How far the model of {run.name} moved in each round",
        description="The distance between the models before and after each aggregated round, and "
        "the distance that the hospitals' noise alone would be expected to make.",
        x_label="round",
        y_label="distance (L2)",
        whole_x=True,
        lines=(
            Line("the model moved", tuple((one.number, one.moved or 0.0) for one in rounds), 1),
            Line(
                "noise alone, expected", tuple((one.number, one.noise or 0.0) for one in rounds), 2
            ),
        ),
    )


def public_chart(run: Run) -> Markup | None:
    """Reconstruction error on public windows, if it was computed."""
    if not run.public:
        return None
    step = max(1, math.ceil(len(run.public) / POINTS))
    points = run.public[::step]
    return line_chart(
        id="public",
        title=f"Reconstruction error of {run.name} on public, simulated windows",
        description="Squared error over that of the window's mean, after each round; below 1 is "
        "better than the mean. No hospital's data is in it.",
        x_label="round",
        y_label="error / trivial error",
        whole_x=True,
        lines=(
            Line("hidden halves", tuple((one.round, one.masked) for one in points), 1),
            Line("one sensor from the other", tuple((p.round, p.cross_modal) for p in points), 2),
        ),
    )


def spent_chart(run: Run) -> Markup:
    """Lifetime epsilon that the hospitals' replies state, by round."""
    rounds = thinned([one for one in run.rounds if one.spent])
    series: dict[str, list[tuple[float, float]]] = {}
    for one in rounds:
        for site, epsilon in one.spent:
            if epsilon is not None:
                series.setdefault(site, []).append((one.number, epsilon))
    highest = sorted(series, key=lambda site: (-series[site][-1][1], site))[:LINES]
    return line_chart(
        id="spent",
        title=f"Epsilon that each hospital has spent, in the rounds of {run.name}",
        description="Lifetime epsilon as each hospital's own ledger says it, per patient at this "
        f"hospital, in trust model {run.trust_model}.",
        x_label="round",
        y_label="epsilon",
        whole_x=True,
        lines=tuple(
            Line(site, tuple(series[site]), number)
            for number, site in enumerate(sorted(highest), 1)
        ),
    )


def times_chart(run: Run) -> Markup:
    """How long each round took."""
    rounds = thinned(run.rounds)
    return line_chart(
        id="times",
        title=f"How long each round of {run.name} took",
        description="Minutes from the opening of a round to its end.",
        x_label="round",
        y_label="minutes",
        whole_x=True,
        lines=(Line("duration", tuple((one.number, one.duration_s / 60.0) for one in rounds), 1),),
    )


# ---------------------------------------------------------------- filters


def when(seconds: float) -> str:
    """A moment in UTC, to the minute."""
    try:
        at = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return "unknown"
    return f"{at:%Y-%m-%d %H:%M} UTC"


def until(seconds: float, now_s: float) -> str:
    """How long until a moment, in words."""
    days = (seconds - now_s) / DAY_S
    return "ended" if days <= 0 else f"{days:.0f} days left"


def epsilon(value: float | None) -> str:
    """Never without its unit beside it."""
    return "infinite or unknown" if value is None else f"{value:.3g}"


def one_of(items: Sequence[str]) -> str:
    """A list in words."""
    return ", ".join(items) if items else "nobody"


FILTERS: Mapping[str, Callable[..., Any]] = {
    "when": when,
    "until": until,
    "epsilon": epsilon,
    "names": one_of,
}
