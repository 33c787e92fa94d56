"""Answers of a head for recordings, or for a file of fingerprints.

    items = from_recordings(head, folder, model)       # reads, gates, makes fingerprints
    items = from_parquet(head, file)                   # what `fedprint-node fingerprint` wrote

Nobody is named: patients and recordings are numbered in the order in which they are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shared_model.config import FINGERPRINT_SIZE
from shared_model.errors import DataFault, OurMistake, Refused
from shared_model.heads.answers import refuse_other_model
from shared_model.heads.arrays import Head
from simulations.models import NamedModel

MOST_ROWS = 1_000_000
MOST_BYTES = 2**30


@dataclass(frozen=True)
class Items:
    """What answers are given for. patient, recording: numbers from 1; recording 0, start NaN: of
    all of them. fingerprints: float32 (item, 128), NaN without one. faults: unreadable files."""

    patient: npt.NDArray[np.int64]
    recording: npt.NDArray[np.int64]
    start_s: npt.NDArray[np.float64]
    fingerprints: npt.NDArray[np.float32] = field(repr=False)
    faults: int = 0


def pooled(head: Head, windows: Items) -> Items:
    """One item for each window, recording or patient, as the head was trained."""
    item = head.manifest.item
    if item == "window":
        return windows
    keys = np.stack(
        [windows.patient, windows.recording if item == "recording" else 0 * windows.patient], axis=1
    )
    found, place = np.unique(keys, axis=0, return_inverse=True)
    known = np.isfinite(windows.fingerprints).all(axis=1)
    total, count = np.zeros((len(found), FINGERPRINT_SIZE)), np.zeros(len(found))
    np.add.at(total, place[known], windows.fingerprints[known].astype(np.float64))
    np.add.at(count, place[known], 1.0)
    with np.errstate(invalid="ignore"):
        mean = np.where(count[:, None] > 0, total / np.maximum(count, 1.0)[:, None], np.nan)
    return Items(
        found[:, 0],
        found[:, 1],
        np.full(len(found), np.nan),
        mean.astype(np.float32),
        windows.faults,
    )


def from_recordings(head: Head, source: Path, model: NamedModel) -> Items:
    """Windows of recordings, of the head's sensors alone.

    Raises:
        DataFault: nothing could be read.
        Refused: the model is not the head's.
    """
    from client.records import ReadFault, guess_mapping, read_folder
    from simulations.probes.rows import encoder
    from simulations.probes.task import windows_of

    refuse_other_model(head, model.digest)
    encode = encoder(model.config, model.weights)
    sensors = head.manifest.sensors
    people: dict[str, int] = {}
    seen: dict[int, int] = {}
    parts: list[tuple[int, int, npt.NDArray[np.float64], npt.NDArray[np.float32]]] = []
    faults = 0
    for recording in read_folder(source, guess_mapping(source)):
        if isinstance(recording, ReadFault):
            faults += 1
            continue
        try:
            windows = windows_of(recording, gate=head.manifest.gated)
        except DataFault:
            faults += 1
            continue
        person = people.setdefault(recording.patient, len(people) + 1)
        seen[person] = seen.get(person, 0) + 1
        signal, valid = windows.signal.astype(np.float32), windows.valid.copy()
        lacking = np.zeros(len(valid), dtype=np.bool_)
        for channel, name in enumerate(("ecg", "ppg")):
            if sensors in (name, "both"):
                lacking |= ~valid[:, channel].any(axis=1)
            else:
                signal[:, channel], valid[:, channel] = 0.0, False
        valid[lacking] = False
        parts.append((person, seen[person], windows.start_s, encode(signal, valid)))
    if not parts:
        raise DataFault(
            f"No recording could be read; {faults} files were refused.", cause="nothing"
        )
    sizes = [len(part[3]) for part in parts]
    return Items(
        np.repeat([part[0] for part in parts], sizes),
        np.repeat([part[1] for part in parts], sizes),
        np.concatenate([part[2] for part in parts]),
        np.concatenate([part[3] for part in parts]),
        faults,
    )


def from_parquet(head: Head, path: Path) -> Items:
    """A file of fingerprints. Rows of other sensors than the head's have none for it.

    Raises:
        Refused: of another model (reason "model"), or not such a file (reason "fingerprints").
    """
    import pyarrow as arrow

    if head.manifest.gated is False:
        raise OurMistake(
            "This head looks at windows that the quality gate refuses; they have no fingerprint.",
            do="Apply it to the recordings themselves.",
        )
    try:
        return _read(head, path)
    except (arrow.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise _refused("cannot be read") from error


def _read(head: Head, path: Path) -> Items:
    from pyarrow import parquet

    if path.stat().st_size > MOST_BYTES:
        raise _refused("is larger than any real one")
    file = parquet.ParquetFile(path)
    about = file.metadata
    sizes = [about.row_group(place).total_byte_size for place in range(about.num_row_groups)]
    if about.num_rows > MOST_ROWS or sum(sizes) > MOST_BYTES:
        raise _refused("has more rows than any real one")
    refuse_other_model(head, _digest(file.schema_arrow.metadata or {}))
    table = file.read(["patient", "recording", "start_s", "modality", "fingerprint"])
    modality = np.array(table["modality"].to_pylist(), dtype=str)
    vectors = _vectors(table["fingerprint"])
    vectors[modality != head.manifest.sensors] = np.nan
    patient, recording = (
        np.unique(np.array(table[name].to_pylist(), dtype=str), return_inverse=True)[1] + 1
        for name in ("patient", "recording")
    )
    start = np.array(table["start_s"].to_pylist(), dtype=np.float64)
    if start.shape != (len(vectors),) or modality.shape != start.shape:
        raise _refused("has columns of another kind")
    return Items(patient, recording, start, vectors)


def _digest(metadata: dict[bytes, bytes]) -> str:
    found = metadata.get(b"model_digest", b"")
    if len(found) != 64 or not all(c in b"0123456789abcdef" for c in found):
        raise _refused("does not say which model it is of")
    return found.decode()


def _vectors(column: object) -> npt.NDArray[np.float32]:
    """float32 (row, 128); NaN where there is none.

    Raises:
        Refused: another type, or a fingerprint that is not of unit length.
    """
    import pyarrow as arrow

    whole = column.combine_chunks()  # type: ignore[attr-defined]
    kind = whole.type
    if (
        not arrow.types.is_fixed_size_list(kind)
        or kind.list_size != FINGERPRINT_SIZE
        or kind.value_type != arrow.float32()
    ):
        raise _refused("has fingerprints of another type")
    made = np.full((len(whole), FINGERPRINT_SIZE), np.nan, dtype=np.float32)
    good = ~np.asarray(whole.is_null().to_numpy(zero_copy_only=False))
    flat = np.asarray(whole.drop_null().flatten().to_numpy(zero_copy_only=False))
    if flat.shape != (int(good.sum()) * FINGERPRINT_SIZE,) or not np.isfinite(flat).all():
        raise _refused("has fingerprints that are not finite")
    rows = flat.reshape(-1, FINGERPRINT_SIZE)
    if len(rows) and float(np.abs(np.linalg.norm(rows, axis=1) - 1.0).max()) > 1e-2:
        raise _refused("has fingerprints that are not of unit length")
    made[good] = rows
    return made


def _refused(what: str) -> Refused:
    return Refused(
        f"The file of fingerprints {what}.",
        reason="fingerprints",
        do="Make it with: fedprint-node fingerprint RECORDINGS -o FILE.parquet",
    )


def rows(head: Head, items: Items) -> Iterator[dict[str, object]]:
    """A row for each answer, for a table or JSON."""
    from shared_model.heads.answers import answer

    for place, one in enumerate(answer(head, items.fingerprints)):
        start = float(items.start_s[place])
        row: dict[str, object] = {"patient": int(items.patient[place])}
        if items.recording[place]:
            row["recording"] = int(items.recording[place])
        if np.isfinite(start):
            row["start_s"] = start
        row["answer"] = "abstain" if one.value is None else one.value
        row["why"] = one.why_abstained
        if head.manifest.kind == "classes":
            row |= {
                name: p for name, p in zip(head.manifest.classes, one.probabilities, strict=False)
            }
            row["possible"] = list(one.possible)
        else:
            row |= {"low": one.low, "high": one.high}
        row["distance"] = one.distance
        yield row


def pair_rows(head: Head, items: Items) -> Iterator[dict[str, object]]:
    """A row for each pair of items; identity.

    Raises:
        OurMistake: more than 2,000 items, two million pairs.
    """
    from shared_model.heads.answers import same_person

    if len(items.patient) > MOST_PAIRED:
        raise OurMistake(f"At most {MOST_PAIRED} recordings are compared with each other.")
    cosines, good = same_person(head, items.fingerprints)
    found = head.manifest.verification
    limit = 2.0 if found is None else found.threshold
    for first in range(len(good)):
        for second in range(first + 1, len(good)):
            known = bool(good[first] and good[second])
            cosine = float(cosines[first, second])
            word = "abstain" if not known else "same" if cosine >= limit else "different"
            yield {
                "first": f"{items.patient[first]}/{items.recording[first]}",
                "second": f"{items.patient[second]}/{items.recording[second]}",
                "answer": word,
                "cosine": cosine if known else None,
            }


MOST_PAIRED = 2000
