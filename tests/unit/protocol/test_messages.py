"""Messages: what the encoder makes is accepted, anything else is refused."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_model import canonical, protocol_open, signing
from shared_model.config import LocalTraining, PrivacyPlan
from shared_model.errors import FedprintError, OurMistake, PeerFault
from shared_model.protocol import (
    MAX_HEADER_BYTES,
    EpochKeyEntry,
    KnownHead,
    LedgerNote,
    Participant,
    PrivacyStatement,
    Refusal,
    SumPlan,
    TrainReply,
    TrainRequest,
    seal,
)
from shared_model.protocol_open import open_answer, open_answer_of, open_signed, open_train_request
from shared_model.protocol_sum import (
    REQUESTS,
    SUBSETS,
    Agreement,
    AgreeRequest,
    CloseReply,
    CloseRequest,
    EpochKey,
    EpochRequest,
    OpenRequest,
    SharesReply,
    SumReceipt,
    VerifyRequest,
    agreed_digest,
    epoch_key_statement,
)

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = signing.public_bytes(KEY)
D = "ab" * 32
E = "cd" * 32


def plan(**changes):
    values = {
        "aggregation": "secure-sum",
        "roster_digest": D,
        "threshold": 2,
        "epoch": 7,
        "epoch_keys": (
            EpochKeyEntry(site="alpha", public_key=D, signature="ab" * 64),
            EpochKeyEntry(site="beta", public_key=E, signature="cd" * 64),
        ),
        "dimension": 1000,
        "bits": 20,
        "modulus_bits": 24,
        "norm_bound": 1.5,
    }
    return SumPlan(**{**values, **changes})


def known(site, **changes):
    values = {"site": site, "length": 3, "head": D, "signature": "ab" * 64}
    return KnownHead(**{**values, **changes})


HEADS = (known("alpha").plain, known("beta", head=E).plain)


def request(**changes):
    values = {
        "run": "spring",
        "round": 3,
        "start": 1,
        "preset": "tiny",
        "config_digest": D,
        "model_digest": D,
        "body_digest": D,
        "privacy": PrivacyPlan(0.1, 1.5, 1.0, 4),
        "training": LocalTraining(),
        "server_learning_rate": 1.0,
        "rounds": 5,
        "bookings": 8,
        "code_digest": E,
        "ledger_heads": (known("alpha"),),
        "participants": (
            Participant(site="alpha", declared_patients=1000),
            Participant(site="beta", declared_patients=260),
        ),
        "minimum_contributors": 2,
        "sum": plan(),
        "deadline_s": 60.0,
        "software": "fedprint 0.1.0",
    }
    return TrainRequest(**{**values, **changes})


def reply(**changes):
    values = {
        "run": "spring",
        "round": 3,
        "site": "alpha",
        "request_digest": D,
        "transcript": D,
        "body_digest": D,
        "declared_patients": 1000,
        "weight": 8,
        "noise": "system entropy",
        "private": True,
        "privacy": PrivacyStatement(epsilon=1.25, delta=1e-5),
        "ledger": LedgerNote(**HEADS[0].model_dump(), entries=('{"a":1}', "x")),
        "software": "fedprint 0.1.0",
    }
    return TrainReply(**{**values, **changes})


def refusal(**changes):
    values = {"run": "spring", "round": 3, "site": "alpha", "request_digest": D, "reason": "budget"}
    return Refusal(**{**values, **changes})


ROUND = {"run": "spring", "round": 3, "transcript": D}
U = {"survivors": ("alpha", "beta"), "submissions": (D, E)}
COORDINATORS = (
    EpochRequest(epoch=7, roster_digest=D, body_digest=D, plan=request().plan, software="test"),
    AgreeRequest(**ROUND, **U, heads=HEADS, body_digest=D),
    OpenRequest(
        **ROUND,
        **U,
        missing=("beta",),
        signers=("alpha", "beta"),
        agreements=("00", "ff" * 200),
        body_digest=D,
    ),
    CloseRequest(**ROUND, statement_digest=D),
    VerifyRequest(**ROUND, statement_digest=D, body_digest=D),
)
NODES = (
    EpochKey(site="alpha", epoch=7, roster_digest=D, public_key=D),
    Agreement(**ROUND, site="alpha", agreed=D),
    SharesReply(
        **ROUND, site="alpha", request_digest=D, unreadable=("beta",), accused=(), body_digest=D
    ),
    CloseReply(**ROUND, site="alpha", statement_digest=D, sums=(5,) * SUBSETS),
    SumReceipt(**ROUND, site="alpha", statement_digest=D, model_out=E),
)
"""One of every message of the later trips."""


def forged(message, text, kind=None):
    """A header over any bytes, with a valid signature."""
    data = text if isinstance(text, bytes) else text.encode()
    return signing.sign(KEY, kind or message.kind, data) + data


def plain(message):
    return json.loads(seal(message, KEY)[64:])


def canonical_header(message, value):
    return forged(message, canonical.encode(value))


def test_what_was_sealed_is_what_is_read():
    assert open_train_request(seal(request(), KEY), PUBLIC) == request()
    assert open_answer(seal(reply(), KEY), PUBLIC, site="alpha") == reply()
    assert open_answer(seal(refusal(), KEY), PUBLIC, site="alpha") == refusal()
    for message in (*COORDINATORS, *NODES):
        assert opener(message)(seal(message, KEY)) == message


def test_every_kind_of_request_is_listed_once():
    """The node tries these kinds, and no other, on what it receives."""
    assert [type(message) for message in COORDINATORS] == list(REQUESTS)
    kinds = [message.kind for message in (request(), reply(), refusal(), *COORDINATORS, *NODES)]
    assert len(set(kinds)) == len(kinds)


def test_a_header_is_signature_and_canonical_json():
    header = seal(reply(), KEY)
    assert header == seal(reply(), KEY)
    assert header[64:] == canonical.encode(json.loads(header[64:]))
    assert protocol_open.readable(header)["kind"] == "train-reply"


def test_whole_numbers_given_for_fractions_are_sealed_as_fractions():
    header = seal(request(privacy=PrivacyPlan(1, 2, 1, 4), deadline_s=60), KEY)
    assert b'"clipping_norm":1.0' in header
    assert open_train_request(header, PUBLIC).privacy.sample_rate == 1.0


EVERY = [request(), reply(), refusal(), *COORDINATORS, *NODES]


@pytest.mark.parametrize("message", EVERY, ids=lambda m: m.kind)
def test_every_field_is_needed_and_none_may_be_added(message):
    fields = plain(message)
    opened = opener(message)
    for name in fields:
        with pytest.raises(PeerFault):
            opened(canonical_header(message, {k: v for k, v in fields.items() if k != name}))
    with pytest.raises(PeerFault):
        opened(canonical_header(message, {**fields, "loss": 0.5}))


def opener(message):
    if message.kind == "train-request":
        return lambda header: open_train_request(header, PUBLIC)
    if message in COORDINATORS:
        return lambda header: open_signed(header, PUBLIC, type(message), site="coordinator")
    if message in NODES:
        return lambda header: open_answer_of(header, PUBLIC, type(message), site="alpha")
    return lambda header: open_answer(header, PUBLIC, site="alpha")


HARMLESS = [
    ("deadline_s", 1.5),  # only displayed
    ("software", "../x"),
    ("server_learning_rate", 1.5),  # legal: the operator's, in the transcript and every receipt
    ("noise", "../x"),
    ("epoch", 10**12),  # legal: any number that is above the last
    ("sum.epoch", 10**12),
    ("sum.epoch_keys", []),  # legal lists of nobody; nodes refuse a participant without a key
    ("ledger_heads", []),  # legal: the coordinator holds none
    ("ledger.entries", []),  # legal: that nothing is booked in them is found out by `check_note`
    ("plan.preset", "nan"),  # legal names
    ("plan.run", "nan"),
    ("missing", []),
    ("unreadable", []),
    ("accused", []),
]
WRONG_VALUES = [None, True, -1, 0, 10**12, 2**80, 1.5, "", "x" * 70, "a\nb", "../x", [], {}, [None]]


@pytest.mark.parametrize("message", EVERY, ids=lambda m: m.kind)
def test_no_field_takes_a_value_of_another_kind(message):
    """Every field, nested ones included, against a list of values that are wrong somewhere."""
    fields = plain(message)
    accepted = []
    for name, value in fields.items():
        for wrong in WRONG_VALUES:
            if wrong == value and type(wrong) is type(value):
                continue
            try:
                opener(message)(canonical_header(message, {**fields, name: wrong}))
            except PeerFault:
                continue
            accepted.append((name, wrong))
        if isinstance(value, dict):
            for inner in value:
                for wrong in ["", [], {}, 10**12, -1.0, "nan"]:
                    changed = {**fields, name: {**value, inner: wrong}}
                    try:
                        opener(message)(canonical_header(message, changed))
                    except PeerFault:
                        continue
                    accepted.append((f"{name}.{inner}", wrong))
    assert [item for item in accepted if item not in HARMLESS] == []


@pytest.mark.parametrize(
    "change",
    [
        ('"round":3', '"round":3.0'),
        ('"round":3', '"round":"3"'),
        ('"round":3', '"round":03'),
        ('"round":3', '"round":3,"round":3'),
        ('"round":3', '"round": 3'),
        ('"spring"', '"\\u0073pring"'),
        ('"spring"', '"Spring"'),
        ('"spring"', '"spring\\u0000"'),
        ('"deadline_s":60.0', '"deadline_s":60'),
        ('"deadline_s":60.0', '"deadline_s":6e1'),
        ('"deadline_s":60.0', '"deadline_s":NaN'),
        ('"deadline_s":60.0', '"deadline_s":Infinity'),
        ('"steps":4', '"steps":0'),
        ('"version":3', '"version":1'),
        ('"version":3', '"version":true'),
        ('"epoch":7', '"epoch":7.0'),
        ('"norm_bound":1.5', '"norm_bound":1.50'),
        ('"norm_bound":1.5', '"norm_bound":0.0'),
        ('"modulus_bits":24', '"modulus_bits":33'),
        ('"threshold":2', '"threshold":1'),
        ('"aggregation":"secure-sum"', '"aggregation":"clear"'),
    ],
)
def test_json_that_is_not_canonical_is_refused(change):
    text = seal(request(), KEY)[64:].decode()
    assert change[0] in text
    with pytest.raises(PeerFault):
        open_train_request(forged(request(), text.replace(*change)), PUBLIC)


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b"null", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"1e999"]
)
def test_signed_garbage_is_refused(text):
    with pytest.raises(PeerFault):
        open_train_request(forged(request(), text), PUBLIC)


def test_an_oversize_header_is_refused_before_anything_else():
    with pytest.raises(PeerFault, match="length"):
        open_train_request(b"\0" * (MAX_HEADER_BYTES + 1), PUBLIC)
    with pytest.raises(PeerFault, match="length"):
        open_answer(b"", PUBLIC, site="alpha")


def test_a_message_of_one_kind_cannot_pass_for_another():
    """Same key, same bytes, other tag: the signature does not verify."""
    header = seal(refusal(), KEY)
    with pytest.raises(PeerFault):
        open_train_request(header, PUBLIC)
    with pytest.raises(PeerFault):
        open_train_request(forged(request(), seal(request(), KEY)[64:], "train-reply"), PUBLIC)
    with pytest.raises(PeerFault):
        open_answer(forged(reply(), seal(refusal(), KEY)[64:], "train-reply"), PUBLIC, site="alpha")


def test_an_answer_in_another_sites_name_is_refused():
    with pytest.raises(PeerFault) as caught:
        open_answer(seal(reply(site="beta"), KEY), PUBLIC, site="alpha")
    assert caught.value.site == "alpha"


def test_a_fault_names_the_peer_and_quotes_nothing_of_it():
    secret = "patient-name-0815"
    fields = {**plain(reply()), "comment": secret}
    with pytest.raises(PeerFault) as caught:
        open_answer(canonical_header(reply(), fields), PUBLIC, site="alpha")
    assert secret not in str(caught.value)
    assert caught.value.site == "alpha"


@pytest.mark.parametrize(
    "sites", [("beta", "alpha"), ("alpha", "alpha"), ()], ids=["unsorted", "twice", "none"]
)
def test_participants_are_sorted_and_each_once(sites):
    fields = plain(request())
    fields["participants"] = [{"site": site, "declared_patients": 5} for site in sites]
    with pytest.raises(PeerFault):
        open_train_request(canonical_header(request(), fields), PUBLIC)


def test_epsilon_is_promised_only_with_private_noise():
    for private, epsilon in ((False, 1.0), (True, None)):
        fields = plain(reply())
        fields["private"] = private
        fields["privacy"]["epsilon"] = epsilon
        with pytest.raises(PeerFault):
            open_answer(canonical_header(reply(), fields), PUBLIC, site="alpha")


def test_a_body_must_be_the_one_that_is_signed():
    protocol_open.check_body(canonical.digest(b"body"), b"body", site="alpha")
    with pytest.raises(PeerFault):
        protocol_open.check_body(canonical.digest(b"body"), b"body ", site="alpha")


@pytest.mark.parametrize("message", EVERY, ids=lambda m: m.kind)
def test_no_message_passes_for_one_of_any_other_kind(message):
    """The kind is the type tag under the signature: every other opener refuses the header."""
    header = seal(message, KEY)
    for other in EVERY:
        if other.kind == message.kind or message.kind == "refusal":
            continue
        with pytest.raises(PeerFault):
            open_signed(header, PUBLIC, type(other), site="alpha")


def test_a_refusal_may_answer_everything_that_a_node_is_asked():
    """In its own name."""
    header = seal(refusal(), KEY)
    for message in NODES:
        assert opener(message)(header) == refusal()
        with pytest.raises(PeerFault):
            open_answer_of(header, PUBLIC, type(message), site="beta")


@pytest.mark.parametrize(
    ("message", "field", "value"),
    [
        (COORDINATORS[1], "survivors", ["beta", "alpha"]),
        (COORDINATORS[1], "survivors", ["alpha", "alpha"]),
        (COORDINATORS[1], "survivors", ["alpha"]),
        (COORDINATORS[1], "submissions", [D]),
        (COORDINATORS[1], "submissions", [D, D, D]),
        (COORDINATORS[2], "survivors", ["beta", "alpha"]),
        (COORDINATORS[2], "submissions", [D]),
        (COORDINATORS[2], "missing", ["gamma"]),
        (COORDINATORS[2], "missing", ["beta", "beta"]),
        (COORDINATORS[2], "signers", ["alpha", "alpha"]),
        (COORDINATORS[2], "signers", ["alpha", "gamma"]),
        (COORDINATORS[2], "signers", ["beta"]),
        (COORDINATORS[2], "agreements", ["00"]),
        (COORDINATORS[2], "agreements", ["00", "0"]),
        (COORDINATORS[2], "agreements", ["00", "FF"]),
        (COORDINATORS[2], "agreements", ["00", "ff" * 4097]),
        (NODES[3], "sums", [5] * (SUBSETS - 1)),
        (NODES[3], "sums", [5] * (SUBSETS + 1)),
        (NODES[3], "sums", [-1] + [5] * (SUBSETS - 1)),
        (NODES[3], "sums", [2**32] + [5] * (SUBSETS - 1)),
    ],
)
def test_lists_that_do_not_fit_together_are_refused(message, field, value):
    """A signer counts once, survivors are in one order, every survivor has its submission."""
    with pytest.raises(PeerFault):
        opener(message)(canonical_header(message, {**plain(message), field: value}))


@pytest.mark.parametrize(
    "changed",
    [
        [("beta", E), ("alpha", D)],
        [("alpha", D), ("alpha", E)],
        [("alpha", D), ("beta", D)],
    ],
    ids=["unsorted", "a site twice", "a copied key"],
)
def test_epoch_keys_are_sorted_and_no_two_sites_have_the_same(changed):
    """A colluder that copies another's key would share its pair secrets."""
    fields = plain(request())
    fields["sum"]["epoch_keys"] = [
        {"site": site, "public_key": key, "signature": "ab" * 64} for site, key in changed
    ]
    with pytest.raises(PeerFault):
        open_train_request(canonical_header(request(), fields), PUBLIC)


