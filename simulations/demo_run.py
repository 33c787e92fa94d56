"""What `fedprint-lab demo` does, step by step. Every step is a command that a person could type."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table

from shared_model import terminal
from shared_model.accounting import default_delta, noise_multiplier_for
from shared_model.children import Child, Family
from shared_model.errors import OurMistake

RUN = "demo"
SAMPLE_RATE = 0.25
CLIPPING_NORM = 0.1
REAL_SITES = (
    ("north-icu", "icu_alarms_a", 40),
    ("south-icu", "icu_alarms_b", 40),
    ("east-icu", "icu_alarms_c", 65),
)
REAL_HELD_OUT = ("icu_bidmc", "icu_alarms_d")
"""Patients of these are at no hospital of the demo: another collection, and a site of the same."""
SIMULATED_SITES = ("north-icu", "south-icu", "east-icu")
ROOT_MACHINE = "machine-without-network"
MARKER = ".fedprint-demo"


@dataclass(frozen=True)
class Settings:
    """What the caller chose. data None: simulated hospitals."""

    output: Path
    data: Path | None
    rounds: int
    steps: int
    epsilon: float
    replace: bool
    patients: int = 40


@dataclass(frozen=True)
class Site:
    """One hospital of the demo."""

    name: str
    recordings: Path
    declared_patients: int
    real: bool


@dataclass
class Step:
    """One line of the live display and of the report."""

    title: str
    state: str = "waiting"
    seconds: float = 0.0
    detail: str = ""


@dataclass
class Demo:
    """Paths, sites and what happened so far."""

    settings: Settings
    sites: tuple[Site, ...] = ()
    held_out: tuple[Path, ...] = ()
    steps: list[Step] = field(default_factory=list)
    commands: list[dict[str, Any]] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.settings.output.absolute()

    @property
    def real(self) -> bool:
        return all(site.real for site in self.sites)

    @property
    def coordinator(self) -> Path:
        return self.root / "coordinator"

    @property
    def root_machine(self) -> Path:
        """Stands for a machine that has no network."""
        return self.root / ROOT_MACHINE

    def carried(self, name: str, source: Path) -> Path:
        """A file as it is after somebody carried it over by hand."""
        target = self.root / name
        shutil.copyfile(source / name, target)
        return target

    @property
    def release(self) -> Path:
        return self.root / "release-1"

    def node(self, site: Site) -> Path:
        return self.root / site.name

    def command(self, *words: str, check: bool = True) -> str:
        """Run one of our commands to its end; its output goes to logs/. Returns stdout.

        Raises:
            OurMistake: it ended with another exit code than 0, with the end of its output.
        """
        log = self.root / "logs" / f"{len(self.commands) + 1:02d}-{words[0]}-{words[1]}.log"
        began = time.monotonic()
        done = subprocess.run(
            [str(script(words[0])), *words[1:]],
            cwd=self.root,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - began
        log.write_text(f"$ {' '.join(words)}\n{done.stdout}{done.stderr}")
        self.commands.append(
            {"command": self._short(words), "exit": done.returncode, "seconds": round(seconds, 1)}
        )
        if check and done.returncode != 0:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
            raise OurMistake(
                f"{' '.join(words[:2])} ended with exit code {done.returncode}:\n{tail}",
                do=f"See {log}",
            )
        return done.stdout

    def _short(self, words: Sequence[str]) -> str:
        return " ".join(word.replace(f"{self.root}/", "") for word in words)


def script(name: str) -> Path:
    """The console script of this installation."""
    return Path(sys.executable).parent / name


def environment() -> dict[str, str]:
    """One thread a process where several train on few cores."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160", "NO_COLOR": "1"}


def console(arguments: list[str]) -> None:
    """Entry of a child: the console script's own main (see shared_model.children)."""
    import client.cli
    import server.cli

    mains: dict[str, Callable[[], None]] = {
        "fedprint-node": client.cli.main,
        "fedprint-coordinator": server.cli.main,
    }
    sys.argv = arguments
    mains[arguments[0]]()


