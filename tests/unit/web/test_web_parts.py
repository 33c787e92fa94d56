"""Links, sessions, charts and colours of the web kit by themselves."""

from __future__ import annotations

import math
import re
import stat
from importlib import resources
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from web_stand_ins import World

from shared_model.web.charts import Limit, Line, line_chart, nice_ticks
from shared_model.web.sessions import Sessions, Throttle
from shared_model.web.site import size, span

CSS = resources.files("shared_model.web").joinpath("static", "fedprint.css").read_text()
JS = resources.files("shared_model.web").joinpath("static", "fedprint.js").read_text()


def test_the_file_of_links_holds_digests_and_is_the_owners_alone(tmp_path):
    """Whoever reads it logs in nowhere."""
    world = World(tmp_path)
    token = world.links.issue()
    assert token not in world.links.path.read_text()
    assert stat.S_IMODE(world.links.path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"links": 3}', '{"links": [{"digest": "x", "expires_s": 1}]}',
                "x" * 99999],
)  # fmt: skip
def test_a_damaged_file_of_links_lets_nobody_in(tmp_path, content):
    """And the next link is good again."""
    links = World(tmp_path).links
    token = links.issue()
    links.path.write_text(content)
    assert not links.redeem(token)
    assert links.redeem(links.issue())


def test_a_link_to_another_file_is_not_followed(tmp_path):
    """Somebody else's digests are no links of ours."""
    ours, theirs = World(tmp_path).links, World(tmp_path / "other").links
    token = theirs.issue()
    ours.path.symlink_to(theirs.path)
    assert not ours.redeem(token)


def test_only_the_newest_links_wait(tmp_path):
    """Sixteen; a command in a loop fills no disk."""
    links = World(tmp_path).links
    tokens = [links.issue() for _ in range(20)]
    assert [links.redeem(token) for token in tokens] == [False] * 4 + [True] * 16


def test_a_clock_that_is_put_back_makes_no_link_live_longer_than_a_day(tmp_path):
    """Its expiry is then too far away to be one of ours."""
    world = World(tmp_path)
    token = world.links.issue()
    world.now -= 100_000.0
    assert not world.links.redeem(token)


@given(st.text(max_size=60))
def test_no_other_text_is_a_session(text):
    """Found by digest; nothing else is compared."""
    numbers = iter(range(1, 9))
    sessions = Sessions(clock=lambda: 0.0, entropy=lambda size: next(numbers).to_bytes(size, "big"))
    token, session = sessions.begin()
    assert sessions.find(token, touch=True) is session
    assert text == token or sessions.find(text, touch=True) is None
    assert session.holds(text) == (text == session.csrf)


@given(st.lists(st.floats(min_value=0.0, max_value=5.0), max_size=60))
def test_a_throttle_lets_through_no_more_than_it_says(pauses):
    """Burst, then one each 3 s."""
    now = 0.0
    throttle = Throttle(clock=lambda: now, burst=4, every_s=3.0)
    passed = 0
    for pause in pauses:
        now += pause
        passed += throttle.allows()
        assert passed <= 4 + now / 3.0 + 1e-9


number = st.floats(allow_nan=True, allow_infinity=True, width=32)


@given(
    st.lists(st.lists(st.tuples(number, number), max_size=6), max_size=3),
    st.lists(number, max_size=2),
    st.booleans(),
    st.booleans(),
)
def test_a_chart_of_any_numbers_is_an_image_that_a_strict_page_shows(lines, limits, whole, steps):
    """Well-formed, named for screen readers, nothing inline, all within its frame."""
    chart = line_chart(
        id="c",
        title="<Epsilon>",
        description='"spent" & left',
        y_label="epsilon",
        x_label="time",
        lines=[
            Line(f"<{n}>", tuple(sorted(points, key=lambda p: (math.isnan(p[0]), p[0]))), n, steps)
            for n, points in enumerate(lines, 1)
        ],
        limits=[Limit("limit", y) for y in limits],
        whole_x=whole,
    )
    assert "style=" not in chart
    assert "nan" not in chart.lower().replace("<title", "")
    root = ElementTree.fromstring(f"<div>{chart}</div>")
    svg = root[0][0]
    assert svg.get("role") == "img"
    assert (svg[0].text, svg[1].text) == ("<Epsilon>", '"spent" & left')
    for circle in svg.iter("circle"):
        assert 0 <= float(circle.get("cx")) <= 720
        assert 0 <= float(circle.get("cy")) <= 300


@given(number, number, st.integers(2, 9))
def test_ticks_hold_what_is_drawn(low, high, most):
    """Round numbers, few, around both ends."""
    ticks = nice_ticks(low, high, most)
    assert len(ticks) >= 2
    assert all(math.isfinite(tick) for tick in ticks)
    if math.isfinite(low) and math.isfinite(high) and low < high:
        assert len(ticks) <= most + 3


def test_sizes_and_spans_are_written_for_people():
    """Powers of 1000."""
    assert [size(n) for n in (0, 999, 1000, 1_234_567, 5e12)] == [
        "0 bytes", "999 bytes", "1.0 kB", "1.2 MB", "5.0 TB"
    ]  # fmt: skip
    assert [span(s) for s in (5, 90, 5400, 200_000)] == ["5 s", "2 min", "1.5 h", "2 days"]


def colours(dark: bool) -> dict[str, str]:
    light, _, rest = CSS.partition("@media (prefers-color-scheme: dark)")
    found = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", light))
    if dark:
        block = rest[: rest.index("}\n}")]
        found |= dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", block))
    return found


def contrast(one: str, other: str) -> float:
    """WCAG 2: 1 to 21."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_words_stand_out_from_what_is_behind_them(dark):
    """WCAG AA: 4.5 for words, 3 for lines of a chart, edges of fields and the focus ring."""
    found = colours(dark)
    words = [(fg, bg) for fg in ("text", "quiet", "accent") for bg in ("page", "panel", "soft")]
    words += [(kind, f"{kind}-soft") for kind in ("good", "warn", "bad")]
    words += [("text", f"{kind}-soft") for kind in ("good", "warn", "bad")]
    words += [("on-accent", "accent"), ("bad", "panel"), ("bad", "page")]
    for fg, bg in words:
        assert contrast(found[fg], found[bg]) >= 4.5, (fg, bg)
    shapes = [(f"s{n}", bg) for n in range(1, 7) for bg in ("panel", "page")]
    shapes += [("edge", "panel"), ("edge", "page"), ("accent", "page"), ("warn", "page")]
    for fg, bg in shapes:
        assert contrast(found[fg], found[bg]) >= 3.0, (fg, bg)


def test_colours_are_named_once():
    """Else the test above would not see one."""
    body = CSS.replace("#ffffff", "")
    rules = re.sub(r"--[a-z0-9-]+: #[0-9a-f]{6};", "", body)
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b", rules) == []


def test_script_and_stylesheet_fetch_nothing_from_elsewhere():
    """And make no code of words."""
    assert re.findall(r"https?:|//[a-z]+\.|@import|url\(|@font-face", CSS) == []
    assert re.findall(r"https?:|eval|Function|innerHTML|insertAdjacent|\.write|import", JS) == []
