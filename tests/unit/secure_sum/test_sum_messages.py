"""Messages of trips 2 and 3, of epochs and of the closing exchange: strict, like all others."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sum_cases import vectors

from shared_model import canonical, protocol, protocol_open, protocol_sum, signing
from shared_model.errors import OurMistake, PeerFault
from shared_model.ledger import LedgerHead
from shared_model.protocol import EpochKeyEntry, Refusal, seal
from shared_model.protocol_open import open_answer_of, open_signed

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = signing.public_bytes(KEY)
S = "ab" * 32
CASE = vectors("round_of_five")
MODELS = {
    protocol.kind_of(model): model
    for model in (
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
ANSWERS = {kind: model for kind, model in MODELS.items() if "site" in model.model_fields}


def fields_of(kind):
    """What the known answer of this kind says."""
    return json.loads(bytes.fromhex(CASE["messages"][kind])[64:])


def opened(kind, fields):
    """Signed by KEY, opened as this kind."""
    data = canonical.encode(fields)
    header = signing.sign(KEY, kind, data) + data
    return open_signed(header, PUBLIC, MODELS[kind], site="alpha")


def refused(kind, **changes):
    with pytest.raises(PeerFault) as caught:
        opened(kind, {**fields_of(kind), **changes})
    assert caught.value.site == "alpha"


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_every_field_is_needed_and_none_may_be_added(kind):
    fields = fields_of(kind)
    assert opened(kind, fields).kind == kind
    for name in fields:
        with pytest.raises(PeerFault):
            opened(kind, {key: value for key, value in fields.items() if key != name})
    refused(kind, loss=0.5)


WRONG_VALUES = [None, True, -1, 0, 10**17, 1.5, "", "x" * 70, "a\nb", "../x", [], {}, [None], [1]]


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_no_field_takes_a_value_of_another_kind(kind):
    """Every field against a list of values that are wrong somewhere."""
    fields = fields_of(kind)
    accepted = []
    for name, value in fields.items():
        for wrong in WRONG_VALUES:
            if wrong == value and type(wrong) is type(value):
                continue
            try:
                opened(kind, {**fields, name: wrong})
            except PeerFault:
                continue
            accepted.append((name, wrong))
    empty = {"missing", "unreadable", "accused"}
    assert {name for name, _ in accepted} <= {"software", *empty}
    assert all(wrong in ([], "../x") for _, wrong in accepted)


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_another_kind_under_the_signature_is_refused(kind):
    data = canonical.encode(fields_of(kind))
    for other in ("train-request", "sum-statement", "refusal"):
        header = signing.sign(KEY, other, data) + data
        with pytest.raises(PeerFault, match="signature"):
            open_signed(header, PUBLIC, MODELS[kind], site="alpha")


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_a_message_in_another_spelling_is_refused(kind):
    data = canonical.encode(fields_of(kind))
    for other in (data + b"\n", data.replace(b":", b": ", 1), data.replace(b'"v', b'"\\u0076', 1)):
        assert other != data
        header = signing.sign(KEY, kind, other) + other
        with pytest.raises(PeerFault):
            open_signed(header, PUBLIC, MODELS[kind], site="alpha")


@pytest.mark.parametrize("kind", sorted(ANSWERS))
def test_an_answer_or_a_refusal_is_read_and_nothing_else(kind):
    """In the site's own name only."""
    message = opened(kind, {**fields_of(kind), "site": "alpha"})
    found = open_answer_of(seal(message, KEY), PUBLIC, ANSWERS[kind], site="alpha")
    assert found == message
    no = Refusal(run="spring", round=3, site="alpha", request_digest=S, reason="late")
    assert open_answer_of(seal(no, KEY), PUBLIC, ANSWERS[kind], site="alpha") == no
    for wrong in (message, no):
        with pytest.raises(PeerFault, match="another site") as caught:
            open_answer_of(seal(wrong, KEY), PUBLIC, ANSWERS[kind], site="beta")
        assert caught.value.site == "beta"
    for other in ANSWERS:
        if other != kind:
            header = seal(opened(other, {**fields_of(other), "site": "alpha"}), KEY)
            with pytest.raises(PeerFault, match="signature"):
                open_answer_of(header, PUBLIC, ANSWERS[kind], site="alpha")


