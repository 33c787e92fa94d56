"""What a federated head is worth, on patients who had no part in it, beside what it lost to noise.

result = compare(hospitals, model, space, ask, asked, borders=...)
result.head, result.report["rows"]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from shared_model.errors import DataFault, OurMistake
from shared_model.heads.answers import distances, logits, softmax, standardised
from shared_model.heads.arrays import Head
from shared_model.heads.card import promises
from shared_model.heads.manifest import Figure, HeadManifest
from simulations.heads import calibrate, figures, fit
from simulations.heads.federate import Ask, PrivateHead, private_head
from simulations.heads.hospitals import Hospital, together, without_trained
from simulations.heads.missing import sentence
from simulations.lab.plots_style import counted

if TYPE_CHECKING:
    from simulations.heads.data import Floats, HeadData
    from simulations.heads.public import PublicSpace
    from simulations.heads.train import Asked, Say
    from simulations.models import NamedModel

OF_HELD_OUT = (
    "who took part in neither steps nor histogram, of all hospitals; measured without "
    "noise: their figures are not protected"
)
OF_NOISY = ", as the noisy histogram tells of those who calibrate"


@dataclass(frozen=True)
class Compared:
    """The asked head; rows of it and of others, measured on the same patients."""

    head: Head
    report: dict[str, Any] = field(repr=False)


def compare(
    hospitals: Sequence[Hospital],
    model: NamedModel,
    space: PublicSpace,
    ask: Ask,
    asked: Asked,
    *,
    borders: str,
    figures_public: str = "",
    say: Say = lambda _: None,
) -> Compared:
    """Train the asked head, the same without noise, and one of all patients at one place.

    The figures go into the head's manifest where its data are open or simulated, or where somebody
    has decided that they may (`figures_public`); else they are in the report alone, and the
    manifest has those of the noisy histogram.

    Raises:
        OurMistake: identity, of which nothing is trained; or see `settle`.
        DataFault: figures of held-out patients would tell of training ones; see `refuse_again`.
    """
    refuse_identity(hospitals[0].fit.kind)
    hospitals, again = without_trained(hospitals)
    if again and figures_public and not asked.open_data and ask.mode != "none":
        refuse_again(again)
    measured_on = together([one.measure for one in hospitals])
    pooled = together([one.fit for one in hospitals])
    always = fit.always(pooled, np.arange(len(pooled.truth)))
    name = words_of(ask)
    made = private_head(
        hospitals, model, space, ask, asked, borders=borders, on_round=_told(say, name, ask)
    )
    rows = [{"row": name, **_row(made.head, measured_on, asked, always)}]
    own = made.head.manifest
    noisy = []
    if own.figures and own.figures_from != "patients":
        told = {one.name: one.model_dump() for one in own.figures}
        noisy.append({"row": f"{name}: from the noisy histogram, {own.figures_of}", **told})
    plain = made
    if ask.mode != "none":
        free = replace(ask, mode="none")
        say(words_of(free))
        plain = private_head(hospitals, model, space, free, asked, borders=borders)
        rows.append({"row": words_of(free), **_row(plain.head, measured_on, asked, always)})
    say("pooled at one place")
    rows.append(_pooled(pooled, measured_on, asked))
    rows.append(_constant(always, measured_on, asked))
    head = made.head
    if figures_public or asked.open_data:
        # of closed data the same answer is the training patients', and has no noise
        told_all = asked.open_data or ask.mode == "none"
        head = with_figures(head, measured_on, asked, figures_public, always if told_all else None)
    privacy = head.manifest.privacy
    absent, rates = _absent(measured_on), [*_quieter(made, ask), *_slower(plain, ask)]
    report = {
        "task": head.manifest.task,
        "rows": [*rows[:1], *noisy, *rows[1:]],
        "measured_on": f"{counted(measured_on.patients, 'patient')} {OF_HELD_OUT}",
        "rates": rates,
        "histogram": {"patients_noisy": made.patients, "noise_std_of_a_bin": made.spread},
        "hospitals": [one.model_dump() for one in privacy.spent],
        "words": [
            *_worse(rows, absent), *_worse_of_card(noisy, own.notes), *absent, *rates,
            *privacy.words, borders, *_promises(head), *_read(hospitals), *_again(again),
        ],
        "figures_in_manifest": bool(head.manifest.figures),
        "figures_from": head.manifest.figures_from,
    }  # fmt: skip
    return Compared(head, report)


def _worse(rows: Sequence[dict[str, Any]], absent: Sequence[str]) -> list[str]:
    """Rows that are worse than always the same answer, in words; not where a class is absent, of
    which that answer is always right."""
    made = []
    for row in [] if absent else rows:
        found = {name: one for name, one in row.items() if name != "row"}
        ends = {name: (one.get("low"), one.get("high")) for name, one in found.items()}
        words = figures.worse_words(
            {name: one["value"] for name, one in found.items()}, figures.kindest(ends)
        )
        made += [f"{row['row']}: {words}."] if words else []
    return made


def _worse_of_card(noisy: Sequence[dict[str, Any]], notes: Sequence[str]) -> list[str]:
    """What the card says of its noisy row, whoever is among those held out."""
    said = [note for note in notes if note.startswith(figures.WORSE)]
    return [f"{row['row']}: {note}." for row in noisy for note in said]


def _absent(data: HeadData) -> list[str]:
    """Of whom the figures say nothing."""
    absent = figures.absent_words(data)
    return [f"AUROC {absent}; the other figures say nothing of it"] if absent else []


def _slower(plain: PrivateHead, ask: Ask) -> list[str]:
    """Without privacy the data themselves bound the step; it stands in the report alone."""
    used = _rate(plain)
    if used == ask.rate:
        return []
    return [
        f"Without privacy the learning rate is {used:.3g}: steps of {ask.rate:g} that nothing "
        "clips might diverge on these data."
    ]


def _quieter(made: PrivateHead, ask: Ask) -> list[str]:
    """With privacy the noise bounds it, where nobody has named one."""
    if ask.mode == "none" or _rate(made) == ask.rate:
        return []
    return [
        f"With privacy the learning rate is {_rate(made):.3g}: at {ask.rate:g} the noise of so few "
        "patients would move answers by more than half of their unit."
    ]


def _rate(made: PrivateHead) -> float:
    return made.settled.setup.experiment.algorithm.learning_rate


def _promises(head: Head) -> list[str]:
    """What the histogram left nothing of."""
    told = promises(head.manifest)
    hidden = {"temperature": "probabilities", "interval": "interval", "distance": "distance"}
    return [f"The head: {told[hidden[one]]}." for one in head.manifest.hidden]


def _read(hospitals: Sequence[Hospital]) -> list[str]:
    """Folders that were read by mappings of their own, which say who is a patient; and patients
    whose labels are not understood: the report alone counts them, for no noise hides how many they
    are. Both are of all folders together."""
    data = hospitals[0].fit
    left_out = sentence(data.unknown).strip()
    return [*data.mappings, *([left_out] if left_out else [])]


def _again(left_out: int) -> list[str]:
    """In the report alone: how many there are follows from patients, and no noise hides it."""
    if not left_out:
        return []
    who = "1 patient was" if left_out == 1 else f"{left_out} patients were"
    return [
        f"{who} left out of those measured: a recording is also another name's, who took part in "
        "steps or histogram."
    ]


def refuse_identity(kind: str) -> None:
    """Raises OurMistake for a head of identity, with why it is none that hospitals train."""
    if kind == "identity":
        raise OurMistake(
            "For identity there is nothing to federate: no step with differential privacy trains "
            "any of it. Its scale and its threshold are fitted from labelled pairs of recordings "
            "of one site.",
            do="Fit it at one site: fedprint-lab head train identity.",
        )


def words_of(ask: Ask) -> str:
    """A row's name."""
    if ask.mode == "none":
        return "federated, NO PRIVACY: no clipping, no noise"
    shown = f"federated, {ask.mode}, epsilon {ask.epsilon:g}"
    return shown if ask.noise == "system" else f"{shown}, SEEDED NOISE: NO PRIVACY"


