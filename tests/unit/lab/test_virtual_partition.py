"""Partitions: every patient at exactly one site, the same seed the same sites, no network."""

from __future__ import annotations

import socket
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared_model.errors import OurMistake
from simulations.lab.experiment_tables import Partition
from simulations.lab.partition import classes, shares, site_name, sizes_of


def patients(count: int, values: int = 3) -> dict[str, np.ndarray]:
    words = np.array([f"v{index:02d}" for index in range(values)])
    return {"rhythm": words[np.arange(count) % values], "hr_bpm": np.arange(count) + 0.5}


def split(count: int, sites: int, seed: int = 1, values: int = 3, **how: Any) -> dict[str, Any]:
    labels = patients(count, values)
    return shares(Partition(**how), labels, ["pool"] * count, sites, seed)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(["iid", "size", "dirichlet", "pathological"]),
    growth=st.sampled_from(["linear", "square", "exponential"]),
    sites=st.integers(3, 9),
    each=st.integers(12, 30),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_patient_is_at_exactly_one_site_whatever_the_partition(
    kind: str, growth: str, sites: int, each: int, seed: int
) -> None:
    """And no site has fewer than the smallest, names are in order, and a second call agrees."""
    how = {"kind": kind, "growth": growth, "smallest": 3, "alpha": 5.0, "classes_per_site": 2}
    made = split(sites * each, sites, seed, **how)
    everybody = np.concatenate(list(made.values()))
    assert sorted(everybody.tolist()) == list(range(sites * each))
    assert len(made) == sites
    assert list(made) == sorted(made)
    assert min(map(len, made.values())) >= 3
    again = split(sites * each, sites, seed, **how)
    assert {name: rows.tolist() for name, rows in made.items()} == {
        name: rows.tolist() for name, rows in again.items()
    }


@pytest.mark.parametrize("kind", ["iid", "size", "dirichlet", "pathological"])
def test_another_seed_gives_another_partition(kind: str) -> None:
    """Otherwise the seed would decide nothing."""
    one, other = (split(120, 4, seed, kind=kind) for seed in (1, 2))
    assert any(one[name].tolist() != other[name].tolist() for name in one)


def test_small_alpha_makes_sites_that_differ_and_large_alpha_does_not() -> None:
    """Mean distance of the sites' mixes from the pool's, total variation."""

    def apart(alpha: float) -> float:
        made = split(1200, 6, 3, kind="dirichlet", alpha=alpha)
        words = patients(1200)["rhythm"]
        gaps = []
        for rows in made.values():
            mix = np.array([(words[rows] == value).mean() for value in np.unique(words)])
            gaps.append(np.abs(mix - 1 / 3).sum() / 2)
        return float(np.mean(gaps))

    assert apart(0.2) > 0.25
    assert apart(100.0) < 0.08


def test_pathological_sites_have_so_many_values_and_no_more() -> None:
    """Two of five values each, all five somewhere."""
    made = split(400, 8, 1, values=5, kind="pathological", classes_per_site=2)
    words = patients(400, 5)["rhythm"]
    assert [len(set(words[rows])) for rows in made.values()] == [2] * 8
    assert len({word for rows in made.values() for word in words[rows]}) == 5


def test_a_partition_that_would_lose_patients_is_refused() -> None:
    """With fewer sites than values, some value would be at no site."""
    with pytest.raises(OurMistake, match="cannot hold every patient"):
        split(400, 3, values=5, kind="pathological", classes_per_site=1)
    with pytest.raises(OurMistake, match="cannot hold every patient"):
        split(400, 8, values=5, kind="pathological", classes_per_site=6)


