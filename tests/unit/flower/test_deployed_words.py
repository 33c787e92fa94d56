"""`simulations.deployed` as it is called: wrong calls and unfinished runs are said in two lines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from server import checkpoints, run_config, superlink
from shared_model.errors import OurMistake
from simulations import deployed


@pytest.mark.parametrize(
    "words",
    [[], ["fly"], ["fly", "a", "b"], ["node", "home"], ["coordinator"], ["node", "a", "1", "2"]],
)
def test_what_is_no_call_is_told_which_there_are(words: list[str]) -> None:
    """They were tracebacks."""
    with pytest.raises(OurMistake) as mistake:
        deployed.called(words)
    assert "node HOME SEED" in mistake.value.do
    assert "coordinator HOME RUN_TOML" in mistake.value.do


@pytest.mark.parametrize("seed", ["x", "", "-1", "1.5", "\u0661"])
def test_seed_is_a_whole_number(seed: str, tmp_path: Path) -> None:
    with pytest.raises(OurMistake, match="seed"):
        deployed.called(["node", str(tmp_path), seed])


def test_a_wrong_call_ends_with_status_2_and_two_lines() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "simulations.deployed"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "do: " in done.stderr


@pytest.mark.parametrize(
    ("state", "pause", "told"),
    [
        ("running", "", "The run's process has ended"),
        ("paused", "beta left.", "The run is paused: beta left."),
    ],
)
def test_a_run_that_is_not_finished_says_why_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str, pause: str, told: str
) -> None:
    """ "The run is running." was said of one whose process had gone."""
    record = SimpleNamespace(state=state, pause=pause)
    folder = SimpleNamespace(exists=True, record=lambda: record)
    monkeypatch.setattr(checkpoints, "RunFolder", lambda _: folder)
    monkeypatch.setattr(run_config.RunConfig, "from_toml", lambda _: SimpleNamespace(run="matrix"))
    monkeypatch.setattr(superlink, "conduct", lambda *_, **__: None)
    with pytest.raises(OurMistake) as mistake:
        deployed.called(["coordinator", str(tmp_path), "run.toml"])
    assert told in mistake.value.message
    assert mistake.value.do
