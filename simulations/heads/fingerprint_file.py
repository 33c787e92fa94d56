"""A file of fingerprints, as `fedprint-node fingerprint` writes it, for a head to answer from.

It may come from anywhere: sizes are checked before a page is read, columns before they are used,
and everything that a row carries on (pseudonym, recording, sensors) is of a closed form.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from client.fingerprints import MODEL_DIGEST_KEY, SENSORS_KEY
from client.formats.parquet_footer import Chunk, read_footer
from shared_model.config import FINGERPRINT_SIZE
from shared_model.errors import DataFault, OurMistake, Refused
from shared_model.heads.answers import refuse_other_model
from shared_model.heads.arrays import Head
from simulations.heads.apply import Items

MOST_ROWS = 1_000_000
MOST_BYTES = 2**30
ROWS_AT_ONCE = 50_000
TEXTS = {
    "patient": re.compile(r"[0-9a-f]{32}"),
    "recording": re.compile(r"[0-9]{4,7}"),
    "modality": re.compile(r"both|ecg|ppg|none"),
}
COLUMNS = (*TEXTS, "start_s", "fingerprint")
IN_WORDS = {"ecg": "the ECG alone", "ppg": "the PPG alone", "both": "both sensors"}
MADE_BY = "fedprint-node fingerprint RECORDINGS -o FILE.parquet"
MAKE = f"Make it with: {MADE_BY}"

Places = npt.NDArray[np.int64]


def from_parquet(head: Head, path: Path) -> Items:
    """A file of fingerprints. Rows that lack the head's sensors have no fingerprint for it.

    Raises:
        Refused: of another model (reason "model"), made for other sensors ("sensors"), or not such
            a file ("fingerprints").
        OurMistake: the head looks at windows that have no fingerprint.
    """
    import pyarrow as arrow

    if head.manifest.gated is False:
        raise OurMistake(
            "This head looks at windows that the quality gate refuses; they have no fingerprint.",
            do="Apply it to the recordings themselves.",
        )
    try:
        return _read(head, path)
    except (
        arrow.ArrowException, DataFault, OSError, LookupError, TypeError, ValueError
    ) as error:  # fmt: skip
        raise _refused("cannot be read") from error


def _read(head: Head, path: Path) -> Items:
    from pyarrow import parquet

    size_bytes = path.stat().st_size
    if size_bytes > MOST_BYTES:
        raise _refused("is larger than any real one")
    chunks = read_footer(path, size_bytes)
    if sum(chunk.unpacked_bytes for chunk in chunks) > MOST_BYTES:
        raise _refused("unpacks to more than any real one")
    with parquet.ParquetFile(path, read_dictionary=list(TEXTS)) as file:
        metadata = file.schema_arrow.metadata or {}
        again = f"{MADE_BY} --sensors {head.manifest.sensors} --warm-start --preset "
        refuse_other_model(head, _digest(metadata), again)
        _refuse_made_for_others(head, metadata.get(SENSORS_KEY.encode()))
        _check_types(file.schema_arrow)
        windows = _windows(file, _row_count(file.metadata, chunks))
    _refuse_both_for_one(head, windows.modality)
    windows.vectors[windows.modality != head.manifest.sensors] = np.nan
    return _items(windows.patient, windows.recording, windows.start_s, windows.vectors)


@dataclass(frozen=True)
class _Windows:
    """Columns of the file, a row each."""

    patient: npt.NDArray[np.str_]
    recording: npt.NDArray[np.str_]
    modality: npt.NDArray[np.str_]
    start_s: npt.NDArray[np.float64]
    vectors: npt.NDArray[np.float32]


def _row_count(metadata: Any, chunks: Sequence[Chunk]) -> int:
    """Rows, by everything that says how many there are.

    The reader goes by the values of each column, not by the number in the footer.

    Raises:
        Refused: more than `MOST_ROWS`, or one place contradicts another.
    """
    groups = [metadata.row_group(place).num_rows for place in range(metadata.num_row_groups)]
    if sum(groups) > MOST_ROWS:
        raise _refused("has more rows than any real one")
    agree = metadata.num_rows == sum(groups) and min(groups, default=0) >= 0
    for chunk in chunks:
        if chunk.column in COLUMNS:  # a fingerprint has 128 values, one that is missing a single
            most = FINGERPRINT_SIZE if chunk.column == "fingerprint" else 1
            rows = groups[chunk.group]
            agree = agree and rows <= chunk.values <= most * rows
    if not agree:
        raise _refused("contradicts itself about its number of rows")
    return sum(groups)


def _windows(file: Any, rows: int) -> _Windows:
    """All rows, some at a time: a few bytes unpack to a great many.

    Raises:
        Refused: more or fewer than `rows`, or something that is none.
    """
    made = _Windows(
        np.empty(rows, dtype="<U32"),
        np.empty(rows, dtype="<U7"),
        np.empty(rows, dtype="<U4"),
        np.empty(rows, dtype=np.float64),
        np.empty((rows, FINGERPRINT_SIZE), dtype=np.float32),
    )
    done = 0
    for batch in file.iter_batches(ROWS_AT_ONCE, columns=list(COLUMNS)):
        place = slice(done, done + len(batch))
        done += len(batch)
        if done > rows:
            break
        for name in TEXTS:
            getattr(made, name)[place] = _texts(batch[name], name)
        made.start_s[place] = batch["start_s"].to_numpy(zero_copy_only=False)
        made.vectors[place] = _vectors(batch["fingerprint"])
    if done != rows:
        raise _refused("contradicts itself about its number of rows")
    if not np.isfinite(made.start_s).all():
        raise _refused("has windows that begin at no time")
    return made


def _items(
    patients: npt.NDArray[np.str_],
    recordings: npt.NDArray[np.str_],
    start_s: npt.NDArray[np.float64],
    vectors: npt.NDArray[np.float32],
) -> Items:
    """Patients and recordings numbered in the order in which they stand in the file."""
    patient, first = _numbered(patients)
    kind, first_of_kind = _numbered(np.char.add(np.char.add(patients, "/"), recordings))
    seen = np.zeros(len(first) + 1, dtype=np.int64)
    number = np.zeros(len(first_of_kind) + 1, dtype=np.int64)
    names: dict[tuple[int, int], str] = {}
    for place, row in enumerate(first_of_kind, start=1):
        person = int(patient[row])
        seen[person] += 1
        number[place] = seen[person]
        names[person, int(seen[person])] = str(recordings[row])
    pseudonyms = tuple(str(one) for one in patients[first])
    return Items(patient, number[kind], start_s, vectors, pseudonyms, names)


def _numbered(words: npt.NDArray[np.str_]) -> tuple[Places, Places]:
    """(row,) numbers from 1 by first appearance, and the row of each number's first."""
    _, first, place = np.unique(words, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    return rank[place], first[order]


def _refuse_made_for_others(head: Head, made_for: bytes | None) -> None:
    """Raises Refused where the file was made for sensors that are not the head's."""
    wanted = head.manifest.sensors
    if made_for is None or made_for == wanted.encode():
        return
    if made_for.decode("ascii", "replace") not in IN_WORDS:
        raise _refused("says nothing known of its sensors")
    raise Refused(
        f"These fingerprints are of {IN_WORDS[made_for.decode()]}; the head is of "
        f"{IN_WORDS[wanted]}.",
        reason="sensors",
        do=f"{MAKE} --sensors {wanted}",
    )


def _refuse_both_for_one(head: Head, modality: npt.NDArray[np.str_]) -> None:
    """Raises Refused where windows have the head's one sensor, but their fingerprints are of both.

    To abstain from them would look as if the head did not know.
    """
    wanted = head.manifest.sensors
    of_both = int((modality == "both").sum())
    if wanted == "both" or not of_both:
        return
    raise Refused(
        f"{of_both} of {len(modality)} fingerprints are of both sensors together; the head is of "
        f"{IN_WORDS[wanted]}.",
        reason="sensors",
        do=f"{MAKE} --sensors {wanted}",
    )


def _digest(metadata: dict[bytes, bytes]) -> str:
    found = metadata.get(MODEL_DIGEST_KEY.encode(), b"")
    if not re.fullmatch(rb"[0-9a-f]{64}", found):
        raise _refused("does not say which model it is of")
    return found.decode()


def _check_types(schema: Any) -> None:
    """Before a page is read. Raises Refused."""
    import pyarrow as arrow

    kind = schema.field("fingerprint").type
    if (
        not arrow.types.is_fixed_size_list(kind)
        or kind.list_size != FINGERPRINT_SIZE
        or kind.value_type != arrow.float32()
    ):
        raise _refused("has fingerprints of another type")
    if schema.field("start_s").type != arrow.float64():
        raise _refused("has columns of another kind")
    for name in TEXTS:
        of = schema.field(name).type
        if not arrow.types.is_dictionary(of) or of.value_type != arrow.string():
            raise _refused("has columns of another kind")


def _texts(column: Any, name: str) -> npt.NDArray[np.str_]:
    """(row,) words of the column's closed form.

    A few bytes can name one long text for a million rows: the texts are looked at before they are
    spelled out.

    Raises:
        Refused: something is missing, or of another form.
    """
    import pyarrow as pa

    if column.null_count:
        raise _refused("has empty places")
    places = np.asarray(column.indices.to_numpy(zero_copy_only=False), dtype=np.int64)
    used, place = np.unique(places, return_inverse=True)
    known = column.dictionary.take(pa.array(used)).to_pylist()
    if not all(isinstance(one, str) and TEXTS[name].fullmatch(one) for one in known):
        raise _refused(f"has a {name} that is none")
    return np.array(known or [""], dtype=np.str_)[place]


def _vectors(column: Any) -> npt.NDArray[np.float32]:
    """float32 (row, 128); NaN where there is none.

    Raises:
        Refused: a fingerprint that is not finite, or not of unit length.
    """
    made = np.full((len(column), FINGERPRINT_SIZE), np.nan, dtype=np.float32)
    good = ~np.asarray(column.is_null().to_numpy(zero_copy_only=False))
    flat = np.asarray(column.drop_null().flatten().to_numpy(zero_copy_only=False))
    if flat.shape != (int(good.sum()) * FINGERPRINT_SIZE,) or not np.isfinite(flat).all():
        raise _refused("has fingerprints that are not finite")
    rows = flat.reshape(-1, FINGERPRINT_SIZE)
    if len(rows) and float(np.abs(np.linalg.norm(rows, axis=1) - 1.0).max()) > 1e-2:
        raise _refused("has fingerprints that are not of unit length")
    made[good] = rows
    return made


def _refused(what: str) -> Refused:
    return Refused(f"The file of fingerprints {what}.", reason="fingerprints", do=MAKE)
