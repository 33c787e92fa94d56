"""The gate before every page: whatever it lets through is a user's own, well-formed request.

It stands before routing, so that nobody who is not logged in learns which pages there are. The
order of its checks is in docs/adr/0021-node-console.md. It never sees what pages show; it sets the
headers of every answer and turns what was not expected into a plain 500 without details.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
from starlette.datastructures import FormData, Headers, QueryParams
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared_model.web.sessions import Session, Sessions

HEADERS: Mapping[str, str] = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # no-referrer would make our own forms say Origin: null
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "cache-control": "no-store",
}
SERVER_OPTIONS: Mapping[str, Any] = {
    "http": "h11",
    "ws": "none",
    "lifespan": "off",
    "log_config": None,
    "log_level": "error",  # a line for each byte that is no request would fill a disk
    "access_log": False,
    "server_header": False,
    "proxy_headers": False,
    "limit_concurrency": 64,
    "backlog": 64,
    "timeout_keep_alive": 5,
    "timeout_graceful_shutdown": 2,
    "h11_max_incomplete_event_size": 16 * 1024,
}
"""For `uvicorn.Config`, of every program that serves such a site."""
METHODS = ("GET", "HEAD", "POST")
STATIC_FILES: Mapping[str, str] = {
    "/static/fedprint.css": "text/css",
    "/static/fedprint.js": "text/javascript",
    "/static/icon.svg": "image/svg+xml",
}
"""Public: everybody has the package that they are in."""
LOGIN, HEALTH, METRICS, LIVE = "/login", "/health", "/metrics", "/live/"
BODY_LIMIT_BYTES = 16 * 1024
BODY_DEADLINE_S = 10.0
_TARGET_LIMIT_BYTES = 2048
_MOST_FIELDS = 32
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffd\u2028\u2029]")


@dataclass(frozen=True)
class Rules:
    """How one page is reached.

    hosts: values of `Host` that are answered ("127.0.0.1:8450"). secure: it is reached by https
    only: the cookie is of that host and https alone. cookie: its name, without the prefix.
    """

    hosts: frozenset[str]
    cookie: str
    secure: bool = False

    @property
    def origins(self) -> frozenset[str]:
        """Values of `Origin` that a form may come from."""
        return frozenset(f"{'https' if self.secure else 'http'}://{host}" for host in self.hosts)

    @property
    def cookie_name(self) -> str:
        return f"__Host-{self.cookie}" if self.secure else self.cookie


@dataclass(frozen=True)
class Passed:
    """What the gate found in a request. session: None on public paths."""

    session: Session | None
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)


class Stop(Exception):
    """The request ends here. words: one sentence for the person."""

    def __init__(self, status: int, words: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(words)
        self.status, self.words, self.headers = status, words, dict(headers or {})


class _Gone(Exception):
    """Nobody is there to be answered any more."""


class Gate:
    """ASGI application around another one.

    Args:
        stopped: makes the page for a request that ends here.
        bearer: token that /metrics wants; None: nobody gets it.
        fault: told of what no page expected.
    """

    def __init__(
        self,
        app: ASGIApp,
        rules: Rules,
        sessions: Sessions,
        *,
        stopped: Callable[[Stop, bool], Response],
        bearer: Callable[[], str | None],
        fault: Callable[[Exception], None],
    ) -> None:
        self._app, self._rules, self._sessions = app, rules, sessions
        self._stopped, self._bearer, self._fault = stopped, bearer, fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            return
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": _with_headers(message)}
            try:
                await send(message)
            except Exception as error:  # the server's: it cannot answer what was asked so
                raise _Gone from error

        with suppress(_Gone):
            try:
                passed, body = await self._check(scope, receive)
                scope.setdefault("state", {})["passed"] = passed
                await self._app(scope, _once(body, receive), guarded)
            except Stop as stop:
                response = self._stopped(stop, _is_part(scope))
                response.headers.update(stop.headers)
                response.headers["connection"] = "close"  # its body may not have been read
                await response(scope, receive, guarded)
            except _Gone:
                raise
            except Exception as error:
                self._fault(error)
                if not started:
                    broken = Stop(500, "Something went wrong here; its log says what.")
                    await self._stopped(broken, _is_part(scope))(scope, receive, guarded)

    async def _check(self, scope: Scope, receive: Receive) -> tuple[Passed, bytes]:
        method, path, headers = scope["method"], scope["path"], Headers(scope=scope)
        if method not in METHODS:
            raise Stop(405, "This page answers GET and POST only.", {"allow": ", ".join(METHODS)})
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._rules.hosts:
            raise Stop(421, "This page is not reached by that name.")
        if path == METRICS and method != "POST":
            self._check_bearer(headers)
            return Passed(None), b""
        query = _fields_of_query(scope)
        if path == HEALTH and method != "POST":
            return Passed(None), b""
        _check_fetch(headers, method, _is_part(scope))
        public = path == LOGIN or (path in STATIC_FILES and method != "POST")
        session = self._session(headers, touch=not _is_part(scope))
        if session is None and not public:
            raise Stop(401, "You are not logged in.")
        if method != "POST":
            return Passed(session, query), b""
        self._check_origin(headers)
        body = await _body(headers, receive)
        form = await _fields_of_form(scope, body)
        csrf = form.pop("csrf", "")
        if path != LOGIN and (session is None or not session.holds(csrf)):
            raise Stop(403, "This form is too old. Go back, reload the page and try again.")
        return Passed(session, query, form), body

    def _session(self, headers: Headers, *, touch: bool) -> Session | None:
        """The one session that the cookies name; two cookies of our name are none."""
        name, found = self._rules.cookie_name, []
        for line in headers.getlist("cookie"):
            for part in line.split(";"):
                key, _, value = part.strip().partition("=")
                if key == name:
                    found.append(value)
        return self._sessions.find(found[0], touch=touch) if len(found) == 1 else None

    def _check_bearer(self, headers: Headers) -> None:
        wanted, given = self._bearer(), headers.getlist("authorization")
        told = given[0].encode("latin-1", "replace") if len(given) == 1 else b""
        right = f"Bearer {wanted}".encode() if wanted else b""
        if not hmac.compare_digest(told, right) or not right:
            raise Stop(401, "Metrics need a bearer token.", {"www-authenticate": "Bearer"})

    def _check_origin(self, headers: Headers) -> None:
        origins = headers.getlist("origin")
        if len(origins) != 1 or origins[0] not in self._rules.origins:
            raise Stop(403, "This form was not sent by a page of this site.")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            raise Stop(415, "Forms are sent as application/x-www-form-urlencoded.")


def _check_fetch(headers: Headers, method: str, part: bool) -> None:
    """What browsers say about who asks (absent: no browser, or an old one).

    Another site's page may send a person here by a link; it may not read or post in the
    background.
    """
    sites = headers.getlist("sec-fetch-site")
    if not sites or sites == ["same-origin"]:
        return
    opened = headers.get("sec-fetch-mode") == "navigate" and (
        headers.get("sec-fetch-dest") == "document"
    )
    if method == "POST" or part or not opened:
        raise Stop(403, "This request was not made by a page of this site.")


def _fields_of_query(scope: Scope) -> dict[str, str]:
    raw = scope.get("raw_path") or scope["path"].encode("utf-8", "replace")
    if len(raw) + len(scope["query_string"]) > _TARGET_LIMIT_BYTES:
        raise Stop(414, "The address is too long.")
    if _CONTROL.search(scope["path"]) or "\\" in scope["path"]:
        raise Stop(400, "The address cannot be read.")
    try:
        return _each_once(QueryParams(scope["query_string"]).multi_items())
    except ValueError as error:
        raise Stop(400, "The address cannot be read.") from error


async def _body(headers: Headers, receive: Receive) -> bytes:
    """The whole body."""
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()) or int(length[:10]) > BODY_LIMIT_BYTES:
        raise Stop(413, "The form is too large.")
    body = b""
    with anyio.move_on_after(BODY_DEADLINE_S) as deadline:
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise _Gone
            body += message.get("body", b"")
            if len(body) > BODY_LIMIT_BYTES:
                raise Stop(413, "The form is too large.")
            if not message.get("more_body", False):
                break
    if deadline.cancelled_caught:
        raise Stop(408, "The form came too slowly.")
    return body


async def _fields_of_form(scope: Scope, body: bytes) -> dict[str, str]:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        form: FormData = await Request(scope, receive).form(max_fields=_MOST_FIELDS, max_files=0)
    except (ValueError, HTTPException, MultiPartException) as error:
        raise Stop(400, "The form cannot be read.") from error
    return _each_once([(key, str(value)) for key, value in form.multi_items()])


def _each_once(items: list[tuple[str, str]]) -> dict[str, str]:
    found = dict(items)
    if len(found) != len(items) or len(items) > _MOST_FIELDS:
        raise Stop(400, "A field came twice, or there are too many.")
    if any(_CONTROL.search(key) or _CONTROL.search(value) for key, value in items):
        raise Stop(400, "A field has characters that belong in none.")
    return found


def _once(body: bytes, receive: Receive) -> Receive:
    """The body that was read already, then whatever the server says."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _is_part(scope: Scope) -> bool:
    """Whether the script asks for a piece of a page: nobody's doing, so no activity."""
    return str(scope["path"]).startswith(LIVE)


def _with_headers(message: Message) -> list[tuple[bytes, bytes]]:
    ours = {name.encode(): value.encode() for name, value in HEADERS.items()}
    kept = [(name, value) for name, value in message.get("headers", []) if name not in ours]
    return [*kept, *ours.items()]
