"""From pages to one ASGI application: the gate, login and logout, sessions, health, metrics.

    pages = [Page("/", overview, nav="Overview"), Page("/pause", pause, method="POST")]
    app = build(Site(name="Node console", rules=rules, pages=pages, ...))

A page is a plain function from a `Call` to what it answers:

    def overview(call: Call) -> Answer:
        return Shown("overview.html", {"phase": "running"})

    def pause(call: Call) -> Answer:
        ...
        return Done("/", "Nothing new is trained from now on.")

Functions run in threads, several at once. A `FedprintError` that one raises becomes a page with its
message and what to do. Parts that the script fetches again every 2 s are pages below /live/.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal, Protocol

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from shared_model.errors import DataFault, FedprintError, OurMistake
from shared_model.web.gate import (
    HEALTH,
    LIVE,
    LOGIN,
    METRICS,
    STATIC_FILES,
    Gate,
    Passed,
    Rules,
    Stop,
)
from shared_model.web.sessions import Session, Sessions, Throttle

LOGIN_BURST, LOGIN_EVERY_S = 20, 3.0
TOLD_EVERY_S = 60.0
"""Refused logins that are written down, after the first `LOGIN_BURST`: anybody who reaches the port
makes them, and a log of a limited size must not lose to them who approved what."""


@dataclass(frozen=True)
class Call:
    """What a page is given. path: what `{name}` in its path stands for."""

    session: Session
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)
    path: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """A template with its values."""

    template: str
    values: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200


@dataclass(frozen=True)
class Done:
    """After a POST: on to a page of this site, which says this sentence once."""

    to: str
    said: str = ""


Answer = Shown | Done


@dataclass(frozen=True)
class Page:
    """nav: its words in the navigation; "": it is not there. Methods: GET (and HEAD), or POST."""

    path: str
    answer: Callable[[Call], Answer]
    nav: str = ""
    method: Literal["GET", "POST"] = "GET"


class Links(Protocol):
    """`shared_model.web.links.LinkFile` is one."""

    def redeem(self, token: str) -> bool:
        """Whether a one-time token lets its bearer in; once."""


@dataclass(frozen=True)
class Health:
    """ready: it does what it is there for. why: words of a closed list, never a secret."""

    ready: bool
    why: str = ""


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True)
class Site:
    """Everything that makes one site.

    Args:
        name: of the program, in each title. owner: whose it is (a site's name).
        login_words: how to get a link: a command.
        loader: finds the templates of `pages`; those of the kit are beside them.
        filters: of the templates; "when" (seconds since 1970 -> text) must be there.
        links: spends one-time tokens.
        monotonic, entropy: of the operating system.
        health: asked at each /health. metrics: Prometheus text, None: there are none.
        bearer: token that /metrics wants, read anew each time; None: nobody gets it.
        audit: told (session id or "", what, more) of logins, logouts and ended sessions.
        fault: told of exceptions that no page expected.
    """

    name: str
    owner: str
    login_words: str
    rules: Rules
    pages: Sequence[Page]
    loader: jinja2.BaseLoader
    filters: Mapping[str, Callable[..., Any]]
    links: Links
    monotonic: Callable[[], float]
    entropy: Callable[[int], bytes]
    health: Callable[[], Health]
    metrics: Callable[[], bytes] | None = None
    bearer: Callable[[], str | None] = lambda: None
    audit: Callable[[str, str, str], None] = _nothing
    fault: Callable[[Exception], None] = _nothing


def build(site: Site) -> ASGIApp:
    """The application; serve it on the addresses that `site.rules` names, and no other."""
    return _Built(site).app


class _Built:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._templates = templates(site.loader, site.filters)
        self._sessions = Sessions(clock=site.monotonic, entropy=site.entropy)
        self._logins = Throttle(clock=site.monotonic, burst=LOGIN_BURST, every_s=LOGIN_EVERY_S)
        own = [
            Page("/sessions", self._list_sessions, nav="Sessions"),
            Page("/sessions/end", self._end_session, method="POST"),
        ]
        self._told = Throttle(clock=site.monotonic, burst=LOGIN_BURST, every_s=TOLD_EVERY_S)
        self._untold = 0
        self._nav = [(page.path, page.nav) for page in (*site.pages, *own) if page.nav]
        routes = [self._route(page) for page in (*site.pages, *own)]
        routes += [
            Route(LOGIN, self._login_page, methods=["GET"]),
            Route(LOGIN, self._login, methods=["POST"]),
            Route("/logout", self._logout, methods=["POST"]),
            Route(HEALTH, self._health, methods=["GET"]),
            Route(METRICS, self._metrics, methods=["GET"]),
        ]
        routes += [self._static_route(path, kind) for path, kind in STATIC_FILES.items()]
        inner = Starlette(
            routes=routes,
            exception_handlers={HTTPException: self._http_error, Exception: self._http_error},
        )
        inner.router.redirect_slashes = False
        self.app: ASGIApp = Gate(
            inner,
            site.rules,
            self._sessions,
            stopped=self._stopped,
            bearer=site.bearer,
            fault=site.fault,
        )

    def _route(self, page: Page) -> Route:
        async def endpoint(request: Request) -> Response:
            passed: Passed = request.state.passed
            session = passed.session
            if session is None:  # the gate lets nobody through to here
                raise HTTPException(401)
            call = Call(session, passed.query, passed.form, dict(request.path_params))
            try:
                answer = await run_in_threadpool(page.answer, call)
            except FedprintError as error:
                return self._refusal(error, session, page)
            if isinstance(answer, Done):
                return self._on(session, answer)
            return self._html(answer, session, page.path)

        return Route(page.path, endpoint, methods=[page.method])

    def _static_route(self, path: str, kind: str) -> Route:
        content = resources.files("shared_model.web").joinpath(path.lstrip("/")).read_bytes()

        async def endpoint(_: Request) -> Response:
            return Response(content, media_type=kind)

        return Route(path, endpoint, methods=["GET"])

    # Login and sessions

    async def _login_page(self, request: Request) -> Response:
        passed: Passed = request.state.passed
        token = passed.query.get("token", "")[:64]
        return self._html(Shown("login.html", {"token": token, "wrong": ""}), None, LOGIN)

    async def _login(self, request: Request) -> Response:
        passed: Passed = request.state.passed
        if not self._logins.allows():
            self._not_let_in("too many")
            raise Stop(429, "Too many tries to log in. Wait a minute.", {"retry-after": "60"})
        if not await run_in_threadpool(self._site.links.redeem, passed.form.get("token", "")):
            self._not_let_in("refused")
            wrong = "This link was used, has expired or was never made. Make a new one."
            return self._html(Shown("login.html", {"token": "", "wrong": wrong}, 403), None, LOGIN)
        if passed.session is not None:
            self._sessions.end(passed.session.id)
        token, session = self._sessions.begin()
        self._site.audit(session.id, "login", "done")
        response = self._on(session, Done("/"))
        response.set_cookie(
            self._site.rules.cookie_name,
            token,
            max_age=int(self._sessions.absolute_s),
            path="/",
            secure=self._site.rules.secure,
            httponly=True,
            samesite="strict",
        )
        return response

    def _not_let_in(self, why: str) -> None:
        """Write down a login that failed, or only count it."""
        if not self._told.allows():
            self._untold += 1
            return
        more = f", {self._untold} more before" if self._untold else ""
        self._untold = 0
        self._site.audit("", "login", why + more)

    async def _logout(self, request: Request) -> Response:
        session: Session | None = request.state.passed.session
        if session is not None:
            self._sessions.end(session.id)
            self._site.audit(session.id, "logout", "done")
        response = RedirectResponse(LOGIN, status_code=303)
        response.delete_cookie(
            self._site.rules.cookie_name, path="/", secure=self._site.rules.secure, httponly=True,
            samesite="strict",
        )  # fmt: skip
        return response

    def _list_sessions(self, call: Call) -> Answer:
        rows = []
        for one in self._sessions.all():
            since_s, idle_s = self._sessions.age_s(one)
            rows.append({"id": one.id, "since_s": since_s, "idle_s": idle_s,
                         "own": one.id == call.session.id})  # fmt: skip
        limits = {"idle_s": self._sessions.idle_s, "absolute_s": self._sessions.absolute_s}
        return Shown("sessions.html", {"rows": rows, **limits})

    def _end_session(self, call: Call) -> Answer:
        named = call.form.get("session", "")
        if not self._sessions.end(named):
            raise OurMistake("There is no such session; it may have ended already.")
        self._site.audit(call.session.id, "end session", named)
        return Done("/sessions", f"Session {named} has ended.")

    # For machines

    async def _health(self, _: Request) -> Response:
        health = await run_in_threadpool(self._site.health)
        content = {"live": True, "ready": health.ready, "why": health.why}
        return Response(
            json.dumps(content).encode(),
            media_type="application/json",
            status_code=200 if health.ready else 503,
        )

    async def _metrics(self, _: Request) -> Response:
        if self._site.metrics is None:
            raise HTTPException(404)
        content = await run_in_threadpool(self._site.metrics)
        return Response(content, headers={"content-type": "text/plain; version=0.0.4"})

    # Answers

    def _on(self, session: Session, done: Done) -> Response:
        if done.said:
            session.said.append(done.said)
        return RedirectResponse(done.to, status_code=303)

    def _html(self, shown: Shown, session: Session | None, path: str) -> Response:
        text = self._templates.get_template(shown.template).render(
            site_name=self._site.name,
            owner=self._site.owner,
            login_words=self._site.login_words,
            nav=self._nav if session else [],
            here=path,
            csrf=session.csrf if session else "",
            said=session.take_said() if session and not path.startswith(LIVE) else [],
            logged_in=session is not None,
            **shown.values,
        )
        return Response(text, media_type="text/html", status_code=shown.status)

    def _refusal(self, error: FedprintError, session: Session, page: Page) -> Response:
        values = {"title": "Not done" if page.method == "POST" else "Not shown",
                  "words": error.message, "do": error.do}  # fmt: skip
        status = 400 if isinstance(error, OurMistake) else 409
        if isinstance(error, DataFault):
            status = 409
        template = "part_error.html" if page.path.startswith(LIVE) else "error.html"
        return self._html(Shown(template, values, status), session, page.path)

    def _stopped(self, stop: Stop, part: bool) -> Response:
        if stop.status == 401 and not part and "www-authenticate" not in stop.headers:
            return self._html(Shown("login.html", {"token": "", "wrong": ""}, 401), None, LOGIN)
        values = {"title": "Not answered", "words": stop.words, "do": ""}
        template = "part_error.html" if part else "error.html"
        return self._html(Shown(template, values, stop.status), None, "")

    async def _http_error(self, request: Request, error: Exception) -> Response:
        if isinstance(error, Stop):
            raise error
        status = error.status_code if isinstance(error, HTTPException) else 500
        words = {404: "There is no such page.", 405: "This page is not asked in that way."}
        told = words.get(status, "Something went wrong here; its log says what.")
        passed: Passed | None = getattr(request.state, "passed", None)
        session = passed.session if passed else None
        values = {"title": "Not answered", "words": told, "do": ""}
        response = self._html(Shown("error.html", values, status), session, "")
        if isinstance(error, HTTPException):
            response.headers.update(error.headers or {})
        return response


def templates(
    loader: jinja2.BaseLoader, filters: Mapping[str, Callable[..., Any]]
) -> jinja2.Environment:
    """Templates of the kit and of a program; everything is escaped, an unknown name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([loader, jinja2.PackageLoader("shared_model.web")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({"size": size, "span": span, **filters})
    return environment


def size(size_bytes: float) -> str:
    """1234567 -> "1.2 MB" (powers of 1000)."""
    value, unit = float(size_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000.0:
            break
        value, unit = value / 1000.0, larger
    return f"{value:.0f} bytes" if unit == "bytes" else f"{value:.1f} {unit}"


def span(seconds: float) -> str:
    """90 -> "2 min"; for people, rounded."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} days"
