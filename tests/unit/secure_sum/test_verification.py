"""The closing exchange: a wrong sum, statement or answer does not pass."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import secure_sum_reference as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from sum_cases import Entropy, round_of, sha256

from shared_model import canonical
from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.protocol_sum import SUBSETS, Statement
from shared_model.secure_sum import verification
from shared_model.secure_sum.numbers import pack, unpack
from shared_model.secure_sum.verification import (
    challenge,
    check_equation,
    check_own,
    make_statement,
    read_statement,
    seeds_of,
    statement_bytes,
    subset_sums,
)
from shared_model.verify_body import read_verify_body, verify_body

SITES = ("a", "b", "c", "d", "e")
U = ("a", "b", "d", "e")
HEADERS = tuple(sha256(f"header {site}".encode()) for site in U)


@functools.cache
def closed(survivors=U):
    """A round, its sum, its statement, and every survivor's answer."""
    made = round_of(SITES, 3, label="closed")
    seeds = made.seeds(survivors)
    total = made.sum(survivors, seeds)
    headers = tuple(sha256(f"header {site}".encode()) for site in survivors)
    statement = make_statement(made.transcript, survivors, headers, total, seeds)
    return made, total, statement, answers_to(made, statement)


def answers_to(made, statement):
    m, padded = statement.modulus_bits, statement.padded
    asked = challenge(
        made.transcript.digest, bytes.fromhex(sha256(statement_bytes(statement))), padded
    )
    return {
        site: subset_sums(asked, unpack(made.submissions[site].packed, m, padded), m)
        for site in statement.survivors
    }


def altered(statement, **changes):
    return statement.model_copy(update=changes)


# ---- challenge and subset sums


def test_a_challenge_follows_from_transcript_and_statement():
    one = challenge(b"t" * 32, b"s" * 32, 64)
    assert one.member.shape == (SUBSETS // 8, 64)
    assert np.array_equal(one.member, challenge(b"t" * 32, b"s" * 32, 64).member)
    for other in (challenge(b"T" * 32, b"s" * 32, 64), challenge(b"t" * 32, b"S" * 32, 64)):
        assert not np.array_equal(one.member, other.member)


def test_subsets_are_half_of_the_coordinates_each():
    """Each of 128 within five standard deviations of 2,048 of 4,096."""
    asked = challenge(b"t" * 32, b"s" * 32, 4096)
    sizes = subset_sums(asked, np.ones(4096, np.uint32), 24)
    assert len(set(sizes)) > 20
    assert all(abs(size - 2048) < 5 * 32 for size in sizes)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), bits=st.sampled_from([9, 20, 24, 31, 32]))
def test_subset_sums_are_those_of_the_reference(seed, bits):
    """And they are linear: the sums of two vectors add up, mod 2^m."""
    words = np.frombuffer(Entropy(f"subset {seed}")(4 * 192), "<u4") >> np.uint32(32 - bits)
    one, other = words[:96].copy(), words[96:].copy()
    asked = challenge(bytes(32), seed.to_bytes(32, "big"), 96)
    key = reference.challenge_key(bytes(32), seed.to_bytes(32, "big"))
    found = subset_sums(asked, one, bits)
    assert list(found) == reference.subset_sums(key, one.tolist(), bits)
    both = (one.astype(np.uint64) + other) % (1 << bits)
    second = subset_sums(asked, other, bits)
    assert subset_sums(asked, both.astype(np.uint32), bits) == tuple(
        (x + y) % (1 << bits) for x, y in zip(found, second, strict=True)
    )


def test_subset_sums_of_a_long_vector_of_the_largest_values_are_exact():
    """Longer than the pieces that float64 holds exactly: 2^20 values below 2^32."""
    padded = (1 << 20) + 64
    asked = challenge(b"t" * 32, b"s" * 32, padded)
    sizes = subset_sums(asked, np.ones(padded, np.uint32), 32)
    largest = subset_sums(asked, np.full(padded, 0xFFFFFFFF, np.uint32), 32)
    assert largest == tuple(-size % (1 << 32) for size in sizes)
    member = np.unpackbits(asked.member[3][:, None], axis=1, bitorder="little")
    assert sizes[24:32] == tuple(int(count) for count in member.sum(axis=0))


