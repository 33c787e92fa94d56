"""The only reader of recordings: a folder of WFDB, EDF, DICOM, CSV and Parquet files, lazily.

`read_folder` yields a `Recording` or a `ReadFault` for everything it meets; a bad file never stops
the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from client.formats import csv_file, dicom, edf, parquet, wfdb
from client.formats.base import (
    CAUSES,
    Event,
    Outline,
    Parsed,
    Samples,
    Signal,
    fail,
    read_head,
)
from client.identifiers import Finding, find_in_name, find_in_texts, safe_name
from client.labels import labels_of
from client.mapping import Mapping, Role, lead_of, unit_of
from client.pseudonyms import same_patient
from client.record_files import MAPPING_FILE, File, ReadFault, walk
from client.tables import Row, Tables
from shared_model.errors import DataFault

if TYPE_CHECKING:
    from client.guess import Guess

__all__ = [
    "CAUSES",
    "MAPPING_FILE",
    "Channel",
    "Event",
    "Finding",
    "ReadFault",
    "Recording",
    "columns_left_out",
    "count_recordings",
    "guess_folder",
    "guess_mapping",
    "read_folder",
]


@dataclass(frozen=True)
class Channel:
    """One modality of a recording.

    samples: float64, NaN = missing; ECG in mV where the file has a unit, else the file's numbers.
    unit: "mV", "NU" (none) or, for PPG, one of V, mV, uV, nA, uA, %.
    lead: out of a closed vocabulary ("II", "MLII", "V5", "ECG", "PLETH", "PPG").
    """

    samples: Samples = field(repr=False)
    fs_hz: float
    unit: str
    lead: str


@dataclass(frozen=True)
class Recording:
    """One recording of one patient. `patient`, `name` and `file` identify: hash them, never store
    them.

    patient: as `same_patient` spells it, so that equal ones are one patient's.
    channels: keys "ecg", "ppg", at least one.
    labels: columns that the mapping names and the identifier scan has passed.
    series: list columns that the mapping names (reference heart rates).
    digest: SHA-256 of the source bytes (of a Parquet row: of its name, rate and chosen channels).
    findings: what the scan found in its source. shown: its file's name, safe to show.
    file: its path below the folder that is read, with its name behind it if the file has several.
    """

    patient: str = field(repr=False)
    name: str = field(repr=False)
    channels: MappingOf[str, Channel]
    labels: MappingOf[str, str | float]
    events: tuple[Event, ...]
    series: MappingOf[str, np.ndarray[Any, np.dtype[np.float64]]] = field(repr=False)
    digest: str
    findings: tuple[Finding, ...] = ()
    shown: str = ""
    file: str = field(default="", repr=False)


def read_folder(
    path: Path, mapping: Mapping | None = None, *, tables: tuple[Path, ...] = ()
) -> Iterator[Recording | ReadFault]:
    """Read a folder (with its subfolders) or one file, in order of names, one recording in memory.

    `mapping`: how to read; None guesses it. `tables`: beside one file, read with it. Whatever is
    wrong with a file comes as a ReadFault. Raises OurMistake if `path` is no file and no folder.
    """
    files, faults = walk(path)
    files = [*(File(one, one.name, safe_name(one.name, 1)) for one in tables), *files]
    yield from faults
    mapping = _guess(files).mapping() if mapping is None else mapping
    yield from _Reader(path if path.is_dir() else path.parent, files, mapping).read()


def guess_mapping(path: Path) -> Mapping:
    """The mapping that fits a folder or file best, from headers and tables (samples stay unread).

    Raises OurMistake if `path` is neither a file nor a folder. Files with faults are passed over.
    """
    return guess_folder(path).mapping()


def guess_folder(path: Path) -> Guess:
    """As `guess_mapping`, with the columns that it leaves out.

    Raises OurMistake if `path` is neither a file nor a folder.
    """
    return _guess(walk(path)[0])


def columns_left_out(path: Path) -> dict[str, str]:
    """Columns of tables that a guess does not take for labels, and why, in words.

    Raises OurMistake if `path` is neither a file nor a folder.
    """
    return guess_folder(path).left_out


def count_recordings(path: Path) -> int:
    """Recordings below `path` by the look of the files (rows of Parquet), samples stay unread.

    For progress bars: a file that turns out to be faulty counts as well.
    Raises OurMistake if `path` is neither a file nor a folder.
    """
    total = 0
    for item in walk(path)[0]:
        try:
            kind = _format_of(read_head(item.path))
            if kind == "parquet":
                total += parquet.row_count(item.path)
            elif kind == "csv":
                total += csv_file.outline(item.path, None).format == "csv"
            elif kind:
                total += 1
        except DataFault:
            total += 1
    return total


def _guess(files: list[File]) -> Guess:
    from client.guess import Guess

    guess = Guess()
    for item in files:
        try:
            seen = _outline(item.path, None)
            guess.add(seen)
            if seen.format == "table":
                guess.add_rows(csv_file.read_table(item.path, seen))
            elif seen.format == "parquet":
                guess.add_rows(parquet.scalar_rows(item.path, seen))
        except DataFault:
            continue
    return guess


class _Reader:
    """One pass over the files of a folder."""

    def __init__(self, root: Path, files: list[File], mapping: Mapping) -> None:
        self.root = root
        self.files = files
        self.mapping = mapping
        self.tables = Tables(mapping)
        self.pending: list[Finding] = []

    def read(self) -> Iterator[Recording | ReadFault]:
        outlines: dict[Path, str] = {}
        owned: set[Path] = set()
        stems: set[Path] = set()
        torn: set[Path] = set()
        for item in self.files:
            try:
                head = read_head(item.path)
                kind = _format_of(head)
                if kind == "wfdb":
                    stems.add(item.path.with_suffix(""))
                    owned |= {item.path.parent / name for name in wfdb.named_files(item.path)}
                elif kind == "csv":
                    seen = csv_file.outline(item.path, self.mapping)
                    if seen.format == "table":
                        kind = "table"
                        self._read_table(item, seen)
                elif kind == "" and item.path.suffix.casefold() == ".csv":
                    torn |= {item.path} if csv_file.looks_like(head, torn=True) else set()
                outlines[item.path] = kind
            except DataFault as error:
                yield self._fault(item, error)
        for item in self.files:
            kind = outlines.get(item.path, "table")
            companion = kind == "" and (
                item.path in owned or (item.path.with_suffix("") in stems and item.path not in torn)
            )
            if kind != "table" and not companion:
                yield from self._read_file(item)
        if self.pending:
            name = self.pending[0].file
            yield ReadFault(
                name, "bad-table", "No recording belongs to this table.", findings=self._findings()
            )

    def _read_table(self, item: File, seen: Outline) -> None:
        rows = csv_file.read_table(item.path, seen)
        self.pending += find_in_name(item.relative, item.shown)
        self.pending += self.tables.add(item.path.parent, item.shown, seen, rows)

    def _read_file(self, item: File) -> Iterator[Recording | ReadFault]:
        self.pending += find_in_name(item.relative, item.shown)
        of_many = False
        try:
            seen = _outline(item.path, self.mapping)
            self.pending += find_in_texts(item.shown, seen.texts)
            chosen = {str(role): name for role, name in self.mapping.pick(seen.channels).items()}
            of_many = seen.format == "parquet"
            if of_many:
                yield from self._no_numbers(item, seen, chosen)
            if not chosen:
                fail(
                    "no-channel",
                    "None of its channels is named in the mapping.",
                    do="Add the channel's name to [ecg] or [ppg] of the mapping.",
                )
            if of_many:
                yield from self._read_rows(item, seen, chosen)
                return
            name = item.path.stem
            row = self.tables.find(item.path, item.relative)
            if seen.format == "wfdb":
                parsed = wfdb.read(item.path, seen, chosen)
            elif seen.format == "edf":
                parsed = edf.read(item.path, seen, chosen)
            elif seen.format == "dicom":
                parsed = dicom.read(item.path, seen, chosen)
            else:
                parsed = csv_file.read(
                    item.path, seen, chosen, self.mapping, row.fs_hz if row else None
                )
            self.pending += find_in_texts(item.shown, parsed.texts)
            yield from self._settle(item, name, parsed, row, seen.patient)
        except DataFault as error:
            yield self._fault(item, error, of_many)

    def _no_numbers(self, item: File, seen: Outline, chosen: dict[str, str]) -> Iterator[ReadFault]:
        """A fault for each sensor whose column is there and is not read; it is of many patients."""
        for role in self.mapping.pick((*seen.columns, *seen.unread)):
            if role not in chosen:
                error = DataFault(
                    f"The column of the {role.upper()} holds no lists of numbers.",
                    cause="bad-header",
                    do="Write the samples of a recording as a list of numbers.",
                )
                yield self._fault(item, error, of_many=True)

    def _read_rows(
        self, item: File, seen: Outline, chosen: dict[str, str]
    ) -> Iterator[Recording | ReadFault]:
        column = self.mapping.recording_column
        for number, parsed in enumerate(
            parquet.read(item.path, seen, self.mapping, chosen), start=1
        ):
            self.pending += find_in_texts(item.shown, parsed.texts)
            try:
                if parsed.fault is not None:
                    raise parsed.fault
                name = parsed.row.get(column) or f"{item.path.stem} row {number}"
                row = self.tables.find_name(item.path.parent, name)
                yield from self._settle(item, name, parsed, row, "")
            except DataFault as error:
                fault = self._fault(item, error)
                yield replace(fault, message=f"Row {number}: {fault.message}")

    def _settle(
        self, item: File, name: str, parsed: Parsed, row: Row | None, patient: str
    ) -> Iterator[Recording | ReadFault]:
        """Patient, units and labels of one recording; an empty channel is a fault of its own."""
        cells = {**parsed.row, **(row.cells if row else {})}
        cell = cells.get(self.mapping.patient_column)
        written = patient if patient and not same_patient(cell) else str(cell or "")
        if self.mapping.one_file_is_one_patient:
            written = str(Path(item.relative).with_suffix(""))
        found = same_patient(written)
        if not found and written.strip():
            fail(
                "no-patient",
                "What should say whose recording it is names nobody.",
                do="Write the identifier itself: no word for a missing one, no power of ten "
                "(1.23E+11), no fraction, and no zeros that may be thousands (1.000).",
            )
        if not found:
            fail(
                "no-patient",
                "Nobody says whose recording it is.",
                do="Add it to the table of recordings, or map one_file_is_one_patient.",
            )
        channels: dict[str, Channel] = {}
        for role, signal in parsed.signals.items():
            channel = self._channel(role, signal)
            if np.all(np.isnan(channel.samples)):
                error = DataFault(
                    f"The {role.upper()} channel has no valid sample.", cause="no-samples"
                )
                if len(parsed.signals) == 1:
                    raise error
                yield self._fault(item, error)
                continue
            channels[role] = channel
        if not channels:
            fail("no-samples", "No channel has a valid sample.")
        yield Recording(
            patient=found,
            name=name,
            channels=channels,
            labels=labels_of(cells, self.mapping),
            events=parsed.events,
            series=parsed.series,
            digest=parsed.digest,
            findings=self._findings(),
            shown=item.shown,
            file=item.relative if name == item.path.stem else f"{item.relative}: {name}",
        )

    def _channel(self, role: str, signal: Signal) -> Channel:
        kind: Role = "ecg" if role == "ecg" else "ppg"
        given = self.mapping.unit_given(kind)
        canonical = unit_of(kind, signal.unit if given is None else given)
        if canonical is None:
            fail(
                "units",
                f"The {role.upper()} channel has a unit that it cannot have.",
                do=f"Map another channel, or give the right unit under [{role}] of the mapping.",
            )
        unit, factor = canonical
        lead = lead_of(signal.name)
        name = lead[1] if lead is not None and lead[0] == kind else role.upper()
        samples = signal.samples if factor == 1.0 else signal.samples * factor
        return Channel(samples, signal.fs_hz, unit, name)

    def _fault(self, item: File, error: DataFault, of_many: bool = False) -> ReadFault:
        return ReadFault(
            item.shown, error.cause, error.message, error.do, self._findings(), of_many
        )

    def _findings(self) -> tuple[Finding, ...]:
        findings = tuple(dict.fromkeys(self.pending))
        self.pending.clear()
        return findings


def _format_of(head: bytes) -> str:
    """Format by content: "" if it is none of those that are read."""
    if parquet.looks_like(head):
        return "parquet"
    if dicom.looks_like(head):
        return "dicom"
    if edf.looks_like(head):
        return "edf"
    if wfdb.looks_like(head):
        return "wfdb"
    return "csv" if csv_file.looks_like(head) else ""


def _outline(path: Path, mapping: Mapping | None) -> Outline:
    kind = _format_of(read_head(path))
    if kind == "parquet":
        return parquet.outline(path)
    if kind == "dicom":
        return dicom.outline(path)
    if kind == "edf":
        return edf.outline(path)
    if kind == "wfdb":
        return wfdb.outline(path)
    if kind == "csv":
        return csv_file.outline(path, mapping)
    fail(
        "not-a-recording",
        "It is none of WFDB, EDF, DICOM, CSV and Parquet.",
        do="Leave it out of the folder.",
    )
