"""A model's fingerprint as ONNX: the same numbers without torch."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from shared_model import mae, outputs, warm_start, weights
from shared_model.errors import OurMistake, Refused
from simulations import cli_export, onnx_export
from simulations.cli import app

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def made() -> onnx_export.Exported:
    config, weights, _ = warm_start.load("tiny")
    return onnx_export.export(config, weights, {"model_digest": "ab"})


@pytest.mark.parametrize(("form", "least"), [("float32", 0.99999), ("int8", 0.99)])
def test_the_exported_fingerprint_is_the_models(
    made: onnx_export.Exported, form: str, least: float
) -> None:
    """Both sensors, each alone, and 2.1 seconds."""
    config, weights, _ = warm_start.load("tiny")
    found = onnx_export.agreement(config, weights, getattr(made, form), windows=32)
    assert set(found) == {"both", "ecg", "ppg", "short"}
    assert all(one["min"] >= least for one in found.values())
    onnx_export.check_agreement(found)


def test_the_int8_file_of_the_packaged_small_agrees_in_every_window() -> None:
    """Each sensor alone, too: with an 8-bit patch embedding one of these was at 0.988, and the
    export refused."""
    import onnx

    config, weights, _ = warm_start.load("small")
    made = onnx_export.export(config, weights)
    onnx_export.check_agreement(onnx_export.agreement(config, weights, made.int8))
    assert len(onnx_export.embeddings(onnx.load_model_from_string(made.int8))) == 2


def test_attention_is_one_operator_and_no_sum_is_joined_to_a_norm(
    made: onnx_export.Exported,
) -> None:
    """Nine operators each, and a slow kernel of onnxruntime: int8 was 1.7 times as fast as torch on
    one machine, where it is 2.1 now (`bench onnx`)."""
    import onnx

    config = mae.PRESETS["tiny"]
    blocks = 2 * config.encoder_blocks + config.bottleneck_blocks
    for data in (made.float32, made.int8):
        nodes = onnx.load_model_from_string(data).graph.node
        assert [one.op_type for one in nodes].count("Attention") == blocks
        takers: dict[str, list[str]] = {}
        for node in nodes:
            for name in node.input:
                takers.setdefault(name, []).append(node.op_type)
        joined = [one for one in nodes if takers.get(one.output[0]) == ["LayerNormalization"]]
        assert joined
        assert all(one.op_type == "Sum" for one in joined)


def test_the_model_itself_is_left_as_it_was() -> None:
    """The form for ONNX is a copy's; in torch it gives the same fingerprints."""
    config, weights, _ = warm_start.load("tiny")
    model, other = mae.build(config, 0), mae.build(config, 0)
    for one in (model, other):
        mae.load_weights(one, weights)
    other = onnx_export.for_onnx(other.eval())
    rng = np.random.default_rng(3)
    signal = torch.from_numpy(rng.standard_normal((4, 2, 1250)).astype(np.float32))
    valid = torch.ones(4, 2, 50, dtype=torch.bool)
    valid[1, 0], valid[2, 1], valid[3, :, 11:] = False, False, False
    with torch.inference_mode():
        wanted = onnx_export.FingerprintPath(model.eval())(signal, valid)
        found = onnx_export.FingerprintPath(other)(signal, valid)
    assert torch.allclose(wanted, found, atol=1e-5)
    assert mae.weights_of(model).keys() == weights.keys()


def test_the_number_of_windows_is_free_and_nothing_valid_gives_zeros(
    made: onnx_export.Exported,
) -> None:
    for data in (made.float32, made.int8):
        session = onnx_export.session(data)
        for count in (1, 3):
            signal = np.random.default_rng(0).standard_normal((count, 2, 1250)).astype(np.float32)
            valid = np.ones((count, 2, 50), dtype=np.bool_)
            valid[0] = False
            found = onnx_export.run(session, signal, valid)
            assert found.shape == (count, 128)
            assert np.abs(found[0]).max() == 0.0
            assert np.allclose(np.linalg.norm(found[1:], axis=1), 1.0, atol=1e-4)


def test_calls_of_few_windows_give_every_window_its_own(made: onnx_export.Exported) -> None:
    """In order, the last call with what is left; what an int8 window shares a scale with is its own
    call's company."""
    rng = np.random.default_rng(3)
    count = 2 * onnx_export.AT_ONCE + 3
    signal = rng.standard_normal((count, 2, 1250)).astype(np.float32)
    valid = np.ones((count, 2, 50), dtype=np.bool_)
    for data in (made.float32, made.int8):
        session = onnx_export.session(data)
        found = onnx_export.run(session, signal, valid)
        whole = onnx_export.run(session, signal, valid, at_once=None)
        assert found.shape == whole.shape == (count, 128)
        cosine = found @ whole.T
        assert (cosine.argmax(axis=1) == np.arange(count)).all()
        assert (cosine.diagonal() > 0.99).all()
        last = onnx_export.run(session, signal[-3:], valid[-3:], at_once=None)
        assert np.allclose(found[-3:], last, atol=1e-6)


