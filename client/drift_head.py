"""Are this site's patients like those that a head was trained on? By how many lie beyond its limit.

    trained = of_head(head)                        # a released or local head; or of_personal(...)
    found = compare(trained, patients)             # one item a patient
    found.drifted, found.words(trained)

A head holds where its patients' fingerprints lay, and a distance that nearly all of them kept to;
beyond it the head abstains. Of further patients of the same kind as many lie beyond as chance says
(`shared_model.heads.exceedances`); more of them, and these are other patients or devices. One item
of each patient counts: his windows are not independent. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from client.drift import FEWEST_PATIENTS
from client.personal import PersonalHead
from client.personal_limits import expected_beyond
from client.site_fingerprints import Patients
from shared_model.errors import CannotTell
from shared_model.heads.arrays import Head
from shared_model.heads.distance import Numbers, away
from shared_model.heads.exceedances import ERROR, Expected
from shared_model.heads.manifest import HeadManifest, Item, Sensors

WIDEST_NOISY_LIMIT = 8.0
"""Last edge of the histogram of a head that hospitals trained together: a limit there means that
the noise left none (`simulations.heads.private_calibration.DISTANCES`)."""
CALIBRATED_SHARE = 1.0 / 3.0
"""Of such a head: patients of that histogram, over those declared, whose steps trained it."""
LEAST_LEVEL = 0.5
NOISY = (
    "Its limit came out of a noisy histogram, on the careful side, and distances are from "
    "simulated windows; how many patients stand behind it the file does not say, a third of those "
    "declared is supposed. "
)
NO_WORD = "This head does not say what it was trained on"


@dataclass(frozen=True)
class TrainedOn:
    """What a head says of those that it was trained on. item: one answer is of. noisy: the limit
    came out of a noisy histogram, and the centre is of simulated windows."""

    name: str
    sensors: Sensors
    item: Item
    limit: float
    expected: Expected
    noisy: bool
    mean: Numbers = field(repr=False)
    scale: Numbers = field(repr=False)
    far_mean: Numbers = field(repr=False)
    far_factor: Numbers = field(repr=False)


@dataclass(frozen=True)
class Found:
    """patients: of the store with a usable item of the head's sensors; without: the others.
    expected_share: at most; the distances that the limit was chosen among are a little larger.
    beyond: of `patients`, farther than the limit. alarm_from: as many would be drift."""

    patients: int
    without: int
    beyond: int
    expected_share: float
    p_value: float
    alarm_from: int

    @property
    def drifted(self) -> bool:
        return self.p_value < ERROR

    def words(self, trained: TrainedOn) -> str:
        """The answer in a sentence or two."""
        share, likely = self.expected_share, self.expected_share * self.patients
        told = (
            f"{self.beyond} of {self.patients} patients lie farther out than nearly all of those "
            f"that {trained.name} was trained on; of patients like those up to {likely:.2g} are "
            f"expected ({share:.1%}). "
        )
        if trained.noisy:
            told += NOISY
        if self.drifted:
            return told + (
                f"Of alike sites one in {round(1.0 / ERROR)} at most has so many by chance: most "
                "likely patients or devices here are other ones than the head was trained on. It "
                "abstains from those, and what was measured of it need not hold for the others."
            )
        return told + (
            f"Chance alone can give as many; drift is said from {self.alarm_from} on. That they "
            "are alike is not shown: a shift that leaves most within the limit, were it of all "
            "patients, is not seen."
        )


def of_head(head: Head) -> TrainedOn:
    """Of a head of the lab.

    Raises:
        CannotTell: it looks at windows that the store does not hold (reason "windows"), or holds
            no limit that says anything ("no-reference").
    """
    about, arrays = head.manifest, {k: v.astype(np.float64) for k, v in head.arrays.items()}
    if not about.gated:
        raise CannotTell(
            "This head looks at windows that the quality gate refuses; the store has none of them.",
            reason="windows",
            do="Compare with a head of another task.",
        )
    expected, noisy = _expected(about)
    return TrainedOn(
        f"the head of {about.task}",
        about.sensors,
        about.item,
        about.distance.limit,
        expected,
        noisy,
        arrays["mean"],
        arrays["scale"],
        arrays["far_mean"],
        arrays["far_factor"],
    )


def of_personal(head: PersonalHead) -> TrainedOn:
    """Of a personal head.

    Raises:
        CannotTell: it is of before heads held this (reason "no-reference").
    """
    far = head.far
    if far is None or head.distance is None:
        raise CannotTell(
            f"{NO_WORD}: an earlier version made it.",
            reason="no-reference",
            do="Make it again on the same labels: fedprint-node personalise",
        )
    return TrainedOn(
        f"the head {head.name}",
        head.sensors,
        "patient",
        head.distance.limit,
        expected_beyond(head.patients, head.distance),
        False,
        head.head.mean,
        head.head.scale,
        *far,
    )


def compare(trained: TrainedOn, patients: Patients) -> Found:
    """Count and test; the units are patients.

    Raises:
        CannotTell: too few patients, of the site or of the head (reason "few-patients"), or the
            head's numbers give no distance ("no-reference").
    """
    known = patients.known
    beyond = int((_distances(trained, patients.mean[known]) > trained.limit).sum())
    among, without = int(known.sum()), int((~known).sum())
    alarm = trained.expected.alarm_from(among)
    counts = {
        "patients": among,
        "without": without,
        "beyond": beyond,
        "patients_needed": FEWEST_PATIENTS,
    }
    if among < FEWEST_PATIENTS:
        seen = "both sensors" if trained.sensors == "both" else trained.sensors
        raise CannotTell(
            f"{among} of the patients have a usable window of {seen}, and {without} have "
            f"none; the check needs {FEWEST_PATIENTS}.",
            reason="few-patients",
            do="Add recordings: fedprint-node data add PATH",
            counts=counts,
        )
    if alarm is None:
        raise CannotTell(
            f"The head was trained on so few patients that all {among} here could lie beyond its "
            "limit by chance.",
            reason="few-patients",
            do="Add recordings, or compare with a head of more patients.",
            counts=counts,
        )
    p_value = trained.expected.p_value(beyond, among)
    return Found(among, without, beyond, trained.expected.share, p_value, alarm)


def _distances(trained: TrainedOn, mean: Numbers) -> Numbers:
    with np.errstate(all="ignore"):  # refused below
        x = (mean - trained.mean) / trained.scale
        found = away(x, trained.far_mean, trained.far_factor)
    if not np.isfinite(found).all():
        raise CannotTell(
            f"{NO_WORD}: its numbers give no distance.",
            reason="no-reference",
            do="Ask whoever gave you the head for another.",
        )
    return found


def _expected(about: HeadManifest) -> tuple[Expected, bool]:
    """Share expected beyond the limit, and whether the limit is of a histogram."""
    # Figures of held-out patients may stand in a private head; its limit is of the histogram still.
    noisy = about.privacy.mode != "without" or about.distance.beyond is None
    patients = int(about.patients * CALIBRATED_SHARE) if noisy else about.patients
    if noisy and about.distance.limit >= WIDEST_NOISY_LIMIT:
        raise CannotTell(
            f"{NO_WORD}: noise that protects their patients left no limit of distance.",
            reason="no-reference",
            do="Ask for a head of more patients.",
        )
    if patients < 1 or about.distance.level < LEAST_LEVEL:
        raise CannotTell(
            f"{NO_WORD}: it names no patients, or no share of them that its limit holds.",
            reason="no-reference",
            do="Ask whoever gave you the head for another.",
        )
    one_item = about.item == "patient" and not noisy
    return Expected.of(patients, about.distance.level, one_item=one_item), noisy
