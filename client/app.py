"""Flower at the hospital: wiring only. Bytes in, `client.round.handle`, bytes out.

Flower would run the bundle that the coordinator sends, ahead of the installed packages. Here it
never does: the SuperNode refuses bundles that the hospital does not list (`client.bundles`), and it
runs with `--isolation process`, which leaves it to the hospital to start whatever executes a
message: `work` below is what it starts. It takes messages from the SuperNode on loopback and gives
them to `app` **of this installed package**. The bundle is neither unpacked nor imported. It also
stays warm: no new process (2 to 4 s with torch) for each message.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from logging import ERROR, INFO
from pathlib import Path
from typing import Any, cast

import httpx
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.logger import log
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from client import bundles, rest, state, unheard
from client.home import NodeHome
from client.pulls import Pulls, TooSlow
from client.reply_clock import ReplyClock, Stopped, is_timed, tick_of
from client.sent import SentLog
from shared_model.errors import FedprintError
from shared_model.memory import give_back
from shared_model.pieces import piece_bytes

RECORD = "fedprint"
HEADER = "header"
BODY = "body"
POLL_S = 0.2
REST_S = 1.0
"""Seconds between two looks whether the node rests."""
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"

_in_hand = threading.Lock()
"""Held while a message is answered, until its reply may leave: one at a time."""
_pulls = Pulls()
_arriving: dict[int, float] = {}
"""Messages that are being pulled, by their thread: since when, seconds since 1970."""

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer one message of the coordinator."""
    from client import round as rounds

    return carry(message, partial(rounds.handle, NodeHome.find()))


def carry(message: Message, handle: Callable[[bytes, bytes], tuple[bytes, bytes]]) -> Message:
    """Bytes out of the message, through `handle`, into its reply. What fails leaves as one word."""
    try:
        header, body = handle(*unpack(message.content))
    except Exception as error:
        log(ERROR, "the message could not be answered: %s", type(error).__name__, exc_info=error)
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "internal"), reply_to=message)
    return Message(pack(header, body), reply_to=message)


def pack(header: bytes, body: bytes) -> RecordDict:
    """Bytes as Flower's records; the body as one raw array, in pieces that its size asks for."""
    records = RecordDict({RECORD: ConfigRecord({HEADER: header})})
    if body:
        array = Array(dtype="uint8", shape=(len(body),), stype="fedprint.raw", data=body)
        size, view = piece_bytes(len(body)), memoryview(body)
        pieces = [ArrayChunk(view[start : start + size]) for start in range(0, len(body), size)]
        array.__dict__["_chunks"] = [(one.object_id, one) for one in pieces]  # see slice_array
        record = ArrayRecord()
        record[BODY] = array  # given to the constructor, it would be copied without its pieces
        records[BODY] = record
    return records


def unpack(records: RecordDict) -> tuple[bytes, bytes]:
    """The reverse of `pack`; whatever is not there is empty."""
    header = records.config_records.get(RECORD, ConfigRecord()).get(HEADER, b"")
    array = records.array_records.get(BODY, ArrayRecord()).get(BODY)
    return header if isinstance(header, bytes) else b"", b"" if array is None else array.data


def serve_supernode(arguments: list[str]) -> None:
    """Entry of the SuperNode process: Flower's own command with these arguments."""
    from flwr.supernode import start_client_internal

    from client import supernode  # before `guard`: it looks at what Flower's functions are

    _loopback_needs_no_proxy()
    bundles.guard(start_client_internal, NodeHome.find())
    supernode.serve(arguments)


def _loopback_needs_no_proxy() -> None:
    """The two processes of a node speak to each other, whatever the proxy for all others is."""
    for name in ("NO_PROXY", "no_proxy"):
        given = os.environ.get(name, "")
        os.environ[name] = ",".join(filter(None, (given, "127.0.0.1", "localhost")))


def work(arguments: list[str], chosen: ClientApp = app) -> None:
    """Entry of the process that executes messages: RUNTIME_ADDRESS SECRET_FILE.

    Args:
        chosen: what answers them; another one in simulations only.
    """
    address, secret_file = arguments
    _loopback_needs_no_proxy()
    client = RuntimeHttpClient.from_server_address(
        address,
        insecure=True,  # loopback only; each call is authenticated by the secret or by a token
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(
                master_secret=Path(secret_file).read_bytes(), protected_methods={_ACQUIRE}
            ),
        ],
        retry_invoker=make_simple_http_retry_invoker(),
    )
    stop = threading.Event()
    clock = ReplyClock(wait=stop.wait)

    def end(*_: object) -> None:
        stop.set()
        if not _in_hand.locked():  # else the message in hand is finished first
            sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Flower's client sends it on an expired task
    home = NodeHome.find()
    state.write_progress(home, None)
    log(INFO, "messages are answered by the installed package only")
    looked_s = -REST_S
    while not stop.is_set():
        if time.monotonic() - looked_s >= REST_S:
            looked_s = time.monotonic()
            if _rests(home) and _in_hand.acquire(blocking=False):  # kept: nothing begins any more
                rest.ask_to_leave(home)
                log(INFO, "the node rests: nothing is in hand")
                return
        answer = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
        if answer.HasField("task") and answer.token:
            # In a thread of its own: the SuperNode also hands out messages that never arrive whole
            # (their run was stopped meanwhile), and waiting for those takes up to two hours.
            threading.Thread(
                target=_answer, args=(address, answer.token, clock, chosen), daemon=True
            ).start()
        else:
            stop.wait(POLL_S)
    with _in_hand:
        return


