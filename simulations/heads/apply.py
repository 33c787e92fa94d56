"""Answers of a head for recordings, or for a file of fingerprints.

    items = from_recordings(head, folder, model)       # reads, gates, makes fingerprints
    items = from_parquet(head, file)                   # simulations.heads.fingerprint_file

A row says whose it is, so that who asked can act on it: patients by their number in the order of
reading, and by pseudonym where the file has them; recordings as the file or folder names them. A
file's name may name a patient: it is in the answers alone, never in a message.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from shared_model.config import FINGERPRINT_SIZE
from shared_model.errors import DataFault, OurMistake
from shared_model.heads.answers import refuse_other_model
from shared_model.heads.arrays import Head
from shared_model.heads.card import ERROR_RATES
from shared_model.heads.manifest import ABSTAIN
from simulations.models import NamedModel

if TYPE_CHECKING:
    from client.fingerprints import Fault
    from client.mapping import Mapping
    from client.records import Recording

MOST_PAIRED = 2000
ANSWERED_AT_ONCE = 50_000
OWN_COLUMNS = frozenset(
    {"patient", "pseudonym", "recording", "start_s", "answer", "why"}
    | {"possible", "low", "high", "distance"}
)
"""Of a row of answers. The column of a class of such a name is `class NAME`; that of one whose name
begins so has the word in front once more, so that no two columns are one."""


@dataclass(frozen=True)
class Items:
    """What answers are given for.

    patient: numbers from 1 in the order of reading. recording: likewise within the patient; 0: of
    all of them. start_s: NaN: of all of them. fingerprints: float32 (item, 128), NaN without one.
    pseudonyms: by patient, () where nobody has them. names: of recordings, by patient and
    recording. faults: what could not be read.
    """

    patient: npt.NDArray[np.int64]
    recording: npt.NDArray[np.int64]
    start_s: npt.NDArray[np.float64]
    fingerprints: npt.NDArray[np.float32] = field(repr=False)
    pseudonyms: tuple[str, ...] = field(default=(), repr=False)
    names: MappingOf[tuple[int, int], str] = field(default_factory=dict, repr=False)
    faults: tuple[Fault, ...] = ()


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
    return replace(
        windows,
        patient=found[:, 0],
        recording=found[:, 1],
        start_s=np.full(len(found), np.nan),
        fingerprints=mean.astype(np.float32),
    )


def from_recordings(
    head: Head, source: Path, model: NamedModel, mapping: Mapping | None = None
) -> Items:
    """Windows of recordings, of the head's sensors alone. Of one file the tables beside it say
    whose it is, as they do of its folder.

    Args:
        mapping: how to read; None: see `simulations.site_mapping`.

    Raises:
        NothingRead: not one recording could be read; it says why.
        Refused: the model is not the head's.
    """
    from client.fingerprints import Fault, NothingRead, seen_by
    from client.records import ReadFault, read_folder
    from simulations.heads.beside import tables_beside
    from simulations.probes.rows import encoder
    from simulations.probes.task import windows_of
    from simulations.site_mapping import own_mapping

    refuse_other_model(
        head, model.digest, "fedprint-lab head apply HEAD RECORDINGS --on warm-start:"
    )
    encode = encoder(model.config, model.weights)
    people: dict[str, int] = {}
    seen: dict[int, int] = {}
    names: dict[tuple[int, int], str] = {}
    parts: list[tuple[int, int, npt.NDArray[np.float64], npt.NDArray[np.float32]]] = []
    faults: list[Fault] = []
    if mapping is None:
        own = own_mapping(source if source.is_dir() else source.parent)
        mapping = None if own is None else own.mapping
    for item in read_folder(source, mapping, tables=tables_beside(source, mapping)):
        if isinstance(item, ReadFault):
            faults.append(Fault(item.file, item.cause, item.message, item.do))
            continue
        try:
            windows = seen_by(windows_of(item, gate=head.manifest.gated), head.manifest.sensors)
        except DataFault as error:
            faults.append(Fault(item.shown, error.cause, error.message, error.do))
            continue
        person = people.setdefault(item.patient, len(people) + 1)
        seen[person] = seen.get(person, 0) + 1
        names[person, seen[person]] = name_of(item)
        made = encode(windows.signal, windows.valid)
        parts.append((person, seen[person], windows.start_s, made))
    if not parts:
        raise NothingRead(
            f"No recording could be read; files refused: {len(faults)}.",
            faults=faults,
            do="Read the causes above." if faults else "Name a folder of recordings.",
        )
    sizes = [len(part[3]) for part in parts]
    return Items(
        np.repeat([part[0] for part in parts], sizes),
        np.repeat([part[1] for part in parts], sizes),
        np.concatenate([part[2] for part in parts]),
        np.concatenate([part[3] for part in parts]),
        names=names,
        faults=tuple(faults),
    )


def name_of(recording: Recording) -> str:
    """Its file, as who asked for answers finds it; one that no screen can show is withheld."""
    return recording.file if recording.file.isprintable() else recording.shown


def rows(head: Head, items: Items) -> Iterator[dict[str, object]]:
    """A row for each answer, for a table or JSON: the same columns in every row, None where
    nothing is known."""
    from shared_model.heads.answers import answer

    classes = [column_of(one) for one in head.manifest.classes]
    unknown = (None,) * len(classes)
    parts = range(0, len(items.patient), ANSWERED_AT_ONCE)
    answers = (
        one
        for start in parts
        for one in answer(head, items.fingerprints[start : start + ANSWERED_AT_ONCE])
    )
    for place, one in enumerate(answers):
        row = whose(items, place)
        row["answer"] = ABSTAIN if one.value is None else one.value
        row["why"] = one.why_abstained
        if head.manifest.kind == "classes":
            row |= dict(zip(classes, one.probabilities or unknown, strict=True))
            row["possible"] = list(one.possible) if one.probabilities else None
        else:
            row |= {"low": one.low, "high": one.high}
        row["distance"] = one.distance
        yield row


def column_of(name: str) -> str:
    """Of a class's probability."""
    return f"class {name}" if name in OWN_COLUMNS or name.startswith("class ") else name


