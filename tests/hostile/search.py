"""Exhaustive search over everything that a lying coordinator can show to the nodes of one round.

Pure graph and set reasoning; nothing of fedprint is imported, so that the search judges the
protocol and not our code. Sites are numbers, sets of sites are bit masks.

The game
--------
A roster of n sites, threshold t, c of them collude with the coordinator, n - c are honest. In one
round each honest site accepts **one** transcript (with it a set of participants P), submits once,
signs and opens for **one** survivor set U that it is in, U within P, |U| >= t. It may be asked to
open several times for this U with growing lists `missing`. The coordinator chooses all of it, for
each honest site separately. With the agree trip on, a site opens only if t distinct members of U
signed this U on its own transcript; colluders sign whatever is asked. With it off, nobody asks.

What the coordinator then holds, q being the number of colluders in P (shares go to P only):

- the self seed of j, if q + (openers whose U holds j) >= t: colluders hold their shares from the
  submission, and every opener gives its share for each j in its U;
- the pair seed of (i, j), if i opened with j in P but outside of U_i, or j opened so for i, or t
  shares of it are there: of the polynomial that i dealt, q + (openers r with i in `missing_r`,
  j outside of U_r), and likewise of the polynomial that j dealt. The two are never added;
- every pair seed with a colluder.

A submission is x_i + self mask + sum of +-pair masks. A combination a of submissions (a in Z mod
2^m) is free of unknown masks if and only if a_i = 0 where the self seed of i is unknown, and
a_i = a_j for every unknown pair seed (i, j), because that mask stands in both with opposite signs.
So a is constant on the components of the graph of unknown pair seeds and zero on components that
hold a site without known self seed. **The learned sums are the multiples and sums of the indicator
vectors of the components that are wholly open**; `learned` returns these components.

What the protocol allows is nothing, or one component with at least max(2, t - c) honest sites.
Anything else is an attack: two sums, or one over fewer.

Why the reductions are exact
----------------------------
Call a play A *stronger* than B if the coordinator knows in A every seed that it knows in B. Then
the span learned in A contains the one of B. If B is an attack, so is A: two independent sums stay
two, and one sum over too few sites either stays or is joined by a second. So only strongest plays
need be searched:

1. `missing` = U. Shares of pair seeds are only added by a longer list.
2. Every site that submitted is asked to agree and to open: what it answers is only added.
3. U holds all colluders of P. Put them into every U: |U| grows, sets U that differed only in
   colluders become one (more signatures on it), colluders sign, and what is opened about honest
   sites (self shares of honest j in U, pair seeds with honest j outside) stays.
4. The same U with another list of submission digests counts as another set to sign; merging them
   gives each more signatures and the openings are the same.
5. Names do not matter, only who is honest: the first submitter has a largest U of all submitters,
   and this U holds the first of the other submitters and the first of the silent sites.

Sites that hold different transcripts have independent seeds (every seed is derived from the
transcript), sign for different transcripts and cannot open rows of another one. So a round falls
into *groups*: (P, G), G the honest sites in P that accepted this transcript; the other honest
sites of P are silent in it. Groups are searched one by one; over two groups with disjoint G that
each learn something the coordinator learns two sums.

`tests/hostile/test_search.py` compares this with a brute force that uses none of 1-5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product


@dataclass(frozen=True)
class Group:
    """The sites of one transcript: `honest` honest sites are in P, numbered from 0; the first
    `submitters` of them accepted it; `colluders` colluders are in P.

    rolled_back: submitters (the last ones) whose disk was rolled back between submission and
        agreement, so that they sign and open for two sets.
    """

    threshold: int
    honest: int
    submitters: int
    colluders: int
    rolled_back: int = 0


Views = Sequence[tuple[int, ...]]
"""For each submitter the honest parts of the survivor sets that it answers; one, or two if it was
rolled back."""


@dataclass(frozen=True)
class Finding:
    """The worst that an exhaustive search found for one (n, t, c).

    smallest: fewest honest sites whose sum is learned; 0 if nothing ever is.
    most_sums: most independent sums learned at once (over two groups together, if more).
    attack: what the protocol does not allow was learned. witness: group and views that show it.
    plays: how many were looked at.
    """

    smallest: int
    most_sums: int
    attack: bool
    witness: tuple[Group, Views] | None
    plays: int


def collusion_bound(n: int, t: int) -> int:
    """The bound that the protocol states; negative means: not even an honest roster is enough."""
    return min(2 * t - n - 1, t - 2)


def learned(group: Group, views: Views, *, agree: bool) -> tuple[int, ...]:
    """Bit masks of the sets of honest sites whose sums the coordinator can compute."""
    q, t = group.colluders, group.threshold
    opened = [(i, mask) for i, masks in enumerate(views) for mask in masks]
    if agree:
        signatures: dict[int, int] = {}
        for _, mask in opened:
            signatures[mask] = signatures.get(mask, q) + 1
        opened = [(i, mask) for i, mask in opened if signatures[mask] >= t]
    if not opened and q < t:
        return ()
    # A rolled-back site gives the same share twice: shares are counted by site.
    holders = [0] * group.honest
    apart = [[0] * group.honest for _ in range(group.honest)]
    linked = [[True] * group.honest for _ in range(group.honest)]
    for i, mask in opened:
        for j in range(group.honest):
            if mask >> j & 1:
                holders[j] |= 1 << i
                for k in range(group.honest):
                    if not mask >> k & 1:
                        apart[j][k] |= 1 << i
            else:
                linked[i][j] = linked[j][i] = False
    for i in range(group.submitters):
        for j in range(group.honest):
            if q + apart[i][j].bit_count() >= t:
                linked[i][j] = linked[j][i] = False
    known = [j < group.submitters and q + holders[j].bit_count() >= t for j in range(group.honest)]
    return _open_components(linked, known)


def _open_components(linked: list[list[bool]], known: list[bool]) -> tuple[int, ...]:
    found, seen = [], 0
    for start in range(len(known)):
        if seen >> start & 1:
            continue
        component, todo = 0, [start]
        while todo:
            i = todo.pop()
            if not component >> i & 1:
                component |= 1 << i
                todo += [j for j, link in enumerate(linked[i]) if link and not component >> j & 1]
        seen |= component
        if all(known[j] for j in range(len(known)) if component >> j & 1):
            found.append(component)
    return tuple(found)


def plays(group: Group) -> Iterator[Views]:
    """All strongest choices of survivor sets for the submitters, up to the names of sites."""
    choices = [survivor_sets(group, i) for i in range(group.submitters)]
    doubled = [
        list(combinations_with_replacement(masks, 2))
        if i >= group.submitters - group.rolled_back
        else [(mask,) for mask in masks]
        for i, masks in enumerate(choices)
    ]
    if group.rolled_back:  # the sites are not alike any more: no symmetry
        yield from product(*doubled)
        return
    for first in choices[0]:
        if not _sorted_first(group, first):
            continue
        size = first.bit_count()
        rest = [[view for view in views if view[0].bit_count() <= size] for views in doubled[1:]]
        for others in product(*rest):
            yield ((first,), *others)


def survivor_sets(group: Group, site: int) -> list[int]:
    return [
        mask
        for mask in range(1 << group.honest)
        if mask >> site & 1 and mask.bit_count() + group.colluders >= group.threshold
    ]


def _sorted_first(group: Group, mask: int) -> bool:
    """Whether the mask holds the lowest numbers among submitters, and among silent sites."""
    low = mask & ((1 << group.submitters) - 1)
    high = mask >> group.submitters
    return low & (low + 1) == 0 and high & (high + 1) == 0


def groups(n: int, t: int, c: int, rolled_back: int = 0) -> Iterator[Group]:
    """All groups of a roster of n with c colluders that can reach t survivors at all."""
    for honest in range(1, n - c + 1):
        for colluders in range(c + 1):
            if honest + colluders < t:
                continue
            for submitters in range(1, honest + 1):
                yield Group(t, honest, submitters, colluders, min(rolled_back, submitters))


def search(n: int, t: int, c: int, *, agree: bool, rolled_back: int = 0) -> Finding:
    """Look at every play of every group of one round; see the module's docstring."""
    allowed = max(2, t - c)
    smallest, most, count = 0, 0, 0
    witness: tuple[Group, Views] | None = None
    attack = False
    fewest_submitters = 0
    for group in groups(n, t, c, rolled_back):
        for views in plays(group):
            count += 1
            sums = learned(group, views, agree=agree)
            if not sums:
                continue
            if not fewest_submitters or group.submitters < fewest_submitters:
                fewest_submitters = group.submitters
            size = min(mask.bit_count() for mask in sums)
            bad = len(sums) > 1 or size < allowed
            better = not smallest or size < smallest or (bad and not attack)
            if better:
                witness = (group, views)
            smallest = size if not smallest else min(smallest, size)
            most = max(most, len(sums))
            attack = attack or bad
    # A site that was rolled back before it submitted can be in the groups of two transcripts.
    if fewest_submitters and 2 * fewest_submitters <= n - c + rolled_back:
        most, attack = max(most, 2), True
    return Finding(smallest, most, attack, witness, count)


def rosters(largest: int) -> Iterator[tuple[int, int, int]]:
    """(n, t, c) for n from 2, t from a majority to n, c from 0 to n - 1."""
    for n in range(2, largest + 1):
        for t in range(n // 2 + 1, n + 1):
            for c in range(n):
                yield n, t, c


def table(largest: int) -> str:
    """What the search finds, as the table of docs/secure-sum-attacks.md."""
    lines = [
        "| n | t | colluders | bound | agree off: fewest sites in a sum, sums "
        "| agree on: fewest sites in a sum, sums | attack with agree on |",
        "|---|---|---|---|---|---|---|",
    ]
    for n, t, c in rosters(largest):
        off, on = search(n, t, c, agree=False), search(n, t, c, agree=True)
        word = "none" if not on.attack else "yes"
        lines.append(
            f"| {n} | {t} | {c} | {collusion_bound(n, t)} | {_cell(off)} | {_cell(on)} | {word} |"
        )
    return "\n".join(lines) + "\n"


def _cell(finding: Finding) -> str:
    return f"{finding.smallest}, {finding.most_sums}" + (" (attack)" if finding.attack else "")


if __name__ == "__main__":
    print(table(5), end="")
