"""Every real site goes in with one command, and the counts are those of the README."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():  # typer 0.27 on click 8.4 warns at import
    warnings.simplefilter("ignore", DeprecationWarning)
    from typer.testing import CliRunner, Result

from client.cli import app
from client.store import WindowStore
from shared_model.errors import OurMistake
from simulations.gate_retention import BAR, JUDGED, retention

SITES = {
    "clinic_ppg_bp": (146, 438),
    "holter_mitdb": (26, 27),
    "icu_bidmc": (35, 38),
    "icu_uci_bp": (1, 10),
    "identity_ecg_id": (60, 209),  # the README says 208; the table and the folder have 209
    "noise_nstdb": (1, 4),
    "phone_welltory": (21, 21),  # the README says 13 patients; the table has 21 identifiers
    "quality_cinc2011": (699, 699),
    "wearable_bami1": (24, 24),
    "wearable_troika": (8, 8),
}
ALARMS = (196, 203)


def run(*arguments: object) -> Result:
    """`fedprint-node ...` in this process."""
    return CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)


def document(*arguments: object) -> dict[str, Any]:
    """The JSON document of a command that must succeed."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One node for the module; every site is added to it."""
    return tmp_path_factory.mktemp("node")


@pytest.mark.parametrize("site", SITES)
def test_a_real_site_goes_in_with_one_command(data_root: Path, home: Path, site: str) -> None:
    """Exit status 0, no faults, the README's patients and recordings, windows that can be used."""
    report = document("data", "add", data_root / site, "--home", home, "--yes", "--name", site)
    assert (report["patients"], report["recordings"]) == SITES[site]
    assert report["added"] == report["recordings"]
    assert report["faults"] == []
    assert report["same_bytes_as_another_patient"] == (1 if site == "clinic_ppg_bp" else 0)
    assert report["usable_windows"] >= 0.85 * report["windows"] > 0


def test_the_five_alarm_sites_go_in(data_root: Path, home: Path) -> None:
    """Real ICU noise; together the README's count."""
    reports = [
        document("data", "add", data_root / f"icu_alarms_{letter}", "--home", home, "--yes")
        for letter in "abcde"
    ]
    assert sum(report["recordings"] for report in reports) == ALARMS[1]
    assert sum(report["patients"] for report in reports) == ALARMS[0]
    refused = {reason for report in reports for reason in report["refusals"]["ppg"]}
    assert {"flat", "no pulse", "missing"} <= refused


def test_the_store_of_all_sites_is_whole_and_names_nobody(data_root: Path, home: Path) -> None:
    """Patients, windows, a contact sheet; no identifier or file name on disk."""
    sheet = home / "sheet.png"
    shown = document("data", "show", "--home", home, "--sheet", sheet)
    expected = sum(patients for patients, _ in SITES.values()) + ALARMS[0]
    # noise_nstdb is holter_mitdb's patient 118 under the same identifier
    assert shown["patients"] in (expected, expected - 1)
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert shown["sheet"]["good"] > 0
    assert shown["sheet"]["refused"] > 0
    store = WindowStore.open(home / "store", full=True)
    assert store.window_count == shown["usable_windows"]
    identifier = re.compile(rb"ppgbp_|mitdb_|bidmc_|ecgid_|cinc1|welltory_|recordings\.")
    for file in [*home.glob("store/*.json"), *home.glob("store/parts/*/catalogue.json")]:
        assert identifier.search(file.read_bytes()) is None, file


def test_adding_a_site_again_adds_nothing(data_root: Path, home: Path) -> None:
    """The same counts are reported, and the store's version stays."""
    before = WindowStore.open(home / "store").version
    report = document("data", "add", data_root / "icu_uci_bp", "--home", home, "--yes")
    assert (report["added"], report["already_in"]) == (0, 10)
    assert report["data_set"] == "icu_uci_bp"
    assert WindowStore.open(home / "store").version == before


def test_a_withdrawn_patient_of_a_real_site_stays_out(data_root: Path, home: Path) -> None:
    """Withdraw, remove, add again: still out, and said so."""
    done = document("data", "withdraw", "bidmc_s01182", "--home", home, "--yes")
    assert done["recordings"] >= 1
    document("data", "remove", "icu_bidmc", "--home", home, "--yes")
    report = document("data", "add", data_root / "icu_bidmc", "--home", home, "--yes")
    assert report["withdrawn"] == done["recordings"]
    assert report["added"] == 38 - report["withdrawn"]
    assert done["pseudonym"] not in WindowStore.open(home / "store").pseudonyms


def test_the_gate_keeps_the_sick(data_root: Path) -> None:
    """AF, bigeminy, PVC, VT of Holters and true VT alarms: at least 0.95 of sinus's retention."""
    rows = {row["class"]: row for row in retention(data_root)}
    for name in JUDGED:
        assert rows[name]["ecg kept / sinus"] >= BAR, rows[name]
        assert rows[name]["any channel kept"] >= BAR
    assert rows["experts: good"]["ecg kept"] > 0.95
    assert rows["experts: bad"]["ecg kept"] < 0.7


def test_commands_on_an_empty_node_say_what_to_do(tmp_path: Path) -> None:
    """As the console script: exit status 2, two lines on stderr, nothing on stdout."""
    script = Path(sys.executable).with_name("fedprint-node")
    done = subprocess.run(
        [script, "data", "show", "--home", str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert "data add" in done.stderr
    assert done.stdout == ""


def test_nothing_is_stored_when_nobody_can_be_asked(data_root: Path, tmp_path: Path) -> None:
    """Without --yes and without a terminal the mapping is shown and that is all."""
    with pytest.raises(OurMistake, match="asked"):
        run("data", "add", data_root / "noise_nstdb", "--home", tmp_path / "node")
    assert not (tmp_path / "node").exists()
