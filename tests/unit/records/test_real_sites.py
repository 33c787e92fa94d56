"""All real sites are read with the guessed mapping; counts equal the README's and the tables'."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from client.records import Recording, guess_mapping, read_folder

COUNTS = {
    "icu_bidmc": (35, 38, {"ecg", "ppg"}),
    "icu_uci_bp": (1, 10, {"ecg", "ppg"}),
    "wearable_troika": (8, 8, {"ecg", "ppg"}),
    "wearable_bami1": (24, 24, {"ppg"}),
    "clinic_ppg_bp": (146, 438, {"ppg"}),
    "holter_mitdb": (26, 27, {"ecg"}),
    "identity_ecg_id": (60, 209, {"ecg"}),
    "quality_cinc2011": (699, 699, {"ecg"}),
    "noise_nstdb": (1, 4, {"ecg"}),
    "phone_welltory": (21, 21, {"ppg"}),
}
"""Patients, recordings, modalities. The folders hold one recording of identity_ecg_id more than
their README says (208), and name 21 patients of phone_welltory where it says 13."""
README_IS_WRONG = {"identity_ecg_id", "phone_welltory"}


def readable(folder: Path) -> list[Recording]:
    items = list(read_folder(folder, guess_mapping(folder)))
    recordings = [item for item in items if isinstance(item, Recording)]
    assert len(recordings) == len(items), [item for item in items if item not in recordings]
    return recordings


@pytest.mark.parametrize("site", COUNTS)
def test_site_reads_whole_with_the_guessed_mapping(data_root: Path, site: str) -> None:
    patients, count, modalities = COUNTS[site]
    recordings = readable(data_root / site)
    assert len({item.patient for item in recordings}) == patients
    assert len(recordings) == count
    assert {role for item in recordings for role in item.channels} == modalities
    if site not in README_IS_WRONG:
        row = re.search(rf"`{site}`[^\n]*?(\d+) / (\d+)", (data_root / "README.md").read_text())
        assert row is not None
        assert (int(row[1]), int(row[2])) == (patients, count)


def test_five_alarm_wards_hold_196_patients_and_203_recordings(data_root: Path) -> None:
    wards = [readable(data_root / f"icu_alarms_{letter}") for letter in "abcde"]
    assert sum(len({item.patient for item in ward}) for ward in wards) == 196
    assert sum(len(ward) for ward in wards) == 203
    assert {item.labels["vt_true"] for ward in wards for item in ward} == {0.0, 1.0}


def test_beats_and_rhythms_equal_those_of_the_wfdb_package(data_root: Path) -> None:
    import wfdb

    beats = set("NLRBAaJSVrFejnE/fQ?")
    for item in readable(data_root / "holter_mitdb"):
        marks = wfdb.rdann(str(data_root / "holter_mitdb" / item.name), "atr")
        wanted = []
        for sample, symbol, note in zip(marks.sample, marks.symbol, marks.aux_note, strict=True):
            if symbol == "+":
                wanted.append((int(sample), "rhythm:" + note.strip("\0").lstrip("(")))
            elif symbol in beats:
                wanted.append((int(sample), f"beat:{symbol}"))
        assert [(round(event.time_s * 125), event.kind) for event in item.events] == wanted


def test_edf_samples_equal_those_of_pyedflib(data_root: Path) -> None:
    import pyedflib

    folder = data_root / "identity_ecg_id"
    for item in readable(folder)[:20]:
        with pyedflib.EdfReader(str(folder / f"{item.name}.edf")) as reader:
            np.testing.assert_allclose(
                item.channels["ecg"].samples, reader.readSignal(0), atol=1e-6
            )


def test_wfdb_samples_equal_those_of_the_wfdb_package(data_root: Path) -> None:
    import wfdb

    for item in readable(data_root / "icu_bidmc")[:10]:
        record = wfdb.rdrecord(str(data_root / "icu_bidmc" / item.name))
        for role, name in (("ecg", "II"), ("ppg", "PLETH")):
            wanted = record.p_signal[:, record.sig_name.index(name)]
            np.testing.assert_allclose(item.channels[role].samples, wanted, atol=1e-9)


def test_false_alarms_of_the_identifier_scan_are_few(data_root: Path) -> None:
    findings = {
        finding
        for folder in sorted(data_root.iterdir())
        if folder.is_dir()
        for item in read_folder(folder)
        for finding in item.findings
    }
    kinds = Counter((finding.field, finding.kind) for finding in findings)
    real = {
        ("recording date", "recording-date"),
        ("column date", "exact-date"),
        ("column name", "exact-date"),
    }
    assert {pair: count for pair, count in kinds.items() if pair not in real} == {
        ("recording name", "record-number"): 1  # PhysioNet's seven-digit names in quality_cinc2011
    }
