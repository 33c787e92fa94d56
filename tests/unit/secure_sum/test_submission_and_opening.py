"""What a site submits and opens, and who is named when something is wrong with it."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from sum_cases import Entropy, changed, members_of, round_of, transcript_of

from shared_model.errors import OurMistake, PeerFault, Refused
from shared_model.secure_sum import opening, submission
from shared_model.secure_sum.numbers import pack, unpack
from shared_model.secure_sum.opening import SharesOf, open_rows, read_shares, rebuild_seeds
from shared_model.secure_sum.submission import NONCE, Submission, seal_submission

SITES = ("a", "b", "c", "d", "e")
U = ("a", "b", "d", "e")
"""Survivors in most tests: c is dropped."""


@pytest.fixture(scope="module")
def five():
    """A round of five sites with threshold 3, after trip 1."""
    return round_of(SITES, 3, label="five")


def pieces(made, survivors, receiver):
    """Salt and row of each survivor for a receiver."""
    body = made.rows(survivors, receiver)
    size = len(body) // len(survivors)
    return {site: body[k * size : (k + 1) * size] for k, site in enumerate(survivors)}


def opens(made, receiver, found, missing=(), survivors=U):
    """What a receiver opens of these pieces."""
    return open_rows(
        made.members[receiver],
        made.transcript,
        survivors,
        missing,
        b"".join(found[site] for site in survivors),
    )


# ---- trip 1


@pytest.mark.parametrize("size", [0, 32, 63, 65, 128])
def test_a_vector_of_another_size_is_not_submitted(size):
    transcript = transcript_of(SITES, 3)
    with pytest.raises(OurMistake, match="size"):
        seal_submission(np.zeros(size, np.uint32), members_of(SITES)["a"], transcript, Entropy("x"))


def test_a_site_outside_the_round_does_not_submit():
    with pytest.raises(OurMistake, match="no part"):
        seal_submission(
            np.zeros(64, np.uint32),
            members_of(("a", "b", "c", "d"))["a"],
            transcript_of(("b", "c", "d"), 2),
            Entropy("x"),
        )


def test_a_submission_is_as_long_as_the_wire_page_says(five):
    """Vector, salt, n commitments and n rows of 64 n + 16 bytes."""
    n, numbers = 5, five.transcript.numbers
    body = five.submissions["a"].body
    assert len(body) == numbers.padded * numbers.modulus_bits // 8 + 32 + 32 * n + n * (64 * n + 16)
    assert submission.row_bytes(five.transcript) == 64 * n + 16


@pytest.mark.parametrize("cut", [0, 1, 31, 32, -1])
def test_a_submission_of_another_length_is_its_dealers_fault(five, cut):
    body = bytes(five.submissions["b"].body)
    wrong = body[:cut] if cut != -1 else body + b"\0"
    with pytest.raises(PeerFault, match="length") as caught:
        Submission.parse(wrong, five.transcript, "b")
    assert caught.value.site == "b"
    with pytest.raises(PeerFault):
        Submission.parse(body[:-1], five.transcript, "b")


def test_a_submission_of_nobody_in_the_round_is_refused(five):
    with pytest.raises(PeerFault) as caught:
        Submission.parse(five.submissions["b"].body, five.transcript, "z")
    assert caught.value.site == "z"


def test_a_submission_is_parsed_where_it_lies(five):
    """From a memory map, without a copy of the vector."""
    body = bytearray(five.submissions["b"].body)
    found = Submission.parse(memoryview(body), five.transcript, "b")
    assert found.packed.obj is body
    assert bytes(found.packed) == bytes(five.submissions["b"].packed)
    assert found.salt == five.submissions["b"].salt
    assert "body" not in repr(found)


def test_the_callers_vector_is_masked_in_place():
    """Nothing of the clear vector is left where it was."""
    made = round_of(("a", "b", "c"), 2)
    vector = made.clear["a"].copy()
    body = seal_submission(vector, made.members["a"], made.transcript, Entropy("again"))
    parsed = Submission.parse(body, made.transcript, "a")
    m, padded = made.transcript.numbers.modulus_bits, made.transcript.numbers.padded
    assert np.array_equal(vector, unpack(parsed.packed, m, padded))
    assert not np.array_equal(vector, made.clear["a"])


def test_masked_vectors_look_uniform():
    """Chi-square of the values of a masked vector of zeros; 255 degrees, fixed seed."""
    transcript = transcript_of(("a", "b", "c"), 2, dimension=1 << 16, bits=8)
    member = members_of(("a", "b", "c"))["b"]
    vector = np.zeros(1 << 16, np.uint32)
    seal_submission(vector, member, transcript, Entropy("uniform"))
    assert int(vector.max()) < 1 << transcript.numbers.modulus_bits
    counts = np.bincount(vector >> np.uint32(transcript.numbers.modulus_bits - 8), minlength=256)
    statistic = float(np.sum((counts - 256.0) ** 2) / 256.0)
    assert 180 < statistic < 340


def test_the_same_vector_is_never_submitted_twice_alike():
    """Fresh self seed, salt and coefficients: no part of two bodies is the same but pair seeds."""
    made = round_of(("a", "b", "c"), 2)
    again = Submission.parse(
        seal_submission(
            made.clear["a"].copy(), made.members["a"], made.transcript, Entropy("other")
        ),
        made.transcript,
        "a",
    )
    before = made.submissions["a"]
    assert again.salt != before.salt
    assert bytes(again.packed) != bytes(before.packed)
    assert again.self_commitment != before.self_commitment
    assert again.pair_commitment("b") == before.pair_commitment("b")
    for receiver in "abc":
        assert again.row(receiver) != before.row(receiver)


def test_each_row_is_sealed_with_a_key_of_its_own(five):
    """All rows of a round have the same nonce, so no two may have the same key."""
    keys = {
        five.members[dealer].share_key(
            dealer, receiver, five.transcript.digest, five.submissions[dealer].salt
        )
        for dealer in SITES
        for receiver in SITES
    }
    assert len(keys) == 25


def test_unmasked_submissions_are_the_packed_vector_and_nothing_else():
    transcript = transcript_of(("a", "b"), 2)
    vector = np.arange(64, dtype=np.uint32)
    body = submission.unmasked_submission(vector, transcript)
    assert body == pack(vector, transcript.numbers.modulus_bits)
    assert len(body) == transcript.numbers.packed_bytes


# ---- trip 3: what a node opens


def test_a_node_opens_shares_of_survivors_and_seeds_with_the_dropped(five):
    found = opens(five, "a", pieces(five, U, "a"))
    assert (found.unreadable, found.accused) == ((), ())
    assert len(found.body) == 32 * 5
    assert found.body[-32:] == five.members["a"].pair_seed("c", five.transcript.digest)
    with_missing = opens(five, "a", pieces(five, U, "a"), missing=("d", "e"))
    assert with_missing.body[: 32 * 5] == found.body
    assert len(with_missing.body) == 32 * 7
    assert "body" not in repr(found)


def test_a_node_opens_no_pair_seed_of_two_survivors(five):
    """Of a survivor the self seed is opened and no pair seed: that would take its mask off."""
    secrets = {
        five.members[one].pair_seed(other, five.transcript.digest)
        for one in U
        for other in U
        if one != other
    }
    for opener in U:
        body = opens(five, opener, pieces(five, U, opener), missing=("b",)).body
        values = {body[at : at + 32] for at in range(0, len(body), 32)}
        assert not values & secrets
        assert len(values) == 4 + 1 + 1


@pytest.mark.parametrize(
    ("survivors", "missing"),
    [(("b", "d", "e"), ()), (U, ("c",)), (U, ("z",)), (("b", "a"), ()), (("a", "z"), ())],
    ids=["not itself", "dropped is missing", "unknown is missing", "unsorted", "unknown"],
)
def test_a_node_opens_for_no_other_survivors(five, survivors, missing):
    with pytest.raises(OurMistake):
        open_rows(five.members["a"], five.transcript, survivors, missing, five.rows(U, "a"))


@pytest.mark.parametrize("change", [b"", None, b"\0"])
def test_rows_of_another_length_are_the_coordinators_fault(five, change):
    body = five.rows(U, "a")
    wrong = body[:-1] if change is None else b"" if change == b"" else body + change
    with pytest.raises(PeerFault, match="length") as caught:
        open_rows(five.members["a"], five.transcript, U, (), wrong)
    assert caught.value.site == "coordinator"


@pytest.mark.parametrize("at", [0, 31, 32, 63, 191, 192, 351, 367], ids=lambda at: f"byte {at}")
def test_a_changed_row_is_unreadable(five, at):
    """Salt (0 ... 31), commitments (32 ... 191), sealed shares, tag: the seal covers all."""
    found = pieces(five, U, "a")
    assert len(found["b"]) == 368
    found["b"] = changed(found["b"], at)
    result = opens(five, "a", found, missing=("b", "d"))
    assert (result.unreadable, result.accused) == (("b",), ())
    whole = opens(five, "a", pieces(five, U, "a"), missing=("b", "d"))
    # b's share of its self seed (second) and of its pair seed with c (sixth) are left out
    values = [whole.body[32 * k : 32 * k + 32] for k in range(7)]
    assert result.body == b"".join(values[k] for k in (0, 2, 3, 4, 6))


def test_rows_of_others_and_reflected_rows_do_not_open(five):
    """A row for another receiver, of another dealer, one's own row to the dealer, or of a round
    that has another transcript."""
    own = pieces(five, U, "a")
    wrong = [
        pieces(five, U, "d")["b"],
        own["d"],
        pieces(five, U, "b")["a"],
        pieces(round_of(SITES, 3, label="five", round=4), U, "a")["b"],
    ]
    for piece in wrong:
        result = opens(five, "a", {**own, "b": piece})
        assert (result.unreadable, result.accused) == (("b",), ())


def resealed(made, dealer, receiver, change):
    """A row of a dealer that seals other shares than it commits to."""
    piece = pieces(made, U, receiver)[dealer]
    n = len(made.transcript.participants)
    salt, committed, sealed = piece[:32], piece[32 : 32 + 32 * n], piece[32 + 32 * n :]
    digest = made.transcript.digest
    key = made.members[dealer].share_key(dealer, receiver, digest, salt)
    data = submission.associated_data(digest, dealer, receiver, committed)
    shares = ChaCha20Poly1305(key).decrypt(NONCE, sealed, data)
    return salt + committed + ChaCha20Poly1305(key).encrypt(NONCE, change(shares), data)


@pytest.mark.parametrize("at", [0, 32, 159])
def test_a_dealer_that_seals_another_share_than_it_commits_to_is_accused(five, at):
    """Also when the share is one that is not asked for: the dealer is caught at once."""
    found = pieces(five, U, "a")
    found["d"] = resealed(five, "d", "a", lambda shares: changed(shares, at))
    result = opens(five, "a", found, missing=("d",))
    assert (result.unreadable, result.accused) == ((), ("d",))
    assert len(result.body) == 32 * (3 + 1)


def test_every_survivor_may_be_missing_or_unreadable(five):
    """Shares of all pair seeds with the dropped site, or of nothing at all."""
    body = opens(five, "a", pieces(five, U, "a"), missing=U).body
    assert len(body) == 32 * (4 + 1 + 4)
    assert tuple(read_shares(body, five.transcript, U, U, "a").pair_shares) == tuple(
        (site, "c") for site in U
    )
    garbage = {site: bytes(368) for site in U}
    nothing = opens(five, "a", garbage, missing=U)
    assert nothing.unreadable == U
    assert nothing.body == five.members["a"].pair_seed("c", five.transcript.digest)
    found = read_shares(nothing.body, five.transcript, U, U, "a", nothing.unreadable)
    assert (found.self_shares, found.pair_shares) == ({}, {})
    assert tuple(found.pair_seeds) == ("c",)


def test_several_bad_rows_are_all_named(five):
    found = pieces(five, U, "a")
    found["b"], found["d"] = changed(found["b"], 40), changed(found["d"], 300)
    found["e"] = resealed(five, "e", "a", lambda shares: changed(shares, 1))
    result = opens(five, "a", found, missing=("d", "e"))
    assert result.unreadable == ("b", "d")
    assert result.accused == ("e",)
    assert len(result.body) == 32 * (1 + 1)


def test_a_node_opens_its_own_row_from_its_epoch_key_alone(five):
    """Nothing secret but the epoch key survives a restart; a new member has the same answer."""
    fresh = members_of(SITES)["a"]
    body = five.rows(U, "a")
    assert (
        open_rows(fresh, five.transcript, U, ("b",), body).body
        == open_rows(five.members["a"], five.transcript, U, ("b",), body).body
    )


# ---- what the coordinator reads


def test_opened_shares_are_read_by_their_place(five):
    found = five.opened(U, ("b", "d"), "a")
    assert tuple(found.self_shares) == U
    assert tuple(found.pair_seeds) == ("c",)
    assert tuple(found.pair_shares) == (("b", "c"), ("d", "c"))
    assert "shares" not in repr(found).replace("SharesOf", "")


@pytest.mark.parametrize(
    ("unreadable", "accused"),
    [(("c",), ()), ((), ("z",)), (("b",), ("b",)), (("b", "z"), ())],
)
def test_an_answer_that_names_other_sites_is_its_openers_fault(five, unreadable, accused):
    """Only survivors have rows, and a row is either unreadable or wrong."""
    body = bytes(32 * 4)
    with pytest.raises(PeerFault, match="other sites") as caught:
        read_shares(body, five.transcript, U, (), "a", unreadable, accused)
    assert caught.value.site == "a"


@pytest.mark.parametrize("missing", [(), ("b",), ("b", "d")])
@pytest.mark.parametrize("lost", [(), ("b",), ("b", "e")])
def test_an_answer_of_another_length_is_its_openers_fault(five, missing, lost):
    right = 32 * (4 - len(lost) + 1 + len([site for site in missing if site not in lost]))
    found = read_shares(bytes(right), five.transcript, U, missing, "a", lost[:1], lost[1:])
    assert len(found.self_shares) == 4 - len(lost)
    for length in (0, right - 32, right - 1, right + 1, right + 32):
        with pytest.raises(PeerFault, match="length") as caught:
            read_shares(bytes(length), five.transcript, U, missing, "a", lost[:1], lost[1:])
        assert caught.value.site == "a"


@pytest.mark.parametrize("place", range(7))
def test_an_opened_value_that_was_not_committed_to_is_its_openers_fault(five, place):
    """Four shares of self seeds, one pair seed, two shares of pair seeds."""
    body = opens(five, "a", pieces(five, U, "a"), missing=("b", "d")).body
    good = read_shares(body, five.transcript, U, ("b", "d"), "a")
    opening.check_shares(good, "a", five.submissions)
    wrong = read_shares(changed(body, 32 * place + 5), five.transcript, U, ("b", "d"), "a")
    with pytest.raises(PeerFault, match="than") as caught:
        opening.check_shares(wrong, "a", five.submissions)
    assert caught.value.site == "a"


def test_shares_of_one_opener_do_not_pass_for_those_of_another(five):
    """A reflected answer is not the other's."""
    with pytest.raises(PeerFault) as caught:
        opening.check_shares(five.opened(U, (), "a"), "b", five.submissions)
    assert caught.value.site == "b"


