"""`fedprint-lab head` as people type it, and a file of fingerprints for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as arrow
import typer
from head_stand_ins import made_up
from pyarrow import parquet
from typer.testing import CliRunner

from client.fingerprints import MODEL_DIGEST_KEY
from shared_model.heads.arrays import Head
from simulations import cli_head

app = typer.Typer()
cli_head.register(app)


@app.callback()
def root() -> None:
    """Keeps `head` a group."""


def run(*words: str) -> Any:
    """The command's JSON."""
    done = CliRunner().invoke(app, ["head", *words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def write_fingerprints(path: Path, head: Head, **changes: Any) -> Path:
    """A file as `fedprint-node fingerprint` writes it (test_head_apply.py runs that), of made-up
    patients. changes: of its metadata; `columns` of its columns."""
    data = made_up(patients=6, items=3)
    columns = {
        "patient": [f"{n:032x}" for n in data.patient],
        "recording": ["0001"] * len(data.patient),
        "start_s": [10.0 * n for n in data.session],
        "modality": ["ecg"] * len(data.patient),
        "fingerprint": arrow.FixedSizeListArray.from_arrays(
            arrow.array(data.fingerprints.reshape(-1)), 128
        ),
    } | changes.pop("columns", {})
    metadata = {MODEL_DIGEST_KEY: head.manifest.model.digest} | changes
    parquet.write_table(arrow.table(columns).replace_schema_metadata(metadata), path)
    return path
