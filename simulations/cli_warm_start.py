"""fedprint-lab warm-start: pretrain on simulated windows, write the file that ships."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared_model import outputs, terminal
from shared_model.errors import OurMistake, Refused
from shared_model.files import write_atomic
from simulations.cli_ended import told_when_ended

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

    from shared_model.weights import Weights
    from simulations.pretrain import Point, Recipe

_MARKED = 40
"""Points of a curve that are marked; of more, the line alone is seen well enough."""


def register(app: typer.Typer) -> None:
    """Add `warm-start` to the lab's commands."""

    @app.command("warm-start")
    def warm_start(
        output: Annotated[
            Path,
            typer.Argument(
                callback=outputs.folder,
                help="Folder for the three files; one that holds the preset's is refused.",
            ),
        ],
        preset: Annotated[str, typer.Option(help="tiny, small or base.")] = "tiny",
        steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 3000,
        seed: Annotated[
            int, typer.Option(min=0, max=2**32 - 1, help="Seed of weights and windows.")
        ] = 1,
        threads: Annotated[
            int, typer.Option(min=1, help="Threads of torch; at most the machine's cores.")
        ] = 2,
        keep: Annotated[
            Path | None,
            typer.Option(
                callback=outputs.folder, help="Folder for intermediate weights, every 250 steps."
            ),
        ] = None,
        start_from: Annotated[Path | None, typer.Option(help="Go on from these weights.")] = None,
        batch: Annotated[int, typer.Option(min=2, help="Windows a step.")] = 64,
        learning_rate: Annotated[
            float, typer.Option(min=1e-6, max=1.0, help="Highest rate of AdamW.")
        ] = 3e-3,
        cross_modal: Annotated[
            float, typer.Option(min=0.0, max=10.0, help="Weight of the cross-modal term.")
        ] = 0.5,
        auxiliary: Annotated[
            float, typer.Option(min=0.0, max=10.0, help="Weight of the simulator's labels.")
        ] = 0.3,
        person: Annotated[
            float,
            typer.Option(
                min=0.0,
                max=10.0,
                help="Weight of telling pretend patients apart; needs --windows-per-patient 2.",
            ),
        ] = 0.0,
        windows_per_patient: Annotated[
            int, typer.Option(min=1, help="Windows of each pretend patient in a step.")
        ] = 1,
        device: Annotated[
            str,
            typer.Option(
                help="Where it is trained: cpu, cuda (the first GPU) or cuda:N. Written and tested "
                "without a GPU. Windows are simulated by one process of the CPU in any case."
            ),
        ] = "cpu",
        both_seen: Annotated[
            str,
            typer.Option(
                help="What labels look at of both sensors: masked (half is hidden) or whole."
            ),
        ] = "masked",
        bfloat16: Annotated[
            bool,
            typer.Option(
                "--bfloat16",
                help="Matrix products in bfloat16: 1.7 times as fast (`bench encoder`), but slower "
                "on a processor without instructions for it; refused on a GPU without them.",
            ),
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="The manifest as JSON.")] = False,
    ) -> None:
        """Train a model on SIMULATED windows only: no patient's data, no privacy cost.

        Writes warm_start_PRESET.safetensors, its manifest (.json) and the curve (.png).
        Equal commands give equal bits on one processor, with one number of threads and one set of
        versions; another device gives others, and a GPU may give others each time.
        Exit status 130 after Ctrl-C, 143 after SIGTERM: what --keep has kept is there.

        Example: fedprint-lab warm-start OUT --preset tiny --steps 3000 --seed 1
        """
        import torch

        from shared_model import weights as weights_io
        from shared_model.mae import PRESETS
        from simulations import pretrain
        from simulations.models import read_weights
        from simulations.torch_devices import device_of, in_words
        from simulations.torch_threads import check_threads

        if preset not in PRESETS:
            raise OurMistake(f"No preset {preset!r}.", do=f"Choose from: {', '.join(PRESETS)}.")
        check_threads(threads)
        recipe = pretrain.Recipe(
            steps=steps,
            seed=seed,
            batch=batch,
            learning_rate=learning_rate,
            cross_modal_weight=cross_modal,
            auxiliary_weight=auxiliary,
            person_weight=person,
            windows_per_patient=windows_per_patient,
            both_seen=both_seen,  # type: ignore[arg-type]  # checked below
            precision="bfloat16" if bfloat16 else "float32",
        )
        pretrain.check(recipe)
        place = device_of(device, bfloat16=bfloat16)
        first: Weights | None = None
        if start_from is not None:
            first = read_weights(start_from)
        _make_room(output, preset, keep)
        torch.set_num_threads(threads)
        elapsed = pretrain.timed()
        weights, points = _train(preset, recipe, keep, first, place)
        words = command_of(preset, recipe, threads, device)
        manifest = _manifest(preset, recipe, weights, points, words, threads, elapsed())
        manifest["device"] = in_words(place)
        if first is not None:
            manifest["made_by"] = f"{words} --start-from WEIGHTS"
            manifest["started_from"] = weights_io.digest(first)
        _write(output, preset, weights, manifest)
        if as_json:
            terminal.print_json(manifest)
        else:
            last = points[-1]
            terminal.out.print(
                f"{output}/warm_start_{preset}.safetensors: {steps} steps in {elapsed():.0f} s on "
                f"simulated windows only; error over trivial: masked {last.masked:.3f}, "
                f"cross-modal {last.cross_modal:.3f}"
            )


