"""`head.json`: everything that is known of a head, in a closed schema. Pure.

    manifest = HeadManifest.from_bytes(data)      # hostile bytes in, or Refused
    manifest.to_bytes()                           # canonical: what is signed

The coefficients lie in `head.safetensors`, whose digest and size the manifest has. What a field
says in words is printable ASCII, so that no terminal obeys it and no card is made to lie in markup.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints, ValidationError, model_validator

from shared_model import canonical
from shared_model.errors import OurMistake, Refused
from shared_model.heads.stated import (
    AGES,
    BY_AGE,
    BY_SEX,
    FEWEST_IN_GROUP,
    Bin,
    CurvePoint,
    Figure,
    Finite,
    Group,
    Name,
    Share,
    Strict,
    Words,
    named_of_kind,
    of_a_histogram,
    says_something,
)

__all__ = [
    "AGES", "ARRAYS_LIMIT_BYTES", "BY_AGE", "BY_SEX", "CARD_IS_MADE", "FEWEST_IN_GROUP", "FORMAT",
    "LIMITS", "MANIFEST_LIMIT_BYTES", "MOST_CLASSES", "TAG", "ArraysFile", "Band",
    "BaseModelOfHead", "Bin", "ClassCount", "Collection", "CurvePoint", "Digest", "Distance",
    "Figure", "Finite", "Group", "HeadManifest", "Hidden", "Item", "Kind", "Name", "Positive",
    "Privacy", "Sensors", "Sets", "Spent", "Temperature", "Verification", "Words",
]  # fmt: skip

FORMAT = 4
"""1: the class of a set of one was answered, however improbable; figures of answers are of that
rule. 2: it has to be the most probable one; and `figures_from`. 3: the card is exactly what
`shared_model.heads.card` makes of the manifest, so that whoever words it anew gives the next
number; and `hidden`. 4: figures of always the same answer (`shared_model.heads.stated`), and the
card's digits. All are read and answer by the second rule; from `CARD_IS_MADE` on they are signed
and verified."""
CARD_IS_MADE = 3
"""The first format whose cards are made again and compared."""
TAG = "head-manifest"
"""Type tag of the signature: one made for a release, or anything else, never verifies here."""
MANIFEST_LIMIT_BYTES = 2**20
ARRAYS_LIMIT_BYTES = 2**20
"""A head of 32 classes has 84 kB."""
MOST_CLASSES = 32
FARTHEST = 8.0
"""Last distance of a private head's histogram: a limit there is none."""

LIMITS = (
    "For research. Not a medical device: not for diagnosis, monitoring or treatment. Figures hold "
    "for the patients and devices named here; other hospitals, devices and ages may differ."
)

Digest = Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{64}\z")]
Date = Annotated[str, StringConstraints(pattern=r"\A[0-9]{4}-[01][0-9]-[0-3][0-9]\z")]
Count = Annotated[int, Field(ge=0, le=10**9)]
Positive = Annotated[float, Field(gt=0.0, le=1e9, allow_inf_nan=False)]
Sensors = Literal["both", "ecg", "ppg"]
Kind = Literal["classes", "number", "identity"]
ABSTAIN = "abstain"
"""In the place of an answer, where a head gives none."""
Item = Literal["window", "recording", "patient"]
Hidden = Literal["temperature", "interval", "distance"]


class Collection(Strict):
    """A folder of recordings that the head was trained on."""

    name: Name
    what: Words
    licence: Words
    patients: Count


class ClassCount(Strict):
    """Items and patients of a class."""

    name: Name
    items: Count
    patients: Count


class Temperature(Strict):
    """Division of the logits (Guo et al. 2017, 1706.04599, section 4.2). The expected calibration
    errors are of patients on whom the temperature was not fitted; None: not measured."""

    temperature: Annotated[float, Field(ge=1e-3, le=1e3)]
    ece_before: Share | None
    ece_after: Share | None
    reliability_before: Annotated[tuple[Bin, ...], Field(max_length=50)]
    reliability_after: Annotated[tuple[Bin, ...], Field(max_length=50)]
    fitted_on: Words


