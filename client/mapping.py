"""The mapping: which channel is ECG, which PPG, who the patient is, which columns are labels.

A small TOML file, frozen and checked once. `client.records.guess_mapping` makes one from a folder.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from client.identifiers import kind_of_column
from shared_model.errors import OurMistake

Role = Literal["ecg", "ppg"]

ECG_PREFERENCE = (
    "II",
    "MLII",
    "I",
    "MLI",
    "CM5",
    "V5",
    "V6",
    "V4",
    "V3",
    "V2",
    "V1",
    "V",
    "III",
    "MLIII",
    "aVF",
    "aVL",
    "aVR",
    "MCL1",
    "MCL",
    "CM2",
    "CC5",
    "ECG",
)
"""Order in which a lead is chosen where a recording has several."""
PPG_PREFERENCE = ("PLETH", "PPG")

_LEADS = {lead.casefold(): lead for lead in ECG_PREFERENCE}
_PREFIX = re.compile(r"^(?:mdc )?(?:(?:ecg|ekg|e c g) )?(?:(?:lead|ableitung|derivation|kanal) )?")
_ECG_GENERIC = re.compile(r"^(?:ecg|ekg|elec potl)(?:\W|_|\d|$)", re.IGNORECASE)
_PPG_GENERIC = re.compile(
    r"^(?:mdc puls oxim )?"
    r"(pleth|plethysmogram|plethysmograph|photoplethysmogram|ppg|pulse ox|spo2 pleth)"
    r"(?:\s*\d+)?(?: (?:green|red|ir|infrared|wave|waveform|signal|raw|finger|wrist))*$"
)
_WORN = re.compile(r"^(?:(?:chest|wrist|finger|fingertip|ear|arm|forehead|toe) )+", re.IGNORECASE)
_UNITS_BEHIND = re.compile(r"(?: (?:[muµμn]v|[uµμn]a|nu|au|adu|adc|counts))+$", re.IGNORECASE)
_ROUND, _SQUARE = re.compile(r"\(([^)]*)\)"), re.compile(r"\[([^\]]*)\]")
_CHEST_LEAD = re.compile(r"V[1-9]")
_NOT_A_SIGNAL = re.compile(r"quality|sqi|rate|label|valid|reference|peak|annotation")


def lead_of(name: str) -> tuple[Role, str] | None:
    """Role and lead of a channel by its name, None if the name says nothing.

    `Lead II`, `ECG_II`, `MDC_ECG_LEAD_II`, `II` -> ("ecg", "II"); `PLETH`, `ppg1` -> ("ppg", ...).
    The lead is out of a closed vocabulary, so that no text of a file travels further. Units in
    square brackets or behind the name must be of its role; other words in brackets say nothing. A
    bare I or V may be a current or a voltage: of its units all must be smaller than V. V1 in V is
    no lead.
    """
    no_round = _ROUND.sub(" ", name)
    words = _plain(no_round)
    if not words or len(words) > 64 or _NOT_A_SIGNAL.search(words.casefold()):
        return None
    words = _plain(_SQUARE.sub(" ", no_round))
    behind = _UNITS_BEHIND.search(words)
    words = _WORN.sub("", words[: behind.start()] if behind else words)
    units = [*_SQUARE.findall(no_round), *(behind[0].split() if behind else [])]
    found = _lead_in(words)
    if found is None or any(is_foreign(found[0], unit) for unit in units):
        return None
    written = [_plain_unit(unit) for unit in [*units, *_ROUND.findall(name)]]
    if _CHEST_LEAD.fullmatch(words) and "v" in written:
        return None
    if words in {"I", "V"} and any(
        unit not in {"mv", "uv", "nv"} and (unit_of("ecg", unit) or is_foreign("ecg", unit))
        for unit in written
        if unit
    ):
        return None
    return found


def is_unit(text: str) -> bool:
    """Whether a text in brackets is a unit, of whatever channel."""
    return unit_of("ecg", text) is not None or is_foreign("ecg", text)


def is_foreign(role: Role, text: str) -> bool:
    """Whether a text in brackets is a unit that a channel of this role cannot have; other words
    ("filtered", "left arm") are no unit."""
    flat = _plain_unit(text)
    return unit_of(role, text) is None and (
        flat in _OTHER_UNITS
        or "/" in flat
        or "%" in flat
        or unit_of(_OTHER[role], text) is not None
    )


def _lead_in(words: str) -> tuple[Role, str] | None:
    flat = words.casefold()
    pleth = _PPG_GENERIC.match(flat)
    if pleth:
        return "ppg", "PLETH" if "pleth" in pleth.group(1) else "PPG"
    core = _PREFIX.sub("", flat)
    if core in _LEADS and words not in {"i", "v"}:  # a column "i" is an index
        return "ecg", _LEADS[core]
    return ("ecg", "ECG") if _ECG_GENERIC.match(flat) else None


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_\-./:]+", name)).strip()


def preference(name: str) -> tuple[int, str]:
    """Sort key of a channel name inside its role: lead first, then the name (ppg1 before ppg2)."""
    found = lead_of(name)
    order: Sequence[str] = ECG_PREFERENCE if found and found[0] == "ecg" else PPG_PREFERENCE
    return (order.index(found[1]) if found else len(order), name.casefold())


ECG_UNITS = {"v": ("mV", 1e3), "mv": ("mV", 1.0), "uv": ("mV", 1e-3), "nv": ("mV", 1e-6)}
PPG_UNITS = {
    "v": "V",
    "mv": "mV",
    "uv": "uV",
    "na": "nA",
    "ua": "uA",
    "%": "%",
    "pct": "%",
    "percent": "%",
}
NO_UNIT = "NU"
_UNITLESS = frozenset({
    "", "nu", "n.u.",
    "au", "a.u.", "adu", "adc", "counts", "count", "1", "none", "unknown", "no units",
    "arb", "digital", "raw", "{unity}", "unity",
})  # fmt: skip


def unit_of(role: Role, unit: str) -> tuple[str, float] | None:
    """Canonical unit and the factor to it; None if the channel cannot have this unit.

    ECG in V, mV, uV or nV comes out in mV; anything unitless comes out as "NU" with factor 1.
    """
    flat = _plain_unit(unit)
    if flat in _UNITLESS:
        return NO_UNIT, 1.0
    if role == "ecg":
        return ECG_UNITS.get(flat)
    return (PPG_UNITS[flat], 1.0) if flat in PPG_UNITS else None


def _plain_unit(unit: str) -> str:
    return unit.strip().replace("µ", "u").replace("μ", "u").casefold()


_LONGEST, DOTS_A_LINE = 2**16, 40
_OTHER: dict[Role, Role] = {"ecg": "ppg", "ppg": "ecg"}
_OTHER_UNITS = frozenset(
    {
        "a", "ma", "ka", "ohm", "kohm", "bpm", "min", "s", "ms", "hz", "khz", "mmhg", "kpa", "pa",
        "cmh2o", "c", "degc", "°c", "deg", "g", "l", "ml", "w", "kg", "resp",
    }
)  # fmt: skip
"""Of channels that are neither, as files write them."""
LONGEST_NAME = 200
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]


LabelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
"""What a label may be called; see docs/probes.md for those that the lab asks for."""


class ChannelMapping(BaseModel):
    """Names under which one modality is found, best first, and its unit if the files say none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[Name, ...] = ()
    unit: str | None = Field(default=None, max_length=16)


