"""Prints, as Markdown, which self-test finds which seeded bug.

    PYTHONPATH=. python tests/unit/selftest/print_matrix.py demanded              # by the tests
    PYTHONPATH=. python tests/unit/selftest/print_matrix.py ["NAME OF A BUG" ...]   # measured

X: found (FAILED). A dot: not found. ?: CANNOT CHECK. All checks with --quick, for every bug.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import pytest
from seeded_bugs import BUGS, Bug

from auditor import selftest, selftest_checks, selftest_counting, selftest_shared
from simulations.torch_threads import torch_threads

CHECKS = (*selftest_checks.CHECKS, *selftest_shared.CHECKS, *selftest_counting.CHECKS)
MARKS = {"FAILED": "X", "OK": "\u00b7", "CANNOT CHECK": "?"}


def verdicts(bug: Bug | None) -> dict[str, selftest.Verdict]:
    """Of every check, quick, with this bug in the product."""
    with torch_threads(1), pytest.MonkeyPatch.context() as patch:
        if bug is not None:
            bug.seed(patch)
        return {check.name: selftest.run(check, quick=True).verdict for check in CHECKS}


def lines(names: Sequence[str] = ()) -> Iterator[str]:
    """The table, line by line, of these bugs or all; the first row is the code as it is."""
    yield "| seeded bug | " + " | ".join(check.name for check in CHECKS) + " |"
    yield "|---|" + "---|" * len(CHECKS)
    for bug in (None, *(bug for bug in BUGS if not names or bug.name in names)):
        row = verdicts(bug)
        name = "none" if bug is None else bug.name
        yield f"| {name} | " + " | ".join(MARKS[row[check.name]] for check in CHECKS) + " |"


def demanded() -> Iterator[str]:
    """What the tests demand for each bug."""
    yield "| seeded bug | fails | passes |"
    yield "|---|---|---|"
    for bug in BUGS:
        yield f"| {bug.name} | {', '.join(bug.found_by)} | {', '.join(bug.not_by)} |"


if __name__ == "__main__":
    for line in demanded() if sys.argv[1:] == ["demanded"] else lines(sys.argv[1:]):
        print(line, flush=True)
