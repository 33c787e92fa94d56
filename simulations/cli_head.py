"""fedprint-lab head: train, show, apply, sign and verify heads on frozen fingerprints."""

from __future__ import annotations

import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from shared_model import outputs, terminal
from shared_model.errors import DataFault, OurMistake

if TYPE_CHECKING:
    from shared_model.heads.arrays import Head
    from simulations.heads.apply import Items

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
    from simulations import cli_head_federate

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
    """The tasks, with the collections that are looked for below the data folder.

    Example: fedprint-lab head list
    """
    from simulations.heads.tasks import TASKS

    rows = [
        {
            "task": task.name,
            "kind": task.kind,
            "sensors": sensors,
            "folders": source.pattern,
            "one answer is of": f"a {source.item}",
            "about": task.about,
        }
        for task in TASKS.values()
        for sensors, source in task.sources.items()
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

    Writes head.json, head.safetensors, MODEL_CARD.md and plots/. NOT PRIVATE: such a head must not
    leave the site, unless its data are open anyway. With noise: fedprint-lab head federate. Fewer
    than 20 patients, or 5 of a class, are refused, as fedprint-node personalise refuses them.

    Example: fedprint-lab head train hypertension -o heads/hypertension
    """
    from shared_model.heads import files
    from simulations.cli_probe import default_data
    from simulations.heads.data import load
    from simulations.heads.tasks import task_named
    from simulations.heads.train import Asked
    from simulations.heads.train import train as trained
    from simulations.models import open_model

    chosen = task_named(task)
    used = None if sites and sensors is None else chosen.sensors(sensors)
    free(output)
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
    drawn = plots(output, head)
    report(head, output, drawn, as_json)


@app.command()
def show(folder: HeadFolder, as_json: AsJson = False) -> None:
    """What a head is: figures, calibration, privacy. Its files are checked, not its signature.

    Example: fedprint-lab head show heads/hypertension
    """
    from shared_model.heads import files

    report(files.read(folder), folder, [], as_json)


@app.command()
def apply(
    folder: HeadFolder,
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="Recordings, or a Parquet file of fingerprints.")
    ],
    on: Annotated[
        str, typer.Option(help="The head's model, for recordings; as for train.")
    ] = "warm-start",
    signer: Annotated[str | None, typer.Option(help="Of the model's release.")] = None,
    head_signer: Annotated[
        str | None, typer.Option("--head-signer", help="Verify the head's signature by this key.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer for windows, recordings or patients; abstain where the head does not know.

    INPUT is a recording, a folder of them, or what fedprint-node fingerprint wrote. A row says
    whose it is: the patient's number in the order of reading, the pseudonym if INPUT has it, and
    the recording, whose file's name may name a patient. Files that cannot be read are listed with
    their cause, the rest is answered, and the exit status is 4.

    Example: fedprint-lab head apply heads/hypertension ../shared/data/clinic_ppg_bp
    Example: fedprint-lab head apply heads/hypertension ward7-ppg.parquet --json
    """
    from client.fingerprints import fault_rows
    from shared_model.heads import files
    from shared_model.release_files import read_signer
    from simulations.heads import apply as applied

    head = files.verify(folder, read_signer(head_signer)) if head_signer else files.read(folder)
    if not source.exists():
        raise OurMistake(f"There is no {source}.")
    windows = read_input(head, source, on, signer, as_json)
    items = applied.pooled(head, windows)
    make = applied.pair_rows if head.manifest.kind == "identity" else applied.rows
    rows = list(make(head, items))
    abstained = sum(row["answer"] == "abstain" for row in rows)
    told = {
        "task": head.manifest.task,
        "signature": "verified" if head_signer else "NOT CHECKED (no --head-signer given)",
        "limits": head.manifest.limits,
        "answers": len(rows) - abstained,
        "abstained": abstained,
        "unreadable_files": len(windows.faults),
    }
    if as_json:
        terminal.print_json({**told, "faults": fault_rows(windows.faults), "rows": rows})
    else:
        show_answers(told, rows, fault_rows(windows.faults))
    if windows.faults:
        raise DataFault(
            f"{len(windows.faults)} recordings could not be read; the answers are for the rest.",
            cause="partly",
            do="Read the causes above; correct or leave out those files.",
        )


def read_input(head: Head, source: Path, on: str, signer: str | None, as_json: bool) -> Items:
    """What there are answers for. Where nothing could be read, why is said before it is raised."""
    from client.cli_release import show_faults
    from client.fingerprints import NothingRead
    from simulations.heads.apply import from_recordings
    from simulations.heads.fingerprint_file import from_parquet
    from simulations.models import open_model

    if signer is not None and is_fingerprints(source):
        raise OurMistake(
            "A file of fingerprints is read without the model: --signer verifies nothing.",
            do="Leave out --signer, or name recordings. The head's own key: --head-signer",
        )
    try:
        with Saying() as say:
            say("reading")
            if is_fingerprints(source):
                return from_parquet(head, source)
            return from_recordings(head, source, open_model(on, signer))
    except NothingRead as error:
        show_faults(error.faults, as_json)
        raise


def show_answers(
    told: dict[str, Any], rows: list[dict[str, object]], faults: list[dict[str, str]]
) -> None:
    """Answers at the terminal, without columns that say nothing of anybody."""
    empty = {name for name in rows[0] if all(row[name] is None for row in rows)} if rows else set()
    shown = [
        {name: value for name, value in row.items() if name not in empty}
        for row in rows[:MOST_SHOWN]
    ]
    terminal.show(f"{told['task']}: answers", shown, as_json=False)
    if len(rows) > len(shown):
        terminal.out.print(f"{len(rows) - len(shown)} more rows: say --json.")
    for name, value in told.items():
        terminal.out.print(f"{name}: {value}", highlight=False)
    if faults:
        terminal.show("Not read", faults, as_json=False)


MOST_SHOWN = 60


def is_fingerprints(source: Path) -> bool:
    """Whether a Parquet file holds fingerprints, and not recordings; a damaged one does not."""
    if source.is_dir() or source.suffix != ".parquet":
        return False
    import pyarrow as arrow
    from pyarrow import parquet

    from client.formats.parquet_footer import read_footer

    try:
        read_footer(source, source.stat().st_size)
        return "fingerprint" in parquet.read_schema(source).names
    except (arrow.ArrowException, DataFault, OSError, ValueError):  # the last: a name in no UTF-8
        return False


@app.command()
def sign(
    folder: HeadFolder,
    key: Annotated[Path, typer.Option(help="The coordinator's release key: keys/release.pem.")],
    as_json: AsJson = False,
) -> None:
    """Sign a head for other hospitals. Refused if it was trained without noise on closed data.

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


def free(folder: Path) -> None:
    """Raises OurMistake where the folder holds a head already: it is said before the work."""
    if (folder / "head.json").exists():
        raise OurMistake(f"{folder} holds a head already.", do="Choose another folder.")


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
    from simulations.heads.plots import draw_all

    place = folder / "plots"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return draw_all(place, head.manifest)


def report(head: Head, folder: Path, drawn: list[Any], as_json: bool) -> None:
    """A head at the terminal, or its manifest as JSON."""
    from shared_model.heads.card import card

    if as_json:
        told = json.loads(head.manifest.to_bytes())
        shown = [
            {"name": p.name, "files": [str(f) for f in p.files], "caption": p.caption}
            for p in drawn
        ]
        terminal.print_json(
            {"folder": str(folder), "digest": head.manifest.digest, **told, "plots": shown}
        )
        return
    from rich.markdown import Markdown

    terminal.out.print(Markdown(card(head.manifest)))
    terminal.out.print(f"head {head.manifest.digest} in {folder}", highlight=False)
    for plot in drawn:
        terminal.out.print(f"plot {plot.name}: {plot.caption}", highlight=False)
