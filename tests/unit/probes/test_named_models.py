"""Models by what a user names them: packaged warm starts, files of weights, releases."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from shared_model import mae, warm_start, weights
from shared_model.errors import OurMistake, Refused
from simulations.cli import app
from simulations.models import open_model, read_weights


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


def test_a_signer_of_what_nobody_signed_is_refused(tmp_path: Path) -> None:
    """Who gives a key wants it looked at: it was ignored for all that is no release."""
    path = tmp_path / "mine.safetensors"
    path.write_bytes(weights.to_bytes(mae.weights_of(mae.build(mae.PRESETS["tiny"], 3))))
    for name in ("warm-start", "warm-start:tiny", str(path)):
        with pytest.raises(OurMistake, match="no signature") as refused:
            open_model(name, "ab" * 32)
        assert "--signer" in refused.value.do
    for command in ("probe", "cross-modal", "export"):
        words = [command, "warm-start", "--signer", "ab" * 32, "-o", str(tmp_path / "out")]
        words += ["--pretend", "80"] if command == "probe" else []
        assert isinstance(CliRunner().invoke(app, words).exception, OurMistake)
    assert not (tmp_path / "out").exists()


def test_file_of_weights_that_cannot_be_read_is_refused_with_its_name(tmp_path: Path) -> None:
    """Absent, a folder, no safetensors file, another model's."""
    like = mae.weights_of(mae.build(mae.PRESETS["tiny"], 3))
    for absent in (tmp_path / "absent", tmp_path):
        with pytest.raises(OurMistake, match="cannot be read"):
            read_weights(absent, like=like)
    path = tmp_path / "mine.txt"
    path.write_bytes(b"no weights")
    with pytest.raises(Refused, match=r"mine\.txt: .*not valid safetensors"):
        read_weights(path, like=like)
    path.write_bytes(weights.to_bytes(mae.weights_of(mae.build(mae.PRESETS["small"], 3))))
    with pytest.raises(Refused, match="do not fit"):
        read_weights(path, like=like)


def test_rows_of_a_probe_are_read_before_its_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that is not there, after half an hour of measuring, would be late."""

    def read(*_: object, **__: object) -> None:
        raise AssertionError("tasks were read")

    monkeypatch.setattr("simulations.probes.pretend.pretend_tasks", read)
    words = ["probe", "warm-start", "--pretend", "80", "--row"]
    for row in (f"mine={tmp_path / 'absent'}", "mine="):
        done = CliRunner().invoke(app, [*words, row])
        assert isinstance(done.exception, OurMistake), done.output
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(weights.to_bytes(warm_start.load("tiny")[1]))
    for rows in ([f"random-init={mine}"], [f"mine={mine}", "--row", f"mine={mine}"]):
        done = CliRunner().invoke(app, [*words, *rows])
        assert "already" in str(done.exception)  # its figures took the place of the other's
    start = ["warm-start", str(tmp_path / "out"), "--start-from", str(tmp_path / "absent")]
    assert isinstance(CliRunner().invoke(app, start).exception, OurMistake)
    assert not (tmp_path / "out").exists()
