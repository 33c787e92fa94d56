"""Flower's own simulation engine (Ray) under the same coordinator and the same hospitals.

It works in an empty folder: see `simulations.empty_folder`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from server.app import TTL_S
from server.grid import GridTransport, in_order
from server.transport import Transport
from shared_model.errors import FedprintError
from simulations.empty_folder import NOTHING_SENT, empty_folder
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

    with empty_folder(NOTHING_SENT):
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
