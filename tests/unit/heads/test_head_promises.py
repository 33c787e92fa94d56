"""What noise has hidden is promised by nobody; what a head promises stands beside its answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from head_command_stand_ins import app, run, write_fingerprints
from head_stand_ins import asked, made_head, made_up
from private_head_stand_ins import ask, hospitals_of, made
from typer.testing import CliRunner

from shared_model.errors import Refused
from shared_model.heads import files
from shared_model.heads.answers import FAR, NO_INTERVAL, answer
from shared_model.heads.arrays import Head
from shared_model.heads.card import card, promises, with_card
from shared_model.heads.manifest import FARTHEST, HeadManifest
from simulations.heads import private_calibration as histogram
from simulations.heads.compare import with_figures
from simulations.heads.hospitals import together
from simulations.heads.public import PublicSpace, of_fingerprints


@pytest.fixture(scope="module")
def space() -> PublicSpace:
    """Of fingerprints that are nobody's."""
    return of_fingerprints(made_up(patients=200, seed=99, strength=0.0).fingerprints, 8)


@pytest.mark.parametrize("classes", [2, 5])
def test_temperature_is_not_drawn_from_noise(classes: int) -> None:
    """300 histograms of noise alone gave each of the five temperatures about as often as another.
    Of nobody at all nothing is fitted either."""
    rng = np.random.default_rng(0)
    shape = histogram.shape_of("classes", classes)
    for spread, most in ((50.0, 5), (0.0, 0)):
        found = [
            histogram.read_off(
                spread * rng.normal(size=shape), "classes", level=0.9, promise="each class",
                far_level=0.99, scale=1.0, noise_std=spread,
            )
            for _ in range(300)
        ]  # fmt: skip
        fitted = sum("temperature" not in one.hidden for one in found)
        assert fitted <= most
        assert sum(one.temperature != 1.0 for one in found) <= fitted


@pytest.mark.parametrize(
    ("turned", "wanted"), [(0.5, 0.5), (0.7, 0.7), (1.0, 1.0), (1.4, 1.4), (2.0, 2.0)]
)
def test_temperature_of_many_patients_is_fitted(turned: float, wanted: float) -> None:
    """Under little noise, to patients whose truths are drawn at the head's own probabilities; 1,
    too, may be what they say. Under noise that hides them it is 1, and said to be nobody's."""
    rng = np.random.default_rng(1)
    logit = 3.0 * rng.normal(size=40_000)
    truth = rng.random(len(logit)) < 1.0 / (1.0 + np.exp(-logit / turned))
    total = np.zeros(histogram.shape_of("classes", 2))
    for row, heat in enumerate(histogram.TEMPERATURES):
        share = 1.0 / (1.0 + np.exp(-np.where(truth, logit, -logit) / heat))
        place = np.minimum((share * histogram.BINS).astype(int), histogram.BINS - 1)
        np.add.at(total[row], truth * histogram.BINS + place, 1.0)
    height, norm = histogram.heights("classes", 2)
    total *= height / norm
    for spread, known in ((1.0, True), (4000.0, False)):
        noisy = total + spread * rng.normal(size=total.shape)
        found = histogram.read_off(
            noisy, "classes", level=0.9, promise="each class", far_level=0.99, scale=1.0,
            noise_std=spread,
        )  # fmt: skip
        assert found.temperature == (wanted if known else 1.0)
        assert ("temperature" in found.hidden) != known


def test_last_bin_is_no_limit() -> None:
    """It holds everything that is larger still: a promise that only it would keep is none."""
    shape = histogram.shape_of("number", 0)
    height, norm = histogram.heights("number", 0)
    for place, hidden in ((18, ()), (19, ("distance", "interval"))):
        total = np.zeros(shape)
        total[:, place] = 1000.0
        found = histogram.read_off(
            total * height / norm, "number", level=0.9, promise="overall", far_level=0.99,
            scale=20.0, noise_std=0.0,
        )  # fmt: skip
        assert found.hidden == hidden


