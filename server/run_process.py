"""The process that runs the coordinator's app: enrols the roster at the SuperLink, submits the run,
executes its task.

Flower's own would unpack and import the bundle of the run; this one gives the task to the app of
the installed package (`server.app`).
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from logging import INFO
from pathlib import Path

import httpx
from flwr.common.constant import Status, SubStatus
from flwr.common.logger import log
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    run_from_proto,
    user_config_to_proto,
)
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.serverapp import ServerApp
from flwr.supercore.constant import TaskType
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity

from server import sites
from server.app import OPERATOR_HEADER, RUN, announce, app
from server.home import CoordinatorHome
from server.runtime_grid import PatientGrid
from server.superlink import TERMINATED
from shared_model import bundle
from shared_model.canonical import digest
from shared_model.errors import FedprintError, OurMistake
from shared_model.memory import large_blocks_apart

READY_S = 60.0
PUSH_S = 5.0
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


class _Operator:
    """Adds the operator's secret to each call of the SuperLink's control interface."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers[OPERATOR_HEADER] = self._secret
        return call_next(context)


class _FlowerEnded(BaseException):
    """Flower has ended the run; raised wherever the app is, so that no `except` of it goes on."""


class _Ear:
    """The run's process's handler of SIGINT, which means that Flower has ended the run: Flower's
    client sends it to its own process where a token has ended, and `execute` for all other signs.

    heard: while the app works. With the task's output our token ends, and a beat under way then
    would end a run that has gone well.
    """

    heard = False

    def __call__(self, *_: object) -> None:
        if self.heard:
            self.heard = False
            raise _FlowerEnded


flower_ended = _Ear()


def serve_run(arguments: list[str], chosen: ServerApp = app) -> None:
    """Entry of the process that runs `app`: RUN ADDRESS OPERATOR_SECRET_FILE APP_SECRET_FILE.

    Args:
        chosen: another app in simulations only.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    signal.signal(signal.SIGINT, flower_ended)
    large_blocks_apart()
    try:
        _serve_run(chosen, *arguments)
    except FedprintError as error:
        told = {"message": error.message, "do": error.do, "exit_code": error.exit_code}
        announce({"event": "fault", **told, "site": getattr(error, "site", "")})
        sys.exit(error.exit_code)


def _serve_run(
    chosen: ServerApp, run: str, address: str, operator_file: str, secret_file: str
) -> None:
    home = CoordinatorHome.find()
    certificate = home.ca_certificate.read_bytes()
    wait_until_ready(address, home.ca_certificate)
    with closing(operator_client(address, certificate, Path(operator_file))) as control:
        enrol(control, home)
        _stop_old_runs(control)
        number = submit(control, run, bundle.content())
    announce({"event": "submitted", "flower_run": str(number)})
    token = acquire(address, certificate, Path(secret_file).read_bytes(), number)
    execute(chosen, address, certificate, token)


def operator_client(address: str, certificate: bytes, secret_file: Path) -> ControlHttpClient:
    """The SuperLink's control interface, with the operator's secret of this start."""
    return ControlHttpClient.from_server_address(
        address,
        False,
        certificate,
        [
            RuntimeVersionHttpInterceptor(component_name="flwr CLI"),
            _Operator(secret_file.read_bytes().hex()),
        ],
    )


def wait_until_ready(address: str, certificate: Path) -> None:
    """Wait for the SuperLink to listen.

    Raises:
        OurMistake: it does not within READY_S.
    """
    import ssl

    context = ssl.create_default_context(cafile=str(certificate))
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        try:
            if httpx.get(f"https://{address}/health", verify=context, timeout=5.0).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)  # it is not listening yet
    raise OurMistake(
        f"The SuperLink did not answer within {READY_S:.0f} s.", do="See logs/superlink.log."
    )


def enrol(control: ControlHttpClient, home: CoordinatorHome) -> None:
    """Make the SuperLink's list of nodes equal to the roster."""
    cards = {card.supernode_bytes: card for card in sites.roster(home)}
    known = {n.public_key: n for n in control.ListNodes(ListNodesRequest()).nodes_info}
    for key, node in known.items():
        if key not in cards and not node.unregistered_at:
            control.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))
    for key, card in cards.items():
        if key not in known:
            control.RegisterNode(RegisterNodeRequest(public_key=key, name=card.site))


