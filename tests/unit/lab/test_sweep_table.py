"""The table of a sweep on a screen of usual width."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from shared_model import terminal
from simulations import cli_sweep


@pytest.mark.parametrize(("width", "least", "most"), [(80, 1, 1), (200, 3, 6)])
def test_only_as_many_measurements_are_shown_as_the_screen_has_room_for(
    monkeypatch: pytest.MonkeyPatch, width: int, least: int, most: int
) -> None:
    """Thirty probes on 80 columns were columns of one letter; the rest is in the CSV."""
    console = Console(width=width, record=True, quiet=False)
    monkeypatch.setattr(terminal, "out", console)
    probes = [f"auroc label-{number}" for number in range(30)]
    row: dict[str, Any] = {"number": 1, "run": "a", "state": "finished", "loss": 1.0}
    row |= {"rounds": 3, "seconds": 2.0, **dict.fromkeys(probes, 0.5)}
    found: Any = SimpleNamespace(
        folder=Path("swept"), rows=[row, row], varied=["rounds"], probes=probes, failed=[], words=[]
    )
    cli_sweep.show(found, as_json=False)
    text = console.export_text()
    left_out = re.search(r"(\d+) more measurements", text)
    assert left_out is not None
    assert least <= 30 - int(left_out[1]) <= most
    assert "auroc" in text


def test_of_many_varied_fields_a_run_says_what_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight of them on 80 columns were columns of two letters."""
    console = Console(width=80, record=True, quiet=False)
    monkeypatch.setattr(terminal, "out", console)
    names = [f"algorithm.field_{letter}" for letter in "abcdef"]
    base: dict[str, Any] = {"number": 1, "run": "a", "state": "finished", "loss": 1.0, "seed": 1}
    base |= {"auroc rhythm": 0.5, "seconds": 2.0, **dict.fromkeys(names, 1)}
    rows = [base, *({**base, "number": k, name: k} for k, name in enumerate(names, start=2))]
    found: Any = SimpleNamespace(
        folder=Path("swept"), rows=rows, varied=names, probes=["auroc rhythm"], failed=[], words=[]
    )
    cli_sweep.show(found, as_json=False)
    text = console.export_text()
    assert "base" in text
    for number, letter in enumerate("abcdef", start=2):
        assert f"field {letter} {number}" in text
    few: Any = SimpleNamespace(**{**vars(found), "rows": rows[:2]})
    assert set(cli_sweep.shown(few, rows[1], ())) >= {"field_a"}