@given(
    sites=st.integers(1, 200),
    extra=st.integers(0, 5000),
    smallest=st.integers(2, 9),
    growth=st.sampled_from(["linear", "square", "exponential"]),
)
def test_sizes_add_up_and_grow_with_the_rank(
    sites: int, extra: int, smallest: int, growth: str
) -> None:
    """No site below the smallest, none larger than the next, nobody lost."""
    how = Partition(kind="size", growth=growth, smallest=smallest)  # type: ignore[arg-type]
    sizes = sizes_of(how, sites * smallest + extra, sites)
    assert sum(sizes) == sites * smallest + extra
    assert min(sizes) >= smallest
    assert sizes == sorted(sizes)


def test_sizes_follow_the_growth_that_is_asked_for() -> None:
    """Above the smallest: as rank, its square, and e to it."""
    extra = {
        growth: np.array(sizes_of(Partition(kind="size", growth=growth), 10_000 + 4 * 5, 5)) - 4  # type: ignore[arg-type]
        for growth in ("linear", "square", "exponential")
    }
    assert extra["linear"].tolist() == [0, 1000, 2000, 3000, 4000]
    assert np.allclose(extra["square"], 10_000 * np.array([0, 1, 4, 9, 16]) / 30, atol=1)
    weight = np.exp(np.arange(5))
    assert np.allclose(extra["exponential"], 10_000 * weight / weight.sum(), atol=1)


def test_one_site_for_each_value_of_an_id() -> None:
    """Named after label and value; who has none is at "unknown"."""
    labels = {"ward": np.array(["North 1", "South", "", "South", "North 1", ""])}
    made = shares(Partition(kind="id", label="ward", smallest=2), labels, [""] * 6, 9, 1)
    assert {name: rows.tolist() for name, rows in made.items()} == {
        "ward-north-1": [0, 4],
        "ward-south": [1, 3],
        "ward-unknown": [2, 5],
    }


def test_two_values_that_would_be_one_site_are_refused() -> None:
    """ "A b" and "a-B" must not be mixed silently; nor may a site be too small."""
    labels = {"ward": np.array(["A b", "a-B", "A b", "a-B"])}
    with pytest.raises(OurMistake, match="same site"):
        shares(Partition(kind="id", label="ward", smallest=2), labels, [""] * 4, 9, 1)
    with pytest.raises(OurMistake, match="ward-x"):
        shares(
            Partition(kind="id", label="ward", smallest=2),
            {"ward": np.array(["x", "y", "y"])}, [""] * 3, 9, 1,
        )  # fmt: skip


def test_natural_sites_are_the_sources() -> None:
    """In the order of their names, whatever the order of patients."""
    made = shares(Partition(), {}, ["b", "a", "b"], 7, 1)
    assert {name: rows.tolist() for name, rows in made.items()} == {"a": [1], "b": [0, 2]}


def test_a_measurement_is_no_class() -> None:
    """Heart rates cannot be shared out by value; whole numbers can; unknown ones have a word."""
    with pytest.raises(OurMistake, match="measurement"):
        split(60, 3, kind="dirichlet", label="hr_bpm")
    with pytest.raises(OurMistake, match="no label 'nothing'"):
        split(60, 3, kind="dirichlet", label="nothing")
    found = classes({"stage": np.array([1.0, np.nan, 2.0])}, "stage")
    assert found.tolist() == ["1", "unknown", "2"]


def test_a_smallest_size_that_never_comes_is_refused_with_advice() -> None:
    """Twenty times drawn, then said in words."""
    with pytest.raises(OurMistake, match="However often"):
        split(60, 10, kind="dirichlet", alpha=0.01, smallest=5)
    with pytest.raises(OurMistake, match="too few"):
        split(20, 10, kind="iid", smallest=4)


def test_nothing_is_looked_up_in_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data library of Hugging Face is used offline: no socket is opened."""

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert len(split(60, 3, kind="dirichlet", alpha=5.0)) == 3


def test_a_sites_name_is_small_letters_digits_and_hyphens() -> None:
    """Also of a folder with blanks; a name without any letter is refused."""
    assert site_name("ICU  Bidmc_2") == "icu-bidmc-2"
    with pytest.raises(OurMistake):
        site_name("***")
