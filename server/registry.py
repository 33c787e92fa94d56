"""The registry on the network: gRPC with mutual TLS around `registry_desk`, which decides.

    serve(home, limits, on_start=...)     until SIGTERM or SIGINT

Every call must come over a connection whose client certificate the coordinator's authority issued.
Replies that refuse carry a status code and one word, never a sentence (ADR 0016).
"""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import logging.handlers
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from cryptography import x509

from server import registry_releases, superlink
from server.home import CoordinatorHome
from server.registry_book import RegistryBook, moment
from server.registry_desk import Desk, told
from server.registry_enrolment import fingerprint_of
from server.registry_limits import RegistryLimits, RequestRate
from shared_model.errors import OurMistake, Refused
from shared_model.locks import is_locked, locked
from shared_model.registry import MAX_MESSAGE_BYTES, SERVICE, TIME_METADATA
from shared_model.registry_reasons import refusal

GRACE_S = 3.0
LOG_BYTES = 5 * 2**20
LOG_FILES = 5
HANDSHAKE_S = 20.0
METADATA_BYTES = 8192
STREAMS_A_CONNECTION = 8

_CODES = {
    "malformed": grpc.StatusCode.INVALID_ARGUMENT,
    "signature": grpc.StatusCode.INVALID_ARGUMENT,
    "unknown-certificate": grpc.StatusCode.UNAUTHENTICATED,
    "revoked": grpc.StatusCode.UNAUTHENTICATED,
    "expired": grpc.StatusCode.UNAUTHENTICATED,
    "token-only": grpc.StatusCode.PERMISSION_DENIED,
    "no-token": grpc.StatusCode.PERMISSION_DENIED,
    "other-site": grpc.StatusCode.PERMISSION_DENIED,
    "not-admitted": grpc.StatusCode.PERMISSION_DENIED,
    "no-roster": grpc.StatusCode.NOT_FOUND,
    "no-epoch": grpc.StatusCode.NOT_FOUND,
    "no-release": grpc.StatusCode.NOT_FOUND,
    "no-mail": grpc.StatusCode.NOT_FOUND,
    "no-receiver": grpc.StatusCode.NOT_FOUND,
    "offset": grpc.StatusCode.OUT_OF_RANGE,
    "rate": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "quota": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "mailbox-full": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "stalled": grpc.StatusCode.DEADLINE_EXCEEDED,
    "internal": grpc.StatusCode.INTERNAL,
}
"""All other reasons: FAILED_PRECONDITION."""


class Registry:
    """The gRPC server of one home. `await start()`, then `await stop()`."""

    def __init__(
        self,
        home: CoordinatorHome,
        book: RegistryBook,
        limits: RegistryLimits,
        log: logging.Logger,
        clock: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        self._home, self._limits, self._log, self._clock = home, limits, log, clock
        self._desk = Desk(home, book, limits, clock)
        self._rate = RequestRate(limits)
        self._in_flight: Counter[str] = Counter()
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_metadata_size", METADATA_BYTES),
                ("grpc.max_concurrent_streams", STREAMS_A_CONNECTION),
                ("grpc.max_connection_age_ms", int(limits.connection_age_s * 1000)),
                ("grpc.max_connection_age_grace_ms", int(limits.call_s * 1000)),
                ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_S * 1000)),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 20_000),
                ("grpc.so_reuseport", 0),
            ),
            maximum_concurrent_rpcs=limits.in_flight_all,
        )
        handlers = {
            name: grpc.stream_stream_rpc_method_handler(self._handler(name))
            for name in (*self._desk.methods, "Fetch")
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),)
        )

    async def start(self, host: str, port: int) -> int:
        """Listen; the port.

        Raises:
            OurMistake: keys are absent, or the port is taken.
        """
        try:
            key, chain, authority = (
                path.read_bytes()
                for path in (
                    self._home.server_key,
                    self._home.server_certificate,
                    self._home.ca_certificate,
                )
            )
        except OSError as error:
            raise OurMistake("The coordinator has no TLS keys.", do=superlink.FIRST) from error
        credentials = grpc.ssl_server_credentials(
            [(key, chain)], root_certificates=authority, require_client_auth=True
        )
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound: int = self._server.add_secure_port(place, credentials)
        except RuntimeError as error:
            raise OurMistake(
                f"The registry cannot listen at {place}.",
                do="Stop what uses the port, or change registry_port in coordinator.toml.",
            ) from error
        await self._server.start()
        return bound

    async def stop(self) -> None:
        """End; open calls have a few seconds."""
        await self._server.stop(GRACE_S)

    def _handler(self, method: str) -> Callable[[object, Any], Any]:
        """One call, from its headers to its status.

        On the wire it is what a client's unary call makes. As a "stream" handler it has control
        before the request is here and while the reply goes out: a caller that opens calls and
        sends nothing, or reads nothing, is counted all the time, and cut.
        """

        async def handle(_: object, context: Any) -> None:
            begun = time.monotonic()
            fingerprint = _fingerprint(context)
            outcome = "cut"  # what stands in the log if the caller goes away
            try:
                with self._counted(self._desk.account_of(fingerprint)):
                    await self._answer(method, fingerprint, context)
                outcome = "ok"
            except Refused as error:
                outcome = error.reason
                if outcome in ("internal", "not-ready"):  # ours: the operator learns which
                    self._log.exception(outcome)
            except TimeoutError:
                outcome = "stalled"
            except Exception:  # whatever it is, the caller learns one word
                self._log.exception("internal")
                outcome = "internal"
            finally:
                self._note(method, fingerprint, outcome, begun)
            if outcome != "ok":
                await context.abort(_code(outcome), outcome)

        return handle

    async def _answer(self, method: str, fingerprint: str, context: Any) -> None:
        with told():
            self._desk.listed(fingerprint)  # others do not get to wait
        request = await self._request(context)
        if method == "Fetch":
            await self._stream(fingerprint, request, context)
            return
        if method == "Releases":
            with told():
                self._desk.admit(fingerprint, "admitted")
            await asyncio.to_thread(_prepared, self._home)
        reply = self._desk.answer(method, fingerprint, request)
        if method == "Health":  # beside the message, where older peers do not look
            await context.send_initial_metadata(((TIME_METADATA, moment(self._clock())),))
        async with asyncio.timeout(self._limits.stall_s):
            await context.write(reply)

    async def _request(self, context: Any) -> bytes:
        """The one message of a call.

        Raises:
            TimeoutError: it does not come in time.
            Refused: there is none (reason "malformed").
        """
        async with asyncio.timeout(self._limits.call_s):
            request = await context.read()
        if not isinstance(request, bytes):
            raise refusal("malformed")
        return request

    async def _stream(self, fingerprint: str, request: bytes, context: Any) -> None:
        stretch = self._desk.stretch(fingerprint, request)
        left = stretch.size_bytes - stretch.offset
        try:
            async with asyncio.timeout(self._limits.stream_s):
                with stretch.path.open("rb") as stream:
                    stream.seek(stretch.offset)
                    while piece := stream.read(self._limits.piece_bytes):
                        with told():
                            self._desk.admit(fingerprint, "admitted")  # revoked meanwhile?
                        left -= len(piece)
                        async with asyncio.timeout(self._limits.stall_s):
                            await context.write(piece)
        finally:
            if left > 0:  # else a line that is cut often costs a hospital its day
                self._desk.not_sent(stretch, left)

    @contextmanager
    def _counted(self, account: str) -> Iterator[None]:
        """Within the caller's rate, and not too many at once."""
        if not self._rate.take(account, time.monotonic()):
            raise refusal("rate")
        if self._in_flight[account] >= self._limits.in_flight:
            raise refusal("rate")
        self._in_flight[account] += 1
        try:
            yield
        finally:
            self._in_flight[account] -= 1
            if self._in_flight[account] <= 0:
                del self._in_flight[account]

    def _note(self, method: str, fingerprint: str, outcome: str, begun: float) -> None:
        entry = {
            "method": method,
            "site": self._desk.name_of(fingerprint),
            "certificate": fingerprint[:16],
            "outcome": outcome,
            "ms": round(1000 * (time.monotonic() - begun)),
        }
        self._log.info(json.dumps(entry))


