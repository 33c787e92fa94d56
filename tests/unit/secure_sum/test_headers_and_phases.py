"""Headers at their limits, and the table of legal transitions (more: tests/unit/protocol)."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sum_cases import D, vectors

from shared_model import (
    canonical,
    ledger,
    protocol,
    protocol_base,
    protocol_open,
    protocol_sum,
    protocol_words,
    signing,
)
from shared_model.errors import OurMistake, PeerFault
from shared_model.protocol import Refusal, TrainReply, TrainRequest, seal
from shared_model.protocol_open import open_answer
from shared_model.protocol_words import TRANSITIONS

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = signing.public_bytes(KEY)
REFUSAL = Refusal(run="spring", round=3, site="alpha", request_digest=D, reason="budget")


def fields_of(kind):
    return json.loads(bytes.fromhex(vectors("round_of_five")["messages"][kind])[64:])


def signed(kind, fields):
    data = fields if isinstance(fields, bytes) else canonical.encode(fields)
    return signing.sign(KEY, kind, data) + data


def reply(**changes):
    return signed("train-reply", {**fields_of("train-reply"), **changes})


def request(**changes):
    return signed("train-request", {**fields_of("train-request"), **changes})


# ---- lengths

LONGEST_HEAD = {"length": ledger.MAX_ENTRIES, "head": D, "signature": "ab" * 64}


def open_request(pairs):
    """An open request of 255 signers whose agreements have so many bytes each."""
    sites = tuple(f"s{k:03}" for k in range(255))
    return protocol_sum.OpenRequest(
        run="spring",
        round=3,
        transcript=D,
        survivors=sites,
        submissions=(D,) * 255,
        missing=(),
        signers=sites,
        agreements=("ab" * pairs,) * 255,
        body_digest=D,
    )


def test_a_message_that_is_too_long_cannot_be_sealed():
    """Legal in every field, but longer than any header may be."""
    with pytest.raises(OurMistake, match="too long"):
        seal(open_request(700), KEY)
    assert len(seal(open_request(300), KEY)) <= protocol.MAX_HEADER_BYTES


def test_a_request_to_the_largest_roster_fits_a_header():
    """255 sites with names of 32 letters, their epoch keys and their numbers."""
    sites = [f"s{k:031}" for k in range(255)]
    fields = fields_of("train-request")
    fields["participants"] = [{"site": site, "declared_patients": 10**8} for site in sites]
    fields["sum"]["epoch_keys"] = [
        {"site": site, "public_key": f"{k:064x}", "signature": "ef" * 64}
        for k, site in enumerate(sites)
    ]
    fields["ledger_heads"] = [{"site": site, **LONGEST_HEAD} for site in sites]
    header = signed("train-request", fields)
    assert len(header) <= protocol.MAX_HEADER_BYTES
    assert protocol_open.open_train_request(header, PUBLIC).sites == tuple(sites)


def test_a_request_to_agree_of_the_largest_roster_fits_a_header():
    """255 survivors with names of 32 letters, their submissions and the heads of their ledgers."""
    fields = fields_of("agree-request")
    fields["survivors"] = [f"s{k:031}" for k in range(255)]
    fields["submissions"], fields["heads"] = [D] * 255, [LONGEST_HEAD] * 255
    header = signed("agree-request", fields)
    assert len(header) <= protocol.MAX_HEADER_BYTES
    found = protocol_open.open_signed(header, PUBLIC, protocol_sum.AgreeRequest, site="coordinator")
    assert len(found.heads) == 255


def test_a_header_may_be_exactly_as_long_as_allowed(monkeypatch):
    """The limit itself is legal, one byte more is not, and 64 bytes are a signature of nothing."""
    header = seal(REFUSAL, KEY)

    def limit(size):
        for module in (protocol, protocol_open):
            monkeypatch.setattr(module, "MAX_HEADER_BYTES", size)

    limit(len(header))
    assert seal(REFUSAL, KEY) == header
    assert open_answer(header, PUBLIC, site="alpha") == REFUSAL
    limit(len(header) - 1)
    for opened in (
        lambda: protocol_open.open_signed(header, PUBLIC, Refusal, site="alpha"),
        lambda: open_answer(header, PUBLIC, site="alpha"),
    ):
        with pytest.raises(PeerFault, match="length") as caught:
            opened()
        assert caught.value.site == "alpha"
    with pytest.raises(OurMistake, match="too long"):
        seal(REFUSAL, KEY)


@pytest.mark.parametrize("length", [0, 1, 63, 64])
def test_a_header_is_longer_than_a_signature(length):
    with pytest.raises(PeerFault, match="length"):
        protocol_open.open_signed(seal(REFUSAL, KEY)[:length], PUBLIC, Refusal, site="alpha")


def test_headers_and_bodies_have_the_documented_limits():
    assert protocol.MAX_HEADER_BYTES == 262_144
    assert protocol.MAX_BODY_BYTES == 536_870_912
    assert (protocol.MAX_PARTICIPANTS, protocol.MAX_WEIGHT) == (255, 8)
    assert (protocol_base.OLDEST, protocol_base.VERSION, protocol.SIGNATURE_BYTES) == (3, 5, 64)
    assert protocol_sum.SUBSETS == 128


def test_a_body_longer_than_any_body_is_refused(monkeypatch):
    monkeypatch.setattr(protocol_open, "MAX_BODY_BYTES", 4)
    protocol_open.check_body(canonical.digest(b"body"), b"body", site="alpha")
    with pytest.raises(PeerFault, match="longer") as caught:
        protocol_open.check_body(canonical.digest(b"body!"), b"body!", site="alpha")
    assert caught.value.site == "alpha"


def test_another_body_than_the_signed_one_is_refused():
    protocol_open.check_body(canonical.digest(b""), b"", site="alpha")
    with pytest.raises(PeerFault, match="not the one") as caught:
        protocol_open.check_body(canonical.digest(b"body"), b"bodY", site="alpha")
    assert caught.value.site == "alpha"


# ---- signatures


def test_whether_a_header_is_signed_is_told_without_reading_it():
    """Also if what it says is not legal."""
    good = signed("refusal", b"garbage")
    assert protocol_open.is_signed(good, PUBLIC, "refusal")
    assert not protocol_open.is_signed(good, PUBLIC, "train-reply")
    assert not protocol_open.is_signed(good[:-1], PUBLIC, "refusal")
    assert not protocol_open.is_signed(b"", PUBLIC, "refusal")
    assert not protocol_open.is_signed(good, bytes(32), "refusal")
    with pytest.raises(PeerFault, match="not a legal message") as caught:
        open_answer(good, PUBLIC, site="alpha")
    assert caught.value.site == "alpha"


def test_a_wrong_key_is_explained_and_the_site_named():
    for opened, site in (
        (lambda: open_answer(seal(REFUSAL, KEY), bytes(32), site="alpha"), "alpha"),
        (lambda: protocol_open.open_signed(reply(), bytes(32), TrainReply, site="alpha"), "alpha"),
        (lambda: protocol_open.open_train_request(request(), bytes(32)), "coordinator"),
    ):
        with pytest.raises(PeerFault, match="no valid signature") as caught:
            opened()
        assert "key digest" in caught.value.do
        assert caught.value.site == site


def test_a_reply_and_a_refusal_are_told_apart_by_their_signature():
    assert isinstance(open_answer(reply(), PUBLIC, site="alpha"), TrainReply)
    assert isinstance(open_answer(seal(REFUSAL, KEY), PUBLIC, site="alpha"), Refusal)
    with pytest.raises(PeerFault, match="another site"):
        open_answer(reply(site="beta"), PUBLIC, site="alpha")


def test_epsilon_is_finite_if_and_only_if_the_noise_is_private():
    privacy = fields_of("train-reply")["privacy"]
    nothing = {**privacy, "epsilon": None}
    assert not open_answer(reply(private=False, privacy=nothing), PUBLIC, site="alpha").private
    for changes in ({"private": False}, {"privacy": nothing}):
        with pytest.raises(PeerFault):
            open_answer(reply(**changes), PUBLIC, site="alpha")


def test_participants_are_sorted_and_each_once():
    entries = fields_of("train-request")["participants"]
    assert protocol_open.open_train_request(request(), PUBLIC).sites == tuple(
        entry["site"] for entry in entries
    )
    for wrong in ([], list(reversed(entries)), [entries[0], entries[0]]):
        with pytest.raises(PeerFault) as caught:
            protocol_open.open_train_request(request(participants=wrong), PUBLIC)
        assert caught.value.site == protocol.COORDINATOR == "coordinator"


@pytest.mark.parametrize("changes", [{"run": "NOT A RUN"}, {"reason": "none"}, {"round": 0}])
def test_a_message_that_is_not_legal_cannot_be_sealed(changes):
    """Changed past the checks of its own class."""
    for sealed in (protocol.encode, lambda message: seal(message, KEY)):
        with pytest.raises(OurMistake, match="not a legal message"):
            sealed(REFUSAL.model_copy(update=changes))


def test_a_request_is_named_by_the_digest_of_its_header():
    assert protocol.header_digest(request()) == canonical.digest(request())


def test_the_software_is_this_installation():
    assert protocol.software().startswith("fedprint ")
    parsed = TrainRequest.model_validate_json(
        canonical.encode({**fields_of("train-request"), "software": protocol.software()})
    )
    assert parsed.software == protocol.software()


def test_a_header_is_shown_without_being_verified():
    assert protocol_open.readable(bytes(64) + b'{"kind":"x"}') == {"kind": "x"}


@pytest.mark.parametrize("data", [b"", b"[]", b"1", b"{", b"\xff", b"[" * 100_000])
def test_what_is_not_a_header_cannot_be_shown(data):
    with pytest.raises(OurMistake, match="not a message header"):
        protocol_open.readable(bytes(64) + data)


# ---- phases


def reachable(start):
    """Phases that a run may come to from a phase, by any events."""
    found, waiting = {start}, [start]
    while waiting:
        for phases in TRANSITIONS[waiting.pop()].values():
            waiting += phases - found
            found |= phases
    return found


def test_every_phase_is_in_the_table_and_can_be_reached():
    assert set(TRANSITIONS) == set(get_args(protocol_words.Phase))
    assert reachable("waiting") == set(TRANSITIONS)


def test_a_finished_run_stays_finished_and_every_other_can_finish():
    assert TRANSITIONS["finished"] == {}
    for phase in TRANSITIONS:
        assert "finished" in reachable(phase)


def test_a_round_that_agreed_never_submits_again():
    """It ends in an aggregate or is closed: what follows is another round."""
    for phase in ("agree", "open", "aggregating"):
        for phases in TRANSITIONS[phase].values():
            assert not phases & {"submit", "preparing"}


def test_only_opened_shares_and_unmasked_rounds_lead_to_an_aggregate():
    ways = {
        (phase, event)
        for phase, events in TRANSITIONS.items()
        for event, phases in events.items()
        if "aggregating" in phases
    }
    assert {phase for phase, _ in ways} == {"submit", "open"}
    assert {event for phase, event in ways if phase == "open"} == {"SharesArrived"}


def test_the_table_is_the_documented_one():
    """The whole of it: a transition that is added or lost is seen here."""
    submit = {"submit", "agree", "aggregating", "waiting", "paused"}
    agree = {"agree", "open", "waiting", "paused"}
    opening = {"open", "waiting", "paused"}
    keying = {"keying", "waiting"}
    assert {
        "waiting": {"SitesSeen": {"waiting", "keying", "preparing", "paused"}},
        "keying": dict.fromkeys(
            ("KeyArrived", "RefusalArrived", "FaultyReply", "SiteLost", "DeadlinePassed"), keying
        ),
        "preparing": {"RoundOpened": {"submit", "agree"}},
        "submit": dict.fromkeys(
            ("ReplyArrived", "RefusalArrived", "FaultyReply", "SiteLost", "DeadlinePassed"), submit
        ),
        "agree": dict.fromkeys(
            ("AgreementArrived", "RefusalArrived", "FaultyReply", "SiteLost", "DeadlinePassed"),
            agree,
        ),
        "open": {
            "SharesArrived": {"open", "aggregating", "waiting", "paused"},
            **dict.fromkeys(
                ("AgreementArrived", "RefusalArrived", "FaultyReply", "SiteLost", "DeadlinePassed"),
                opening,
            ),
        },
        "aggregating": {
            "Aggregated": {"waiting", "finished"},
            "NotOpened": {"waiting", "paused"},
        },
        "paused": {"Resumed": {"waiting"}},
        "finished": {},
    } == TRANSITIONS
