"""The coordinator's processes: SuperLink and run, started, watched and ended together.

Flower loses a run when its SuperLink dies. Ours lives in the run folder: a new start stops what the
old one left in Flower, submits a new Flower run, and `server.coordinate` continues the lineage.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import socket
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from server.home import CoordinatorHome
from shared_model.children import Child, Family
from shared_model.enrolment import check_address
from shared_model.errors import FedprintError, OurMistake, PeerFault, Refused
from shared_model.files import write_atomic
from shared_model.locks import is_locked, locked
from shared_model.signing import write_secret

FIRST = "Run first: fedprint-coordinator init --address HOST:PORT"
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
WATCH_S = 0.5
TERMINATED = 143
"""Exit code of the run's process where SIGTERM ends it, as a shell has it."""
LAST_PORT = 65535


class CoordinatorConfig(BaseModel):
    """coordinator.toml. `address`: what hospitals reach; `bind`: where the SuperLink listens.

    `registry_port`: where the registry listens, at the same host; by default one above.
    `dashboard_port`: of the dashboard; by default one above the registry's. `dashboard_bind`: where
    it listens; elsewhere than on loopback with TLS only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    address: str
    bind: str = "127.0.0.1"
    registry_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    dashboard_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    dashboard_bind: str = "127.0.0.1"

    @field_validator("address")
    @classmethod
    def _has_port(cls, value: str) -> str:
        check_address(value)
        return value

    @property
    def port(self) -> int:
        return check_address(self.address)[1]

    @property
    def registry_at(self) -> int:
        """The registry's port.

        Raises:
            OurMistake: there is none above the SuperLink's, or it is the same.
        """
        port = self.port + 1 if self.registry_port is None else self.registry_port
        if port > LAST_PORT or port == self.port:
            raise OurMistake(
                "The registry needs a port of its own.",
                do="Run: fedprint-coordinator init --registry-port PORT",
            )
        return port

    @property
    def dashboard_at(self) -> int:
        """The dashboard's port.

        Raises:
            OurMistake: there is none above the registry's, or it is another's.
        """
        registry = self.registry_at
        port = registry + 1 if self.dashboard_port is None else self.dashboard_port
        if port > LAST_PORT or port in (self.port, registry):
            raise OurMistake(
                "The dashboard needs a port of its own.",
                do="Run: fedprint-coordinator init --dashboard-port PORT",
            )
        return port

    @property
    def registry_address(self) -> str:
        """HOST:PORT of the registry."""
        return f"{self.address.rpartition(':')[0]}:{self.registry_at}"


def write_config(home: CoordinatorHome, config: CoordinatorConfig) -> None:
    """Write coordinator.toml."""
    text = f'address = "{config.address}"\nbind = "{config.bind}"\n'
    for name, port in (
        ("registry_port", config.registry_port),
        ("dashboard_port", config.dashboard_port),
    ):
        if port is not None:
            text += f"{name} = {port}\n"
    if config.dashboard_bind != "127.0.0.1":
        text += f'dashboard_bind = "{config.dashboard_bind}"\n'
    write_atomic(home.config, text.encode())


def load_config(home: CoordinatorHome) -> CoordinatorConfig:
    """Read coordinator.toml.

    Raises:
        OurMistake: absent or wrong.
    """
    try:
        return CoordinatorConfig.model_validate(tomllib.loads(home.config.read_text()))
    except (OSError, ValueError) as error:
        raise OurMistake(f"{home.config} is absent or wrong.", do=FIRST) from error


@contextmanager
def only_one(home: CoordinatorHome) -> Iterator[None]:
    """Hold the home's lock; the kernel lets go of it when this process ends, however it ends.

    Raises:
        OurMistake: another coordinator runs in this home.
    """
    home.make()
    busy = OurMistake(
        f"A coordinator is running in {home.root}.", do="Stop it first, or choose --home."
    )
    with locked(home.lock, busy):
        yield


def is_running(home: CoordinatorHome) -> bool:
    """Whether a coordinator runs in this home now."""
    return is_locked(home.lock)


def refuse_restored(home: CoordinatorHome) -> None:
    """Nothing is served from a folder that was put back before its operator has looked at it.

    Raises:
        Refused: it was restored, and nobody has said so ("restored").
    """
    if home.restored.exists():
        raise Refused(
            "This folder was restored from a backup: certificates revoked since are valid again.",
            reason="restored",
            do="Run: fedprint-coordinator restored",
        )


def _refuse_copy(home: CoordinatorHome, run: str) -> None:
    """Raises OurMistake if the folder of this name is the copy of another run's."""
    from server.checkpoints import RunFolder

    folder = RunFolder(home.run_folder(run))
    if folder.exists:
        folder.own_record()