def _rests(home: NodeHome) -> bool:
    """Whether nothing new begins and nothing that was begun waits for its next trip.

    A message that began to arrive not long ago was sent before: it is waited for.
    """
    if any(abs(time.time() - since_s) < rest.LINGER_S for since_s in list(_arriving.values())):
        return False
    try:
        return rest.why_at_rest(home) != "" and not rest.unfinished(home.outbox, time.time())
    except FedprintError:
        return False  # node.toml is wrong: each message finds that out for itself


def _answer(address: str, token: str, clock: ReplyClock, chosen: ClientApp) -> None:
    """Pull one message, give it to the app, push what comes out when its tick has come."""
    client = RuntimeHttpClient.from_server_address(
        address,
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
            RuntimeTokenHttpInterceptor(token),
        ],
        retry_invoker=make_simple_http_retry_invoker(),
    )

    def alive() -> bool:
        try:
            client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        except httpx.HTTPError:
            return False  # tried again by the sender
        return True

    beat = HeartbeatSender(alive)
    beat.start()
    home = NodeHome.find()
    context: Context | None = None
    status, details = SubStatus.FAILED, "internal"
    try:
        asked_s = _arriving[threading.get_ident()] = time.time()
        with _pulls.message() as one:
            message, context, _, bundle = pull_task_input(_limited(client, one.limited))
            arrived = clock.now()
            with _in_hand, rest.asked(asked_s):
                try:
                    _arriving.pop(threading.get_ident(), None)
                    if clock.wait(0.0):
                        raise Stopped
                    if bundles.admitted(home, b"" if bundle is None else bundle.content):
                        reply = chosen(message, context)  # of this package, not of the bundle
                    else:
                        reply = Message(Error(ErrorCode.INVALID_FAB, "bundle"), reply_to=message)
                    _hold(home, message, clock, arrived)
                    if _rests(home):  # before the answer: see docs/adr/0017
                        rest.ask_to_leave(home)
                    _write_down(home, reply)
                    push_message(client, reply, context)
                    status, details = SubStatus.COMPLETED, ""
                    push_task_output(client, context, status, details)
                finally:
                    state.write_progress(home, None)
    except Stopped:
        log(INFO, "the node is stopped; what it has answered leaves after the next start")
    except TooSlow as error:
        log(ERROR, "%s", error.message)
        push_task_output(client, context, status, details)
    except Exception as error:
        log(ERROR, "a task of the SuperNode failed: %s", type(error).__name__, exc_info=error)
        push_task_output(client, context, status, details)
    finally:
        _arriving.pop(threading.get_ident(), None)
        if beat.is_running:
            beat.stop()
        client.close()
        give_back()


def _limited(client: RuntimeHttpClient, limit: Callable[[Any], Any]) -> RuntimeHttpClient:
    """The client, its pulls under the rules of `client.pulls`."""

    class Limited:
        def __getattr__(self, name: str) -> Any:
            found = getattr(client, name)
            return limit(found) if name == "PullObject" else found

    return cast(RuntimeHttpClient, Limited())


def _write_down(home: NodeHome, reply: Message) -> None:
    """`logs/sent.log` says what is about to leave, before it does."""
    content = (b"", b"") if reply.has_error() else unpack(reply.content)
    SentLog(home).handed_over(reply.object_id, *content)
    unheard.note(home, content[0])


def _hold(home: NodeHome, message: Message, clock: ReplyClock, arrived: float) -> None:
    """Wait until the reply may leave; `Stopped` if the node ends before."""
    if not is_timed(unpack(message.content)[0]):
        return
    from client.round_log import log_to

    tick_s = tick_of(home)
    shown = state.progress(home)
    if shown is not None:
        now_s = time.time()
        leaves_s = now_s + clock.due(arrived, tick_s) - clock.now()
        with suppress(OSError):  # a display: the answer that is there leaves all the same
            state.write_progress(
                home,
                shown.model_copy(
                    update={"stage": "holding", "written_s": now_s, "leaves_s": leaves_s}
                ),
            )
    ticks = clock.hold(arrived, tick_s)
    if ticks > 1:
        log_to(home.logs / "rounds.log")(
            {
                "outcome": "late",
                "ticks": ticks,
                "message": f"A reply took {ticks} ticks of {tick_s:g} s. Raise reply_clock_s in "
                "policy.toml: the number of ticks tells something of the number of patients.",
            }
        )
