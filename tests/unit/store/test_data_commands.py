"""fedprint-node data: what goes in, what is said, which exit status; on small made-up folders."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree, ignore_patterns, rmtree
from typing import Any

import numpy as np
import pytest
from at_rest import opened

with warnings.catch_warnings():  # typer 0.27 on click 8.4 warns at import
    warnings.simplefilter("ignore", DeprecationWarning)
    from typer.testing import CliRunner, Result

from client import cli_withdraw, ledger_file
from client import store as store_module
from client.cli_data import NAMED_BEFORE, app
from client.doctor_home import check_store, former_names
from client.guess import NAMED
from client.home import NodeHome
from client.ingest import AddReport, add_recordings, withdraw
from client.pseudonyms import load_key, load_or_create_key, pseudonym_of
from client.records import Channel, ReadFault, Recording, guess_mapping, read_folder
from client.store import check_withdrawals
from client.store_format import FORMER
from client.store_key import key_of
from client.store_write import StoreWriter
from client.withdrawals import mark_unknown, noted
from shared_model.errors import OurMistake, Refused
from simulations.bench_ingest import synthetic_recording

pytestmark = pytest.mark.usefixtures("store_key")
PATIENTS = ("ward-a", "ward-b", "ward-c")


def run(*arguments: object, reply: str | None = None) -> Result:
    """`fedprint-node data ...` in this process."""
    return CliRunner().invoke(app, [str(one) for one in arguments], input=reply)


def document(*arguments: object, status: int = 0) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == status, (result.output, result.exception)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def write_folder(folder: Path, *, seed: int = 0, patients: tuple[str, ...] = PATIENTS) -> Path:
    """CSV recordings of 20 s, one a patient, and their table."""
    folder.mkdir(parents=True)
    rows = []
    for number, patient in enumerate(patients):
        rng = np.random.default_rng([seed, number])
        ecg, ppg = synthetic_recording(rng, 2, 125.0, 125.0)
        if number == 2:
            ppg[1250:] = 0.5
        with (folder / f"r{number}.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["time_s", "ecg", "ppg"])
            for index, pair in enumerate(zip(ecg, ppg, strict=True)):
                writer.writerow([f"{index / 125:.4f}", *(f"{value:.5f}" for value in pair)])
        rows.append([f"r{number}", patient, "125.0", str(40 + number)])
    with (folder / "recordings.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["recording", "patient_id", "fs_hz", "age"], *rows])
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("in") / "ward")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "node"


def test_a_folder_goes_in_and_is_shown(folder: Path, home: Path, tmp_path: Path) -> None:
    """Counts, refusals, labels that the mapping allows, a contact sheet."""
    report = document("add", folder, "--home", home, "--yes")
    assert (report["patients"], report["recordings"], report["added"]) == (3, 3, 3)
    assert (report["windows"], report["usable_windows"]) == (6, 6)
    assert report["refusals"]["ppg"] == {"flat": 1}
    assert report["mapping"]["labels"] == ["age"]
    shown = document("show", "--home", home, "--sheet", tmp_path / "s.png", "--patients")
    assert (shown["patients"], shown["windows"], shown["recordings"]) == (3, 6, 3)
    assert shown["refusals"] == {"ecg": {}, "ppg": {"flat": 1}}
    assert sorted(row["labels"]["age"] for row in shown["catalogue"]) == [[40.0], [41.0], [42.0]]
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert shown["sheet"]["refused"] == 1


def test_tables_are_for_people(folder: Path, home: Path) -> None:
    """Without --json: the mapping and the scan on stderr, tables on stdout."""
    result = run("add", folder, "--home", home, "--yes")
    assert result.exit_code == 0
    assert "patient_column" in result.stderr
    assert "Identifier scan" in result.stderr
    assert "flat" in result.stdout
    shown = run("show", "--home", home, "--patients")
    assert "set-1" in shown.stdout
    assert shown.exit_code == 0


def test_a_bad_file_is_named_and_the_rest_goes_in(tmp_path: Path, home: Path) -> None:
    """Exit status 4."""
    folder = write_folder(tmp_path / "ward")
    (folder / "r1.csv").write_bytes(b"")
    report = document("add", folder, "--home", home, "--yes", status=4)
    assert (report["added"], len(report["faults"])) == (2, 1)
    assert report["faults"][0]["file"] == "r1.csv"
    assert report["faults"][0]["cause"] == "empty"
    assert opened(home / "store").patient_count == 2
    assert "r1.csv" in run("add", folder, "--home", home, "--yes").stdout


def test_a_renamed_copy_is_not_added_again(folder: Path, tmp_path: Path, home: Path) -> None:
    """Same bytes, same patient, another folder."""
    document("add", folder, "--home", home, "--yes")
    copy = write_folder(tmp_path / "copy")
    report = document("add", copy, "--home", home, "--yes")
    assert (report["added"], report["already_in"]) == (0, 3)


def test_known_bytes_under_another_patient_are_refused(
    folder: Path, tmp_path: Path, home: Path
) -> None:
    """One person must not become two privacy units by a change of the mapping."""
    document("add", folder, "--home", home, "--yes")
    other = write_folder(tmp_path / "other", patients=("ward-x", "ward-b", "ward-c"))
    report = document("add", other, "--home", home, "--yes", status=4)
    assert [fault["cause"] for fault in report["faults"]] == ["other-patient"]
    assert opened(home / "store").patient_count == 3


def made_before(home: Path) -> None:
    """The store as an earlier version, which named patients by another rule, left it."""
    path = home / "store" / "manifest.json"
    place = NodeHome.find(home)
    with StoreWriter(place.store, load_key(place.pseudonym_key), key_of(place)) as writer:
        writer.manifest = writer.manifest.model_copy(update={"format": FORMER})
        writer.publish(writer.manifest.parts)
    assert path.exists()
    assert opened(home / "store").former


def test_a_store_of_a_version_that_spelled_otherwise_takes_nobody(
    folder: Path, home: Path, tmp_path: Path
) -> None:
    """Withdrawn patients came back, and others became two units of privacy. It can be read, and
    emptied; then withdrawals of before have to be said again, or to hold."""
    document("add", folder, "--home", home, "--yes")
    document("withdraw", "ward-b", "--home", home, "--yes")
    assert "names" not in document("show", "--home", home)
    made_before(home)
    assert document("show", "--home", home)["names"] == NAMED_BEFORE
    assert NAMED_BEFORE in " ".join(run("show", "--home", home).stdout.split())
    other = write_folder(tmp_path / "other", patients=("101",), seed=1)
    assert refused("add", other, "--home", home, "--yes") == "names"
    asked = run("withdraw", "ward-c", "--home", home, "--yes")
    assert "1 recordings erased" in asked.stdout
    assert isinstance(asked.exception, Refused)
    assert asked.exception.reason == "names"
    pseudonym = document("show", "--home", home, "--patients")["catalogue"][0]["pseudonym"]
    assert refused("withdraw", "--pseudonym", pseudonym, "--home", home, "--yes") == "names"
    document("remove", "--all", "--home", home, "--yes")
    assert refused("add", folder, "--home", home, "--yes") == "names"
    assert "3 withdrawals are of an earlier store" in str(
        run("add", folder, "--home", home, "--yes").exception
    )
    hold = ("--withdrawals-hold", "--home", home, "--yes")
    assert document("add", folder, *hold)["withdrawn"] == 3
    assert document("add", other, *hold)["added"] == 1
    again = write_folder(tmp_path / "again", patients=("102",), seed=2)
    assert document("add", again, "--home", home, "--yes")["added"] == 1


def test_after_a_restore_without_the_store_withdrawals_are_said_again(
    folder: Path, home: Path
) -> None:
    """Who had withdrawn came back, for nothing else held the list."""
    document("add", folder, "--home", home, "--yes")
    rmtree(home / "store")
    NodeHome.find(home).withdrawals_unknown.touch()
    assert refused("add", folder, "--home", home, "--yes") == "names"
    document("withdraw", "ward-b", "--home", home, "--yes")
    assert refused("add", folder, "--home", home, "--yes") == "names"
    found = document("add", folder, "--withdrawals-hold", "--home", home, "--yes")
    assert (found["added"], found["withdrawn"]) == (2, 1)
    assert not NodeHome.find(home).withdrawals_unknown.exists()
    assert document("add", folder, "--home", home, "--yes")["withdrawn"] == 1


def test_withdrawals_hold_is_said_without_adding_anything(folder: Path, home: Path) -> None:
    """Of a store that came back with the backup; and never of itself."""
    place = NodeHome.find(home)
    hold = ("withdrawals-hold", "--home", home)
    assert isinstance(run(*hold[:2], home / "x").exception, OurMistake)  # no node there
    document("add", folder, "--home", home, "--yes")
    assert document(*hold) == {"was_open": False}
    place.withdrawals_unknown.touch()
    assert "nothing trains" in check_store(place).found
    assert isinstance(run(*hold).exception, OurMistake)  # nobody to be asked
    assert place.withdrawals_unknown.exists()
    document("withdraw", "ward-b", "--home", home, "--yes")
    assert place.withdrawals_unknown.exists()
    assert document(*hold, "--yes") == {"was_open": True, "withdrawn": 1}
    assert check_store(place).state == "ok"
    assert document("add", folder, "--home", home, "--yes")["withdrawn"] == 1


def test_a_store_that_was_put_back_is_noticed(folder: Path, home: Path, tmp_path: Path) -> None:
    """Alone, as a disk's repair would, or with the folder: the count of withdrawals outside it."""
    place = NodeHome.find(home)
    document("add", folder, "--home", home, "--yes")
    copytree(place.store, tmp_path / "old")
    document("withdraw", "ward-b", "--home", home, "--yes")
    check_withdrawals(place)
    rmtree(place.store)
    copytree(tmp_path / "old", place.store)
    assert check_store(place).state == "broken"
    with pytest.raises(Refused) as caught:
        check_withdrawals(place)
    assert caught.value.reason == "not-ready"
    assert "who has withdrawn" in run("show", "--home", home).stdout
    document("withdraw", "ward-c", "--home", home, "--yes")  # as many as before, of others
    assert refused("add", folder, "--home", home, "--yes") == "names"
    document("withdraw", "ward-b", "--home", home, "--yes")
    assert document("withdrawals-hold", "--home", home, "--yes")["withdrawn"] == 2
    check_withdrawals(place)
    rmtree(place.store)
    assert check_store(place).state == "broken"
    assert refused("add", folder, "--home", home, "--yes") == "names"
    document("withdraw", "ward-b", "--home", home, "--yes")
    document("withdrawals-hold", "--home", home, "--yes")
    check_withdrawals(place)