def test_number_whose_noise_left_no_interval_abstains_and_says_why(
    space: PublicSpace, tmp_path: Path
) -> None:
    """As classes do; it answered 527 windows of 534 with prediction +- 60 years. Card and manifest
    say of interval and distance that there are none, and it may be signed as it is."""
    data = made_up("number", patients=60)
    head = made(space, data, ask(noise="system", epsilon=0.5)).head
    assert set(head.manifest.hidden) == {"interval", "distance"}
    told = answer(head, data.fingerprints)
    assert {one.value for one in told} == {one.low for one in told} == {None}
    assert {one.why_abstained for one in told} <= {NO_INTERVAL, FAR}
    text = card(head.manifest)
    assert "no interval: the noise hides the patients; the head abstains from every item" in text
    assert "which is no limit of its patients (the noise hides the patients)" in text
    assert "+- 60" not in text
    files.write(tmp_path / "head", head)
    files.sign(tmp_path / "head", Ed25519PrivateKey.generate())
    held_out = together([one.measure for one in hospitals_of(data)])
    shown = with_figures(head, held_out, asked(), "the steering group").manifest
    names = [one.name for part in (shown, *shown.groups) for one in part.figures]
    assert "mean absolute error" in names
    assert "within the band" not in names
    assert shown.band is not None
    assert shown.band.coverage is None


def test_classes_whose_noise_left_no_temperature_say_that_they_are_not_calibrated(
    space: PublicSpace,
) -> None:
    """In the card and in what stands beside the answers; the temperature is 1."""
    manifest = made(space, made_up(patients=60), ask(epsilon=0.5)).head.manifest
    assert manifest.temperature is not None
    assert manifest.temperature.temperature == 1.0
    assert manifest.temperature.fitted_on == ""
    words = "not calibrated: the noise hides the patients"
    assert words in promises(manifest)["probabilities"]
    assert f"- {words}" in card(manifest)
    assert "fitted on" not in card(manifest)


def test_private_head_of_an_older_format_is_not_known_to_promise_anything(
    space: PublicSpace,
) -> None:
    """It did not say what the noise had hidden: a number of it abstains; classes are read."""
    older = {}
    for kind in ("number", "classes"):
        head = made(space, made_up(kind, patients=60), ask()).head
        fields = {"format": 2, "hidden": ()}
        older[kind] = replace(head, manifest=head.manifest.model_copy(update=fields))
        plain = older[kind].manifest.to_bytes()
        assert b'"hidden"' not in plain
        assert HeadManifest.from_bytes(plain).to_bytes() == plain
    assert {one.value for one in answer(older["number"], made_up("number").fingerprints)} == {None}
    assert "did not say" in promises(older["number"].manifest)["interval"]
    classes = older["classes"].manifest
    assert promises(classes)["probabilities"].startswith("not calibrated")
    assert "no limit" in promises(classes)["distance"]
    near = classes.model_copy(
        update={"distance": classes.distance.model_copy(update={"limit": 1.5})}
    )
    assert "no limit" not in promises(near)["distance"]


@pytest.mark.parametrize("kind", ["classes", "number"])
def test_private_head_does_not_keep_silent_about_what_noise_hid(
    kind: str, space: PublicSpace
) -> None:
    """Nor says that noise hid what its patients gave: by the values that only what is hidden has.
    Older heads have no such field, and heads without noise hide nothing."""
    hiding = made(space, made_up(kind, patients=60), ask(epsilon=0.5)).head.manifest
    telling = hiding.model_copy(
        update={
            "hidden": (),
            "distance": hiding.distance.model_copy(update={"limit": 1.5}),
            "temperature": hiding.temperature
            and hiding.temperature.model_copy(update={"fitted_on": "a histogram"}),
        }
    )
    for honest in (hiding, telling):
        assert HeadManifest.from_bytes(honest.to_bytes()) == honest
    wrong = [
        hiding.model_copy(update={"hidden": tuple(one for one in hiding.hidden if one != silent)})
        for silent in ({*hiding.hidden} - {"interval"})
    ]
    wrong += [telling.model_copy(update={"hidden": (said,)}) for said in hiding.hidden[:1]]
    wrong.append(hiding.model_copy(update={"distance": telling.distance}))
    if hiding.temperature is not None:
        wrong.append(hiding.model_copy(update={"temperature": telling.temperature}))
        wrong.append(telling.model_copy(update={"temperature": hiding.temperature}))
    for one in wrong:
        with pytest.raises(Refused):
            HeadManifest.from_bytes(one.to_bytes())
    older = hiding.model_copy(update={"format": 2, "hidden": ()})
    assert HeadManifest.from_bytes(older.to_bytes()) == older


