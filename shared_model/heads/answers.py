"""What a head answers, and when it abstains. Pure.

    for one in answer(head, fingerprints, usable): one.text, one.why_abstained

A head abstains, in this order, where
- there is no fingerprint of its sensors (the quality gate refused the window, or one is missing),
- the fingerprint lies farther from those it was trained on than nearly all of them (Mahalanobis),
- more or less than one class is in its conformal set, or another class is more probable than the
  one that is: it does not know; of a number, where the noise of a private training left it no
  interval. (Of a rare class the set may hold what is not probable: its few
  patients promise nothing else. The set may say so; an answer may not.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared_model.config import FINGERPRINT_SIZE
from shared_model.errors import OurMistake, Refused
from shared_model.heads.arrays import Head
from shared_model.heads.distance import away
from shared_model.warm_start import if_packaged

Numbers = npt.NDArray[np.float64]
NO_FINGERPRINT = "no usable window of its sensors"
FAR = "far from what it was trained on"
UNSURE = "not sure enough"
NO_INTERVAL = "no interval is known"
SAME, NOT_SHOWN = "same", "not shown to be the same"
"""Of two recordings: a threshold set against false accepts shows nothing below it."""


@dataclass(frozen=True)
class Answer:
    """One answer. value: class or number, None where it abstains. probabilities: calibrated, by
    class. possible: the conformal set. low, high: of a number. distance: Mahalanobis, per feature.
    """

    value: str | float | None
    why_abstained: str
    probabilities: tuple[float, ...] = ()
    possible: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    distance: float | None = None


def refuse_other_model(head: Head, digest: str, command: str) -> None:
    """Raises Refused (reason "model") unless fingerprints of the model `digest` are the head's.

    Args:
        command: as `warm_start.if_packaged` has it.
    """
    if digest != head.manifest.model.digest:
        raise Refused(
            f"These fingerprints are of model {digest[:12]}; the head stands on "
            f"{head.manifest.model.digest[:12]}.",
            reason="model",
            do="Make fingerprints with the head's model, or train a head on this one."
            + if_packaged(head.manifest.model.digest, command),
        )


def standardised(head: Head, fingerprints: npt.NDArray[np.float32]) -> Numbers:
    """(item, 128) as the head sees them."""
    if fingerprints.ndim != 2 or fingerprints.shape[1] != FINGERPRINT_SIZE:
        raise OurMistake("Fingerprints are (item, 128).")
    arrays = head.arrays
    return (fingerprints.astype(np.float64) - arrays["mean"]) / arrays["scale"].astype(np.float64)


def distances(head: Head, x: Numbers) -> Numbers:
    """Root of the squared Mahalanobis distance per feature: about 1 where x is as in training."""
    return away(x, head.arrays["far_mean"], head.arrays["far_factor"])


def logits(head: Head, x: Numbers) -> Numbers:
    """(item, output)."""
    return np.asarray(x @ head.arrays["weight"].T.astype(np.float64) + head.arrays["bias"])


def softmax(scores: Numbers, temperature: float = 1.0) -> Numbers:
    """Probabilities by row (Guo et al. 2017, equation 9)."""
    turned = scores / temperature
    turned = turned - turned.max(axis=1, keepdims=True)
    raised = np.exp(turned)
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def answer(head: Head, fingerprints: npt.NDArray[np.float32]) -> list[Answer]:
    """An answer for each item.

    Args:
        fingerprints: float32 (item, 128); a row that is not finite has no fingerprint.

    Raises:
        OurMistake: the head is of identity, which compares two (`same_person`).
    """
    known = np.asarray(np.isfinite(fingerprints).all(axis=1))
    x = standardised(head, np.where(known[:, None], fingerprints, 0.0).astype(np.float32))
    far = distances(head, x)
    manifest = head.manifest
    if manifest.kind == "identity":
        raise OurMistake("A head of identity answers for two recordings at once.")
    scores = logits(head, x)
    made: list[Answer] = []
    for row, (is_known, distance) in enumerate(zip(known, far, strict=True)):
        if not is_known:
            made.append(Answer(None, NO_FINGERPRINT))
        elif manifest.kind == "number":
            made.append(_number(head, float(scores[row, 0]), float(distance)))
        else:
            made.append(_class(head, scores[row], float(distance)))
    return made


def _number(head: Head, value: float, distance: float) -> Answer:
    band = head.manifest.band
    if band is None:
        raise OurMistake("A head of a number has a band.")
    if distance > head.manifest.distance.limit:
        return Answer(None, FAR, distance=distance)
    if "interval" in head.manifest.unknown:
        return Answer(None, NO_INTERVAL, distance=distance)
    low, high = value - band.half_width, value + band.half_width
    return Answer(value, "", low=low, high=high, distance=distance)


def _class(head: Head, scores: Numbers, distance: float) -> Answer:
    manifest = head.manifest
    if manifest.temperature is None or manifest.sets is None:
        raise OurMistake("A head of classes has a temperature and sets.")
    probabilities = softmax(scores[None], manifest.temperature.temperature)[0]
    pairs = zip(manifest.classes, probabilities, manifest.sets.least, strict=True)
    possible = tuple(name for name, share, least in pairs if share >= least)
    told = tuple(float(share) for share in probabilities)
    far = distance > manifest.distance.limit
    most = manifest.classes[int(probabilities.argmax())]
    sure = possible == (most,) and not far
    why = "" if sure else FAR if far else UNSURE
    return Answer(most if sure else None, why, told, possible, distance=distance)


def same_person(
    head: Head, fingerprints: npt.NDArray[np.float32]
) -> tuple[Numbers, npt.NDArray[np.bool_]]:
    """Cosines of all pairs (item, item), and which items can be compared (item,).

    Raises:
        OurMistake: the head is of another kind.
    """
    if head.manifest.kind != "identity":
        raise OurMistake("Only a head of identity compares recordings.")
    known = np.asarray(np.isfinite(fingerprints).all(axis=1))
    x = standardised(head, np.where(known[:, None], fingerprints, 0.0).astype(np.float32))
    good = known & (distances(head, x) <= head.manifest.distance.limit)
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return unit @ unit.T, good
