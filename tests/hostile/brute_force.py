"""The game of `search` once more, without symmetry, dominance or graphs: slow and straightforward.

Every honest site has any view; masks are columns of a matrix; every subset of the submissions is
tried, and one is learned if all masks that the coordinator does not know cancel in its sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, product

Sites = frozenset[int]
Mask = tuple[object, ...]


@dataclass(frozen=True)
class View:
    """What one honest site was shown. survivors None: it was never asked to agree.

    opens False: it signed and was not asked to open.
    """

    label: int
    participants: Sites
    survivors: Sites | None = None
    opens: bool = False
    missing: Sites = frozenset()

    @property
    def transcript(self) -> tuple[object, ...]:
        return (self.label, self.participants)


def subsets(sites: Iterable[int]) -> list[Sites]:
    items = sorted(sites)
    return [frozenset(s) for size in range(len(items) + 1) for s in combinations(items, size)]


def views_of(
    site: int, n: int, t: int, *, labels: int, missing: str, partial: bool, whole_roster: bool
) -> list[View | None]:
    """All views of a site.

    missing: "all" subsets of U, "few" (none, each site, all) or "most" (U itself). partial: also
    views in which the site is silent, not asked to agree, or not asked to open. whole_roster: all
    sites are participants.
    """
    found: list[View | None] = [None] if partial else []
    for label, participants in product(range(labels), subsets(range(n))):
        if site not in participants or len(participants) < t:
            continue
        if whole_roster and len(participants) < n:
            continue
        if partial:
            found.append(View(label, participants))
        for survivors in subsets(participants):
            if site not in survivors or len(survivors) < t:
                continue
            if partial:
                found.append(View(label, participants, survivors))
            lists = {"all": subsets(survivors), "most": [survivors]}.get(missing) or [
                s for s in subsets(survivors) if len(s) in {0, 1, len(survivors)}
            ]
            if survivors == participants:  # nobody dropped: the list has nothing to open
                lists = [frozenset()]
            found += [View(label, participants, survivors, True, m) for m in lists]
    return found


def known_seeds(n: int, t: int, views: Sequence[View | None], *, agree: bool) -> set[Mask]:
    """Every seed that the coordinator and its colluders (the sites without a view) hold."""
    honest = range(len(views))
    colluders = frozenset(range(len(views), n))
    shares: dict[tuple[object, ...], set[int]] = {}
    known: set[Mask] = set()
    for i, view in enumerate(views):
        if view is None:
            continue
        transcript = view.transcript
        for j in sorted(view.participants - {i}):
            if j in colluders:
                known.add(("pair", transcript, frozenset({i, j})))
            shares[("pair", transcript, i, j)] = set(colluders & view.participants)
        shares[("self", transcript, i)] = set(colluders & view.participants)
    for i, view in enumerate(views):
        if view is None or view.survivors is None or not view.opens:
            continue
        transcript, survivors = view.transcript, view.survivors
        signers = {
            j
            for j in honest
            if (other := views[j]) is not None
            and other.transcript == transcript
            and other.survivors == survivors
        } | (colluders & survivors)
        if agree and len(signers) < t:
            continue
        dropped = view.participants - survivors
        for j in survivors:
            shares.setdefault(("self", transcript, j), set()).add(i)
        for j in dropped:
            known.add(("pair", transcript, frozenset({i, j})))
            for v in view.missing:
                if ("pair", transcript, v, j) in shares:  # v really submitted
                    shares[("pair", transcript, v, j)].add(i)
    for name, holders in shares.items():
        if len(holders) >= t:
            kind, transcript, *ends = name
            known.add(
                ("self", transcript, ends[0])
                if kind == "self"
                else ("pair", transcript, frozenset(ends))
            )
    return known


def unknown_masks(
    n: int, t: int, views: Sequence[View | None], *, agree: bool
) -> dict[int, dict[Mask, int]]:
    """The masks with their signs that are still on each honest submission."""
    known = known_seeds(n, t, views, agree=agree)
    rows: dict[int, dict[Mask, int]] = {}
    for i, view in enumerate(views):
        if view is None:
            continue
        row: dict[Mask, int] = {("self", view.transcript, i): 1}
        for j in view.participants - {i}:
            row[("pair", view.transcript, frozenset({i, j}))] = 1 if j > i else -1
        rows[i] = {mask: sign for mask, sign in row.items() if mask not in known}
    return rows


def learned_subsets(n: int, t: int, views: Sequence[View | None], *, agree: bool) -> list[Sites]:
    """Every set of honest sites in whose sum all unknown masks cancel."""
    rows = unknown_masks(n, t, views, agree=agree)
    found = []
    for chosen in subsets(rows):
        total: dict[Mask, int] = {}
        for i in chosen:
            for mask, sign in rows[i].items():
                total[mask] = total.get(mask, 0) + sign
        if chosen and not any(total.values()):
            found.append(chosen)
    return found
