"""Facts of this machine, for `shared_model.machine_checks`. Reads only; no network, no clock."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import psutil

from shared_model.machine_checks import Rights

_SYSTEMD = Path("/run/systemd/system")
_PROPERTIES = "LoadState,ActiveState,NoNewPrivileges,ProtectSystem,PrivateTmp"
_ASK_S = 3.0


def free_bytes(path: Path) -> int:
    """Free on the disk of this path, or of the nearest folder above that exists."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def memory() -> tuple[int, int]:
    """Bytes in all, and available now."""
    found = psutil.virtual_memory()
    return int(found.total), int(found.available)


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def torch_facts() -> tuple[str | None, int, tuple[str, ...]]:
    """Version (None: it cannot be imported), threads, names of GPUs."""
    try:
        import torch
    except (ImportError, OSError):
        return None, 0, ()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = tuple(str(torch.cuda.get_device_name(place)) for place in range(count))
    return str(torch.__version__), torch.get_num_threads(), names


def version_of(package: str) -> str | None:
    """What is installed; None if nothing is."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def rights_of(root: Path, below: Iterable[Path]) -> tuple[Rights, ...]:
    """Mode and owner of a folder and of what of `below` exists; links are not followed."""
    found = []
    for path in (root, *below):
        try:
            seen = path.lstat()
        except FileNotFoundError:
            continue
        name = str(path.relative_to(root)) if path != root else str(root)
        found.append(Rights(name, stat.S_IMODE(seen.st_mode), seen.st_uid))
    return tuple(found)


def environments(processes: Mapping[str, int]) -> dict[str, Mapping[str, str] | None]:
    """The environment that each of these running processes was started with, by name."""
    found: dict[str, Mapping[str, str] | None] = {}
    for name, pid in processes.items():
        try:
            found[name] = psutil.Process(pid).environ()
        except psutil.NoSuchProcess:
            continue
        except psutil.Error:
            found[name] = None
    return found


def booted_by_systemd() -> bool:
    return _SYSTEMD.is_dir()


def unit(name: str) -> Mapping[str, str] | None:
    """Properties of a systemd unit; None if systemd cannot be asked."""
    return _asked(("systemctl", "show", name, f"--property={_PROPERTIES}"))


def _asked(words: Sequence[str]) -> Mapping[str, str] | None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_ASK_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    pairs = (line.partition("=") for line in done.stdout.splitlines())
    return {name: value for name, _, value in pairs}
