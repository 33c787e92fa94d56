"""The node console as a process: pages for the person at this hospital, at 127.0.0.1 only.

    serve([])          a child of `fedprint-node start`; the node's folder is FEDPRINT_NODE_HOME

    state/console.json         where it answers, for the command that prints links
    state/console-links.json   digests of one-time links that wait (0600)
    state/metrics.token        what a monitor shows at /metrics (0600)

It listens; it never connects to anything. Nothing that it does reaches the node's other processes
but through the files that commands write, too.
"""

from __future__ import annotations

import secrets
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import uvicorn
from jinja2 import PackageLoader
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.types import ASGIApp

from client.console_facts import Facts
from client.console_log import ConsoleLog
from client.console_pages import Pages, Sent, when
from client.console_privacy import PrivacyPages
from client.console_runs import RunPages
from client.home import NodeHome
from client.metrics import NodeMetrics
from client.sent import SentLog
from client.settings import settings_of
from shared_model.errors import FedprintError, OurMistake, Refused
from shared_model.files import read_regular, write_atomic
from shared_model.locks import is_locked, locked
from shared_model.web.gate import SERVER_OPTIONS, Rules
from shared_model.web.links import LinkFile, token_of
from shared_model.web.site import Health, Site, build

ADDRESS = "127.0.0.1"
COOKIE = "fedprint-console"


class Listening(BaseModel):
    """Where the console answers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    port: Annotated[int, Field(ge=1, le=65535)]


def serve(arguments: list[str]) -> None:
    """Answer until it is ended. Arguments: none. A fault in words ends it with its exit code."""
    del arguments
    try:
        run(NodeHome.find())
    except FedprintError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


def run(home: NodeHome, on_start: Callable[[int], None] = lambda port: None) -> None:
    """Answer until it is interrupted.

    Args:
        on_start: called with the port.

    Raises:
        OurMistake: the folder is not set up, another console runs, or the port is taken.
    """
    settings = settings_of(home)
    home.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    busy = OurMistake("The console of this node runs already.", do="Run: fedprint-node console")
    with locked(home.state / "console.lock", busy), _bound(settings.console.port) as listener:
        port: int = listener.getsockname()[1]
        written = Listening(port=port).model_dump_json().encode()
        write_atomic(home.state / "console.json", written, mode=0o600)
        _make_bearer(home)
        config = uvicorn.Config(application(home, port), **SERVER_OPTIONS)
        on_start(port)
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def application(home: NodeHome, port: int, *, sent: Sent | None = None) -> ASGIApp:
    """The ASGI application of a node's console; it opens nothing by itself.

    Args:
        sent: what left; of `client.sent` if None.
    """
    facts, log = Facts(home), ConsoleLog(home)
    metrics = NodeMetrics(facts)
    pages = [
        *Pages(home, facts, log, sent or SentLog(home).entries).all(),
        *RunPages(home, log).all(),
        *PrivacyPages(facts).all(),
    ]
    order = ["Overview", "Runs", "Privacy", "Data", "Sent", "Releases", "Rosters", "Log"]
    pages.sort(key=lambda page: order.index(page.nav) if page.nav else len(order))
    return build(
        Site(
            name="Node console",
            owner=settings_of(home).site,
            login_words="fedprint-node console",
            rules=Rules(frozenset({f"{ADDRESS}:{port}", f"localhost:{port}"}), COOKIE),
            pages=pages,
            loader=PackageLoader("client", "console_templates"),
            filters={"when": when},
            links=links_of(home),
            monotonic=time.monotonic,
            entropy=secrets.token_bytes,
            health=lambda: _health(facts),
            metrics=metrics.text,
            bearer=lambda: bearer_of(home),
            audit=log.write,
            fault=lambda error: _told(log, error),
        )
    )


def link(home: NodeHome) -> str:
    """A fresh one-time link to the console that runs.

    Raises:
        OurMistake: none runs.
    """
    asleep = OurMistake(
        "The console of this node does not run.",
        do="Run: fedprint-node start (with [console] enabled in node.toml), or "
        "fedprint-node console --serve",
    )
    if not is_locked(home.state / "console.lock"):
        raise asleep
    try:
        data = read_regular(home.state / "console.json", 1024)
        port = Listening.model_validate_json(data).port
    except (Refused, ValidationError) as error:
        raise asleep from error
    token = links_of(home).issue()
    ConsoleLog(home).write("", "one-time link", "made by the command")
    return f"http://{ADDRESS}:{port}/login?token={token}"


def links_of(home: NodeHome) -> LinkFile:
    """The one-time links of this node's console."""
    path = home.state / "console-links.json"
    return LinkFile(path, time.time, time.monotonic, secrets.token_bytes)


def bearer_path(home: NodeHome) -> Path:
    """The file that a monitor is given ("credentials_file" of Prometheus)."""
    return home.state / "metrics.token"


def bearer_of(home: NodeHome) -> str | None:
    """Its content; None: absent, or too short to be a secret."""
    try:
        token = read_regular(bearer_path(home), 1024).decode("ascii").strip()
    except (Refused, UnicodeDecodeError):
        return None
    return token if len(token) >= 32 else None


def _make_bearer(home: NodeHome) -> None:
    if bearer_of(home) is None:
        token = token_of(secrets.token_bytes(32))
        write_atomic(bearer_path(home), token.encode() + b"\n", mode=0o600)


def _health(facts: Facts) -> Health:
    now = facts.now()
    return Health(now.ready, now.word)


def _told(log: ConsoleLog, error: Exception) -> None:
    """A fault that no page expected: its kind to the log, its trace to the process's own log."""
    import traceback

    log.write("", "fault", type(error).__name__)
    traceback.print_exception(error, file=sys.stderr)


def _bound(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ADDRESS, port))
    except OSError as error:
        listener.close()
        raise OurMistake(
            f"Port {port} of {ADDRESS} is taken.",
            do="Choose another one: [console] port in node.toml.",
        ) from error
    return listener
