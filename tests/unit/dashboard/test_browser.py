"""The dashboard in a real browser, narrow and wide, with the keyboard, live, without script."""

from __future__ import annotations

import fcntl
import logging
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from dashboard_stand_ins import NOW, lively_home

from server import dashboard
from server.checkpoints import RunFolder
from server.dashboard_reads import Reader
from server.home import CoordinatorHome

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
PAGES = {
    "now": "/",
    "hospitals": "/sites",
    "runs": "/runs",
    "run": "/runs/spring",
    "open-run": "/runs/winter",
    "round": "/runs/spring/rounds/7",
    "releases": "/releases",
    "incidents": "/incidents",
}
pytestmark = [
    pytest.mark.deployed,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="chromium is not installed"),
]


@dataclass
class Served:
    """The dashboard of a coordinator that seems to run, on loopback."""

    home: CoordinatorHome
    base: str

    @property
    def link(self) -> str:
        return f"{self.base}/login?token={dashboard.links(self.home).issue()}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    home = lively_home(tmp_path_factory.mktemp("browser") / "coordinator", port)
    looks = dashboard.Looks(Reader(home), wall_clock=NOW.timestamp)
    with ExitStack() as stack:
        for path in (home.lock, home.registry_lock, home.service_lock):
            fcntl.flock(stack.enter_context(path.open("a")), fcntl.LOCK_EX)
        app = dashboard.application(home, looks, logging.Logger("test"))
        server = uvicorn.Server(
            uvicorn.Config(
                app, host="127.0.0.1", port=port, log_config=None, lifespan="off", ws="none"
            )
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        end = time.monotonic() + 30.0
        while not server.started:
            assert time.monotonic() < end
            time.sleep(0.02)
        yield Served(home, f"http://127.0.0.1:{port}")
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        chromium = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def logged_in(browser: Any, served: Served, **options: Any) -> Any:
    """A page of a browser that has opened a link, and what its console complained of."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.complaints = []
    page.on("console", lambda said: page.complaints.append(said.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(served.link)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{served.base}/")
    return page


@pytest.mark.parametrize("width", [380, 1440])
def test_every_page_fits_and_nothing_is_complained_of(
    browser: Any, served: Served, width: int, tmp_path: Path
) -> None:
    """No sideways scrolling, no message of the policy; screenshots for people to look at."""
    page = logged_in(browser, served, viewport={"width": width, "height": 900})
    for name, path in PAGES.items():
        page.goto(served.base + path)
        assert page.locator("h1").count() == 1, name
        wider = page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wider <= 0, (name, wider)
        page.screenshot(path=str(tmp_path / f"{name}-{width}.png"), full_page=True)
    assert page.complaints == []
    page.context.close()


def test_a_page_can_be_used_with_the_keyboard_alone(browser: Any, served: Served) -> None:
    """Skip link first, then every page of the navigation; tables can be scrolled."""
    page = logged_in(browser, served, viewport={"width": 380, "height": 900})
    page.goto(f"{served.base}/runs/spring")
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "document.activeElement.getAttribute('aria-label') "
                "|| document.activeElement.textContent.trim()"
            )
        )
    assert reached[0] == "Skip to the content"
    for words in ("Now", "Hospitals", "Runs", "Releases", "Incidents"):
        assert words in reached
    assert "Rounds, the latest first" in reached
    page.context.close()


def test_charts_and_tables_have_names(browser: Any, served: Served) -> None:
    """What a screen reader says: title and description of each chart, caption of each table."""
    page = logged_in(browser, served)
    page.goto(f"{served.base}/runs/spring")
    charts = page.get_by_role("img")
    assert charts.count() == 4
    for number in range(charts.count()):
        ids = charts.nth(number).get_attribute("aria-labelledby").split()
        assert all(page.locator(f"#{one}").text_content() for one in ids)
    for table in page.locator("table").all():
        assert table.locator("caption").text_content()
    page.context.close()


def test_a_round_that_goes_on_is_followed_without_a_reload(browser: Any, served: Served) -> None:
    """gamma submits; the page says so by itself."""
    page = logged_in(browser, served)
    page.goto(f"{served.base}/runs/winter")
    assert "2 of 3 have answered" in page.text_content("main")
    files = RunFolder(served.home.run_folder("winter")).round(4)
    for kind in ("body", "header"):
        data = (files.submissions / f"alpha.{kind}").read_bytes()
        (files.submissions / f"gamma.{kind}").write_bytes(data)
    page.get_by_text("3 of 3 have answered").wait_for(timeout=30_000)
    assert page.complaints == []
    page.context.close()


def test_it_works_without_script(browser: Any, served: Served) -> None:
    page = logged_in(browser, served, java_script_enabled=False)
    page.get_by_role("link", name="Runs").click()
    page.get_by_role("link", name="spring").click()
    assert page.get_by_role("heading", name="Run spring").is_visible()
    page.get_by_role("link", name="7", exact=True).click()
    assert "did not answer before the deadline" in page.text_content("main")
    page.context.close()
