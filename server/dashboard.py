"""The coordinator's dashboard: pages that read, and the server that serves them.

    serve(home)                      until SIGTERM or SIGINT
    app = application(home, ...)     for tests: no network

It has no form but the kit's own (log in, log out, end a session): an operator acts by commands, and
the pages print them (docs/adr/0022).
"""

from __future__ import annotations

import logging
import secrets
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import uvicorn
from jinja2 import PackageLoader
from starlette.types import ASGIApp

from server import dashboard_config, metrics
from server.dashboard_pages import FILTERS, pages
from server.dashboard_reads import Reader
from server.dashboard_view import Overview
from server.home import CoordinatorHome
from server.logs import json_log
from shared_model.errors import OurMistake
from shared_model.signing import write_secret
from shared_model.web.gate import SERVER_OPTIONS, Rules
from shared_model.web.links import LinkFile
from shared_model.web.site import Health, Site, build

LINK_S = 600.0
FRESH_S = 1.0
"""What was read so long ago is shown to who asks next."""
SHORTEST_TOKEN = 32
_MAKE_ANEW = "Remove it and start the dashboard again: a new one is made. Tell it to the monitor."


@dataclass
class Looks:
    """The overview for several threads; read anew when it is older than `FRESH_S`.

    Args:
        clock: seconds, monotonic. wall_clock: seconds since 1970.
    """

    reader: Reader
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    _last: Overview | None = None
    _at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __call__(self) -> Overview:
        """Everything at this moment.

        Raises:
            OurMistake: this home is no coordinator's.
        """
        with self._lock:
            if self._last is None or self.clock() - self._at >= FRESH_S:
                self._last = self.reader.overview(self.wall_clock())
                self._at = self.clock()
            return self._last


def links(home: CoordinatorHome) -> LinkFile:
    """One-time links of this dashboard."""
    path = home.root / "dashboard-links.json"
    return LinkFile(path, time.time, time.monotonic, secrets.token_bytes)


def metrics_token(home: CoordinatorHome) -> str:
    """The bearer token of /metrics; made once.

    Raises:
        OurMistake: the file cannot be read, or holds less than a secret.
    """
    path = home.metrics_token
    try:
        if not path.exists():
            write_secret(path, secrets.token_urlsafe(32).encode())
        token = path.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise OurMistake(f"{path} cannot be read.", do=_MAKE_ANEW) from error
    if len(token) < SHORTEST_TOKEN:
        raise OurMistake(
            f"{path} has {len(token)} characters: a token has at least {SHORTEST_TOKEN}.",
            do=_MAKE_ANEW,
        )
    return token


def health_of(overview: Overview) -> Health:
    """Ready: the registry runs, and what is to be worked on is worked on."""
    if not overview.registry:
        return Health(False, "the registry does not run")
    if any(run.state == "running" for run in overview.runs) and not overview.running:
        return Health(False, "a run is unfinished and nothing works on it")
    return Health(True)


def application(
    home: CoordinatorHome,
    look: Callable[[], Overview],
    log: logging.Logger,
    *,
    monotonic: Callable[[], float] = time.monotonic,
) -> ASGIApp:
    """The ASGI application of one home.

    Raises:
        OurMistake: this home is no coordinator's.
    """
    listens = dashboard_config.listening(home)

    def told(session: str, what: str, more: str) -> None:
        log.info(what, extra={"told": {"session": session, "result": more}})

    def fault(error: Exception) -> None:
        log.error("fault", exc_info=error)

    return build(
        Site(
            name="Coordinator",
            owner=look().address,
            login_words="fedprint-coordinator dashboard link",
            rules=Rules(frozenset(listens.hosts), "fedprint-dashboard", listens.secure),
            pages=pages(look),
            loader=PackageLoader("server", "dashboard_templates"),
            filters=FILTERS,
            links=links(home),
            monotonic=monotonic,
            entropy=secrets.token_bytes,
            health=lambda: health_of(look()),
            metrics=lambda: metrics.exposition(look()),
            bearer=lambda: metrics_token(home),
            audit=told,
            fault=fault,
        )
    )


def configured(home: CoordinatorHome, app: ASGIApp) -> uvicorn.Config:
    """Where and how the application is served: as every page of ours is, with TLS off loopback.

    Raises:
        OurMistake: as `dashboard_config.listening`.
    """
    listens = dashboard_config.listening(home)
    return uvicorn.Config(
        app,
        host=listens.host,
        port=listens.port,
        ssl_certfile=str(home.server_certificate) if listens.secure else None,
        ssl_keyfile=str(home.server_key) if listens.secure else None,
        **SERVER_OPTIONS,
    )


def serve(home: CoordinatorHome) -> None:
    """Serve the dashboard until SIGTERM or SIGINT.

    Raises:
        OurMistake: not set up, or the port is taken.
    """
    listens = dashboard_config.listening(home)
    metrics_token(home)
    with json_log(home.logs / "dashboard.log") as log:
        app = application(home, Looks(Reader(home)), log)
        server = uvicorn.Server(configured(home, app))
        # uvicorn sends itself again what ended it, to whoever listened before: to nobody
        asked = (signal.SIGTERM, signal.SIGINT)
        previous = {one: signal.signal(one, lambda *_: None) for one in asked}
        try:
            server.run()
        except SystemExit as error:  # uvicorn's way to say that it could not bind
            raise OurMistake(
                f"The dashboard cannot listen at {listens.host}:{listens.port}.",
                do="Stop what uses the port, or run: fedprint-coordinator init --dashboard-port",
            ) from error
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
