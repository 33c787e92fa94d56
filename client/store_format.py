"""What the window store looks like on disk, and the checks before any of it is believed.

store/lock                      one writer at a time (flock)
store/manifest.json             the only file that changes; swapped by rename
store/parts/ID/signal.bin       float16 (window, channel=2, sample=1250), usable windows
store/parts/ID/valid.bin        bool (window, channel=2, token=50)
store/parts/ID/index.bin        INDEX_DTYPE (window,)
store/parts/ID/refused.bin      float16 (sample window, 2, 1250), a few refused windows to look at
store/parts/ID/catalogue.json   patients (pseudonyms), recordings (keyed digests), refusals

In a store that is encrypted the manifest is an envelope and every file of a part a sequence of
sealed records; see `client.store_seal`. Sizes and digests are then those of the sealed bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared_model import canonical
from shared_model.config import CHANNELS, TOKENS, WINDOW_SAMPLES
from shared_model.errors import DataFault
from shared_model.quality import REASONS

FORMAT, FORMER = 3, 1
"""FORMER: patients and recordings were named by a rule before `client.pseudonyms.SPELLING` 3."""
INDEX_DTYPE = np.dtype([("recording", "<u4"), ("start_s", "<f8"), ("refusal", "u1", (2,))])
SIGNAL_BYTES = len(CHANNELS) * WINDOW_SAMPLES * 2
VALID_BYTES = len(CHANNELS) * TOKENS
PART_FILES = ("signal.bin", "valid.bin", "index.bin", "refused.bin", "catalogue.json")
SMALL_FILES = ("index.bin", "refused.bin", "catalogue.json")
"""Their digests are checked at every opening; the others' when the store is verified."""
MAX_JSON_BYTES = 1 << 30
PAGE_BYTES = 1 << 20
RECORD_BYTES = {
    "signal.bin": SIGNAL_BYTES,
    "valid.bin": VALID_BYTES,
    "index.bin": PAGE_BYTES,
    "refused.bin": SIGNAL_BYTES,
    "catalogue.json": PAGE_BYTES,
}
"""What is sealed as one record of an encrypted part's file; the last record may be shorter."""
TAG_BYTES = 16

Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,47}$")]
Count = Annotated[int, Field(ge=0, le=1 << 40)]
Label = Annotated[str, Field(max_length=64)] | float


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FileEntry(_Frozen):
    size: Count
    sha256: Hex64


class PartEntry(_Frozen):
    id: Hex32
    windows: Count
    refused: Count
    files: dict[str, FileEntry]


class DataSet(_Frozen):
    """`source` is a keyed digest of the folder; `version` grows whenever its recordings change."""

    name: Name
    source: Hex32
    version: Annotated[int, Field(ge=1)]


class Manifest(_Frozen):
    """withdrawn_before: how many withdrawals are of a time with another rule of names, and nobody
    has said yet that they hold under this one."""

    format: int = FORMAT
    generation: Count = 0
    key_check: Hex32
    parts: list[PartEntry] = []
    data_sets: list[DataSet] = []
    withdrawn: list[Hex32] = []
    withdrawn_before: Count = 0

    @property
    def former(self) -> bool:
        """It holds patients whom an earlier version named by another rule."""
        return self.format == FORMER and bool(self.parts)

    def named_anew(self) -> Manifest:
        """Of a store that holds nobody any more: from now on named by the present rule."""
        if self.format == FORMAT or self.parts:
            return self
        return self.model_copy(update={"format": FORMAT, "withdrawn_before": len(self.withdrawn)})


class RecordingRow(_Frozen):
    """One recording; `patient` is the row in `Catalogue.patients`. Counts are of windows."""

    key: Hex32
    data_set: Name
    patient: Count
    windows: Count
    usable: Count
    refusals: dict[Literal["ecg", "ppg"], dict[str, Count]]
    labels: dict[str, Label]


class Catalogue(_Frozen):
    """`refused` gives for each window of refused.bin its recording and two refusal codes."""

    patients: list[Hex32]
    recordings: list[RecordingRow]
    refused: list[tuple[Count, Count, Count]]


def damaged(what: str) -> DataFault:
    """The fault every failed check raises."""
    return DataFault(
        f"The window store is damaged: {what}.",
        cause="store",
        do="Restore the store from backup, or remove everything (data remove --all) and add again.",
    )


def encode_manifest(manifest: Manifest) -> bytes:
    body = manifest.model_dump(mode="json")
    if not manifest.withdrawn_before:
        del body["withdrawn_before"]
    return canonical.encode({**body, "digest": canonical.digest_of(body)})