def test_a_store_that_is_put_back_twice_is_noticed_twice(
    folder: Path, home: Path, tmp_path: Path
) -> None:
    """The count never sinks until somebody says that the withdrawals hold: the folder that is put
    back takes the mark with it."""
    place = NodeHome.find(home)
    document("add", folder, "--home", home, "--yes")
    copytree(home, tmp_path / "old", ignore=ignore_patterns("never-back-up"))
    document("withdraw", "ward-b", "--home", home, "--yes")
    for _ in range(2):
        for path in home.iterdir():
            if path.is_dir() and path.name != "never-back-up":
                rmtree(path)
            elif path.is_file():
                path.unlink()
        copytree(tmp_path / "old", home, dirs_exist_ok=True)
        with pytest.raises(Refused):
            check_withdrawals(place)
        assert refused("add", folder, "--home", home, "--yes") == "names"
        assert place.withdrawals_unknown.exists()


@pytest.mark.parametrize("note", [b"?", b"-1", b"1_0", b"", b"9" * 400])
def test_a_count_that_is_none_is_above_every_other(folder: Path, home: Path, note: bytes) -> None:
    """And is no dead end."""
    place = NodeHome.find(home)
    document("add", folder, "--home", home, "--yes")
    document("withdraw", "ward-b", "--home", home, "--yes")
    (place.never_back_up / "withdrawals").write_bytes(note)
    with pytest.raises(Refused):
        check_withdrawals(place)
    assert document("show", "--home", home)["withdrawals_known"] is False
    assert document("withdrawals-hold", "--home", home, "--yes")["was_open"]
    assert document("show", "--home", home)["withdrawals_known"] is True


