"""Draws by key: what is drawn depends on what it is for, never on what was drawn before.

    generator("held-out", seed, site).permutation(patients)

So a run that is taken up again, and any number of workers, draw the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shared_model.canonical import digest_of
from shared_model.errors import OurMistake
from simulations.lab.experiment_tables import Chosen

Key = str | int
_SHOWN = 8


def generator(purpose: str, *key: Key) -> np.random.Generator:
    """A generator of its own for this purpose and key.

    Stream: PCG64, seeded with the SHA-256 of the canonical encoding of `[purpose, *key]`.
    """
    return np.random.Generator(np.random.PCG64(int(digest_of([purpose, *key]), 16)))


def chosen_sites(
    chosen: Chosen, sites: Sequence[str], purpose: str, seed: int, place: int
) -> tuple[str, ...]:
    """The sites that are meant, in the order of `sites`.

    A share is of all sites, rounded to the nearest number but at least one (0: none), drawn with
    the seed, the purpose and the table's place in its list: two tables of one kind draw apart.

    Args:
        purpose: what they are chosen for: "effect" or "behaviour".
        place: index of the table in its list.

    Raises:
        OurMistake: a named site is not there.
    """
    if chosen.share is None:
        unknown = sorted(set(chosen.sites) - set(sites))
        if unknown:
            there = ", ".join(sites[:_SHOWN]) + (", ..." if len(sites) > _SHOWN else "")
            raise OurMistake(
                f"The {purpose} number {place + 1} names sites that this federation does not "
                f"have: {', '.join(unknown[:_SHOWN])}.",
                do=f"It has {there} All of them: fedprint-lab federation exp.toml",
            )
        return tuple(site for site in sites if site in set(chosen.sites))
    if not chosen.share:
        return ()
    count = max(1, round(chosen.share * len(sites)))
    order = generator(purpose, seed, place, "sites").permutation(len(sites))
    return tuple(sites[index] for index in sorted(order[:count].tolist()))
