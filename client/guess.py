"""Guesses a mapping from outlines of files and rows of tables; leaves out what it cannot tell."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from client.formats.base import Outline
from client.formats.csv_file import RECORDING_NAMES, unit_in
from client.formats.csv_time import sure_time_column, time_column
from client.identifiers import kind_of_column
from client.labels import MISSING, as_number, is_identifying, label_value
from client.mapping import (
    DOTS_A_LINE,
    LONGEST_NAME,
    ChannelMapping,
    Mapping,
    is_foreign,
    lead_of,
    preference,
)

_PATIENT = (
    "patient_id",
    "patient",
    "patientid",
    "subject_id",
    "subject",
    "subjectid",
    "pid",
    "pseudonym",
    "participant",
)
_FS = (
    "fs_hz",
    "fs",
    "sampling_rate",
    "sampling_rate_hz",
    "sample_rate",
    "sampling_frequency",
    "frequency_hz",
)
_MAXIMUM_DISTINCT = 32
IDENTIFIES = "a cell of it may identify somebody"
MANY = f"it has more than {_MAXIMUM_DISTINCT} different words that are no numbers"
COMMAS = (
    f"it has more than {_MAXIMUM_DISTINCT} different numbers with a comma that may be thousands, "
    "dates or codes: write them with a point"
)
_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
NAMED = "it has a name that identifiers or free texts have"
LONG = "a cell of it is too long or unprintable"
LONG_NAME = "its name is empty or too long"
_NAMED_A_REASON, _LONGEST_NAMED = 20, 200
"""So that no comment makes a file that a mapping's reader refuses."""


class Guess:
    """Collects what the files of a folder say, then makes one mapping of it."""

    def __init__(self) -> None:
        self._channels: dict[str, None] = {}
        self._columns: dict[str, None] = {}
        self._series: dict[str, None] = {}
        self._times: dict[tuple[str, str], int] = {}
        self._values: dict[str, set[str]] = {}
        self._dropped: dict[str, str] = {}

    def add(self, seen: Outline) -> None:
        """Take in one file's channel and column names."""
        for name in seen.channels:
            lead = lead_of(name)
            if seen.format == "csv" and lead and is_foreign(lead[0], unit_in(name)):
                continue
            self._channels.setdefault(name)
        if seen.format == "csv":
            self._add_time(seen)
        elif seen.format in {"table", "parquet"}:
            self._columns.update(dict.fromkeys(seen.columns))
            unfit = (name for name in seen.columns if not _fits(name))
            self._dropped.update(dict.fromkeys(unfit, LONG_NAME))
        for name in seen.series:
            if lead_of(name) is None and _fits(name):
                self._series.setdefault(name)

    def _add_time(self, seen: Outline) -> None:
        """Of several time columns the first of the lowest rank counts: 0 of signals, by its name
        alone; 1 of signals; 2 of a file without a lead's name, by its name alone."""
        time = time_column(seen.columns)
        if time is None:
            return
        sure = time == sure_time_column(seen.columns)
        if any(map(lead_of, seen.channels)):
            rank = 0 if sure else 1
        elif sure:
            rank = 2
        else:
            return
        self._times[time] = min(rank, self._times.get(time, rank))

    def add_rows(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take in the rows of a table, to tell labels from identifiers and free text."""
        for row in rows:
            for column, value in row.items():
                if column in self._dropped or value is None or value == "":
                    continue
                label = label_value(value)
                if is_identifying(column, value) or (isinstance(value, bytes)):
                    self._dropped[column] = IDENTIFIES
                elif isinstance(label, str):
                    if not math.isnan(as_number(label)):
                        continue
                    distinct = self._values.setdefault(column, set())
                    distinct.add(label)
                    if len(distinct) > _MAXIMUM_DISTINCT:
                        commas = all(_COMMA.fullmatch(one) for one in distinct)
                        self._dropped[column] = COMMAS if commas else MANY
                elif label is None and str(value).strip().casefold() not in MISSING:
                    self._dropped[column] = LONG

    @property
    def left_out(self) -> dict[str, str]:
        """Columns that are no labels, and why, in words; those of identifiers' names are not in
        it, nor is what a cell says."""
        return {name: why for name, why in self._dropped.items() if kind_of_column(name) is None}

    def mapping(self) -> Mapping:
        """The guessed mapping."""
        base = Mapping()
        columns = {name.strip().casefold(): name for name in reversed(list(self._columns))}
        patient = next((columns[name] for name in _PATIENT if name in columns), base.patient_column)
        fs = next((columns[name] for name in _FS if name in columns), base.fs_column)
        recording = next(
            (columns[name] for name in RECORDING_NAMES if name in columns), base.recording_column
        )
        first = min(self._times, key=lambda one: self._times[one], default=None)
        time, unit = first or (base.time_column, base.time_unit)
        own = {patient, recording, fs, *(first or ())[:1]}
        labels = [
            name
            for name in self._columns
            if name not in own and name not in self._dropped and kind_of_column(name) is None
        ]
        found = {role: self._names(role) for role in ("ecg", "ppg")}
        return Mapping.model_validate(
            {
                "patient_column": patient,
                "recording_column": recording,
                "fs_column": fs,
                "time_column": time,
                "time_unit": unit,
                "labels": labels,
                "series": list(self._series),
                "ecg": ChannelMapping(names=found["ecg"]),
                "ppg": ChannelMapping(names=found["ppg"]),
            }
        )

    def to_toml(self) -> str:
        """The guessed mapping's file. Comments name the columns that are no labels, and why."""
        mapping = self.mapping()
        own = {
            mapping.patient_column,
            mapping.recording_column,
            mapping.fs_column,
            mapping.time_column,
        }
        why: dict[str, list[str]] = {}
        for name in self._columns:
            if name not in own and name not in mapping.labels:
                reason = NAMED if kind_of_column(name) else self._dropped[name]
                why.setdefault(reason, []).append(name)
        comments = [
            "\n".join([f"# No label, for {reason}:", *_some_of(names)])
            for reason, names in why.items()
        ]
        return "\n".join([*comments, mapping.to_toml()])

    def _names(self, role: str) -> tuple[str, ...]:
        names = []
        for name in self._channels:
            lead = lead_of(name)
            if lead is not None and lead[0] == role and _fits(name):
                names.append(name)
        return tuple(sorted(names, key=preference))


def _fits(name: str) -> bool:
    """A mapping takes the name."""
    return 0 < len(name) <= LONGEST_NAME


def _some_of(names: list[str]) -> list[str]:
    """Comment lines of the first names, and how many more there are."""
    short = [
        name
        for name in names
        if len(repr(name)) <= _LONGEST_NAMED and name.count(".") <= DOTS_A_LINE
    ]
    lines = [f"#   {name!r}" for name in short[:_NAMED_A_REASON]]
    more = len(names) - len(lines)
    return [*lines, *([f"#   {'and ' if lines else ''}{more} more"] if more else [])]
