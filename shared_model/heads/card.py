"""`MODEL_CARD.md`: what a head's manifest says, for people (Mitchell et al. 2019, 1810.03993).

Nothing is in the card that is not in the manifest; the manifest has the card's digest, which the
card does not show. What a head is not for stands in a paragraph of its own, before anything that
its maker chose but the task's name: no words can hide it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shared_model import canonical, intervals
from shared_model.heads.answers import NOT_SHOWN, SAME
from shared_model.heads.manifest import (
    FEWEST_IN_GROUP,
    Figure,
    HeadManifest,
)

SENSORS = {"both": "ECG and PPG", "ecg": "ECG only", "ppg": "PPG only"}
ITEMS = {
    "window": "a window of 10 s",
    "recording": "a recording (mean of its windows' fingerprints)",
    "patient": "a patient (mean of the fingerprints of all windows)",
}
REVEALS = (
    "The standardisation, the coefficients and the covariance in head.safetensors are aggregates "
    "of the patients trained on, without noise. Whoever has the file can test whether somebody "
    "whose fingerprint he knows was among them, and with few patients can compute more; figures "
    "of groups add to that. This head must not leave the site."
)
OPEN = (
    "Trained without noise, on data that are stated to be open to everybody: the file tells "
    "nothing that the data do not. With other patients it would have to stay at the site."
)
PERSONAL = (
    "Fingerprints are personal data: they carry identity, age and sex. So are a head's answers of "
    "a person."
)


ERROR_RATES = ("false-accept rate", "false-reject rate")
"""Figures of identity: how often each of its answers is wrong."""
SURE = {
    1: "; figures are of that rule, and programs of today abstain too where another is likelier",
    2: " and no other is more probable",
    3: " and no other is more probable",
    4: " and no other is more probable",
}
"""By the manifest's format."""


def card(manifest: HeadManifest) -> str:
    """The card as Markdown text."""
    return "\n".join([*_lines(manifest), ""])


def with_card(manifest: HeadManifest) -> HeadManifest:
    """The manifest with the digest of its own card."""
    found = canonical.digest(card(manifest).encode())
    return manifest.model_copy(update={"card_digest": found})


def _lines(manifest: HeadManifest) -> Iterator[str]:
    yield f"# Head: {manifest.task}"
    yield ""
    yield f"**{manifest.limits}**"
    yield ""
    yield _sentence(manifest.about)
    yield ""
    yield from _table(("what", ""), list(_facts(manifest)))
    yield "## Data"
    yield ""
    rows = [(one.name, one.what, str(one.patients), one.licence) for one in manifest.collections]
    yield from _table(("collection", "what", "patients", "licence (stated, or recognised)"), rows)
    if manifest.open_data:
        yield f"Open to everybody, as the training command says: {manifest.open_data}"
        yield ""
    if manifest.class_counts:
        counts = [(one.name, str(one.items), str(one.patients)) for one in manifest.class_counts]
        yield from _table(("class", "items", "patients"), counts)
    yield "## Figures"
    yield ""
    yield from _figures(manifest)
    yield "## Calibration and abstention"
    yield ""
    yield from (f"- {line}" for line in _calibration(manifest))
    yield ""
    yield "## Privacy"
    yield ""
    yield from (f"- {line}" for line in _privacy(manifest))
    yield ""
    if manifest.privacy.spent:
        spent = [
            (one.hospital, str(one.declared_patients), f"{one.epsilon:.4g}", f"{one.delta:.3g}")
            for one in manifest.privacy.spent
        ]
        yield from _table(("hospital", "declared patients", "epsilon", "delta"), spent)
    if manifest.notes:
        yield "## Limits of this head"
        yield ""
        yield from (f"- {note}" for note in manifest.notes)
        yield ""
    yield "## Made by"
    yield ""
    yield f"    {manifest.command}"
    yield ""
    versions = ", ".join(f"{name} {manifest.packages[name]}" for name in sorted(manifest.packages))
    yield f"Seed {manifest.seed}, {manifest.created}. {versions}."