def test_an_answer_without_a_site_is_nobodys_answer():
    header = seal(opened("close-request", fields_of("close-request")), KEY)
    with pytest.raises(PeerFault, match="another site"):
        open_answer_of(header, PUBLIC, protocol_sum.CloseRequest, site="alpha")


# ---- what a field alone cannot say

ABC = ["alpha", "beta", "delta"]


@pytest.mark.parametrize(
    "changes",
    [
        {"survivors": ["beta", "alpha"], "submissions": [S, S]},
        {"survivors": ["alpha", "alpha"], "submissions": [S, S]},
        {"survivors": ["alpha"], "submissions": [S]},
        {"survivors": ABC, "submissions": [S, S]},
        {"survivors": ABC, "submissions": [S] * 4},
        {"survivors": [f"s{k:03}" for k in range(256)], "submissions": [S] * 256},
        {"survivors": ["Alpha", "beta"], "submissions": [S, S]},
    ],
)
def test_survivors_that_do_not_fit_are_refused(changes):
    """Sorted, each once, at least two, at most 255, one submission each."""
    refused("agree-request", **changes)
    refused("open-request", **changes, missing=[], signers=changes["survivors"][:2])


OPEN = {
    "survivors": ABC,
    "submissions": [S] * 3,
    "missing": ["beta"],
    "signers": ["alpha", "delta"],
    "agreements": ["00", "11"],
}


def test_an_open_request_that_fits_is_read():
    found = opened("open-request", {**fields_of("open-request"), **OPEN})
    assert found.missing == ("beta",)
    both = {**OPEN, "missing": [], "signers": ABC, "agreements": ["00"] * 3}
    assert opened("open-request", {**fields_of("open-request"), **both}).signers == tuple(ABC)


@pytest.mark.parametrize(
    "changes",
    [
        {"missing": ["beta", "alpha"]},
        {"missing": ["beta", "beta"]},
        {"missing": ["zeta"]},
        {"signers": ["delta", "alpha"]},
        {"signers": ["alpha", "alpha"]},
        {"signers": ["alpha", "zeta"]},
        {"signers": ["alpha"], "agreements": ["00"]},
        {"agreements": ["00"]},
        {"agreements": ["00", "11", "22"]},
        {"agreements": ["00", "1"]},
        {"agreements": ["00", ""]},
        {"agreements": ["00", "GG"]},
        {"agreements": ["00", "1A"]},
        {"agreements": ["00", "0" * 8194]},
    ],
)
def test_an_open_request_that_does_not_fit_is_refused(changes):
    """Who is missing or signs is a survivor, sorted, each once; one agreement a signer."""
    refused("open-request", **{**OPEN, **changes})


@pytest.mark.parametrize("name", ["unreadable", "accused"])
def test_dealers_are_named_by_names_that_sites_have(name):
    refused("shares-reply", **{name: ["No Site"]})
    refused("shares-reply", **{name: ["alpha"] * 256})
    assert getattr(opened("shares-reply", {**fields_of("shares-reply"), name: ["beta"]}), name)


@pytest.mark.parametrize("change", ["short", "long", "negative", "large", "fraction"])
def test_subset_sums_are_128_words(change):
    sums = [7] * 128
    assert len(opened("close-reply", {**fields_of("close-reply"), "sums": sums}).sums) == 128
    wrong = {
        "short": sums[:-1],
        "long": [*sums, 7],
        "negative": [-1, *sums[1:]],
        "large": [2**32, *sums[1:]],
        "fraction": [7.5, *sums[1:]],
    }
    refused("close-reply", sums=wrong[change])
    limit = {**fields_of("close-reply"), "sums": [2**32 - 1, 0, *sums[2:]]}
    assert opened("close-reply", limit).sums[:2] == (2**32 - 1, 0)


@pytest.mark.parametrize("epoch", [0, -1, 2**53 + 1, "7", 7.0])
@pytest.mark.parametrize("kind", ["epoch-request", "epoch-key"])
def test_epochs_are_counted_from_one(kind, epoch):
    refused(kind, epoch=epoch)
    for good in (1, 2**53):
        assert opened(kind, {**fields_of(kind), "epoch": good}).epoch == good


# ---- digests and statements


def head(length=3, digest=S):
    return LedgerHead(length=length, head=digest, signature="ab" * 64)


