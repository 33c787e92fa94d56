"""Hostile requests to the real console over a real folder: no fault, nothing for a stranger."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from console_stand_ins import HOST, Browser, Hospital, plan
from web_fuzz import hostile

from client import console_app, state
from client.console_log import ConsoleLog

PAGES = ["/", "/live/now", "/pause", "/resume", "/data", "/sent", "/releases", "/rosters", "/log",
         "/runs", "/runs/{run}", "/runs/spring", "/runs/{run}/approve", "/runs/spring/approve",
         "/runs/spring/refuse", "/runs/{run}/refuse", "/privacy", "/sessions"]  # fmt: skip
PUBLIC = {"/login", "/health", "/static/fedprint.css", "/static/fedprint.js", "/static/icon.svg"}


def what_is_decided(hospital: Hospital) -> tuple[object, ...]:
    """Whatever a request could change of the node."""
    with hospital.store() as store:
        length = store.chain.length
    runs = sorted(str(path) for path in hospital.home.runs.rglob("*.json"))
    return length, runs, state.paused(hospital.home) is not None


async def attack(hospital: Hospital, browser: Browser, seed: int, count: int) -> set[int]:
    """The statuses that came."""
    seen: set[int] = set()
    requests = hostile(
        seed, count, paths=PAGES, fields=["read", "plan", "session", "token", "run"],
        values=[plan().digest, "yes", "spring", "winter"], host=HOST,
        cookie=(console_app.COOKIE, browser.cookie), csrf=browser.csrf,
    )  # fmt: skip
    for request in requests:
        stranger = not any(name == "cookie" for name, _ in request.headers)
        before = what_is_decided(hospital) if stranger and request.method == "POST" else None
        answer = await request.send(browser.app)
        seen.add(answer.status)
        assert 200 <= answer.status < 500 or request.path == "/health", request
        assert b"Traceback" not in answer.body
        if stranger:
            assert before is None or before == what_is_decided(hospital), request
            assert answer.status >= 400 or request.path in PUBLIC, request
    return seen


def faults(hospital: Hospital) -> list[dict[str, str]]:
    return [line for line in ConsoleLog(hospital.home).last(10_000) if line["what"] == "fault"]


def test_five_thousand_hostile_requests_break_nothing(hospital: Hospital) -> None:
    """No 500, no fault in the log; without a session nothing but login, health, static files."""
    browser = Browser(hospital).log_in()
    seen = asyncio.run(attack(hospital, browser, 1, 5000))
    assert {200, 303, 400, 401, 403, 405, 409} <= seen
    assert faults(hospital) == []
    assert browser.get("/").status == 200, "the session lives on"


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_hostile_requests_break_nothing(hospital: Hospital) -> None:
    """The same with other seeds; the log stays bounded."""
    for seed in range(20):
        browser = Browser(hospital).log_in()
        asyncio.run(attack(hospital, browser, 100 + seed, 5000))
        assert browser.get("/").status == 200
    assert faults(hospital) == []
    size = sum(path.stat().st_size for path in hospital.home.logs.glob("console-audit.log*"))
    assert size < 10 * 2**20


def test_the_long_run_is_able_to_fail(hospital: Hospital, tmp_path: Path) -> None:
    """A page that breaks is found: here the log of what left has a line that no version writes."""

    def sent(limit: int) -> list[object]:
        return [json.loads('{"kind": 3}')]

    app = console_app.application(hospital.home, 8450, sent=sent)  # type: ignore[arg-type]
    browser = Browser(hospital, app).log_in()
    with pytest.raises(AssertionError):
        asyncio.run(attack(hospital, browser, 1, 1000))
    assert faults(hospital) != []
