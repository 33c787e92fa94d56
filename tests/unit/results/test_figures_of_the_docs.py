"""Figures that the docs quote are those of the measured files, and of the page made of them."""

from __future__ import annotations

import json
from typing import Any


def probes(name: str) -> dict[str, Any]:
    path = DOCS / "results" / f"probe-{name}" / "measured-probe.json"
    figures: dict[str, Any] = json.loads(path.read_text())["figures"]
    return figures


def test_counts_of_the_bars_that_the_docs_quote_are_todays() -> None:
    """Three patients with AF have no interval: one task fewer than these files held."""
    above = "above_random_init"
    for name, counts in (("small", {6}), ("small-seed1", {6}), ("real-sites", {5})):
        rows = summary(probes(name))
        assert {one[above]["by_interval"] for one in rows.values()} == counts
        assert {one[above]["tasks"] for one in rows.values()} == {8}
        assert {one[above]["reached"] for one in rows.values()} == {counts == {6}}
        named = {task for one in rows.values() for task in one[above]["no_interval"]}
        assert named == {"atrial fibrillation"}
        if name != "real-sites":
            (row,) = (one["above_hand_made"] for one in rows.values())
            assert (row["by_interval"], row["tasks"], row["reached"]) == (4, 7, True)
    text = (DOCS / "adr" / "0044-repeated-folds.md").read_text(encoding="utf-8")
    assert "files have 6 of 8 with both seeds, and 5 in every row of the unseen half" in text


def test_what_is_said_of_federated_over_pooled_on_real_patients_is_the_files() -> None:
    found = ratios(probes("real-sites"))
    assert found is not None
    assert found.moved is not None
    held = sum(one.held for one in found.rows)
    (beyond,) = (one for one in found.rows if not one.held)
    text = section("researchers.md", "## Four worked experiments")
    assert f"{held} of {len(found.rows)} ratios are within the bar ({beyond.task} is not: " in text
    assert f"is not: {beyond.ratio['value']:.3f}), without intervals" in text
    assert f"moved mean skill by {found.moved['value']:+.4f} over the warm start" in text