def test_a_count_that_cannot_be_read_keeps_nobody_from_withdrawing(
    folder: Path, home: Path
) -> None:
    """Nothing trains, and it is said what is wrong."""
    place = NodeHome.find(home)
    document("add", folder, "--home", home, "--yes")
    (place.never_back_up / "withdrawals").mkdir(parents=True)
    with pytest.raises(OurMistake, match="cannot be read"):
        check_withdrawals(place)
    erased = run("withdraw", "ward-b", "--home", home, "--yes")
    assert "1 recordings erased" in erased.stdout
    assert place.withdrawals_unknown.exists()
    assert document("withdrawals-hold", "--home", home, "--yes")["was_open"]
    check_withdrawals(place)


def test_who_withdraws_while_others_read_marks_nothing(
    folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count is read before the store: it is raised after. A healthy node was refused."""
    place = NodeHome.find(home)
    document("add", folder, "--home", home, "--yes")
    document("withdraw", "ward-b", "--home", home, "--yes")
    real = store_module.read_manifest

    def slow(*words: Any) -> Any:
        monkeypatch.setattr(store_module, "read_manifest", real)
        found = real(*words)
        document("withdraw", "ward-c", "--home", home, "--yes")
        return found

    monkeypatch.setattr(store_module, "read_manifest", slow)
    check_withdrawals(place)
    assert not place.withdrawals_unknown.exists()
    assert (place.never_back_up / "withdrawals").read_bytes() == b"2"


@pytest.mark.parametrize("said", [False, True])
def test_a_restore_while_recordings_are_read_is_not_taken_for_said(
    folder: Path, home: Path, said: bool
) -> None:
    """An add takes minutes; it cleared the mark that `restored` had put there meanwhile, also where
    it had been said of the restore before."""
    place = NodeHome.find(home)
    place.make()
    if said:
        mark_unknown(place)
    with pytest.raises(Refused, match="withdrawn since"):
        add_recordings(
            place,
            folder,
            read_folder(folder, guess_mapping(folder)),
            withdrawals_hold=said,
            before_commit=lambda _: mark_unknown(place),
        )
    assert place.withdrawals_unknown.exists()
    assert not (place.store / "manifest.json").exists()


def test_a_restore_while_it_is_asked_is_not_taken_for_said(
    folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever says yes means the restore that they were asked of."""
    place = NodeHome.find(home)
    document("add", folder, "--home", home, "--yes")
    mark_unknown(place)
    monkeypatch.setattr(cli_withdraw, "confirm", lambda *_, **__: mark_unknown(place))
    assert refused("withdrawals-hold", "--home", home) == "names"
    assert place.withdrawals_unknown.exists()


def test_who_is_withdrawn_while_it_is_asked_is_counted(
    folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note sank below the store, so that an older store would not have been noticed. A store
    that is put back meanwhile, alone, is not what was asked of."""
    place = NodeHome.find(home)
    document("add", folder, "--home", home, "--yes")
    older = copytree(place.store, home.parent / "older")

    def one_more(*_: object, **__: object) -> None:
        withdraw(place, "ab" * 16)

    def put_back(*_: object, **__: object) -> None:
        rmtree(place.store)
        copytree(older, place.store)

    mark_unknown(place)
    with monkeypatch.context() as asked:
        asked.setattr(cli_withdraw, "confirm", one_more)
        assert document("withdrawals-hold", "--home", home)["withdrawn"] == 1
    assert noted(place) == 1
    assert not place.withdrawals_unknown.exists()
    mark_unknown(place)
    with monkeypatch.context() as asked:
        asked.setattr(cli_withdraw, "confirm", put_back)
        assert refused("withdrawals-hold", "--home", home) == "names"
    assert noted(place) > 1
    assert place.withdrawals_unknown.exists()


def test_a_folder_put_back_without_never_back_up_is_noticed(folder: Path, home: Path) -> None:
    """As a back-up program leaves it: an absent count was none, and who withdrew was used again."""
    place = NodeHome.find(home)
    document("add", folder, "--home", home, "--yes")
    ledger_file.write_notes(place, 3, "ab" * 32)
    check_withdrawals(place)
    rmtree(place.never_back_up)
    with pytest.raises(Refused) as caught:
        check_withdrawals(place)
    assert caught.value.reason == "not-ready"
    assert refused("add", folder, "--name", "more", "--home", home, "--yes") == "names"
    assert document("withdrawals-hold", "--home", home, "--yes")["was_open"]
    check_withdrawals(place)


def test_a_mark_that_is_put_back_away_is_missed(folder: Path, home: Path) -> None:
    """The store is put back, as many withdraw as before, and then the folder around it: only the
    mark said that it was restored, and it was in that folder."""
    place = NodeHome.find(home)
    document("add", folder, "--home", home, "--yes")
    older = copytree(place.store, home.parent / "older")
    run("withdraw", "ward-a", "--home", home, "--yes")
    rmtree(place.store)
    copytree(older, place.store)
    run("withdraw", "ward-b", "--home", home, "--yes")
    assert place.withdrawals_unknown.exists()
    place.withdrawals_unknown.unlink()
    assert not document("show", "--home", home)["withdrawals_known"]
    with pytest.raises(Refused):
        check_withdrawals(place)


def test_a_withdrawal_beside_the_question_is_no_restore(
    folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wrote the mark anew, and the answer was refused."""
    place = NodeHome.find(home)
    document("add", folder, "--home", home, "--yes")
    mark_unknown(place)
    monkeypatch.setattr(cli_withdraw, "confirm", lambda *_, **__: withdraw(place, "ab" * 16))
    assert document("withdrawals-hold", "--home", home)["withdrawn"] == 1
    monkeypatch.setattr(cli_withdraw, "confirm", lambda *_, **__: None)
    mark_unknown(place)
    key = load_key(place.pseudonym_key)
    with StoreWriter(place.store, key, key_of(place)):
        assert refused("withdrawals-hold", "--home", home) == "locked"
    assert place.withdrawals_unknown.exists()


def test_no_pseudonym_is_of_a_key_that_is_gone(folder: Path, home: Path) -> None:
    """A new key was made, and a pseudonym of the old one, which nobody has, taken for withdrawn."""
    place = NodeHome.find(home)
    document("add", folder, "--home", home, "--yes")
    rmtree(place.store)
    place.pseudonym_key.unlink()
    found = run("withdraw", "--pseudonym", "ab" * 16, "--home", home, "--yes")
    assert isinstance(found.exception, OurMistake)
    assert not place.pseudonym_key.exists()
    assert not place.store.exists()


def test_a_store_of_withdrawals_to_which_nothing_was_added_is_not_ready(
    folder: Path, home: Path
) -> None:
    """All of the folder's patients have withdrawn: each round would be booked for nobody."""
    place = NodeHome.find(home)
    load_or_create_key(place)
    for one in PATIENTS:
        run("withdraw", one, "--home", home, "--yes")
    run("add", folder, "--home", home, "--yes")
    assert place.nothing_added.exists()


def test_who_withdraws_before_anything_is_added_stays_out(folder: Path, home: Path) -> None:
    """Also of a backup of before the first add: it has no key of pseudonyms yet."""
    place = NodeHome.find(home)
    error = run("withdraw", "ward-b", "--home", home / "elsewhere", "--yes").exception
    assert isinstance(error, OurMistake)
    assert not (home / "elsewhere").exists()
    place.make()
    place.config.write_text('site = "a"\ndeclared_patients = 3\n')
    mark_unknown(place)
    done = run("withdraw", "ward-b", "--home", home, "--yes")
    assert done.exit_code == 0, done.exception
    assert "compare the number" in " ".join(done.stdout.split())
    assert check_store(place).state == "broken"
    assert "add them before" in run("withdrawals-hold", "--home", home, "--yes").stdout
    assert check_store(place).found == "only withdrawals"
    assert document("add", folder, "--home", home, "--yes")["withdrawn"] == 1
    assert check_store(place).state == "ok"


def test_nobody_can_say_that_withdrawals_of_former_names_hold(folder: Path, home: Path) -> None:
    """Such a store may hold more of those who have withdrawn, under other names."""
    place = NodeHome.find(home)
    document("add", folder, "--home", home, "--yes")
    made_before(home)
    mark_unknown(place)
    assert refused("withdrawals-hold", "--home", home, "--yes") == "names"
    assert "data remove --all" in check_store(place).do
    document("remove", "--all", "--home", home, "--yes")
    document("withdrawals-hold", "--home", home, "--yes")
    assert not place.withdrawals_unknown.exists()


def test_doctor_says_that_names_are_of_an_earlier_version(folder: Path, home: Path) -> None:
    place = NodeHome.find(home)
    document("add", folder, "--home", home, "--yes")
    assert former_names(place) is None
    document("withdraw", "ward-b", "--home", home, "--yes")
    made_before(home)
    what, do = former_names(place) or ("", "")
    assert what.startswith("named by an earlier version")
    assert "data remove --all" in do
    assert check_store(place).do == do
    document("remove", "--all", "--home", home, "--yes")
    assert "--withdrawals-hold" in check_store(place).do


def refused(*words: object) -> str:
    """The reason."""
    error = run(*words).exception
    assert isinstance(error, Refused)
    return error.reason


def test_a_withdrawn_patient_stays_out(folder: Path, home: Path) -> None:
    """By identifier, by prompt or by pseudonym; said so when added again."""
    document("add", folder, "--home", home, "--yes")
    first = document("withdraw", "ward-a", "--home", home, "--yes")
    assert (first["recordings"], first["already_withdrawn"]) == (1, False)
    asked = run("withdraw", "-", "--home", home, "--yes", reply="ward-b\n")
    assert asked.exit_code == 0
    assert "ward-b" not in asked.output
    key = load_key(NodeHome.find(home).pseudonym_key)
    third = pseudonym_of(key, "ward-c")
    document("withdraw", "--pseudonym", third, "--home", home, "--yes")
    assert opened(home / "store").patient_count == 0
    document("remove", "--all", "--home", home, "--yes")
    result = run("add", folder, "--home", home, "--yes")
    assert result.exit_code == 0
    assert "withdrew" in result.stdout
    assert opened(home / "store").patient_count == 0
    again = document("withdraw", "ward-a", "--home", home, "--yes")
    assert (again["recordings"], again["already_withdrawn"]) == (0, True)


def test_an_unknown_patient_is_said_to_be_unknown(folder: Path, home: Path) -> None:
    """A typing error must not look like a withdrawal that was done."""
    document("add", folder, "--home", home, "--yes")
    assert "check the identifier" in run("withdraw", "ward-z", "--home", home, "--yes").stdout


def test_a_data_set_is_removed_by_name_or_by_folder(
    folder: Path, tmp_path: Path, home: Path
) -> None:
    """And an unknown one is a mistake that names the known ones."""
    second = write_folder(tmp_path / "second", seed=1, patients=("ward-d",))
    document("add", folder, "--home", home, "--yes", "--name", "first")
    document("add", second, "--home", home, "--yes")
    result = run("remove", "nothing", "--home", home, "--yes")
    assert isinstance(result.exception, OurMistake)
    assert "first, set-1" in result.exception.do
    assert document("remove", second, "--home", home, "--yes") == {
        "removed": "set-1",
        "recordings": 1,
    }
    assert document("remove", "first", "--home", home, "--yes")["recordings"] == 3
    assert opened(home / "store").patient_count == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("remove",),
        ("remove", "set-1", "--all", "--yes"),
        ("remove", "set-1"),
        ("withdraw", "--yes"),
        ("withdraw", "NA", "--yes"),
        ("withdraw", "1.23E+11", "--yes"),
        ("withdraw", "ward-a", "--pseudonym", "0" * 32, "--yes"),
        ("withdraw", "--pseudonym", "abc", "--yes"),
        ("withdraw", "ward-a"),
    ],
)
def test_an_unclear_command_changes_nothing(
    folder: Path, home: Path, arguments: tuple[str, ...]
) -> None:
    """Exit status 2 and what to do."""
    document("add", folder, "--home", home, "--yes")
    version = opened(home / "store").version
    result = run(*arguments, "--home", home)
    assert isinstance(result.exception, OurMistake)
    assert result.exception.do
    assert opened(home / "store").version == version


