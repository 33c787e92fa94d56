"""Figures that the docs quote are those of the measured files, and of the page made of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulations.heads.tasks import TASKS
from simulations.probes.bars import summary
from simulations.probes.pooled import ratios
from simulations.probes.site_tasks import QUESTIONS

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGE = (DOCS / "results.md").read_text(encoding="utf-8")
INTERVAL = re.compile(r"\[-?\d[\d.]*, -?\d[\d.]*\]")
WITH_VALUE = re.compile(r"[+-]?\d+\.\d+ \[-?\d[\d.]*, -?\d[\d.]*\]")
STEPS = re.compile(r"(\d\.\d\d) plain (?:steps|ones) \((?:`all`: )?(\d\.\d\d)")


def bench(name: str) -> dict[str, float]:
    path = DOCS / "results" / f"bench-{name}" / f"measured-bench-{name}.json"
    figures: dict[str, float] = json.loads(path.read_text())["figures"]["figures"]
    return figures


def section(page: str, heading: str) -> str:
    """From its heading to the next of the same or a higher level."""
    text = (DOCS / page).read_text(encoding="utf-8")
    level = heading.partition(" ")[0]
    after = text.partition(f"\n{heading}\n")[2]
    assert after, f"{page} has no {heading}"
    return re.split(rf"\n#{{1,{len(level)}}} ", after)[0]


def shown_as(words: str, value: float) -> bool:
    """Whether a figure rounds to what is shown, with the digits that are shown."""
    shown = float(words.replace(",", ""))
    mantissa, _, power = words.replace(",", "").partition("e")
    digits = len(mantissa.partition(".")[2]) - int(power or 0)
    return abs(shown - value) <= 0.5 * 10.0**-digits * (1 + 1e-9)


def cites_the_page(paragraph: str) -> bool:
    return "results.md" in paragraph


def paragraphs(page: str) -> list[str]:
    return (DOCS / page).read_text(encoding="utf-8").split("\n\n")


@pytest.mark.parametrize("page", ["benchmarks.md", "adr/0038-gradients-layer-by-layer.md"])
def test_what_opacus_step_costs_is_the_files_figure(page: str) -> None:
    """1.16 and 1.58 stood there, beside a table that gave 1.22 and 1.63."""
    found = STEPS.findall((DOCS / page).read_text(encoding="utf-8"))
    figures = bench("dp-step")
    assert len(found) == 1
    for words, which in zip(found[0], ("", "_all"), strict=True):
        ratio = figures[f"opacus_hooks_step_s{which}"] / figures[f"plain_step_s{which}"]
        assert shown_as(words, ratio), f"{words}: {ratio}"


@pytest.mark.parametrize("name", ["dp-step", "onnx", "encoder", "store"])
def test_seen_columns_of_benchmarks_with_a_file_are_its_figures(name: str) -> None:
    """By the names in a row's first cell; of dp-step a second column is of all parameters."""
    figures, held = bench(name), 0
    for line in section("benchmarks.md", f"## {name}").splitlines():
        if not line.startswith("| `"):
            continue
        first, _, *columns = (cell.strip() for cell in line.strip("|").split("|"))
        names = re.findall(r"`(\w+)`", first)
        for column, which in zip(columns, ("", "_all"), strict=False):
            shown = [column] if len(names) == 1 else column.split(", ")
            for figure, words in zip(names, shown, strict=True):
                assert shown_as(words, figures[figure + which]), f"{figure}{which}: {words}"
                held += 1
    assert held > 5


def test_every_interval_beside_a_link_to_the_page_is_on_it() -> None:
    """researchers.md quoted tables that said otherwise; a file that is measured anew moves them."""
    quoted = [
        one
        for text in paragraphs("researchers.md")
        if cites_the_page(text)
        for one in INTERVAL.findall(text)
    ]
    assert len(quoted) > 10
    assert [one for one in quoted if one not in PAGE] == []


def test_what_matters_in_the_model_is_quoted_from_the_ablations() -> None:
    """Value and interval together, as the page has them; a difference may carry a plus."""
    text = section("model.md", "### What matters in it")
    quoted = [one.removeprefix("+") for one in WITH_VALUE.findall(text)]
    ablations = PAGE.partition("## Ablations")[2].partition("## Speed")[0]
    assert len(quoted) > 15
    assert [one for one in quoted if one not in ablations] == []


def test_the_clear_winners_and_losers_of_the_ablations_are_told() -> None:
    """Variants whose difference to their base excludes zero stand in docs/model.md."""
    text = section("model.md", "### What matters in it")
    silent = []
    for path in sorted((DOCS / "results").glob("ablation*/measured-*.json")):
        for row in json.loads(path.read_text())["figures"]["rows"]:
            one = row["minus base"]
            if one is None or one["low"] <= 0 <= one["high"]:
                continue
            if f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" not in text:
                silent.append(f"{path.parent.name}: {row['variant']}")
    assert silent == []