def test_what_is_read_off_is_hidden_or_within_what_is_measured() -> None:
    """What a manifest is held to: the farthest distance is none's, and no limit lies beyond it."""
    assert histogram.DISTANCES[-1] == FARTHEST
    assert (histogram.DISTANCES[:-1] < FARTHEST).all()


def without(kind: str, hidden: str) -> Head:
    """A head of which a private training's noise has hidden something."""
    head = made_head(kind)
    heat = head.manifest.temperature
    plain = None if heat is None else heat.model_copy(update={"temperature": 1.0})
    manifest = head.manifest.model_copy(update={"temperature": plain, "hidden": (hidden,)})
    return Head(with_card(manifest), head.arrays)


@pytest.mark.parametrize(
    ("kind", "hidden", "key"),
    [
        ("classes", "temperature", "probabilities"), ("number", "interval", "interval"),
        ("classes", "distance", "distance"),
    ],
)  # fmt: skip
def test_what_noise_has_hidden_is_said_beside_the_answers(
    kind: str, hidden: str, key: str, tmp_path: Path
) -> None:
    """In JSON and at the terminal: no such probability is called calibrated, and a number without
    an interval is no answer."""
    head = without(kind, hidden)
    files.write(tmp_path / "head", head)
    path = write_fingerprints(tmp_path / "f.parquet", head)
    words = ["apply", str(tmp_path / "head"), str(path)]
    told = run(*words)
    assert told[key] == promises(head.manifest)[key]
    assert {"probabilities": "not calibrated", "interval": "no interval",
            "distance": "abstains where"}[key] in told[key]  # fmt: skip
    assert (told["answers"] == 0) == (hidden == "interval")
    done = CliRunner().invoke(app, ["head", *words], catch_exceptions=False)
    assert f"{key}: {told[key][:20]}" in done.output


def test_what_is_not_the_same_is_not_shown_to_be_with_the_rates_beside_it(tmp_path: Path) -> None:
    """A threshold against false accepts rejects most true pairs; that two are different people, a
    lower cosine does not show. In the table, in the JSON, and in the card."""
    head = made_head("identity")
    files.write(tmp_path / "head", head)
    path = write_fingerprints(
        tmp_path / "f.parquet", head, columns={"recording": ["0001", "0002", "0003"] * 6}
    )
    told = run("apply", str(tmp_path / "head"), str(path))
    said = {one["answer"] for one in told["rows"]}
    assert "not shown to be the same" in said
    assert said <= {"same", "not shown to be the same", "abstain"}
    rates = {one.name: one for one in head.manifest.figures}
    assert told["false_reject_rate"]["value"] == rates["false-reject rate"].value
    assert told["false_accept_rate"]["high"] == rates["false-accept rate"].high
    words = ["head", "apply", str(tmp_path / "head"), str(path)]
    shown = CliRunner().invoke(app, words, catch_exceptions=False).output
    text = card(head.manifest)
    for name in ("false-accept rate", "false-reject rate"):
        assert f"({name})" in " ".join(shown.split())
        assert f"({name})" in text
        assert f"said of {rates[name].value:.3f} (" in text
    assert "different" not in shown + json.dumps(told)
    manifest = head.manifest.model_copy(update={"figures": ()})
    assert "a share that was not measured" in card(manifest)
