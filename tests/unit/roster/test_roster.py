"""The roster itself: numbers, bounds, signatures, files, words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from roster_stand_ins import (
    LAST_DAY,
    TODAY,
    Hospital,
    bent,
    countersigned,
    file_of,
    hospitals_of,
    roster_of,
)

from shared_model import canonical, roster, signing
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.roster import CountersignatureFile, Roster, SignedRoster

Hospitals = tuple[Hospital, ...]


def check(checked: Roster, **changes: Any) -> None:
    given_: dict[str, Any] = {
        "colluding_sites": 1,
        "allow_two": False,
        "today": TODAY,
        "own": None,
    }
    roster.check(checked, **{**given_, **changes})


def refused(checked: Roster, **changes: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        check(checked, **changes)
    return caught.value


@pytest.mark.parametrize(("n", "threshold"), [(2, 2), (3, 3), (4, 3), (5, 4), (10, 7), (100, 67)])
def test_the_default_threshold_is_two_thirds_and_one(n: int, threshold: int) -> None:
    """The values of the protocol's page."""
    assert roster.default_threshold(n) == threshold


@given(st.integers(2, 255))
def test_the_default_threshold_is_always_within_the_bounds(n: int) -> None:
    """Between a strict majority and all."""
    assert n // 2 + 1 <= roster.default_threshold(n) <= n


@pytest.mark.parametrize(
    ("declared", "largest", "weight"),
    [(1, 1, 8), (1000, 1000, 8), (1, 1000, 1), (500, 1000, 4), (62, 1000, 1), (188, 1000, 2)],
)
def test_weights_follow_from_declared_numbers(declared: int, largest: int, weight: int) -> None:
    """Eighths of the largest, rounded half up, at least one."""
    assert roster.weight_of(declared, largest) == weight


@given(st.integers(1, 10**8).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))))
def test_a_weight_is_the_nearest_eighth_within_its_bounds(numbers: tuple[int, int]) -> None:
    """Against exact fractions."""
    from fractions import Fraction
    from math import floor

    declared, largest = numbers
    nearest = floor(Fraction(8 * declared, largest) + Fraction(1, 2))
    assert roster.weight_of(declared, largest) == max(1, min(8, nearest))


@pytest.mark.parametrize(("declared", "largest"), [(0, 5), (-1, 5), (6, 5)])
def test_a_weight_of_an_impossible_number_is_our_mistake(declared: int, largest: int) -> None:
    with pytest.raises(OurMistake):
        roster.weight_of(declared, largest)


@pytest.mark.parametrize(
    ("n", "threshold", "bound"), [(3, 3, 1), (3, 2, 0), (4, 3, 1), (5, 4, 2), (5, 3, 0), (5, 5, 3)]
)
def test_the_collusion_bound_is_the_smaller_of_two(n: int, threshold: int, bound: int) -> None:
    """min(2t - n - 1, t - 2)."""
    names = [f"s{index}" for index in range(n)]
    assert roster_of(hospitals_of(*names), threshold=threshold).collusion_bound == bound


def test_a_right_roster_passes(hospitals: Hospitals) -> None:
    made = roster_of(hospitals)
    check(made, own=("beta", hospitals[1].identity_key, 200))
    assert made.names == ("alpha", "beta", "delta", "epsilon", "gamma")
    assert made.weights == {"alpha": 2, "beta": 3, "delta": 5, "epsilon": 6, "gamma": 8}


@pytest.mark.parametrize("threshold", [1, 2, 6, 255])
def test_a_threshold_out_of_bounds_is_refused(hospitals: Hospitals, threshold: int) -> None:
    """Five sites: a strict majority is three, and nobody is there for a sixth share."""
    fault = refused(roster_of(hospitals, threshold=threshold), colluding_sites=0)
    assert fault.reason == "threshold"
    assert "from 3 to 5" in fault.message


