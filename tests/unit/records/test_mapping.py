"""The mapping file: checked once, written and read back, and what is guessed from names."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.labels import label_value, labels_of
from client.mapping import ChannelMapping, Mapping, lead_of, unit_of
from shared_model.errors import OurMistake

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(
    labels=st.lists(NAMES, max_size=4),
    names=st.lists(NAMES, max_size=4),
    fs_hz=st.none() | st.floats(1e-3, 1e6),
    one=st.booleans(),
)
def test_mapping_survives_its_file(
    labels: list[str], names: list[str], fs_hz: float | None, one: bool
) -> None:
    mapping = Mapping(
        labels=tuple(labels),
        fs_hz=fs_hz,
        one_file_is_one_patient=one,
        ecg=ChannelMapping(names=tuple(names), unit="mV"),
    )
    assert Mapping.from_toml(mapping.to_toml()) == mapping


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("patient = 'x'", "patient"),
        ("labels = 3", "labels"),
        ("fs_hz = -1", "fs_hz"),
        ("fs_hz = inf", "fs_hz"),
        ("[ecg]\nunits = 'mV'", "ecg.units"),
        ("time_unit = 'h'", "time_unit"),
        ("labels = [", "no TOML"),
        ("labels = ['alter']\n[label_names]\nage = 'age'", "not among labels"),
        ("labels = ['alter', 'age']\n[label_names]\nalter = 'age'", "two labels"),
        ("labels = ['a', 'b']\n[label_names]\na = 'age'\nb = 'age'", "two labels"),
        ("labels = ['Age', 'alter']\n[label_names]\nalter = 'age'", "two labels"),
        ("labels = ['alter']\n[label_names]\nalter = 'surname'", "identifies"),
        ("labels = ['alter']\n[label_names]\nalter = 'Age!'", "label_names.alter"),
    ],
)
def test_wrong_mapping_is_refused_by_the_name_of_its_key(text: str, told: str) -> None:
    with pytest.raises(OurMistake, match=told.replace(".", r"\.")):
        Mapping.from_toml(text)


def test_absent_mapping_file_is_our_mistake(tmp_path: Path) -> None:
    with pytest.raises(OurMistake):
        Mapping.from_file(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("name", "lead"),
    [
        ("II", ("ecg", "II")),
        ("MLII", ("ecg", "MLII")),
        ("lead_II", ("ecg", "II")),
        ("Lead aVR", ("ecg", "aVR")),
        ("ECG V5", ("ecg", "V5")),
        ("MDC_ECG_LEAD_V1", ("ecg", "V1")),
        ("Lead I (Einthoven)", ("ecg", "I")),
        ("ecg", ("ecg", "ECG")),
        ("EKG1", ("ecg", "ECG")),
        ("PLETH", ("ppg", "PLETH")),
        ("Pleth", ("ppg", "PLETH")),
        ("ppg1", ("ppg", "PPG")),
        ("PPG green", ("ppg", "PPG")),
        ("chest_ecg_mV", ("ecg", "ECG")),
        ("wrist ppg", ("ppg", "PPG")),
        ("II_uV", ("ecg", "II")),
        ("chest_V5", ("ecg", "V5")),
        ("ppg_counts", ("ppg", "PPG")),
        ("II_µV", ("ecg", "II")),
        ("II [µV]", ("ecg", "II")),
        ("PPG [a.u.]", ("ppg", "PPG")),
        ("PPG [quality]", None),
        ("V", ("ecg", "V")),
        ("V [mV]", ("ecg", "V")),
        ("I_uV", ("ecg", "I")),
        ("Lead I [counts]", ("ecg", "I")),
        ("II [V]", ("ecg", "II")),
        ("II []", ("ecg", "II")),
        ("pleth [%]", ("ppg", "PLETH")),
        ("ECG (mV) [raw]", ("ecg", "ECG")),
        ("V [V]", None),
        ("V (V)", None),
        ("V_counts", None),
        ("I NU", None),
        ("I [mA]", None),
        ("I (mA)", None),
        ("I [A]", None),
        ("I [%]", None),
        ("I_nA", None),
        ("III nA", None),
        ("II [resp]", None),
        ("V [counts/min]", None),
        ("ECG [bpm]", None),
        ("ECG_nA", None),
        ("PPG [bpm]", None),
        ("i [counts]", None),
        ("[counts]", None),
        ("v_mV", None),
        ("chest_v", None),
        ("i_adc", None),
        ("chest", None),
        ("ear mV", None),
        ("chest_temperature", None),
        ("i", None),
        ("ABP", None),
        ("RESP", None),
        ("time_s", None),
        ("ecg_quality", None),
        ("hr_reference_bpm", None),
        ("Hans Mueller", None),
    ],
)
def test_lead_is_told_by_the_channel_name(name: str, lead: tuple[str, str] | None) -> None:
    assert lead_of(name) == lead


def test_first_name_in_the_mapping_wins() -> None:
    mapping = Mapping(ecg=ChannelMapping(names=("II", "V5")), ppg=ChannelMapping(names=("ppg1",)))
    assert mapping.pick(("V5", "II", "PPG1", "ppg2")) == {"ecg": "II", "ppg": "PPG1"}
    assert mapping.pick(("V5", "ABP")) == {"ecg": "V5"}
    assert mapping.pick(("ABP",)) == {}


def test_units_come_out_canonical_or_are_refused() -> None:
    assert unit_of("ecg", "µV") == ("mV", 1e-3)
    assert unit_of("ecg", "V") == ("mV", 1e3)
    assert unit_of("ecg", "NU") == ("NU", 1.0)
    assert unit_of("ecg", "mmHg") is None
    assert unit_of("ppg", "") == ("NU", 1.0)
    assert unit_of("ppg", "%") == ("%", 1.0)
    assert unit_of("ppg", "degC") is None


def test_examples_in_the_documentation_are_mappings() -> None:
    page = Path(__file__).parents[3] / "docs" / "data-formats.md"
    blocks = re.findall(r"\n\n((?: {4}.*\n)+)", page.read_text(encoding="utf-8"))
    examples = [textwrap.dedent(block) for block in blocks if "names =" in block]
    assert len(examples) == 5
    for example in examples:
        mapping = Mapping.from_toml(example)
        assert mapping.ecg.names or mapping.ppg.names


def test_words_for_unknown_in_a_table_of_recordings_are_no_label() -> None:
    """Not so in a hospital's own file of labels: see personal/test_personal_heads.py."""
    for text in ("none", "NA", "-", "?", "nan", "", "inf"):
        assert label_value(text) is None


