"""The drift check, on real patients that were altered and on a node's files."""

from __future__ import annotations

import errno
import json
from dataclasses import replace

import made_up_site as site
import numpy as np
import pytest
from scipy.signal import butter, filtfilt
from typer.testing import CliRunner

from client import drift, drift_files, drift_plot, withdrawals
from client import store as store_module
from client.cli import app
from client.ingest import open_writer
from client.pseudonyms import load_key, pseudonym_of
from client.store import open_store
from shared_model import mae, outputs, simulated_windows, warm_start
from shared_model.errors import CannotTell, OurMistake, Refused
from shared_model.quality import CLIPPED
from shared_model.simulated_windows import SimulatedWindows, packaged, packed, read
from shared_model.windows import Prepared
from simulations.cli_simulated_windows import PATIENTS, SEED, made

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def model() -> mae.MaskedAutoencoder:
    config, weights, _ = warm_start.load()
    loaded = mae.build(config, 0)
    mae.load_weights(loaded, weights)
    return loaded


def few_simulated() -> SimulatedWindows:
    """Six of the packaged patients, which are as good for a number that is not tested."""
    windows = packaged()
    return SimulatedWindows(windows.signal[:6], windows.valid[:6])


@pytest.fixture(scope="module")
def simulated(model):
    return drift.measure_simulated(few_simulated(), model)


@pytest.fixture(scope="module")
def icu(model, tmp_path_factory):
    """Measures a list of the ICU's recordings, changed; the first half of its patients."""
    if not (site.DATA / "icu_bidmc").is_dir():
        pytest.skip("the recordings icu_bidmc are not here (FEDPRINT_DATA)")
    first, second = site.halves(site.bidmc(50.0))

    def measured(recordings, change=lambda one: one):
        home = site.node(tmp_path_factory.mktemp("icu"))
        site.write(home, site.items_of(recordings, change), "icu")
        found = drift.measure(open_store(home), model)
        fresh = tuple(f"{home.root}-{row}" for row in range(len(found.pseudonyms)))
        return replace(found, pseudonyms=fresh)

    return measured(first), lambda change=lambda one: one: measured(second, change)


def told(rows) -> dict[str, bool]:
    return {row.what: row.drifted for row in rows}


def noisy(samples, fs_hz):
    rng = np.random.default_rng(len(samples))
    spread = np.nanstd(samples)
    return samples + 1.5 * spread * rng.standard_normal(len(samples)).astype(samples.dtype)


def filtered(samples, fs_hz):
    b, a = butter(2, 6.0, fs=fs_hz)
    return filtfilt(b, a, np.nan_to_num(samples)).astype(samples.dtype)


def test_other_patients_of_the_same_ward_have_not_drifted(icu, simulated):
    """Half of the ICU's patients against the other half."""
    reference, later = icu
    rows = drift.compare(reference, later(), simulated)
    assert not any(told(rows).values())
    assert len([row for row in rows if row.adjusted is not None]) == 8


@pytest.mark.long
def test_a_gain_is_invisible_to_the_check_as_to_the_model(icu, simulated):
    """Windows are z-scored one by one; the documentation says so."""
    reference, later = icu
    louder = later(site.with_signals(lambda samples, _: 3.0 * samples))
    assert not any(told(drift.compare(reference, louder, simulated)).values())


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (site.with_signals(filtered), "fingerprint, ecg"),
        pytest.param(site.at_rate(1.6), "fingerprint, ppg", marks=pytest.mark.long),
        pytest.param(site.with_signals(noisy), "fingerprint, both", marks=pytest.mark.long),
    ],
    ids=["a monitor's filter", "a wrong sampling rate", "noise"],
)
def test_the_same_ward_with_another_device_has(icu, simulated, change, where):
    """And the row says where."""
    reference, later = icu
    rows = drift.compare(reference, later(change), simulated)
    assert told(rows)[where]