def test_a_window_of_no_numbers_is_no_others_business(made: onnx_export.Exported) -> None:
    """All windows of an int8 call share scales: one NaN made all of them NaN. Behind tokens that
    are not valid nothing is looked at."""
    rng = np.random.default_rng(1)
    signal = rng.standard_normal((6, 2, 1250)).astype(np.float32)
    valid = np.ones((6, 2, 50), dtype=np.bool_)
    valid[4, 1, 30:] = False
    bad = signal.copy()
    bad[1, 0, 7], bad[2, 1, 1249], bad[3, 0, 0] = np.nan, np.inf, 1e20
    bad[4, 1, 750:] = np.nan
    for data in (made.float32, made.int8):
        session = onnx_export.session(data)
        wanted = onnx_export.run(session, signal, valid)
        found = onnx_export.run(session, bad, valid)
        assert np.isnan(found[1:4]).all()
        cosine = (found * wanted).sum(axis=1)[[0, 4, 5]]
        assert (cosine >= 0.99).all()
        if data is made.float32:
            assert np.array_equal(found[[0, 5]], wanted[[0, 5]])


def test_int8_is_smaller_and_neither_file_names_this_machine(made: onnx_export.Exported) -> None:
    assert len(made.int8) < 0.5 * len(made.float32)
    for data in (made.float32, made.int8):
        assert b"site-packages" not in data
        assert b"mae.py" not in data
        assert b"mae_layers.py" not in data


def test_another_models_file_is_refused(made: onnx_export.Exported) -> None:
    """What differs from the model is not written: here, the file of other weights."""
    config = mae.PRESETS["tiny"]
    other = mae.weights_of(mae.build(config, 5))
    found = onnx_export.agreement(config, other, made.float32, windows=8)
    with pytest.raises(Refused) as caught:
        onnx_export.check_agreement(found)
    assert caught.value.reason == "agreement"
    assert "int8" not in caught.value.do
    with pytest.raises(Refused) as caught:
        onnx_export.check_agreement(found, float32_agrees=True)
    assert "--no-int8" in caught.value.do


@pytest.mark.parametrize("factor", [0.0, 1e30])
def test_weights_whose_fingerprint_is_no_number_are_named(
    made: onnx_export.Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    """It was said to differ from the model's, with "cosine nan", and to be exported without the
    int8 file where there was none."""
    _, whole, _ = warm_start.load("tiny")
    path = tmp_path / "lost.safetensors"
    path.write_bytes(
        weights.to_bytes({name: np.float32(factor) * one for name, one in whole.items()})
    )
    monkeypatch.setattr(onnx_export, "export", lambda *_: made)
    words = ["export", str(path), "--no-int8", "-o", str(tmp_path / "exported")]
    refused = CliRunner().invoke(app, words).exception
    assert isinstance(refused, Refused)
    assert refused.reason == "weights"
    assert str(path) in refused.message
    assert "no number" in refused.message
    assert "int8" not in refused.do
    assert not (tmp_path / "exported" / "manifest.json").exists()


def test_the_command_writes_files_and_a_manifest_and_the_documented_lines_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/export.md shows ten lines of Python; they are executed here."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["export", "warm-start", "-o", "exported", "--json"])
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "exported" / "manifest.json").read_text())
    assert set(manifest["files"]) == {"fingerprint.onnx", "fingerprint.int8.onnx"}
    assert "Not a medical device" in manifest["limits"]
    assert manifest["source"] == "warm-start"
    page = (ROOT / "docs" / "export.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code is not None
    scope: dict[str, object] = {}
    exec(code.group(1), scope)
    assert np.shape(scope["fingerprint"]) == (1, 128)
    assert torch.get_num_threads() == threads


def exporting(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[int]:
    """The command with made-up files in place of a minute's work; how often it was asked."""
    asked: list[int] = []

    def made_up(*_: object) -> tuple[dict[str, bytes], dict[str, object]]:
        asked.append(1)
        return {name: b"new" for name in names}, {"model_digest": "ab", "files": {}}

    monkeypatch.setattr(cli_export, "_export", made_up)
    return asked


@pytest.mark.parametrize("name", ["fingerprint.onnx", "fingerprint.int8.onnx", "manifest.json"])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_an_export_is_never_written_over_or_beside_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    """With --no-int8 the old int8 file stayed beside the new manifest; a folder in a file's place
    ended in a traceback. Refused before the work; all that is there stays as it was."""
    asked = exporting(monkeypatch, "fingerprint.onnx")
    place = tmp_path / name
    if kind == "file":
        place.write_bytes(b"old")
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to(tmp_path / "nowhere")
    for more in ((), ("--no-int8",)):
        done = CliRunner().invoke(app, ["export", "warm-start", *more, "-o", str(tmp_path)])
        assert isinstance(done.exception, OurMistake)
        assert f"holds {name} already" in done.exception.message
    assert asked == []
    assert os.listdir(tmp_path) == [name]
    assert kind != "file" or place.read_bytes() == b"old"


def test_an_export_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full at the second file; and a folder with other files is no obstacle."""
    exporting(monkeypatch, "fingerprint.onnx", "fingerprint.int8.onnx")
    (tmp_path / "notes.txt").write_text("mine")
    whole = outputs.write_atomic

    def full_disk(path: Path, data: bytes, *, mode: int) -> None:
        if "int8" in path.name:
            raise OSError(errno.ENOSPC, "full")
        whole(path, data, mode=mode)

    words = ["export", "warm-start", "-o", str(tmp_path), "--json"]
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "write_atomic", full_disk)
        done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, OurMistake)
    assert "No space left" in done.exception.message
    assert os.listdir(tmp_path) == ["notes.txt"]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert len(os.listdir(tmp_path)) == 4