def command_of(preset: str, recipe: Recipe, threads: int, device: str) -> str:
    """The command with every option on which the weights depend, but --start-from."""
    return (
        f"fedprint-lab warm-start OUT --preset {preset} --steps {recipe.steps}"
        f" --seed {recipe.seed} --threads {threads} --device {device} --batch {recipe.batch}"
        f" --learning-rate {recipe.learning_rate} --cross-modal {recipe.cross_modal_weight}"
        f" --auxiliary {recipe.auxiliary_weight} --person {recipe.person_weight}"
        f" --windows-per-patient {recipe.windows_per_patient} --both-seen {recipe.both_seen}"
        f"{' --bfloat16' if recipe.precision == 'bfloat16' else ''}"
    )


def _make_room(output: Path, preset: str, keep: Path | None) -> None:
    """Before hours of training: what will be written can be.

    Raises:
        OurMistake: a folder takes no file, or a file's place is taken by a folder.
        Refused: an earlier one is there, which would be lost ("exists").
    """
    for end in (".safetensors", ".json", ".png"):
        outputs.file(output / f"warm_start_{preset}{end}")
        if (output / f"warm_start_{preset}{end}").exists():
            raise Refused(
                f"{output} holds warm_start_{preset}{end} already.",
                reason="exists",
                do="Choose another folder, or move the earlier files away first.",
            )
    for folder in (output, keep):
        if folder is not None:
            outputs.make(folder)


def _train(
    preset: str, recipe: Recipe, keep: Path | None, first: Weights | None, device: torch.device
) -> tuple[Weights, list[Point]]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from shared_model import weights as weights_io
    from shared_model.mae import PRESETS
    from simulations import pretrain

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    kept: list[Path] = []
    with (
        told_when_ended(lambda: _how_to_go_on(kept)),
        Progress(*columns, console=terminal.err) as progress,
    ):
        bar = progress.add_task("first windows", total=recipe.steps)

        def on_point(point: Point) -> None:
            words = f"masked {point.masked:.3f} cross-modal {point.cross_modal:.3f}"
            progress.update(bar, completed=point.step, description=words)
            if not terminal.err.is_terminal:
                terminal.err.print(
                    f"step {point.step} of {recipe.steps}: {words} auxiliary {point.auxiliary:.3f}"
                )

        def on_keep(step: int, weights: Weights) -> None:
            if keep is not None:
                path = keep / f"{preset}-{step:05d}.safetensors"
                write_atomic(path, weights_io.to_bytes(weights))
                kept.append(path)

        return pretrain.train(
            PRESETS[preset],
            recipe,
            start_from=first,
            on_point=on_point,
            on_keep=on_keep,
            device=device,
        )


def _how_to_go_on(kept: list[Path]) -> str:
    """After a signal. Steps and schedule begin anew with --start-from, from these weights."""
    if not kept:
        return "Nothing is kept: with --keep FOLDER weights are, every 250 steps."
    return f"Train on from what is kept, with steps and rate anew: --start-from {kept[-1]}"


def _manifest(
    preset: str,
    recipe: Recipe,
    weights: Weights,
    points: list[Point],
    words: str,
    threads: int,
    seconds: float,
) -> dict[str, Any]:
    from shared_model import weights as weights_io
    from shared_model.mae import PRESETS

    return {
        "schema": 1,
        "made_by": words,
        "data": "simulated windows only (simulations.cohort); no patient's data, no privacy cost",
        "model": PRESETS[preset].as_dict(),
        "model_digest": weights_io.digest(weights),
        "recipe": recipe.as_dict(),
        "threads": threads,
        "seconds": round(seconds, 1),
        "versions": {name: version(name) for name in ("fedprint", "torch", "numpy", "scipy")},
        "curve": [
            {"step": p.step, "masked": round(p.masked, 4), "cross_modal": round(p.cross_modal, 4)}
            for p in points
        ],
    }


def _write(output: Path, preset: str, weights: Weights, manifest: dict[str, Any]) -> None:
    import io

    from shared_model import weights as weights_io

    stem = f"warm_start_{preset}"
    image = io.BytesIO()
    curve_of(manifest).savefig(image, dpi=120, format="png")
    outputs.write_all(
        output,
        {
            f"{stem}.safetensors": weights_io.to_bytes(weights),
            f"{stem}.json": outputs.document(manifest, indent=1).encode(),
            f"{stem}.png": image.getvalue(),
        },
    )


def curve_of(manifest: dict[str, Any]) -> Figure:
    """The training curve of a manifest; few points are marked: one alone makes no line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    curve = manifest["curve"]
    few = len(curve) <= _MARKED
    for name, words in (("masked", "masked halves"), ("cross_modal", "one sensor from the other")):
        axes.plot(
            [p["step"] for p in curve], [p[name] for p in curve], label=words,
            marker="o" if few else "", markersize=4,
        )  # fmt: skip
    axes.axhline(1.0, color="#999999", lw=0.8)
    highest = max(max(p["masked"], p["cross_modal"]) for p in curve)
    axes.set(
        xlabel=f"step ({manifest['recipe']['batch']} simulated windows each)",
        ylabel="error / trivial error",
        xlim=(0, 1.05 * curve[-1]["step"]),
        ylim=(0, max(1.3, 1.1 * highest)),
    )
    axes.legend(frameon=False)
    return figure