def test_what_is_agreed_depends_on_every_survivor_and_submission():
    """Also on which submission is whose."""
    found = {
        agreed_digest(("alpha", "beta"), (D, E), HEADS),
        agreed_digest(("alpha", "beta"), (E, D), HEADS),
        agreed_digest(("alpha", "gamma"), (D, E), HEADS),
        agreed_digest(("alpha", "beta", "gamma"), (D, E, D), (*HEADS, HEADS[0])),
        agreed_digest(("alpha", "beta"), (D, E), HEADS[::-1]),
        agreed_digest(("alpha", "beta"), (D, E), (HEADS[0], known("beta").plain)),
        agreed_digest(("alpha", "beta"), (D, E), (HEADS[0], known("beta", length=4).plain)),
    }
    assert len(found) == 7


def test_an_epoch_key_is_verified_from_its_entry():
    """Exactly the bytes that its site has signed; another epoch or roster gives others."""
    message = NODES[0]
    header = seal(message, KEY)
    entry = EpochKeyEntry(
        site=message.site, public_key=message.public_key, signature=header[:64].hex()
    )
    assert epoch_key_statement(entry, 7, D) == header[64:]
    signing.verify(PUBLIC, "epoch-key", epoch_key_statement(entry, 7, D), header[:64])
    for changed in (epoch_key_statement(entry, 8, D), epoch_key_statement(entry, 7, E)):
        with pytest.raises(FedprintError):
            signing.verify(PUBLIC, "epoch-key", changed, header[:64])


