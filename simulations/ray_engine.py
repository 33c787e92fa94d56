"""Flower's own simulation engine (Ray) under the same coordinator and the same hospitals.

Ray puts the working directory on the path of its workers; a folder named `client/` lying there was
executed in place of the installed package. So the process changes to an empty folder first.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from server.app import TTL_S
from server.grid import GridTransport, in_order
from server.transport import Transport
from shared_model.errors import FedprintError
from simulations.in_process_grid import Hospitals, client_app


def over_ray(
    hospitals: Hospitals,
    sites: Sequence[str],
    conduct: Callable[[Transport], Any],
    *,
    cpus_per_client: int = 1,
) -> Any:
    """Run `conduct(transport)` as a ServerApp in Flower's simulation engine; give back its result.

    Raises:
        FedprintError: what `conduct` raised.
    """
    results: list[Any] = []
    faults: list[FedprintError] = []
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            results.append(conduct(GridTransport(grid, in_order(sites), ttl_s=TTL_S)))
        except FedprintError as error:
            faults.append(error)  # Flower would turn it into another one

    with empty_folder(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        run_simulation(
            server_app,
            client_app(hospitals),
            num_supernodes=len(sites),
            backend_config={
                "client_resources": {"num_cpus": cpus_per_client, "num_gpus": 0.0},
                "init_args": {"include_dashboard": False, "log_to_driver": False},
            },
        )
    if faults:
        raise faults[0]
    return results[0]


@contextmanager
def empty_folder() -> Iterator[None]:
    before = os.getcwd()
    environment = {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    saved = {name: os.environ.get(name) for name in environment}
    with tempfile.TemporaryDirectory(prefix="fedprint-ray-") as folder:
        os.chdir(folder)
        os.environ.update(environment)
        try:
            yield
        finally:
            os.chdir(before)
            for name, value in saved.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
