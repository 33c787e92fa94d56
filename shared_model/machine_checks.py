"""Checks of one machine that node and coordinator share. Pure: facts in, a `Finding` out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared_model.findings import Finding, attention, broken, ok, printable

GIB = 2**30
CLOCK_BROKEN_S = 240.0
"""Flower's node authentication ends at 300 s."""
CLOCK_ATTENTION_S = 30.0
FLOWER = ((1, 41), (1, 43))
TORCH_AT_LEAST = (2, 6)
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


def check_clock(ahead_s: float | None, zone: str, hours: str | None) -> Finding:
    """This machine's clock against the coordinator's, which is known to about a second.

    Args:
        ahead_s: this clock minus the coordinator's; None: the coordinator told no time.
        zone: name of the local time zone. hours: `[training] hours`, in that zone; None: all day.
    """
    where = f"time zone {zone}" + (f"; hours {hours} are meant in it" if hours else "")
    if ahead_s is None:
        return attention(
            "clock",
            f"the coordinator told no time; {where}",
            "Look again when the coordinator can be reached; keep NTP on.",
        )
    far = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the coordinator; {where}"
    if abs(ahead_s) > CLOCK_BROKEN_S:
        return broken("clock", far, "Set this machine's clock (NTP): logins fail beyond 300 s.")
    if abs(ahead_s) > CLOCK_ATTENTION_S:
        return attention("clock", far, "Synchronise this machine's clock (NTP).")
    if hours and zone in ("UTC", "Etc/UTC"):
        return attention(
            "clock", far, "If your local time is another: timedatectl set-timezone, or TZ."
        )
    return ok("clock", far)


def check_disk(check: str, free_bytes: int, *, enough: int, least: int) -> Finding:
    """Room for what a round writes.

    Args:
        enough, least: bytes under which it needs attention, or is broken.
    """
    found = f"{free_bytes / GIB:.1f} GiB free"
    if free_bytes < least:
        return broken(check, found, f"Free {least / GIB:.0f} GiB at least: answers are kept on it.")
    if free_bytes < enough:
        return attention(check, found, f"Keep {enough / GIB:.0f} GiB free.")
    return ok(check, found)


def check_memory(total: int, available: int, limit_gb: float = 0.0) -> Finding:
    """Room for training. limit_gb: `[training] memory_gb`; 0: none."""
    found = f"{available / GIB:.1f} of {total / GIB:.1f} GiB available"
    if available < 1.5 * GIB:
        return broken("memory", found, "Stop what uses it, or give this machine 4 GiB or more.")
    if limit_gb * GIB > total:
        return attention(
            "memory",
            f"{found}; memory_gb is {limit_gb:g}",
            "Lower memory_gb in node.toml: this machine has less.",
        )
    if available < 4 * GIB:
        return attention(
            "memory", found, "Give this machine more, or train preset tiny only: under 4 GiB."
        )
    return ok("memory", found)


def check_torch(version: str | None, threads: int, cpus: int, cores: int = 0) -> Finding:
    """Args:
    version: None: it cannot be imported. threads: what it would use. cores: `[training] cores`.
    """
    if version is None:
        return broken(
            "torch", "cannot be imported", "Install fedprint again (docs/hospital-it.md)."
        )
    found = f"version {version}, {threads} threads, {cpus} CPUs for this process"
    if _numbers(version) < TORCH_AT_LEAST:
        return broken("torch", found, "Install torch 2.6 or newer.")
    if cores > cpus:
        return attention("torch", found, f"cores in node.toml is {cores}: lower it to {cpus}.")
    return ok("torch", found)


def check_gpu(devices: Sequence[str], gpus: int = 0) -> Finding:
    """Args:
    devices: what torch sees. gpus: `[training] gpus`; training never takes another number.
    """
    if gpus > len(devices):
        return broken(
            "gpu",
            f"gpus in node.toml is {gpus}, and torch sees {len(devices)}",
            "Lower gpus, or see docs/hospital-it.md, GPUs.",
        )
    if gpus:
        return ok("gpu", f"training uses {gpus} of {len(devices)}")
    return ok("gpu", f"{len(devices)} seen, not used" if devices else "none; none is needed")


