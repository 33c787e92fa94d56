"""What a deployed round costs beyond training: ours beside Flower's plain FedAvg, on loopback.

Ours: `fedprint-coordinator start` and three nodes as `fedprint-node start` runs them, TLS and node
keys as in a hospital, every trip of the secure sum, ledger, one warm training process. Flower's:
SuperLink and three SuperNodes with Flower's defaults, without TLS, FedAvg without its evaluation.
Both train the same steps of preset `tiny` by the same function (`client.training.train_round`) and
move all its parameters.

A round lasts from its beginning to the beginning of the next one; the first round, which waits for
the sites, is left out. Overhead: its seconds less those that its slowest site trained, which each
site takes with a monotonic clock. The two sides run by turns.
"""

from __future__ import annotations

import itertools
import json
import re
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
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
from simulations.bench_node import NOTES
from simulations.bench_processes import command, free_port, last_lines, running, wait_for

SITES = ("alpha", "beta", "gamma")
PRESET = "tiny"
PATIENTS = 12
TURNS = 3
ROUNDS = 4
"""Counted on each side in each turn."""
PLAN = {"sample_rate": 0.1, "noise_multiplier": 2.0, "clipping_norm": 1.0, "steps": 1}
TRAINING = {"trainable": "all"}
NODE = "from simulations.bench_node import main; main()"
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
notes = ""
patients = 1
plan = ""
preset = ""
rounds = 1
sites = 1
training = ""
"""


@dataclass(frozen=True)
class Round:
    """One round: seconds in all, and of the site that trained longest."""

    wall_s: float
    training_s: float

    @property
    def overhead_s(self) -> float:
        return self.wall_s - self.training_s


def figures(quick: bool, tell: Callable[[str], None]) -> dict[str, float]:
    """Figures of `fedprint-lab bench round`.

    ratio_vs_flower_fedavg: medians of the overhead of a round, ours over Flower's.
    """
    turns, rounds = (1, 1) if quick else (TURNS, ROUNDS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # end what was started
    ours: list[Round] = []
    theirs: list[Round] = []
    with tempfile.TemporaryDirectory(prefix="fedprint-bench-") as folder:
        root = Path(folder)
        tell("a root key, a coordinator, three nodes")
        _found_consortium(root / "ours")
        for turn in range(turns):
            tell(f"turn {turn + 1} of {turns}: Flower's FedAvg, {rounds} rounds")
            theirs += flower_rounds(root / f"flower-{turn}", rounds)
            tell(f"turn {turn + 1} of {turns}: a deployed run of ours, {rounds} rounds")
            ours += our_rounds(root / "ours", f"bench-{turn}", rounds)
    mine = statistics.median(one.overhead_s for one in ours)
    plain = statistics.median(one.overhead_s for one in theirs)
    walls = [statistics.median(one.wall_s for one in side) for side in (ours, theirs)]
    return {
        "overhead_s_per_round": mine,
        "flower_overhead_s_per_round": plain,
        "ratio_vs_flower_fedavg": mine / plain,
        "rounds": float(len(ours)),
        "turns": float(turns),
        "round_s": walls[0],
        "flower_round_s": walls[1],
        "round_ratio_vs_flower_fedavg": walls[0] / walls[1],
        "training_s": statistics.median(one.training_s for one in ours),
        "flower_training_s": statistics.median(one.training_s for one in theirs),
        "slowest_overhead_s": max(one.overhead_s for one in ours),
        "flower_slowest_overhead_s": max(one.overhead_s for one in theirs),
        "parameters": float(sum(array.size for array in _arrays().values())),
    }


def flower_rounds(root: Path, rounds: int) -> list[Round]:
    """Each round but the first of Flower's FedAvg."""
    root.mkdir(parents=True)
    out, stored, notes = (root / name for name in ("times.json", "arrays.npz", "training.jsonl"))
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
        config: dict[str, bool | float | int | str] = {
            "arrays": str(stored),
            "out": str(out),
            "notes": str(notes),
            "patients": PATIENTS,
            "plan": json.dumps(PLAN),
            "preset": PRESET,
            "rounds": rounds + 1,
            "sites": len(SITES),
            "training": json.dumps(TRAINING),
        }
        _submit(address, config)
        wait_for(out.exists, "Flower's rounds end", link)
    return rounds_of(json.loads(out.read_text()), [notes])


def our_rounds(root: Path, name: str, rounds: int) -> list[Round]:
    """Each round but the first of a deployed run over the nodes below `root`."""
    from server.checkpoints import RunFolder

    home = ("--home", str(root / "coordinator"))
    notes = [root / site / NOTES for site in SITES]
    for path in notes:
        path.unlink(missing_ok=True)
    with ExitStack() as stack:
        nodes = {
            site: stack.enter_context(
                running(
                    root / f"{site}.log",
                    (Path(sys.executable).name, "-I", "-c", NODE, str(root / site)),
                )
            )
            for site in SITES
        }

        def ended() -> bool:
            for site, node in nodes.items():
                if node.poll() is not None:
                    raise OurMistake(f"A node ended:\n{last_lines(root / f'{site}.log')}")
            return run.poll() is not None

        tables = "".join(
            f"[{table}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in it.items())
            for table, it in (("privacy", PLAN), ("training", TRAINING))
        )
        config = root / f"{name}.toml"
        config.write_text(
            f'run = "{name}"\npreset = "{PRESET}"\nrounds = {rounds + 2}\n'
            f'begin_with = "random-weights"\n{tables}'
        )
        words = ("fedprint-coordinator", "start", *home, "--config", str(config), "--run", name)
        log = root / f"{name}.log"
        run = stack.enter_context(running(log, words))
        wait_for(ended, "the run ends")
        if run.returncode != 0:
            raise OurMistake(f"The run failed:\n{last_lines(log)}")
    record = RunFolder(root / "coordinator" / "runs" / name).record()
    return rounds_of([done.opened_at for done in record.rounds], notes)


def rounds_of(began_s: Sequence[float], notes: Sequence[Path]) -> list[Round]:
    """From when each round began and what the sites noted; without the first and the last."""
    longest: dict[int, float] = {}
    for path in notes:
        for line in path.read_text().splitlines():
            note = json.loads(line)
            number = int(note["round"])
            longest[number] = max(longest.get(number, 0.0), float(note["training_s"]))
    return [
        Round(wall_s, longest[number]) for number, wall_s in enumerate(_between(began_s), start=2)
    ]


def _found_consortium(root: Path) -> None:
    """Root key, coordinator, three nodes with pretend patients, a signed and approved roster."""
    coordinator = ("--home", str(root / "coordinator"))
    invitation, draft, signed = (
        root / f"{name}.json" for name in ("invitation", "draft", "signed")
    )
    offline = str(root / "offline")
    root.mkdir(parents=True)
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
    settings = policy.with_name("node.toml")  # several nodes on one machine: any console port
    settings.write_text(settings.read_text().replace("port = 8450", "port = 0"))
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


def _submit(address: str, config: dict[str, bool | float | int | str]) -> None:
    """What `flwr run` does: build the bundle and start it."""
    source = Path(bench_flower_app.__file__).read_bytes()
    content, _ = build_fab_from_files(
        {
            "pyproject.toml": PYPROJECT.encode(),
            "plain_fedavg/__init__.py": b"",
            "plain_fedavg/app.py": source,
        }
    )
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