# ---- seeds


def all_shares(made, survivors, missing=()):
    return {
        site: made.opened(survivors, missing, site) for site in survivors if site not in missing
    }


def test_threshold_many_answers_give_all_seeds(five):
    seeds = five.seeds(U, missing=("d",))
    assert tuple(seeds.self_seeds) == U
    assert set(seeds.pair_seeds) == {(site, "c") for site in U}
    for site in U:
        exact = five.members[site].pair_seed("c", five.transcript.digest)
        assert seeds.pair_seeds[site, "c"] == exact
        assert seeds.self_seeds[site] == Entropy(f"five entropy {site}")(32)
    assert "seeds" not in repr(seeds).replace("Seeds", "")


def test_the_seeds_do_not_depend_on_who_answers(five):
    everybody = five.seeds(U)
    for missing in U:
        assert five.seeds(U, missing=(missing,)) == everybody


def test_too_few_shares_of_a_self_seed_are_a_refusal(five):
    """Two of three: nothing is opened."""
    shares = all_shares(five, U)
    few = {site: shares[site] for site in ("a", "b")}
    with pytest.raises(Refused, match="2 of 3 shares of a seed of a") as caught:
        rebuild_seeds(five.transcript, U, few, five.submissions)
    assert caught.value.reason == "secure-sum"