def test_label_with_another_space_is_the_label() -> None:
    """A no-break space took a recording's label away, and the whole column from the guess."""
    for text in ("stage\u00a01", " stage  1", "stage\u202f1\u00a0"):
        assert label_value(text) == "stage 1"
    assert label_value("\u00a0") is None
    assert label_value("\u00a042\u00a0") == 42.0
    assert label_value("stage\t1") is None
    assert label_value("stage\x1b1") is None


def test_label_is_called_what_the_mapping_calls_it() -> None:
    """A ward's "Alter" is asked for as age; what is not named keeps its column's name."""
    mapping = Mapping(labels=("Alter", "sex"), label_names={"Alter": "age"})
    assert Mapping.from_toml(mapping.to_toml()) == mapping
    cells = {"Alter": "63", "sex": "F", "age": "1"}
    assert labels_of(cells, mapping) == {"age": 63.0, "sex": "F"}
    identifying = {"Alter": "1957-03-04", "sex": "F"}
    assert labels_of(identifying, mapping) == {"sex": "F"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (".".join(["a"] * 60) + " = 1", "dots a line"),
        ("labels = [" + ", ".join(["'a'"] * 20_000) + "]", "characters"),
        ("labels = " + "[" * 20_000, "too deep or large"),
        ("fs_hz = " + "9" * 6_000, "too deep or large"),
        ('"\u2028"' + ".a" * 60 + " = 1", "dots a line"),
    ],
)
def test_text_that_would_take_all_memory_or_stack_is_refused(text: str, told: str) -> None:
    """Two hundred kB of dots had the process killed."""
    with pytest.raises(OurMistake, match=told):
        Mapping.from_toml(text)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("ECG [filtered]", ("ecg", "ECG")),
        ("ECG [ch1]", ("ecg", "ECG")),
        ("I (left arm)", ("ecg", "I")),
        ("V (chest)", ("ecg", "V")),
        ("Pleth [SpO2]", ("ppg", "PLETH")),
        ("I [mA]", None),
        ("V [V]", None),
        ("V1 [V]", None),
        ("V2 (V)", None),
        ("V5 (adu)", ("ecg", "V5")),
        ("Lead V1 [V]", ("ecg", "V1")),
        ("II [V]", ("ecg", "II")),
        ("PPG [bpm]", None),
        ("ECG [counts/min]", None),
    ],
)
def test_words_in_brackets_that_are_no_unit_say_nothing(
    name: str, found: tuple[str, str] | None
) -> None:
    got = lead_of(name)
    assert (got is None) == (found is None)
    if found is not None:
        assert got is not None
        assert got[0] == found[0]
