"""fedprint-lab head: train, show, apply, sign and verify heads on frozen fingerprints."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from shared_model import outputs, terminal
from shared_model.errors import OurMistake

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared_model.heads.arrays import Head

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]
TASK_NAMES = (
    "hypertension", "af", "rhythm", "vt", "age", "sex", "heart-rate", "quality", "identity",
)  # fmt: skip
LARGEST_SEED = 2**32 - 1
TaskName = Annotated[
    str, typer.Argument(metavar="TASK", help=f"One of: {', '.join(TASK_NAMES)}; see: head list.")
]
Level = Annotated[float, typer.Option(min=0.5, max=0.99, help="Coverage of sets, bands.")]
Draws = Annotated[int, typer.Option(min=20, max=10_000, help="Bootstrap samples.")]
OVERALL = "Sets hold the truth for --level of all patients, not of those of each class."
HeadFolder = Annotated[Path, typer.Argument(metavar="HEAD", help="Folder of a head.")]

app = typer.Typer(
    name="head",
    help="Small models on frozen fingerprints: calibrated, with intervals and abstention.",
    no_args_is_help=True,
)


def register(lab: typer.Typer) -> None:
    """Add `head` to the lab's commands."""
    from simulations import cli_head_apply, cli_head_federate

    cli_head_apply.add(app)
    cli_head_federate.add(app)
    lab.add_typer(app)


def promise(overall: bool) -> Literal["each class", "overall"]:
    """What the sets promise."""
    return "overall" if overall else "each class"


def command_line() -> str:
    """The command as typed, for the manifest."""
    return shlex.join(["fedprint-lab", *sys.argv[1:]])


def today() -> str:
    """The date, UTC."""
    return datetime.now(UTC).date().isoformat()


@app.command("list")
def list_tasks(as_json: AsJson = False) -> None:
    """The tasks, with the collections that are looked for below the data folder, and what
    recordings of folders named with --sites must have.

    Example: fedprint-lab head list
    """
    from simulations.heads.tasks import TASKS

    rows = [
        {
            "task": task.name,
            "kind": task.kind,
            "sensors": sensors,
            "folders": task.sources[sensors].pattern if sensors in task.sources else "--sites",
            "one answer is of": f"a {source.item}",
            "with --sites": source.needs,
            "about": task.about,
        }
        for task in TASKS.values()
        for sensors, source in (task.own or task.sources).items()
    ]
    terminal.show("Tasks of heads", rows, as_json=as_json)


