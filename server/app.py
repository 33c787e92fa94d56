"""Flower at the coordinator: wiring only.

Two entries, each of a process of its own (see `server/superlink.py`; `server/run_process.py` is the
process that executes `app`):

- `app`: the ServerApp; puts Flower's Grid under `server.coordinate`.
- `serve_superlink`: Flower's SuperLink behind a guard. In Flower, hospitals, operator and apps use
  one port, and without a paid plug-in nothing stops a stranger who reaches it from submitting code
  to the coordinator or enrolling a node. Behind the guard the network sees the nodes' interface
  only; the operator's needs a secret of this start, the apps' is for loopback. It runs with
  `--isolation process` and never starts code from a bundle; ours holds no code at all.
"""

from __future__ import annotations

import hmac
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from server import sites
from server.grid import GridTransport, by_node_key
from server.home import CoordinatorHome
from server.presence import Watched
from server.transport import Transport
from shared_model import bundle
from shared_model.signing import load_key_file

if TYPE_CHECKING:
    from server.checkpoints import RunRecord
    from server.coordinate import Progress

RUN = bundle.RUN
TTL_S = 7 * 86_400.0
"""How long Flower keeps a message; rounds have deadlines of their own."""
RESUME = "FEDPRINT_RESUME_PAUSED"
"""Environment variable of the run's process: the operator wants a paused run to go on."""
OPERATOR_HEADER = "x-fedprint-operator"
_START_RUN = "/v1/control/start-run"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run, or continue, the training run that the configuration names."""
    conduct(grid, context)


def conduct(grid: Grid, context: Context, *, non_private_for_tests: bool = False) -> None:
    """The run over Flower's grid. non_private_for_tests: simulations only."""
    home = CoordinatorHome.find()
    run = str(context.run_config[RUN])
    keys = {card.supernode_bytes: card.site for card in sites.roster(home)}
    transport = GridTransport(grid, by_node_key(keys), ttl_s=TTL_S)
    record = carry_out(
        Watched(transport, home.run_folder(run), time.monotonic, time.time),
        home,
        run,
        on_progress=lambda step: announce({"event": "progress", **asdict(step)}),
        resume_paused=os.environ.get(RESUME) == "1",
        non_private_for_tests=non_private_for_tests,
    )
    announce({"event": "ended", "state": record.state, "pause": record.pause})


def carry_out(
    transport: Transport,
    home: CoordinatorHome,
    run: str,
    *,
    on_progress: Callable[[Progress], None],
    resume_paused: bool = False,
    non_private_for_tests: bool = False,
) -> RunRecord:
    """The run of this name in this home over this transport; what every engine does.

    A roster that the operator imports meanwhile is taken up between two rounds.
    """
    from server import coordinate
    from server.checkpoints import RunFolder
    from server.epochs import EpochBook
    from server.ledgers import LedgerArchive

    return coordinate.run(
        transport,
        RunFolder(home.run_folder(run)),
        load_key_file(home.run_key),
        EpochBook(home.root / "epochs.json"),
        LedgerArchive(home.ledgers),
        roster=lambda: home.roster.read_bytes() if home.roster.exists() else None,
        on_progress=on_progress,
        resume_paused=resume_paused,
        non_private_for_tests=non_private_for_tests,
    )


def announce(event: dict[str, object]) -> None:
    """One line of JSON on standard output: what the supervising process shows."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


# ---------------------------------------------------------------- SuperLink, guarded


class Guard:
    """Outermost layer of the SuperLink: an allow-list of paths by who asks.

    Nodes wait (503, which they try again) until the operator has enrolled the roster and submitted
    the run: a node that came too early would be told that it is unknown, and give up.
    """

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self.app = app
        self.secret = secret.encode()
        self.opened = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        status = self.judge(scope) if scope["type"] == "http" else 200
        if status != 200:
            await Response(status_code=status)(scope, receive, send)
            return
        await self.app(scope, receive, send)
        if scope.get("path") == _START_RUN:
            self.opened = True

    def judge(self, scope: Scope) -> int:
        """200 to pass the request on, else the status to answer with."""
        path = scope["path"]
        if path == "/health":
            return 200
        if path.startswith("/v1/fleet/"):
            return 200 if self.opened else 503
        if path.startswith("/v1/runtime/"):
            client = scope.get("client")
            return 200 if client is not None and client[0] in ("127.0.0.1", "::1") else 404
        if path.startswith("/v1/control/"):
            given = dict(scope["headers"]).get(OPERATOR_HEADER.encode(), b"")
            return 200 if hmac.compare_digest(given, self.secret) else 404
        return 404


def serve_superlink(arguments: list[str]) -> None:
    """Entry of the SuperLink process: OPERATOR_SECRET_FILE, then Flower's own arguments."""
    from flwr.superlink import extensions
    from flwr.superlink.cli import flower_superlink

    from server import fleet

    fleet.install(kept_s=TTL_S)
    secret = Path(arguments[0]).read_bytes().hex()
    extensions.get_middleware = lambda: (Middleware(Guard, secret=secret),)
    sys.argv = ["flower-superlink", *arguments[1:]]
    flower_superlink()