def decode_manifest(data: bytes, *, sealed: bool = False) -> Manifest:
    """Parse and check a manifest; `sealed`: of a store whose parts are encrypted.

    Raises:
        DataFault: not a manifest, or its own digest does not match (cause "store").
    """
    body = _json(data, "manifest.json")
    if not isinstance(body, dict) or not isinstance(claimed := body.pop("digest", None), str):
        raise damaged("manifest.json has no digest")
    if claimed != canonical.digest_of(body):
        raise damaged("manifest.json does not match its digest")
    try:
        manifest = Manifest.model_validate_json(json.dumps(body))
    except ValidationError as error:
        raise damaged("manifest.json has a wrong field") from error
    if manifest.format not in {FORMAT, FORMER}:
        raise damaged(f"format {manifest.format} is not known to this version")
    for part in manifest.parts:
        if set(part.files) != set(PART_FILES):
            raise damaged(f"part {part.id} does not list its files")
        _check_sizes(part, sealed=sealed)
    if len({part.id for part in manifest.parts}) != len(manifest.parts):
        raise damaged("a part is listed twice")
    return manifest


def size_on_disk(name: str, plain_bytes: int, *, sealed: bool) -> int:
    """Size of a part's file that holds so much: every sealed record has a tag."""
    records = -(-plain_bytes // RECORD_BYTES[name])
    return plain_bytes + records * TAG_BYTES if sealed else plain_bytes


def _check_sizes(part: PartEntry, *, sealed: bool) -> None:
    expected = {
        "signal.bin": part.windows * SIGNAL_BYTES,
        "valid.bin": part.windows * VALID_BYTES,
        "index.bin": part.windows * INDEX_DTYPE.itemsize,
        "refused.bin": part.refused * SIGNAL_BYTES,
    }
    for name, size in expected.items():
        if part.files[name].size != size_on_disk(name, size, sealed=sealed):
            raise damaged(f"part {part.id}, {name}: size and number of windows disagree")


def check_files(folder: Path, part: PartEntry, names: Iterable[str] = SMALL_FILES) -> None:
    """Every file of a part has its size, and those in `names` their digest.

    Raises:
        DataFault: names the part and file (cause "store").
        FileNotFoundError: the part is not there (a writer may have replaced it).
    """
    for name, entry in part.files.items():
        path = folder / name
        if path.stat().st_size != entry.size:
            raise damaged(f"part {part.id}, {name}: wrong size")
    for name in names:
        if file_digest(folder / name) != part.files[name].sha256:
            raise damaged(f"part {part.id}, {name}: wrong digest")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_catalogue(data: bytes, part: PartEntry) -> Catalogue:
    """The catalogue of a part from the content of its file.

    Raises:
        DataFault: it contradicts itself or the manifest (cause "store").
    """
    if len(data) > MAX_JSON_BYTES:
        raise damaged(f"part {part.id}, catalogue.json: too large")
    try:
        catalogue = Catalogue.model_validate_json(data)
    except ValidationError as error:
        raise damaged(f"part {part.id}, catalogue.json: a wrong field") from error
    people, recordings = len(catalogue.patients), len(catalogue.recordings)
    consistent = (
        all(row.patient < people for row in catalogue.recordings)
        and all(row.usable <= row.windows for row in catalogue.recordings)
        and sum(row.usable for row in catalogue.recordings) == part.windows
        and len(catalogue.refused) == part.refused
        and all(
            recording < recordings and max(ecg, ppg) < len(REASONS)
            for recording, ecg, ppg in catalogue.refused
        )
    )
    if not consistent:
        raise damaged(f"part {part.id}, catalogue.json: counts disagree")
    return catalogue


def load_index(data: bytes, part: PartEntry, catalogue: Catalogue) -> np.ndarray[Any, Any]:
    """INDEX_DTYPE (window,): which recording each window belongs to, from its file's content.

    Raises:
        DataFault: a row points outside the catalogue (cause "store").
    """
    index = np.frombuffer(data, dtype=INDEX_DTYPE)
    rows = len(catalogue.recordings)
    if len(index) and (index["recording"].max() >= rows or index["refusal"].max() >= len(REASONS)):
        raise damaged(f"part {part.id}, index.bin: a row points nowhere")
    counts = np.bincount(index["recording"], minlength=rows)
    if counts.tolist() != [row.usable for row in catalogue.recordings]:
        raise damaged(f"part {part.id}, index.bin: counts disagree with the catalogue")
    return index


def _json(data: bytes, name: str) -> Any:
    if len(data) > MAX_JSON_BYTES:
        raise damaged(f"{name} is too large")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise damaged(f"{name} is not JSON") from error
