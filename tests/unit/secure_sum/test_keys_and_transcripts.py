"""Keys and seeds follow from the epoch key and from everything public about a round."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from sum_cases import ROSTER_DIGEST, D, Entropy, members_of, transcript_of, vectors

from shared_model import protocol_open, signing
from shared_model.errors import OurMistake, PeerFault
from shared_model.secure_sum import keys, primitives
from shared_model.secure_sum.keys import Member
from shared_model.secure_sum.numbers import Numbers
from shared_model.secure_sum.transcript import configuration_digest, epoch_keys_digest, of_request

SITES = ("a", "b", "c", "d", "e")
WEIGHTS = {"alpha": 8, "beta": 3, "gamma": 1}

# ---- primitives


@given(
    one=st.lists(st.binary(max_size=4), max_size=4),
    other=st.lists(st.binary(max_size=4), max_size=4),
)
def test_two_sequences_of_parts_never_give_the_same_bytes(one, other):
    """The concatenations may be equal, the framings are not."""
    assert (primitives.framed(*one) == primitives.framed(*other)) == (one == other)


def test_texts_and_bytes_that_join_alike_hash_apart():
    """ "ab" + "aba" and "aba" + "ba" join to the same text."""
    hashes = {
        primitives.tagged_hash("tag", "ab", "aba"),
        primitives.tagged_hash("tag", "aba", "ba"),
        primitives.tagged_hash("tag", "ababa"),
        primitives.tagged_hash("tagab", "aba"),
    }
    assert len(hashes) == 4


def test_a_derived_key_depends_on_everything_it_is_made_of():
    keys_made = {
        primitives.derive(b"s" * 32, b"t" * 32, "mask"),
        primitives.derive(b"S" * 32, b"t" * 32, "mask"),
        primitives.derive(b"s" * 32, b"T" * 32, "mask"),
        primitives.derive(b"s" * 32, b"t" * 32, "share"),
        primitives.derive(b"s" * 32, b"t" * 32, "mask", "a"),
        primitives.derive(b"s" * 32, b"t" * 32, "mask", "a", ""),
    }
    assert len(keys_made) == 6
    assert all(len(key) == 32 for key in keys_made)


@pytest.mark.parametrize("words", [0, 1, 7, 8, 9, 65_535, 65_536, 65_537, 131_073])
def test_keystreams_of_every_length_are_one_stream(words):
    """Around the sizes at which the code works in pieces; against AES in ECB on a counter."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    seed = hashlib.sha256(b"stream").digest()
    found = primitives.keystream(seed, words)
    blocks = -(-words // 4)
    counters = b"".join(k.to_bytes(16, "big") for k in range(blocks))
    block_cipher = Cipher(algorithms.AES256(seed), modes.ECB()).encryptor()  # one block at a time
    exact = np.frombuffer(block_cipher.update(counters), "<u4")[:words]
    assert found.shape == (words,)
    assert np.array_equal(found, exact)
    for subtract in (False, True):
        start = np.arange(words, dtype=np.uint32) * np.uint32(77)
        vector = start.copy()
        primitives.add_keystream(vector, seed, subtract=subtract)
        assert np.array_equal(vector, start - exact if subtract else start + exact)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_seed_of_another_length_is_a_mistake(length):
    with pytest.raises(OurMistake, match="32 bytes"):
        primitives.keystream(bytes(length), 4)
    with pytest.raises(OurMistake, match="32 bytes"):
        primitives.add_keystream(np.zeros(4, np.uint32), bytes(length))


# ---- members


def test_both_ends_of_every_pair_have_the_same_secret_and_nobody_else_has():
    members = members_of(SITES)
    secrets = {}
    for one in SITES:
        for other in SITES:
            secrets.setdefault(frozenset({one, other}), set()).add(members[one].pair_secret(other))
    assert all(len(found) == 1 for found in secrets.values())
    assert len({next(iter(found)) for found in secrets.values()}) == len(secrets) == 15


@pytest.mark.parametrize("change", ["epoch", "roster_digest"])
def test_a_pair_secret_is_of_one_epoch_and_one_roster(change):
    member = members_of(SITES)["a"]
    other = dataclasses.replace(
        member, _pair_secrets={}, **{change: 6 if change == "epoch" else bytes(32)}
    )
    assert member.pair_secret("b") != other.pair_secret("b")


def test_a_pair_secret_is_bound_to_the_names_of_the_pair():
    """A colluder with another site's public key under its own name gets another secret."""
    members = members_of(SITES)
    honest, victim = members["a"], members["b"]
    public = {**honest.public_keys, "z": honest.public_keys["b"]}
    copied = Member("a", honest.key, public, ROSTER_DIGEST, 5)
    assert copied.pair_secret("z") != honest.pair_secret("b")
    assert copied.pair_secret("b") == victim.pair_secret("a")


def test_a_pair_secret_is_made_once(monkeypatch):
    """100 sites ask for it several times a round."""
    member = members_of(SITES)["a"]
    first = member.pair_secret("b")
    monkeypatch.setattr(keys, "derive", None)
    assert member.pair_secret("b") is first


def test_seeds_of_two_rounds_have_nothing_in_common():
    member = members_of(SITES)["a"]
    one, other = transcript_of(SITES, 4), transcript_of(SITES, 4, round=4)
    assert member.pair_seed("b", one.digest) != member.pair_seed("b", other.digest)
    assert member.pair_seed("b", one.digest) == member.pair_seed("b", one.digest)
    assert member.pair_seed("b", one.digest) != member.pair_seed("c", one.digest)


def test_a_sealing_key_is_for_one_direction_one_round_and_one_salt():
    """Reflected shares do not open: a to b and b to a have other keys."""
    members = members_of(SITES)
    digest, salt = transcript_of(SITES, 4).digest, b"s" * 32
    made = [
        members["a"].share_key("a", "b", digest, salt),
        members["a"].share_key("b", "a", digest, salt),
        members["a"].share_key("a", "a", digest, salt),
        members["a"].share_key("a", "b", bytes(32), salt),
        members["a"].share_key("a", "b", digest, b"t" * 32),
        members["a"].pair_seed("b", digest),
    ]
    assert len(set(made)) == len(made)
    assert members["b"].share_key("a", "b", digest, salt) == made[0]
    assert members["b"].share_key("b", "a", digest, salt) == made[1]


def test_a_site_makes_no_key_of_two_others():
    with pytest.raises(OurMistake, match="business"):
        members_of(SITES)["a"].share_key("b", "c", bytes(32), bytes(32))


def test_a_member_whose_public_key_is_not_its_own_is_a_mistake():
    """The coordinator's list would show the others another key."""
    members = members_of(SITES)
    public = dict(members["a"].public_keys)
    for wrong in ({**public, "a": public["b"]}, {k: v for k, v in public.items() if k != "a"}):
        with pytest.raises(OurMistake, match="not the one"):
            Member("a", members["a"].key, wrong, ROSTER_DIGEST, 5)


LOW_ORDER = [bytes(32), (1).to_bytes(32, "little"), (2**255 - 20).to_bytes(32, "little")]


@pytest.mark.parametrize("public", [*LOW_ORDER, b"", bytes(31), bytes(33), None])
def test_a_peer_without_a_usable_key_is_named(public):
    """Absent, of another length, or of low order (the secret would be zeros for everybody)."""
    member = members_of(SITES)["a"]
    others = {site: key for site, key in member.public_keys.items() if site != "c"}
    if public is not None:
        others["c"] = public
    member = dataclasses.replace(member, public_keys=others, _pair_secrets={})
    with pytest.raises(PeerFault, match="no usable key") as caught:
        member.pair_secret("c")
    assert caught.value.site == "c"
    assert len(member.pair_secret("b")) == 32


def test_nothing_secret_is_shown():
    member = members_of(SITES)["a"]
    member.pair_secret("b")
    assert "Private" not in repr(member)
    assert "pair_secrets" not in repr(member)


def test_an_epoch_key_takes_32_bytes_of_entropy():
    source = Entropy("epoch")
    made = keys.new_epoch_key(source)
    assert source.used == 32
    assert made.private_bytes_raw() == Entropy("epoch")(32)
    assert keys.public_key(made) == made.public_key().public_bytes_raw()


# ---- transcripts

CHANGES = {
    "run": "autumn",
    "round": 4,
    "participants": ("a", "b", "c", "d", "f"),
    "model_digest": "cd" * 32,
    "configuration_digest": "cd" * 32,
    "numbers": Numbers.of(41, 5, 1.0, 12),
    "roster_digest": "cd" * 32,
    "epoch": 6,
    "epoch_keys_digest": "cd" * 32,
    "threshold": 5,
    "weights": (1, 1, 1, 1, 2),
    "mode": "distributed",
}


def test_every_field_changes_the_transcript():
    """Two nodes that were told different things have different seeds."""
    base = transcript_of(SITES, 4)
    assert set(CHANGES) == {field.name for field in dataclasses.fields(base)}
    digests = {base.digest}
    for name, value in CHANGES.items():
        digests.add(dataclasses.replace(base, **{name: value}).digest)
    for numbers in (
        Numbers(40, 11, 1.0, 15),
        Numbers(40, 12, 1.0, 16),
        Numbers(40, 12, 2.0, 15),
    ):
        digests.add(dataclasses.replace(base, numbers=numbers).digest)
    assert len(digests) == len(CHANGES) + 4
    assert all(len(digest) == 32 for digest in digests)


def test_the_rotation_has_no_keys_in_it():
    """A repeated simulation repeats; another run, round or model is rotated otherwise."""
    base = transcript_of(SITES, 4)
    for name, value in CHANGES.items():
        same = dataclasses.replace(base, **{name: value}).rotation_seed == base.rotation_seed
        assert same == (name not in {"run", "round", "model_digest"})


@pytest.mark.parametrize(
    ("sites", "threshold", "weights", "match"),
    [
        (("b", "a", "c"), 2, (1, 1, 1), "sorted"),
        (("a", "a", "c"), 2, (1, 1, 1), "sorted"),
        (("a",), 2, (1,), "2 to 255"),
        ((), 2, (), "2 to 255"),
        (tuple(f"s{k:03}" for k in range(256)), 200, (1,) * 256, "2 to 255"),
        (("a", "b"), 2, (1,), "weight"),
        (("a", "b"), 2, (1, 1, 1), "weight"),
        (("a", "b"), 2, (1, 0), "weight"),
        (("a", "b", "c"), 1, (1, 1, 1), "threshold"),
        (("a", "b", "c"), 4, (1, 1, 1), "threshold"),
    ],
)
def test_a_round_that_cannot_be_is_refused(sites, threshold, weights, match):
    """Unsorted or repeated sites, too few or many, weights or threshold that do not fit."""
    with pytest.raises(OurMistake, match=match):
        transcript_of(sites, threshold, weights=weights, numbers=Numbers(40, 12, 1.0, 20))


def test_the_largest_and_the_smallest_round_are_taken():
    assert len(transcript_of([f"s{k:03}" for k in range(255)], 255).participants) == 255
    assert transcript_of(("a", "b"), 2).threshold == 2


def test_sites_have_places_weights_and_peers():
    transcript = transcript_of(SITES, 4, weights=(1, 2, 3, 4, 5))
    assert [transcript.index(site) for site in SITES] == [0, 1, 2, 3, 4]
    assert [transcript.weight(site) for site in SITES] == [1, 2, 3, 4, 5]
    assert transcript.peers("c") == ("a", "b", "d", "e")
    assert transcript.dropped(("a", "c")) == ("b", "d", "e")
    assert transcript.dropped(SITES) == ()


def test_a_site_that_takes_no_part_has_no_place():
    with pytest.raises(OurMistake, match="no part"):
        transcript_of(SITES, 4).index("z")
    with pytest.raises(OurMistake, match="no part"):
        transcript_of(SITES, 4).weight("z")


@pytest.mark.parametrize("survivors", [("b", "a"), ("a", "a"), ("a", "z")])
def test_survivors_are_sorted_participants(survivors):
    with pytest.raises(OurMistake, match="Survivors"):
        transcript_of(SITES, 4).dropped(survivors)


# ---- from a request


def request_of_three():
    case = vectors("round_of_three")
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(case["run_private_key"]))
    return protocol_open.open_train_request(
        bytes.fromhex(case["messages"]["train-request"]), signing.public_bytes(key)
    )