@app.command()
def train(
    task: TaskName,
    output: Annotated[
        Path, typer.Option("-o", "--output", callback=outputs.folder, help="Folder to write.")
    ],
    on: Annotated[
        str,
        typer.Option(help="`warm-start`, `warm-start:PRESET`, a release, or a safetensors file."),
    ] = "warm-start",
    signer: Annotated[
        str | None, typer.Option(help="Release key (hex) or coordinator.json; else not verified.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Real recordings (default FEDPRINT_DATA, ../shared/data).")
    ] = None,
    sites: Annotated[
        list[Path] | None, typer.Option("--sites", help="Folders to take instead; repeatable.")
    ] = None,
    sensors: Annotated[
        str | None,
        typer.Option(
            help="both, ecg or ppg; default: the task's usual, of --sites the first that do."
        ),
    ] = None,
    folds: Annotated[int, typer.Option(min=2, max=50, help="Folds over patients.")] = 5,
    fewest_of_class: Annotated[
        int,
        typer.Option(min=2, help="Patients of each class; below 5 its figures have no interval."),
    ] = 5,
    level: Level = 0.9,
    overall: Annotated[bool, typer.Option("--overall", help=OVERALL)] = False,
    draws: Draws = 500,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of folds and bootstrap.")
    ] = 0,
    licence: Annotated[str, typer.Option(help="Licence of the data, for the card.")] = "",
    open_data: Annotated[
        str,
        typer.Option("--open-data", help="Why everybody has these data; else it is not signed."),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Train a head at one place, without noise, and measure it on patients left out.

    Writes head.json, head.safetensors, MODEL_CARD.md and plots/; beside the folder its figures with
    what made them, measured-head-FOLDER.json, for results. NOT PRIVATE: such a head must not
    leave the site, unless its data are open anyway. With noise: fedprint-lab head federate. Fewer
    than 20 patients, or 5 of a class, are refused, as fedprint-node personalise refuses them.

    --sites takes labels of a recording where it is not annotated; docs/heads.md has the list.

    Example: fedprint-lab head train hypertension -o heads/hypertension
    """
    from shared_model.heads import files
    from simulations.cli_probe import default_data
    from simulations.heads import measured
    from simulations.heads.data import load
    from simulations.heads.tasks import task_named
    from simulations.heads.train import Asked
    from simulations.heads.train import train as trained
    from simulations.models import open_model

    began = time.monotonic()
    chosen = task_named(task)
    used = None if sites and sensors is None else chosen.sensors(sensors, sites or ())
    open_data = reason(open_data, "--open-data")
    free(output)
    outputs.new_file(measured.file_of(output))
    model = open_model(on, signer)
    asked = Asked(
        folds, seed, draws, command_line(), today(), licence, open_data, level, promise(overall)
    )
    with Saying() as say:
        found = load(
            chosen, used, model, data or default_data(), sites=sites or (),
            fewest_of_class=fewest_of_class, say=say,
        )  # fmt: skip
        head = trained(found, model, asked, say)
    files.write(output, head)
    figures = measured.write(output, head, model, seconds=time.monotonic() - began)
    drawn = plots(output, head)
    report(head, output, drawn, as_json, figures=figures, unreadable=found.unreadable)


@app.command()
def show(folder: HeadFolder, as_json: AsJson = False) -> None:
    """What a head is: figures, calibration, privacy. Its files are checked, not its signature.

    Whether it has one is said; who signed is what fedprint-lab head verify tells.

    Example: fedprint-lab head show heads/hypertension
    """
    from shared_model.heads import files

    signed = "there, NOT VERIFIED" if files.is_signed(folder) else "none"
    report(files.read(folder), folder, [], as_json, signature=signed)


@app.command()
def sign(
    folder: HeadFolder,
    key: Annotated[Path, typer.Option(help="The coordinator's release key: keys/release.pem.")],
    as_json: AsJson = False,
) -> None:
    """Sign a head for other hospitals. Refused if it was trained without noise on closed data.

    Refused too while its folder holds anything but the head and its plots, or plots of a head whose
    figures have noise, which has none. The signature does not cover plots.

    Example: fedprint-lab head sign heads/age --key ~/.fedprint/coordinator/keys/release.pem
    """
    from shared_model import signing
    from shared_model.heads import files

    secret = signing.load_key_file(key)
    head = files.sign(folder, secret)
    told = {
        "head": head.manifest.digest,
        "signer": signing.public_bytes(secret).hex(),
        "file": str(folder / files.SIGNATURE),
        "may_be_sent": ", ".join(files.FILES),
    }
    terminal.show("Signed", [told], as_json=as_json)


@app.command()
def verify(
    folder: HeadFolder,
    signer: Annotated[str, typer.Option(help="Release key (hex) or coordinator.json.")],
    as_json: AsJson = False,
) -> None:
    """Check a head that somebody sends: signature, files, card, and that it may be here.

    Example: fedprint-lab head verify heads/hypertension --signer coordinator.json
    """
    from shared_model.heads import files
    from shared_model.release_files import read_signer

    head = files.verify(folder, read_signer(signer))
    told = {"head": head.manifest.digest, "task": head.manifest.task, "signature": "verified"}
    terminal.show("Verified", [told], as_json=as_json)


def reason(text: str, option: str) -> str:
    """What an option gives as the reason, or as who decided, as a manifest holds it; "" if nothing.

    Raises:
        OurMistake: there is a blank, or signs, where words should be.
    """
    from shared_model.heads.stated import says_something
    from simulations.heads.train import plain_words

    told = plain_words(text).strip()
    if text and not says_something(told):
        raise OurMistake(
            f"{option} says nothing.", do="Give the reason in words (ASCII), or leave it out."
        )
    return told


def free(folder: Path) -> None:
    """Raises OurMistake where the folder holds a head already, or plots of another: it is said
    before the work."""
    for name, what in (("head.json", "a head"), ("plots", "plots")):
        if os.path.lexists(folder / name):
            raise OurMistake(f"{folder} holds {what} already.", do="Choose another folder.")


class Saying:
    """What is being done, on stderr with a clock."""

    def __enter__(self) -> Any:
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=terminal.err, transient=True)
        self._progress.start()
        bar = self._progress.add_task("", total=None)
        return lambda what: self._progress.update(bar, description=what)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def plots(folder: Path, head: Head) -> list[Any]:
    """Draw what the manifest has curves for."""
    from shared_model.heads.files import PLOTS
    from simulations.heads.plots import draw_all

    place = folder / PLOTS
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return draw_all(place, head.manifest)


def report(
    head: Head,
    folder: Path,
    drawn: list[Any],
    as_json: bool,
    *,
    signature: str = "none",
    figures: Path | None = None,
    unreadable: Mapping[str, int] | None = None,
) -> None:
    """A head at the terminal, or its manifest as JSON. figures: the measured file, if one was
    written. unreadable: files by cause, where recordings were read."""
    from shared_model.heads.card import card
    from shared_model.heads.files import CARD, card_words
    from simulations.probes.site_tasks import unreadable_words

    checked = card_words(head.manifest)
    if as_json:
        told = json.loads(head.manifest.to_bytes())
        shown = [
            {"name": p.name, "files": [str(f) for f in p.files], "caption": p.caption}
            for p in drawn
        ]
        where: dict[str, Any] = {"folder": str(folder), "digest": head.manifest.digest}
        where |= {"signature": signature}
        where |= {} if figures is None else {"measured": str(figures)}
        where |= {} if unreadable is None else {"unreadable": dict(unreadable)}
        terminal.print_json({**where, CARD: checked, **told, "plots": shown})
        return
    from rich.markdown import Markdown

    terminal.out.print(Markdown(card(head.manifest)))
    terminal.out.print(f"head {head.manifest.digest} in {folder}", highlight=False)
    how = f" (fedprint-lab head verify {folder} --signer KEY)" if signature != "none" else ""
    terminal.out.print(f"signature: {signature}{how}", highlight=False)
    terminal.out.print(f"{CARD}: {checked}", highlight=False)
    for plot in drawn:
        terminal.out.print(f"plot {plot.name}: {plot.caption}", highlight=False)
    if figures is not None:
        said_of(figures, head)
    for line in unreadable_words(unreadable or {}):
        terminal.out.print(line, highlight=False)


def said_of(figures: Path, head: Head) -> None:
    """Where the measured file is, and whether its figures may be seen."""
    from simulations.heads.measured import public_words

    words = f"figures for results: {figures} ({public_words(head.manifest)})"
    terminal.out.print(words, highlight=False)
