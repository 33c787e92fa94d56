"""The exhaustive search over per-node views: what it finds, and that its reductions are exact."""

from __future__ import annotations

import random
from itertools import product

import brute_force
import numpy as np
import pytest
import search
from brute_force import View
from search import Group

SMALL = [(n, t, c) for n, t, c in search.rosters(4) if n >= 3]


def attack_of_three_parts() -> tuple[Group, tuple[tuple[int, ...], ...]]:
    """n = 5, t = 3, no colluder: site 0 is opened by its peers and itself."""
    first = (0b00111,)  # site 0 is shown {0, 1, 2}: it opens its pair seeds with 3 and 4
    others = (0b01110,)  # sites 1 and 2 are shown {1, 2, 3}: they open theirs with site 0
    third = (0b11001,)  # sites 3 and 4 are shown {0, 3, 4}: with site 0, three shares of its seed
    return Group(3, 5, 5, 0), (first, others, others, third, third)


def test_known_attack_without_the_agree_trip_gives_one_update() -> None:
    """The attack of the design text learns the vector of site 0 alone, and agree ends it."""
    group, views = attack_of_three_parts()
    assert 0b00001 in search.learned(group, views, agree=False)
    assert search.learned(group, views, agree=True) == ()


def test_search_finds_the_attack_when_the_agree_trip_is_off() -> None:
    """n = 5, t = 3, no colluder: a single update is learned, by some play of the search."""
    finding = search.search(5, 3, 0, agree=False)
    assert finding.attack
    assert finding.smallest == 1
    assert finding.witness is not None
    group, views = finding.witness
    assert any(mask.bit_count() == 1 for mask in search.learned(group, views, agree=False))


@pytest.mark.parametrize(("n", "t", "c"), list(search.rosters(5)))
def test_agree_trip_holds_up_to_the_bound_and_not_beyond(n: int, t: int, c: int) -> None:
    """One sum over at least t - c honest sites up to the bound; at every c above it an attack."""
    finding = search.search(n, t, c, agree=True)
    assert finding.attack == (c > search.collusion_bound(n, t))
    if not finding.attack:
        assert finding.most_sums == 1  # an honest play does give the sum: the search can see one
        assert finding.smallest >= max(2, t - c)


@pytest.mark.parametrize(("n", "t", "c"), list(search.rosters(5)))
def test_what_is_learned_within_the_bound_is_the_sum_of_an_agreed_set(
    n: int, t: int, c: int
) -> None:
    """Within the bound every learned set is the honest part of a set that t sites signed."""
    if c > search.collusion_bound(n, t):
        return
    for group in search.groups(n, t, c):
        for views in search.plays(group):
            shown = [view[0] for view in views]
            for mask in search.learned(group, views, agree=True):
                assert shown.count(mask) + group.colluders >= t


@pytest.mark.parametrize(("n", "t", "c"), [(3, 2, 0), (4, 3, 0), (4, 3, 1), (5, 3, 0), (5, 4, 2)])
def test_without_agreement_there_are_attacks_within_the_bound(n: int, t: int, c: int) -> None:
    """The agree trip is needed: these rosters are within the bound and fall without it."""
    assert c <= search.collusion_bound(n, t)
    assert search.search(n, t, c, agree=False).attack


@pytest.mark.parametrize(
    ("n", "t", "c", "rolled_back"), [(4, 3, 0, 1), (4, 4, 1, 1), (5, 4, 0, 1), (5, 4, 1, 1)]
)
def test_rolled_back_site_counts_as_one_colluder_of_the_bound(
    n: int, t: int, c: int, rolled_back: int
) -> None:
    """A site restored between submit and agree signs twice; c + 1 within the bound still holds."""
    assert c + rolled_back <= search.collusion_bound(n, t)
    assert not search.search(n, t, c, agree=True, rolled_back=rolled_back).attack


def test_rolled_back_site_beyond_the_bound_is_an_attack() -> None:
    """n = 4, t = 3: one colluder and one rolled-back site are one too many."""
    assert search.search(4, 3, 1, agree=True, rolled_back=1).attack


def slices(n: int, c: int) -> list[dict[str, object]]:
    """All views for n = 3; for n = 4 two slices that together hold every kind of view."""
    everything = {"labels": 2, "missing": "all", "partial": True, "whole_roster": False}
    if n == 3:
        return [everything]
    return [
        {**everything, "missing": "most"} if c else {**everything, "labels": 1, "missing": "most"},
        {"labels": 1, "missing": "few", "partial": False, "whole_roster": True},
        {"labels": 2, "missing": "most", "partial": False, "whole_roster": False},
    ]


@pytest.mark.parametrize("agree", [False, True])
@pytest.mark.parametrize(("n", "t", "c"), SMALL)
def test_brute_force_without_symmetry_agrees(n: int, t: int, c: int, agree: bool) -> None:
    """Worst case over all views, by matrix and subsets, equals what the reduced search says."""
    smallest, most = 0, 0
    for options in slices(n, c):
        choices = [brute_force.views_of(i, n, t, **options) for i in range(n - c)]  # type: ignore[arg-type]
        for views in product(*choices):
            found = brute_force.learned_subsets(n, t, views, agree=agree)
            if found:
                size = min(len(sites) for sites in found)
                smallest = min(size, smallest or size)
                most = max(most, (len(found) + 1).bit_length() - 1)
    finding = search.search(n, t, c, agree=agree)
    assert (finding.smallest, finding.most_sums) == (smallest, most)


@pytest.mark.parametrize("agree", [False, True])
def test_components_are_the_kernel_of_the_mask_matrix(agree: bool) -> None:
    """Random plays: as many components as the kernel of the matrix of unknown masks has dimensions,
    and each component is in it."""
    rng = random.Random(11)
    learning = 0
    for _ in range(400):
        group = rng.choice(list(search.groups(5, rng.choice([3, 4]), rng.choice([0, 0, 1, 2]))))
        play = [rng.choice(search.survivor_sets(group, site)) for site in range(group.submitters)]
        n = group.honest + group.colluders
        colluders = frozenset(range(group.honest, n))
        everyone = frozenset(range(n))
        views: list[View | None] = [None] * group.honest
        for i, mask in enumerate(play):
            survivors = frozenset(j for j in range(group.honest) if mask >> j & 1) | colluders
            views[i] = View(0, everyone, survivors, True, survivors)
        rows = brute_force.unknown_masks(n, group.threshold, views, agree=agree)
        columns = sorted({mask for row in rows.values() for mask in row}, key=repr)
        matrix = np.array(
            [[rows[i].get(mask, 0) for mask in columns] for i in range(group.submitters)],
            dtype=np.int64,
        ).reshape(group.submitters, len(columns))
        sums = search.learned(group, [(mask,) for mask in play], agree=agree)
        rank = int(np.linalg.matrix_rank(matrix)) if columns else 0
        assert group.submitters - rank == len(sums)
        for component in sums:
            chosen = [component >> i & 1 for i in range(group.submitters)]
            assert not (np.array(chosen) @ matrix).any()
        learning += bool(sums)
    assert learning > 20