def run(settings: Settings) -> dict[str, Any]:
    """The whole demo; returns the summary that is also in OUTPUT/summary.json."""
    demo = Demo(settings)
    _prepare_folder(demo)
    began = time.monotonic()
    with Live(console=terminal.err, auto_refresh=False) as live:
        with Family() as family:
            _road(demo, family, lambda: live.update(_display(demo, began), refresh=True))
        from simulations.demo_report import summarise

        with _step(
            demo, "write the report", lambda: live.update(_display(demo, began), refresh=True)
        ):
            summary = summarise(demo, time.monotonic() - began)
    terminal.err.print(f"Report: {demo.root / 'report.html'} (opens without a network)")
    for line in summary["in_words"]:
        terminal.err.print(f"- {line}", highlight=False, markup=False)
    return summary


def _prepare_folder(demo: Demo) -> None:
    root = demo.root
    if root.exists():
        ours = (root / MARKER).exists()
        if not (demo.settings.replace and ours):
            raise OurMistake(
                f"{root} exists already.",
                do="Choose another folder" + (", or pass --replace." if ours else "."),
            )
        shutil.rmtree(root)
    (root / "logs").mkdir(parents=True)
    (root / MARKER).touch()


def _road(demo: Demo, family: Family, refresh: Callable[[], None]) -> None:
    titles: list[tuple[str, Callable[[Demo, Family, Callable[[], None]], str]]] = [
        ("find or simulate three hospitals", _find_sites),
        ("root key, coordinator, enrolment", _enrol),
        ("sign the roster offline, approve it at each hospital", _sign_roster),
        ("ingest recordings at each hospital", _ingest),
        ("start three nodes over TLS", _start_nodes),
        ("private federated training with secure sums", _train),
        ("sign the release", _release),
        ("install it at all three", _install),
        ("fingerprints at each hospital", _fingerprint),
        ("audit the release and the sums", _audit),
        ("reconstruction of unseen patients", _reconstruct),
        ("probe the fingerprint", _probe),
    ]
    for title, act in titles:
        with _step(demo, title, refresh) as step:
            step.detail = act(demo, family, refresh)


@contextmanager
def _step(demo: Demo, title: str, refresh: Callable[[], None]) -> Iterator[Step]:
    step = Step(title, state="running")
    demo.steps.append(step)
    refresh()
    began = time.monotonic()
    try:
        yield step
        step.state = "done"
    except BaseException:
        step.state = "failed"
        raise
    finally:
        step.seconds = time.monotonic() - began
        refresh()
        if not terminal.err.is_terminal:
            line = f"{step.seconds:6.0f} s  {step.title}: {step.state}  {step.detail}"
            terminal.err.print(line, markup=False, highlight=False)


def _display(demo: Demo, began: float) -> Table:
    table = Table(title=f"fedprint demo · {time.monotonic() - began:.0f} s", title_justify="left")
    table.add_column("step")
    table.add_column("state")
    table.add_column("s", justify="right")
    table.add_column("what happened", overflow="fold")
    for step in demo.steps:
        seconds = f"{step.seconds:.0f}" if step.seconds else ""
        table.add_row(step.title, step.state, seconds, step.detail.replace("[", "\\["))
    return table


def _find_sites(demo: Demo, family: Family, refresh: Callable[[], None]) -> str:
    data = demo.settings.data
    wanted = [folder for _, folder, _ in REAL_SITES] + list(REAL_HELD_OUT)
    if data is not None and all((data / folder).is_dir() for folder in wanted):
        data = data.absolute()
        demo.sites = tuple(
            Site(name, data / folder, patients, real=True) for name, folder, patients in REAL_SITES
        )
        demo.held_out = tuple(data / folder for folder in REAL_HELD_OUT)
        return "REAL recordings: " + ", ".join(folder for _, folder, _ in REAL_SITES)
    demo.command(
        "fedprint-lab",
        "cohort",
        "simulated",
        "--sites",
        str(len(SIMULATED_SITES) + 1),
        "--patients",
        str(demo.settings.patients),
        "--windows-per-patient",
        "12",
        "--seed",
        "7",
    )
    folders = sorted(path for path in (demo.root / "simulated").iterdir() if path.is_dir())
    demo.sites = tuple(
        Site(name, folder, demo.settings.patients, real=False)
        for name, folder in zip(SIMULATED_SITES, folders[1:], strict=True)
    )
    demo.held_out = (folders[0],)
    return "SIMULATED hospitals: no real recordings were found or wanted"


