"""A small site, a clock that is set by hand, and a way to send it exactly the bytes one means."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from shared_model.errors import DataFault, OurMistake, Refused
from shared_model.web.gate import Rules
from shared_model.web.links import LinkFile
from shared_model.web.site import Call, Done, Health, Page, Shown, Site, build

HOST = "127.0.0.1:8450"
ORIGIN = f"http://{HOST}"
COOKIE = "fedprint-test"
BEARER = "m" * 43
TEMPLATES = {
    "home.html": '{% extends "base.html" %}{% import "kit.html" as kit %}{% block main %}'
    "<h1>Home</h1>{{ name }}{{ kit.button('/do', 'Do', csrf) }}"
    '<div data-live="/live/part">old</div>{% endblock %}',
    "part.html": "<p>part {{ name }}</p>",
}


@dataclass
class World:
    """A site and what it was told. now, put_back: seconds, by hand."""

    folder: Path
    now: float = 1_000_000.0
    put_back: float = 0.0
    done: list[str] = field(default_factory=list)
    audited: list[tuple[str, str, str]] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)
    ready: bool = True
    secure: bool = False
    bearer: str | None = BEARER
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    def entropy(self, size: int) -> bytes:
        """Distinct each time; tests only."""
        return next(self._numbers).to_bytes(size, "big")

    @property
    def links(self) -> LinkFile:
        return LinkFile(
            self.folder / "links.json",
            clock=lambda: self.now - self.put_back,
            monotonic=lambda: self.now,
            entropy=self.entropy,
        )

    def pages(self) -> list[Page]:
        def home(call: Call) -> Shown:
            return Shown("home.html", {"name": call.query.get("name", "<nobody>")})

        def part(call: Call) -> Shown:
            return Shown("part.html", {"name": call.session.id})

        def do(call: Call) -> Done:
            self.done.append(call.form.get("what", ""))
            return Done("/", "It is <done>.")

        def item(call: Call) -> Shown:
            return Shown("part.html", {"name": call.path["name"]})

        def fails(kind: Exception) -> Callable[[Call], Shown]:
            def page(_: Call) -> Shown:
                raise kind

            return page

        return [
            Page("/", home, nav="Home"),
            Page("/live/part", part),
            Page("/do", do, method="POST"),
            Page("/item/{name}", item),
            Page("/refused", fails(Refused("No <b>.", reason="policy", do="Ask."))),
            Page("/mistake", fails(OurMistake("Wrong."))),
            Page("/damaged", fails(DataFault("Damaged.", cause="store"))),
            Page("/broken", fails(KeyError("secret-detail"))),
        ]

    def app(self) -> Any:
        """The ASGI application."""
        return build(
            Site(
                name="Test page",
                owner="alpha",
                login_words="fedprint-test console",
                rules=Rules(frozenset({HOST}), COOKIE, secure=self.secure),
                pages=self.pages(),
                loader=jinja2.DictLoader(TEMPLATES),
                filters={"when": str},
                links=self.links,
                monotonic=lambda: self.now,
                entropy=self.entropy,
                health=lambda: Health(self.ready, "" if self.ready else "paused"),
                metrics=lambda: b"fedprint_up 1\n",
                bearer=lambda: self.bearer,
                audit=lambda who, what, more: self.audited.append((who, what, more)),
                fault=self.faults.append,
            )
        )


@dataclass(frozen=True)
class Answered:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


async def ask(
    app: Any,
    method: str = "GET",
    path: str = "/",
    *,
    headers: Sequence[tuple[str, str | bytes]] = (("host", HOST),),
    query: bytes = b"",
    chunks: Sequence[bytes] = (b"",),
) -> Answered:
    """One request, as a server would hand it over."""
    sent: list[dict[str, Any]] = []
    waiting = [
        {"type": "http.request", "body": chunk, "more_body": number < len(chunks) - 1}
        for number, chunk in enumerate(chunks)
    ]

    async def receive() -> dict[str, Any]:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass"),
        "query_string": query,
        "root_path": "",
        "headers": [
            (name.lower().encode("latin-1"), v if isinstance(v, bytes) else v.encode("latin-1"))
            for name, v in headers
        ],
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 8450),
    }
    await app(scope, receive, send)
    if not sent:
        return Answered(0, {}, b"")
    assert sent[0]["type"] == "http.response.start"
    assert not any(message["type"] == "http.response.start" for message in sent[1:])
    got = {name.decode(): value.decode("latin-1") for name, value in sent[0]["headers"]}
    return Answered(sent[0]["status"], got, b"".join(m.get("body", b"") for m in sent[1:]))