HEADER = seal(request(), KEY)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_mutation_of_a_header_is_accepted(data):
    """Flip, cut, insert: the signature catches it, and nothing but PeerFault comes out."""
    where = data.draw(st.integers(0, len(HEADER) - 1))
    what = data.draw(st.sampled_from(["flip", "cut", "insert"]))
    if what == "flip":
        bit = data.draw(st.integers(0, 7))
        mutated = HEADER[:where] + bytes([HEADER[where] ^ 1 << bit]) + HEADER[where + 1 :]
    elif what == "cut":
        mutated = HEADER[:where]
    else:
        mutated = HEADER[:where] + data.draw(st.binary(min_size=1, max_size=9)) + HEADER[where:]
    if mutated == HEADER:
        return
    with pytest.raises(PeerFault):
        open_train_request(mutated, PUBLIC)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(value=JSON, field=st.sampled_from(sorted(plain(request()))))
def test_a_signed_request_with_any_value_in_any_field_is_itself_or_refused(value, field):
    """Authentic but hostile: whatever is accepted encodes to the very bytes that came."""
    try:
        header = canonical_header(request(), {**plain(request()), field: value})
    except (FedprintError, UnicodeEncodeError):
        return
    try:
        message = open_train_request(header, PUBLIC)
    except PeerFault:
        return
    assert seal(message, KEY) == header


def test_an_illegal_message_cannot_be_sealed():
    with pytest.raises(OurMistake):
        seal(request().model_copy(update={"run": "NOT A RUN"}), KEY)
