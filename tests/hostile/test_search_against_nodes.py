"""Plays of the exhaustive search, carried out against real nodes: what the adversary computes from
their bytes is what the search says. So the search is about this code, not only about a page."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import search
from consortium import Consortium
from search import Group

from client import sum_round

World = Callable[..., Consortium]

ROSTERS = [(3, 2, 0), (3, 2, 1), (4, 3, 0), (4, 3, 1), (4, 3, 2), (5, 3, 0), (5, 3, 1), (5, 4, 2)]
"""(n, t, c), within the bound and beyond it: the nodes suppose no colluder."""


def sites_of(mask: int) -> tuple[str, ...]:
    return tuple(f"s{index:02d}" for index in range(8) if mask >> index & 1)


def carried_out(world: Consortium, group: Group, views: search.Views, agree: bool) -> set[int]:
    """Play the views against the nodes; the sets of honest sites whose sum is in clear."""
    colluders = world.colluders[: group.colluders]
    honest = [f"s{index:02d}" for index in range(group.honest)]
    submitters = honest[: group.submitters]
    everybody = [*honest, *colluders]
    world.submit(world.request(1, everybody), everybody)  # gives a signed head of every ledger away
    request = world.request(2, everybody)
    world.submit(request, [*submitters, *colluders])
    shown = {
        site: tuple(sorted((*sites_of(views[index][0]), *colluders)))
        for index, site in enumerate(submitters)
    }
    for site, survivors in shown.items():
        assert world.agree(request, survivors, [site])[site].refused == ""
    for site, survivors in shown.items():
        agreements = None if agree else dict.fromkeys(survivors, b"{}")
        world.open(request, survivors, [site], missing=survivors, agreements=agreements)
    places = {place: seen.dealer for place, seen in enumerate(world.adversary.targets())}
    found = set()
    for combination in world.adversary.learned(world.truth):
        if set(combination.values()) == {1}:
            found.add(sum(1 << int(places[place][1:]) for place in combination))
    return found


def spanned(components: tuple[int, ...]) -> set[int]:
    """All sums of some of the components: disjoint sets, so their unions."""
    found = {0}
    for component in components:
        found |= {component | other for other in found}
    return found - {0}


def random_play(rng: random.Random, n: int, t: int, c: int) -> tuple[Group, search.Views]:
    """Half of them with few different sets, so that some sets get their signatures."""
    submitters = rng.choice([n - c, n - c, max(1, n - c - 1)])
    group = Group(t, n - c, submitters, c)
    choices = [search.survivor_sets(group, site) for site in range(submitters)]
    liked = rng.sample(sorted({mask for masks in choices for mask in masks}), k=1) * 3
    views = []
    for masks in choices:
        fitting = [mask for mask in liked if mask in masks]
        views.append((rng.choice([*fitting, *fitting, rng.choice(masks)]),))
    return group, views


@pytest.mark.parametrize("agree", [True, False])
@pytest.mark.parametrize(("n", "t", "c"), ROSTERS)
def test_nodes_give_away_exactly_what_the_search_says(
    consortium: World, monkeypatch: pytest.MonkeyPatch, n: int, t: int, c: int, agree: bool
) -> None:
    """Random views, and the worst that the search found; with the check of agreements or not."""
    if not agree:
        monkeypatch.setattr(sum_round, "_check_agreement", lambda *given: None)
    rng = random.Random(f"{n} {t} {c}")
    worst = search.search(n, t, c, agree=agree)
    assert worst.witness is not None
    for number, (group, views) in enumerate(
        [worst.witness, *(random_play(rng, n, t, c) for _ in range(3))]
    ):
        world = consortium(
            n,
            name=f"world-{number}",
            threshold=t,
            colluders=[f"s{index:02d}" for index in range(n - c, n)],
            colluding_sites=0,
            allow_two=t == 2,
        )
        found = carried_out(world, group, views, agree)
        assert found == spanned(search.learned(group, views, agree=agree))
        assert found or number
