"""Are this site's patients like those that a head was trained on: counts, statuses, hostile files.

Heads of made-up fingerprints, and of those of a node's made-up patients.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import made_up_site as site
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from client import drift_head, install
from client.cli import app
from client.pseudonyms import load_key, pseudonym_of
from client.site_fingerprints import Patients, of_items, of_store, patients_having
from client.store import open_store
from shared_model import mae, signing, warm_start
from shared_model.errors import CannotTell, OurMistake
from shared_model.fingerprint import fingerprints
from shared_model.heads import files
from shared_model.heads.arrays import Head

pytest.importorskip("sklearn")
from head_stand_ins import asked, made_head, made_up

from simulations.heads import hospitals, private_calibration
from simulations.heads.train import train
from simulations.models import NamedModel

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def head() -> Head:
    """Of windows of 60 made-up patients."""
    return made_head()


def patients_of(seed: int, count: int = 40, shift: float = 0.0, without: int = 0) -> Patients:
    """A window each of other patients of the same making; shift: of all, along one direction."""
    data = made_up(patients=count, items=1, seed=seed)
    mean = data.fingerprints.astype(np.float64)
    mean[:, 5] += shift
    windows = np.ones(count, dtype=np.int64)
    mean[:without], windows[:without] = np.nan, 0
    return Patients(tuple(f"{row:032x}" for row in range(count)), mean, windows)


def changed(head: Head, **fields: Any) -> Head:
    return Head(head.manifest.model_copy(update=fields), head.arrays)


def test_patients_of_the_same_making_are_alike_and_shifted_ones_are_not(head: Head) -> None:
    """And both say so in words, with the counts."""
    trained = drift_head.of_head(head)
    alike = drift_head.compare(trained, patients_of(1, without=3))
    assert (alike.patients, alike.without, alike.drifted) == (37, 3, False)
    assert "Chance alone can give as many" in alike.words(trained)
    assert "That they are alike is not shown" in alike.words(trained)
    other = drift_head.compare(trained, patients_of(1, shift=1.5))
    assert other.drifted
    assert other.beyond >= other.alarm_from
    assert f"{other.beyond} of 40 patients" in other.words(trained)


def test_too_few_patients_of_either_side_cannot_be_told(head: Head) -> None:
    """With the counts, for a timer; a head that names nobody says nothing."""
    trained = drift_head.of_head(head)
    with pytest.raises(CannotTell) as few:
        drift_head.compare(trained, patients_of(1, count=9))
    assert few.value.reason == "few-patients"
    assert few.value.counts["patients"] == 9
    assert few.value.counts["patients_needed"] == 10
    lone = drift_head.of_head(changed(head, patients=1))
    with pytest.raises(CannotTell, match="so few patients"):
        drift_head.compare(lone, patients_of(1, count=12))
    for wrong in (
        {"patients": 0},
        {"distance": head.manifest.distance.model_copy(update={"level": 0.0})},
    ):
        with pytest.raises(CannotTell) as none:
            drift_head.of_head(changed(head, **wrong))
        assert none.value.reason == "no-reference"
    with pytest.raises(CannotTell) as windows:
        drift_head.of_head(changed(head, gated=False))
    assert windows.value.reason == "windows"


def test_a_head_whose_numbers_give_no_distance_is_no_verdict(head: Head) -> None:
    """A distance that is no number is beyond no limit: that would be "no drift found"."""
    trained = drift_head.of_head(head)
    for wrong in (
        replace(trained, scale=np.full(128, 1e-320)),
        replace(trained, far_factor=np.full((128, 128), np.nan)),
    ):
        with pytest.raises(CannotTell) as caught:
            drift_head.compare(wrong, patients_of(1))
        assert caught.value.reason == "no-reference"


def test_a_head_whose_noise_left_no_limit_does_not_say_what_it_was_trained_on(head: Head) -> None:
    """Of a private head the limit is of a noisy histogram; where there is one, more are allowed."""
    said = head.manifest.distance
    noisy = changed(head, distance=said.model_copy(update={"beyond": None, "limit": 8.0}))
    with pytest.raises(CannotTell, match="does not say what it was trained on") as caught:
        drift_head.of_head(noisy)
    assert caught.value.reason == "no-reference"
    kept = drift_head.of_head(changed(head, distance=said.model_copy(update={"beyond": None})))
    assert kept.noisy
    assert kept.expected.share > drift_head.of_head(head).expected.share
    assert "noisy histogram" in drift_head.compare(kept, patients_of(1)).words(kept)
    private = head.manifest.privacy.model_copy(update={"mode": "local"})
    shown = drift_head.of_head(changed(head, privacy=private))  # with figures of held-out patients
    assert said.beyond is not None
    assert shown.noisy


def test_what_is_supposed_of_a_private_head_is_what_the_lab_does() -> None:
    """The last edge of its histogram; patients that calibrate over those that train."""
    assert private_calibration.DISTANCES[-1] == drift_head.WIDEST_NOISY_LIMIT
    told = (1.0 - hospitals.HELD_OUT) * hospitals.CALIBRATE
    trains = (1.0 - hospitals.HELD_OUT) * (1.0 - hospitals.CALIBRATE)
    assert told / trains == pytest.approx(drift_head.CALIBRATED_SHARE)


@pytest.fixture(scope="module")
def model() -> NamedModel:
    config, weights, _ = warm_start.load()
    return NamedModel(config, weights, {"source": "warm start"})


@pytest.fixture(scope="module")
def run_model(model: NamedModel) -> Any:
    loaded = mae.build(model.config, 0)
    mae.load_weights(loaded, model.weights)
    return lambda signal, valid: fingerprints(loaded, signal, valid)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    return site.node(tmp_path / "node")


def test_one_item_of_a_patient_is_taken_whatever_he_has(home: Any, run_model: Any) -> None:
    """A window, or the windows of one recording; the same when other patients come."""
    who = site.patient_name(1)
    parts = [(who, site.prepared(1, 3)), (who, site.prepared(3, 2)), (who, site.prepared(5, 2))]
    site.write(home, [*parts, (site.patient_name(2), site.prepared(2, 1))], "first")
    store = open_store(home)
    row = store.pseudonyms.index(pseudonym_of(load_key(home.pseudonym_key), who))
    assert np.bincount(store.recordings_of(row)).tolist() == [3, 2, 2]
    windows = of_items(store, run_model, "both", "window")
    assert windows.windows.tolist() == [1, 1]
    of_one = of_items(store, run_model, "ecg", "recording")
    assert of_one.windows[row] in (2, 3)
    everything = of_items(store, run_model, "both", "patient")
    assert everything.windows[row] == 7
    site.add(home, range(10, 16), "later")
    store = open_store(home)
    again = of_items(store, run_model, "both", "window")
    row_now = store.pseudonyms.index(windows.pseudonyms[row])
    np.testing.assert_allclose(again.mean[row_now], windows.mean[row], atol=1e-6)
    assert patients_having(store, "ppg") == set(store.pseudonyms)


def test_windows_are_chosen_among_those_with_the_sensors(home: Any) -> None:
    """Of two hundred windows three have both: all three count, for the mean, one recording's, and
    who has any; sixty evenly of all would miss most or all of them."""
    one = site.prepared(1, 200)
    lacking = np.setdiff1d(np.arange(200), [11, 12, 101])
    one.signal[lacking, 1], one.recorded[lacking, 1] = 0.0, False
    site.write(home, [(site.patient_name(1), one)], "rare")
    store = open_store(home)

    def first_samples(signal: Any, valid: Any) -> Any:
        return np.repeat(signal[:, 0, :1], 128, axis=1)

    for found in (
        of_store(store, first_samples, "both"),
        of_items(store, first_samples, "both", "recording"),
    ):
        assert found.windows.tolist() == [3]
        expected = one.signal[[11, 12, 101], 0, 0].mean()
        np.testing.assert_allclose(found.mean[0], expected, atol=0.05)  # kept in 8 bits
    assert of_store(store, first_samples, "ecg").windows.tolist() == [60]
    assert patients_having(store, "both") == patients_having(store, "ppg") == {store.pseudonyms[0]}


@pytest.fixture
def slow(home: Any, model: NamedModel, run_model: Any, tmp_path: Path) -> Path:
    """A head of thirty patients with slow hearts, who are not in the store any more; in the store
    are twelve others, slow too."""
    before = site.node(tmp_path / "before")
    site.add(before, range(1000, 1060, 2))
    known = of_store(open_store(before), run_model, "both")
    made = made_up("number", patients=30, items=1)
    data = replace(made, fingerprints=known.mean.astype(np.float32), item="patient", sensors="both")
    files.write(tmp_path / "slow", train(data, model, asked()))
    site.add(home, range(0, 24, 2))
    return tmp_path / "slow"


def drift(home: Any, *words: object) -> Any:
    return RUNNER.invoke(app, ["drift", "--warm-start", "--home", str(home.root), *map(str, words)])


def refused(home: Any, *words: object) -> str:
    """The reason why it cannot tell; never status 3."""
    done = drift(home, "--json", *words)
    assert isinstance(done.exception, CannotTell), done.output
    assert done.exception.exit_code == 6
    said = json.loads(done.stdout)
    assert (said["verdict"], said["drift"]) == ("cannot tell", None)
    return str(said["reason"])


def test_a_site_asks_whether_it_is_like_those_a_head_was_trained_on(home: Any, slow: Path) -> None:
    """Slow hearts: 0. Fast ones come: 3, also among the new ones alone. Words, table and JSON."""
    alike = drift(home, "--head", slow, "--json")
    assert alike.exit_code == 0, alike.output
    said = json.loads(alike.stdout)
    assert (said["verdict"], said["patients"]) == ("no drift found", 12)
    assert "nobody vouches for it" in said["signature"]
    assert drift(home, "--baseline").exit_code == 0
    assert refused(home, "--head", slow, "--new") == "few-patients"
    site.add(home, range(101, 125, 2), "fast")
    other = drift(home, "--head", slow)
    assert other.exit_code == 3
    assert "one in 100 at most has so many by chance" in " ".join(other.stdout.split())
    new = drift(home, "--head", slow, "--new", "--json")
    assert new.exit_code == 3
    assert json.loads(new.stdout)["patients"] == 12
    for name in map(site.patient_name, range(130)):
        assert pseudonym_of(load_key(home.pseudonym_key), name) not in new.stdout + other.stdout


def test_a_head_of_another_model_or_a_hostile_one_is_no_drift(
    home: Any, slow: Path, head: Head, tmp_path: Path
) -> None:
    """Each has the status of what cannot be told, and its reason."""
    files.write(tmp_path / "other", head)
    assert refused(home, "--head", tmp_path / "other") == "model"
    whole = (slow / files.ARRAYS).read_bytes()
    (slow / files.ARRAYS).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert refused(home, "--head", slow) == "digest"
    (slow / files.ARRAYS).unlink()
    (slow / files.ARRAYS).symlink_to(tmp_path / "other" / files.ARRAYS)
    assert refused(home, "--head", slow) == "files"
    assert isinstance(drift(home, "--head", tmp_path / "absent").exception, OurMistake)
    for words in (["--head", slow, "--baseline"], ["--new"], ["--signer", "ab" * 32]):
        assert isinstance(drift(home, *words).exception, OurMistake)


def test_a_signature_that_is_there_is_verified(
    home: Any, slow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the key that the node pinned, or the one that is named; such a head, trained without
    noise on closed data, should not be here, whoever signed it."""
    key = Ed25519PrivateKey.generate()
    found = files.read(slow)
    signed = signing.sign(key, files.TAG, found.manifest.to_bytes())
    (slow / files.SIGNATURE).write_bytes(signed)
    own = signing.public_bytes(key).hex()
    assert isinstance(drift(home, "--head", slow).exception, OurMistake)  # whose would count?
    (slow / files.SIGNATURE).rename(slow.parent / "taken away")
    assert "nobody vouches for it" in drift(home, "--head", slow, "--json").stdout
    (slow.parent / "taken away").rename(slow / files.SIGNATURE)
    assert refused(home, "--head", slow, "--signer", "ab" * 32) == "signature"
    assert refused(home, "--head", slow, "--signer", own) == "not private"
    files.write(slow / "open", made_head(open_data="made up"))
    files.sign(slow / "open", key)
    assert refused(home, "--head", slow / "open", "--signer", own) == "model"  # it was verified
    home.coordinator.write_text("{}")
    monkeypatch.setattr(install, "trusted_signer", lambda _: bytes(32))
    assert refused(home, "--head", slow) == "signature"


