"""A consortium of pretend hospitals on one machine, with the code that real ones run.

Each hospital has a folder of its own with keys, policy, ledger and outbox, made as commands
make them, and has approved the roster that a root key signed; only its patients are simulated. The
updates travel masked, as in the field. The engine is in-process or Flower's own on Ray.

    federation = found(root, {"north": 200, "south": 80}, windows_per_patient=8, seed=1,
                       repeatable=True, now=now)
    record = train(federation, config, workers=2)

`repeatable` draws the noise from seeds: runs are bit-identical for any number of workers, promise
no privacy, and say so in every reply. Otherwise the noise is the operating system's and the
hospitals' budgets hold as in the field. `unmasked` hospitals also answer a run whose masks are off
(`aggregation="UnmaskedForSimulation"`): the same integers are added, so the model is the same to
the bit, and faster. No release is made of such a run.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from client import keys
from client.home import NodeHome
from client.node_interfaces import PretendNode
from client.policy import AdvanceApproval, Policy, rounded_patients
from client.rosters import RosterBook
from client.round import handle
from server import coordinate, rosters, sites, tls
from server.checkpoints import RunFolder, RunRecord
from server.coordinate import Progress, StartingModel
from server.home import CoordinatorHome
from server.run_config import RunConfig
from server.transport import Transport
from shared_model import enrolment, signing
from shared_model.enrolment import Invitation
from shared_model.files import write_atomic
from shared_model.noise import NonPrivateForTests

if TYPE_CHECKING:
    from simulations.in_process_grid import Hospitals

Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
"""(generator, windows) -> signal float32 (window, 2, 1250), valid bool (window, 2, 50)."""
_ADDRESS = "localhost:9093"
"""Stands in the invitation; nothing listens there in a simulation."""
MODES: tuple[Literal["local", "distributed"], ...] = ("local", "distributed")
"""Pretend hospitals train under both trust models, and say yes to runs in advance."""
VALID_DAYS = 36_500
"""A simulation that is taken up again must not find that its roster has expired."""


@dataclass(frozen=True)
class SimulatedPatients:
    """Windows of pretend patients in a file; implements `client.training.PatientBatches`."""

    folder: Path

    def _signal(self) -> np.ndarray:
        array: np.ndarray = np.load(self.folder / "signal.npy", mmap_mode="r", allow_pickle=False)
        return array  # (patient, window, channel, sample)

    def _valid(self) -> np.ndarray:
        array: np.ndarray = np.load(self.folder / "valid.npy", mmap_mode="r", allow_pickle=False)
        return array  # (patient, window, channel, token)

    @property
    def patient_count(self) -> int:
        return int(self._valid().shape[0])

    def segments(
        self, patients: np.ndarray, segments: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """`segments` windows of each patient, drawn with replacement."""
        signal, valid = self._signal(), self._valid()
        chosen = rng.integers(0, valid.shape[1], (len(patients), segments))  # (patient, segment)
        index = np.asarray(patients)[:, None]
        return np.asarray(signal[index, chosen]), np.asarray(valid[index, chosen])


@dataclass(frozen=True)
class Federation:
    """The consortium's folder. Picklable: workers make their own view of it.

    seed: None for noise of the operating system, else the seed of repeatable noise.
    unmasked: hospitals also answer requests for updates without masks.
    """

    root: Path
    sites: tuple[str, ...]
    seed: int | None
    unmasked: bool = False

    @property
    def coordinator(self) -> CoordinatorHome:
        return CoordinatorHome(self.root / "coordinator")

    def home(self, site: str) -> NodeHome:
        return NodeHome(self.root / "hospitals" / site)

    def folder(self, run: str) -> RunFolder:
        return RunFolder(self.coordinator.run_folder(run))

    def handle(self, site: str, header: bytes, body: bytes) -> tuple[bytes, bytes]:
        """What this hospital answers to a message."""
        home = self.home(site)
        data = SimulatedPatients(home.root / "pretend")
        seed = self.seed
        pretend = PretendNode(data=data, allow_unmasked=self.unmasked)
        if seed is not None:
            pretend = replace(
                pretend,
                noise=lambda request, name: NonPrivateForTests(
                    request.run, name, request.round, seed
                ),
                unlimited_budget=True,
            )
        return handle(home, header, body, pretend=pretend)


def found(
    root: Path,
    patients: Mapping[str, int],
    *,
    windows_per_patient: int,
    seed: int,
    repeatable: bool,
    now: datetime.datetime,
    unmasked: bool = False,
    draw: Draw | None = None,
    epsilon: float = 8.0,
) -> Federation:
    """Make coordinator and hospitals below `root`, enrolled and joined, with patients drawn.

    The root key, which the field keeps on a machine without a network, lies in `root`/root.

    Args:
        patients: site -> number of patients; declared rounded down to two digits.
        seed: of the patients, and of the noise if `repeatable`.
        now: today's date is the first day of certificates and roster.
        unmasked: hospitals also answer requests for updates without masks.
        draw: makes windows; the cohort simulator by default.
        epsilon: each hospital's budget, for life and for a run.
    """
    federation = Federation(root, tuple(sorted(patients)), seed if repeatable else None, unmasked)
    place = federation.coordinator
    place.make()
    tls.make(place, _ADDRESS, now=now)
    run_key = signing.create_key_file(place.run_key)
    release_key = signing.create_key_file(place.release_key)
    root_key = signing.create_key_file(root / "root" / "root.pem")
    today = now.date().isoformat()
    two = len(patients) == 2
    invitation = enrolment.seal(
        Invitation(
            address=_ADDRESS,
            ca_certificate=place.ca_certificate.read_text(),
            run_key=signing.public_bytes(run_key).hex(),
            release_key=signing.public_bytes(release_key).hex(),
            root_key=signing.public_bytes(root_key).hex(),
        ),
        run_key,
    )
    streams = np.random.default_rng(seed).spawn(len(patients))
    for site, rng in zip(federation.sites, streams, strict=True):
        home = federation.home(site)
        declared = rounded_patients(patients[site])
        keys.make(home, site, declared)
        Policy.write_default(
            home.policy,
            declared_patients=declared,
            epsilon_lifetime=epsilon,
            epsilon_per_run=epsilon,
            minimum_contributors=min(len(patients), 3),
            colluding_sites=0 if two else 1,
            allow_two_hospitals_who_can_each_compute_the_others_update=two,
            allowed_modes=MODES,
            approve_runs_in_advance=AdvanceApproval(
                purposes=("pretrain",), modes=MODES, epsilon_per_run=epsilon
            ),
        )
        keys.join(home, invitation)
        sites.enrol(place, keys.card_bytes(home))
        _write_patients(
            home.root / "pretend", rng, patients[site], windows_per_patient, draw or _simulator()
        )
    document = rosters.sign_here(place, root_key, today=today, valid_days=VALID_DAYS)
    for site in federation.sites:
        home = federation.home(site)
        policy = Policy.from_file(home.policy)
        RosterBook(home).approve(document, signing.public_bytes(root_key), policy, today)
    return federation


def _simulator() -> Draw:
    from simulations.cohort import draw_windows

    def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        signal, valid, _ = draw_windows(rng, count)
        return signal, valid

    return draw


def _write_patients(
    folder: Path, rng: np.random.Generator, patients: int, windows: int, draw: Draw
) -> None:
    import io

    signal, valid = draw(rng, patients * windows)
    for name, array in (("signal", signal), ("valid", valid)):
        stream = io.BytesIO()
        np.save(stream, array.reshape(patients, windows, *array.shape[1:]), allow_pickle=False)
        write_atomic(folder / f"{name}.npy", stream.getvalue(), mode=0o600)


def train(
    federation: Federation,
    config: RunConfig,
    *,
    start: StartingModel | None = None,
    engine: Literal["in-process", "ray"] = "in-process",
    workers: int = 0,
    on_progress: Callable[[Progress], None] = lambda _: None,
    hospitals: Hospitals | None = None,
) -> RunRecord:
    """Begin the run, or continue it, over all hospitals of the federation.

    Args:
        start: what to begin from; what `config.begin_with` names by default.
        workers: processes of the in-process engine; 0: none but this one.
        hospitals: who answers in the in-process engine; the federation by default. Tests put
            hospitals there that die.
    """
    place = federation.coordinator
    folder = federation.folder(config.run)
    if not folder.exists:
        coordinate.begin(
            folder,
            config,
            place.roster.read_bytes(),
            rosters.root_card(place).root,
            signing.load_key_file(place.run_key),
            start or coordinate.starting_model(config),
        )

    def conduct(transport: Transport) -> RunRecord:
        from server.app import carry_out

        return carry_out(
            transport,
            place,
            config.run,
            on_progress=on_progress,
            non_private_for_tests=federation.seed is not None,
        )

    if engine == "ray":
        from simulations.ray_engine import over_ray

        record: RunRecord = over_ray(federation, federation.sites, conduct)
        return record
    from server.app import TTL_S
    from server.grid import GridTransport, in_order
    from simulations.in_process_grid import InProcessGrid

    with InProcessGrid(hospitals or federation, len(federation.sites), workers) as grid:
        return conduct(GridTransport(grid, in_order(federation.sites), ttl_s=TTL_S))
