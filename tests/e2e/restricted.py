"""Runs a command as the unit client/systemd/fedprint-node.service would, without systemd as PID 1.

    unshare --mount --ipc --propagation private python restricted.py UNIT HOME KEEP... -- COMMAND...

As root, in a mount namespace of its own: everything read-only but HOME; /tmp, /var/tmp and home
folders empty (but KEEP, read-only); six devices; /proc/sys read-only. Then user nobody, no
capabilities, no new privileges, and a seccomp filter made of what systemd itself says that
@system-service is. What a test that uses it does not try is written there.
"""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
from pathlib import Path

NOBODY = 65534
EMPTIED = ("/root", "/home", "/tmp", "/var/tmp")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
ALLOW = 0x7FFF0000
EPERM, ENOSYS = 0x00050001, 0x00050026
MASKED_EQ, EQ = 7, 4
READ_WRITE_EXECUTE, WRITE, EXECUTE = 7, 2, 4
NEW_NAMESPACES = 0x7E020000 | 0x00000080  # mnt, cgroup, uts, ipc, user, pid, net, time


class Compare(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def mount(*words: str) -> None:
    subprocess.run(["/usr/bin/mount", *words], check=True)


def build(home: Path, keep: list[Path]) -> None:
    """ProtectSystem=strict, ProtectHome, PrivateTmp, PrivateDevices, ProtectKernelTunables."""
    mount("--bind", str(home), str(home))
    hidden = [place for place in keep if any(place.is_relative_to(one) for one in EMPTIED)]
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/mnt")
    for number, place in enumerate(hidden):  # on a test machine, Python may live in a home folder
        Path(f"/mnt/{number}").mkdir()
        mount("--bind", str(place), f"/mnt/{number}")
    for folder in EMPTIED:
        mode = "1777" if folder.endswith("tmp") else "755"
        mount("-t", "tmpfs", "-o", f"mode={mode}", "tmpfs", folder)
    for number, place in enumerate(hidden):
        place.mkdir(parents=True, exist_ok=True)
        mount("--bind", f"/mnt/{number}", str(place))
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/media")
    for name in DEVICES:
        Path("/media", name).touch()
        mount("--bind", f"/dev/{name}", f"/media/{name}")
    Path("/media/shm").mkdir()
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/media/shm")
    mount("--rbind", "/media", "/dev")
    mount("--bind", "/proc/sys", "/proc/sys")
    writable = (str(home), "/tmp", "/var/tmp", "/dev/shm", "/media/shm")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place = line.split()[4].encode().decode("unicode_escape")
        if place in writable or (place.startswith("/proc") and place != "/proc/sys"):
            continue
        subprocess.run(
            ["/usr/bin/mount", "-o", "remount,bind,ro", place], check=False, capture_output=True
        )


def drop() -> None:
    """User=, CapabilityBoundingSet=, NoNewPrivileges=, UMask=, LimitCORE=."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(64):
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; ends with EINVAL
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    os.umask(0o077)
    if libc.prctl(38, 1, 0, 0, 0) != 0:  # PR_SET_NO_NEW_PRIVS
        raise OSError(ctypes.get_errno(), "no_new_privs")


def listed(name: str) -> set[str]:
    """The system calls of one of systemd's sets, sets in it opened."""
    told = subprocess.run(
        ["systemd-analyze", "syscall-filter", name], check=True, capture_output=True, text=True
    ).stdout
    found: set[str] = set()
    for line in told.splitlines()[1:]:
        word = line.strip()
        if word.startswith("@"):
            found |= listed(word)
        elif word and not word.startswith("#"):
            found.add(word)
    return found


def filter_calls(allowed: set[str], *, writable_code: bool) -> None:
    """SystemCallFilter=, MemoryDenyWriteExecute=, RestrictAddressFamilies=, RestrictNamespaces=."""
    lib = ctypes.CDLL("libseccomp.so.2")
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_init.argtypes = [ctypes.c_uint32]
    lib.seccomp_load.argtypes = [ctypes.c_void_p]
    lib.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(Compare),
    ]
    context = lib.seccomp_init(EPERM)

    def rule(name: str, *compare: tuple[int, int, int, int], action: int = ALLOW) -> None:
        number = lib.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:
            array = (Compare * len(compare))(*(Compare(*one) for one in compare))
            if lib.seccomp_rule_add_array(context, action, number, len(compare), array) != 0:
                raise OSError(f"seccomp rule for {name}")

    conditional = {"socket", "clone", "clone3", "unshare", "setns"}
    if not writable_code:
        conditional |= {"mmap", "mprotect", "pkey_mprotect", "shmat"}
        for value in (0, WRITE, EXECUTE):  # never both
            rule("mmap", (2, MASKED_EQ, WRITE | EXECUTE, value))
        for name in ("mprotect", "pkey_mprotect"):
            rule(name, (2, MASKED_EQ, EXECUTE, 0))
        rule("shmat", (2, MASKED_EQ, 0o100000, 0))
    for name in sorted(allowed - conditional):
        rule(name)
    for family in (1, 2, 10):  # unix, inet, inet6
        rule("socket", (0, EQ, family, 0))
    rule("clone", (0, MASKED_EQ, NEW_NAMESPACES & ~0x80, 0))
    rule("clone3", action=ENOSYS)  # its flags are behind a pointer
    if lib.seccomp_load(context) != 0:
        raise OSError("seccomp filter")


def main() -> None:
    end = sys.argv.index("--")
    unit, home, *keep = (Path(word) for word in sys.argv[1:end])
    writable_code = "MemoryDenyWriteExecute=yes" not in unit.read_text().splitlines()
    command = sys.argv[end + 1 :]
    allowed = listed("@system-service") - listed("@privileged")
    build(home, [*keep, Path(sys.base_prefix), Path(sys.prefix)])
    os.chdir("/")
    drop()
    filter_calls(allowed, writable_code=writable_code)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