def test_a_collusion_bound_below_the_policy_is_refused(hospitals: Hospitals) -> None:
    made = roster_of(hospitals, threshold=3)
    check(made, colluding_sites=0)
    assert refused(made, colluding_sites=1).reason == "threshold"
    check(roster_of(hospitals), colluding_sites=2)
    assert refused(roster_of(hospitals), colluding_sites=3).reason == "threshold"


@pytest.mark.parametrize("names", [("a",), ("a", "b")])
def test_fewer_than_three_hospitals_are_refused(names: tuple[str, ...]) -> None:
    made = roster_of(hospitals_of(*names))
    assert refused(made, colluding_sites=0).reason == "threshold"


def test_two_hospitals_pass_only_where_the_policy_says_so() -> None:
    made = roster_of(hospitals_of("a", "b"))
    check(made, allow_two=True, colluding_sites=0)
    assert refused(made, allow_two=True, colluding_sites=1).reason == "threshold"
    one = roster_of(hospitals_of("a"))
    assert refused(one, allow_two=True, colluding_sites=0).reason == "threshold"


def test_weights_that_were_not_computed_are_refused(hospitals: Hospitals) -> None:
    """A coordinator that chose them could silence all but one hospital."""
    fault = refused(bent(roster_of(hospitals), "alpha", weight=8))
    assert (fault.reason, "alpha" in fault.message) == ("roster", True)


@pytest.mark.parametrize(
    ("today", "word"), [("2026-11-20", "not valid yet"), ("2027-11-22", "has expired")]
)
def test_a_roster_out_of_its_days_is_refused(hospitals: Hospitals, today: str, word: str) -> None:
    fault = refused(roster_of(hospitals), today=today)
    assert (fault.reason, word in fault.message) == ("roster", True)
    check(roster_of(hospitals), today=LAST_DAY)


def test_one_entry_out_of_its_days_is_enough(hospitals: Hospitals) -> None:
    """n and t would no longer be those that were signed if it were left out."""
    made = bent(roster_of(hospitals), "delta", valid_until="2026-11-30")
    check(made)
    assert made.valid_until == "2026-11-30"
    assert refused(made, today="2026-12-01").reason == "roster"


def test_a_roster_without_this_hospital_is_refused(hospitals: Hospitals) -> None:
    fault = refused(roster_of(hospitals[1:]), own=("alpha", hospitals[0].identity_key, 100))
    assert (fault.reason, "does not list" in fault.message) == ("roster", True)


def test_another_key_under_this_hospitals_name_is_refused(hospitals: Hospitals) -> None:
    own = ("alpha", hospitals[0].with_other_key().identity_key, 100)
    fault = refused(roster_of(hospitals), own=own)
    assert (fault.reason, "key" in fault.message) == ("roster", True)


def test_another_declared_number_under_this_hospitals_name_is_refused(
    hospitals: Hospitals,
) -> None:
    fault = refused(roster_of(hospitals), own=("alpha", hospitals[0].identity_key, 101))
    assert (fault.reason, "declares 101" in fault.message) == ("roster", True)


def test_a_name_or_key_comes_once(hospitals: Hospitals) -> None:
    with pytest.raises(OurMistake, match="each once"):
        roster_of([*hospitals, hospitals[0]])
    twin = Hospital("twin", hospitals[0].key, 10)
    with pytest.raises(OurMistake, match="same key"):
        roster_of([*hospitals, twin])


@pytest.mark.parametrize(
    "day",
    ["2026-02-29", "2026-13-01", "2026-00-10", "2026-04-31", "26-01-01", "2026-1-1", "1999-01-01"],
)
def test_a_day_that_is_none_is_no_roster(hospitals: Hospitals, day: str) -> None:
    with pytest.raises(OurMistake):
        roster_of(hospitals, last=day)


def test_a_roster_that_ends_before_it_begins_is_none(hospitals: Hospitals) -> None:
    with pytest.raises(OurMistake, match="after valid_until"):
        roster_of(hospitals, first=LAST_DAY, last=TODAY)


def test_a_roster_without_sites_is_none() -> None:
    with pytest.raises(OurMistake, match="needs sites"):
        roster_of([])


