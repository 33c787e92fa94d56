"""A deployed round of ours beside a round of Flower's plain FedAvg: real processes on loopback.

Ours: `fedprint-coordinator start` and three `fedprint-node start`, TLS and node keys as in a
hospital, every trip of the secure sum, training with few steps. Flower's: SuperLink and three
SuperNodes with Flower's defaults, without TLS, FedAvg without its evaluation; the sites train
nothing. Both move the arrays of preset `small`. Seconds of a round are from its beginning to the
beginning of the next one; the first round, which waits for the sites, is left out.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import numpy as np
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from client.policy import SHORTEST_REPLY_CLOCK_S
from shared_model.canonical import digest
from shared_model.errors import OurMistake
from shared_model.weights import Weights
from simulations import bench_flower_app

SITES = ("alpha", "beta", "gamma")
PRESET = "small"
PATIENTS = 12
ROUNDS = 8
"""Counted on each side."""
DEADLINE_S = 900.0
BIN = Path(sys.executable).parent
QUIET = {
    "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
    "OMP_NUM_THREADS": "1",
    "NO_COLOR": "1",
    "COLUMNS": "200",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
}
PYPROJECT = """[project]
name = "plain-fedavg"
version = "1.0.0"
description = "Flower's FedAvg as it comes."
license = "Apache-2.0"
dependencies = ["flwr>=1.41,<1.43"]
[tool.flwr.app]
publisher = "fedprint"
[tool.flwr.app.components]
serverapp = "plain_fedavg.app:server"
clientapp = "plain_fedavg.app:client"
[tool.flwr.app.config]
arrays = ""
out = ""
rounds = 1
sites = 1
"""
RUN = """run = "bench"
preset = "{preset}"
rounds = {rounds}
begin_with = "random-weights"
[privacy]
sample_rate = 0.1
noise_multiplier = 2.0
clipping_norm = 1.0
steps = 1
[training]
trainable = "all"
"""


def figures(quick: bool, tell: Callable[[str], None]) -> dict[str, float]:
    """Figures of `fedprint-lab bench round`.

    ratio_vs_flower_fedavg: medians of the seconds of a round. overhead_s: their difference.
    """
    half = 1 if quick else ROUNDS // 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # end what was started
    with tempfile.TemporaryDirectory(prefix="fedprint-bench-") as folder:
        root = Path(folder)
        # Flower before and after ours: a load on the machine that comes or goes meets both
        tell(f"Flower's FedAvg, {half} rounds")
        theirs = flower_rounds(root / "before", half)
        tell(f"a deployed run of ours, {2 * half} rounds")
        ours = our_rounds(root / "ours", 2 * half)
        tell(f"Flower's FedAvg, {half} rounds again")
        theirs += flower_rounds(root / "after", half)
    mine, plain = statistics.median(ours), statistics.median(theirs)
    return {
        "ratio_vs_flower_fedavg": mine / plain,
        "overhead_s": mine - plain,
        "round_s": mine,
        "flower_fedavg_round_s": plain,
        "slowest_round_s": max(ours),
        "flower_slowest_round_s": max(theirs),
        "rounds": float(len(ours)),
        "parameters": float(sum(array.size for array in _arrays().values())),
    }


def flower_rounds(root: Path, rounds: int) -> list[float]:
    """Seconds of each round but the first of Flower's FedAvg."""
    root.mkdir(parents=True)
    out, stored = root / "times.json", root / "arrays.npz"
    np.savez(stored, allow_pickle=False, **_arrays())
    port = free_port()
    address = f"127.0.0.1:{port}"
    home = {"FLWR_HOME": str(root / "home")}
    with ExitStack() as stack:
        link = stack.enter_context(
            running(
                root / "superlink.log",
                ("flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port)),
                home,
            )
        )
        wait_for(lambda: _answers(address), "the SuperLink answers", link)
        for site in SITES:
            words = (
                *("flower-supernode", "--insecure", "--superlink", address),
                *("--host", "127.0.0.1", "--port", str(free_port())),
            )
            stack.enter_context(
                running(root / f"{site}.log", words, {"FLWR_HOME": str(root / site)})
            )
        _submit(address, stored, out, rounds + 1)
        wait_for(out.exists, "Flower's rounds end", link)
    return _between(json.loads(out.read_text()))


def our_rounds(root: Path, rounds: int) -> list[float]:
    """Seconds of each round but the first of a deployed run."""
    from server.checkpoints import RunFolder

    root.mkdir(parents=True)
    _found_consortium(root)
    home = ("--home", str(root / "coordinator"))
    with ExitStack() as stack:
        for site in SITES:
            stack.enter_context(
                running(
                    root / f"{site}.log",
                    ("fedprint-node", "start", "--home", str(root / site)),
                )
            )
        (root / "run.toml").write_text(RUN.format(preset=PRESET, rounds=rounds + 2))
        words = ("--config", str(root / "run.toml"), "--run", "bench")
        run = stack.enter_context(
            running(root / "coordinator.log", ("fedprint-coordinator", "start", *home, *words))
        )
        wait_for(lambda: run.poll() is not None, "the run ends")
        if run.returncode != 0:
            raise OurMistake(f"The run failed:\n{_last(root / 'coordinator.log')}")
    record = RunFolder(root / "coordinator" / "runs" / "bench").record()
    return _between([done.opened_at for done in record.rounds])


def _found_consortium(root: Path) -> None:
    """Root key, coordinator, three nodes with pretend patients, a signed and approved roster."""
    coordinator = ("--home", str(root / "coordinator"))
    invitation, draft, signed = (
        root / f"{name}.json" for name in ("invitation", "draft", "signed")
    )
    offline = str(root / "offline")
    command("fedprint-coordinator", "root", "init", "--home", offline)
    address = f"127.0.0.1:{free_port()}"
    card = str(root / "offline" / "root.json")
    command("fedprint-coordinator", "init", *coordinator, "--address", address, "--root", card)
    command("fedprint-coordinator", "invitation", *coordinator, "-o", str(invitation))
    for site in SITES:
        home = ("--home", str(root / site))
        command("fedprint-node", "init", *home, "--site", site, "--patients", str(PATIENTS))
        _allow(root / site / "policy.toml")
        command("fedprint-node", "join", str(invitation), *home, "--yes")
        _fill_store(root / site, seed=len(site))
        command("fedprint-coordinator", "enrol", str(root / site / "site.json"), *coordinator)
    command("fedprint-coordinator", "roster", "draft", "-o", str(draft), *coordinator)
    sign = ("root", "sign", str(draft), "-o", str(signed), "--home", offline, "--yes")
    command("fedprint-coordinator", *sign)
    command("fedprint-coordinator", "roster", "import", str(signed), *coordinator)
    for site in SITES:
        home = ("--home", str(root / site))
        command("fedprint-node", "roster", "approve", str(signed), *home, "--yes")


def _allow(policy: Path) -> None:
    """Runs need no yes, and the shortest tick: what is measured is the protocol, not the wait."""
    text, count = re.subn(
        r"(?m)^reply_clock_s = .*$", f"reply_clock_s = {SHORTEST_REPLY_CLOCK_S}", policy.read_text()
    )
    if count != 1:
        raise OurMistake(f"{policy} has no line for reply_clock_s.")
    yes = 'purposes = ["pretrain"]\nmodes = ["local"]\nepsilon_per_run = 3.0\n'
    policy.write_text(f"{text}\n[approve_runs_in_advance]\n{yes}")
    settings = policy.with_name("node.toml")  # three nodes on one machine: a free port for each
    settings.write_text(settings.read_text().replace("port = 8450", "port = 0"))


def _fill_store(home: Path, seed: int) -> None:
    """A small window store of pretend patients: noise, which costs as much to train on."""
    from client.home import NodeHome
    from client.pseudonyms import keyed_digest, load_or_create_key, pseudonym_of
    from client.store_write import StoreWriter
    from shared_model.config import CHANNELS, WINDOW_SAMPLES
    from shared_model.windows import Prepared

    place = NodeHome(home)
    key = load_or_create_key(place)
    rng = np.random.default_rng(seed)
    shape = (4, len(CHANNELS), WINDOW_SAMPLES)
    with StoreWriter(place.store, key) as writer:
        part = writer.new_part("bench", keyed_digest(key, "folder", "bench"))
        for patient in range(PATIENTS):
            prepared = Prepared(
                signal=rng.standard_normal(shape).astype(np.float32),
                recorded=np.ones(shape, dtype=bool),
                start_s=np.arange(0.0, 40.0, 10.0),
                refusal=np.zeros(shape[:2], dtype=np.uint8),
            )
            name = keyed_digest(key, "recording", str(patient))
            part.add(name, pseudonym_of(key, f"patient-{patient}"), prepared, {})
        part.commit()


def _arrays() -> Weights:
    """The weights of the preset."""
    from shared_model import mae

    return mae.weights_of(mae.build(mae.PRESETS[PRESET], 0))


def _submit(address: str, arrays: Path, out: Path, rounds: int) -> None:
    """What `flwr run` does: build the bundle and start it."""
    source = Path(bench_flower_app.__file__).read_bytes()
    content, _ = build_fab_from_files(
        {
            "pyproject.toml": PYPROJECT.encode(),
            "plain_fedavg/__init__.py": b"",
            "plain_fedavg/app.py": source,
        }
    )
    config: dict[str, bool | float | int | str] = {
        "arrays": str(arrays),
        "out": str(out),
        "rounds": rounds,
        "sites": len(SITES),
    }
    interceptors = [RuntimeVersionHttpInterceptor(component_name="flwr CLI")]
    with closing(
        ControlHttpClient.from_server_address(address, True, None, interceptors)
    ) as control:
        control.StartRun(
            StartRunRequest(
                fab=Fab(hash_str=digest(content), content=content),
                override_config=user_config_to_proto(config),
            )
        )


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/health", timeout=5.0).is_success
    except httpx.TransportError:
        return False


def _between(times: Sequence[float]) -> list[float]:
    """Differences of neighbours, without the first."""
    return [after - before for before, after in itertools.pairwise(times[1:])]


# ---------------------------------------------------------------- processes


def command(*words: str) -> None:
    """One of our commands, to its end.

    Raises:
        OurMistake: it failed; with what it said.
    """
    done = subprocess.run(
        [str(BIN / words[0]), *words[1:]],
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    if done.returncode != 0:
        raise OurMistake(f"{' '.join(words[:3])} failed:\n{done.stdout}{done.stderr}")


@contextmanager
def running(
    log: Path, words: Sequence[str], more: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a session of its own; it and all that it started are ended on the way out."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [str(BIN / words[0]), *words[1:]],
            env={**os.environ, **QUIET, **(more or {})},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(20.0)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue


def wait_for(
    condition: Callable[[], object], what: str, process: subprocess.Popen[bytes] | None = None
) -> None:
    """Poll until the condition holds.

    Raises:
        OurMistake: the process ended, or DEADLINE_S passed.
    """
    end = time.monotonic() + DEADLINE_S
    while not condition():
        if process is not None and process.poll() is not None:
            raise OurMistake(f"A process of the benchmark ended before this: {what}.")
        if time.monotonic() > end:
            raise OurMistake(f"Not within {DEADLINE_S:.0f} s: {what}.")
        time.sleep(0.05)


def free_port() -> int:
    """A TCP port that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _last(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
