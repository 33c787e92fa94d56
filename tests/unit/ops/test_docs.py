"""The documentation: commands that exist, links that lead somewhere, a page that is short."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import typer
import typer.core

import auditor.cli
import client.cli
import server.cli
import simulations.cli

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
    if path.name not in ("CHANGELOG.md",) and not path.name.startswith("notes-")
)
APPS = {
    "fedprint-node": client.cli.app,
    "fedprint-coordinator": server.cli.app,
    "fedprint-lab": simulations.cli.app,
    "fedprint-audit": auditor.cli.app,
}
AWAITED = {
    *("fedprint-coordinator serve", "fedprint-coordinator resume"),
    *("fedprint-coordinator dashboard", "fedprint-coordinator start --rounds 20 --only-begin"),
    "fedprint-lab public-loss",
}
"""Made on branches that are not merged here yet; empty this once they are."""
JOINING_WORDS = 2000
"""Ten minutes at 200 words a minute."""


def in_code(text: str) -> Iterator[str]:
    """Every line of a code block and every code span that begins with one of our commands."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    rest = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.M | re.S)
    blocks += re.findall(r"^ {4}(?=fedprint-)(.*)$", rest, re.M)
    spans = re.findall(r"`([^`\n]+)`", rest)
    for piece in (*(line for block in blocks for line in block.splitlines()), *spans):
        for part in re.split(r"&&|;|\|", re.split(r"#|  +", piece.strip())[0]):
            found = re.search(
                r"(?:^|\s|/bin/)(fedprint-(?:node|coordinator|lab|audit))(\s.*)?$", part
            )
            if found and not part.strip().startswith(("-v", "systemctl", "cd ")):
                yield (found[1] + (found[2] or "")).strip()


COMMANDS = sorted({(page.name, line) for page in PAGES for line in in_code(page.read_text())})


@cache
def program(name: str) -> click.Command:
    return typer.main.get_command(APPS[name])


def resolved(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that these words name, and the words after its name.

    Raises:
        KeyError: there is none.
    """
    found = program(words[0])
    rest = words[1:]
    while isinstance(found, click.Group) and rest and not rest[0].startswith("-"):
        if rest[0] not in found.commands:
            if type(found) is typer.core.TyperGroup:
                raise KeyError(rest[0])
            return found.commands["make"], rest  # `release RUN` means `release make RUN`
        found, rest = found.commands[rest[0]], rest[1:]
    return found, rest


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{p}:{c[:60]}" for p, c in COMMANDS])
def test_command_in_the_documentation_exists_with_its_options(page: str, line: str) -> None:
    """By the command line's own parser, which knows every name."""
    if re.search(r"fedprint-\w+ *$|\.service|\.\.\.$", line) and " -" not in line:
        return  # the program itself, or its unit
    try:
        words = shlex.split(line)
    except ValueError:
        words = line.split()
    awaited = any(line.startswith(name) for name in AWAITED)
    try:
        command, rest = resolved(words)
    except KeyError:
        if awaited:
            pytest.skip("comes with another branch")
        raise
    known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
    given = {
        word.partition("=")[0] for word in rest if re.fullmatch(r"-\w|--[a-z][\w-]*(=.*)?", word)
    }
    if awaited and not given <= known:
        pytest.skip("comes with another branch")
    assert given <= known | {"--help"}, f"{page}: {line}"


def test_search_for_commands_finds_them_and_their_faults() -> None:
    """Blocks, spans, after `&&` and after sudo."""
    text = (
        "`fedprint-node doctor --json`\n\n```\nx && sudo /o/bin/fedprint-node nonsense # c\n```\n"
    )
    assert list(in_code(text)) == ["fedprint-node nonsense", "fedprint-node doctor --json"]
    with pytest.raises(KeyError):
        resolved(["fedprint-node", "nonsense"])


def anchors(text: str) -> set[str]:
    """Headings as GitHub makes links of them."""
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Files of this repository and headings in them; addresses elsewhere are not asked."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(path.read_text()), f"{page.name}: {target}"


def joining() -> str:
    """From the top of the page to where the node is joined, runs and goes through the firewall."""
    text = (ROOT / "docs" / "hospital-it.md").read_text()
    return text[: text.index("## Hours")]


def test_joining_is_read_in_ten_minutes_and_typed_in_five_lines() -> None:
    """Everything that somebody reads who begins with nothing: install, join, firewall, service."""
    assert len(re.findall(r"[\w'/.-]+", joining())) <= JOINING_WORDS
    block = re.search(r"Five lines:\n\n```\n(.*?)```", joining(), re.S)
    assert block is not None
    assert len(block[1].splitlines()) == 5


def test_first_line_installs_as_the_smoke_test_does() -> None:
    """`make smoke` installs the built wheel with the same constraints into a new environment."""
    assert "pip install -c constraints.txt fedprint-*.whl" in joining()
    assert re.search(
        r"install --quiet -c constraints.txt dist/\*.whl", (ROOT / "Makefile").read_text()
    )
