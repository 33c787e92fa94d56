"""Is this site's distribution another one than it was? Patients against earlier patients.

    now = measure(store, model, simulated)
    rows = compare(baseline, now)        # one row a figure, p-values over patients, Holm's

What is compared, a patient each: the mean fingerprint seen with both sensors, with ECG alone, with
PPG alone (kernel MMD); the error of reconstructing hidden halves over the trivial one (difference
of means); the share of windows in which no sensor can be used, and that in which each can (neither
refused by the quality gate nor absent). Windows are z-scored one by one: a change of the
amplifier's gain alone is invisible here, as it is to the model. Pure, but for the model; nothing is
sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from client.fingerprints import SENSORS
from client.site_fingerprints import some_seen_with
from client.store import WindowStore
from shared_model import two_samples
from shared_model.config import CHANNELS, FINGERPRINT_SIZE
from shared_model.errors import CannotTell, Refused
from shared_model.mae import MaskedAutoencoder
from shared_model.simulated_windows import SimulatedWindows

FEWEST_PATIENTS = 10
"""In each group; with fewer a change would not be found, and no drift would mean nothing."""
LEVEL = 0.01
"""A figure with an adjusted p-value below it has drifted."""
RECONSTRUCTED_WINDOWS = 8
Array = npt.NDArray[np.float64]
ERRORS = tuple(f"masked_{name}" for name in CHANNELS)
USABLE = tuple(f"usable_share_{name}" for name in CHANNELS)
FIGURES = (*ERRORS, "refused_share", *USABLE)


@dataclass(frozen=True)
class Measures:
    """One row a patient; NaN where a patient has nothing of it.

    means: by sensors, (patient, 128). figures: by name of `FIGURES`, (patient,).
    """

    pseudonyms: tuple[str, ...] = field(repr=False)
    means: dict[str, Array] = field(repr=False)
    figures: dict[str, Array] = field(repr=False)

    def only(self, keep: Callable[[str], bool]) -> Measures:
        """Of some patients, by pseudonym."""
        rows = [row for row, name in enumerate(self.pseudonyms) if keep(name)]
        return Measures(
            tuple(self.pseudonyms[row] for row in rows),
            {name: value[rows] for name, value in self.means.items()},
            {name: value[rows] for name, value in self.figures.items()},
        )


@dataclass(frozen=True)
class Row:
    """One comparison. statistic: MMD, or difference of means (now less then). adjusted: p-value for
    all rows together; None: too few patients have it. then, now: means of a figure, or MMD from the
    simulated windows."""

    what: str
    patients_then: int
    patients_now: int
    statistic: float | None
    p_value: float | None
    adjusted: float | None
    then: float | None
    now: float | None

    @property
    def drifted(self) -> bool:
        return self.adjusted is not None and self.adjusted < LEVEL


def measure(
    store: WindowStore,
    model: MaskedAutoencoder,
    *,
    on_patient: Callable[[int, int], None] = lambda done, of: None,
) -> Measures:
    """Of every patient of `names_of`; deterministic (patch masks from a fixed seed)."""
    made = _empty(names_of(store))
    catalogue = {row.pseudonym: row for row in store.catalogue()}
    place = {name: row for row, name in enumerate(store.pseudonyms)}
    for row, name in enumerate(made.pseudonyms):
        if name in place:
            windows = store.windows_of(place[name])
            _fill(made, row, model, windows.signal, windows.valid)
        known = catalogue[name]
        made.figures["refused_share"][row] = 1.0 - known.usable / known.windows
        for channel, figure in zip(CHANNELS, USABLE, strict=True):
            lost = sum(known.refusals.get(channel, {}).values())
            made.figures[figure][row] = 1.0 - lost / known.windows
        on_patient(row + 1, len(made.pseudonyms))
    return made


def names_of(store: WindowStore) -> tuple[str, ...]:
    """Pseudonyms of patients with a window, be all of them refused: a broken sensor is a drift."""
    return tuple(row.pseudonym for row in store.catalogue() if row.windows)


def measure_simulated(windows: SimulatedWindows, model: MaskedAutoencoder) -> Measures:
    """Of the simulated patients; nothing is refused of them."""
    made = _empty(tuple(f"simulated-{row}" for row in range(len(windows.signal))))
    for row, (signal, valid) in enumerate(zip(windows.signal, windows.valid, strict=True)):
        _fill(made, row, model, signal, valid)
    return made


def compare(then: Measures, now: Measures, simulated: Measures) -> list[Row]:
    """Later patients against earlier ones, no patient in both.

    Raises:
        CannotTell: fewer than `FEWEST_PATIENTS` in a group, or none of the rows has as many of both
            (reason "few-patients").
        Refused: a patient is in both groups.
    """
    if set(then.pseudonyms) & set(now.pseudonyms):
        raise Refused("A patient is in both groups.", reason="few-patients")
    refuse_few(len(then.pseudonyms), len(now.pseudonyms))
    rows = [_of_means(name, then, now, simulated) for name in SENSORS]
    rows += [_of_figure(name, then, now) for name in FIGURES]
    tested = [row for row in rows if row.p_value is not None]
    if not tested:
        raise CannotTell(
            f"No figure has {FEWEST_PATIENTS} patients of both groups.",
            reason="few-patients",
            do="Add recordings of later patients, or wait for more.",
            counts=_counts(len(then.pseudonyms), len(now.pseudonyms)),
        )
    adjusted = iter(two_samples.holm([row.p_value for row in tested if row.p_value is not None]))
    return [
        row if row.p_value is None else Row(**{**row.__dict__, "adjusted": next(adjusted)})
        for row in rows
    ]


def refuse_few(then: int, now: int) -> None:
    """Raises CannotTell (reason "few-patients") where a group is too small to compare."""
    if min(then, now) < FEWEST_PATIENTS:
        raise CannotTell(
            f"The reference has {then} patients, and {now} are new since; each needs "
            f"{FEWEST_PATIENTS}.",
            reason="few-patients",
            do="Add recordings of later patients, or wait for more.",
            counts=_counts(then, now),
        )


def refuse_shares_alone(rows: Sequence[Row]) -> None:
    """Shares of windows that are alike say nothing of what is in them.

    Raises:
        CannotTell: nothing drifted, and no fingerprint was compared (reason "few-patients").
    """
    seen = [row for row in rows if row.what.startswith("fingerprint")]
    if any(row.drifted for row in rows) or any(row.adjusted is not None for row in seen):
        return
    then, now = max(row.patients_then for row in seen), max(row.patients_now for row in seen)
    raise CannotTell(
        f"A usable window is there of {then} patients of the reference and of {now} new ones; "
        f"fingerprints are compared of {FEWEST_PATIENTS} each. The shares of refused windows alone "
        "have not drifted.",
        reason="few-patients",
        do="See why windows are refused: fedprint-node data show.",
        counts=_counts(then, now),
    )


def _counts(then: int, now: int) -> dict[str, int]:
    return {"patients_then": then, "patients_now": now, "patients_needed": FEWEST_PATIENTS}


def over_simulated(site: Measures, simulated: Measures) -> dict[str, float]:
    """Mean reconstruction error of the site over that of simulated windows; 1: as well."""
    return {
        name: float(np.nanmean(site.figures[name]) / np.nanmean(simulated.figures[name]))
        for name in ERRORS
        if np.isfinite(site.figures[name]).any()
    }


def _empty(names: Sequence[str]) -> Measures:
    return Measures(
        tuple(names),
        {sensors: np.full((len(names), FINGERPRINT_SIZE), np.nan) for sensors in SENSORS},
        {name: np.full(len(names), np.nan) for name in FIGURES},
    )


def _fill(
    made: Measures,
    row: int,
    model: MaskedAutoencoder,
    signal: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_],
) -> None:
    from shared_model.fingerprint import fingerprints
    from shared_model.reconstruction import reconstruction_scores

    for sensors in SENSORS:
        seen = some_seen_with(signal, valid, sensors)
        if len(seen[0]):
            mean = fingerprints(model, *seen).astype(np.float64).mean(axis=0)
            made.means[sensors][row] = mean
    count = min(len(signal), RECONSTRUCTED_WINDOWS)
    some = np.linspace(0, len(signal) - 1, count).round().astype(np.int64)
    scores = reconstruction_scores(model, signal[some], valid[some], np.random.default_rng(0))
    for name in ERRORS:
        made.figures[name][row] = scores[name]


def _of_means(name: str, then: Measures, now: Measures, simulated: Measures) -> Row:
    before, after = _known(then.means[name]), _known(now.means[name])
    what = f"fingerprint, {name}"
    if min(len(before), len(after)) < FEWEST_PATIENTS:
        return Row(what, len(before), len(after), None, None, None, None, None)
    found, public = two_samples.mmd_test(before, after), _known(simulated.means[name])
    away = two_samples.mmd(before, public), two_samples.mmd(after, public)
    return Row(what, len(before), len(after), found.statistic, found.p_value, None, *away)


def _of_figure(name: str, then: Measures, now: Measures) -> Row:
    before, after = (one.figures[name][np.isfinite(one.figures[name])] for one in (then, now))
    what = name.replace("_", " ").replace("masked", "masked error,").replace("share ", "share, ")
    if min(len(before), len(after)) < FEWEST_PATIENTS:
        return Row(what, len(before), len(after), None, None, None, None, None)
    found, means = two_samples.mean_test(before, after), (float(before.mean()), float(after.mean()))
    return Row(what, len(before), len(after), found.statistic, found.p_value, None, *means)


def _known(means: Array) -> Array:
    return means[np.isfinite(means).all(axis=1)]
