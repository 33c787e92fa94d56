"""No line is lost at a rotation or a crash, and all logs read as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from client import node_logs
from client.log_view import followed, last, parsed
from client.node_logs import LONGEST_LINE, Formatter, LogFile, Pump
from client.settings import LogSettings

SMALL = LogSettings(size_mb=1, kept=3)
TEXT = LogSettings(form="text")


def all_lines(path: Path) -> list[str]:
    """Oldest first, over the files that were put aside."""
    aside = sorted(path.parent.glob(f"{path.name}.*"), key=lambda p: -int(p.suffix[1:]))
    return [line for file in (*aside, path) for line in file.read_text().splitlines()]


def test_a_file_is_put_aside_by_size_and_no_line_is_lost(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "training.log", SMALL)
    form = Formatter(SMALL, "training")
    for number in range(300):
        log.write(form.of_child(b"%d " % number + b"x" * 10_000))
    lines = [json.loads(line)["line"].split()[0] for line in all_lines(tmp_path / "training.log")]
    assert lines == [str(number) for number in range(300)]
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 4
    assert max(sizes) <= 1_000_000


def test_no_more_than_the_wanted_number_stays(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "x.log", SMALL)
    for _ in range(12):
        log.write(b"y" * 999_999 + b"\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.log", "x.log.1", "x.log.2", "x.log.3"]


def test_logs_are_for_their_owner_only(tmp_path: Path) -> None:
    LogFile(tmp_path / "logs" / "x.log", SMALL).write(b"line\n")
    assert (tmp_path / "logs" / "x.log").stat().st_mode & 0o777 == 0o600


def test_a_full_disk_loses_lines_counts_them_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = LogFile(tmp_path / "x.log", SMALL)
    real = os.open

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(node_logs.os, "open", full)
    log.write(b"one\n")
    log.write(b"two\n")
    monkeypatch.setattr(node_logs.os, "open", real)
    log.write(b"three\n")
    lines = (tmp_path / "x.log").read_text().splitlines()
    assert "2 pieces of this log could not be written" in lines[0]
    assert lines[1:] == ["three"]


def pumped(code: str, log: LogFile, heard: list[str]) -> Pump:
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert child.stdout is not None
    pump = Pump(child.stdout, log, Formatter(log.settings, "training"), heard.append)
    child.wait(30.0)
    pump.finish(30.0)
    return pump


def test_what_a_child_says_before_it_is_killed_is_in_the_log(tmp_path: Path) -> None:
    log, heard = LogFile(tmp_path / "training.log", SMALL), []
    code = "import os; [print('step', n) for n in range(5000)]; os.write(1, b'last'); "
    code += "os.kill(os.getpid(), 9)"
    pump = pumped(code, log, heard)
    lines = [json.loads(line)["line"] for line in all_lines(log.path)]
    assert lines == [*(f"step {n}" for n in range(5000)), "last"]
    assert heard == lines
    assert pump.last_lines().endswith("step 4999\nlast")


def test_a_line_without_end_does_not_grow_in_memory(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "training.log", SMALL)
    pumped("import os; os.write(1, b'z' * 100_000)", log, [])
    lines = [json.loads(line)["line"] for line in all_lines(log.path)]
    assert "".join(lines) == "z" * 100_000
    assert max(map(len, lines)) <= 5 * LONGEST_LINE


def test_a_line_cannot_move_the_terminal(tmp_path: Path) -> None:
    line = Formatter(TEXT, "training").of_child(b"\x1b[2Jgone\rover\xff")
    assert b"\x1b" not in line
    assert b"\r" not in line
    entry = parsed("training", json.dumps({"line": "\x1b[2J", "time": ""}))
    assert "\x1b" not in entry.as_text()


def test_all_logs_are_merged_by_time(tmp_path: Path) -> None:
    (tmp_path / "node.log.1").write_text('{"time": "2026-01-01T00:00:01.000Z", "message": "a"}\n')
    (tmp_path / "node.log").write_text('{"time": "2026-01-01T00:00:04.000Z", "message": "d"}\n')
    (tmp_path / "training.log").write_text("2026-01-01T00:00:03.000Z c\nno time of its own\n")
    (tmp_path / "sent.log").write_text('{"handed_over_s": 1767225605.5, "id": "e"}\n')
    (tmp_path / "rounds.log").write_text('{"time": "2026-01-01T00:00:02Z", "outcome": "b"}\n')
    texts = [entry.as_text() for entry in last(tmp_path, 10)]
    assert [text.split(maxsplit=2)[2] for text in texts] == [
        "a", "outcome=b", "c", "no time of its own", "d", "id=e",
    ]  # fmt: skip
    assert len(last(tmp_path, 2)) == 2
    assert json.loads(last(tmp_path, 2)[0].as_json()) == {
        "time": "2026-01-01T00:00:04.000Z", "log": "node", "message": "d",
    }  # fmt: skip


def test_following_shows_each_line_once_over_a_rotation(tmp_path: Path) -> None:
    log, form = LogFile(tmp_path / "training.log", SMALL), Formatter(SMALL, "training")
    log.write(form.of_child(b"0"))
    written = iter(range(1, 200))

    def write_more() -> None:
        for number in (next(written), next(written)):
            log.write(form.of_child(b"%d " % number + b"x" * 15_000))

    entries = followed(tmp_path, 10, write_more)
    seen = [next(entries).content["line"].split()[0] for _ in range(190)]
    assert seen == [str(number) for number in range(190)]
    entries.close()
    assert (tmp_path / "training.log.1").exists()
