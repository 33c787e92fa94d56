"""Recordings into the window store: read, window, gate, catalogue; all of an add shows or none."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client import withdrawals
from client.home import NodeHome
from client.pseudonyms import keyed_digest, load_key, load_or_create_key, pseudonym_of
from client.store import read_manifest
from client.store_key import key_of
from client.store_part_write import refusal_counts
from client.store_write import StoreWriter
from shared_model.config import CHANNELS
from shared_model.errors import DataFault, OurMistake
from shared_model.files import write_atomic
from shared_model.windows import Prepared, prepare

if TYPE_CHECKING:
    from client.records import Finding, ReadFault, Recording


@dataclass(frozen=True)
class FileFault:
    """A file that did not go in. For the hospital's own screen; never stored."""

    file: str = field(repr=False)
    cause: str
    message: str
    do: str = ""


@dataclass(frozen=True)
class Withdrawn:
    """erased: recordings. before: the patient was withdrawn already. former: the store's names are
    of an earlier version. empty: it holds nobody."""

    erased: int
    before: bool
    former: bool
    empty: bool


@dataclass
class AddReport:
    """What an add saw and did. Counts are of this folder, also of what was in the store before."""

    data_set: str = ""
    version: int = 0
    recordings: int = 0
    added: int = 0
    already_in: int = 0
    withdrawn: int = 0
    windows: int = 0
    usable: int = 0
    refusals: dict[str, Counter[str]] = field(
        default_factory=lambda: {channel: Counter() for channel in CHANNELS}
    )
    faults: list[FileFault] = field(default_factory=list)
    findings: dict[Finding, None] = field(default_factory=dict)
    same_bytes: int = 0
    """Recordings that are byte by byte another patient's in the same folder; they went in."""
    pseudonyms: set[str] = field(default_factory=set, repr=False)
    owners: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def patients(self) -> int:
        return len(self.pseudonyms)

    def as_dict(self) -> dict[str, Any]:
        """For --json: no pseudonyms, no patient identifiers."""
        return {
            "data_set": self.data_set,
            "version": self.version,
            "patients": self.patients,
            "recordings": self.recordings,
            "added": self.added,
            "already_in": self.already_in,
            "withdrawn": self.withdrawn,
            "same_bytes_as_another_patient": self.same_bytes,
            "windows": self.windows,
            "usable_windows": self.usable,
            "refusals": {channel: dict(counts) for channel, counts in self.refusals.items()},
            "faults": [
                {
                    "file": fault.file,
                    "cause": fault.cause,
                    "message": fault.message,
                    "do": fault.do,
                }
                for fault in self.faults
            ],
            "identifiers_found": [asdict(finding) for finding in self.findings],
        }


def prepare_recording(recording: Recording) -> Prepared:
    """Windows of a recording as `client.records` gives it."""
    ecg, ppg = recording.channels.get("ecg"), recording.channels.get("ppg")
    return prepare(
        ecg.samples if ecg else None,
        ecg.fs_hz if ecg else 0.0,
        ppg.samples if ppg else None,
        ppg.fs_hz if ppg else 0.0,
    )