@pytest.mark.parametrize("shape", [(63,), (65,), (64, 1)])
def test_a_vector_of_another_size_has_no_subset_sums(shape):
    with pytest.raises(OurMistake, match="size"):
        subset_sums(challenge(bytes(32), bytes(32), 64), np.zeros(shape, np.uint32), 20)


# ---- the equation


@pytest.mark.parametrize("survivors", [U, SITES, ("b", "c", "d")])
def test_the_right_sum_passes(survivors):
    """With one dropped site, with none, with two."""
    _, total, statement, answers = closed(survivors)
    check_equation(statement, answers, total)
    check_equation(statement, dict(reversed(answers.items())), total)


def test_the_callers_sum_is_not_touched():
    _, total, statement, answers = closed()
    before = total.copy()
    check_equation(statement, answers, total)
    assert np.array_equal(total, before)


@settings(max_examples=40, deadline=None)
@given(place=st.integers(0, 63), bit=st.integers(0, 14))
def test_a_sum_that_is_wrong_in_one_bit_does_not_pass(place, bit):
    """Although the statement names the wrong sum and the survivors answer to that statement."""
    made, total, statement, _ = closed()
    wrong = total.copy()
    wrong[place] ^= np.uint32(1 << bit)
    assert int(wrong.max()) < 1 << statement.modulus_bits
    lie = altered(statement, sum_digest=canonical.digest(pack(wrong, statement.modulus_bits)))
    with pytest.raises(Refused, match="not the sum of what was submitted") as caught:
        check_equation(lie, answers_to(made, lie), wrong)
    assert caught.value.reason == "secure-sum"


def test_another_sum_than_the_named_one_does_not_pass():
    _, total, statement, answers = closed()
    wrong = total.copy()
    wrong[0] ^= np.uint32(1)
    with pytest.raises(Refused, match="not the one that it names"):
        check_equation(statement, answers, wrong)
    with pytest.raises(Refused, match="not the one that it names"):
        check_equation(statement, answers, total[:32])


@pytest.mark.parametrize("change", ["one less", "one more", "none"])
def test_every_survivor_has_to_answer_and_nobody_else(change):
    _, total, statement, answers = closed()
    answers = dict(answers)
    if change == "one less":
        del answers["d"]
    elif change == "one more":
        answers["c"] = answers["a"]
    else:
        answers = {}
    with pytest.raises(Refused, match="missing"):
        check_equation(statement, answers, total)


@pytest.mark.parametrize("subset", [0, 63, 127])
def test_one_wrong_answer_does_not_pass(subset):
    _, total, statement, answers = closed()
    row = list(answers["b"])
    row[subset] = (row[subset] + 1) % (1 << statement.modulus_bits)
    with pytest.raises(Refused, match="not the sum"):
        check_equation(statement, {**answers, "b": tuple(row)}, total)


def test_answers_count_mod_2_to_the_m():
    """An answer of the same residue is the same answer."""
    _, total, statement, answers = closed()
    row = tuple(value + (1 << statement.modulus_bits) for value in answers["b"])
    check_equation(statement, {**answers, "b": row}, total)


def test_another_seed_in_the_statement_does_not_pass():
    """Self seed or pair seed: the masks that it says were opened are not those of the answers."""
    made, total, statement, _ = closed()
    seeds = (statement.self_seeds[0][:-1] + "0", statement.self_seeds[0][:-1] + "1")
    wrong = next(seed for seed in seeds if seed != statement.self_seeds[0])
    lies = (
        altered(statement, self_seeds=(wrong, *statement.self_seeds[1:])),
        altered(statement, pair_seeds=((wrong,), *statement.pair_seeds[1:])),
    )
    for lie in lies:
        with pytest.raises(Refused, match="not the sum"):
            check_equation(lie, answers_to(made, lie), total)


# ---- what a survivor checks about itself