def _enrol(demo: Demo, family: Family, refresh: Callable[[], None]) -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = str(demo.coordinator)
    demo.command("fedprint-coordinator", "root", "init", "--home", str(demo.root_machine))
    by_hand = str(demo.carried("root.json", demo.root_machine))
    address = f"127.0.0.1:{port}"
    demo.command(
        "fedprint-coordinator", "init", "--home", home, "--address", address, "--root", by_hand
    )
    invitation = str(demo.root / "coordinator.json")
    demo.command("fedprint-coordinator", "invitation", "--home", home, "-o", invitation)
    for site in demo.sites:
        node = demo.node(site)
        count = str(site.declared_patients)
        demo.command(
            "fedprint-node", "init", "--home", str(node), "--site", site.name, "--patients", count
        )
        _allow(node / "policy.toml", demo.settings)
        demo.command("fedprint-coordinator", "enrol", str(node / "site.json"), "--home", home)
        demo.command("fedprint-node", "join", invitation, "--home", str(node), "--yes")
        refresh()
    return f"{len(demo.sites)} sites, coordinator on 127.0.0.1:{port}, root key in {ROOT_MACHINE}/"


def _sign_roster(demo: Demo, family: Family, refresh: Callable[[], None]) -> str:
    """The ceremony of docs/root-key.md; here one folder stands for the machine without network."""
    home, machine = str(demo.coordinator), str(demo.root_machine)
    draft, signed = demo.root / "roster-draft.json", demo.root / "roster.json"
    demo.command("fedprint-coordinator", "roster", "draft", "--home", home, "-o", str(draft))
    demo.command(
        *("fedprint-coordinator", "root", "sign", str(draft)),
        *("--home", machine, "-o", str(signed), "--yes"),
    )
    demo.command("fedprint-coordinator", "roster", "import", str(signed), "--home", home)
    for site in demo.sites:
        demo.command(
            *("fedprint-node", "roster", "approve", str(signed)),
            *("--home", str(demo.node(site)), "--yes"),
        )
        refresh()
    return f"one roster, signed by the root key, approved by {len(demo.sites)} operators"


def _allow(policy: Path, settings: Settings) -> None:
    """What each hospital's own operator would edit in policy.toml for this demo."""
    text = policy.read_text()
    changes = {
        "epsilon_lifetime": f"{settings.epsilon * 1.25:.3f}",
        "epsilon_per_run": f"{settings.epsilon * 1.05:.3f}",
    }
    for name, value in changes.items():
        text, count = re.subn(rf"(?m)^{name} *=.*$", f"{name} = {value}", text)
        if count != 1:
            raise OurMistake(f"{policy} has no line for {name}.")
    policy.write_text(text)


def _ingest(demo: Demo, family: Family, refresh: Callable[[], None]) -> str:
    for site in demo.sites:
        home = str(demo.node(site))
        demo.command("fedprint-node", "data", "add", str(site.recordings), "--home", home, "--yes")
        demo.steps[-1].detail = f"{site.name} done"
        refresh()
    shown = [_shown(demo, site) for site in demo.sites]
    return "; ".join(
        f"{site.name}: {one['patients']} patients, {one['windows']} windows"
        for site, one in zip(demo.sites, shown, strict=True)
    )


def _shown(demo: Demo, site: Site) -> dict[str, Any]:
    sheet = demo.root / f"sheet-{site.name}.png"
    text = demo.command(
        "fedprint-node",
        "data",
        "show",
        "--home",
        str(demo.node(site)),
        "--json",
        "--sheet",
        str(sheet),
    )
    shown: dict[str, Any] = json.loads(text)
    (demo.root / f"data-{site.name}.json").write_text(text)
    return shown


def _start_nodes(demo: Demo, family: Family, refresh: Callable[[], None]) -> str:
    for site in demo.sites:
        family.start(
            site.name,
            "simulations.demo_run:console",
            ["fedprint-node", "start", "--home", str(demo.node(site))],
            log=demo.root / "logs" / f"node-{site.name}.log",
            environment=environment(),
        )
    return f"{len(demo.sites)} SuperNodes, each trains only with its installed code"