def _told(say: Say, name: str, ask: Ask) -> Callable[[int], None]:
    return lambda number: say(f"{name}: round {number} of {ask.rounds}")


def _measured(
    head: Head, data: HeadData, asked: Asked, always: float | None = None
) -> figures.Measured:
    """The head's answers on these patients; nothing is fitted."""
    manifest = head.manifest
    outputs = logits(head, standardised(head, data.fingerprints))
    if manifest.band is not None:
        least = np.full((len(outputs), 1), manifest.band.half_width)
    else:
        heat, sets = manifest.temperature, manifest.sets
        if heat is None or sets is None:
            raise OurMistake("A head of classes has a temperature and sets.")
        outputs = softmax(outputs, heat.temperature)
        least = np.tile(np.array(sets.least), (len(outputs), 1))
    same = None if always is None else np.full(len(data.truth), always)
    return figures.Measured.of(
        data, outputs, least, draws=asked.draws, seed=asked.seed, always=same
    )


def _row(head: Head, data: HeadData, asked: Asked, always: float) -> dict[str, Any]:
    found = _known(head, figures.figures(_measured(head, data, asked, always)))
    return _not_measured(data) | {one.name: one.model_dump() for one in found}


def _not_measured(data: HeadData) -> dict[str, Any]:
    """The main figure where nobody of a class was measured: the words why there is none."""
    why = figures.absent_words(data)
    none = {"value": None, "low": None, "high": None, "why": why}
    return {"AUROC": {"name": "AUROC", **none}} if why else {}


def _known(head: Head, found: tuple[Figure, ...]) -> tuple[Figure, ...]:
    """Figures without that of an interval which the head does not have."""
    lost = "interval" in head.manifest.unknown
    return tuple(one for one in found if not (lost and one.name == "within the band"))