def own(site):
    return closed()[0].submissions[site]


@pytest.mark.parametrize("site", U)
def test_every_survivor_finds_itself_in_a_true_statement(site):
    check_own(closed()[2], own(site), HEADERS[U.index(site)], U)


OTHER = "00" * 32
LIES = {
    "run": {"run": "autumn"},
    "round": {"round": 4},
    "transcript": {"transcript": OTHER},
    "participants": {"participants": ("a", "b", "c", "d", "f")},
    "modulus": {"modulus_bits": 16},
    "size": {"padded": 96},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_statement_of_another_round_is_refused(lie):
    with pytest.raises(Refused, match="another round") as caught:
        check_own(altered(closed()[2], **lie), own("a"), HEADERS[0], U)
    assert caught.value.reason == "secure-sum"


def test_a_statement_of_other_survivors_than_those_signed_is_refused():
    statement = closed()[2]
    with pytest.raises(Refused, match="other survivors"):
        check_own(statement, own("a"), HEADERS[0], ("a", "b", "d"))
    with pytest.raises(Refused, match="other survivors"):
        check_own(statement, closed()[0].submissions["c"], HEADERS[0], U)


@pytest.mark.parametrize("site", U)
def test_a_statement_of_another_submission_is_refused(site):
    with pytest.raises(Refused, match="another submission"):
        check_own(closed()[2], own(site), OTHER, U)
    swapped = altered(closed()[2], submissions=tuple(reversed(HEADERS)))
    with pytest.raises(Refused, match="another submission"):
        check_own(swapped, own(site), HEADERS[U.index(site)], U)


@pytest.mark.parametrize("site", U)
def test_a_statement_with_another_self_seed_is_refused_by_its_owner_alone(site):
    seeds = list(closed()[2].self_seeds)
    seeds[U.index(site)] = OTHER
    lie = altered(closed()[2], self_seeds=tuple(seeds))
    for other in U:
        if other == site:
            with pytest.raises(Refused, match="another self seed"):
                check_own(lie, own(other), HEADERS[U.index(other)], U)
        else:
            check_own(lie, own(other), HEADERS[U.index(other)], U)


@pytest.mark.parametrize("site", U)
def test_a_statement_with_another_pair_seed_is_refused_by_its_owner_alone(site):
    rows = list(closed()[2].pair_seeds)
    rows[U.index(site)] = (OTHER,)
    lie = altered(closed()[2], pair_seeds=tuple(rows))
    for other in U:
        if other == site:
            with pytest.raises(Refused, match="another pair seed"):
                check_own(lie, own(other), HEADERS[U.index(other)], U)
        else:
            check_own(lie, own(other), HEADERS[U.index(other)], U)


# ---- the statement as bytes


@pytest.mark.parametrize("survivors", [U, SITES, ("b", "c", "d")])
def test_a_statement_is_read_as_it_was_written(survivors):
    made, _, statement, _ = closed(survivors)
    data = statement_bytes(statement)
    assert read_statement(data) == statement
    assert seeds_of(statement) == made.seeds(survivors)
    assert statement.dropped == tuple(site for site in SITES if site not in survivors)
    if statement.dropped:
        assert {len(row) for row in statement.pair_seeds} == {len(statement.dropped)}
    else:
        assert statement.pair_seeds == ()


def fields():
    return json.loads(statement_bytes(closed()[2]))


def refused(value):
    with pytest.raises(PeerFault) as caught:
        read_statement(value if isinstance(value, bytes) else canonical.encode(value))
    assert caught.value.site == "coordinator"


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b"NaN"])
def test_bytes_that_are_no_statement_are_the_coordinators_fault(data):
    refused(data)


def test_every_field_of_a_statement_is_needed_and_none_may_be_added():
    for name in fields():
        refused({key: value for key, value in fields().items() if key != name})
    refused({**fields(), "loss": 0.5})