def conduct(
    home: CoordinatorHome,
    run: str,
    on_event: Callable[[Mapping[str, Any]], None],
    *,
    resume_paused: bool = False,
    entry: str = "server.run_process:serve_run",
) -> None:
    """Start SuperLink and run, pass on the run's events, end both. Blocks until the run is over.

    entry: of the run's process; another one in simulations only.

    Events: "submitted" (flower_run), "progress" (fields of `coordinate.Progress`), "ended" (state,
    pause).

    Raises:
        OurMistake: the port is taken, the folder is the copy of a run, or a process ended early;
            says where its log is.
        Refused: as `refuse_restored`.
        FedprintError: what ended the run, as the run's process told it.
    """
    config = load_config(home)
    refuse_restored(home)
    _refuse_copy(home, run)
    with (
        only_one(home),
        _port(config),
        start_secrets(home) as (operator, application),
        Family() as family,
    ):
        link = start_link(family, home, config, operator, application)
        worker = family.start(
            "run",
            entry,
            [run, f"127.0.0.1:{config.port}", str(operator), str(application)],
            log=home.logs / "run.log",
            environment={
                **QUIET,
                "FLWR_HOME": str(home.flower),
                "FEDPRINT_COORDINATOR_HOME": str(home.root),
                "FEDPRINT_RESUME_PAUSED": "1" if resume_paused else "0",
            },
            piped=True,
        )
        _watch(link, worker, on_event)


def start_link(
    family: Family,
    home: CoordinatorHome,
    config: CoordinatorConfig,
    operator: Path,
    application: Path,
) -> Child:
    """Start the guarded SuperLink with the two secrets of this start."""
    arguments = [
        str(operator),
        *("--host", config.bind),
        *("--port", str(config.port)),
        *("--ssl-certfile", str(home.server_certificate)),
        *("--ssl-keyfile", str(home.server_key)),
        *("--ssl-ca-certfile", str(home.ca_certificate)),
        *("--database", str(home.flower / "superlink.sqlite")),
        "--enable-supernode-auth",
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(application)),
        "--disable-runtime-dependency-installation",
    ]
    return family.start(
        "SuperLink",
        "server.app:serve_superlink",
        arguments,
        log=home.logs / "superlink.log",
        environment={**QUIET, "FLWR_HOME": str(home.flower)},
    )


def _watch(link: Child, worker: Child, on_event: Callable[[Mapping[str, Any]], None]) -> None:
    """Until the run's process has ended. What it said of the run's end counts, whatever comes
    after: nothing of the run does."""
    fault: Mapping[str, Any] | None = None
    ended, pending = False, b""
    with selectors.DefaultSelector() as selector:
        selector.register(worker.output, selectors.EVENT_READ)
        while True:
            if selector.select(WATCH_S):
                data = os.read(worker.output.fileno(), 65536)
                if not data:
                    break
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    event = _parsed(line)
                    if event.get("event") == "fault":
                        fault = event
                    elif event:
                        ended = ended or event.get("event") == "ended"
                        on_event(event)
            if link.exit_code is not None and not ended:
                raise OurMistake(
                    f"The SuperLink ended. The last lines of {link.log}:\n{link.last_lines()}",
                    do="Start again: the run continues where it was.",
                )
    code = worker.process.wait()
    if ended:
        return
    if fault is not None:
        raise _told(fault)
    if code == TERMINATED:
        raise OurMistake(
            "The run's process was ended from outside (SIGTERM).",
            do="Start again: the run continues where it was.",
        )
    raise OurMistake(
        f"The run ended early. The last lines of {worker.log}:\n{worker.last_lines()}",
        do="Start again: the run continues where it was.",
    )


def _told(event: Mapping[str, Any]) -> FedprintError:
    """The fault of the run's process, as it told it over its pipe."""
    message, do = str(event.get("message", "")), str(event.get("do", ""))
    code = event.get("exit_code")
    if code == Refused.exit_code:
        return Refused(message, reason="run", do=do)
    if code == PeerFault.exit_code:
        return PeerFault(message, site=str(event.get("site", "")), do=do)
    return OurMistake(message, do=do) if code == OurMistake.exit_code else FedprintError(message)


def _parsed(line: bytes) -> dict[str, Any]:
    """A line of the run's process; what is no JSON object is none of its events."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


@contextmanager
def start_secrets(home: CoordinatorHome) -> Iterator[tuple[Path, Path]]:
    """Two fresh secrets of this start: the operator's, and that of the run's process."""
    paths = (home.flower / "operator.secret", home.flower / "app.secret")
    for path in paths:
        path.unlink(missing_ok=True)
        write_secret(path, secrets.token_bytes(32))
    try:
        yield paths
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


@contextmanager
def _port(config: CoordinatorConfig) -> Iterator[None]:
    """Say at once when the port is taken; the SuperLink says so in its log only."""
    family = socket.AF_INET6 if ":" in config.bind else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.bind, config.port))
        except OSError as error:
            raise OurMistake(
                f"Port {config.port} at {config.bind} cannot be used: {error.strerror}.",
                do="Stop what uses it, or change the address in coordinator.toml.",
            ) from error
    yield
