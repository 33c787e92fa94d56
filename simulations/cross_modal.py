"""One sensor made from the other on real patients: heart rate, waveform, error; by patient.

Every figure is a mean over a patient's windows, then over patients, with a percentile interval over
bootstrap samples of patients. A window in which no heart rate is found is counted, never dropped
without a word: the error is of windows where it was found, and the share lost stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from shared_model.config import CHANNELS, FS_HZ, TOKENS
from shared_model.losses import masked_queries
from shared_model.mae import ECG, PPG, MaskedAutoencoder
from shared_model.patches import draw_patch_masks, fold, unfold
from simulations import cross_modal_measures as measures
from simulations.cross_modal_windows import SITES, Pairs
from simulations.heads.collections import KNOWN
from simulations.probes.evaluate import Estimate, bootstrap_counts, interval

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
ALL_SITES = "all sites"
DIRECTIONS = {"ppg_to_ecg": (PPG, ECG), "ecg_to_ppg": (ECG, PPG)}
"""Name: channel that is seen, channel that is made."""
RATE_BAR_BPM = 2.9
BAR_SITES = frozenset(name for name in KNOWN if any(fnmatch(name, site) for site in SITES))
BAR_WINDOWS = 60
"""The bar is asked of all these folders, with so many windows of a patient, and of no others."""
NEAR_BPM = 5.0
CITED = {
    "source": "CardioGAN, arXiv 2010.00104: its own data, not these patients",
    "raw_ppg_bpm": 9.74,
    "made_ecg_bpm": 2.89,
}
"""Figures of others, for the eye; nothing here is computed from them."""

WORDS = {
    "rate_error_bpm": "heart-rate error of the made signal, bpm, where a rate was found",
    "rate_lost": "share of windows whose made signal gave no rate",
    "rate_within_5_bpm": "share of windows with a rate within 5 bpm; a lost one is not",
    "rate_disputed": "share of windows whose recorded ECG gives two detectors rates > 5 bpm apart",
    "rate_error_undisputed_bpm": "heart-rate error in the other windows; the choice sees no model",
    "raw_rate_error_undisputed_bpm": "the same of the recorded source signal itself",
    "raw_rate_error_bpm": "the same error of the recorded source signal itself",
    "raw_rate_lost": "share of windows whose source signal gave no rate",
    "constant_rate_error_bpm": "error of always saying the median rate of the other patients",
    "correlation": "Pearson's r as it is",
    "correlation_shifted": "r after the best shift of the whole window, at most 0.4 s",
    "correlation_shifted_chance": "the same against the next patient's window: what chance gives",
    "error_over_trivial": "squared error over that of the window's mean, as it is",
    "error_over_trivial_shifted": "the same after the best shift",
}


@dataclass(frozen=True)
class Made:
    """One direction, one entry a window. made: float32 (window, sample); the rest (window,)."""

    made: F32 = field(repr=False)
    shift: npt.NDArray[np.int64] = field(repr=False)
    true_bpm: F64 = field(repr=False)
    made_bpm: F64 = field(repr=False)
    raw_bpm: F64 = field(repr=False)
    figures: dict[str, F64] = field(repr=False)
    """By the names of `WORDS`, NaN where a window cannot have it."""


def reconstruct(model: MaskedAutoencoder, signal: F32, batch: int = 128) -> F32:
    """Each channel of whole windows made from the other alone: `made` of `reconstruct_all`."""
    return reconstruct_all(model, signal, batch)[0]


def reconstruct_all(model: MaskedAutoencoder, signal: F32, batch: int = 128) -> tuple[F32, F64]:
    """Each channel of whole windows made from the other alone, and from half of both.

    Args:
        signal: (window, channel=2, sample=1250), valid throughout.

    Returns:
        made: the same shape; channel c was made without a look at channel c.
        masked: (window, channel), squared error of the hidden half over that of the window's mean
            there; what is hidden of one channel is seen of the other.
    """
    made, masked = np.empty_like(signal), np.empty(signal.shape[:2])
    hidden = draw_patch_masks(np.random.default_rng(0), (len(signal), 1))
    with torch.inference_mode():
        for start in range(0, len(signal), batch):
            here = slice(start, start + batch)
            part = np.ascontiguousarray(signal[here])
            patches = fold(torch.from_numpy(part))
            known = torch.ones((len(part), len(CHANNELS), TOKENS), dtype=torch.bool)
            views = model(patches, known, torch.from_numpy(hidden[here]))
            for channel in (ECG, PPG):
                whole = views.predicted[channel][..., -TOKENS:, :]  # (window, token, patch_sample)
                made[here, channel] = unfold(whole).numpy()
                asked = views.places[channel][:, : masked_queries(1), None]  # (window, query, 1)
                truth = torch.take_along_dim(patches[:, channel], asked, dim=1)
                answered = views.predicted[channel][:, : masked_queries(1)]
                mean = patches[:, channel].mean(dim=(1, 2), keepdim=True)
                trivial = (truth - mean).square().mean(dim=(1, 2))
                error = (truth - answered).square().mean(dim=(1, 2))
                masked[here, channel] = torch.where(trivial > 0, error / trivial, torch.nan).numpy()
    return made, masked


def measure(
    model: MaskedAutoencoder, pairs: Pairs, on_step: Callable[[str], None] | None = None
) -> tuple[dict[str, Made], F64]:
    """All windows: both directions, and the masked errors of `reconstruct_all`."""
    tell = on_step or (lambda _: None)
    made, masked = reconstruct_all(model, pairs.signal)
    tell("made")
    rates = {}
    for channel, name in ((ECG, "ECG"), (PPG, "PPG")):
        rates[channel] = measures.rates_bpm(pairs.signal[:, channel], channel)
        tell(f"recorded {name}")
    second = measures.second_rates_bpm(pairs.signal[:, ECG])
    tell("recorded ECG, second detector")
    disputed = ~(np.abs(rates[ECG] - second) <= NEAR_BPM)  # True also where one finds nothing
    result = {}
    for name, (source, target) in DIRECTIONS.items():
        found = measures.rates_bpm(made[:, target], target)
        result[name] = _direction(
            pairs, made[:, target], target, rates[target], found, rates[source], disputed
        )
        tell(name)
    return result, masked


def _direction(
    pairs: Pairs,
    made: F32,
    target: int,
    true_bpm: F64,
    made_bpm: F64,
    raw_bpm: F64,
    disputed: npt.NDArray[np.bool_],
) -> Made:
    truth = pairs.signal[:, target]
    known = np.isfinite(true_bpm)
    best, shift = measures.best_shift(made, truth)
    other = _next_patient(pairs.patient)
    error = np.abs(made_bpm - true_bpm)
    near = np.where(known, (np.nan_to_num(error, nan=np.inf) <= NEAR_BPM).astype(float), np.nan)
    figures = {
        "rate_error_bpm": error,
        "rate_lost": np.where(known, ~np.isfinite(made_bpm), np.nan),
        "rate_within_5_bpm": near,
        "rate_disputed": disputed.astype(float),
        "rate_error_undisputed_bpm": np.where(disputed, np.nan, error),
        "raw_rate_error_undisputed_bpm": np.where(disputed, np.nan, np.abs(raw_bpm - true_bpm)),
        "raw_rate_error_bpm": np.abs(raw_bpm - true_bpm),
        "raw_rate_lost": np.where(known, ~np.isfinite(raw_bpm), np.nan),
        "constant_rate_error_bpm": np.abs(_others_median(true_bpm, pairs.patient) - true_bpm),
        "correlation": measures.correlation(made, truth),
        "correlation_shifted": best,
        "correlation_shifted_chance": (
            measures.best_shift(made, truth[other])[0]
            if other is not None
            else np.full(len(made), np.nan)
        ),
        "error_over_trivial": measures.error_over_trivial(made, truth),
        "error_over_trivial_shifted": measures.error_at_shift(made, truth, shift),
    }
    return Made(made, shift, true_bpm, made_bpm, raw_bpm, figures)


def table(
    pairs: Pairs, done: dict[str, Made], *, draws: int, seed: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """{direction: {site: {figure: {value, low, high}, "patients", "windows", "no_true_rate"}}}.

    "no_true_rate": windows whose recorded target has no rate to compare with.
    """
    groups = _groups(pairs)
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for name, one in done.items():
        rows: dict[str, dict[str, Any]] = {}
        for site, inside in groups.items():
            patient = pairs.patient[inside]
            rows[site] = {
                "patients": int(np.unique(patient).size),
                "windows": int(inside.sum()),
                "no_true_rate": int(np.isnan(one.true_bpm[inside]).sum()),
                **{
                    figure: as_json(by_patient(values[inside], patient, draws=draws, seed=seed))
                    for figure, values in one.figures.items()
                },
            }
        result[name] = rows
    return result


def reconstruction(
    pairs: Pairs, done: dict[str, Made], masked: F64, *, draws: int, seed: int
) -> dict[str, dict[str, Any]]:
    """{site: {figure: {value, low, high}}}: errors over trivial, as the model put the signals.

    Names and errors are those of `shared_model.reconstruction`, which takes all windows together;
    here patients count alike.
    """
    crossed = {name: one.figures["error_over_trivial"] for name, one in done.items()}
    figures = {
        "masked": masked.mean(axis=1),
        "masked_ecg": masked[:, ECG],
        "masked_ppg": masked[:, PPG],
        "cross_modal": np.mean(list(crossed.values()), axis=0),
        **crossed,
    }
    return {
        site: {
            name: as_json(by_patient(values[inside], pairs.patient[inside], draws=draws, seed=seed))
            for name, values in figures.items()
        }
        for site, inside in _groups(pairs).items()
    }


def _groups(pairs: Pairs) -> dict[str, npt.NDArray[np.bool_]]:
    """Windows (window,) of all sites, and of each that has any."""
    groups = {ALL_SITES: np.ones(len(pairs), dtype=np.bool_)}
    for site in pairs.sites:
        inside = pairs.of_site(site)
        if inside.any():
            groups[site] = inside
    return groups


def by_patient(
    values: F64, patient: npt.NDArray[np.int64], *, draws: int, seed: int
) -> Estimate | None:
    """Mean of the patients' means, with its interval over patients; None where there is nothing.

    Of a single patient there is no interval: its ends are NaN.
    """
    known = np.isfinite(values)
    if not known.any():
        return None
    _, group = np.unique(patient[known], return_inverse=True)
    means = np.bincount(group, weights=values[known]) / np.bincount(group)
    value = float(means.mean())
    if len(means) == 1:
        return Estimate(value, float("nan"), float("nan"))
    counts = bootstrap_counts(len(means), draws, np.random.default_rng(seed))
    return interval(value, counts @ means / len(means))


def as_json(one: Estimate | None) -> dict[str, float | None] | None:
    """Rounded; null for an end that there is not."""
    if one is None:
        return None
    ends = (("value", one.value), ("low", one.low), ("high", one.high))
    return {name: round(float(x), 4) if np.isfinite(x) else None for name, x in ends}


def bar_counts(figures: Mapping[str, Any]) -> bool:
    """Whether a file of results is of the folders and sizes that the bar is asked of, and of a
    model that was not trained on them. A file of before `default_sites` says whose it is by its
    folders' names."""
    return (
        bool(figures.get("default_sites", True))
        and not figures["absent_sites"]
        and frozenset(figures["met"]) == BAR_SITES
        and figures["windows_of_a_patient"] == BAR_WINDOWS
        and not figures.get("trained_here")
    )


