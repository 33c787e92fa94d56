"""One sensor from the other: shifts, lost rates, patients, and what is left out."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_model import warm_start
from shared_model.mae import build, load_weights
from shared_model.patches import draw_patch_masks
from shared_model.reconstruction import reconstruction_scores
from simulations import cross_modal, cross_modal_figures, cross_modal_measures
from simulations.cross_modal_windows import Pairs, folders_of, read_pairs


def pairs_of(signal: np.ndarray, patient: list[int]) -> Pairs:
    """Windows of one site."""
    zeros = np.zeros(len(signal), dtype=np.int64)
    return Pairs(signal, np.array(patient), zeros, ("here",), {"here": len(signal)}, {}, {})


def beating(bpm: float, shift: int = 0) -> np.ndarray:
    """(1250,) narrow peaks at a rate, z-scored."""
    place = (np.arange(1250) - shift) % (60 * 125 / bpm)
    peak = np.exp(-0.5 * ((place - 20) / 2.0) ** 2)
    return ((peak - peak.mean()) / peak.std()).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.integers(-50, 50), st.integers(0, 2**32 - 1))
def test_a_shift_is_found_and_undone(by: int, seed: int) -> None:
    """A window moved by up to 0.4 s correlates fully at exactly that shift, and has no error."""
    long = np.random.default_rng(seed).normal(size=(1, 1400))
    truth, made = long[:, 60:1310], long[:, 60 + by : 1310 + by]
    best, shift = cross_modal_measures.best_shift(made, truth)
    assert best[0] == pytest.approx(1.0)
    assert shift[0] == by
    assert cross_modal_measures.error_at_shift(made, truth, shift)[0] == pytest.approx(0.0)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_correlations_at_shifts_are_pearsons_over_the_overlap(seed: int) -> None:
    """The fast sums agree with NumPy's own on the overlapping samples."""
    a, b = np.random.default_rng(seed).normal(size=(2, 1, 90)) + 3.0
    found = cross_modal_measures.correlations_at_shifts(a, b, 7)[0]
    for k, shift in enumerate(range(-7, 8)):
        first = a[0, max(0, -shift) : 90 - max(0, shift)]
        second = b[0, max(0, shift) : 90 + min(0, shift)]
        assert found[k] == pytest.approx(np.corrcoef(first, second)[0, 1], abs=1e-9)


def test_a_flat_made_window_has_no_correlation_and_the_trivial_error() -> None:
    truth = beating(70)[None]
    flat = np.zeros_like(truth)
    best, shift = cross_modal_measures.best_shift(flat, truth)
    assert (best[0], shift[0]) == (0.0, 0)
    assert cross_modal_measures.error_over_trivial(flat, truth)[0] == pytest.approx(1.0)


def test_a_window_without_a_rate_is_counted_as_lost_and_not_as_right() -> None:
    """Two windows, one made flat: error of the found one only, half lost, half within 5 bpm."""
    signal = np.stack([np.stack([beating(60)] * 2), np.stack([beating(80)] * 2)])
    pairs = pairs_of(signal, [0, 1])
    one = cross_modal._direction(
        pairs,
        signal[:, 0],
        0,
        np.array([60.0, 80.0]),
        np.array([62.0, np.nan]),
        np.array([1, 2.0]),
        np.array([False, True]),
    )
    rows = cross_modal.table(pairs, {"ppg_to_ecg": one}, draws=50, seed=0)["ppg_to_ecg"]
    row = rows[cross_modal.ALL_SITES]
    assert row["rate_error_bpm"]["value"] == pytest.approx(2.0)
    assert row["rate_lost"]["value"] == pytest.approx(0.5)
    assert row["rate_disputed"]["value"] == pytest.approx(0.5)
    assert row["raw_rate_error_undisputed_bpm"]["value"] == pytest.approx(59.0)
    assert row["rate_within_5_bpm"]["value"] == pytest.approx(0.5)
    assert row["constant_rate_error_bpm"]["value"] == pytest.approx(20.0)
    assert cross_modal.bar(rows, True)["windows_lost"]["value"] == pytest.approx(0.5)


def test_patients_count_alike_whatever_their_windows() -> None:
    """Nine windows of one patient weigh as much as one window of another."""
    found = cross_modal.by_patient(
        np.array([0.0] * 9 + [10.0]), np.array([0] * 9 + [1]), draws=100, seed=0
    )
    assert found is not None
    assert (found.value, found.low, found.high) == (5.0, 0.0, 10.0)
    alone = cross_modal.by_patient(np.ones(3), np.zeros(3, dtype=np.int64), draws=100, seed=0)
    assert alone is not None
    assert np.isnan(alone.low)


def test_examples_are_chosen_by_rule_among_what_may_be_drawn() -> None:
    signal = np.stack([np.stack([beating(60)] * 2)] * 11)
    rates = np.full(11, 60.0)
    one = cross_modal._direction(
        pairs_of(signal, [0] * 11), signal[:, 0], 0, rates, rates, rates, rates > 99
    )
    one.figures["correlation_shifted"][:] = np.linspace(1.0, 0.0, 11)
    assert cross_modal.examples(one, np.ones(11, dtype=bool)) == {"median": 5, "worst decile": 9}
    assert cross_modal.examples(one, np.zeros(11, dtype=bool)) == {}


