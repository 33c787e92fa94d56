"""Heads on the results page: what a measured file says, and nothing of it left out or made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared_model.errors import OurMistake
from simulations import measurement, results_page
from simulations.measurement import Machine, Measurement


def one(name: str, value: float, low: float | None = None, high: float | None = None) -> Any:
    """A figure as a manifest has it."""
    return {"name": name, "value": value, "low": low, "high": high}


def figures(**changes: Any) -> dict[str, Any]:
    """Of a head trained at one place."""
    usual = {
        "task": "af", "kind": "classes", "sensors": "ecg", "item": "window", "unit": "",
        "collections": [{"name": "holter_mitdb", "what": "x", "licence": "x", "patients": 26}],
        "patients": 26, "class_counts": [{"name": "none", "items": 9, "patients": 23},
                                         {"name": "AF", "items": 9, "patients": 3}],
        "figures": [one("AUROC", 0.93751), one("answered", 0.5, 0.25, 0.75)],
        "figures_of": "patients left out", "hidden": [],
        "groups": [{"name": "female", "figures": [one("accuracy", 0.9, 0.8, 1.0)], "why_none": ""},
                   {"name": "male", "figures": [], "why_none": "too few"}],
        "temperature": {"temperature": 1.4, "ece_before": 0.079, "ece_after": 0.06},
        "sets": {"level": 0.9, "promise": "each class"}, "band": None,
        "privacy": {"mode": "without", "noise": "none", "spent": []},
        "notes": ["three <b>patients</b>"], "public": "the data are open: CC0", "federated": None,
    }  # fmt: skip
    return {**usual, **changes}


def page(folder: Path, found: dict[str, Any]) -> str:
    """Of one file."""
    made = Measurement(
        measurement=1,
        kind="head",
        command="fedprint-lab head train af -o out/heads/af",
        date="2026-11-30T01:02Z",
        seconds=1.0,
        commit="0" * 40,
        machine=Machine(system="Linux", processor="a processor", cores=2, threads="1"),
        versions={"python": "3.11"},
        weights={"warm-start": "ab" * 32},
        figures=found,
    )
    measurement.write(folder / "heads" / "measured-head-af.json", made)
    text = results_page.make(folder).text
    return text.partition("## Heads")[2].partition("\n## ")[0]


def test_figures_of_a_head_are_on_the_page(tmp_path: Path) -> None:
    """With intervals or without, by group, calibration, and whose they are."""
    text = page(tmp_path, figures())
    for line in (
        "### heads/measured-head-af",
        "`af`, ECG only; one answer is of a window; 26 patients of holter_mitdb (26); trained NOT "
        "PRIVATE.",
        "| AUROC | 0.938 (no interval) |",
        "| answered | 0.500 [0.250, 0.750] |",
        "- figures of: patients left out",
        "- patients of each class: none 23, AF 3",
        "- expected calibration error 0.079, after the temperature 1.4: 0.060",
        "- sets promise 90% of the patients of each class",
        "- female: accuracy 0.900 [0.800, 1.000]",
        "- male: too few",
        "- three &lt;b&gt;patients&lt;/b&gt;",
        "- the data are open: CC0",
    ):
        assert f"\n{line}\n" in f"{text}\n", line


def test_rows_of_a_federated_head_and_what_it_spent_are_on_the_page(tmp_path: Path) -> None:
    """Of a private head with nothing to show, that too."""
    spent = [
        {"hospital": name, "declared_patients": 20, "epsilon": 2.9996, "delta": 1e-5}
        for name in ("a", "b")
    ]
    error = {"mean absolute error": one("", 11.73, 10.93, 12.52)}
    rows = [{"row": "federated", **error, "within the band": one("", 0.968)}]
    rows.append({"row": "always the same answer", **error})
    why = "not measured: no patient of class AF"
    rows.append({"row": "pooled", "mean absolute error": one("", None) | {"why": why}})
    found = figures(
        unit="years", figures=[], temperature=None, sets=None, class_counts=[],
        band={"level": 0.9, "half_width": 21.04}, hidden=["distance"],
        privacy={"mode": "local", "noise": "system", "spent": spent},
        federated={"rows": rows, "measured_on": "376 patients"},
    )  # fmt: skip
    text = page(tmp_path, found)
    assert "26 declared patients of holter_mitdb (26); trained with differential privacy, " in text
    assert "The head itself has no figure: not measured, or hidden by the noise." in text
    assert "On 376 patients:" in text
    assert "| federated | 11.730 [10.930, 12.520] | 0.968 (no interval) |" in text
    assert "| always the same answer | 11.730 [10.930, 12.520] | none |" in text
    assert "| pooled | not measured: no patient of class AF | none |" in text
    assert "- epsilon 3, delta 1e-05: a, b" in text
    assert "- band: 90% within +- 21 years" in text
    assert "- hidden by the noise: distance" in text
    found["federated"] = {"rows": [], "measured_on": ""}
    found["privacy"] = {**found["privacy"], "noise": "seeded, NOT PRIVATE"}
    found["hidden"] = ["interval"]
    text = page(tmp_path, found)
    assert "SEEDED NOISE: NO PRIVACY" in text
    found["privacy"] = {**found["privacy"], "mode": "without", "spent": []}
    text = page(tmp_path, found)
    assert "- not there, for there are too few patients: interval" in text
    assert "The head itself has no figure: not measured." in text
    assert "noise" not in text.casefold()
    assert "On 376 patients" not in text
    assert "band:" not in text


def test_file_that_lacks_what_a_head_has_is_refused(tmp_path: Path) -> None:
    """By its name."""
    found = figures()
    del found["figures_of"]
    with pytest.raises(OurMistake, match=r"measured-head-af\.json has not what its kind has"):
        page(tmp_path, found)