def test_unreadable_rows_count_as_absent_shares(five):
    """Three answers, but one of them could not read the row of d."""
    shares = all_shares(five, U, missing=("e",))
    held = dict(shares["a"].self_shares)
    del held["d"]
    shares["a"] = SharesOf(held, shares["a"].pair_seeds, shares["a"].pair_shares)
    with pytest.raises(Refused, match="2 of 3 shares of a seed of d"):
        rebuild_seeds(five.transcript, U, shares, five.submissions)


def test_too_few_shares_of_a_missing_sites_pair_seed_are_a_refusal(five):
    """d answers no more, and nobody was asked for shares of its pair seed with c."""
    shares = all_shares(five, U)
    del shares["d"]
    with pytest.raises(Refused, match="0 of 3 shares of a seed of d"):
        rebuild_seeds(five.transcript, U, shares, five.submissions)


def test_shares_that_do_not_give_the_committed_self_seed_are_their_dealers_fault(five):
    """Each is the one that the dealer committed to; together they are another secret."""
    shares = all_shares(five, U)
    held = dict(shares["b"].self_shares)
    held["d"] = changed(held["d"], 0)
    shares["b"] = SharesOf(held, shares["b"].pair_seeds, shares["b"].pair_shares)
    with pytest.raises(PeerFault, match="do not add up") as caught:
        rebuild_seeds(five.transcript, U, shares, five.submissions)
    assert caught.value.site == "d"


def test_shares_that_do_not_give_the_committed_pair_seed_are_their_dealers_fault(five):
    shares = all_shares(five, U, missing=("d",))
    held = dict(shares["e"].pair_shares)
    held["d", "c"] = changed(held["d", "c"], 31)
    shares["e"] = SharesOf(shares["e"].self_shares, shares["e"].pair_seeds, held)
    with pytest.raises(PeerFault, match="do not add up") as caught:
        rebuild_seeds(five.transcript, U, shares, five.submissions)
    assert caught.value.site == "d"


def test_a_share_beyond_the_threshold_is_not_needed(five):
    """The first three openers by name are used; a wrong fourth changes nothing."""
    shares = all_shares(five, U)
    held = {site: changed(share, 3) for site, share in shares["e"].self_shares.items()}
    shares["e"] = SharesOf(held, shares["e"].pair_seeds, shares["e"].pair_shares)
    assert rebuild_seeds(five.transcript, U, shares, five.submissions) == five.seeds(U)
