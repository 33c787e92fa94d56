"""The demo's road: every step is a command that a person could type."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared_model import terminal
from shared_model.accounting import default_delta, noise_multiplier_for
from shared_model.children import Child, Family
from shared_model.errors import OurMistake
from simulations.demo_parts import CONSOLE, ROOT_MACHINE, RUN, Demo, Settings, Site, environment

SAMPLE_RATE = 0.25
ROOM_FOR_FAILED_ROUNDS = 2.0
CLIPPING_NORM = 0.1
REAL_SITES = (
    ("north-icu", "icu_alarms_a", 40),
    ("south-icu", "icu_alarms_b", 40),
    ("east-icu", "icu_alarms_c", 65),
)
REAL_HELD_OUT = ("icu_bidmc", "icu_alarms_d")
"""Patients of these are at no hospital of the demo: another collection, and a site of the same."""
SIMULATED_SITES = ("north-icu", "south-icu", "east-icu")


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
    """What each hospital's own operator would edit in policy.toml for this demo.

    The rounds that may fail are part of what a run may cost, so that the limits leave room for
    them. A tick of one second is shorter than a round: the demo hides nothing of its pretend or
    public patients.
    """
    node = policy.with_name("node.toml")  # many consoles on one machine: a free port for each
    node.write_text(node.read_text().replace("port = 8450", "port = 0"))
    text = policy.read_text()
    limit = f"{settings.epsilon * ROOM_FOR_FAILED_ROUNDS:.3f}"
    changes = {
        "epsilon_lifetime": f"{settings.epsilon * 1.25 * ROOM_FOR_FAILED_ROUNDS:.3f}",
        "epsilon_per_run": limit,
        "reply_clock_s": "1.0",
    }
    for name, value in changes.items():
        text, count = re.subn(rf"(?m)^{name} *=.*$", f"{name} = {value}", text)
        if count != 1:
            raise OurMistake(f"{policy} has no line for {name}.")
    yes = f'purposes = ["pretrain"]\nmodes = ["local"]\nepsilon_per_run = {limit}\n'
    policy.write_text(f"{text}\n[approve_runs_in_advance]\n{yes}")


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
            CONSOLE,
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
        CONSOLE,
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
        f"{one['source']}: masked {terminal.figure(one['curve'][-1]['masked'], '.2f')}, "
        f"cross-modal {terminal.figure(one['curve'][-1]['cross_modal'], '.2f')}"
        for one in curve
    )


def _probe(demo: Demo, family: Family, refresh: Callable[[], None]) -> str:
    from simulations.results_tables import interval

    if not demo.real:
        return "NOT MEASURED: probes need real recordings (see --data)"
    data = demo.settings.data
    assert data is not None  # noqa: S101  (real implies it)
    demo.command(
        "fedprint-lab",
        "probe",
        str(demo.release),
        "--repeats",
        "1",
        "--data",
        str(data.absolute()),
        "--signer",
        str(demo.root / "coordinator.json"),
        "-o",
        str(demo.root / "probe"),
    )
    table = json.loads((demo.root / "probe" / "probe.json").read_text())
    gain = table["mean_gain_over_random_init"].get("release")  # none where every task has few
    return f"mean gain over random-init {interval(gain, 3)}"


STEPS: tuple[tuple[str, Callable[[Demo, Family, Callable[[], None]], str]], ...] = (
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
)
"""Title and action, in order; an action returns what happened, in words."""
