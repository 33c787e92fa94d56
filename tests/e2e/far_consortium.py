"""Three hospitals and a coordinator as real processes, each hospital at the end of its own wire."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deployed_parts import (
    Running,
    allow_runs,
    command,
    fill_store,
    free_port,
    make_root,
    running,
    sign_roster,
    wait_for,
)
from wires import Namespace, Wire, during, namespace, tinyproxy, why_no_namespaces

from client.home import NodeHome
from client.sent import SentEntry, SentLog
from server.checkpoints import RunFolder, RunRecord

SITES = ("alpha", "beta", "gamma")
HOST = "127.0.0.2"
"""Where hospitals reach the coordinator: not where it listens, nor where loopback calls go."""
PLAN = ("--steps", "2", "--sample-rate", "0.5", "--noise-multiplier", "2.0", "--minimum", "3")


@dataclass
class Proxied:
    """What a hospital behind a proxy has: words before its commands, environment, proxy's log."""

    prefix: tuple[str, ...]
    environment: dict[str, str]
    log: Path
    space: Namespace | None


@dataclass
class Far:
    """The consortium. ticks_s: reply clock of each site: a reply leaves no sooner."""

    root: Path
    host: str
    port: int
    wires: dict[str, Wire]
    proxied: Proxied | None = None
    nodes: dict[str, Running] = field(default_factory=dict)
    coordinator: Running | None = None

    @property
    def home(self) -> str:
        return str(self.root / "coordinator")

    def address(self, port: int) -> None:
        """What the next invitation says."""
        path = self.root / "coordinator" / "coordinator.toml"
        lines = [
            f'address = "{self.host}:{port}"' if line.startswith("address") else line
            for line in path.read_text().splitlines()
        ]
        path.write_text("\n".join(lines) + "\n")

    def told(self, words: str) -> bool:
        """Whether the running coordinator has said so."""
        assert self.coordinator is not None
        assert self.coordinator.process.poll() is None or words in self.coordinator.text(), (
            self.coordinator.text()
        )
        return words in self.coordinator.text()

    def taken(self, site: str) -> int:
        """How many messages the site's node has taken."""
        return self._count(site, "supernode.log", "Received successfully")

    def trained(self, site: str) -> int:
        """How often the site has trained."""
        return self._count(site, "rounds.log", '"outcome": "quantised"')

    def sent(self, site: str) -> list[SentEntry]:
        return SentLog(NodeHome(self.root / site)).entries()

    def record(self, run: str) -> RunRecord:
        return RunFolder(self.root / "coordinator" / "runs" / run).record()

    def spend(self, site: str) -> list[dict[str, object]]:
        done = command("fedprint-node", "spend", "--home", str(self.root / site), "--json")
        rounds: list[dict[str, object]] = json.loads(done.stdout)["rounds"]
        return rounds

    def begin(
        self, stack: ExitStack, run: str, *words: str, plan: tuple[str, ...] = PLAN
    ) -> Running:
        """fedprint-coordinator start."""
        home = ("--home", self.home)
        self.coordinator = stack.enter_context(
            running(
                self.root / f"{run}.log",
                *("fedprint-coordinator", "start", "--run", run, *home, *plan, *words),
            )
        )
        return self.coordinator

    def finished(self) -> bool:
        assert self.coordinator is not None
        self.coordinator.look()
        return self.coordinator.process.poll() is not None

    def _count(self, site: str, log: str, words: str) -> int:
        path = self.root / site / "logs" / log
        return path.read_text(errors="replace").count(words) if path.exists() else 0


@contextmanager
def far_consortium(
    root: Path,
    ticks_s: dict[str, float],
    *,
    proxied: str = "",
    far_away: str = "",
    mbit: float = 20.0,
    delay_s: float = 0.1,
) -> Iterator[Far]:
    """Enrolled, joined and started; the coordinator is not.

    Args:
        proxied: this site's node reaches nothing but a proxy (in a namespace, if root).
        far_away: this site's node is behind a link of so many Mbit/s and seconds (each way); needs
            namespaces.
    """
    with ExitStack() as stack:
        port, registry = free_port(), free_port()
        space = stack.enter_context(namespace(mbit=mbit)) if far_away else None
        host = space.here if space else HOST
        wires = {
            site: stack.enter_context(
                Wire("127.0.0.1", port, bind=host, delay_s=delay_s if site == far_away else 0.0)
            )
            for site in ticks_s
        }
        far = Far(root, host, port, wires)
        command(
            *("fedprint-coordinator", "init", "--home", far.home, "--address", f"{host}:{port}"),
            *("--root", str(make_root(root)), "--registry-port", str(registry)),
        )
        if proxied:
            far.proxied = stack.enter_context(_proxy(root))
        for site in ticks_s:
            _join(far, site, ticks_s[site])
        far.address(port)
        sign_roster(root, tuple(ticks_s))
        for site in ticks_s:
            behind = far.proxied if site == proxied else None
            prefix = space.prefix if space and site == far_away else ()
            far.nodes[site] = stack.enter_context(
                running(
                    root / f"{site}.log",
                    *("fedprint-node", "start", "--home", str(root / site)),
                    prefix=behind.prefix if behind else prefix,
                    environment=behind.environment if behind else None,
                )
            )
        for site, node in far.nodes.items():
            wait_for(lambda node=node: "is started" in node.text(), f"{site} is started", 90)
        yield far


