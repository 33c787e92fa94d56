"""Thousands of requests that no browser would send: each is answered, none with a 500."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter

import pytest
from dashboard_stand_ins import HOST, Visitor
from web_stand_ins import ask

from server import dashboard
from server.home import CoordinatorHome

NORMAL, LONG = 5_000, 100_000
SEED = 20261128
PATHS = (
    *("/", "/live/now", "/sites", "/live/sites", "/runs", "/releases", "/incidents", "/sessions"),
    *("/runs/spring", "/live/runs/spring", "/runs/winter", "/runs/spring/rounds/7", "/runs/none"),
    *("/login", "/logout", "/health", "/metrics", "/static/fedprint.css", "/sessions/end"),
    *("/runs/%2e%2e", "/runs/spring/rounds/-1", "/runs/spring/rounds/99999999999", "//", "/runs/"),
)
PIECES = ("..", "%00", "\x00", "é", "☃", "<script>", "' or 1=1", "{{7*7}}", "a" * 3000, "0", "-1")
METHODS = ("GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE", "PATCH", "get", "BREW")
NAMES = ("host", "cookie", "origin", "content-type", "content-length", "authorization", "accept")
NAMES += ("sec-fetch-site", "sec-fetch-mode", "transfer-encoding", "x-forwarded-for", "expect")
VALUES = ("", "null", HOST, f"http://{HOST}", "evil.example", "application/json", "-1", "chunked")
VALUES += ("application/x-www-form-urlencoded", "multipart/form-data", "cross-site", "Bearer x")


def requests(rng: random.Random, cookie: str, token: str):
    """One request after another: mostly ours, with one or more things wrong."""
    while True:
        path = rng.choice(PATHS)
        while rng.random() < 0.25:
            place = rng.randrange(len(path) + 1)
            path = path[:place] + rng.choice(PIECES) + path[place:]
        headers = [("host", HOST if rng.random() < 0.9 else rng.choice(VALUES))]
        if rng.random() < 0.7:
            headers.append(("cookie", cookie))
        if rng.random() < 0.3:
            headers.append(("authorization", f"Bearer {token}"))
        if rng.random() < 0.4:
            headers.append(("origin", f"http://{HOST}"))
            headers.append(("content-type", "application/x-www-form-urlencoded"))
        while rng.random() < 0.3:
            value: str | bytes = rng.choice(VALUES) if rng.random() < 0.7 else rng.randbytes(9)
            headers.append((rng.choice(NAMES), value))
        fields = ("before", "token", "csrf", "session", "x")
        words = ("1", "8", "-1", "9" * 40, "%zz", "a%00b", "é", "", "<b>")
        query = "&".join(
            f"{rng.choice(fields)}={rng.choice(words)}" for _ in range(rng.choice((0, 0, 0, 1, 3)))
        )
        body = (b"", b"csrf=x", b"token=" + b"a" * 43, rng.randbytes(40), b"x" * 20_000)
        chunks = tuple(rng.choice(body) for _ in range(rng.choice((1, 1, 2))))
        yield rng.choice(METHODS), path, headers, query.encode(), chunks


def flood(home: CoordinatorHome, count: int) -> Counter[int]:
    visitor = Visitor(home).log_in()
    token = dashboard.metrics_token(home)
    stream = requests(random.Random(SEED), visitor.cookie, token)

    async def all_of_them() -> Counter[int]:
        seen: Counter[int] = Counter()
        for number in range(count):
            method, path, headers, query, chunks = next(stream)
            visitor.mono += 0.001
            answer = await ask(
                visitor.app, method, path, headers=headers, query=query, chunks=chunks
            )
            seen[answer.status] += 1
            told = (number, method, path, headers, query)
            assert answer.status < 500 or (answer.status == 503 and "/health" in path), told
            if answer.status == 200 and path.startswith(("/runs", "/sites", "/releases")):
                assert ("cookie", visitor.cookie) in headers, told
        return seen

    seen = asyncio.run(all_of_them())
    assert not visitor.faults, visitor.faults[0].exc_info
    return seen


def test_odd_requests_are_answered_and_reach_nothing(lively_root: CoordinatorHome) -> None:
    """A share of them must get through, or nothing was tested."""
    seen = flood(lively_root, int(os.environ.get("FEDPRINT_DASHBOARD_FUZZ", NORMAL)))
    assert seen[200] > NORMAL // 20
    assert {400, 401, 403, 404, 405, 421} <= set(seen)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_odd_requests(lively_root: CoordinatorHome) -> None:
    flood(lively_root, LONG)
