"""How well each model of a run reconstructs simulated windows: the only loss curve there can be.

Hospitals send no loss. These windows are of pretend patients (`simulations.cohort`), the same for
every model, so that a curve shows whether training goes on as it should, and nothing of anybody.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from shared_model import terminal
from shared_model.errors import OurMistake

if TYPE_CHECKING:
    from server.checkpoints import RunFolder
    from server.public_loss import PublicLoss, PublicPoint

WINDOWS_A_PATIENT = 4


def register(app: typer.Typer) -> None:
    """Add `public-loss` to the lab's commands."""
    app.command("public-loss")(public_loss)


def public_loss(
    home: Annotated[Path, typer.Argument(help="The coordinator's folder.", exists=True)],
    run: Annotated[str, typer.Argument(help="Name of a run.")],
    patients: Annotated[int, typer.Option(min=1, help="Pretend patients.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same windows.")] = 20261128,
    every: Annotated[int, typer.Option(min=1, help="Every so many aggregated rounds.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a run's reconstruction error on SIMULATED windows where the dashboard shows it.

    Reads the run's models, writes runs/RUN/public_loss.json, and changes nothing else. May be
    repeated while the run goes on.

    Example: fedprint-lab public-loss ~/.fedprint/coordinator run-1
    """
    import torch

    from server.checkpoints import RunFolder
    from server.public_loss import write

    torch.set_num_threads(threads)
    folder = RunFolder(home.expanduser() / "runs" / run)
    curve = curve_of(folder, patients=patients, seed=seed, every=every)
    write(folder.path, curve)
    rows = [
        {"round": one.round, "masked": one.masked, "cross-modal": one.cross_modal}
        for one in curve.points
    ]
    terminal.show(f"Error over trivial, {curve.windows} simulated windows", rows, as_json=as_json)


def curve_of(
    folder: RunFolder,
    *,
    patients: int,
    seed: int,
    every: int = 1,
    on_point: Callable[[PublicPoint], None] = lambda _: None,
) -> PublicLoss:
    """The curve of the models that a run has made so far; every `every`-th, and the last.

    Raises:
        OurMistake: no such run, or a model cannot be read.
    """
    from server.public_loss import PublicLoss, PublicPoint
    from shared_model import mae
    from shared_model.reconstruction import reconstruction_scores
    from simulations.cohort import draw_windows

    if not folder.exists:
        raise OurMistake(f"There is no run in {folder.path}.")
    record = folder.record()
    signal, valid, _ = draw_windows(
        np.random.default_rng(seed),
        patients * WINDOWS_A_PATIENT,
        windows_per_patient=WINDOWS_A_PATIENT,
    )
    made = [(item.round, item.model_out) for item in record.rounds if item.outcome == "aggregated"]
    chosen = [(0, record.initial_model), *made[every - 1 :: every]]
    if made and chosen[-1] != made[-1]:
        chosen.append(made[-1])
    model, points = mae.build(record.model, 0), []
    for number, digest in chosen:
        mae.load_weights(model, folder.weights(record, number))
        scores = reconstruction_scores(model, signal, valid, np.random.default_rng([seed, 1]))
        point = PublicPoint(
            round=number,
            model=digest,
            masked=scores["masked"],
            cross_modal=scores["cross_modal"],
        )
        points.append(point)
        on_point(point)
    return PublicLoss(windows=len(signal), patients=patients, seed=seed, points=tuple(points))