def test_a_statement_in_another_spelling_is_refused():
    data = statement_bytes(closed()[2])
    for other in (
        data + b" ",
        data.replace(b":", b": ", 1),
        data.replace(b'"spring"', b'"sprin\\u0067"'),
        data.replace(b'"round":3', b'"round":3,"round":3'),
    ):
        assert other != data
        refused(other)


S = "ab" * 32
WRONG = {
    "unsorted survivors": {"survivors": ["b", "a", "d", "e"]},
    "a survivor twice": {"survivors": ["a", "a", "d", "e"]},
    "one survivor": {"survivors": ["a"], "submissions": [S], "self_seeds": [S]},
    "unsorted participants": {"participants": ["b", "a", "c", "d", "e"]},
    "a survivor that took no part": {"survivors": ["a", "b", "d", "z"]},
    "a submission too few": {"submissions": [S] * 3},
    "a submission too many": {"submissions": [S] * 5},
    "a self seed too few": {"self_seeds": [S] * 3},
    "no pair seeds": {"pair_seeds": []},
    "a row too few": {"pair_seeds": [[S]] * 3},
    "a row too many": {"pair_seeds": [[S]] * 5},
    "an empty row": {"pair_seeds": [[S], [S], [S], []]},
    "a long row": {"pair_seeds": [[S], [S], [S], [S, S]]},
    "rows though nobody dropped": {"participants": ["a", "b", "d", "e"], "pair_seeds": [[]] * 4},
    "modulus of 33 bits": {"modulus_bits": 33},
    "modulus of 8 bits": {"modulus_bits": 8},
    "no coordinates": {"padded": 0},
    "too many coordinates": {"padded": 2**28 + 1},
    "a round as text": {"round": "3"},
    "a short seed": {"self_seeds": [S, S, S, S[:-2]]},
    "upper-case digits": {"sum_digest": S.upper()},
    "another kind": {"kind": "statement"},
    "another version": {"version": 1},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_a_statement_that_does_not_fit_together_is_refused(change):
    refused({**fields(), **change})


def test_statements_at_their_limits_are_read():
    """32 coordinates, 9 bits; nobody dropped."""
    small = {
        **fields(),
        "participants": list(U),
        "pair_seeds": [],
        "padded": 32,
        "modulus_bits": 9,
    }
    assert read_statement(canonical.encode(small)).dropped == ()
    large = {**small, "padded": 2**28, "modulus_bits": 32}
    assert read_statement(canonical.encode(large)).padded == 2**28


# ---- the body of a verify request


@given(
    parts=st.lists(st.binary(max_size=9), min_size=2, max_size=6),
)
def test_the_body_of_a_verify_request_is_read_as_it_was_written(parts):
    body = verify_body(parts[0], parts[1], parts[2:])
    assert read_verify_body(body) == (parts[0], parts[1], tuple(parts[2:]))


def test_a_body_that_is_cut_or_longer_is_the_coordinators_fault():
    """Every shorter body but the ones that end with a part, and any more bytes."""
    body = verify_body(b"statement", b"sum", [b"one", b"two"])
    whole = {len(verify_body(b"statement", b"sum", answers)) for answers in ([], [b"one"])}
    for length in range(len(body)):
        if length in whole:
            continue
        with pytest.raises(PeerFault, match="verify request") as caught:
            read_verify_body(body[:length])
        assert caught.value.site == "coordinator"
    for more in (b"\0", bytes(7), bytes(7) + b"\1", b"\xff" * 8):
        with pytest.raises(PeerFault):
            read_verify_body(body + more)


def test_a_body_with_more_answers_than_sites_is_refused():
    """255 at most: nobody makes a node parse millions of empty parts."""
    assert len(read_verify_body(verify_body(b"", b"", [b"x"] * 255))[2]) == 255
    with pytest.raises(PeerFault):
        read_verify_body(verify_body(b"", b"", [b"x"] * 256))


def test_a_statement_is_not_signed_by_itself():
    """It has no place for a signature: the close request commits to its digest."""
    assert Statement.model_fields["kind"].default == "sum-statement"
    assert "signature" not in Statement.model_fields
    assert verification.statement_bytes(closed()[2]).startswith(b"{")