def _main(
    outputs: Floats, data: HeadData, asked: Asked, more: Sequence[str] = ()
) -> dict[str, Any]:
    """The main figure, and `more`, of outputs that have no sets or band."""
    shares = outputs if data.kind == "number" else softmax(outputs)
    least = np.zeros_like(shares)
    measured = figures.Measured.of(data, shares, least, draws=asked.draws, seed=asked.seed)
    main, *others = figures.measures(measured).items()
    wanted = [main, *(one for one in others if one[0] in more)]
    found = [measured.figure(name, measure) for name, measure in wanted]
    return _not_measured(data) | {one.name: one.model_dump() for one in found if one is not None}


def _pooled(pooled: HeadData, data: HeadData, asked: Asked) -> dict[str, Any]:
    central = fit.chosen(pooled, np.arange(len(pooled.truth)), asked.seed)
    name = "pooled at one place, NO PRIVACY: all 128 features, scikit-learn"
    return {"row": name, **_main(central.outputs(data.fingerprints), data, asked)}


def _constant(always: float, data: HeadData, asked: Asked) -> dict[str, Any]:
    """Always the training median; of classes always the largest there, so the same shares for
    everybody (AUROC 0.5)."""
    outputs = np.zeros((len(data.truth), max(1, len(data.classes))))
    if data.kind == "number":
        outputs += always
    else:
        outputs[:, int(always)] = 1.0
    return {"row": "always the same answer", **_main(outputs, data, asked, ("accuracy",))}


def refuse_again(count: int) -> None:
    """Raises DataFault for held-out patients who trained under another name, where figures leave:
    of whom they are tells who was among those trained, and no noise hides it."""
    raise DataFault(
        f"{counted(count, 'held-out patient')} took part in the training under another name: "
        "figures without noise of all others would tell that.",
        cause="few",
        do="Leave out --figures-public, or the recordings that are there twice.",
    )


def with_figures(
    head: Head, data: HeadData, asked: Asked, public: str, always: float | None = None
) -> Head:
    """The head with its figures on these patients in the manifest, and in words whether they are
    worse than those of always the same answer; None: which is not told."""
    from shared_model.heads import arrays as arrays_io
    from shared_model.heads.card import with_card
    from simulations.heads.train import plain_words

    manifest = head.manifest
    measured = _measured(head, data, asked, always)
    found = _known(head, figures.figures(measured))
    value = {one.name: one.value for one in found}
    absent = _absent(data)
    hindsight = () if always is not None else ("share of the largest class",)  # decides nothing
    judged = [one for one in found if one.name not in hindsight]
    worse = "" if absent else figures.worse_of(judged)
    whose = [f"{counted(data.patients, 'patient')} {OF_HELD_OUT}", *absent]
    notes = _notes(manifest, worse, decided=always is not None and not absent)
    far = distances(head, standardised(head, data.fingerprints)) > manifest.distance.limit
    beyond = float(np.average(far, weights=data.weight))
    update: dict[str, Any] = {
        "figures": found,
        "groups": tuple(
            one.model_copy(update={"figures": _known(head, one.figures)})
            for one in figures.groups(measured)
        ),
        "figures_of": plain_words("; ".join(whose)),
        "figures_from": "patients",
        "figures_public": plain_words(public),
        "distance": manifest.distance.model_copy(update={"beyond": beyond}),
        "notes": tuple(plain_words(note) for note in notes),
    }
    if manifest.band is not None:
        band = {"coverage": value.get("within the band")}
        update["band"] = manifest.band.model_copy(update=band)
    if manifest.sets is not None and manifest.temperature is not None:
        update["sets"] = manifest.sets.model_copy(
            update={
                "coverage": value.get("truth in the set"),
                "answered": value.get("answered"),
                "accuracy": value.get("accuracy where answered"),
                "curve": figures.answered_curve(measured),
            }
        )
        update["temperature"] = manifest.temperature.model_copy(
            update=_reliability(head, data, measured)
        )
    fields = {name: getattr(manifest, name) for name in type(manifest).model_fields}
    made = type(manifest)(**(fields | update))
    return arrays_io.opened(with_card(made), arrays_io.to_bytes(head.arrays))


def _notes(manifest: HeadManifest, worse: str, *, decided: bool) -> list[str]:
    """The manifest's, with what held-out patients say first. What the noisy histogram says, which
    is paid for, stays unless they have decided it: by the training patients' own answer."""
    kept = [worse] if worse else []
    for note in manifest.notes:
        noisy = note.startswith((figures.WORSE, figures.NOT_HELD))
        if noisy and decided:
            continue
        kept.append(f"{note}{OF_NOISY}" if note.startswith(figures.WORSE) else note)
    return kept


def _reliability(head: Head, data: HeadData, measured: figures.Measured) -> dict[str, Any]:
    plain = softmax(logits(head, standardised(head, data.fingerprints)))
    before = calibrate.reliability(plain, data.truth, data.weight)
    after = calibrate.reliability(measured.shares, data.truth, data.weight)
    return {
        "ece_before": calibrate.calibration_error(before),
        "ece_after": calibrate.calibration_error(after),
        "reliability_before": before,
        "reliability_after": after,
    }
