"""fedprint-lab head apply: answers of a head for recordings or fingerprints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared_model import terminal
from shared_model.errors import DataFault, OurMistake
from simulations.cli_head import AsJson, HeadFolder, Saying

if TYPE_CHECKING:
    from shared_model.heads.arrays import Head
    from simulations.heads.apply import Items

MOST_SHOWN = 60


def add(app: typer.Typer) -> None:
    """Add `apply` to the commands of heads."""
    app.command()(apply)


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
    mapping: Annotated[
        Path | None, typer.Option(help="TOML mapping of channels, patients; default: guessed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer for windows, recordings or patients; abstain where the head does not know.

    INPUT is a recording (tables of recordings beside it are read too), a folder of them, or what
    fedprint-node fingerprint wrote. A row says whose it is: the patient's number in the order of
    reading, the pseudonym if INPUT has it, and the recording, whose file's name may name a patient.
    Files that cannot be read are listed with their cause, the rest is answered, and the exit status
    is 4.

    Example: fedprint-lab head apply heads/hypertension ../shared/data/clinic_ppg_bp
    Example: fedprint-lab head apply heads/hypertension ward7-ppg.parquet --json
    """
    from client.fingerprints import fault_rows
    from shared_model.heads import files
    from shared_model.heads.card import promises
    from shared_model.heads.manifest import ABSTAIN
    from shared_model.release_files import read_signer
    from simulations.heads import apply as applied

    head = files.verify(folder, read_signer(head_signer)) if head_signer else files.read(folder)
    if not source.exists():
        raise OurMistake(f"There is no {source}.")
    windows = read_input(head, source, on, signer, as_json, mapping)
    items = applied.pooled(head, windows)
    make = applied.pair_rows if head.manifest.kind == "identity" else applied.rows
    rows = list(make(head, items))
    abstained = sum(row["answer"] == ABSTAIN for row in rows)
    told: dict[str, object] = {
        "task": head.manifest.task,
        "signature": "verified" if head_signer else "NOT CHECKED (no --head-signer given)",
        files.CARD: files.card_words(head.manifest),
        "limits": head.manifest.limits,
        **promises(head.manifest),
        "answers": len(rows) - abstained,
        "abstained": abstained,
        "unreadable_files": len(windows.faults),
    }
    if as_json:
        told = {**told, **applied.error_rates(head)}
        terminal.print_json({**told, "faults": fault_rows(windows.faults), "rows": rows})
    else:
        show_answers(told, rows, fault_rows(windows.faults))
    if windows.faults:
        raise DataFault(
            f"{len(windows.faults)} recordings could not be read; the answers are for the rest.",
            cause="partly",
            do="Read the causes above; correct or leave out those files.",
        )


def read_input(
    head: Head, source: Path, on: str, signer: str | None, as_json: bool, mapping: Path | None
) -> Items:
    """What there are answers for. Where nothing could be read, why is said before it is raised."""
    from client.cli_release import show_faults
    from client.fingerprints import NothingRead
    from client.mapping import Mapping
    from simulations.heads.apply import from_recordings
    from simulations.heads.fingerprint_file import from_parquet
    from simulations.models import open_model

    if signer is not None and is_fingerprints(source):
        raise OurMistake(
            "A file of fingerprints is read without the model: --signer verifies nothing.",
            do="Leave out --signer, or name recordings. The head's own key: --head-signer",
        )
    if mapping is not None and is_fingerprints(source):
        raise OurMistake("A file of fingerprints needs no mapping.", do="Leave out --mapping.")
    chosen = None if mapping is None else Mapping.from_file(mapping)
    try:
        with Saying() as say:
            say("reading")
            if is_fingerprints(source):
                return from_parquet(head, source)
            return from_recordings(head, source, open_model(on, signer), chosen)
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