def changed(request, **changes):
    return request.model_copy(update=changes)


def test_a_participant_without_a_weight_is_refused():
    weights = {"alpha": 8, "gamma": 1}
    with pytest.raises(OurMistake, match="beta is not in the roster"):
        of_request(request_of_three(), weights)


def test_weights_of_sites_that_are_not_asked_play_no_part():
    request = request_of_three()
    assert of_request(request, {**WEIGHTS, "zeta": 8}) == of_request(request, WEIGHTS)


@pytest.mark.parametrize("bits", [23, 25])
def test_a_modulus_that_does_not_follow_from_the_weights_is_refused(bits):
    request = request_of_three()
    plan = changed(request.sum, modulus_bits=bits)
    with pytest.raises(OurMistake, match="modulus"):
        of_request(changed(request, sum=plan), WEIGHTS)


@pytest.mark.parametrize("bits", [8, 16, 24])
def test_the_bits_of_the_request_are_taken(bits):
    """And the modulus that follows: a total weight of 12 takes four more."""
    request = request_of_three()
    plan = changed(request.sum, bits=bits, modulus_bits=bits + 4)
    found = of_request(changed(request, sum=plan), WEIGHTS)
    assert (found.numbers.bits, found.numbers.modulus_bits) == (bits, bits + 4)