def test_what_is_agreed_depends_on_survivors_submissions_and_ledgers():
    two, other = (head(), head()), "cd" * 32
    digests = {
        protocol_sum.agreed_digest(("a", "b"), (S, S), two),
        protocol_sum.agreed_digest(("a", "c"), (S, S), two),
        protocol_sum.agreed_digest(("a", "b"), (S, other), two),
        protocol_sum.agreed_digest(("a", "b"), (other, S), two),
        protocol_sum.agreed_digest(("a", "b", S, S), (), two),
        protocol_sum.agreed_digest(("a", "b"), (S, S), (head(4), head())),
        protocol_sum.agreed_digest(("a", "b"), (S, S), (head(), head(4))),
        protocol_sum.agreed_digest(("a", "b"), (S, S), (head(3, other), head())),
    }
    assert len(digests) == 8


def test_an_epoch_key_is_verified_from_its_entry():
    message = opened("epoch-key", fields_of("epoch-key"))
    header = seal(message, KEY)
    entry = EpochKeyEntry(
        site=message.site, public_key=message.public_key, signature=header[:64].hex()
    )
    made = protocol_sum.epoch_key_statement(entry, message.epoch, message.roster_digest)
    assert made == header[64:]
    signing.verify(PUBLIC, "epoch-key", made, bytes.fromhex(entry.signature))
    assert protocol_sum.epoch_key_statement(entry, 8, message.roster_digest) != made


def test_an_epoch_key_of_no_epoch_is_a_mistake():
    """Rebuilding a statement from a plan whose epoch is 0 (masks off) is a wrong call."""
    entry = EpochKeyEntry(site="alpha", public_key=S, signature="00" * 64)
    with pytest.raises((OurMistake, ValueError)):
        protocol_sum.epoch_key_statement(entry, 0, S)


def test_requests_are_what_a_coordinator_sends():
    """Every request of the sum, and nothing that a site signs."""
    assert {protocol.kind_of(model) for model in protocol_sum.REQUESTS} == set(MODELS) - set(
        ANSWERS
    )


# ---- the plan of a sum in a train request


def train_request(**changes):
    fields = json.loads(bytes.fromhex(CASE["messages"]["train-request"])[64:])
    fields["sum"] = {**fields["sum"], **changes}
    data = canonical.encode(fields)
    return protocol_open.open_train_request(signing.sign(KEY, "train-request", data) + data, PUBLIC)


ENTRIES = CASE["epoch_keys"]


@pytest.mark.parametrize(
    "changes",
    [
        {"aggregation": "plain"},
        {"aggregation": None},
        {"threshold": 1},
        {"threshold": 256},
        {"epoch": -1},
        {"epoch_keys": list(reversed(ENTRIES))},
        {"epoch_keys": [ENTRIES[0], ENTRIES[0]]},
        {"epoch_keys": [ENTRIES[0], {**ENTRIES[1], "public_key": ENTRIES[0]["public_key"]}]},
        {"epoch_keys": [{**ENTRIES[0], "signature": "00"}]},
        {"epoch_keys": [{**ENTRIES[0], "public_key": "00"}]},
        {"epoch_keys": [{**ENTRIES[0], "site": "A B"}]},
        {"epoch_keys": [{**ENTRIES[0], "more": 1}]},
        {"dimension": 0},
        {"dimension": 2**27 + 1},
        {"bits": 7},
        {"bits": 25},
        {"modulus_bits": 8},
        {"modulus_bits": 33},
        {"norm_bound": 1e-12},
        {"norm_bound": 1e12},
        {"norm_bound": 1},
        {"more": 1},
    ],
)
def test_a_plan_of_a_sum_that_cannot_be_is_refused(changes):
    """Two sites with one epoch key among them: one has copied the other's."""
    with pytest.raises(PeerFault) as caught:
        train_request(**changes)
    assert caught.value.site == "coordinator"


def test_plans_at_their_limits_are_read():
    found = train_request(
        epoch_keys=[], epoch=0, threshold=255, bits=8, modulus_bits=9, dimension=2**27
    )
    assert found.sum.epoch_keys == ()
    assert train_request(bits=24, modulus_bits=32, threshold=2, dimension=1, epoch=2**53)