def _facts(manifest: HeadManifest) -> Iterator[tuple[str, str]]:
    yield (
        "answers",
        ", ".join(manifest.classes) or (manifest.unit or f"{SAME} person, or {NOT_SHOWN}"),
    )
    yield "one answer is of", ITEMS[manifest.item]
    yield "sensors", SENSORS[manifest.sensors]
    yield "quality gate", "on" if manifest.gated else "off: quality is the question"
    yield (
        "stands on model",
        f"{manifest.model.digest} ({manifest.model.preset}; {manifest.model.source})",
    )
    yield (
        "trained on",
        (
            f"{manifest.patients} patients, {manifest.items} items, {manifest.windows} windows; "
            f"{manifest.left_out} items left out (no fingerprint)"
            if manifest.items
            else f"{manifest.patients} patients, as the hospitals declare them; how many items and "
            "windows they have is not stated"
        ),
    )


def _figures(manifest: HeadManifest) -> Iterator[str]:
    yield f"In the maker's words: {manifest.figures_of}."
    yield ""
    if manifest.figures_public:
        yield f"They have no noise; that they may be seen is decided: {manifest.figures_public}"
        yield ""
    if not manifest.figures:
        return
    if manifest.figures_from == "patients":
        yield "95 % intervals: bootstrap over patients."
    else:
        noise = manifest.privacy.noise
        of = "the noise of the privacy mechanism" if noise == "system" else f"noise ({noise})"
        yield (
            f"They come from a sum that has {of}. 95 % intervals: that noise, and the chance of "
            "who the patients are."
        )
    yield ""
    rows = [_row(one, manifest) for one in manifest.figures]
    yield from _table(("figure", "value", "95 % interval"), rows)
    yield "### By sex and by age"
    yield ""
    yield f"Groups of fewer than {FEWEST_IN_GROUP} patients are too few: no figure is given."
    yield ""
    yield from _table(("group", "figure", "value", "95 % interval"), list(_groups(manifest)))


def _row(figure: Figure, manifest: HeadManifest) -> tuple[str, str, str]:
    """Before format 4 all figures had three digits."""
    low, high = figure.low, figure.high
    form = ".3f" if manifest.format < 4 else intervals.form(low, high)
    known = low is not None and high is not None
    interval = f"{low:{form}} to {high:{form}}" if known else "not estimable"
    return figure.name, f"{figure.value:{form}}", interval


def _groups(manifest: HeadManifest) -> Iterator[tuple[str, ...]]:
    for group in manifest.groups:
        if not group.figures:
            yield group.name, group.why_none, "", ""
        for figure in group.figures:
            yield group.name, *_row(figure, manifest)


def _calibration(manifest: HeadManifest) -> Iterator[str]:
    heat, sets, band = manifest.temperature, manifest.sets, manifest.band
    told = promises(manifest)
    if heat is not None:
        yield told["probabilities"]
        if heat.ece_before is not None and heat.ece_after is not None:
            yield (
                "expected calibration error on patients it was not fitted on: "
                f"{heat.ece_before:.3f} before, {heat.ece_after:.3f} after"
            )
    if sets is not None:
        named = zip(manifest.classes, sets.least, strict=True)
        least = ", ".join(f"{name} {share:.3f}" for name, share in named)
        whom = "the patients of each class" if sets.promise == "each class" else "all patients"
        yield (
            f"prediction sets that hold the truth for {sets.level:.0%} of {whom}: every class "
            f"whose probability is at least: {least}; an answer is given where that is one class"
            f"{SURE[manifest.format]}"
        )
        if 0.0 in sets.least:
            yield (
                "a class with 0.000 has too few patients for that promise: it is in every set, and "
                "no other class is ever answered"
            )
        if sets.coverage is not None:
            yield f"measured on patients left out: the set holds the truth in {sets.coverage:.1%}"
        if sets.answered is not None:
            right = "" if sets.accuracy is None else f", of which {sets.accuracy:.1%} are right"
            yield (
                f"answered: {sets.answered:.1%} of the items{right}; from the others, and from "
                "those that are far, it abstains"
            )
    if band is not None:
        yield told["interval"]
        if band.coverage is not None:
            yield f"measured on patients left out: it holds the truth in {band.coverage:.1%}"
    if manifest.verification is not None:
        found = manifest.verification
        yield f"{SAME}: cosine of at least {found.threshold:.3f} ({found.aim}); {told[SAME]}"
        yield f"{NOT_SHOWN}: a lower cosine; {told[NOT_SHOWN]}"
    yield told["distance"]
    yield "abstains where the quality gate refused the window or its sensors are not there"


