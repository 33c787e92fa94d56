"""Stores of made-up patients whose hearts beat at a rate of their own, and real ones altered."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from client.home import NodeHome
from client.ingest import prepare_recording
from client.pseudonyms import keyed_digest, load_or_create_key, pseudonym_of
from client.records import ReadFault, Recording, guess_mapping, read_folder
from client.store_key import key_of
from client.store_write import StoreWriter
from shared_model.windows import Prepared

DATA = Path(os.environ.get("FEDPRINT_DATA", "../shared/data"))


def patient_name(number: int) -> str:
    return f"MRN-{number:05d}"


def rate_hz(number: int) -> float:
    """Odd patients' hearts are fast."""
    return 1.9 if number % 2 else 0.9


def prepared(number: int, windows: int = 1) -> Prepared:
    rng = np.random.default_rng([7, number])
    time_s = np.arange(1250) / 125.0
    phase = rng.uniform(0, 1, (windows, 1, 1)) + np.zeros((windows, 2, 1))
    beat = np.exp(-40 * np.square(np.mod(rate_hz(number) * time_s + phase, 1.0) - 0.5))
    signal = beat + 0.05 * rng.standard_normal((windows, 2, 1250))
    signal = (signal - signal.mean(-1, keepdims=True)) / signal.std(-1, keepdims=True)
    return Prepared(
        signal=signal.astype(np.float32),
        recorded=np.ones(signal.shape, dtype=bool),
        start_s=10.0 * np.arange(windows),
        refusal=np.zeros((windows, 2), dtype=np.uint8),
    )


def add(home: NodeHome, numbers: Iterable[int], name: str = "made-up") -> None:
    items = [(patient_name(number), prepared(number)) for number in numbers]
    write(home, items, name)


def write(home: NodeHome, items: Iterable[tuple[str, Prepared]], name: str) -> None:
    """As `data add` writes them."""
    key = load_or_create_key(home)
    with StoreWriter(home.store, key, key_of(home)) as writer:
        part = writer.new_part(name, keyed_digest(key, "folder", name))
        for place, (who, one) in enumerate(items):
            part.add(keyed_digest(key, "recording", f"{name} {place}"), pseudonym_of(key, who),
                     one, {})  # fmt: skip
        part.commit()


def node(root: Path) -> NodeHome:
    home = NodeHome(root)
    home.make()
    return home


Change = Callable[[Recording], Recording]


def bidmc(seconds: float = 100.0) -> list[Recording]:
    """The ICU's recordings, their beginnings."""
    folder = DATA / "icu_bidmc"
    found = []
    for item in read_folder(folder, guess_mapping(folder)):
        assert not isinstance(item, ReadFault)
        channels = {
            name: replace(one, samples=one.samples[: int(seconds * one.fs_hz)])
            for name, one in item.channels.items()
        }
        found.append(replace(item, channels=channels))
    return found


def halves(recordings: list[Recording]) -> tuple[list[Recording], list[Recording]]:
    """By patient: every second one."""
    people = sorted({one.patient for one in recordings})
    first = set(people[::2])
    return (
        [one for one in recordings if one.patient in first],
        [one for one in recordings if one.patient not in first],
    )


def with_signals(change: Callable[[np.ndarray, float], np.ndarray]) -> Change:
    """Every channel's samples changed."""

    def changed(recording: Recording) -> Recording:
        channels = {
            name: replace(one, samples=change(one.samples, one.fs_hz))
            for name, one in recording.channels.items()
        }
        return replace(recording, channels=channels)

    return changed


def at_rate(factor: float) -> Change:
    """Says another sampling rate than it was recorded with."""

    def changed(recording: Recording) -> Recording:
        channels = {
            name: replace(one, fs_hz=one.fs_hz * factor) for name, one in recording.channels.items()
        }
        return replace(recording, channels=channels)

    return changed


def items_of(recordings: list[Recording], change: Change = lambda one: one):
    return [(one.patient, prepare_recording(change(one))) for one in recordings]