def test_an_entry_is_found_by_name(hospitals: Hospitals) -> None:
    made = roster_of(hospitals)
    assert made.entry("delta").identity == signing.public_bytes(hospitals[2].key)
    with pytest.raises(Refused, match="no site zeta"):
        made.entry("zeta")


def test_a_signed_roster_opens_to_what_was_signed(
    hospitals: Hospitals, root_key: Ed25519PrivateKey
) -> None:
    signed = roster.sign(roster_of(hospitals), root_key)
    data = signed.to_bytes()
    assert roster.open_signed(data, signing.public_bytes(root_key)) == signed
    assert signed.roster.digest == canonical.digest_of(signed.roster.content())


def test_a_roster_of_another_root_is_the_coordinators_fault(
    hospitals: Hospitals, root_key: Ed25519PrivateKey, other_root: Ed25519PrivateKey
) -> None:
    data = roster.sign(roster_of(hospitals), other_root).to_bytes()
    with pytest.raises(PeerFault, match="not signed") as caught:
        roster.open_signed(data, signing.public_bytes(root_key))
    assert caught.value.site == "coordinator"


@pytest.mark.parametrize(
    ("field", "value"),
    [("version", 2), ("threshold", 3), ("sites", []), ("kind", "fedprint-site")],
)
def test_a_changed_roster_is_not_the_one_that_was_signed(
    hospitals: Hospitals, root_key: Ed25519PrivateKey, field: str, value: Any
) -> None:
    document = json.loads(roster.sign(roster_of(hospitals), root_key).to_bytes())
    document["roster"][field] = value
    with pytest.raises(PeerFault):
        roster.open_signed(file_of(document), signing.public_bytes(root_key))


@pytest.mark.parametrize("field", ["identity_key", "declared_patients", "weight", "valid_until"])
def test_a_changed_entry_is_not_the_one_that_was_signed(
    hospitals: Hospitals, root_key: Ed25519PrivateKey, field: str
) -> None:
    document = json.loads(roster.sign(roster_of(hospitals), root_key).to_bytes())
    document["roster"]["sites"][0][field] = {
        "identity_key": hospitals[0].with_other_key().identity_key,
        "declared_patients": 110,
        "weight": 3,
        "valid_until": "2029-01-01",
    }[field]
    with pytest.raises(PeerFault, match="not signed"):
        roster.open_signed(file_of(document), signing.public_bytes(root_key))


def test_only_the_bytes_that_the_encoder_makes_are_read(
    hospitals: Hospitals, root_key: Ed25519PrivateKey
) -> None:
    """Spaces, key order, repeated keys, numbers as 1.0, a byte order mark: all refused."""
    data = roster.sign(roster_of(hospitals), root_key).to_bytes()
    document = json.loads(data)
    others = [
        data + b"\n",
        data[:-1],
        b"\xef\xbb\xbf" + data,
        data.replace(b"\n", b"\r\n"),
        json.dumps(document).encode(),
        data.replace(b'"version": 1', b'"version": 1.0'),
        data.replace(b'"version": 1', b'"version": true'),
        data.replace(b'"version": 1', b'"version": 7,\n  "version": 1'),
        data.replace(b'"alpha"', b'"\\u0061lpha"'),
        file_of({**document, "more": 1}),
        file_of({**document, "roster": None}),
    ]
    for other in others:
        assert other != data
        with pytest.raises(PeerFault):
            SignedRoster.from_bytes(other)


def test_a_long_file_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(PeerFault):
        SignedRoster.from_bytes(b"[" * (roster.MAX_ROSTER_BYTES + 1))


def test_a_deeply_nested_file_is_refused() -> None:
    with pytest.raises(PeerFault):
        SignedRoster.from_bytes(b"[" * 100_000 + b"]" * 100_000)