def add_recordings(
    home: NodeHome,
    folder: Path,
    items: Iterable[Recording | ReadFault],
    *,
    name: str | None = None,
    withdrawals_hold: bool = False,
    on_item: Callable[[], None] = lambda: None,
    before_commit: Callable[[AddReport], None] = lambda report: None,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> AddReport:
    """Add what `read_folder(folder)` yields to the node's store, in one step.

    A recording that is in the store already (same bytes, same patient, whatever its name) is
    counted and left alone, one of a patient who withdrew likewise. One that is in the store under
    another patient is a fault: with two pseudonyms one person would be two privacy units. A faulty
    file is reported and the rest goes in. Whatever interrupts this leaves the store as it was.

    Args:
        name: of the data set; else the one this folder had, else "set-N".
        withdrawals_hold: as `StoreWriter.refuse_former_names` has it.
        on_item: called after every recording or fault.
        before_commit: called when everything has been read and nothing shows yet; what it raises
            leaves the store as it was.
        on_stage: see `StoreWriter`.

    Raises:
        Refused: another command is writing (reason "locked"), the store is not encrypted as is
            configured ("store-key"), or of a version that named patients otherwise ("names").
        OurMistake: the name belongs to another folder, or is no word of small letters.
        DataFault: the store is damaged (cause "store").
    """
    store_key = key_of(home)
    key = load_or_create_key(home)
    source = keyed_digest(key, "folder", str(folder.resolve()))
    report = AddReport()
    with StoreWriter(home.store, key, store_key, on_stage=on_stage) as writer:
        writer.refuse_former_names(withdrawals_hold=withdrawals_hold)
        withdrawals.keep_count(home, len(writer.withdrawn))
        mark = withdrawals.seen(home)
        if not withdrawals_hold:
            withdrawals.refuse_unknown(home, reason="names")
        report.data_set = _data_set_name(writer, source, name)
        known = writer.recordings()
        part = writer.new_part(report.data_set, source)
        try:
            for item in items:
                fault = _add_item(item, key, known, writer.withdrawn, part.add, report)
                if fault is not None:
                    report.faults.append(fault)
                on_item()
            before_commit(report)
            if withdrawals.seen(home) != mark:  # restored meanwhile: that was not said of it
                withdrawals.refuse_unknown(home, reason="names")
            report.version = part.commit()
            if writer.manifest.parts:  # not where all were withdrawn
                home.nothing_added.unlink(missing_ok=True)
            if mark is not None and withdrawals.seen(home) == mark:
                withdrawals.say_they_hold(home, len(writer.withdrawn))
        except BaseException:
            part.abandon()
            raise
    return report


def _add_item(
    item: Recording | ReadFault,
    key: bytes,
    known: dict[str, set[str]],
    withdrawn: frozenset[str],
    add: Callable[..., None],
    report: AddReport,
) -> FileFault | None:
    """Count one item and hand it to the part if it is new; a fault is returned, not raised."""
    from client.records import ReadFault

    report.findings.update(dict.fromkeys(item.findings))
    if isinstance(item, ReadFault):
        return FileFault(item.file, item.cause, item.message, item.do)
    pseudonym = pseudonym_of(key, item.patient)
    digest = keyed_digest(key, "recording", item.digest)
    if digest in known and pseudonym not in known[digest]:
        return FileFault(
            item.shown,
            "other-patient",
            "The same recording is in the store under another patient.",
            "Find out whose it is; remove the data set that is wrong.",
        )
    report.recordings += 1
    report.pseudonyms.add(pseudonym)
    if pseudonym in withdrawn:
        report.withdrawn += 1
        return None
    try:
        prepared = prepare_recording(item)
    except DataFault as error:
        report.recordings -= 1
        return FileFault(item.shown, error.cause, error.message, error.do)
    windows = prepared.windows()
    report.windows += len(windows)
    report.usable += int(windows.usable.sum())
    for index, channel in enumerate(CHANNELS):
        report.refusals[channel].update(refusal_counts(windows.refusal[:, index]))
    if digest in known:
        report.already_in += 1
        return None
    if report.owners.setdefault(digest, pseudonym) != pseudonym:
        report.same_bytes += 1
    report.added += 1
    add(digest, pseudonym, prepared, item.labels)
    return None


def _data_set_name(writer: StoreWriter, source: str, name: str | None) -> str:
    known = writer.data_set_of(source)
    if known is not None:
        if name not in (None, known.name):
            raise OurMistake(
                f"This folder was added before as data set {known.name!r}.",
                do="Leave --name away, or remove that data set first.",
            )
        return known.name
    taken = {one.name for one in writer.manifest.data_sets}
    if name is None:
        number = 1
        while f"set-{number}" in taken:
            number += 1
        return f"set-{number}"
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,47}", name):
        raise OurMistake(
            "The name of a data set is 1 to 48 small letters, digits, '-', '_' or '.'.",
            do="Choose another name with --name; never a patient's name.",
        )
    return name


def open_writer(home: NodeHome) -> StoreWriter:
    """A writer of the node's store, which must exist.

    Raises:
        OurMistake: there is no store, or one of its keys is gone.
        Refused: it is not encrypted as is configured (reason "store-key").
    """
    store_key = key_of(home)
    read_manifest(home.store, store_key)
    return StoreWriter(home.store, load_key(home.pseudonym_key), store_key)


def withdraw(home: NodeHome, pseudonym: str) -> Withdrawn:
    """Erase a patient and remember the pseudonym; a node without a store gets one that remembers.

    Raises:
        OurMistake: there is no node, or the pseudonym key of its store is gone.
        Refused: another command is writing (reason "locked"), or the store is not encrypted as is
            configured ("store-key").
    """
    key = key_to_withdraw(home)
    with StoreWriter(home.store, key, key_of(home)) as writer:
        if not (home.store / "manifest.json").exists():
            write_atomic(home.nothing_added, b"only withdrawals are in the store\n", mode=0o600)
        withdrawals.keep_count(home, len(writer.withdrawn))
        before, former = pseudonym in writer.withdrawn, writer.manifest.former
        empty = not writer.manifest.parts
        erased = writer.withdraw(pseudonym)
        withdrawals.keep_count(home, len(writer.withdrawn))
    return Withdrawn(erased=erased, before=before, former=former, empty=empty)


def check_node(home: NodeHome) -> None:
    """Raises OurMistake if this folder is no node's."""
    if not any(
        path.exists() for path in (home.config, home.pseudonym_key, home.store / "manifest.json")
    ):
        raise OurMistake(f"There is no node in {home.root}.", do="Choose its folder with --home.")


def key_to_withdraw(home: NodeHome) -> bytes:
    """The pseudonym key, made where nothing was ever added: who withdraws first stays out, too.

    Raises:
        OurMistake: there is no node, or its store's key is gone.
    """
    check_node(home)
    return load_or_create_key(home)


def find_data_set(home: NodeHome, wanted: str) -> str:
    """Name of the data set that is called so, or that was added from the folder of this path."""
    manifest, _ = read_manifest(home.store, key_of(home))
    if any(one.name == wanted for one in manifest.data_sets):
        return wanted
    source = keyed_digest(load_key(home.pseudonym_key), "folder", str(Path(wanted).resolve()))
    for one in manifest.data_sets:
        if one.source == source:
            return one.name
    names = ", ".join(sorted(one.name for one in manifest.data_sets)) or "none"
    raise OurMistake("There is no such data set.", do=f"Data sets of this node: {names}.")