def _join(far: Far, site: str, tick_s: float) -> None:
    root, home = far.root, str(far.root / site)
    invitation = root / f"{site}-invitation.json"
    far.address(far.wires[site].port)
    command("fedprint-coordinator", "invitation", "--home", far.home, "-o", str(invitation))
    command("fedprint-node", "init", "--home", home, "--site", site, "--patients", "12")
    allow_runs(root / site, tick_s=tick_s)
    command("fedprint-node", "join", str(invitation), "--home", home, "--yes")
    fill_store(root / site, patients=12, seed=len(site))
    command("fedprint-coordinator", "enrol", str(root / site / "site.json"), "--home", far.home)


@contextmanager
def _proxy(root: Path) -> Iterator[Proxied | None]:
    if shutil.which("tinyproxy") is None:
        yield None
        return
    with ExitStack() as stack:
        space = None if why_no_namespaces() else stack.enter_context(namespace())
        url, log = stack.enter_context(tinyproxy(root, space.here if space else "127.0.0.1"))
        environment = {"HTTPS_PROXY": url, "HTTP_PROXY": url}  # the second must do no harm
        yield Proxied(space.prefix if space else (), environment, log, space)


def handed_over(far: Far, site: str) -> bool:
    """Whether the site's submission is on its way, or there."""
    return any(one.kind == "train-reply" for one in far.sent(site))


def delivered(far: Far, site: str) -> bool:
    """Whether the site's submission is there."""
    return any(one.kind == "train-reply" and one.outcome for one in far.sent(site))


def submission_of(far: Far, site: str) -> SentEntry:
    """The only one that the site has handed over."""
    (found,) = [one for one in far.sent(site) if one.kind == "train-reply"]
    return found


@dataclass(frozen=True)
class CutUpload:
    """A submission whose line was cut. Bytes up that line from hand-over to delivery, and to the
    cut, by the times in the node's own log."""

    body_bytes: int
    up_bytes: int
    before_cut_bytes: int


def up_between(far: Far, site: str) -> int:
    """Bytes up the site's line from its submission's hand-over to its delivery."""
    submission, line = submission_of(far, site), far.wires[site]
    assert submission.delivered_s is not None
    return line.up_until(submission.delivered_s) - line.up_until(submission.handed_over_s)


def play_with_outages(far: Far, stack: ExitStack, outage_s: float, cut_bytes: int) -> CutUpload:
    """One round that trains all parameters; the first site's line is silent in its training, the
    second's is cut when so many bytes of its submission went up, the third's silent between the
    trips."""
    first, second, third = far.wires
    line = far.wires[second]

    def so_far() -> int:
        if not handed_over(far, second):
            return 0
        return line.up - line.up_until(submission_of(far, second).handed_over_s)

    line.cut_when(lambda: so_far() >= cut_bytes)
    coordinator = far.begin(stack, "spring", "--rounds", "1", "--trainable", "all")
    wait_for(lambda: far.told("sent: "), "the round is open")
    taken = far.taken(first)
    training = threading.Thread(
        target=during,
        args=(lambda: far.taken(first) > taken, far.wires[first], outage_s, "silence"),
    )
    training.start()
    during(lambda: not line.is_whole, line, outage_s, "cut")
    wait_for(lambda: delivered(far, second), "the submission that was cut")
    training.join()
    during(lambda: far.told("agreeing"), far.wires[third], outage_s, "silence")
    wait_for(far.finished, "the run ends", outage_s + 300)
    assert coordinator.process.returncode == 0, coordinator.text()
    submission = submission_of(far, second)
    assert line.cut_at is not None
    assert submission.delivered_s is not None
    cut_s, cut_up = line.cut_at
    assert submission.handed_over_s < cut_s < submission.delivered_s
    before = cut_up - line.up_until(submission.handed_over_s)
    return CutUpload(submission.body_bytes, up_between(far, second), before)