@pytest.mark.parametrize("name", ["Ward A", "../x", "", "a" * 49, "mueller/1950"])
def test_a_data_set_name_is_a_small_word(folder: Path, home: Path, name: str) -> None:
    """It is stored, so it must not be free text."""
    result = run("add", folder, "--home", home, "--yes", "--name", name)
    assert isinstance(result.exception, OurMistake)
    assert not (home / "store" / "manifest.json").exists()


def test_a_folder_keeps_its_data_set_name(folder: Path, home: Path) -> None:
    """A second name for it is refused."""
    document("add", folder, "--home", home, "--yes", "--name", "first")
    result = run("add", folder, "--home", home, "--yes", "--name", "second")
    assert isinstance(result.exception, OurMistake)


def test_a_guessed_mapping_can_be_edited_and_used(folder: Path, home: Path, tmp_path: Path) -> None:
    """`data mapping` writes what `data add` would guess."""
    file = tmp_path / "ward.toml"
    assert run("mapping", folder, "-o", file).exit_code == 0
    assert run("mapping", folder).stdout == file.read_text()
    file.write_text(file.read_text().replace('labels = ["age"]', "labels = []"))
    report = document("add", folder, "--mapping", file, "--home", home, "--yes")
    assert report["mapping"]["labels"] == []
    assert all(not row.labels for row in opened(home / "store").catalogue())


