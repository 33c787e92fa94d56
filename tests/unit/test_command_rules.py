"""Rules for all commands of all programs: each word is explained, no number is nan, and what is to
be written is looked at before anything is computed."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import pytest

import auditor.cli
import client.cli
import server.cli
import simulations.cli
from shared_model import outputs
from shared_model.commands import command_of, walk
from shared_model.errors import OurMistake

PROGRAMS = {
    "fedprint-node": client.cli,
    "fedprint-coordinator": server.cli,
    "fedprint-lab": simulations.cli,
    "fedprint-audit": auditor.cli,
}
COMMANDS = {
    " ".join((name, *path)): command
    for name, module in PROGRAMS.items()
    for path, command in walk(command_of(module.app))
}
PARAMETERS = [
    pytest.param(command, param, id=f"{name} {param.opts[0]}")
    for name, command in COMMANDS.items()
    for param in command.params
]
FLOATS = [one for one in PARAMETERS if isinstance(one.values[1].type, click.types.FloatParamType)]
PATHS = [
    one
    for one in PARAMETERS
    if str(one.id).startswith("fedprint-lab") and isinstance(one.values[1].type, click.Path)
]
READ = {
    "ablate file", "run file", "sweep file", "frontier file", "federation experiment",
    "report out", "gain folders", "private-stage folders", "against-pooled federated",
    "against-pooled pooled", "public-loss home", "head show folder", "head apply folder",
    "head apply source", "head apply --mapping", "head sign folder", "head verify folder",
    "head sign --key", "head train --sites", "head federate --sites", "probe --sites",
    "probe --unseen-by", "plan --check",
    "plan --experiment", "warm-start --start-from",
}  # fmt: skip
"""Places that the lab's commands read; beside every `--data`. `head sign` writes into its folder,
which must hold a head."""
CHECKED_INSIDE = {"results --page"}
"""Is not written with --check, so the command itself looks at it."""


def test_all_programs_are_walked() -> None:
    """Those of pyproject.toml, and every one has commands with arguments and options."""
    import tomllib

    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert set(project["scripts"]) == set(PROGRAMS)
    for name in PROGRAMS:
        kinds = {type(p.values[1]).__name__ for p in PARAMETERS if str(p.id).startswith(name)}
        assert kinds == {"TyperArgument", "TyperOption"}, name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_explained(name: str) -> None:
    """In its --help."""
    assert (COMMANDS[name].help or "").strip(), name


@pytest.mark.parametrize(("command", "param"), PARAMETERS)
def test_every_argument_and_option_is_explained(
    command: click.Command, param: click.Parameter
) -> None:
    """In its command's --help: a reader of a hospital has nothing else at hand."""
    assert (getattr(param, "help", None) or "").strip()


@pytest.mark.parametrize(("command", "param"), FLOATS)
def test_no_option_takes_nan(command: click.Command, param: click.Parameter) -> None:
    """No range refuses it: every comparison with nan is false."""
    with pytest.raises(click.BadParameter, match="nan"):
        param.process_value(click.Context(command), "nan")


@pytest.mark.parametrize(("command", "param"), PATHS)
def test_no_command_of_the_lab_computes_first_and_cannot_write_then(
    command: click.Command, param: click.Parameter, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """What lies below a file cannot be written: it is refused when the words are read."""
    name = request.node.callspec.id.removeprefix("fedprint-lab ")
    if name in READ | CHECKED_INSIDE or name.endswith("--data"):
        return
    (tmp_path / "file").write_bytes(b"kept")
    value: object = str(tmp_path / "file" / "below.svg")
    with pytest.raises(OurMistake, match="no folder"):
        param.process_value(click.Context(command), value)
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_place_to_write_is_one_that_is_free_or_can_be_made(tmp_path: Path) -> None:
    """An existing folder, a new one below it, a file to write again; nothing is made."""
    there, link = tmp_path / "there", tmp_path / "link"
    (tmp_path / "file").write_bytes(b"")
    there.mkdir()
    link.symlink_to(tmp_path / "nowhere")
    assert outputs.folder(None) is outputs.file(None) is None
    for good in (there, there / "a" / "b"):
        assert outputs.folder(good) == good
    for good in (tmp_path / "file", there / "a" / "b.svg", Path("new.svg")):
        assert outputs.file(good) == good
    for bad in (tmp_path / "file", link, link / "x", there / ("x" * 300)):
        with pytest.raises(OurMistake):
            outputs.folder(bad)
    with pytest.raises(OurMistake, match="is a folder"):
        outputs.file(there)
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["file", "link", "there"]


def test_results_page_is_looked_at_by_the_command(tmp_path: Path) -> None:
    """Not by its option: with --check it is only read."""
    (tmp_path / "file").write_bytes(b"")
    for page in (tmp_path, tmp_path / "file" / "page.md"):
        with pytest.raises(OurMistake):
            simulations.cli.app(["results", "--page", str(page)], standalone_mode=False)


@pytest.mark.parametrize(
    ("program", "words", "said"),
    [
        ("fedprint-node", ["data", "add"], "recordings"),
        ("fedprint-coordinator", ["release", "verify"], "folder"),
        ("fedprint-lab", ["export"], "safetensors"),
        ("fedprint-audit", ["sum"], "audit-bundle"),
    ],
)
def test_program_shows_what_an_argument_is(
    program: str,
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Click 8.5 emptied the help of Typer's arguments; the program itself shows it again."""
    monkeypatch.setattr(sys, "argv", [program, *words, "--help"])
    with pytest.raises(SystemExit) as ended:
        PROGRAMS[program].main()
    assert ended.value.code == 0
    arguments = capsys.readouterr().out.partition("Arguments")[2].partition("Options")[0]
    assert said in arguments.lower()