def test_every_part_of_the_configuration_is_in_its_digest():
    """How a round trains, whether masks are on, and what makes the next model of the sum."""
    request = request_of_three()
    others = [
        changed(request, preset="small"),
        changed(request, config_digest=D),
        changed(request, privacy=dataclasses.replace(request.privacy, steps=5)),
        changed(request, training=dataclasses.replace(request.training, segments=3)),
        changed(request, minimum_contributors=3),
        changed(request, sum=changed(request.sum, aggregation="UnmaskedForSimulation")),
        changed(request, purpose="other"),
        changed(request, server_step="other"),
        changed(request, server_learning_rate=0.75),
    ]
    digests = {configuration_digest(found) for found in [request, *others]}
    assert len(digests) == 10
    assert len({of_request(found, WEIGHTS).digest for found in [request, *others]}) == 10


def test_what_only_travels_is_in_no_transcript():
    """Deadline, software and the coordinator's starts may change without new seeds."""
    request = request_of_three()
    other = changed(request, deadline_s=1.0, software="fedprint 9", start=2)
    assert of_request(other, WEIGHTS) == of_request(request, WEIGHTS)


@settings(max_examples=20, deadline=None)
@given(place=st.integers(0, 2), what=st.sampled_from(["site", "public_key", "signature"]))
def test_every_epoch_key_and_signature_is_in_the_transcript(place, what):
    request = request_of_three()
    entries = list(request.sum.epoch_keys)
    value = "zeta" if what == "site" else "00" * (32 if what == "public_key" else 64)
    entries[place] = changed(entries[place], **{what: value})
    other = changed(request, sum=changed(request.sum, epoch_keys=tuple(entries)))
    assert epoch_keys_digest(other) != epoch_keys_digest(request)
    assert of_request(other, WEIGHTS).digest != of_request(request, WEIGHTS).digest
