"""kill -9 of coordinator, SuperLink, node and training process at named points: the same model.

The long matrix strikes at every point of each process, some of them in one run. The normal run
strikes five, all in one run: one of each process and one more, drawn with the seed in
FEDPRINT_CRASH_SEED (an integer; 0 by default, so that a run repeats).
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from crash_parts import Strike, make_template, strikes, struck

pytestmark = [pytest.mark.deployed, pytest.mark.timeout(1800)]

IN_ONE_RUN = 4


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template")
    make_template(root)
    return root


@pytest.fixture(scope="module")
def undisturbed(template: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of the final model of a run that nothing struck."""
    return struck(template, tmp_path_factory.mktemp("undisturbed") / "root", ())


def drawn(seed: int) -> list[Strike]:
    """One strike at each process and a fifth."""
    chance, found = random.Random(seed), strikes()
    chosen = [chance.choice(found[process]) for process in sorted(found)]
    rest = [one for process in sorted(found) for one in found[process] if one not in chosen]
    return [*chosen, chance.choice(rest)]


def cases() -> list[tuple[str, list[Strike]]]:
    """All strikes, a few of one process in a run, far from each other."""
    made = []
    for process, all_of_it in strikes().items():
        runs = -(-len(all_of_it) // IN_ONE_RUN)
        made += [(f"{process}-{first}", all_of_it[first::runs]) for first in range(runs)]
    return made


def test_each_process_is_struck_at_twenty_points_or_more() -> None:
    """The points have different names, and every one is in some case."""
    for process, all_of_it in strikes().items():
        assert len({one.point.name for one in all_of_it}) == len(all_of_it) >= 20, process
    assert sum(len(case) for _, case in cases()) == sum(map(len, strikes().values()))
    assert {one.process for one in drawn(0)} == set(strikes())


def test_five_kills_in_one_run_end_in_the_same_model(
    template: Path, undisturbed: str, tmp_path: Path
) -> None:
    """Each of the four processes at least once; one booking and one answer for each round."""
    case = drawn(int(os.environ.get("FEDPRINT_CRASH_SEED", "0")))
    assert struck(template, tmp_path / "root", case) == undisturbed, [str(one) for one in case]


@pytest.mark.long
@pytest.mark.parametrize("case", [case for _, case in cases()], ids=[name for name, _ in cases()])
def test_a_run_that_was_struck_ends_in_the_same_model(
    template: Path, undisturbed: str, tmp_path: Path, case: list[Strike]
) -> None:
    """The whole matrix."""
    assert struck(template, tmp_path / "root", case) == undisturbed, [str(one) for one in case]