def test_columns_that_a_guess_leaves_out_are_shown_before_it_is_used(
    home: Path, tmp_path: Path
) -> None:
    """By `data mapping` and by `data add`, with the reason."""
    folder = write_folder(tmp_path / "ward")
    table = folder / "recordings.csv"
    head, *rows = table.read_text().splitlines()
    table.write_text("\n".join([f"{head},surname", *(f"{row},Doe" for row in rows)]))
    written = run("mapping", folder).stdout
    assert written.startswith(f"# No label, for {NAMED}:\n#   'surname'\n")
    shown = run("add", folder, "--home", home, "--yes")
    assert "#   'surname'" in shown.output
    assert "Doe" not in written + shown.output


def test_json_without_yes_is_refused(folder: Path, home: Path) -> None:
    """A script must say that it agrees."""
    result = run("add", folder, "--home", home, "--json")
    assert isinstance(result.exception, OurMistake)
    assert not home.exists()


def recording(patient: str, samples: np.ndarray, digest: str) -> Recording:
    channel = Channel(samples, 125.0, "mV", "II")
    return Recording(patient, "r", {"ecg": channel}, {}, (), {}, digest, (), "r.csv")


def test_nothing_shows_when_the_findings_are_not_agreed_to(home: Path, tmp_path: Path) -> None:
    """`before_commit` is the last moment to say no."""
    ecg, _ = synthetic_recording(np.random.default_rng(0), 1, 125.0, 125.0)

    def refuse(report: AddReport) -> None:
        assert report.added == 1
        raise KeyboardInterrupt

    place = NodeHome.find(home)
    with pytest.raises(KeyboardInterrupt):
        add_recordings(place, tmp_path, [recording("a", ecg, "1" * 64)], before_commit=refuse)
    assert not (place.store / "manifest.json").exists()
    assert not list((place.store / "parts").iterdir())


