"""Models by what a user names them: packaged warm starts, files of weights, releases."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared_model import mae, warm_start, weights
from shared_model.errors import OurMistake, Refused
from simulations.models import open_model


def test_the_packaged_warm_start_is_opened_by_its_name() -> None:
    """`warm-start` is the tiny one; a preset may be named."""
    _, found, _ = warm_start.load("tiny")
    assert open_model("warm-start").digest == weights.digest(found)
    assert open_model("warm-start:tiny").digest == weights.digest(found)
    assert "tiny" in warm_start.packaged()


def test_the_preset_of_a_file_of_weights_is_found_by_its_shapes(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    made = mae.weights_of(mae.build(mae.PRESETS["small"], 3))
    path.write_bytes(weights.to_bytes(made))
    opened = open_model(str(path))
    assert (opened.config.preset, opened.digest) == ("small", weights.digest(made))
    assert "signed by nobody" in opened.words["private_training"]


def test_weights_of_no_preset_and_files_that_are_not_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    made = mae.weights_of(mae.build(mae.PRESETS["tiny"], 3))
    made.pop(next(iter(made)))
    path.write_bytes(weights.to_bytes(made))
    with pytest.raises(OurMistake, match="no preset"):
        open_model(str(path))
    path.write_bytes(b"\x80\x04 not weights")
    with pytest.raises(Refused):
        open_model(str(path))
    with pytest.raises(OurMistake, match="no model"):
        open_model(str(tmp_path / "absent"))
    with pytest.raises(OurMistake, match="packaged"):
        open_model("warm-start:huge")
