"""The core against the known answers, which a second implementation made (tests/reference)."""

from __future__ import annotations

import json

import make_vectors
import numpy as np
import pytest
import secure_sum_reference as reference
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sum_cases import Entropy, round_of, sha256, vector_entropy, vectors, words_digest

from shared_model import (
    canonical,
    ledger,
    protocol,
    protocol_base,
    protocol_open,
    protocol_sum,
    server_step,
    signing,
    verify_body,
    weights,
)
from shared_model.ledger_links import read_links_body
from shared_model.ledger_note import check_note
from shared_model.secure_sum import (
    keys,
    numbers,
    opening,
    primitives,
    shamir,
    submission,
    unmask,
    verification,
)
from shared_model.secure_sum.keys import Member
from shared_model.secure_sum.numbers import Numbers
from shared_model.secure_sum.submission import Submission
from shared_model.secure_sum.transcript import Transcript, of_request

ROUNDS = ("round_of_three", "round_of_five")


@pytest.mark.parametrize("name", sorted(make_vectors.FILES))
def test_the_vectors_are_what_the_reference_makes(name):
    """Nobody has changed a known answer by hand, and the reference still gives it."""
    assert (make_vectors.FOLDER / name).read_text() == make_vectors.text_of(name)


def test_the_reference_knows_published_answers():
    """RFC 5869 case 1, RFC 7748 section 6.1, FIPS 197 section 4.2."""
    okm = reference.hkdf(bytes.fromhex("0b" * 22), bytes(range(13)), bytes(range(0xF0, 0xFA)), 42)
    assert okm.hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    assert reference.public_key(alice).hex() == (
        "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    )
    assert reference.gf_multiply(0x57, 0x83) == 0xC1
    assert reference.gf_multiply(0x57, 0x13) == 0xFE


# ---- primitives


def test_framing_puts_lengths_before_parts():
    for case in vectors("primitives")["framed"]:
        assert primitives.framed(*case["parts"]).hex() == case["framed"]
    assert primitives.framed("Zürich") == primitives.framed("Zürich".encode())


def test_hashes_are_the_known_ones():
    for case in vectors("primitives")["hash"]:
        assert primitives.tagged_hash(case["tag"], *case["parts"]).hex() == case["hash"]


def test_derived_keys_are_the_known_ones():
    case = vectors("primitives")["kdf"]
    secret, salt = bytes.fromhex(case["secret"]), bytes.fromhex(case["salt"])
    assert primitives.derive(secret, salt, case["tag"], *case["parts"]).hex() == case["key"]
    assert primitives.derive(secret, salt, case["tag"]).hex() == case["key_without_parts"]


def test_keystreams_are_the_known_ones():
    case = vectors("primitives")["keystream"]
    seed = bytes.fromhex(case["seed"])
    assert primitives.keystream(seed, 32).tolist() == case["first_words"]
    assert words_digest(primitives.keystream(seed, 8192)) == case["sha256_of_8192_words"]


def test_packed_vectors_are_the_known_ones():
    for case in vectors("primitives")["packing"]:
        m, vector = case["modulus_bits"], np.array(case["vector"], dtype=np.uint32)
        packed = bytes.fromhex(case["packed"])
        assert numbers.pack(vector, m) == packed
        assert numbers.unpack(packed, m, len(vector)).tolist() == case["vector"]


def test_shamir_shares_are_the_known_ones():
    case = vectors("primitives")["shamir"]
    secrets = [bytes.fromhex(value) for value in case["secrets"]]
    shares = shamir.split(
        np.frombuffer(b"".join(secrets), np.uint8).reshape(-1, 32),
        case["threshold"],
        case["receivers"],
        bytes.fromhex(case["coefficients"]),
    )
    found = [[share.tobytes().hex() for share in mine] for mine in shares]
    assert found == case["shares"]
    for chosen in ((0, 1, 2), (4, 0, 3), (2, 3, 4)):
        for s, secret in enumerate(secrets):
            held = {r: bytes.fromhex(case["shares"][r][s]) for r in chosen}
            assert shamir.rebuild(held) == secret


def test_the_multiplication_table_is_that_of_the_field():
    case = vectors("primitives")["gf256"]
    assert sha256(shamir.PRODUCT.tobytes()) == case["products_sha256"]
    for a, b, product in case["some"]:
        assert shamir.PRODUCT[a, b] == product


# ---- numbers


def parameters(fields):
    return Numbers(
        fields["dimension"], fields["bits"], fields["norm_bound"], fields["modulus_bits"]
    )


def test_shapes_and_scales_are_the_known_ones():
    for case in vectors("numbers")["shapes"]:
        found = Numbers(case["dimension"], 20, 1.0, 24)
        assert (found.block, found.columns, found.padded) == (
            case["block"],
            case["columns"],
            case["padded"],
        )
        assert found.scale == pytest.approx(case["scale_at_20_bits_and_norm_1"], rel=1e-15)
        assert found.packed_bytes == 3 * case["padded"]


def test_moduli_are_the_known_ones():
    for case in vectors("numbers")["modulus_bits"]:
        found = numbers.modulus_bits_for(case["bits"], case["total_weight"])
        assert found == case["modulus_bits"]
        if case["total_weight"] > 1:
            assert Numbers.of(40, case["total_weight"], 1.0, case["bits"]).modulus_bits == found


@pytest.mark.parametrize("case", vectors("numbers")["quantise"], ids=lambda case: case["name"])
def test_quantised_vectors_are_the_known_ones(case):
    """Exact for inputs that are exact in float32, within one unit where a division is needed."""
    plan = parameters(case["numbers"])
    update = np.array([float(x) for x in case["update"]], dtype=np.float32)
    found = numbers.quantise(
        update,
        plan,
        bytes.fromhex(case["rotation_seed"]),
        case["weight"],
        bytes.fromhex(case["rounding_seed"]),
    )
    known = np.array(case["vector"], dtype=np.int64)
    half = 1 << (plan.modulus_bits - 1)
    apart = (found.vector.astype(np.int64) - known + half) % (2 * half) - half
    assert np.abs(apart).max() <= case["within"] * case["weight"]
    counts = (found.clipped, found.non_finite, found.scaled)
    assert counts == (case["clipped"], case["non_finite"], case["scaled"])


def test_the_mean_of_a_known_sum_is_the_known_mean():
    case = vectors("numbers")["mean"]
    found = numbers.mean_of(
        np.array(case["sum"], dtype=np.uint32),
        parameters(case["numbers"]),
        bytes.fromhex(case["rotation_seed"]),
        case["total_weight"],
    )
    assert found.dtype == np.float64
    assert found == pytest.approx(np.array(case["mean"]), rel=1e-12, abs=1e-15)


# ---- whole rounds


def transcript_of_case(case):
    fields = case["transcript_fields"]
    return Transcript(
        **{
            **fields,
            "participants": tuple(fields["participants"]),
            "weights": tuple(fields["weights"]),
            "numbers": parameters(fields["numbers"]),
        }
    )


def members_of_case(case):
    public = {entry["site"]: bytes.fromhex(entry["public_key"]) for entry in case["epoch_keys"]}
    return {
        site["site"]: Member(
            site["site"],
            X25519PrivateKey.from_private_bytes(bytes.fromhex(site["epoch_private_key"])),
            public,
            bytes.fromhex(case["roster_digest"]),
            case["epoch"],
        )
        for site in case["sites"]
    }


def quantised_of_case(case, name, index):
    """The quantised vector of a site, made by the core."""
    part, transcript = case["sites"][index], transcript_of_case(case)
    if "update" in part:
        update = [float(x) for x in part["update"]]
    else:
        count = transcript.numbers.dimension
        update = [k / 512 for k in make_vectors.integers(part["update_label"], count, 32)]
    return numbers.quantise(
        np.array(update, dtype=np.float32),
        transcript.numbers,
        transcript.rotation_seed,
        part["weight"],
        bytes.fromhex(part["rounding_seed"]),
    )


def submissions_of_case(case, name):
    """What every site submits, made by the core."""
    transcript, members = transcript_of_case(case), members_of_case(case)
    made = {}
    for index, part in enumerate(case["sites"]):
        body = submission.seal_submission(
            quantised_of_case(case, name, index).vector,
            members[part["site"]],
            transcript,
            vector_entropy(part["entropy_label"]),
        )
        made[part["site"]] = Submission.parse(body, transcript, part["site"])
    return made


@pytest.mark.parametrize("name", ROUNDS)
def test_epoch_keys_come_from_32_bytes_of_entropy(name):
    for part in vectors(name)["sites"]:
        made = keys.new_epoch_key(vector_entropy(f"epoch key {part['site']}"))
        assert made.private_bytes_raw().hex() == part["epoch_private_key"]


@pytest.mark.parametrize("name", ROUNDS)
def test_pair_secrets_seeds_and_share_keys_are_the_known_ones(name):
    """From both ends of every pair, and of each site with itself."""
    case = vectors(name)
    members, digest = members_of_case(case), bytes.fromhex(case["transcript"])
    for part in case["sites"]:
        member = members[part["site"]]
        for peer, secret in part["pair_secrets"].items():
            assert member.pair_secret(peer).hex() == secret
        for peer, seed in part["pair_seeds"].items():
            assert member.pair_seed(peer, digest).hex() == seed
        salt = bytes.fromhex(part["salt"])
        for peer, key in part["share_keys"].items():
            assert member.share_key(part["site"], peer, digest, salt).hex() == key
            assert members[peer].share_key(part["site"], peer, digest, salt).hex() == key


@pytest.mark.parametrize("name", ROUNDS)
def test_transcripts_and_rotations_are_the_known_ones(name):
    case = vectors(name)
    transcript = transcript_of_case(case)
    assert transcript.digest.hex() == case["transcript"]
    assert transcript.rotation_seed.hex() == case["rotation_seed"]
    words = primitives.keystream(transcript.rotation_seed, transcript.numbers.padded // 32)
    bits = bytes(int(words[e // 32] >> (e % 32)) & 1 for e in range(transcript.numbers.padded))
    assert sha256(bits) == case["rotation_signs_sha256"]


@pytest.mark.parametrize("name", ROUNDS)
def test_the_transcript_follows_from_the_request(name):
    case = vectors(name)
    run_key = signing.public_bytes(
        Ed25519PrivateKey.from_private_bytes(bytes.fromhex(case["run_private_key"]))
    )
    request = protocol_open.open_train_request(
        bytes.fromhex(case["messages"]["train-request"]), run_key
    )
    weights = {part["site"]: part["weight"] for part in case["sites"]}
    found = of_request(request, weights)
    assert found == transcript_of_case(case)
    assert found.digest.hex() == case["transcript"]
    for entry in request.sum.epoch_keys:
        identity = next(s for s in case["sites"] if s["site"] == entry.site)
        key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(identity["identity_private_key"]))
        statement = protocol_sum.epoch_key_statement(entry, case["epoch"], case["roster_digest"])
        signing.verify(
            signing.public_bytes(key), "epoch-key", statement, bytes.fromhex(entry.signature)
        )


@pytest.mark.parametrize("name", ROUNDS)
def test_submissions_are_the_known_ones_to_the_byte(name):
    """Quantised vector, masks, shares, commitments, seals: each is named before the whole is."""
    case = vectors(name)
    made = submissions_of_case(case, name)
    for index, part in enumerate(case["sites"]):
        found = made[part["site"]]
        transcript = found.transcript
        quantised = quantised_of_case(case, name, index)
        assert words_digest(quantised.vector) == part["vector_sha256"]
        assert quantised.clipped == part["clipped"]
        assert found.salt.hex() == part["salt"]
        peers = transcript.peers(part["site"])
        commitments = [found.self_commitment, *(found.pair_commitment(peer) for peer in peers)]
        assert [c.hex() for c in commitments] == part["seed_commitments"]
        masked = numbers.unpack(
            found.packed, transcript.numbers.modulus_bits, transcript.numbers.padded
        )
        assert words_digest(masked) == part["masked_sha256"]
        assert sha256(found.packed) == part["packed_sha256"]
        for receiver, known in part["rows_sha256"].items():
            row = found.row(receiver)
            assert sha256(row) == known
            places = [found.share_commitment(receiver, peer) for peer in (None, *peers)]
            assert b"".join(places) == row[: 32 * len(places)]
        assert (len(found.body), sha256(found.body)) == (part["body_bytes"], part["body_sha256"])
        if "body" in part:
            assert bytes(found.body).hex() == part["body"]


@pytest.mark.parametrize("name", ROUNDS)
def test_masks_are_the_known_keystreams(name):
    for part in vectors(name)["sites"]:
        padded = transcript_of_case(vectors(name)).numbers.padded
        stream = primitives.keystream(bytes.fromhex(part["self_seed"]), padded)
        assert words_digest(stream) == part["self_mask_sha256"]
        for peer, seed in part["pair_seeds"].items():
            vector = np.zeros(padded, dtype=np.uint32)
            primitives.add_keystream(vector, bytes.fromhex(seed))
            assert words_digest(vector) == part["pair_masks_sha256"][peer]


@pytest.mark.parametrize("name", ROUNDS)
def test_opened_shares_are_the_known_ones(name):
    case = vectors(name)
    made, members = submissions_of_case(case, name), members_of_case(case)
    survivors, missing = tuple(case["survivors"]), tuple(case["missing"])
    for opener, known in case["openings"].items():
        body = opening.rows_body({site: made[site] for site in survivors}, opener)
        assert sha256(body) == known["request_body_sha256"]
        found = opening.open_rows(
            members[opener], transcript_of_case(case), survivors, missing, body
        )
        assert found.body.hex() == known["body"]
        assert (found.unreadable, found.accused) == ((), ())


def model_before_case(case, dimension):
    """The model before the round, from the label that stands in the file."""
    values = make_vectors.integers(case["model_before_label"], dimension, 1024)
    trained = np.array(values, np.float32) / np.float32(256)
    assert trained[:16].tolist() == case["model_before_first"]
    return {"frozen": np.array([1.0, 2.0], np.float32), "trained": trained}


@pytest.mark.parametrize("name", ROUNDS)
def test_sum_mean_statement_model_and_subset_sums_are_the_known_ones(name):
    case = vectors(name)
    made, transcript = submissions_of_case(case, name), transcript_of_case(case)
    survivors, missing = tuple(case["survivors"]), tuple(case["missing"])
    shares = {
        opener: opening.read_shares(
            bytes.fromhex(known["body"]), transcript, survivors, missing, opener
        )
        for opener, known in case["openings"].items()
    }
    for opener, found in shares.items():
        opening.check_shares(found, opener, made)
    seeds = opening.rebuild_seeds(transcript, survivors, shares, made)
    total = unmask.sum_of([(site, made[site].packed) for site in survivors], transcript, seeds)
    assert words_digest(total) == case["sum_sha256"]
    m = transcript.numbers.modulus_bits
    assert sha256(numbers.pack(total, m)) == case["packed_sum_sha256"]
    mean = numbers.mean_of(
        total, transcript.numbers, transcript.rotation_seed, case["weight_of_survivors"]
    )
    assert mean[:16] == pytest.approx(np.array(case["mean_first"]), rel=1e-10, abs=1e-15)
    assert float(np.sum(mean**2)) == pytest.approx(case["mean_square_sum"], rel=1e-10)
    before = model_before_case(case, transcript.numbers.dimension)
    request = json.loads(bytes.fromhex(case["messages"]["train-request"])[64:])
    assert request["server_learning_rate"] == case["server_learning_rate"]
    signed = protocol.TrainRequest.model_validate_json(canonical.encode(request))
    after = server_step.model_after(signed, transcript, survivors, total, before, ["trained"])
    assert after["trained"][:16].tolist() == case["model_after_first"]
    assert weights.digest(after) == case["model_out"]
    statement = verification.make_statement(
        transcript, survivors, tuple(case["submissions"]), total, seeds
    )
    data = verification.statement_bytes(statement)
    assert data.decode() == case["statement"]
    assert sha256(data) == case["statement_digest"]
    assert verification.read_statement(data) == statement
    assert verification.seeds_of(statement) == seeds
    asked = verification.challenge(
        transcript.digest, bytes.fromhex(case["statement_digest"]), transcript.numbers.padded
    )
    answers = {}
    for site in survivors:
        masked = numbers.unpack(made[site].packed, m, transcript.numbers.padded)
        answers[site] = verification.subset_sums(asked, masked, m)
        assert list(answers[site]) == case["subset_sums"][site]
    assert list(verification.subset_sums(asked, total, m)) == case["subset_sums_of_the_sum"]
    verification.check_equation(statement, answers, total)
    for site in survivors:
        digest = case["submissions"][survivors.index(site)]
        verification.check_own(statement, made[site], digest, survivors)


@pytest.mark.parametrize("name", ROUNDS)
def test_the_body_of_a_verify_request_is_the_known_one(name):
    """Statement, packed sum and every survivor's signed answer."""
    case = vectors(name)
    survivors = case["survivors"]
    headers = []
    for site in survivors:
        secret = next(s for s in case["sites"] if s["site"] == site)["identity_private_key"]
        reply = protocol_sum.CloseReply(
            run="spring",
            round=3,
            site=site,
            transcript=case["transcript"],
            statement_digest=case["statement_digest"],
            sums=tuple(case["subset_sums"][site]),
        )
        key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
        headers.append(protocol.seal(reply, key))
    assert dict(zip(survivors, map(sha256, headers), strict=True)) == case["close_replies_sha256"]
    made, transcript = submissions_of_case(case, name), transcript_of_case(case)
    seeds = verification.seeds_of(verification.read_statement(case["statement"].encode()))
    total = unmask.sum_of([(site, made[site].packed) for site in survivors], transcript, seeds)
    packed = numbers.pack(total, transcript.numbers.modulus_bits)
    body = verify_body.verify_body(case["statement"].encode(), packed, headers)
    assert sha256(body) == case["verify_body_sha256"]
    parts = (case["statement"].encode(), packed, tuple(headers))
    assert verify_body.read_verify_body(body) == parts


# ---- signed headers

MODELS = {
    protocol.kind_of(model): model
    for model in (
        protocol.TrainRequest,
        protocol.TrainReply,
        protocol.Refusal,
        protocol_sum.EpochRequest,
        protocol_sum.EpochKey,
        protocol_sum.AgreeRequest,
        protocol_sum.Agreement,
        protocol_sum.OpenRequest,
        protocol_sum.SharesReply,
        protocol_sum.CloseRequest,
        protocol_sum.CloseReply,
        protocol_sum.VerifyRequest,
        protocol_sum.SumReceipt,
    )
}


@pytest.mark.parametrize("kind", sorted(MODELS))
@pytest.mark.parametrize("name", ROUNDS)
def test_sealed_headers_are_the_known_ones(name, kind):
    """Every kind of message opens, and sealing what it says gives the same bytes again."""
    case = vectors(name)
    header = bytes.fromhex(case["messages"][kind])
    site = json.loads(header[64:]).get("site")
    if site is None:
        secret, site = case["run_private_key"], "coordinator"
    else:
        secret = next(s for s in case["sites"] if s["site"] == site)["identity_private_key"]
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
    message = protocol_open.open_signed(header, signing.public_bytes(key), MODELS[kind], site=site)
    assert protocol.seal(message, key) == header
    assert canonical.encode(message.model_dump(mode="json")) == header[64:]


def test_every_kind_of_message_has_a_vector():
    """A new message cannot be added without a known answer."""
    known = set(MODELS) | {"sum-statement"}
    kinds = set()
    waiting = [protocol_base.SignedMessage]
    while waiting:
        for model in waiting.pop().__subclasses__():
            waiting.append(model)
            if model.__module__.startswith("shared_model.protocol"):
                kinds.add(protocol.kind_of(model))
    assert {kind for kind in kinds if kind != "PydanticUndefined"} == known
    for name in ROUNDS:
        assert set(vectors(name)["messages"]) == set(MODELS)


@pytest.mark.parametrize("name", ROUNDS)
def test_what_survivors_agree_on_has_the_known_digest(name):
    case = vectors(name)
    text = bytes.fromhex(case["messages"]["agree-request"])[protocol.SIGNATURE_BYTES :]
    asked = protocol_sum.AgreeRequest.model_validate_json(text)
    found = protocol_sum.agreed_digest(asked.survivors, asked.submissions, asked.heads)
    assert found == case["agreed"]
    body = case["agree_body"].encode()
    assert sha256(body) == asked.body_digest
    links = {part["site"]: part["ledger_links"] for part in case["sites"]}
    for site, shown in read_links_body(body).items():
        head = asked.heads[asked.survivors.index(site)]
        assert list(shown) == links[site]
        assert ledger.follows(ledger.NOTHING, shown) == head.head


@pytest.mark.parametrize("name", ROUNDS)
def test_the_known_ledgers_book_what_was_submitted(name):
    """Entries, chain and signed head of the second implementation."""
    case = vectors(name)
    run_key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(case["run_private_key"]))
    request = protocol_open.open_train_request(
        bytes.fromhex(case["messages"]["train-request"]), signing.public_bytes(run_key)
    )
    part = case["sites"][0]
    key = signing.public_bytes(
        Ed25519PrivateKey.from_private_bytes(bytes.fromhex(part["identity_private_key"]))
    )
    header = bytes.fromhex(case["messages"]["train-reply"])
    reply = protocol_open.open_answer(header, key, site=part["site"])
    assert isinstance(reply, protocol.TrainReply)
    check_note(reply, request, key)
    lines = [line.encode() for line in reply.ledger.entries]
    chain = ledger.Chain.verified(lines, key, site=part["site"])
    assert (chain.length, chain.head) == (3, part["ledger_head"])
    assert [link.digest for link in chain.links] == part["ledger_links"]


# ---- the reference against the core, on inputs that are in no file


@pytest.mark.parametrize(("sites", "threshold", "bits"), [("abc", 2, 11), ("abcd", 3, 20)])
def test_the_reference_takes_the_masks_off_what_the_core_submitted(sites, threshold, bits):
    """The two implementations talk to each other: one submits, the other opens and sums."""
    made = round_of(sites, threshold, bits=bits, label=f"talk {sites}")
    transcript = made.transcript
    m, padded, n = transcript.numbers.modulus_bits, transcript.numbers.padded, len(sites)
    survivors, dropped = list(sites[:-1]), sites[-1]
    secrets = {i: {j: made.members[i].pair_secret(j) for j in sites} for i in sites}
    self_shares, pair_seeds = {j: {} for j in survivors}, {}
    for i in survivors:
        pieces = {
            j: reference.row_of(bytes(made.submissions[j].body), m, padded, n, sites.index(i))
            for j in survivors
        }
        body, unreadable, accused = reference.open_reply(
            transcript.digest,
            i,
            list(sites),
            survivors,
            [],
            {j: row for j, (_, row) in pieces.items()},
            {j: salt for j, (salt, _) in pieces.items()},
            secrets[i],
        )
        assert unreadable == accused == []
        for place, j in enumerate(survivors):
            self_shares[j][sites.index(i)] = body[32 * place : 32 * place + 32]
        pair_seeds[i, dropped] = body[-32:]
    self_seeds = {
        j: reference.rebuild(dict(list(held.items())[:threshold]))
        for j, held in self_shares.items()
    }
    total = reference.total_of(
        {j: reference.unpack(bytes(made.submissions[j].packed), m) for j in survivors},
        m,
        survivors,
        [dropped],
        self_seeds,
        pair_seeds,
    )
    assert total == made.clear_sum(survivors).tolist()


def test_entropy_of_the_vectors_is_read_in_the_documented_order():
    """Self seed, salt, coefficients: another order would give other bytes."""
    case = vectors("round_of_three")
    asked = []
    source = vector_entropy(case["sites"][0]["entropy_label"])

    def entropy(length):
        asked.append(length)
        return source(length)

    submission.seal_submission(
        quantised_of_case(case, "round_of_three", 0).vector,
        members_of_case(case)["alpha"],
        transcript_of_case(case),
        entropy,
    )
    assert asked == [32, 32, 3 * 2 * 32]
    assert Entropy("x")(8) == Entropy("x")(4) + Entropy("x")(8)[4:]
