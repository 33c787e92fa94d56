"""A full disk at the end of a long computation: the figures are shown, the rest is in words."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from shared_model import outputs, terminal
from shared_model.errors import OurMistake
from simulations import cli_cross_modal, cli_probe
from simulations import private_stage as stage
from simulations.cli import app
from simulations.cross_modal_figures import Figures
from simulations.lab import conduct
from simulations.lab.data import write_federation
from simulations.lab.patient_pool import PatientPool
from simulations.probes.table import ProbeTable

ROOT = Path(__file__).resolve().parents[3]


def full_at(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """No room for a file of this name; for those before it there is."""
    whole = outputs.write_atomic

    def write(path: Path, data: bytes, **more: Any) -> None:
        if name in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(path, data, **more)

    monkeypatch.setattr(outputs, "write_atomic", write)


def test_files_of_a_folder_are_written_all_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was there before stays as it was."""
    (tmp_path / "a").write_bytes(b"old")
    with monkeypatch.context() as patch:
        full_at(patch, "b")
        with pytest.raises(OurMistake, match="No space left on device") as refused:
            outputs.write_all(tmp_path, {"a": b"new", "b": b"new"})
    assert refused.value.do == "Free room or name another folder."
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}
    outputs.write_all(tmp_path, {"a": b"new", "b": b"new"}, private=["b"])
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"a": 0o644, "b": 0o600}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands whose computation is done at once; each has a figure called "here it is"."""
    run = SimpleNamespace(name="a run", start="ab", digest="cd")
    figures = {"rows": [], "in_words": ["here it is"], "worst": {"words": "the answer"}}
    monkeypatch.setattr("simulations.gain.finished_below", lambda _: [Path("run")])
    monkeypatch.setattr("simulations.gain.read_runs", lambda *_, **__: [run])
    monkeypatch.setattr("simulations.gain.shares", lambda _: figures)
    monkeypatch.setattr("simulations.against_pooled.against_pooled", lambda *_: figures)
    monkeypatch.setattr(stage, "ordered", lambda *_: [Path("run")])
    monkeypatch.setattr(stage, "read_points", lambda *_, **__: [SimpleNamespace(run=run)])
    monkeypatch.setattr(stage, "compared", lambda _: figures)

    def probed(*_: object, **__: object) -> tuple[ProbeTable, dict[str, Any]]:
        return ProbeTable((), {}, {"af": "here it is"}), {"digests": {}, "source": "x"}

    monkeypatch.setattr(cli_probe, "measure", probed)
    drawn = Figures({}, {"picture.svg": b"x"}, frozenset())
    monkeypatch.setattr(
        cli_cross_modal, "measured", lambda *_, **__: ({"note": "here it is"}, drawn)
    )
    monkeypatch.setattr(cli_cross_modal, "_print", lambda one: terminal.out.print(one["note"]))


COMMANDS = {
    "probe": (["warm-start"], "measured-probe"),
    "gain": (["swept"], "measured-gain"),
    "private-stage": (["swept"], "measured-private-stage"),
    "against-pooled": (["one", "two"], "measured-against-pooled"),
    "cross-modal": (["warm-start"], "measured-cross-modal"),
}


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_what_was_computed_is_shown_where_it_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, more: list[str]
) -> None:
    """It was a traceback and nothing on the screen, after minutes of work."""
    words, file = COMMANDS[name]
    call = [name, *words, "-o", str(tmp_path), *more]
    with monkeypatch.context() as patch:
        full_at(patch, file)
        done = CliRunner().invoke(app, call)
    assert isinstance(done.exception, OurMistake), done.output
    assert "cannot be written: No space left on device." in done.exception.message
    assert "here it is" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert CliRunner().invoke(app, call).exit_code == 0
    assert any(path.name.startswith(file) for path in tmp_path.iterdir())


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("name", COMMANDS)
def test_what_was_computed_is_written_where_it_cannot_be_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Standard output may go to a full disk, or to a reader that has left."""

    def broken(_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(terminal, "print_json", broken)
    words, file = COMMANDS[name]
    done = CliRunner().invoke(app, [name, *words, "-o", str(tmp_path), "--json"])
    assert isinstance(done.exception, BrokenPipeError)
    assert any(path.name.startswith(file) for path in tmp_path.iterdir())


@pytest.mark.usefixtures("measured")
def test_the_answer_of_against_pooled_is_on_the_screen() -> None:
    """As the JSON and the results page have it."""
    assert "the answer" in CliRunner().invoke(app, ["against-pooled", "one", "two"]).stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "say", ["terminal.print_json({1: 2})", "terminal.out.print(1)", "print(1)"]
)
def test_standard_output_that_is_full_is_told_in_words(say: str) -> None:
    code = f"from shared_model import terminal; terminal.run(lambda: {say})"
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, check=False
        )
    said = done.stderr.decode()
    assert done.returncode == OurMistake.exit_code
    assert said.startswith("error: What this command writes cannot be written: No space left")
    assert "Traceback" not in said
    assert "Exception ignored" not in said


def a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: Any
) -> Any:  # click's result has no public name
    """`run` of an experiment that ends so."""
    monkeypatch.setattr(conduct, "run", ends)
    file = ROOT / "docs" / "experiments" / "pooled.toml"
    return CliRunner().invoke(app, ["run", str(file), "-o", str(tmp_path / "out")])


def test_a_run_without_room_says_how_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    fault = a_run(tmp_path, monkeypatch, full).exception
    assert isinstance(fault, OurMistake)
    assert "cannot be written: File too large." in fault.message
    assert "pooled.toml" in fault.do
    assert f"-o {tmp_path / 'out'} --resume" in fault.do

    def other(*_: object, **__: object) -> None:
        raise OSError(errno.ENOENT, "a fault of ours")

    assert isinstance(a_run(tmp_path, monkeypatch, other).exception, FileNotFoundError)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_run_and_cross_modal_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int
) -> None:
    """SIGTERM ended them without one."""

    def ended(*_: object, **__: object) -> None:
        signal.raise_signal(number)

    done = a_run(tmp_path, monkeypatch, ended)
    assert done.exit_code == status
    assert f"Ended by {number.name}. Go on with: fedprint-lab run" in done.stderr
    assert f"-o {tmp_path / 'out'} --resume" in done.stderr
    monkeypatch.setattr(cli_cross_modal, "measured", ended)
    done = CliRunner().invoke(app, ["cross-modal", "warm-start"])
    assert done.exit_code == status
    assert f"Ended by {number.name}. Nothing is written" in done.stderr


def test_a_federation_that_a_full_disk_ends_leaves_no_windows(tmp_path: Path) -> None:
    """What was half-written stayed, and took the room that is to be freed."""

    def sites() -> Iterator[Any]:
        yield from ()
        assert {path.name for path in tmp_path.iterdir()} == {"signal.bin.new", "valid.bin.new"}
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        write_federation(tmp_path, sites(), {})
    assert list(tmp_path.iterdir()) == []


def test_a_pool_that_a_full_disk_ends_leaves_no_windows(tmp_path: Path) -> None:
    """Closing writes what is left, which fails once more: the folder stayed."""

    class Full:
        closed = False

        def close(self) -> None:
            self.closed = True
            raise OSError(errno.ENOSPC, "full")

    pool = PatientPool(tmp_path / "pool")
    pool._signal.close()
    pool._valid.close()
    pool._signal, pool._valid = Full(), Full()  # type: ignore[assignment]
    with pytest.raises(OSError, match="full"), pool:
        pass
    assert not (tmp_path / "pool").exists()
    assert pool._signal.closed
    assert pool._valid.closed
