"""Folders of simulated patients whose table says what a test wants it to say."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from client.records import MAPPING_FILE, guess_mapping
from simulations.cohort import SiteEffects, draw_cohort, write_site
from simulations.cohort_write import Format

PATIENTS = 24
Row = dict[str, Any]


def ward(folder: Path, form: Format, rewrite: Callable[[int, Row], Row]) -> Path:
    """Simulated patients with both sensors; rows of the table as `rewrite` makes them."""
    cohort = draw_cohort(np.random.default_rng(5), PATIENTS, 1, SiteEffects(name="ward"))
    write_site(folder, cohort, form)
    table = folder / "recordings.csv"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    made = [rewrite(place, row) for place, row in enumerate(rows)]
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(made[0]))
        writer.writeheader()
        writer.writerows(made)
    return folder


def with_mapping(folder: Path) -> Path:
    """The folder says itself how it is read, as a guess has it."""
    (folder / MAPPING_FILE).write_text(guess_mapping(folder).to_toml())
    return folder


def own_words(place: int, row: Row) -> Row:
    """AF as yes and no; rhythm in nobody's words."""
    kept = {name: value for name, value in row.items() if not name.startswith("rhythm")}
    return {**kept, "af": ("yes", "no")[place % 2]}
