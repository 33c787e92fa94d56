"""Checks of the way to the coordinator. Pure: what `client.doctor_net` saw in, findings out."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from client.doctor_net import Line
from shared_model.findings import Finding, attention, broken, ok

SOON_DAYS = 30.0
_TELEPHONE = "Telephone the operator: fedprint-coordinator registry renew-certificate."


@dataclass(frozen=True)
class Asked:
    """What the registry answered to this node's certificate.

    fault: what was wrong, "" if it answered. ahead_s: our clock minus its; None: it told no time.
    """

    fault: str = ""
    do: str = ""
    version: str | None = None
    ahead_s: float | None = None
    state: str = ""


def check_name(lines: tuple[Line, ...]) -> Finding:
    """The coordinator's host is known: here, or to the proxy."""
    host = lines[0].address.rpartition(":")[0]
    if any(line.proxy for line in lines):
        return ok("dns", f"{host} is looked up by the proxy")
    wrong = [line for line in lines if line.failed == "name"]
    if wrong:
        return broken(
            "dns", f"{host}: {wrong[0].why}", "Ask your network's people; see /etc/resolv.conf."
        )
    return ok("dns", f"{host} is known")


def check_proxy(lines: tuple[Line, ...]) -> Finding:
    """The proxy that HTTPS_PROXY names lets CONNECT through to both ports."""
    used = sorted({line.proxy for line in lines if line.proxy})
    wrong = [line for line in lines if line.failed == "proxy"]
    if wrong:
        return broken(
            "proxy",
            f"{wrong[0].proxy or 'HTTPS_PROXY'} to {wrong[0].address}: {wrong[0].why}",
            "Let CONNECT to this address through, or correct HTTPS_PROXY and NO_PROXY.",
        )
    return ok("proxy", f"CONNECT through {used[0]}" if used else "none is set, or NO_PROXY has it")


def check_port(check: str, line: Line, *, always: bool) -> Finding:
    """TCP to one of the two ports.

    Args:
        always: it should be there at any time. The SuperLink is there only while a run is.
    """
    if line.failed in ("name", "proxy"):
        return broken(check, f"{line.address}: not tried, no way to it", "See dns and proxy.")
    if line.failed == "connect":
        found = f"{line.address}: {line.why}"
        if line.why == "refused" and not always:
            return attention(
                check, found, "The coordinator listens here while a run is on: ask the operator."
            )
        return broken(
            check,
            found,
            "Allow outgoing TCP to it (docs/hospital-it.md, Network); ask if it runs.",
        )
    return ok(check, f"{line.address} is reached")


def check_tls(check: str, line: Line, now: datetime.datetime) -> Finding:
    """The certificate at this port is by the pinned authority, for this name, for a while yet."""
    if line.failed == "certificate":
        pinned = "fedprint coordinator authority"
        if line.issuer and line.issuer != pinned:
            return broken(
                check,
                f"TLS is opened on the way: the certificate is by {line.issuer!r}, "
                "not by the pinned authority",
                f"Exempt {line.address} from TLS inspection. If nobody inspects TLS here: "
                "telephone the operator.",
            )
        return broken(
            check,
            f"does not verify: {line.why}",
            "Telephone the operator: another authority, or a certificate that ended.",
        )
    if line.failed == "handshake":
        return broken(
            check,
            line.why,
            "A firewall that opens TLS, or another service at this port: let it pass unopened.",
        )
    if line.ends is None:
        if line.failed == "health":
            return ok(check, "by the pinned authority")
        return attention(check, "not seen: no connection", "See the lines above.")
    days = (line.ends - now) / datetime.timedelta(days=1)
    found = f"by the pinned authority, {days:.0f} days left"
    return attention(check, found, _TELEPHONE) if days < SOON_DAYS else ok(check, found)


def check_asked(asked: Asked | None) -> Finding:
    """The registry knows this node; None: this node joined by files."""
    if asked is None:
        return ok("registry health", "this node has joined by files, without the registry")
    if asked.fault:
        return broken("registry health", asked.fault, asked.do)
    if asked.state == "waiting":
        return attention(
            "registry health",
            "answers; this hospital waits to be admitted",
            "Telephone the operator and read your key's words: fedprint-node registry status",
        )
    return ok("registry health", f"answers; this hospital is {asked.state}")


def clock_of(lines: tuple[Line, ...], asked: Asked | None) -> float | None:
    """Our clock minus the coordinator's, by whichever told it over verified TLS."""
    told = [line.ahead_s for line in lines] + [asked.ahead_s if asked else None]
    known = [value for value in told if value is not None]
    return min(known, key=abs) if known else None