def promises(manifest: HeadManifest) -> dict[str, str]:
    """What probabilities, interval, answers and distance of this head are worth, in words: those
    that it has, for its card and beside its answers."""
    hides, unknown = _hides(manifest), manifest.unknown
    heat, band, far = manifest.temperature, manifest.band, manifest.distance
    made: dict[str, str] = {}
    if heat is not None:
        made["probabilities"] = f"temperature {heat.temperature:.3f}, fitted on {heat.fitted_on}"
        if "temperature" in unknown:
            made["probabilities"] = f"not calibrated: {hides}; temperature {heat.temperature:.3f}"
    if band is not None:
        made["interval"] = (
            f"interval for {band.level:.0%}: prediction +- {band.half_width:.3g} {manifest.unit}"
        )
        if "interval" in unknown:
            made["interval"] = f"no interval: {hides}; the head abstains from every item"
    if manifest.verification is not None:
        accepts, rejects = (_rate(manifest, name) for name in ERROR_RATES)
        made[SAME] = f"said of {accepts} of the pairs of two people (false-accept rate)"
        made[NOT_SHOWN] = (
            f"said of {rejects} of the pairs of one person (false-reject rate); it does not say "
            "that they are two people"
        )
    made["distance"] = (
        f"abstains where the Mahalanobis distance per feature from {far.from_what} is beyond "
        f"{far.limit:.3g}"
    )
    if "distance" in unknown:
        made["distance"] += (
            f", which is no limit of its patients ({hides}): patients unlike those of the training "
            "may be answered"
        )
    if far.beyond is not None:
        made["distance"] += f"; {far.beyond:.1%} of items of patients left out are"
    return made


def _rate(manifest: HeadManifest, name: str) -> str:
    """A rate with its interval, of patients left out."""
    found = next((one for one in manifest.figures if one.name == name), None)
    if found is None:
        return "a share that was not measured"
    _, value, interval = _row(found, manifest)
    return f"{value} ({interval})"


def _hides(manifest: HeadManifest) -> str:
    """Why something is not known."""
    if manifest.format < 3:
        return "the noise may hide the patients, and the version that made the head did not say"
    if manifest.privacy.mode == "without":
        return "there are too few patients"
    return "the noise hides the patients"


def _privacy(manifest: HeadManifest) -> Iterator[str]:
    privacy = manifest.privacy
    if privacy.mode == "without":
        yield "NOT PRIVATE: no noise was added; no epsilon belongs to this head"
        yield f"{OPEN} ({manifest.open_data})" if manifest.open_data else REVEALS
    else:
        yield (
            f"mode {privacy.mode}; unit: {privacy.unit}; noise multiplier "
            f"{privacy.noise_multiplier:.4g}, sample rate {privacy.sample_rate:.4g}, clipping norm "
            f"{privacy.clipping_norm:.4g}, {privacy.steps} steps; noise: {privacy.noise}"
        )
    yield from privacy.words
    yield PERSONAL


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join('---' for _ in head)}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""
