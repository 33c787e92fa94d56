"""Hostile requests without end, the same for the same seed; for any site of the web kit.

    for request in hostile(seed, 5000, paths=[...], fields=[...], cookie=(name, value), csrf=...):
        answer = await request.send(app)

None logs out, so that half of them stay logged in. Most are nearly right: a request whose every
part is noise is stopped by the first check.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from web_stand_ins import Answered, ask

METHODS = [
    "GET",
    "GET",
    "GET",
    "POST",
    "POST",
    "POST",
    "HEAD",
    "PUT",
    "DELETE",
    "",
    "get",
    "A" * 99,
]
WORDS = [
    "", "a", "0", "-1", "1e308", "nan", "null", "true", "../../etc/passwd", "%00", "%2e%2e%2f",
    "<script>alert(1)</script>", "{{7*7}}", "${7*7}", "' OR 1=1 --", "\x00", "\r\nSet-Cookie: a=b",
    "\u202e", "\U0001f600", "\ud800", "é", "A" * 5000, "0" * 64, "f" * 64, "[]", "{}", "a=b&c=d",
    "2026-01-01", "//evil.example", "\\", "%", "%zz", ";", "\u2028", "spring", "x" * 64, "x" * 65,
]  # fmt: skip
HEADERS = [
    "host", "origin", "cookie", "content-type", "content-length", "authorization", "referer",
    "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest", "x-forwarded-for", "x-forwarded-host",
    "forwarded", "accept", "range", "if-none-match", "expect", "upgrade", "transfer-encoding",
    "x-http-method-override", "user-agent", "te", "connection",
]  # fmt: skip
PATHS = [
    "/login", "/logout/", "/sessions", "/sessions/end", "/health", "/metrics", "/static/",
    "/static/fedprint.css", "/static/fedprint.js", "/static/../site.py", "/favicon.ico", "/live/",
    "*", "", "//", "/%2e%2e/", "/.git/config", "http://evil.example/",
]  # fmt: skip


@dataclass(frozen=True)
class Hostile:
    """One request. logged_in: its cookie is a good one."""

    method: str
    path: str
    query: bytes
    headers: tuple[tuple[str, bytes], ...]
    chunks: tuple[bytes, ...]
    logged_in: bool

    async def send(self, app: Any) -> Answered:
        return await ask(
            app,
            self.method,
            self.path,
            headers=self.headers,
            query=self.query,
            chunks=self.chunks,
        )


def hostile(
    seed: int,
    count: int,
    *,
    paths: Sequence[str],
    fields: Sequence[str],
    values: Sequence[str],
    host: str,
    cookie: tuple[str, str],
    csrf: str,
) -> Iterator[Hostile]:
    """So many requests.

    Args:
        paths: of the site; `{name}` in them is filled in. fields, values: of its forms.
        cookie, csrf: of a session, for about half of the requests.
    """
    rng = random.Random(seed)
    for _ in range(count):
        yield _one(rng, paths, fields, values, host, cookie, csrf)


def _one(
    rng: random.Random,
    paths: Sequence[str],
    fields: Sequence[str],
    values: Sequence[str],
    host: str,
    cookie: tuple[str, str],
    csrf: str,
) -> Hostile:
    def word() -> str:
        return rng.choice(WORDS) if rng.random() < 0.6 else rng.choice(list(values) or [""])

    def pairs(most: int) -> bytes:
        some = [
            f"{rng.choice([*fields, word()])}={word()}".encode("utf-8", "surrogatepass")
            for _ in range(rng.randrange(most + 1))
        ]
        return b"&".join(some)

    method, logged_in = rng.choice(METHODS), rng.random() < 0.5
    path = rng.choice(PATHS) if rng.random() < 0.25 else rng.choice(paths)
    while "{" in path:
        path = path[: path.index("{")] + word() + path[path.index("}") + 1 :]
    if rng.random() < 0.1:
        path += word()
    body = pairs(5)
    if rng.random() < 0.8:
        body = b"&".join(filter(None, [body, f"csrf={csrf if logged_in else word()}".encode(
            "utf-8", "surrogatepass")]))  # fmt: skip
    if rng.random() < 0.1:
        body = rng.randbytes(rng.randrange(20_000))
    headers: list[tuple[str, bytes]] = []
    if rng.random() < 0.97:
        headers.append(("host", host.encode()))
    if rng.random() < 0.9:
        headers.append(("origin", f"http://{host}".encode()))
    if rng.random() < 0.9:
        headers.append(("content-type", b"application/x-www-form-urlencoded"))
    if logged_in:
        headers.append(("cookie", f"{cookie[0]}={cookie[1]}".encode()))
    while rng.random() < 0.15:
        value = word().encode("utf-8", "surrogatepass") or rng.randbytes(rng.randrange(40))
        headers.append((rng.choice(HEADERS), value))
    cut = rng.randrange(len(body) + 1)
    return Hostile(
        method,
        path,
        pairs(3) if rng.random() < 0.3 else b"",
        tuple(headers),
        (body[:cut], body[cut:]) if rng.random() < 0.3 else (body,),
        logged_in and all(name != "cookie" for name, _ in headers[4:]),
    )
