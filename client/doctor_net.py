"""How far a line to the coordinator comes: name, proxy, TCP, TLS, its clock. Always in a deadline.

    line = look("fedprint.example.org:8443", authority_pem, health=True)

A certificate that does not verify is read once more, unverified, only to name its issuer: nothing
is sent on that connection and nothing that it says is believed.
"""

from __future__ import annotations

import base64
import datetime
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal, TypeVar
from urllib import parse, request

from cryptography import x509
from cryptography.x509.oid import NameOID

from shared_model.enrolment import check_address
from shared_model.findings import printable

LINE_S = 8.0
"""All steps of one line together."""
_HEAD_BYTES = 16 * 1024

Step = Literal["name", "proxy", "connect", "handshake", "certificate", "health", "done"]
"""What failed; "done": nothing. "certificate": another authority's, or for another name."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Line:
    """What was seen on the way.

    proxy: HOST:PORT without name and password; "": none. issuer: of a certificate that does not
    verify; printable. ends: of the certificate that does. ahead_s: our clock minus the peer's.
    """

    address: str
    failed: Step
    proxy: str = ""
    why: str = ""
    issuer: str = ""
    ends: datetime.datetime | None = None
    ahead_s: float | None = None


class _StepFailed(Exception):
    def __init__(self, step: Step, why: str, issuer: str = "") -> None:
        super().__init__(why)
        self.step, self.why, self.issuer = step, why, issuer


@dataclass(frozen=True)
class Proxy:
    """The proxy that HTTPS_PROXY names for an address."""

    host: str
    port: int
    authorization: str = ""

    def __repr__(self) -> str:
        return f"Proxy({self.host}:{self.port})"  # never the password


def proxy_for(host: str) -> Proxy | None:
    """The proxy to this host, as all parts of fedprint choose it: HTTPS_PROXY less NO_PROXY.

    Raises:
        ValueError: HTTPS_PROXY is no http://HOST:PORT.
    """
    url = request.getproxies_environment().get("https")
    if not url or request.proxy_bypass(host):
        return None
    parts = parse.urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError("HTTPS_PROXY is not http://HOST:PORT")
    secret = ""
    if parts.username is not None:
        pair = f"{parse.unquote(parts.username)}:{parse.unquote(parts.password or '')}"
        secret = "Basic " + base64.b64encode(pair.encode()).decode()
    return Proxy(parts.hostname, parts.port or 80, secret)


def look(address: str, authority: str, *, health: bool = False, limit_s: float = LINE_S) -> Line:
    """Go to this address as far as possible.

    Args:
        authority: PEM of the pinned authority. health: also ask GET /health for the time.
    """
    host, port = check_address(address)
    end = time.monotonic() + limit_s
    try:
        proxy = proxy_for(host)
    except ValueError as error:
        return Line(address, "proxy", why=str(error))
    through = f"{proxy.host}:{proxy.port}" if proxy else ""
    try:
        with _connected(host, port, proxy, end) as plain:
            ends, ahead = _spoken(plain, host, authority, health, end)
    except _StepFailed as error:
        issuer = error.issuer
        if error.step == "certificate":
            with suppress(_StepFailed), _connected(host, port, proxy, end) as plain:
                issuer = _issuer(plain, host, end)
        return Line(address, error.step, through, error.why, issuer)
    return Line(address, "done", through, ends=ends, ahead_s=ahead)


def within(limit_s: float, work: Callable[[], _T]) -> _T:
    """The result of work that knows no deadline, such as looking a name up.

    Raises:
        TimeoutError: it is not done in time; its thread is left behind.
        what `work` raises.
    """
    done: list[_T] = []
    failed: list[BaseException] = []

    def body() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(max(0.0, limit_s))
    if failed:
        raise failed[0]
    if not done:
        raise TimeoutError
    return done[0]


def _connected(host: str, port: int, proxy: Proxy | None, end: float) -> socket.socket:
    to = (proxy.host, proxy.port) if proxy else (host, port)
    try:
        found = within(_left(end), lambda: socket.getaddrinfo(*to, type=socket.SOCK_STREAM))
    except (OSError, TimeoutError) as error:
        step: Step = "proxy" if proxy else "name"
        raise _StepFailed(step, f"the name {printable(to[0])} is not known here") from error
    plain = _opened(found[0][0], found[0][4], end, "proxy" if proxy else "connect")
    if proxy is None:
        return plain
    try:
        _tunnel(plain, host, port, proxy, end)
    except BaseException:
        plain.close()
        raise
    return plain


def _opened(
    family: int, to: tuple[str | bytes | int, ...], end: float, step: Step
) -> socket.socket:
    plain = socket.socket(family, socket.SOCK_STREAM)
    try:
        plain.settimeout(_left(end))
        plain.connect(to)
    except OSError as error:
        plain.close()
        refused = isinstance(error, ConnectionRefusedError)
        raise _StepFailed(step, "refused" if refused else "no answer") from error
    return plain


def _tunnel(plain: socket.socket, host: str, port: int, proxy: Proxy, end: float) -> None:
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {name} HTTP/1.1", f"Host: {name}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    try:
        plain.settimeout(_left(end))
        plain.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = _head(plain, end)
    except OSError as error:
        raise _StepFailed("proxy", "it does not answer CONNECT") from error
    words = head.split(b"\r\n", 1)[0].split()
    status = words[1].decode("ascii", "replace") if len(words) > 1 else ""
    if status != "200":
        raise _StepFailed("proxy", f"it answers CONNECT with {printable(status, 8) or 'nothing'}")


def _spoken(
    plain: socket.socket, host: str, authority: str, health: bool, end: float
) -> tuple[datetime.datetime, float | None]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority)
    try:
        plain.settimeout(_left(end))
        with context.wrap_socket(plain, server_hostname=host) as secured:
            leaf = secured.getpeercert(binary_form=True) or b""
            ends = x509.load_der_x509_certificate(leaf).not_valid_after_utc
            return ends, _ahead(secured, host, end) if health else None
    except ssl.SSLCertVerificationError as error:
        raise _StepFailed("certificate", printable(error.verify_message)) from error
    except _StepFailed:
        raise
    except Exception as error:  # an odd certificate is no ValueError everywhere
        raise _StepFailed("handshake", "it ends the TLS handshake") from error


def _ahead(secured: ssl.SSLSocket, host: str, end: float) -> float:
    """Our clock minus that of the answer to GET /health, to about a second."""
    try:
        secured.settimeout(_left(end))
        secured.sendall(
            f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        head = _head(secured, end)
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"date":
                told = parsedate_to_datetime(value.decode("ascii").strip())
                return time.time() - told.timestamp() - 0.5  # it is cut to whole seconds
    except _StepFailed:
        raise
    except Exception as error:  # a peer chose the date: OverflowError, for one
        raise _StepFailed("health", "it does not answer GET /health") from error
    raise _StepFailed("health", "its answer tells no time")


def _issuer(plain: socket.socket, host: str, end: float) -> str:
    """Who issued the certificate that does not verify; "" if it cannot be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        plain.settimeout(_left(end))
        with context.wrap_socket(plain, server_hostname=host) as secured:
            leaf = secured.getpeercert(binary_form=True) or b""
        issuer = x509.load_der_x509_certificate(leaf).issuer
        names = [
            *issuer.get_attributes_for_oid(NameOID.COMMON_NAME),
            *issuer.get_attributes_for_oid(NameOID.ORGANIZATION_NAME),
        ]
    except Exception:  # whoever is in between chose what is read here
        return ""
    return printable(str(names[0].value)) if names else "without a name"


def _head(stream: socket.socket, end: float) -> bytes:
    """The first bytes of an answer, up to its empty line; OSError if there is none in time."""
    data = b""
    while b"\r\n\r\n" not in data and len(data) < _HEAD_BYTES:
        stream.settimeout(_left(end))
        piece = stream.recv(4096)
        if not piece:
            break
        data += piece
    return data


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise _StepFailed("connect", "no answer in time")
    return left


def port_is_free(port: int) -> bool:
    """Whether something could listen at 127.0.0.1:port now; 0: any free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
