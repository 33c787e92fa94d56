"""What is different between two states of the code: files, and lines where both texts are known."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from shared_model.code import CodeState


@dataclass(frozen=True)
class Difference:
    """Names of files, sorted; lines added and removed by name, where both texts are known."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    lines: dict[str, tuple[int, int]]

    @property
    def words(self) -> str:
        """One line."""
        more = sum(one for one, _ in self.lines.values())
        fewer = sum(one for _, one in self.lines.values())
        return (
            f"{len(self.changed)} files changed, {len(self.added)} added, "
            f"{len(self.removed)} removed; {more} lines more, {fewer} lines fewer in changed files"
        )


def difference(old: CodeState, new: CodeState) -> Difference:
    """From the old state to the new."""
    both = old.files.keys() & new.files.keys()
    changed = tuple(sorted(name for name in both if old.files[name] != new.files[name]))
    lines = {name: _count(old, new, name) for name in changed if _known(old, new, name)}
    return Difference(
        added=tuple(sorted(new.files.keys() - both)),
        removed=tuple(sorted(old.files.keys() - both)),
        changed=changed,
        lines=lines,
    )


def as_diff(old: CodeState, new: CodeState) -> Iterator[str]:
    """Unified diff of all texts, line by line; a file of which no text is known is named.

    The new code may be written by somebody who wants it not to be seen: see `visible`.
    """
    return map(visible, _as_diff(old, new))


def visible(text: str) -> str:
    """Characters that move a terminal's cursor, or turn the direction of reading, as escapes."""
    return "".join(
        one if one.isprintable() or one == "\t" else one.encode("unicode_escape").decode()
        for one in text
    )


def _as_diff(old: CodeState, new: CodeState) -> Iterator[str]:
    for name in sorted(old.files.keys() | new.files.keys()):
        if old.files.get(name) == new.files.get(name):
            continue
        if any(name in state.files and name not in state.texts for state in (old, new)):
            yield f"{name}: not text, or its text was not kept"
            continue
        yield from difflib.unified_diff(
            _lines(old, name),
            _lines(new, name),
            f"approved/{name}",
            f"installed/{name}",
            lineterm="",
        )


def _known(old: CodeState, new: CodeState, name: str) -> bool:
    return name in old.texts and name in new.texts


def _lines(state: CodeState, name: str) -> list[str]:
    """Python's own lines: `splitlines` would also end them at characters that Python reads on at,
    and so call two texts equal of which one has a line in a comment."""
    *lines, last = state.texts.get(name, "").split("\n")
    return [*lines, last, "\\ no newline at the end"] if last else lines


def _count(old: CodeState, new: CodeState, name: str) -> tuple[int, int]:
    added = removed = 0
    matcher = difflib.SequenceMatcher(None, _lines(old, name), _lines(new, name), autojunk=False)
    for what, i1, i2, j1, j2 in matcher.get_opcodes():
        if what != "equal":
            removed += i2 - i1
            added += j2 - j1
    return added, removed