def _stop_old_runs(control: ControlHttpClient) -> None:
    """Runs that a killed coordinator left behind would otherwise wait for their heartbeat."""
    for number, old in control.ListRuns(ListRunsRequest()).run_dict.items():
        if old.status.status != Status.FINISHED:
            log(INFO, "stopping Flower run %s, left by an earlier start", number)
            control.StopRun(StopRunRequest(run_id=number))


def submit(control: ControlHttpClient, run: str, content: bytes) -> int:
    """Start a Flower run of this bundle; its number."""
    answer = control.StartRun(
        StartRunRequest(
            fab=Fab(hash_str=digest(content), content=content),
            override_config=user_config_to_proto({RUN: run}),
        )
    )
    if not answer.HasField("run_id"):
        raise OurMistake("The SuperLink did not take the run.", do="See logs/superlink.log.")
    return answer.run_id


def acquire(address: str, certificate: bytes, secret: bytes, number: int) -> str:
    """Claim the task of our run; others' are none of ours."""
    client = RuntimeHttpClient.from_server_address(
        address,
        False,
        certificate,
        [
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={_ACQUIRE}),
        ],
        retry_invoker=make_simple_http_retry_invoker(),
    )
    end = time.monotonic() + READY_S
    try:
        while time.monotonic() < end:
            answer = client.AcquireTask(
                AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
            )
            if answer.HasField("task") and answer.token and answer.task.run_id == number:
                return answer.token
            time.sleep(0.1)  # the SuperLink queues it
    finally:
        client.close()
    raise OurMistake("The SuperLink did not queue the run.", do="See logs/superlink.log.")


def execute(chosen: ServerApp, address: str, certificate: bytes, token: str) -> None:
    """Pull the task's input, give it to the app of this process, tell Flower how it ended.

    Of a process where `flower_ended` handles SIGINT, as `serve_run` has it.

    Raises:
        OurMistake: Flower has ended the run.
    """
    grid = PatientGrid(address, root_certificates=certificate, token=token)
    client = grid._runtime_client

    def alive() -> bool:
        try:
            running = client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success
        except httpx.HTTPError:
            return False  # tried again by the sender; for a token that has ended SIGINT comes too
        except RunNotRunningException:
            running = False
        if not running:
            main = threading.main_thread().ident  # whatever it waits for is interrupted
            signal.pthread_kill(main or 0, signal.SIGINT)
        return True

    beat = HeartbeatSender(alive)
    output = PushTaskOutputRequest(sub_status=SubStatus.FAILED, details="interrupted")
    try:
        flower_ended.heard = True
        beat.start()
        task = client.PullTaskInput(PullTaskInputRequest())  # its bundle is left alone
        grid.set_run(run_from_proto(task.run))
        TaskIdentity.task_id = task.task_id
        TaskIdentity.run_id = task.run.run_id
        TaskIdentity.node_id = task.context.node_id
        context = context_from_proto(task.context)
        context.run_config = {**context.run_config, **dict(_config(task.run.override_config))}
        chosen(grid, context)
        output = PushTaskOutputRequest(
            context=context_to_proto(context), sub_status=SubStatus.COMPLETED
        )
    except (_FlowerEnded, RunNotRunningException) as error:
        raise OurMistake(
            "Flower has ended this run: it was stopped at the SuperLink, or this machine slept for "
            "longer than the run's token lives.",
            do="Start again: the run continues where it was.",
        ) from error
    finally:
        flower_ended.heard = False
        _tell(client, output)
        # A beat under way is not waited for: it may be tried again for ever.
        if beat.is_running:
            threading.Thread(target=beat.stop, daemon=True).start()
        grid.close()


def _tell(client: RuntimeHttpClient, output: PushTaskOutputRequest) -> None:
    """Tell Flower how the run ended, within `PUSH_S`. What it answers changes nothing: the run is
    what the coordinator's own folder says, and the next start stops what Flower has left."""

    def push() -> None:
        try:
            client.PushTaskOutput(output)
        except (httpx.HTTPError, RunNotRunningException, RuntimeError) as error:
            log(INFO, "Flower was not told how the run ended: %s", type(error).__name__)

    pushing = threading.Thread(target=push, daemon=True)
    pushing.start()
    pushing.join(PUSH_S)


def _config(proto: object) -> dict[str, bool | float | int | str]:
    from flwr.common.serde import user_config_from_proto

    reader: Callable[[object], dict[str, bool | float | int | str]] = user_config_from_proto
    return reader(proto)