def _train(demo: Demo, family: Family, refresh: Callable[[], None]) -> str:
    settings = demo.settings
    delta = min(default_delta(site.declared_patients) for site in demo.sites)
    sigma = noise_multiplier_for(
        settings.epsilon, delta, SAMPLE_RATE, settings.rounds * settings.steps
    )
    log = demo.root / "logs" / "coordinator.log"
    child = family.start(
        "coordinator",
        "simulations.demo_run:console",
        [
            "fedprint-coordinator",
            "start",
            "--home",
            str(demo.coordinator),
            "--run",
            RUN,
            "--rounds",
            str(settings.rounds),
            "--steps",
            str(settings.steps),
            "--sample-rate",
            str(SAMPLE_RATE),
            "--noise-multiplier",
            f"{sigma:.6f}",
            "--clipping-norm",
            str(CLIPPING_NORM),
            "--minimum",
            "3",
        ],
        log=log,
        environment=environment(),
    )
    while child.wait(1.0) is None:
        demo.steps[-1].detail = _last_line(child)
        refresh()
        for other in family.children:
            if other is not child and other.exit_code is not None:
                raise OurMistake(
                    f"The node {other.name} ended:\n{other.last_lines(8)}", do=f"See {other.log}"
                )
    if child.exit_code != 0:
        raise OurMistake(f"Training ended:\n{child.last_lines(8)}", do=f"See {log}")
    return f"{settings.rounds} rounds of {settings.steps} steps, noise multiplier {sigma:.2f}"


def _last_line(child: Child) -> str:
    lines = [line for line in child.last_lines(5).splitlines() if line.strip()]
    return lines[-1].strip()[:120] if lines else "starting"


def _release(demo: Demo, family: Family, refresh: Callable[[], None]) -> str:
    demo.command(
        "fedprint-coordinator",
        "release",
        RUN,
        "-o",
        str(demo.release),
        "--home",
        str(demo.coordinator),
    )
    return str(demo.release.name)


def _install(demo: Demo, family: Family, refresh: Callable[[], None]) -> str:
    for site in demo.sites:
        demo.command(
            "fedprint-node", "install", str(demo.release), "--home", str(demo.node(site)), "--yes"
        )
    return f"signature verified and installed at {len(demo.sites)} sites"


def _fingerprint(demo: Demo, family: Family, refresh: Callable[[], None]) -> str:
    counts = []
    for site in demo.sites:
        out = demo.root / f"fingerprints-{site.name}.parquet"
        demo.command(
            "fedprint-node",
            "fingerprint",
            str(site.recordings),
            "-o",
            str(out),
            "--home",
            str(demo.node(site)),
        )
        import pyarrow.parquet as pq

        counts.append(f"{site.name}: {pq.read_metadata(out).num_rows}")
        refresh()
    return "; ".join(counts)


def _audit(demo: Demo, family: Family, refresh: Callable[[], None]) -> str:
    text = demo.command(
        "fedprint-audit",
        "release",
        str(demo.release),
        "--signer",
        str(demo.root / "coordinator.json"),
        "--json",
    )
    (demo.root / "audit.json").write_text(text)
    bundle = demo.root / "audit-bundle"
    demo.command(
        *("fedprint-coordinator", "audit-bundle", RUN),
        *("-o", str(bundle), "--home", str(demo.coordinator)),
    )
    text = demo.command(
        *("fedprint-audit", "sum", str(bundle)),
        *("--roster", str(demo.root / "roster.json")),
        *("--root-key", str(demo.root / "root.json")),
        *("--coordinator", str(demo.root / "coordinator.json"), "--json"),
    )
    (demo.root / "audit-sums.json").write_text(text)
    return "no check failed; the submissions were added again, to the bit"


def _reconstruct(demo: Demo, family: Family, refresh: Callable[[], None]) -> str:
    from simulations.demo_report import held_out_curve

    curve = held_out_curve(demo)
    return "error / trivial: " + "; ".join(
        f"{one['source']}: masked {one['curve'][-1]['masked']:.2f}, "
        f"cross-modal {one['curve'][-1]['cross_modal']:.2f}"
        for one in curve
    )


def _probe(demo: Demo, family: Family, refresh: Callable[[], None]) -> str:
    if not demo.real:
        return "NOT MEASURED: probes need real recordings (see --data)"
    data = demo.settings.data
    assert data is not None  # noqa: S101  (real implies it)
    demo.command(
        "fedprint-lab",
        "probe",
        str(demo.release),
        "--data",
        str(data.absolute()),
        "--signer",
        str(demo.root / "coordinator.json"),
        "-o",
        str(demo.root / "probe"),
    )
    table = json.loads((demo.root / "probe" / "probe.json").read_text())
    gain = table["mean_gain_over_random_init"]["release"]
    return f"mean gain over random-init {gain['value']:.3f} [{gain['low']:.3f}, {gain['high']:.3f}]"