class Sets(Strict):
    """Conformal prediction sets: every class whose probability is at least its `least`.

    promise: `each class`: of the patients of every class the set holds the truth as often as level
    says, of the rare sick as of the many healthy; `overall`: of all together. least: 0 where a
    class has too few patients to promise anything: it is in every set. coverage, answered,
    accuracy: measured on patients who had no part in `least`: items whose set holds the truth,
    items whose set is the most probable class alone (the others are abstained from, and those that
    are far), and how many of these answers are right. None: not measured.
    """

    level: Share
    promise: Literal["each class", "overall"]
    least: Annotated[tuple[Share, ...], Field(min_length=2, max_length=MOST_CLASSES)]
    coverage: Share | None
    answered: Share | None
    accuracy: Share | None
    curve: Annotated[tuple[CurvePoint, ...], Field(max_length=200)]


class Band(Strict):
    """Conformal interval of a number: prediction +- half_width."""

    level: Share
    half_width: Positive
    coverage: Share | None


class Distance(Strict):
    """Mahalanobis distance per feature, beyond which the head abstains; `beyond`: the share of
    items of patients left out that it would abstain from."""

    limit: Positive
    level: Share
    beyond: Share | None
    from_what: Words


class Verification(Strict):
    """Identity: cosine of two standardised fingerprints against a threshold."""

    threshold: Annotated[float, Field(ge=-1.0, le=1.0)]
    aim: Words
    curve: Annotated[tuple[CurvePoint, ...], Field(max_length=200)]


class Spent(Strict):
    """What one hospital's patients would have spent, or have."""

    hospital: Name
    declared_patients: Count
    epsilon: Positive
    delta: Annotated[float, Field(gt=0.0, lt=1.0)]


class Privacy(Strict):
    """How the coefficients were trained. `without`: on the patients as they are."""

    mode: Literal["without", "local", "distributed"]
    unit: Words
    noise: Literal["none", "system", "seeded, NOT PRIVATE"]
    sample_rate: Annotated[float, Field(gt=0.0, le=1.0)] | None
    noise_multiplier: Positive | None
    clipping_norm: Positive | None
    steps: Count
    threshold: Count
    colluding: Count
    spent: Annotated[tuple[Spent, ...], Field(max_length=1000)]
    words: Annotated[tuple[Words, ...], Field(max_length=32)]

    @model_validator(mode="after")
    def _of_its_mode(self) -> Privacy:
        private = self.mode != "without"
        if private != (self.noise != "none"):
            raise ValueError("a mechanism has noise, another training has none")
        stated = (self.sample_rate, self.noise_multiplier, self.clipping_norm)
        if any((value is not None) != private for value in stated):
            raise ValueError("a private head states its mechanism, another has none")
        if bool(self.spent) != private or bool(self.steps) != private:
            raise ValueError("a private head states what was spent, another spends without end")
        return self


class BaseModelOfHead(Strict):
    """The model whose fingerprints the head reads; of no other."""

    digest: Digest
    preset: Name
    source: Words


class ArraysFile(Strict):
    """`head.safetensors`."""

    digest: Digest
    size_bytes: Annotated[int, Field(ge=1, le=ARRAYS_LIMIT_BYTES)]


