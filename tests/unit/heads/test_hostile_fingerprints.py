"""Files of fingerprints that say less than they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pytest
from head_stand_ins import made_head
from pyarrow import parquet

from client.fingerprints import MODEL_DIGEST_KEY
from shared_model.errors import Refused
from shared_model.heads.arrays import Head
from simulations.heads import apply, fingerprint_file
from simulations.heads.fingerprint_file import from_parquet


@pytest.fixture(scope="module")
def head() -> Head:
    """Of the ECG, per window."""
    return made_head()


def table(head: Head, rows: int, known: int = 0) -> Any:
    """So many rows, of which the first have a fingerprint."""
    flat = np.zeros((rows, 128), dtype=np.float32)
    flat[:, 0] = 1.0
    kind = arrow.list_(arrow.float32(), 128)
    missing = arrow.nulls(rows - known, kind)
    some = arrow.FixedSizeListArray.from_arrays(arrow.array(flat[:known].reshape(-1)), 128)
    return arrow.table(
        {
            "patient": [f"{n:032x}" for n in range(rows)],
            "recording": ["0001"] * rows,
            "start_s": np.arange(rows, dtype=np.float64),
            "modality": ["ecg"] * rows,
            "fingerprint": arrow.chunked_array([some, missing], type=kind),
        }
    ).replace_schema_metadata({MODEL_DIGEST_KEY: head.manifest.model.digest})


def zigzag(number: int) -> bytes:
    """As Thrift's compact protocol writes a number below 8192."""
    twice = 2 * number
    return bytes([twice]) if twice < 128 else bytes([twice & 127 | 128, twice >> 7])


def read_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is said, it is said before a page is read."""
    for name in ("read", "iter_batches"):
        monkeypatch.setattr(parquet.ParquetFile, name, lambda *_, **__: pytest.fail("it was read"))


def refusal(head: Head, path: Path) -> str:
    """What is said."""
    with pytest.raises(Refused) as caught:
        from_parquet(head, path)
    assert caught.value.reason == "fingerprints"
    return caught.value.message


def test_rows_are_the_same_however_few_are_read_at_a_time(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row groups and batches of other sizes; with fingerprints and without."""
    path = tmp_path / "f.parquet"
    parquet.write_table(table(head, 50, known=30), path, row_group_size=20)
    monkeypatch.setattr(fingerprint_file, "ROWS_AT_ONCE", 7)
    found = from_parquet(head, path)
    assert found.patient.tolist() == list(range(1, 51))
    assert found.pseudonyms == tuple(f"{n:032x}" for n in range(50))
    assert found.start_s.tolist() == list(range(50))
    assert np.isfinite(found.fingerprints).all(axis=1).tolist() == [True] * 30 + [False] * 20


def test_file_without_rows_has_no_items(head: Head, tmp_path: Path) -> None:
    """As the node writes it where the gate refused every window: nobody's answers, no fault."""
    schema = table(head, 1).schema
    parquet.ParquetWriter(tmp_path / "f.parquet", schema).close()
    assert len(from_parquet(head, tmp_path / "f.parquet").patient) == 0


@pytest.mark.parametrize("groups", [1, 6])
def test_footer_that_says_fewer_rows_is_refused(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: int
) -> None:
    """pyarrow reads what the columns hold: 38 kB that say one row were a million."""
    path = tmp_path / "f.parquet"
    rows = 1001 * groups
    parquet.write_table(table(head, rows), path, row_group_size=1001)
    data = path.read_bytes()
    whole = b"\x16" + zigzag(rows)  # field 3 of the footer, an i64; the last such one of a group
    place = data.index(whole, len(data) - 8 - int.from_bytes(data[-8:-4], "little"))
    patched = data[:place] + b"\x16" + b"\x82\x00" + data[place + len(whole) :]
    path.write_bytes(patched)
    assert parquet.ParquetFile(path).metadata.num_rows == 1
    read_nothing(monkeypatch)
    assert "number of rows" in refusal(head, path)


def test_groups_that_say_fewer_rows_are_refused(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The columns alone say how many there are."""
    path = tmp_path / "f.parquet"
    parquet.write_table(table(head, 1001), path)
    data = path.read_bytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    rows = b"\x16" + zigzag(1001)
    footer = data[start:]
    ends = [footer.index(rows), footer.rindex(rows)]  # of the file, of its one group
    for place in ends:
        footer = footer[:place] + b"\x16\x82\x00" + footer[place + len(rows) :]
    path.write_bytes(data[:start] + footer)
    metadata = parquet.ParquetFile(path).metadata
    assert metadata.num_rows == metadata.row_group(0).num_rows == 1
    assert metadata.row_group(0).column(0).num_values == 1001
    read_nothing(monkeypatch)
    assert "number of rows" in refusal(head, path)


def test_more_rows_than_any_real_file_has_are_refused_unread(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the sum over the groups."""
    parquet.write_table(table(head, 30), tmp_path / "f.parquet", row_group_size=10)
    monkeypatch.setattr(fingerprint_file, "MOST_ROWS", 29)
    read_nothing(monkeypatch)
    assert "more rows" in refusal(head, tmp_path / "f.parquet")


def test_answers_are_the_same_however_few_are_given_at_a_time(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row for each item, in order, of its own fingerprint."""
    parquet.write_table(table(head, 50, known=30), tmp_path / "f.parquet")
    items = from_parquet(head, tmp_path / "f.parquet")
    whole = list(apply.rows(head, items))
    monkeypatch.setattr(apply, "ANSWERED_AT_ONCE", 7)
    assert [row["answer"] for row in apply.rows(head, items)] == [row["answer"] for row in whole]
    assert [row["start_s"] for row in apply.rows(head, items)] == list(range(50))
    assert [row["distance"] is None for row in whole] == [False] * 30 + [True] * 20