def test_windows_are_drawn_of_a_known_collection_alone_and_for_the_owner(tmp_path: Path) -> None:
    """Of two sites one is known: the examples are its own, and nobody else can read the files.
    Where it is not said that a site is known, none is drawn."""
    signal = np.stack([np.stack([beating(60)] * 2)] * 6)
    rates = np.full(6, 60.0)
    site = np.array([0, 0, 0, 1, 1, 1])
    pairs = replace(
        pairs_of(signal, [0, 0, 1, 2, 2, 3]), site=site, sites=("icu_alarms_a", "icu_alarms_a")
    )
    one = cross_modal._direction(pairs, signal[:, 0], 0, rates, rates, rates, rates > 99)
    known = replace(pairs, drawn=(False, True))
    assert known.may_be_drawn().tolist() == [False] * 3 + [True] * 3
    shown = cross_modal_figures.draw_all(known, {"ppg_to_ecg": one})
    shown.write(tmp_path, {"measured.json": b"{}"})
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    examples = {f"cross-modal-ppg-to-ecg.{kind}": 0o600 for kind in ("pdf", "svg")}
    rest = ("cross-modal-rates.pdf", "cross-modal-rates.svg", "measured.json")
    assert modes == examples | dict.fromkeys(rest, 0o644)
    digest = sha256((tmp_path / "cross-modal-ppg-to-ecg.svg").read_bytes()).hexdigest()
    assert shown.about["cross-modal-ppg-to-ecg"]["sha256"] == digest
    hidden = cross_modal_figures.draw_all(pairs, {"ppg_to_ecg": one})
    assert "open collections" in (hidden.about["cross-modal-ppg-to-ecg"]["caption"] or "")
    hidden.write(tmp_path, {})
    assert {path.name for path in tmp_path.iterdir()} == set(rest)


def test_a_channel_is_made_without_a_look_at_it() -> None:
    """Other ECGs change nothing in the ECG that is made, other PPGs do."""
    config, weights, _ = warm_start.load("tiny")
    model = build(config, 0)
    load_weights(model, weights)
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(3, 2, 1250)).astype(np.float32)
    made = cross_modal.reconstruct(model, signal, batch=2)
    other = signal.copy()
    other[:, 0] = rng.normal(size=(3, 1250))
    again = cross_modal.reconstruct(model, other, batch=2)
    np.testing.assert_allclose(again[:, 0], made[:, 0], atol=1e-5)
    assert np.abs(again[:, 1] - made[:, 1]).max() > 1e-4


def test_masked_errors_are_those_of_the_reconstruction_scores() -> None:
    """Of whole windows with the same masks, batch by batch; by patient, patients count alike."""
    config, weights, _ = warm_start.load("tiny")
    model = build(config, 0)
    load_weights(model, weights)
    signal = np.stack([np.stack([beating(bpm, 3), beating(bpm)]) for bpm in (55, 70, 90, 110, 140)])
    made, masked = cross_modal.reconstruct_all(model, signal, batch=2)
    known = np.ones((5, 2, 50), dtype=bool)
    scores = reconstruction_scores(model, signal, known, np.random.default_rng(0))
    hidden = draw_patch_masks(np.random.default_rng(0), (5, 1))[:, 0]  # (window, channel, token)
    squares = np.square(signal.reshape(5, 2, 50, 25)).mean(axis=-1)
    trivial = (squares * hidden).sum(axis=-1)  # each window's mean is zero
    whole = (masked * trivial).sum(axis=0) / trivial.sum(axis=0)
    np.testing.assert_allclose(whole, [scores["masked_ecg"], scores["masked_ppg"]], rtol=1e-4)
    pairs = pairs_of(signal, [0, 0, 0, 0, 1])
    rates = np.full(5, 60.0)
    done = {
        name: cross_modal._direction(pairs, made[:, at], at, rates, rates, rates, rates > 99)
        for name, (_, at) in cross_modal.DIRECTIONS.items()
    }
    row = cross_modal.reconstruction(pairs, done, masked, draws=50, seed=0)["here"]
    assert set(row) == set(scores)
    assert row["masked"]["value"] == pytest.approx(
        (masked[:4].mean() + masked[4].mean()) / 2, abs=1e-4
    )
    crossed = [row[name]["value"] for name in cross_modal.DIRECTIONS]
    assert row["cross_modal"]["value"] == pytest.approx(np.mean(crossed), abs=1e-4)
    assert np.mean([done[name].figures["error_over_trivial"] for name in done]) == pytest.approx(
        scores["cross_modal"], rel=1e-4
    )


def test_what_the_gate_left_out_is_counted(data_root: Path) -> None:
    """Kept and left out make up all windows of a site; a missing site is named."""
    folders, absent = folders_of(data_root, ("icu_uci_bp", "nowhere_*"))
    assert absent == ["nowhere_*"]
    pairs = read_pairs(folders, most=10_000)
    assert len(pairs) + sum(pairs.left_out["icu_uci_bp"].values()) == pairs.met["icu_uci_bp"]
    assert len(read_pairs(folders, most=7)) == 7 * len(np.unique(pairs.patient))
    assert pairs.may_be_drawn().all()