def _prepared(home: CoordinatorHome) -> None:
    with told():
        registry_releases.prepare(home)


def _fingerprint(context: Any) -> str:
    """SHA-256 of the certificate that TLS has verified."""
    pem = context.auth_context()["x509_pem_cert"][0]
    return fingerprint_of(x509.load_pem_x509_certificate(pem))


def _code(reason: str) -> grpc.StatusCode:
    return _CODES.get(reason, grpc.StatusCode.FAILED_PRECONDITION)


@contextmanager
def only_one(home: CoordinatorHome) -> Iterator[None]:
    """Hold the registry's lock; the kernel lets go of it when this process ends.

    Raises:
        OurMistake: another registry runs in this home.
    """
    home.make()
    busy = OurMistake(
        f"A registry is running in {home.root}.", do="Stop it first, or choose --home."
    )
    with locked(home.registry_lock, busy):
        yield


def is_running(home: CoordinatorHome) -> bool:
    """Whether a registry runs in this home now."""
    return is_locked(home.registry_lock)


def serve(
    home: CoordinatorHome,
    on_start: Callable[[int], None],
    limits: RegistryLimits | None = None,
) -> None:
    """Run the registry until SIGTERM or SIGINT; `on_start` is told the port.

    Raises:
        OurMistake: not set up, running already, or the port is taken.
        Refused: the folder was restored, and nobody has said so (reason "restored").
    """
    config = superlink.load_config(home)
    superlink.refuse_restored(home)
    with only_one(home), RegistryBook(home) as book, _log(home) as log:
        asyncio.run(
            _serve(
                lambda: Registry(home, book, limits or RegistryLimits(), log),
                config.bind,
                config.registry_at,
                on_start,
            )
        )


async def _serve(
    make: Callable[[], Registry], host: str, port: int, on_start: Callable[[int], None]
) -> None:
    server = make()  # inside the loop: gRPC binds to the running one
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, ended.set)
    bound = await server.start(host, port)
    on_start(bound)
    await ended.wait()
    await server.stop()


@contextmanager
def _log(home: CoordinatorHome) -> Iterator[logging.Logger]:
    """logs/registry.log: one JSON object a call, without anything that the caller wrote."""
    home.logs.mkdir(parents=True, exist_ok=True, mode=0o700)
    handler = logging.handlers.RotatingFileHandler(
        home.logs / "registry.log", maxBytes=LOG_BYTES, backupCount=LOG_FILES
    )
    handler.setFormatter(_JsonLines())
    log = logging.Logger("fedprint.registry", logging.INFO)  # its own, of no hierarchy
    log.addHandler(handler)
    try:
        yield log
    finally:
        handler.close()


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {"time": at.isoformat(timespec="milliseconds")}
        if record.exc_info:
            return json.dumps({**line, "fault": self.formatException(record.exc_info)})
        return json.dumps({**line, **json.loads(record.getMessage())})
