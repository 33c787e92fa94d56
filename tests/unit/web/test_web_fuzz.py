"""Hostile requests to a small site of the kit: refused in words, never a fault."""

from __future__ import annotations

import asyncio
import re

import pytest
from web_fuzz import hostile
from web_stand_ins import COOKIE, HOST, ORIGIN, World, ask

PAGES = ["/", "/live/part", "/do", "/item/{name}", "/refused", "/mistake", "/damaged"]
PUBLIC = {"/login", "/health", "/static/fedprint.css", "/static/fedprint.js", "/static/icon.svg"}


async def attack(world: World, seed: int, count: int) -> dict[int, int]:
    """How often each status came."""
    app, seen = world.app(), dict[int, int]()
    headers = [("host", HOST), ("origin", ORIGIN),
               ("content-type", "application/x-www-form-urlencoded")]  # fmt: skip
    body = f"token={world.links.issue()}".encode()
    first = await ask(app, "POST", "/login", headers=headers, chunks=(body,))
    cookie = re.match(rf"{COOKIE}=([^;]+)", first.headers["set-cookie"])[1]
    page = await ask(app, headers=[("host", HOST), ("cookie", f"{COOKIE}={cookie}")])
    csrf = re.search(r'name="csrf" value="([^"]+)"', page.text)[1]
    for request in hostile(
        seed, count, paths=PAGES, fields=["what", "session", "token"], values=["x"], host=HOST,
        cookie=(COOKIE, cookie), csrf=csrf,
    ):  # fmt: skip
        before = list(world.done)
        answer = await request.send(app)
        seen[answer.status] = seen.get(answer.status, 0) + 1
        assert 200 <= answer.status < 500, request
        assert b"Traceback" not in answer.body
        if not any(name == "cookie" for name, _ in request.headers):
            assert world.done == before, request
            if answer.status < 400:
                assert request.path in PUBLIC, request
    assert world.faults == []
    page = await ask(app, headers=[("host", HOST), ("cookie", f"{COOKIE}={cookie}")])
    assert page.status == 200, "the session has lived through it"
    return seen


def test_five_hundred_hostile_requests_break_nothing(tmp_path):
    """No fault; nothing but public paths without a session. The console's own test sends more."""
    seen = asyncio.run(attack(World(tmp_path), 1, 500))
    assert {200, 401, 403, 405} <= set(seen)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_hostile_requests_break_nothing(tmp_path):
    """The same, with other seeds."""
    for seed in range(20):
        asyncio.run(attack(World(tmp_path / str(seed)), 100 + seed, 5000))
