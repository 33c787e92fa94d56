"""Real processes for the deployed tests: commands, conditions with a deadline, who is alive."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "NO_COLOR": "1",
    "COLUMNS": "200",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
}


def command(
    *words: str,
    check: bool = True,
    prefix: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """One of our commands, to its end. prefix: words before it (ip netns exec ...)."""
    done = subprocess.run(
        [*prefix, str(BIN / words[0]), *words[1:]],
        env={**ENVIRONMENT, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert not check or done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], object], what: str, deadline_s: float = 400.0) -> None:
    """Poll until the condition holds; fail when the deadline passes."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s:.0f} s: {what}"
        time.sleep(0.05)


def descendants(pid: int) -> set[int]:
    """The process and all below it, by parent links."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found, more = set(), {pid}
    while more:
        found |= more
        more = {child for child, parent in parents.items() if parent in more} - found
    return found


def alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def make_root(root: Path) -> Path:
    """The machine without network: a root key in a folder of its own; its root.json."""
    command("fedprint-coordinator", "root", "init", "--home", str(root / "offline"))
    return root / "offline" / "root.json"


def sign_roster(root: Path, sites: Sequence[str], version: int | None = None) -> Path:
    """Draft, sign, import, approve at each of these sites, with the commands that people type."""
    draft, signed = root / "draft.json", root / "roster.json"
    home = ("--home", str(root / "coordinator"))
    more = () if version is None else ("--version", str(version))
    command("fedprint-coordinator", "roster", "draft", "-o", str(draft), *home, *more)
    offline = ("--home", str(root / "offline"), "--yes")
    command("fedprint-coordinator", "root", "sign", str(draft), "-o", str(signed), *offline)
    command("fedprint-coordinator", "roster", "import", str(signed), *home)
    for site in sites:
        command(
            *("fedprint-node", "roster", "approve", str(signed)),
            *("--home", str(root / site), "--yes"),
        )
    return signed


def allow_runs(home: Path, *, epsilon: float = 50.0, tick_s: float = 0.2) -> None:
    """What the operator of a node edits in policy.toml so that runs need no yes, and go fast."""
    policy = home / "policy.toml"
    text = policy.read_text()
    assert "reply_clock_s = 60.0" in text
    text = text.replace("reply_clock_s = 60.0", f"reply_clock_s = {tick_s}")
    text = text.replace("epsilon_per_run = 3.0", f"epsilon_per_run = {epsilon}")
    text = text.replace("epsilon_lifetime = 8.0", f"epsilon_lifetime = {4.0 * epsilon}")
    yes = f'purposes = ["pretrain"]\nmodes = ["local"]\nepsilon_per_run = {epsilon}\n'
    policy.write_text(f"{text}\n[approve_runs_in_advance]\n{yes}")
    settings = home / "node.toml"  # several nodes on one machine: any free port for their consoles
    settings.write_text(settings.read_text().replace("port = 8450", "port = 0"))


@dataclass
class Running:
    """A command that runs on, and every process that it was ever seen to have."""

    process: subprocess.Popen[bytes]
    log: Path
    seen: set[int] = field(default_factory=set)

    def look(self) -> set[int]:
        self.seen |= descendants(self.process.pid)
        return self.seen

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def kill_tree(self) -> None:
        """kill -9 of everything at once."""
        for pid in self.look():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(60)

    def end(self, number: signal.Signals = signal.SIGINT, deadline_s: float = 90.0) -> int:
        """Ask it to end; its exit code."""
        self.look()
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(deadline_s)

    def leftovers(self) -> set[int]:
        return {pid for pid in self.seen if alive(pid)}


@contextmanager
def running(
    log: Path,
    *words: str,
    prefix: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """A command in the background; killed with all it started if the test leaves it alive."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [*prefix, str(BIN / words[0]), *words[1:]],
            env={**ENVIRONMENT, **(environment or {})},
            stdout=stream,
            stderr=stream,
        )
    started = Running(process, log)
    try:
        yield started
    finally:
        started.kill_tree()


def fill_store(home: Path, patients: int, seed: int) -> None:
    """A small window store of pretend patients: sums of sines, written as `data add` writes it."""
    import numpy as np

    from client.home import NodeHome
    from client.pseudonyms import keyed_digest, load_or_create_key, pseudonym_of
    from client.store_write import StoreWriter
    from shared_model.config import CHANNELS, FS_HZ, WINDOW_SAMPLES
    from shared_model.windows import Prepared

    place = NodeHome(home)
    key = load_or_create_key(place)
    rng = np.random.default_rng(seed)
    time_s = np.arange(WINDOW_SAMPLES) / FS_HZ
    with StoreWriter(place.store, key) as writer:
        part = writer.new_part("pretend", keyed_digest(key, "folder", "pretend"))
        for patient in range(patients):
            windows = 4
            shape = (windows, len(CHANNELS), WINDOW_SAMPLES)
            rate_hz = rng.uniform(0.8, 2.0, size=(windows, 1, 1))
            signal = np.sin(2 * np.pi * rate_hz * time_s) + 0.2 * rng.standard_normal(shape)
            prepared = Prepared(
                signal=(signal / signal.std(axis=2, keepdims=True)).astype(np.float32),
                recorded=np.ones(shape, dtype=bool),
                start_s=10.0 * np.arange(windows),
                refusal=np.zeros((windows, len(CHANNELS)), dtype=np.uint8),
            )
            part.add(
                keyed_digest(key, "recording", str(patient)),
                pseudonym_of(key, f"patient-{patient}"),
                prepared,
                {},
            )
        part.commit()