def test_too_few_or_the_same_patients_are_not_compared(model, simulated):
    """No drift of four patients would mean nothing."""
    few = drift.Measures(
        tuple("abcd"),
        {name: np.zeros((4, 128)) for name in drift.SENSORS},
        {name: np.zeros(4) for name in drift.FIGURES},
    )
    with pytest.raises(Refused, match="needs 10"):
        drift.compare(few, few.only(lambda _: False), simulated)
    with pytest.raises(Refused, match="both groups"):
        drift.compare(few, few, simulated)


def test_a_sensor_that_few_have_is_said_and_not_tested(simulated):
    """The row is there, without a p-value; the other rows' are adjusted for eight less one."""
    rng = np.random.default_rng(0)

    def group(name: str) -> drift.Measures:
        means = {one: rng.standard_normal((12, 128)) for one in drift.SENSORS}
        means["ppg"][3:] = np.nan
        figures = {one: rng.standard_normal(12) for one in drift.FIGURES}
        return drift.Measures(tuple(f"{name}{row}" for row in range(12)), means, figures)

    rows = {row.what: row for row in drift.compare(group("a"), group("b"), simulated)}
    assert rows["fingerprint, ppg"].adjusted is None
    assert not rows["fingerprint, ppg"].drifted
    assert rows["fingerprint, ppg"].patients_now == 3
    smallest = min((row for row in rows.values() if row.p_value), key=lambda row: row.p_value)
    assert smallest.adjusted == pytest.approx(min(1.0, 7 * smallest.p_value))


def test_the_packaged_windows_are_those_of_the_command():
    """Packed and read again they are within half a step; the package holds what the lab makes."""
    windows = packaged()
    assert windows.signal.shape[:2] == (PATIENTS, 4)
    again = read(made(PATIENTS, SEED))
    assert np.abs(again.signal - windows.signal).max() <= 1 / 16 + 1e-6
    assert np.array_equal(again.valid, windows.valid)
    assert read(packed(windows.signal, windows.valid)).signal.tobytes() == windows.signal.tobytes()
    for wrong in (b"", b"{}", packed(windows.signal[:, :, :1], windows.valid[:, :, :1])):
        with pytest.raises(OurMistake):
            read(wrong)


def run(home, *words):
    return RUNNER.invoke(app, ["drift", "--warm-start", "--home", str(home.root), *words])


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(simulated_windows, "packaged", few_simulated)
    return site.node(tmp_path / "node")


def test_a_site_keeps_a_reference_and_compares_later_patients(home, tmp_path):
    """Through the command: alike patients 0, hearts twice as fast 3; table, JSON and plot."""
    site.add(home, range(0, 22, 2))
    assert isinstance(run(home).exception, OurMistake)
    assert run(home, "--baseline").exit_code == 0
    early = run(home, "--json")  # nobody is new: on a timer's first day
    assert isinstance(early.exception, CannotTell)
    assert early.exception.exit_code == 6
    said = json.loads(early.stdout)
    assert (said["verdict"], said["drift"]) == ("cannot tell", None)
    assert (said["patients_then"], said["patients_now"], said["patients_needed"]) == (11, 0, 10)
    site.add(home, range(100, 122, 2), "alike")
    alike = run(home, "--json", "--plot", str(tmp_path / "p.png"))
    assert alike.exit_code == 0, alike.output
    said = json.loads(alike.stdout)
    assert said["drift"] is False
    assert said["verdict"] == "no drift found"
    assert {row["patients_now"] for row in said["rows"]} == {11}
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "p.png").stat().st_mode & 0o077 == 0
    assert run(home, "--baseline").exit_code == 0
    site.add(home, range(201, 233, 2), "fast")
    other = run(home)
    assert other.exit_code == 3
    assert "Drift." in other.stdout


def test_a_reference_that_is_refused_has_the_document_and_words_of_its_own(home, monkeypatch):
    """Status 6, never that of drift; it had an empty output, and told of a check."""

    def closed(*_, **__):
        raise Refused("The window store is not encrypted.", reason="store-key", do="Encrypt it.")

    monkeypatch.setattr(store_module, "open_store", closed)
    done = run(home, "--baseline", "--json")
    assert cannot_tell(done) == "store-key"
    assert done.exception.message == "No reference was kept. The window store is not encrypted."
    assert done.exception.do == "Encrypt it."
    assert run(home, "--baseline").stdout == ""


