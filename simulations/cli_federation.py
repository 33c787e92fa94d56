"""`fedprint-lab federate`: a training run over pretend hospitals on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from shared_model import outputs, terminal
from shared_model.config import TRAINABLE
from shared_model.protocol import PRIVACY_UNIT


def register(app: typer.Typer) -> None:
    """Add this part's commands."""
    app.command()(federate)


def federate(
    folder: Annotated[
        Path,
        typer.Argument(callback=outputs.folder, help="New or earlier folder of the consortium."),
    ],
    sites: Annotated[int, typer.Option(min=2, max=100, help="Pretend hospitals.")] = 3,
    patients: Annotated[int, typer.Option(min=2, help="Patients of the largest hospital.")] = 200,
    windows: Annotated[int, typer.Option(min=1, help="Windows per patient.")] = 6,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of the whole run.")] = 3,
    mode: Annotated[
        str,
        typer.Option(
            help="local, or distributed: one step a round, whose noise the hospitals share out."
        ),
    ] = "local",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps in a round; 5, or 1 in mode distributed.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of Adam, 0.001; in mode distributed of plain steps, 0.1.")
    ] = None,
    sample_rate: Annotated[float, typer.Option(help="Poisson rate of a patient in a step.")] = 0.1,
    noise_multiplier: Annotated[
        float, typer.Option(min=0.0, help="Noise of a step over the clipping norm.")
    ] = 2.0,
    clipping_norm: Annotated[
        float, typer.Option(min=0.0, help="L2 bound on what a patient adds to a step.")
    ] = 1.0,
    preset: Annotated[str, typer.Option(help="tiny, small or base.")] = "tiny",
    trainable: Annotated[
        str, typer.Option(help=f"What hospitals train: {', '.join(TRAINABLE)}.")
    ] = "head",
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Begin with random weights, no warm start.")
    ] = False,
    repeatable: Annotated[
        bool,
        typer.Option(
            "--repeatable-non-private", help="Seeded noise: bit-identical runs, NO PRIVACY."
        ),
    ] = False,
    unmasked: Annotated[
        bool,
        typer.Option(
            "--unmasked-for-simulation",
            help="Add the same integers without masks: same model, faster, NO SECURE SUM.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of patients, and of repeatable noise.")] = 1,
    engine: Annotated[str, typer.Option(help="in-process or ray")] = "in-process",
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: this one only.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Train over pretend hospitals with the coordinator's and the nodes' own code.

    The same FOLDER again continues a run that was stopped.

    Example: fedprint-lab federate /tmp/consortium --sites 3 --rounds 3 --workers 2
    """
    import datetime

    from server.run_config import RunConfig
    from shared_model.errors import OurMistake
    from simulations import federation

    if engine not in ("in-process", "ray"):
        raise OurMistake(f"There is no engine {engine!r}.", do="Choose in-process or ray.")
    shared = mode == "distributed"
    config = RunConfig.from_dict(
        {
            "run": "simulation",
            "preset": preset,
            "begin_with": "random-weights" if random_weights else "warm-start",
            "rounds": rounds,
            "privacy": {
                "sample_rate": sample_rate,
                "noise_multiplier": noise_multiplier,
                "clipping_norm": clipping_norm,
                "steps": steps or (1 if shared else 5),
                "mode": mode,
            },
            "training": {
                "trainable": trainable,
                "optimiser": "sgd" if shared else "adam",
                "learning_rate": learning_rate or (0.1 if shared else 1e-3),
            },
            "aggregation": "UnmaskedForSimulation" if unmasked else "secure-sum",
            "minimum_contributors": min(sites, 3),
            "poll_s": 0.05,
        }
    )
    counts = {f"site-{n + 1:02d}": max(2, patients * (sites - n) // sites) for n in range(sites)}
    if (folder / "hospitals").is_dir():
        seeded = seed if repeatable else None
        names = tuple(sorted(counts))
        place = federation.Federation(folder.absolute(), names, seeded, unmasked)
        if place.folder(config.run).record().config != config:
            raise OurMistake(
                f"{folder} holds a run with other settings.",
                do="Give the same options again, or another folder.",
            )
    else:
        place = federation.found(
            folder.absolute(),
            counts,
            windows_per_patient=windows,
            seed=seed,
            repeatable=repeatable,
            unmasked=unmasked,
            now=datetime.datetime.now(datetime.UTC),
        )
    with _progress(rounds) as tell:
        record = federation.train(
            place,
            config,
            engine="ray" if engine == "ray" else "in-process",
            workers=workers,
            on_progress=tell,
        )
    rows = [_row(item) for item in record.rounds]
    words = [
        "SIMULATED patients and hospitals: one machine holds all keys and all data.",
        "NOT PRIVATE: the noise comes from a seed and protects nobody; epsilon is infinite."
        if repeatable
        else "Private: each hospital drew noise from the operating system and booked its spend.",
        "UNMASKED FOR SIMULATION: the coordinator saw each hospital's update by itself."
        if unmasked
        else "Secure sum: of each round the coordinator learned the sum of the hospitals' updates.",
    ]
    if shared:
        words.append(
            "Mode distributed: the noise is shared out; the promise holds while the secure sum "
            "does, against as many colluding hospitals as the roster's threshold bears."
        )
    if as_json:
        terminal.print_json(
            {
                "run": record.run,
                "state": record.state,
                "pause": record.pause,
                "aggregation": record.config.aggregation,
                "model_digest": record.model_digest,
                "folder": str(place.folder(config.run).path),
                "rounds": rows,
                "in_words": words,
            }
        )
        return
    terminal.show(
        f"Run {record.run}: {record.state}. Epsilon is for {PRIVACY_UNIT}, trust model {mode}.",
        [
            {
                "round": row["round"],
                "outcome": row["outcome"],
                "contributors": ", ".join(row["contributors"]),
                "absent": ", ".join(row["absent"]),
                "largest epsilon": (row["epsilon"] if row["private"] else "infinite: NOT PRIVATE"),
                "delta": row["delta"],
                "model": str(row["model"])[:12],
            }
            for row in rows
        ],
        as_json=False,
    )
    for line in words:
        terminal.out.print(f"- {line}", soft_wrap=True)


@contextmanager
def _progress(rounds: int) -> Iterator[Callable[[Any], None]]:
    """A bar with the time left, and one line for what matters, on standard error."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    bar = Progress(
        TextColumn("rounds"), BarColumn(), MofNCompleteColumn(), Left(), console=terminal.err
    )
    with bar:
        task = bar.add_task("rounds", total=rounds)

        def tell(step: Any) -> None:
            bar.update(task, completed=step.completed)
            if step.kind not in ("sent", "accepted"):
                about = " ".join(text for text in (step.site, step.detail) if text)
                bar.console.print(f"round {step.round} {step.kind}{': ' if about else ''}{about}")

        yield tell


def _row(item: Any) -> dict[str, Any]:
    spent = [contributor.privacy for contributor in item.contributors]
    epsilons = [one.epsilon for one in spent]
    return {
        "round": item.round,
        "outcome": item.outcome,
        "contributors": [contributor.site for contributor in item.contributors],
        "absent": [f"{absent.site} ({absent.reason or absent.ending})" for absent in item.absent],
        "epsilon": max(epsilons) if epsilons and None not in epsilons else None,
        "private": all(contributor.private for contributor in item.contributors),
        "delta": max((c.privacy.delta for c in item.contributors), default=None),
        "unit": PRIVACY_UNIT,
        "trust_model": spent[0].trust_model if spent else None,
        "colluding_sites": min(
            (one.colluding_sites for one in spent if one.colluding_sites is not None), default=None
        ),
        "outsider_epsilon": max(
            (one.outsider_epsilon for one in spent if one.outsider_epsilon is not None),
            default=None,
        ),
        "model": item.model_out,
    }