class Mapping(BaseModel):
    """How a folder is read. Every key has a default; see docs/data-formats.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    one_file_is_one_patient: bool = False
    patient_column: Name = "patient_id"
    recording_column: Name = "recording"
    fs_column: Name = "fs_hz"
    time_column: Name = "time_s"
    time_unit: Literal["s", "ms", "us"] = "s"
    fs_hz: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    labels: tuple[Name, ...] = ()
    label_names: dict[Name, LabelName] = Field(default_factory=dict)
    series: tuple[Name, ...] = ()
    ecg: ChannelMapping = ChannelMapping()
    ppg: ChannelMapping = ChannelMapping()

    @model_validator(mode="after")
    def _each_label_once(self) -> Mapping:
        """`label_names` speaks of columns that are kept, and makes no two labels one."""
        kept = dict.fromkeys(self.labels)
        absent = [column for column in self.label_names if column not in kept]
        if absent:
            raise ValueError(f"label_names has {absent[0]!r}, which is not among labels")
        if self.label_names:
            made = Counter(self.label_names.get(one, one).strip().casefold() for one in kept)
            name, times = made.most_common(1)[0]
            if times > 1:
                raise ValueError(f"two labels would be called {name!r}")
        naming = [name for name in self.label_names.values() if kind_of_column(name)]
        if naming:
            raise ValueError(f"a column called {naming[0]!r} identifies, and is no label")
        return self

    def pick(self, names: Sequence[str]) -> dict[Role, str]:
        """Which of a recording's channel names plays which role (first in order of preference)."""
        flat = {name.strip().casefold(): name for name in reversed(names)}
        chosen: dict[Role, str] = {}
        for role, wanted in (("ecg", self.ecg.names), ("ppg", self.ppg.names)):
            for name in wanted:
                hit = name if name in names else flat.get(name.strip().casefold())
                if hit is not None and hit not in chosen.values():
                    chosen["ecg" if role == "ecg" else "ppg"] = hit
                    break
        return chosen

    def unit_given(self, role: Role) -> str | None:
        """Unit that the mapping declares for a role (overrides the file's)."""
        return self.ecg.unit if role == "ecg" else self.ppg.unit

    def to_toml(self) -> str:
        """The mapping as a TOML text that `from_toml` reads back to an equal object."""
        lines: list[str] = []
        for name, value in self:
            if value is None or isinstance(value, ChannelMapping | dict):
                continue
            lines.append(f"{name} = {_toml(value)}")
        if self.label_names:
            named = (f"{_toml(one)} = {_toml(name)}" for one, name in self.label_names.items())
            lines += ["", "[label_names]", *named]
        for role in ("ecg", "ppg"):
            channel: ChannelMapping = getattr(self, role)
            lines += ["", f"[{role}]", f"names = {_toml(channel.names)}"]
            if channel.unit is not None:
                lines.append(f"unit = {_toml(channel.unit)}")
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str) -> Mapping:
        """Read a mapping. Raises OurMistake naming the key that is wrong.

        The text may be anybody's: `tomllib` takes the square of a dotted key's parts in memory, and
        a bracket's depth in stack.
        """
        if len(text) > _LONGEST or any(line.count(".") > DOTS_A_LINE for line in text.split("\n")):
            raise OurMistake(
                f"A mapping has at most {_LONGEST} characters, and {DOTS_A_LINE} dots a line.",
                do="Mend the file.",
            )
        try:
            content = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
            why = str(error) if isinstance(error, tomllib.TOMLDecodeError) else "too deep or large"
            raise OurMistake(f"The mapping is no TOML: {why}.", do="Mend the file.") from None
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            what = f"The mapping's key '{where}' is wrong" if where else "The mapping is wrong"
            raise OurMistake(
                f"{what}: {first['msg']}.",
                do="See docs/data-formats.md for the keys of a mapping.",
            ) from None

    @classmethod
    def from_file(cls, path: Path) -> Mapping:
        """Read a mapping file. Raises OurMistake if it is absent or wrong."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise OurMistake(
                "The mapping file cannot be read.", do="Check the path given to --mapping."
            ) from None
        return cls.from_toml(text)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value)