def broken(number: int, *channels: int) -> Prepared:
    """A patient of whom these sensors are refused in all windows."""
    made = site.prepared(number, 6)
    made.refusal[:, channels] = CLIPPED
    return made


@pytest.mark.parametrize(
    ("channels", "gone"),
    [((0, 1), {"refused share", "usable share, ecg", "usable share, ppg"}),
     ((1,), {"usable share, ppg"})],
)  # fmt: skip
def test_a_sensor_that_is_gone_is_a_drift(home, channels, gone):
    """Patients all of whose windows are refused were counted nowhere, and a dead sensor beside a
    good one was no refusal: both were no drift."""
    site.write(home, [(site.patient_name(one), site.prepared(one, 6)) for one in range(24)], "then")
    assert run(home, "--baseline").exit_code == 0
    made = [broken(one, *channels) if one % 4 < 3 else site.prepared(one, 6)
            for one in range(24, 48)]  # fmt: skip
    site.write(
        home, [(site.patient_name(24 + place), one) for place, one in enumerate(made)], "now"
    )
    done = run(home, "--json")
    assert done.exit_code == 3
    rows = {row["what"]: row for row in json.loads(done.stdout)["rows"]}
    assert {what for what, row in rows.items() if row["drifted"]} == gone
    for what in gone:
        assert (rows[what]["patients_then"], rows[what]["patients_now"]) == (24, 24)
        assert rows[what]["now"] == (0.75 if what == "refused share" else 0.25)


def test_no_drift_is_never_said_of_shares_alone(home):
    """Sixteen patients without a usable window, then and now: nothing was looked at."""
    for name, first in (("then", 0), ("now", 20)):
        made = [broken(one, 0, 1) if one % 20 < 16 else site.prepared(one, 6)
                for one in range(first, first + 20)]  # fmt: skip
        named = [(site.patient_name(first + place), one) for place, one in enumerate(made)]
        site.write(home, named, name)
        if name == "then":
            assert run(home, "--baseline").exit_code == 0
    done = run(home, "--json")
    assert cannot_tell(done) == "few-patients"
    said = json.loads(done.stdout)
    assert (said["patients_then"], said["patients_now"]) == (4, 4)


def test_after_a_restore_nothing_is_made_of_the_windows_of_who_may_have_withdrawn(home):
    """As no round is trained; until somebody says that the withdrawals hold."""
    site.add(home, range(0, 22, 2))
    withdrawals.mark_unknown(home)
    assert cannot_tell(run(home, "--baseline", "--json")) == "not-ready"
    withdrawals.say_they_hold(home, 0)
    assert run(home, "--baseline").exit_code == 0


def test_a_plot_that_cannot_be_drawn_is_refused_before_and_never_hides_the_verdict(
    home, tmp_path, monkeypatch
):
    """Below a file, or of another ending: nothing is measured. A disk that is full at the end:
    the document is there."""
    site.add(home, range(0, 22, 2))
    assert run(home, "--baseline").exit_code == 0
    site.add(home, range(101, 123, 2), "fast")
    (tmp_path / "file").touch()
    with monkeypatch.context() as patch:
        patch.setattr(drift, "measure", None)
        for wrong in (tmp_path / "file" / "x.png", tmp_path, tmp_path / "x.txt"):
            done = run(home, "--json", "--plot", str(wrong))
            assert isinstance(done.exception, OurMistake), done.output
    monkeypatch.setattr(outputs, "write_atomic", full_disk)
    done = run(home, "--json", "--plot", str(tmp_path / "x.png"))
    assert isinstance(done.exception, OurMistake)
    assert json.loads(done.stdout)["verdict"] == "drift"


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "full")


