"""`fedprint-lab simulated-windows`: the packaged windows that a node's drift check shows beside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared_model import outputs, terminal

PATIENTS, WINDOWS_A_PATIENT, SEED = 32, 4, 20261129


def register(app: typer.Typer) -> None:
    """Add this part's commands."""
    app.command("simulated-windows")(simulated_windows)


def simulated_windows(
    output: Annotated[
        Path, typer.Argument(callback=outputs.file, help="Safetensors file to write.")
    ],
    patients: Annotated[int, typer.Option(min=2, help="Simulated patients.")] = PATIENTS,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = SEED,
) -> None:
    """Write windows of SIMULATED patients as the package holds them (shared_model/data).

    Example: fedprint-lab simulated-windows simulated_windows.safetensors
    """
    from shared_model.files import write_atomic

    data = made(patients, seed)
    write_atomic(output, data)
    terminal.out.print(
        f"{patients} simulated patients, {WINDOWS_A_PATIENT} windows each, {len(data)} bytes"
    )


def made(patients: int, seed: int) -> bytes:
    """The file's bytes."""
    import numpy as np

    from shared_model.simulated_windows import packed
    from simulations.cohort import draw_windows

    rng = np.random.default_rng(seed)
    count = patients * WINDOWS_A_PATIENT
    signal, valid, _ = draw_windows(rng, count, windows_per_patient=WINDOWS_A_PATIENT)
    shape = (patients, WINDOWS_A_PATIENT)
    return packed(
        signal.reshape(*shape, *signal.shape[1:]), valid.reshape(*shape, *valid.shape[1:])
    )