def whose(items: Items, place: int) -> dict[str, object]:
    """Whose the item is, and where it stands."""
    patient, recording = int(items.patient[place]), int(items.recording[place])
    start = float(items.start_s[place])
    return {
        "patient": patient,
        "pseudonym": items.pseudonyms[patient - 1] if items.pseudonyms else None,
        "recording": items.names.get((patient, recording)),
        "start_s": start if np.isfinite(start) else None,
    }


def in_a_word(items: Items, place: int) -> str:
    """PSEUDONYM/RECORDING, or the patient's number in the place of the pseudonym."""
    told = whose(items, place)
    return f"{told['pseudonym'] or told['patient']}/{told['recording']}"


def error_rates(head: Head) -> dict[str, object]:
    """How often a head of identity is wrong, with intervals, for JSON; nothing of another head."""
    if head.manifest.kind != "identity":
        return {}
    found = {one.name: one.model_dump(exclude={"name"}) for one in head.manifest.figures}
    return {name.replace("-", "_").replace(" ", "_"): found.get(name) for name in ERROR_RATES}


def pair_rows(head: Head, items: Items) -> Iterator[dict[str, object]]:
    """A row for each pair of items; identity. A pair below the threshold is not shown to be one
    person's; that it is two people's is not shown either.

    Raises:
        OurMistake: more than 2,000 items, two million pairs.
    """
    from shared_model.heads.answers import NOT_SHOWN, SAME, same_person

    if len(items.patient) > MOST_PAIRED:
        raise OurMistake(f"At most {MOST_PAIRED} recordings are compared with each other.")
    cosines, good = same_person(head, items.fingerprints)
    found = head.manifest.verification
    limit = 2.0 if found is None else found.threshold
    words = [in_a_word(items, place) for place in range(len(good))]
    for first in range(len(good)):
        for second in range(first + 1, len(good)):
            known = bool(good[first] and good[second])
            cosine = float(cosines[first, second])
            said = ABSTAIN if not known else SAME if cosine >= limit else NOT_SHOWN
            yield {
                "first": words[first],
                "second": words[second],
                "answer": said,
                "cosine": cosine if known else None,
            }