def test_a_head_on_another_preset_is_compared_with_it(home: Any, tmp_path: Path) -> None:
    """The error names the command that can use it; no command could."""
    site.add(home, range(0, 24, 2))
    config, weights, _ = warm_start.load("small")
    other = train(made_up(), NamedModel(config, weights, {"source": "packaged"}), asked())
    files.write(tmp_path / "other", other)
    assert refused(home, "--head", tmp_path / "other") == "model"
    do = drift(home, "--head", tmp_path / "other").exception.do
    said = shlex.join(["drift", "--head", str(tmp_path / "other"), "--home", str(home.root)])
    assert do.endswith(f"{said} --warm-start --preset small")
    copytree(tmp_path / "other", tmp_path / "on small")  # a folder with a blank
    do = drift(home, "--head", tmp_path / "on small", "--new").exception.do
    assert f"--head '{tmp_path / 'on small'}' --new --home" in do
    done = drift(home, "--head", tmp_path / "other", "--preset", "small", "--json")
    assert json.loads(done.stdout)["patients"] == 12


def test_a_personal_head_says_what_it_was_made_of(home: Any, tmp_path: Path) -> None:
    """Its own patients, then fast ones that came later."""
    site.add(home, range(0, 60, 2))
    labels = tmp_path / "size.csv"
    lines = [f"{site.patient_name(n)},{'ab'[n // 2 % 2]}" for n in range(0, 60, 2)]
    labels.write_text("\n".join(["patient,size", *lines]))
    words = ["personalise", str(labels), "--warm-start", "--home", str(home.root)]
    assert RUNNER.invoke(app, words).exit_code == 0
    assert drift(home, "--head", "personal:size").exit_code == 0
    assert drift(home, "--baseline").exit_code == 0
    site.add(home, range(101, 125, 2), "fast")
    assert drift(home, "--head", "personal:size", "--new").exit_code == 3
    assert isinstance(drift(home, "--head", "personal:none").exception, OurMistake)
