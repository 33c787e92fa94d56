"""Where the dashboard listens, and under which names it may be reached."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from server import superlink
from server.home import CoordinatorHome
from shared_model.errors import OurMistake


@dataclass(frozen=True)
class Listening:
    """secure: with the coordinator's own TLS certificate. hosts: values of `Host` that are
    answered, the first is the one to print."""

    host: str
    port: int
    secure: bool
    hosts: tuple[str, ...]

    @property
    def url(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.hosts[0]}"


def is_local(bind: str) -> bool:
    """Whether only this machine reaches it there.

    Raises:
        OurMistake: it is no IP address.
    """
    try:
        return ipaddress.ip_address(bind).is_loopback
    except ValueError as error:
        raise OurMistake(
            f"The dashboard cannot listen at {bind!r}: that is no IP address.",
            do="Run: fedprint-coordinator init --dashboard-bind 127.0.0.1 (or 0.0.0.0, with TLS)",
        ) from error


def listening(home: CoordinatorHome) -> Listening:
    """From coordinator.toml. Never plain HTTP but on loopback.

    Raises:
        OurMistake: the address is none, or there is no certificate for another than loopback.
    """
    config = superlink.load_config(home)
    port, local = config.dashboard_at, is_local(config.dashboard_bind)
    loopback = (f"127.0.0.1:{port}", f"localhost:{port}")
    if local:
        host = config.dashboard_bind
        own = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return Listening(host, port, False, tuple(dict.fromkeys((own, *loopback))))
    if not (home.server_certificate.exists() and home.server_key.exists()):
        raise OurMistake(
            "The dashboard listens on a network with TLS only, and there is no certificate.",
            do=superlink.FIRST,
        )
    name = config.address.rpartition(":")[0]
    names = (f"{name}:{port}", *loopback)
    return Listening(config.dashboard_bind, port, True, tuple(dict.fromkeys(names)))
