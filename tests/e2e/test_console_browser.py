"""The node console as a person uses it: a real process, Debian's Chromium, the keyboard alone.

FEDPRINT_SCREENSHOTS=FOLDER keeps a picture of each page, at 380 and 1440 px, light and dark.
"""

from __future__ import annotations

import json
import os
import random
import socket
import stat
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "console"))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "web"))
from console_stand_ins import Hospital, add_data, plan
from deployed_parts import command, wait_for

from client import state
from client.home import NodeHome
from shared_model.children import Family

CHROMIUM = Path("/usr/bin/chromium")
PAGES = ["/", "/runs", "/runs/spring", "/privacy", "/data", "/sent", "/releases", "/rosters",
         "/log", "/sessions"]  # fmt: skip
SIZES = {"380": (380, 800), "1440": (1440, 900)}
pytestmark = [pytest.mark.deployed, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    folder = tmp_path_factory.mktemp("console")
    made = Hospital.made(folder / "node")
    made.rosters()
    add_data(made.home, folder / "ward")
    text = made.home.config.read_text()
    made.home.config.write_text(text.replace("port = 8450", "port = 0"))
    return made


@pytest.fixture(scope="module")
def console(hospital: Hospital) -> Iterator[Hospital]:
    """The console's process, as `fedprint-node start` starts it; the node "runs" and trains."""
    home, now_s = hospital.home, time.time()
    with Family() as family, hospital.running(now_s + 50.0):
        hospital.trains(now_s)
        child = family.start(
            "console",
            "client.console_app:serve",
            log=home.logs / "console-process.log",
            environment={"FEDPRINT_NODE_HOME": str(home.root)},
        )
        wait_for(lambda: child.exit_code is not None or answers(home), "the console answers")
        assert child.exit_code is None, child.last_lines()
        yield hospital
        assert child.exit_code is None, child.last_lines()
        assert "Traceback" not in child.log.read_text()


def answers(home: NodeHome) -> bool:
    try:
        port = json.loads((home.state / "console.json").read_bytes())["port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def one_time_link(home: NodeHome) -> str:
    done = command("fedprint-node", "console", "--json", "--home", str(home.root))
    return str(json.loads(done.stdout)["link"])


@contextmanager
def chromium() -> Iterator[Any]:
    """Debian's, driven by Playwright."""
    if not CHROMIUM.exists():
        pytest.skip("Debian's chromium is not installed")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        engine = playwright.chromium.launch(
            executable_path=str(CHROMIUM),
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        try:
            yield engine
        finally:
            engine.close()


@contextmanager
def browser(**options: Any) -> Iterator[Any]:
    """A page of it; afterwards: no error in its console, nothing asked of anybody else."""
    with chromium() as engine:
        page = engine.new_context(**options).new_page()
        errors: list[str] = []
        asked: set[str] = set()
        page.on("console", lambda said: errors.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda one: asked.add("/".join(one.url.split("/")[:3])))
        yield page
        assert errors == []
        assert len(asked) == 1, asked
        assert next(iter(asked)).startswith("http://127.0.0.1:")


def picture(page: Any, name: str) -> None:
    folder = os.environ.get("FEDPRINT_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def press_until(page: Any, words: str, most: int = 40) -> None:
    """Tab until the focus is on what says so."""
    for _ in range(most):
        page.keyboard.press("Tab")
        found = page.evaluate(
            "document.activeElement.matches('a, button') ? document.activeElement.innerText : ''"
        )
        if words in (found or ""):
            return
    raise AssertionError(f"the keyboard does not reach {words!r}")


def no_horizontal_scroll(page: Any) -> None:
    wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1], wide


def test_a_run_is_approved_with_the_keyboard_alone(console: Hospital) -> None:
    """Link, login, run, box, button: Tab, Space and Enter; the ledger then has the yes."""
    with browser(viewport={"width": 380, "height": 800}) as page:
        page.goto(one_time_link(console.home))
        assert page.evaluate("document.activeElement.innerText") == "Log in"
        page.keyboard.press("Enter")
        page.wait_for_url("**/")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        press_until(page, "Runs")
        page.keyboard.press("Enter")
        page.wait_for_url("**/runs")
        press_until(page, "spring")
        page.keyboard.press("Enter")
        page.wait_for_url("**/runs/spring")
        press_until(page, "Approve run spring")  # the box is before it
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Space")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.get_by_role("status").get_by_text("takes part in run spring").wait_for()
    console.approvals.check(plan())


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        ("380", "light"),
        ("1440", "dark"),
        pytest.param("380", "dark", marks=pytest.mark.long),
        pytest.param("1440", "light", marks=pytest.mark.long),
    ],
)
def test_every_page_fits_and_says_what_it_is(console: Hospital, width: str, scheme: str) -> None:
    """No sideways scroll of the page; one h1, main, named navigation, a label for each field."""
    wide, high = SIZES[width]
    with browser(viewport={"width": wide, "height": high}, color_scheme=scheme) as page:
        page.goto(one_time_link(console.home))
        no_horizontal_scroll(page)
        picture(page, f"login-{width}-{scheme}")
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url("**/")
        origin = page.url.rstrip("/")
        for path in PAGES:
            page.goto(origin + path)
            no_horizontal_scroll(page)
            assert page.locator("h1").count() == 1
            assert page.locator("main").count() == 1
            assert page.get_by_role("navigation", name="Pages").count() == 1
            assert page.locator("[aria-current=page]").count() == (path != "/runs/spring")
            unnamed = page.evaluate(
                "[...document.querySelectorAll('input:not([type=hidden])')]"
                ".filter(e => !e.labels.length).length"
            )
            assert unnamed == 0
            picture(page, f"{path.strip('/').replace('/', '-') or 'overview'}-{width}-{scheme}")


def test_the_overview_follows_without_being_reloaded(console: Hospital) -> None:
    """Within a few seconds; what the script fetches is a part, and the page stays."""
    with browser() as page:
        page.goto(one_time_link(console.home))
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url("**/")
        page.evaluate("window.same = true")
        for step in (5, 9):
            console.trains(time.time(), step=step)
            page.get_by_text(f"step {step} of 10").wait_for(timeout=15_000)
        assert page.evaluate("window.same") is True


def test_everything_works_without_script(console: Hospital) -> None:
    """Pause and resume, with reloads."""
    with browser(java_script_enabled=False) as page:
        page.goto(one_time_link(console.home))
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("button", name="Pause training").click()
        page.get_by_text("Paused: nothing new is trained.").wait_for()
        assert state.paused(console.home) is not None
        page.get_by_role("button", name="Resume training").click()
        page.get_by_text("Resumed:").wait_for()
        assert state.paused(console.home) is None
        page.get_by_role("button", name="Log out").click()
        page.get_by_role("heading", name="Log in").wait_for()


class Elsewhere(BaseHTTPRequestHandler):
    """A page of somebody else, on another port of this machine: the same site for a cookie."""

    console = ""

    def do_GET(self) -> None:
        page = (
            f"<iframe src='{self.console}/'></iframe><img src='{self.console}/live/now'>"
            f"<form method=post action='{self.console}/pause'><button>Win</button></form>"
        ).encode()
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def test_another_page_in_the_browser_gets_nothing(console: Hospital) -> None:
    """It cannot frame, read or press; not even one on this machine, which the cookie goes to."""
    with chromium() as engine, ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            page = engine.new_context().new_page()
            page.goto(one_time_link(console.home))
            page.get_by_role("button", name="Log in").click()
            page.wait_for_url("**/")
            Elsewhere.console = page.url.rstrip("/")
            told: list[tuple[str, int]] = []
            page.on("response", lambda one: told.append((one.url, one.status)))
            page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
            read = page.evaluate(
                "url => fetch(url, {credentials: 'include'}).then(a => a.text(), () => 'no')",
                f"{Elsewhere.console}/live/now",
            )
            assert read == "no"
            page.get_by_role("button", name="Win").click()
            page.get_by_text("This request was not made by a page of this site.").wait_for()
        finally:
            server.shutdown()
            thread.join()
    of_ours = [status for url, status in told if url.startswith(f"{Elsewhere.console}/")]
    assert len(of_ours) >= 4
    assert set(of_ours) - {200} == {403}
    assert [url for url, status in told if url.startswith(Elsewhere.console) and status == 200] == [
        url for url, _ in told if "/static/" in url
    ]
    assert state.paused(console.home) is None


def test_bytes_that_are_no_request_end_nothing(console: Hospital) -> None:
    """At the real port: noise, headers without end, half a request that stays open."""
    port = json.loads((console.home.state / "console.json").read_bytes())["port"]
    noise = random.Random(3)
    post = f"POST /login HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n".encode()
    get = post.replace(b"POST /login", b"GET /")
    sent = [noise.randbytes(noise.randrange(400)) for _ in range(100)]
    sent += [
        get + b"a: " + b"x" * 100_000 + b"\r\n\r\n",
        get + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        post + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        post + b"Content-Length: 9\r\n\r\na",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
    ]
    open_ones = []
    for data in sent:
        link = socket.create_connection(("127.0.0.1", port), timeout=10)
        with suppress(OSError):
            link.sendall(data)
        if len(open_ones) < 20:
            open_ones.append(link)  # stays open, says nothing more
        else:
            link.close()
    assert answers(console.home)
    for link in open_ones:
        link.close()


def test_files_of_the_console_are_its_owners_alone(console: Hospital) -> None:
    """Digests of links, the monitor's token, its log."""
    home = console.home
    one_time_link(home)
    for path in (home.state / "console-links.json", home.state / "metrics.token",
                 home.state / "console.json", home.logs / "console-audit.log"):  # fmt: skip
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_the_monitor_reads_metrics_with_its_token(console: Hospital) -> None:
    """Over the real port; without it 401, and the health needs none."""
    port = json.loads((console.home.state / "console.json").read_bytes())["port"]
    token = (console.home.state / "metrics.token").read_text().strip()
    address = f"http://127.0.0.1:{port}/metrics"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(address, timeout=30)
    assert caught.value.code == 401
    caught.value.close()
    asked = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        assert b"fedprint_node_epsilon_spent{" in answer.read()


def test_the_command_says_when_no_console_runs(tmp_path: Path) -> None:
    """And which command starts one."""
    made = Hospital.made(tmp_path / "node")
    done = command("fedprint-node", "console", "--home", str(made.home.root), check=False)
    assert done.returncode == 2
    assert "does not run" in done.stderr