def test_a_picture_of_one_sensor_says_which_points_are_whose(tmp_path, monkeypatch):
    """The legend stood in the first panel, which such a store leaves blank."""
    found = []

    def saved(figure, stream, **_):
        found.extend(axes.get_legend() for axes in figure.axes)
        stream.write(b"drawn")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", saved)
    rng = np.random.default_rng(0)
    nothing = np.full((5, 128), np.nan)
    each = {"both": nothing, "ecg": nothing, "ppg": rng.standard_normal((5, 128))}
    made = drift.Measures(tuple("abcde"), each, {})
    drift_plot.draw(tmp_path / "p.svg", made, made, made)
    assert found[:2] == [None, None]
    assert [text.get_text() for text in found[2].get_texts()] == ["simulated", "reference", "new"]


def test_who_leaves_the_store_leaves_the_reference(home):
    """A patient that withdraws is erased from the file when it is read."""
    site.add(home, range(10))
    assert run(home, "--baseline").exit_code == 0
    path = home.drift / "baseline.json"
    gone = pseudonym_of(load_key(home.pseudonym_key), site.patient_name(3))
    assert gone in path.read_text()
    with open_writer(home) as writer:
        writer.withdraw(gone)
    run(home)
    assert gone not in path.read_text()
    assert len(json.loads(path.read_bytes())["patients"]) == 9


def test_a_reference_of_another_rule_of_names_than_the_store_is_refused(home, monkeypatch):
    """Half of it was compared with itself. Of an earlier version's store it holds, as the store."""
    site.add(home, range(10))
    monkeypatch.setattr("client.store.WindowStore.former", True)
    assert run(home, "--baseline").exit_code == 0
    path = home.drift / "baseline.json"
    assert json.loads(path.read_bytes())["former"]
    assert run(home).exception.reason == "few-patients"
    monkeypatch.setattr("client.store.WindowStore.former", False)
    assert cannot_tell(run(home, "--json")) == "names"
    assert not path.exists()
    assert isinstance(run(home).exception, OurMistake)
    assert run(home, "--baseline").exit_code == 0
    assert run(home).exception.reason == "few-patients"
    for earlier in ("drift-1", "drift-2"):
        told = {**json.loads(path.read_bytes()), "format": earlier}
        path.write_text(json.dumps(told))
        assert cannot_tell(run(home, "--json")) == "files"
        assert run(home, "--baseline").exit_code == 0


def test_a_reference_of_another_model_or_damaged_is_refused(home):
    """Fingerprints of two models have nothing to do with each other."""
    site.add(home, range(10))
    assert run(home, "--baseline").exit_code == 0
    store = open_store(home)
    with pytest.raises(Refused, match="another model"):
        drift_files.load(home, store, "ab" * 32)
    path = home.drift / "baseline.json"
    good = json.loads(path.read_bytes())
    good["patients"][0]["means"]["both"][0] = "x"
    for bad in (b"{", b"[]", b'{"format":"sealed-1"}', json.dumps(good).encode()):
        path.write_bytes(bad)
        with pytest.raises(Refused) as caught:
            drift_files.load(home, store, good["model_digest"])
        assert caught.value.reason == "files"
        assert cannot_tell(run(home, "--json")) == "files"
    path.write_text(json.dumps({**good, "model_digest": "ab" * 32, "patients": []}))
    assert cannot_tell(run(home, "--json")) == "model"


def cannot_tell(done) -> str:
    """The reason; the exit status of drift is not taken."""
    assert isinstance(done.exception, CannotTell)
    assert done.exception.exit_code == 6
    said = json.loads(done.stdout)
    assert (said["verdict"], said["drift"]) == ("cannot tell", None)
    return said["reason"]


def test_where_no_row_has_enough_patients_there_is_no_verdict(simulated):
    """Nothing was tested: that is not "no drift found"."""
    empty = drift.Measures(
        tuple(f"a{row}" for row in range(12)),
        {one: np.full((12, 128), np.nan) for one in drift.SENSORS},
        {one: np.full(12, np.nan) for one in drift.FIGURES},
    )
    other = replace(empty, pseudonyms=tuple(f"b{row}" for row in range(12)))
    with pytest.raises(CannotTell, match="No figure"):
        drift.compare(empty, other, simulated)