class HeadManifest(Strict):
    """What `head.json` says; see the module. classes: () unless kind is "classes"."""

    format: Literal[1, 2, 3, 4]
    task: Name
    about: Words
    kind: Kind
    classes: Annotated[tuple[Name, ...], Field(max_length=MOST_CLASSES)]
    unit: Words
    item: Item
    sensors: Sensors
    gated: bool
    features: Literal[128]
    model: BaseModelOfHead
    arrays: ArraysFile
    card_digest: Digest
    """SHA-256 of MODEL_CARD.md."""
    collections: Annotated[tuple[Collection, ...], Field(min_length=1, max_length=1000)]
    open_data: Words
    """Why the training data are open to everybody; "" if they are not known to be."""
    patients: Count
    items: Count
    windows: Count
    left_out: Count
    class_counts: Annotated[tuple[ClassCount, ...], Field(max_length=MOST_CLASSES)]
    figures: Annotated[tuple[Figure, ...], Field(max_length=32)]
    figures_of: Words
    figures_public: Words
    """Who decided that figures of closed data, which have no noise, may be seen; "" if nobody."""
    groups: Annotated[tuple[Group, ...], Field(max_length=16)]
    figures_from: Literal["patients", "noisy histogram"] = "patients"
    """Whether figures and groups are of patients as they are, or of a sum with the mechanism's
    noise; format 1 has no such field, and patients' figures alone."""
    hidden: Annotated[tuple[Hidden, ...], Field(max_length=3)] = ()
    """What the histogram of a private head left nothing of: its value here (a temperature of 1, the
    widest interval, the farthest distance) is not one of its patients. None before format 3."""
    regularisation: Positive
    temperature: Temperature | None
    sets: Sets | None
    band: Band | None
    distance: Distance
    verification: Verification | None
    privacy: Privacy
    command: Words
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    created: Date
    packages: Annotated[dict[Name, Words], Field(max_length=64)]
    notes: Annotated[tuple[Words, ...], Field(max_length=32)]
    limits: Words

    @model_validator(mode="after")
    def _of_its_kind(self) -> HeadManifest:
        many = self.kind == "classes"
        if many != (len(self.classes) >= 2) or len(set(self.classes)) != len(self.classes):
            raise ValueError("classes, and they alone, are named, each once")
        if ABSTAIN in self.classes:
            raise ValueError(f"no class is called {ABSTAIN}: it is what stands for no answer")
        if many != (self.temperature is not None and self.sets is not None):
            raise ValueError("classes, and they alone, have a temperature and sets")
        if (self.kind == "number") != (self.band is not None):
            raise ValueError("a number, and it alone, has a band")
        if (self.kind == "identity") != (self.verification is not None):
            raise ValueError("identity, and it alone, has a threshold")
        if self.sets is not None and len(self.sets.least) != len(self.classes):
            raise ValueError("every class has its least probability")
        if self.figures_from != "patients":
            self._of_a_histogram()
        for part in (self.figures, *(group.figures for group in self.groups)):
            named_of_kind([one.name for one in part], self.kind, self.classes, self.format)
        self._left_nothing()
        if self.limits != LIMITS:
            raise ValueError("what a head may be used for is not its maker's to say")
        reasons = (self.open_data, self.figures_public)
        if any(words and not says_something(words) for words in reasons):
            raise ValueError("a reason is more than a blank")
        return self

    def _of_a_histogram(self) -> None:
        """Nothing but what a noisy histogram can tell."""
        if self.format == 1 or self.privacy.mode == "without" or self.figures_public:
            raise ValueError("a histogram has noise in a private training only")
        named = [*self.figures, *(one for group in self.groups for one in group.figures)]
        if not all(of_a_histogram(one.name) for one in named):
            raise ValueError("a histogram tells no such figure")
        if {group.name for group in self.groups} - {*BY_SEX, *BY_AGE}:
            raise ValueError("a histogram tells of no such group")

    def _left_nothing(self) -> None:
        """What is hidden is something that the head has; a private head leaves none of it out."""
        heat, hidden = self.temperature, self.hidden
        if (hidden and self.format < 3) or len(set(hidden)) != len(hidden):
            raise ValueError("what is hidden is named once, since format 3")
        if "temperature" in hidden and (heat is None or heat.temperature != 1.0):
            raise ValueError("a temperature that is hidden is 1")
        if "interval" in hidden and self.band is None:
            raise ValueError("only a number has an interval")
        if self.format < 3 or self.privacy.mode == "without":
            return
        if ("distance" in hidden) != (self.distance.limit >= FARTHEST):
            raise ValueError("of a private head the farthest distance is hidden, and no other is")
        if heat is not None and ("temperature" in hidden) != (heat.fitted_on == ""):
            raise ValueError("of a private head a temperature is hidden, or fitted on somebody")

    @property
    def unknown(self) -> frozenset[Hidden]:
        """What promises nothing: it is hidden, or may be: private heads of before did not say."""
        if self.format >= 3 or self.privacy.mode == "without":
            return frozenset(self.hidden)
        far: tuple[Hidden, ...] = ("distance",) if self.distance.limit >= FARTHEST else ()
        return frozenset(("temperature", "interval", *far))

    @property
    def outputs(self) -> int:
        """Rows of the coefficients: one a class, one of a number, none of identity."""
        return {"classes": len(self.classes), "number": 1, "identity": 0}[self.kind]

    @property
    def tells(self) -> bool:
        """Whether the manifest itself tells of patients without noise: figures, counts, curves."""
        heat, sets, band = self.temperature, self.sets, self.band
        measured = (
            None if heat is None else heat.ece_before,
            None if heat is None else heat.ece_after,
            None if sets is None else sets.coverage,
            None if sets is None else sets.answered,
            None if sets is None else sets.accuracy,
            None if band is None else band.coverage,
            self.distance.beyond,
        )
        curves = (
            *(() if heat is None else (*heat.reliability_before, *heat.reliability_after)),
            *(() if sets is None else sets.curve),
            *(() if self.verification is None else self.verification.curve),
        )
        named: tuple[BaseModel, ...] = self.class_counts
        if self.figures_from == "patients":
            named = (*named, *self.figures, *(g for g in self.groups if g.figures))
        if (self.items or self.windows or self.left_out) and self.privacy.mode != "without":
            return True
        return bool(curves or named) or any(value is not None for value in measured)

    @property
    def why_stays(self) -> str:
        """Why the head must not leave the site; "" if it may."""
        if self.open_data:
            return ""
        if self.privacy.mode == "without" or self.privacy.noise != "system":
            return "was trained on patients without noise of the operating system"
        if self.tells and not self.figures_public:
            return "has figures of patients without noise that nobody declared public"
        return ""

    def to_bytes(self) -> bytes:
        """Canonical bytes: what is signed and what lies in `head.json`."""
        plain = self.model_dump(mode="json")
        if self.format == 1:
            del plain["figures_from"]
        if self.format < 3:
            del plain["hidden"]
        return canonical.encode(plain)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes; names this head and no other."""
        return canonical.digest(self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> HeadManifest:
        """Parse hostile bytes.

        Raises:
            Refused: too large, not a manifest, unknown fields, or not the canonical spelling
                (reason "size" or "manifest").
        """
        if len(data) > MANIFEST_LIMIT_BYTES:
            raise Refused("head.json is larger than any real one.", reason="size")
        try:
            manifest = cls.model_validate_json(data)
            same = manifest.to_bytes() == data
        except (ValidationError, OurMistake, ValueError, RecursionError) as error:
            if _is_newer(error):
                raise Refused(
                    f"head.json is of a newer format than this version reads ({FORMAT} at most).",
                    reason="manifest",
                    do="Take the version of fedprint that made the head, or a later one.",
                ) from None
            raise Refused(
                f"head.json is not one of this version{_where(error)}.",
                reason="manifest",
                do="Ask whoever gave you the head for it again.",
            ) from None
        if not same:
            raise Refused("head.json is not in its canonical spelling.", reason="manifest")
        return manifest


def _is_newer(error: Exception) -> bool:
    """Whether the format is at fault, and is one that a later version may have."""
    if not isinstance(error, ValidationError):
        return False
    wrong = (one["input"] for one in error.errors() if one["loc"] == ("format",))
    return any(isinstance(number, int) and number > FORMAT for number in wrong)


def _where(error: Exception) -> str:
    """The first field at fault, never its content."""
    if not isinstance(error, ValidationError):
        return ""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    parts = [str(part) for part in first["loc"][:1] if str(part) in HeadManifest.model_fields]
    return f" (field {parts[0]})" if parts else ""
