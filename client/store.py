"""The window store as it is read: memory-mapped windows and one catalogue row a patient."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from client import store_format as fmt
from client import withdrawals
from client.home import NodeHome
from client.store_key import StoreKey, key_of
from client.store_parts import content, open_rows
from client.store_seal import StoreCipher, envelope_of
from shared_model.canonical import digest
from shared_model.config import CHANNELS, TOKENS, WINDOW_SAMPLES
from shared_model.errors import OurMistake, Refused
from shared_model.windows import Windows

_ATTEMPTS = 5


@dataclass(frozen=True)
class CatalogueRow:
    """One patient. Counts are of windows; refusals[channel][reason]."""

    pseudonym: str
    data_sets: tuple[str, ...]
    recordings: int
    windows: int
    usable: int
    refusals: dict[str, dict[str, int]]
    labels: dict[str, list[str | float]] = field(repr=False)


@dataclass(frozen=True)
class RefusedWindow:
    """A refused window kept to be looked at: signal float16 (2, sample), reason codes."""

    signal: npt.NDArray[np.float16] = field(repr=False)
    refusal: tuple[int, int]


class _Part:
    """One immutable part, opened and checked."""

    def __init__(self, folder: Path, entry: fmt.PartEntry, store: StoreCipher | None) -> None:
        fmt.check_files(folder, entry)
        self.folder = folder
        self.entry = entry
        self.cipher = None if store is None else store.part(entry.id)
        self.catalogue = fmt.load_catalogue(content(folder, "catalogue.json", self.cipher), entry)
        index = content(folder, "index.bin", self.cipher)
        self.index = fmt.load_index(index, entry, self.catalogue)
        self.signal = open_rows(folder, "signal.bin", entry.windows, self.cipher)
        self.valid = open_rows(folder, "valid.bin", entry.windows, self.cipher)

    def refused(self) -> list[RefusedWindow]:
        shape = (self.entry.refused, len(CHANNELS), WINDOW_SAMPLES)
        data = content(self.folder, "refused.bin", self.cipher)
        signal = np.frombuffer(data, dtype="<f2").reshape(shape)
        rows = zip(signal, self.catalogue.refused, strict=True)
        return [RefusedWindow(window, (ecg, ppg)) for window, (_, ecg, ppg) in rows]


class WindowStore:
    """Read side. Windows of patients that withdrew are not in it; refused windows neither.

    `pseudonyms` are the patients with at least one usable window, sorted; their position is the
    patient index of the other methods. The catalogue also lists patients all of whose windows
    were refused. A store that is open stays readable while a writer changes it on disk.
    """

    def __init__(
        self, manifest: fmt.Manifest, parts: list[_Part], key: StoreKey | None = None
    ) -> None:
        self._manifest = manifest
        self._key = key
        self._parts = parts
        rows: dict[str, list[tuple[int, npt.NDArray[np.int64]]]] = {}
        for number, part in enumerate(parts):
            people = np.array([row.patient for row in part.catalogue.recordings], dtype=np.int64)
            owner = people[part.index["recording"]]
            order = np.argsort(owner, kind="stable")
            bounds = np.searchsorted(owner[order], np.arange(len(part.catalogue.patients) + 1))
            for patient, pseudonym in enumerate(part.catalogue.patients):
                mine = order[bounds[patient] : bounds[patient + 1]]
                if len(mine):
                    rows.setdefault(pseudonym, []).append((number, mine))
        withdrawn = set(manifest.withdrawn)
        self.pseudonyms: tuple[str, ...] = tuple(sorted(set(rows) - withdrawn))
        self._rows: list[npt.NDArray[np.int64]] = [
            np.concatenate(
                [np.stack([np.full(len(r), number), r], axis=1) for number, r in rows[pseudonym]]
            )
            for pseudonym in self.pseudonyms
        ]  # per patient: int64 (window, [part, row])

    @classmethod
    def open(cls, path: Path, key: StoreKey | None = None, *, full: bool = False) -> WindowStore:
        """Open and check a store: manifest, sizes, index files; with `full` all window data too.

        Args:
            key: the one that the store is encrypted with; None: it is plain.

        Raises:
            OurMistake: there is no store at `path`.
            Refused: it is not encrypted with this key, or at all (reason "store-key").
            DataFault: it is damaged; names the part (cause "store"). A damaged window of an
                encrypted store is found at the latest when it is asked for.
        """
        for _ in range(_ATTEMPTS):
            before, cipher = read_manifest(path, key)
            try:
                parts = [_Part(path / "parts" / entry.id, entry, cipher) for entry in before.parts]
                if full:
                    for part in parts:
                        fmt.check_files(part.folder, part.entry, fmt.PART_FILES)
            except FileNotFoundError as error:
                if read_manifest(path, key)[0].generation != before.generation:
                    continue  # a writer finished in between: look again
                raise fmt.damaged(f"part {Path(error.filename).parent.name} is gone") from error
            return cls(before, parts, key)
        raise fmt.damaged("it changes faster than it can be read")

    @property
    def patient_count(self) -> int:
        return len(self.pseudonyms)

    @property
    def window_count(self) -> int:
        """Usable windows of all patients."""
        return sum(len(rows) for rows in self._rows)

    @property
    def version(self) -> str:
        """64 hexadecimal digits that change with every change of the store."""
        return digest(fmt.encode_manifest(self._manifest))

    @property
    def key_source(self) -> str | None:
        """Where the key comes from that the store is encrypted with; None: it is plain."""
        return None if self._key is None else self._key.source

    @property
    def data_sets(self) -> tuple[fmt.DataSet, ...]:
        return tuple(self._manifest.data_sets)

    @property
    def former(self) -> bool:
        """It holds patients whom an earlier version named by another rule."""
        return self._manifest.former

    @property
    def withdrawn_count(self) -> int:
        return len(self._manifest.withdrawn)

    def windows_of(self, patient_index: int) -> Windows:
        """All usable windows of one patient, in the order in which they were added."""
        where = self._rows[patient_index]
        signal, valid = self._gather(where)
        index = np.concatenate(
            [self._parts[part].index[row : row + 1] for part, row in where]
        )  # few windows a patient
        return Windows(signal, valid, index["start_s"].copy(), index["refusal"].copy())

    def recordings_of(self, patient_index: int) -> npt.NDArray[np.int64]:
        """Which of the patient's recordings the windows of `windows_of` are of, (window,): 0 ..."""
        where = self._rows[patient_index]
        named = np.array([(part, self._parts[part].index["recording"][row]) for part, row in where])
        return np.unique(named, axis=0, return_inverse=True)[1].astype(np.int64).ravel()

    def segments(
        self, patients: npt.NDArray[np.integer[Any]], segments: int, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Random windows of the given patients.

        Without replacement; a patient with fewer windows gets zeros with nothing valid at the end.

        Args:
            patients: (patient,) indices into `pseudonyms`; repeats allowed.
            segments: windows a patient, at least 1.
            rng: public randomness; which windows are looked at costs no privacy by itself.

        Returns:
            signal float32 (patient, segment, 2, 1250) and valid bool (patient, segment, 2, 50).
        """
        if segments < 1:
            raise OurMistake("segments must be at least 1.")
        signal = np.zeros((len(patients), segments, len(CHANNELS), WINDOW_SAMPLES), np.float32)
        valid = np.zeros((len(patients), segments, len(CHANNELS), TOKENS), np.bool_)
        for place, patient in enumerate(patients):
            where = self._rows[int(patient)]
            count = min(segments, len(where))
            chosen = where[rng.choice(len(where), size=count, replace=False, shuffle=True)]
            signal[place, :count], valid[place, :count] = self._gather(chosen)
        return signal, valid

    def _gather(
        self, where: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        signal = np.empty((len(where), len(CHANNELS), WINDOW_SAMPLES), np.float32)
        valid = np.empty((len(where), len(CHANNELS), TOKENS), np.bool_)
        for place, (part, row) in enumerate(where):
            signal[place] = self._parts[part].signal[row]
            valid[place] = self._parts[part].valid[row] != 0
        return signal, valid

    def catalogue(self) -> list[CatalogueRow]:
        """One row a patient, sorted by pseudonym; also patients without a usable window."""
        merged: dict[str, dict[str, Any]] = {}
        for part in self._parts:
            for row in part.catalogue.recordings:
                entry = merged.setdefault(
                    part.catalogue.patients[row.patient],
                    {
                        "sets": set(), "recordings": 0, "windows": 0, "usable": 0,
                        "refusals": {channel: Counter() for channel in CHANNELS}, "labels": {},
                    },
                )  # fmt: skip
                entry["sets"].add(row.data_set)
                entry["recordings"] += 1
                entry["windows"] += row.windows
                entry["usable"] += row.usable
                for channel, counts in row.refusals.items():
                    entry["refusals"][channel].update(counts)
                for name, value in row.labels.items():
                    seen = entry["labels"].setdefault(name, [])
                    if value not in seen:
                        seen.append(value)
        return [
            CatalogueRow(
                pseudonym=pseudonym,
                data_sets=tuple(sorted(entry["sets"])),
                recordings=entry["recordings"],
                windows=entry["windows"],
                usable=entry["usable"],
                refusals={c: dict(sorted(n.items())) for c, n in entry["refusals"].items()},
                labels=entry["labels"],
            )
            for pseudonym, entry in sorted(merged.items())
            if pseudonym not in set(self._manifest.withdrawn)
        ]

    def refused_examples(self) -> list[RefusedWindow]:
        """The refused windows that were kept to be looked at."""
        return [window for part in self._parts for window in part.refused()]


def open_store(home: NodeHome, *, full: bool = False) -> WindowStore:
    """The node's store, with the key that is configured for it.

    Raises:
        OurMistake: there is none, or its key cannot be used.
        Refused, DataFault: see `WindowStore.open`.
    """
    return WindowStore.open(home.store, key_of(home), full=full)


def open_for_use(home: NodeHome) -> WindowStore:
    """As `open_store`, where the windows in it are made into something: not those of patients who
    have withdrawn.

    Raises:
        Refused: also when the node was restored and nobody said who has withdrawn since
            (reason "not-ready").
    """
    before = withdrawals.noted(home)
    store = open_store(home)
    if not withdrawals.are_known(home, before, store.withdrawn_count):
        raise withdrawals.refused("not-ready")
    return store


def check_withdrawals(home: NodeHome) -> None:
    """The node has a store, its key, and the withdrawals of now: before a round is paid for.

    Raises:
        Refused: it has not (reason "not-ready").
        OurMistake, DataFault: as `withdrawals_are_known`.
    """
    if not withdrawals_are_known(home):
        raise withdrawals.refused("not-ready")


def withdrawals_are_known(home: NodeHome) -> bool:
    """Whether the list of who has withdrawn is that of now.

    Raises:
        OurMistake: see `withdrawals.noted`.
        Refused, DataFault: see `check_openable`.
    """
    before = withdrawals.noted(home)
    return withdrawals.are_known(home, before, len(check_openable(home).withdrawn))


def check_openable(home: NodeHome) -> fmt.Manifest:
    """The node has a store and its key: its manifest.

    Raises:
        Refused: it has not (reason "not-ready").
        DataFault: the manifest is damaged (cause "store").
    """
    try:
        return read_manifest(home.store, key_of(home))[0]
    except (OurMistake, Refused) as error:
        raise Refused(error.message, reason="not-ready", do=error.do) from error


def is_encrypted(path: Path) -> bool:
    """Whether the store at `path` claims to be encrypted.

    Raises:
        OurMistake: there is none.
        DataFault: its manifest is damaged (cause "store").
    """
    return envelope_of(_manifest_bytes(path)) is not None


def read_manifest(
    path: Path, key: StoreKey | None = None
) -> tuple[fmt.Manifest, StoreCipher | None]:
    """The manifest of the store at `path`, and what opens its parts (None: they are plain).

    Raises:
        OurMistake: there is none.
        Refused: it is encrypted and there is no key, or another; or it is plain although there is
            a key (reason "store-key").
        DataFault: it is damaged (cause "store").
    """
    data = _manifest_bytes(path)
    envelope = envelope_of(data)
    if envelope is None:
        manifest = fmt.decode_manifest(data)
        if key is not None:
            raise Refused(
                f"The window store is not encrypted, but a key is configured ({key.source}).",
                reason="store-key",
                do="Run: fedprint-node data encrypt (or, to give up the key: data decrypt).",
            )
        return manifest, None
    if key is None:
        raise Refused(
            "The window store is encrypted and no key is configured.",
            reason="store-key",
            do="Name its key under [store] of node.toml, or run with its systemd credential.",
        )
    cipher = StoreCipher.of(envelope, key.secret)
    return fmt.decode_manifest(cipher.open_manifest(envelope), sealed=True), cipher


def _manifest_bytes(path: Path) -> bytes:
    try:
        return (path / "manifest.json").read_bytes()
    except FileNotFoundError as error:
        raise OurMistake(
            "This node has no window store yet.",
            do="Add recordings: fedprint-node data add PATH",
        ) from error
