"""What the manifest of a private head says of its calibration, its privacy and its hospitals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shared_model.heads.manifest import (
    Band,
    Collection,
    Distance,
    Privacy,
    Sets,
    Spent,
    Temperature,
)
from shared_model.protocol import PRIVACY_UNIT
from simulations.heads import collections
from simulations.heads import private_calibration as histogram
from simulations.heads.train import FAR_LEVEL, NOT_PRIVATE, Asked, plain_name, plain_words

if TYPE_CHECKING:
    from simulations.heads.data import HeadData
    from simulations.heads.federate import Ask, Settled
    from simulations.heads.hospitals import Hospital
    from simulations.heads.public import PublicSpace

LAB_ONLY = (
    "LAB ONLY: no secure sum of a deployed run was in force, no ledger was kept and no policy of a "
    "hospital was asked. Clipping, noise and accounting are those of a deployed run."
)


def calibrated(
    data: HeadData,
    space: PublicSpace,
    seen: histogram.ReadOff | None,
    asked: Asked,
    *,
    noisy: bool = True,
) -> dict[str, Any]:
    """Calibration of the manifest; `seen` None: of a draft, before there is any."""
    hidden = () if seen is None else seen.hidden
    fields: dict[str, Any] = {
        "far": space.far,
        "hidden": hidden,
        "distance": Distance(
            limit=1e9 if seen is None else seen.far,
            level=FAR_LEVEL,
            beyond=None,
            from_what="simulated fingerprints",
        ),
    }
    if data.kind == "number":
        half = 1.0 if seen is None else seen.half_width
        return fields | {"band": Band(level=asked.level, half_width=half, coverage=None)}
    return fields | {
        "temperature": Temperature(
            temperature=1.0 if seen is None else seen.temperature,
            ece_before=None,
            ece_after=None,
            reliability_before=(),
            reliability_after=(),
            fitted_on=""
            if "temperature" in hidden
            else f"a histogram, "
            f"{'with' if noisy else 'WITHOUT'} noise, of patients who took no part in the steps",
        ),
        "sets": Sets(
            level=asked.level,
            promise=asked.promise,
            least=(0.0,) * len(data.classes) if seen is None else seen.least,
            coverage=None,
            answered=None,
            accuracy=None,
            curve=(),
        ),
    }


def privacy_of(
    hospitals: Sequence[Hospital], settled: Settled, ask: Ask, calibration: float
) -> Privacy:
    """As the manifest states it; the dearer of steps and histogram is what a patient pays."""
    run, experiment = settled.privacy, settled.setup.experiment
    if ask.mode == "none":
        return NOT_PRIVATE.model_copy(update={"words": (plain_words(LAB_ONLY),)})
    steps = run.plan.steps * experiment.rounds
    epsilon = max(run.epsilon(experiment.rounds) or math.inf, calibration)
    words = [LAB_ONLY, *run.words()]
    words.append(
        f"Temperature, sets, band and distance come from one noisy histogram (sample rate 1) of "
        f"other patients than those of the steps, at epsilon {calibration:.3g}: a patient pays for "
        f"one of the two."
    )
    return Privacy(
        mode=ask.mode,
        unit=PRIVACY_UNIT,
        noise="system" if settled.setup.noise == "system" else "seeded, NOT PRIVATE",
        sample_rate=run.plan.sample_rate,
        noise_multiplier=run.plan.noise_multiplier,
        clipping_norm=run.plan.clipping_norm,
        steps=steps,
        threshold=run.threshold,
        colluding=run.colluding,
        spent=tuple(
            Spent(
                hospital=plain_name(one.name),
                declared_patients=count,
                epsilon=epsilon,
                delta=run.delta,
            )
            for one, count in zip(hospitals, settled.declared, strict=True)
        ),
        words=tuple(plain_words(line) for line in words),
    )


def collections_of(hospitals: Sequence[Hospital], asked: Asked) -> tuple[Collection, ...]:
    """What the hospitals' patients are, as far as folders tell, and how many they declare."""
    made = []
    for one in hospitals:
        folders = one.fit.people.folders  # of all hospitals: who is from where is not looked at
        mine = (one.name,) if one.name in folders else folders
        what, known = collections.about(mine, one.fit.known)
        licence = plain_words(asked.licence) if asked.licence else known
        made.append(
            Collection(name=plain_name(one.name), what=what, licence=licence, patients=one.declared)
        )
    return tuple(made)
