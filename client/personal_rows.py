"""Labels beside fingerprints: which patients have both, and what to do where too few have.

features, values, counted = joined(labels, patients)
refuse_few(counted, "both", would)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from client.fingerprints import SENSORS
from client.personal_labels import Labels
from client.site_fingerprints import Patients
from shared_model.errors import Refused
from shared_model.linear_heads import Array

FEWEST_PATIENTS = 20
"""Of whom a personal head is made."""
NAMED_BEFORE = (
    "The store is of an earlier version, which spelled some identifiers otherwise: labels may miss "
    "patients who are in it."
)


@dataclass(frozen=True)
class Counted:
    """What became of the rows of the labels: counts, for this hospital's own screen.

    former: the store names some patients by the rule of an earlier version, so that some of
    `not_in_store` may be in it.
    """

    labelled: int
    used: int
    not_in_store: int
    without_windows: int
    unlabelled: int = 0
    order: tuple[str, ...] = field(default=(), repr=False)
    former: bool = False

    @property
    def named_before(self) -> str:
        """What to say of labels that may have missed their patients; empty if none has."""
        return NAMED_BEFORE if self.former and self.not_in_store else ""


def joined(labels: Labels, patients: Patients) -> tuple[Array, list[str | float], Counted]:
    """Mean fingerprints (item, 128) and labels of the patients that have both, by pseudonym."""
    place = {name: row for row, name in enumerate(patients.pseudonyms)}
    here = [name for name in sorted(labels.values) if name in place]
    used = [name for name in here if patients.known[place[name]]]
    counted = Counted(
        labelled=len(labels.values),
        used=len(used),
        not_in_store=len(labels.values) - len(here),
        without_windows=len(here) - len(used),
        unlabelled=labels.unlabelled,
        order=tuple(used),
        former=patients.former,
    )
    rows = [place[name] for name in used]
    return patients.mean[rows], [labels.values[name] for name in used], counted


def refuse_few(counted: Counted, sensors: str, would: Callable[[str], int]) -> None:
    """Say what became of the labels, and which sensors would do, where too few patients are left.

    Args:
        would: of other sensors, how many labelled patients have a fingerprint.

    Raises:
        Refused: fewer than `FEWEST_PATIENTS` (reason "few-patients").
    """
    if counted.used >= FEWEST_PATIENTS:
        return
    seen = _sensors(sensors)
    others = {one: would(one) for one in SENSORS if one != sensors}
    best = max(others, key=lambda one: others[one])
    if others[best] >= FEWEST_PATIENTS:
        do = (
            f"Say --sensors {best}: {others[best]} labelled patients have a usable window of "
            f"{_sensors(best)}."
        )
    elif counted.named_before:
        do = (
            f"{counted.named_before} Run: fedprint-node data remove --all. Then add each folder "
            "again."
        )
    elif counted.not_in_store > counted.without_windows:
        do = (
            "Check that the labels name patients as the recordings do (--patient-column), or add "
            "their recordings: fedprint-node data add PATH"
        )
    else:
        do = "Label more patients, or add their recordings: fedprint-node data add PATH"
    raise Refused(
        f"{counted.used} patients have a label and a usable window of {seen}; a head needs "
        f"{FEWEST_PATIENTS} at least. Of {counted.labelled} labelled patients "
        f"{counted.not_in_store} are not in the store and {counted.without_windows} have no usable "
        f"window of {seen}; {counted.unlabelled} rows have no label.",
        reason="few-patients",
        do=do,
    )


def _sensors(sensors: str) -> str:
    return "both sensors" if sensors == "both" else sensors