def bar(rows: dict[str, dict[str, Any]], counts: bool) -> dict[str, Any]:
    """The issue's bar: heart-rate error of the ECG made from PPG, all patients of all sites.

    Args:
        counts: `bar_counts`; without it nothing is reached and nothing missed.
    """
    found = rows[ALL_SITES]["rate_error_bpm"]
    value = None if found is None else found["value"]
    return {
        "bar_bpm": RATE_BAR_BPM,
        "value_bpm": value,
        "interval_bpm": None if found is None else [found["low"], found["high"]],
        "reached": value is not None and value <= RATE_BAR_BPM if counts else None,
        "windows_lost": rows[ALL_SITES]["rate_lost"],
    }


def examples(done: Made, drawable: npt.NDArray[np.bool_]) -> dict[str, int]:
    """Windows to show, by rule: those at the median and at the worst decile of the correlation
    after the best shift, among windows that may be drawn. Ties go to the first."""
    places = np.flatnonzero(drawable)
    if not len(places):
        return {}
    order = places[np.argsort(done.figures["correlation_shifted"][places], kind="stable")]
    return {
        "median": int(order[(len(order) - 1) // 2]),
        "worst decile": int(order[(len(order) - 1) // 10]),
    }


def median_shift_ms(done: Made) -> float:
    """Of the best shifts of all windows."""
    return float(np.median(done.shift) * 1000.0 / FS_HZ)


def _next_patient(patient: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
    """For each window the index of one of the next patient's (cyclic); None with one patient."""
    names = np.unique(patient)
    if len(names) < 2:
        return None
    where = {name: np.flatnonzero(patient == name) for name in names}
    following = dict(zip(names, np.roll(names, -1), strict=True))
    result = np.empty(len(patient), dtype=np.int64)
    for name in names:
        mine, theirs = where[name], where[following[name]]
        result[mine] = theirs[np.arange(len(mine)) % len(theirs)]
    return result


def _others_median(rate: F64, patient: npt.NDArray[np.int64]) -> F64:
    """Median over the other patients' windows: (window,), NaN where there is no other."""
    result = np.full(len(rate), np.nan)
    for name in np.unique(patient):
        others = rate[(patient != name) & np.isfinite(rate)]
        if len(others):
            result[patient == name] = np.median(others)
    return result