def test_a_reader_that_breaks_off_leaves_nothing(home: Path, tmp_path: Path) -> None:
    """As when the disk of the recordings goes away."""
    ecg, _ = synthetic_recording(np.random.default_rng(0), 1, 125.0, 125.0)

    def items() -> Iterator[Recording | ReadFault]:
        yield recording("a", ecg, "1" * 64)
        raise OSError("gone")

    place = NodeHome.find(home)
    with pytest.raises(OSError, match="gone"):
        add_recordings(place, tmp_path, items())
    assert not list((place.store / "parts").iterdir())


def test_identical_recordings_in_one_folder_are_counted_and_told(
    home: Path, tmp_path: Path
) -> None:
    """PPG-BP has such a pair; both go in, the report says so, and re-adding is quiet."""
    ecg, _ = synthetic_recording(np.random.default_rng(0), 1, 125.0, 125.0)
    items = [recording(who, ecg, "1" * 64) for who in ("a", "a", "b")]
    place = NodeHome.find(home)
    report = add_recordings(place, tmp_path, items)
    assert (report.added, report.same_bytes, report.faults) == (3, 1, [])
    again = add_recordings(place, tmp_path, items)
    assert (again.added, again.already_in, again.faults) == (0, 3, [])


def test_a_lost_pseudonym_key_stops_everything(home: Path, tmp_path: Path) -> None:
    """A new key would turn known patients into new ones."""
    ecg, _ = synthetic_recording(np.random.default_rng(0), 1, 125.0, 125.0)
    place = NodeHome.find(home)
    add_recordings(place, tmp_path, [recording("a", ecg, "1" * 64)])
    key = place.pseudonym_key.read_bytes()
    assert place.pseudonym_key.stat().st_mode & 0o077 == 0
    place.pseudonym_key.unlink()
    with pytest.raises(OurMistake, match="key is gone"):
        load_or_create_key(place)
    place.pseudonym_key.write_bytes(bytes(32))
    place.pseudonym_key.chmod(0o600)
    with pytest.raises(Refused):
        add_recordings(place, tmp_path, [])
    place.pseudonym_key.write_bytes(key[:31])
    with pytest.raises(OurMistake, match="32 bytes"):
        load_key(place.pseudonym_key)
    place.pseudonym_key.chmod(0o644)
    with pytest.raises(OurMistake, match="Others may read"):
        load_key(place.pseudonym_key)


def test_pseudonyms_are_keyed_and_forgive_blanks_and_unicode_form() -> None:
    """128 bits of HMAC-SHA256; the same person typed in another way is the same."""
    assert pseudonym_of(b"k" * 32, "Jose\u0301 ") == pseudonym_of(b"k" * 32, "José")
    assert pseudonym_of(b"k" * 32, "a") != pseudonym_of(b"l" * 32, "a")
    assert len(pseudonym_of(b"k" * 32, "a")) == 32
