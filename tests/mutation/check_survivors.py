"""Compares the mutants that survived `mutmut run` with those that docs/mutation.md explains.

    make mutation

A mutant is named by its function and by the lines that it changes, so that the list stays true when
code moves. Exit status 1 if one survived or was reached by no test and is not listed, or if none
was tried. A mutant that never ends is noticed. `--list` prints the survivors in the form of the
document.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIST = ROOT / "docs" / "mutation.md"
MUTMUT = str(Path(sys.executable).with_name("mutmut"))
BAD = {"survived", "no tests", "suspicious", "segfault"}
_NAME = re.compile(r"(?P<module>[\w.]+)\.x(?P<function>.+)__mutmut_\d+$")


def mutmut(*arguments: str) -> str:
    """Its standard output; raises when it fails."""
    return subprocess.run(
        [MUTMUT, *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


def where(name: str) -> str:
    """Module and function of a mutant: `numbers.pack`, `keys.Member.pair_seed`."""
    found = _NAME.match(name)
    if found is None:
        raise SystemExit(f"{name} is not the name of a mutant.")
    module = found["module"].rsplit(".", 1)[1]
    parts = [part for part in found["function"].split("ǁ") if part]
    if len(parts) == 1:
        parts = [parts[0].removeprefix("_")]
    parts[-1] = parts[-1].removeprefix("raw_")
    return ".".join([module, *parts])


def entry(name: str) -> str:
    """One line of the list: function, what was there, what the mutant has."""
    before, after = [], []
    for line in mutmut("show", name).splitlines():
        if line.startswith("-") and not line.startswith("---"):
            before.append(line[1:].strip())
        if line.startswith("+") and not line.startswith("+++"):
            after.append(line[1:].strip())
    return f"- `{where(name)}`: `{' '.join(before)}` -> `{' '.join(after)}`"


def main(arguments: list[str]) -> int:
    bad, tried, unchecked = [], 0, 0
    for line in mutmut("results", "--all", "true").splitlines():
        name, _, status = line.strip().partition(": ")
        if status in BAD:
            bad.append((entry(name), status))
        tried += bool(status)
        unchecked += status == "not checked"
    if "--list" in arguments:
        print("\n".join(sorted(text for text, _ in bad)))
        return 0
    explained = set(LIST.read_text().splitlines())
    new = sorted(f"{text} ({status})" for text, status in bad if text not in explained)
    print(
        f"{tried} mutants: {len(bad)} survived, {len(new)} of them are not explained; "
        f"{unchecked} were not tried."
    )
    print("\n".join(new))
    return 1 if new or unchecked or not tried else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