def check_flower(version: str | None) -> Finding:
    """Flower within the range that this version was tested with."""
    low, high = FLOWER
    wanted = f"{low[0]}.{low[1]} or {high[0]}.{high[1] - 1}"
    if version is None or not low <= _numbers(version) < high:
        return broken(
            "flower",
            "not installed" if version is None else f"version {version}",
            f"Install Flower {wanted}: pip install -c constraints.txt fedprint",
        )
    return ok("flower", f"version {version}")


def check_telemetry(environments: Mapping[str, Mapping[str, str] | None]) -> Finding:
    """Args:
    environments: of each process of ours that runs, by name; None: it cannot be read.
    """
    wrong = [
        name
        for name, values in environments.items()
        if values is not None and any(values.get(k) != v for k, v in QUIET.items())
    ]
    if wrong:
        return broken(
            "telemetry",
            f"on in: {', '.join(sorted(wrong))}",
            "Start it with fedprint's own commands only.",
        )
    unread = sorted(name for name, values in environments.items() if values is None)
    if unread:
        return attention(
            "telemetry", f"cannot be read of: {', '.join(unread)}", "Run doctor as its user."
        )
    return ok("telemetry", f"off in {len(environments)} processes")


@dataclass(frozen=True)
class Rights:
    """One path: permission bits and owner."""

    name: str
    mode: int
    uid: int


def check_rights(root: str, found: Sequence[Rights], uid: int) -> Finding:
    """Folders 0700, keys 0600, one owner.

    Args:
        found: the home first, then folders and files that hold secrets. uid: who looks.
    """
    open_ = [item.name for item in found if item.mode & 0o077]
    if open_:
        return broken(
            "rights",
            f"others may read: {', '.join(open_[:5])}",
            f"Run: chmod -R go-rwx {root}",
        )
    owner = found[0].uid
    others = [item.name for item in found if item.uid != owner]
    if others:
        return broken(
            "rights",
            f"another owner than the folder's: {', '.join(others[:5])}",
            f"Run: chown -R {owner} {root}",
        )
    if uid != owner:
        return attention(
            "rights",
            f"the folder belongs to user {owner}, doctor runs as {uid}",
            "Run all commands as the node's user: sudo -u fedprint fedprint-node doctor",
        )
    return ok("rights", "one owner; nobody else may read")


def check_days(check: str, days: float | None, *, soon: float, do: str) -> Finding:
    """A certificate's or a roster's days left; None: there is none."""
    if days is None:
        return broken(check, "there is none", do)
    if days < 0:
        return broken(check, f"ended {-days:.0f} days ago", do)
    found = f"{days:.0f} days left"
    return attention(check, found, do) if days < soon else ok(check, found)


def check_versions(ours: str, theirs: str | None) -> Finding:
    """fedprint here and at the coordinator. Two neighbouring minor versions talk."""
    if theirs is None:
        return attention(
            "version", f"{ours} here; the coordinator told none", "Look again when it is reached."
        )
    a, b = _numbers(ours), _numbers(theirs)
    found = f"{ours} here, {printable(theirs)} at the coordinator"
    if len(a) < 2 or len(b) < 2 or a[0] != b[0] or abs(a[1] - b[1]) > 1:
        return broken("version", found, "Upgrade the older one first: docs/upgrade.md")
    if a[:2] != b[:2]:
        return attention("version", found, "They talk; upgrade the older one: docs/upgrade.md")
    return ok("version", found)


def check_unit(check: str, booted: bool, shown: Mapping[str, str] | None) -> Finding:
    """The systemd unit.

    Args:
        booted: systemd runs this machine. shown: properties of the unit; None: it cannot be asked.
    """
    if not booted:
        return ok(check, "this machine is not run by systemd")
    if shown is None or shown.get("LoadState") != "loaded":
        return attention(
            check, "no unit of fedprint", "Make one: fedprint-node systemd -o (docs/hospital-it.md)"
        )
    wanted = {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "PrivateTmp": "yes"}
    weak = sorted(name for name, value in wanted.items() if shown.get(name) != value)
    if weak:
        return attention(
            check,
            f"the unit lacks: {', '.join(weak)}",
            "Take the unit that this version prints: fedprint-node systemd",
        )
    return ok(check, f"hardened, {shown.get('ActiveState', 'unknown')}")


def _numbers(version: str) -> tuple[int, ...]:
    """The first two numbers of a version; () if it begins with none."""
    found = re.match(r"(\d{1,6})\.(\d{1,6})", version)
    return (int(found[1]), int(found[2])) if found else ()