def test_the_largest_roster_fits_its_file(root_key: Ed25519PrivateKey) -> None:
    """255 sites, all with the longest names, all countersigning."""
    many = hospitals_of(*(f"{index:032d}" for index in range(255)))
    signed = countersigned(roster.sign(roster_of(many, 2**31), root_key), many)
    assert len(signed.to_bytes()) <= roster.MAX_ROSTER_BYTES
    assert roster.open_signed(signed.to_bytes(), signing.public_bytes(root_key)) == signed
    with pytest.raises(OurMistake):
        roster_of([*many, *hospitals_of("more")])


@settings(max_examples=200)
@given(st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
def test_bytes_that_are_no_roster_are_refused(data: bytes) -> None:
    for read in (SignedRoster.from_bytes, Roster.from_bytes, CountersignatureFile.from_bytes):
        with pytest.raises(PeerFault):
            read(data)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_roster_with_any_value_put_anywhere_is_refused(data: st.DataObject) -> None:
    """Structure-aware fuzzing: the result is not parsed, or its signature does not verify."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    made = roster_of([Hospital(f"s{i}", _KEYS[i], 10) for i in range(3)])
    signed = countersigned(roster.sign(made, key), [Hospital("s1", _KEYS[1], 10)])
    document = json.loads(signed.to_bytes())
    parent: Any = document
    while True:
        at = data.draw(st.sampled_from(sorted(parent) if isinstance(parent, dict) else [0]))
        if not isinstance(parent[at], dict | list) or data.draw(st.booleans()):
            break
        parent = parent[at]
    old = parent[at]
    parent[at] = data.draw(_JSON)
    if parent[at] == old and type(parent[at]) is type(old):
        return
    if at == "signature":  # a countersignature: not the root's
        return
    changed = (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()
    try:
        opened = roster.open_signed(changed, signing.public_bytes(key))
    except PeerFault:
        return
    assert opened.roster == made
    assert roster.countersigners(opened, made) <= {"s1"}


_KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([i]) * 32) for i in range(1, 4)]


def test_countersignatures_count_with_the_keys_of_the_previous_roster(
    hospitals: Hospitals, root_key: Ed25519PrivateKey
) -> None:
    previous = roster_of(hospitals)
    swapped = hospitals[0].with_other_key()
    signed = roster.sign(roster_of([swapped, *hospitals[1:]], 2), root_key)
    assert roster.countersigners(signed, previous) == set()
    assert roster.countersigners(countersigned(signed, [swapped]), previous) == set()
    both = countersigned(signed, [hospitals[0], hospitals[1]])
    assert roster.countersigners(both, previous) == {"alpha", "beta"}


def test_a_countersignature_of_a_stranger_does_not_count(
    hospitals: Hospitals, root_key: Ed25519PrivateKey
) -> None:
    puppets = hospitals_of("puppet-a", "puppet-b")
    signed = roster.sign(roster_of([*hospitals, *puppets], 2), root_key)
    assert roster.countersigners(countersigned(signed, puppets), roster_of(hospitals)) == set()


def test_a_countersignature_of_another_roster_or_site_does_not_count(
    hospitals: Hospitals, root_key: Ed25519PrivateKey
) -> None:
    previous = roster_of(hospitals)
    signed = roster.sign(roster_of(hospitals, 2), root_key)
    for_third = roster.countersign(roster_of(hospitals, 3), "alpha", hospitals[0].key)
    assert roster.countersigners(signed.with_countersignature("alpha", for_third), previous) == (
        set()
    )
    of_alpha = roster.countersign(signed.roster, "alpha", hospitals[0].key)
    assert roster.countersigners(signed.with_countersignature("beta", of_alpha), previous) == set()


def test_the_roots_signature_is_no_countersignature(
    hospitals: Hospitals, root_key: Ed25519PrivateKey
) -> None:
    """The type tags differ, also where one key does both."""
    one = Hospital("alpha", root_key, 100)
    made = roster_of([one, *hospitals[1:]])
    signed = roster.sign(made, root_key)
    forged = signed.with_countersignature("alpha", bytes.fromhex(signed.root_signature))
    assert roster.countersigners(forged, made) == set()


def test_countersignatures_are_no_part_of_the_digest(
    hospitals: Hospitals, root_key: Ed25519PrivateKey
) -> None:
    signed = roster.sign(roster_of(hospitals, 2), root_key)
    more = countersigned(signed, hospitals)
    assert more.roster.digest == signed.roster.digest
    assert roster.open_signed(more.to_bytes(), signing.public_bytes(root_key)) == more


def test_a_countersignature_of_one_site_comes_once(
    hospitals: Hospitals, root_key: Ed25519PrivateKey
) -> None:
    """Else one hospital could count t times."""
    signed = countersigned(roster.sign(roster_of(hospitals, 2), root_key), hospitals[:1])
    document = json.loads(signed.to_bytes())
    document["countersignatures"] *= 2
    with pytest.raises(PeerFault):
        SignedRoster.from_bytes(file_of(document))
    with pytest.raises(ValidationError):
        SignedRoster(
            roster=signed.roster,
            root_signature=signed.root_signature,
            countersignatures=signed.countersignatures * 2,
        )


def test_a_swapped_key_under_an_old_name_is_named_in_words(hospitals: Hospitals) -> None:
    swapped = hospitals[1].with_other_key()
    old = roster_of(hospitals)
    new = roster_of([hospitals[0], swapped, *hospitals[2:]], 2)
    (line,) = roster.differences(old, new)
    assert "KEY of beta is SWAPPED" in line
    assert old.entry("beta").spoken_key in line
    assert new.entry("beta").spoken_key in line


def test_every_change_is_named_in_words(hospitals: Hospitals) -> None:
    old = roster_of(hospitals)
    new = roster_of([*hospitals[2:], *hospitals_of("puppet")], 2, threshold=3, last="2028-01-01")
    text = "\n".join(roster.differences(old, new))
    for words in (
        "alpha is REMOVED",
        "beta is REMOVED",
        f"puppet is ADDED: 100 declared patients, key {new.entry('puppet').spoken_key}",
        "threshold is LOWERED from 4 to 3",
        "at most 1 colluding hospitals (before: 2)",
        "gamma is valid from 2026-11-21 to 2028-01-01 (before: 2026-11-21 to 2027-11-21)",
    ):
        assert words in text
    more = Hospital("gamma", hospitals[4].key, 1000)
    text = "\n".join(roster.differences(old, roster_of([*hospitals[:4], more], 2)))
    assert "gamma declares 1000 patients (before: 500)" in text
    assert "The weight of epsilon is 3 (before: 6)" in text
    text = "\n".join(roster.differences(old, roster_of(hospitals, 2, threshold=5)))
    assert "threshold is raised from 4 to 5" in text


def test_no_change_and_a_first_roster_are_named_too(hospitals: Hospitals) -> None:
    old = roster_of(hospitals)
    assert roster.differences(old, old) == ["Nothing changes."]
    assert roster.differences(old, roster_of(hospitals, 2)) == ["Nothing changes but the version."]
    assert "first roster" in roster.differences(None, old)[0]


def test_the_words_name_sites_keys_threshold_and_bound(hospitals: Hospitals) -> None:
    made = roster_of(hospitals)
    text = "\n".join(roster.in_words(made))
    for words in (
        "version 1: 5 hospitals",
        "Threshold 4: a round needs 4 hospitals to the end; 1 of 5 may drop out",
        "at most 2.",
        "beta: 200 declared patients, weight 3",
        made.entry("beta").spoken_key,
        made.spoken,
    ):
        assert words in text
    assert "none of 3 may drop out" in "\n".join(roster.in_words(roster_of(hospitals[:3])))
    assert "WITH TWO" in "\n".join(roster.in_words(roster_of(hospitals[:2])))


def test_the_same_facts_are_there_for_machines(hospitals: Hospitals) -> None:
    shown = json.loads(json.dumps(roster.facts(roster_of(hospitals))))
    assert (shown["threshold"], shown["may_drop_out"], shown["collusion_bound"]) == (4, 1, 2)
    assert [item["site"] for item in shown["sites"]] == list(roster_of(hospitals).names)