def test_figures_of_heads_are_on_the_page_or_said_to_be_of_no_file() -> None:
    """The table had neither file nor test. Every task has the command that measures it; once there
    are files, each value with its interval stands on the page as it is quoted."""
    text = section("heads.md", "## Measured")
    for name in TASKS:
        assert f"`train {name} -o out/heads/" in text, name
    measured = list((DOCS / "results").rglob("measured-head-*.json"))
    assert ("of no file" in text) == (not measured)
    heads = PAGE.partition("## Heads")[2].partition("\n## ")[0]
    quoted = WITH_VALUE.findall(text)
    assert len(quoted) > 10
    assert [one for one in quoted if measured and one not in heads] == []


NAMES_OF_HEADS = {
    "AUROC": "AUROC",
    "equal error rate": "equal error rate",
    "error": "mean absolute error",
    "error, years": "mean absolute error",
    "noisy": "mean absolute error (at most 60)",
    "right of what is answered": "accuracy where answered",
    "always the same answer": "error of always the same answer",
    "within its 90 % band": "within the band",
}
"""As heads.md calls figures, before them or above their column, and as files do."""
FIGURE = r"(\d+\.\d+) \[(\d+\.\d+), (\d+\.\d+)\]"
NAMED = re.compile(rf"({'|'.join(NAMES_OF_HEADS)})(?: of|:)? {FIGURE}")


def named_figures(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Task of the table's row (else ""), name in files, value and ends of each figure with a
    name."""
    for block in text.split("\n\n"):
        head, *rows = block.splitlines()
        columns = head.split(" | ")
        for row in rows if head.startswith("|") else [" ".join(block.split())]:
            task = re.match(r"\| `([a-z-]+)` \|", row)
            found = NAMED.findall(row)
            for name, cell in zip(columns, row.split(" | "), strict=False):
                first = re.match(FIGURE, cell)
                found += [(name.strip("| "), *first.groups())] if first else []
            for name, *words in found:
                yield task[1] if task else "", NAMES_OF_HEADS[name], words


def test_figures_of_heads_have_in_the_docs_the_names_of_the_files() -> None:
    """A constant's share stood there as the head's balanced accuracy, which no file has; and 56
    patients for 53."""
    there, called = [], []
    for path in (DOCS / "results" / "heads").glob("measured-head-*.json"):
        found = json.loads(path.read_text())["figures"]
        rows = (found["federated"] or {"rows": []})["rows"]
        called += [row.pop("row") for row in rows]
        mine = [one for row in rows for one in row.values()]
        there += [(found["task"], one) for one in (*found["figures"], *mine)]
    text = section("heads.md", "## Measured")
    quoted = list(named_figures(text))
    assert {name for _, name, _ in quoted} == set(NAMES_OF_HEADS.values())
    for task, name, words in quoted:
        assert any(
            one["name"] == name
            and task in ("", whose)
            and all(
                one[end] is not None and shown_as(shown, one[end])
                for shown, end in zip(words, ("value", "low", "high"), strict=True)
            )
            for whose, one in there
        ), f"{task} {name}: {words}"
    (count,) = re.findall(r"about (\d+) calibrating patients", text)
    assert any(f"about {count} patients who took no part in the steps" in one for one in called)
    for words in re.findall(rf"([\w ]+) of {FIGURE}", " ".join(text.split())):
        assert words[0].endswith(tuple(NAMES_OF_HEADS)), words


def test_sources_of_heads_in_the_docs_are_those_of_the_tasks() -> None:
    """Labels and annotations that each task takes of folders that are named, and its sensors."""
    rows = [line for line in section("heads.md", "## Tasks").splitlines() if line.startswith("| `")]
    table = rows[-10:]
    for task in TASKS.values():
        mine = [row for row in table if f"`{task.name}`" in row.split("|")[1]]
        assert mine, task.name
        words = " ".join(mine)
        for source in (task.own or task.sources).values():
            for name in source.questions:
                assert all(f"`{label}`" in words for label in QUESTIONS[name].labels), name
                assert ("annotated" in words) >= ("annotated" in name), name
        shown = {"ecg": "ECG", "ppg": "PPG", "both": "both"}
        order = ", ".join(shown[one] for one in task.own or task.sources)
        assert f"| {order} |" in words.replace(", then", ","), task.name


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
    low, high = (beyond.ratio[end] for end in ("low", "high"))
    assert f"is not: {beyond.ratio['value']:.3f} [{low:.3f}, {high:.3f}]), seven of" in text
    assert f"moved mean skill by {found.moved['value']:+.4f} over the warm start" in text
