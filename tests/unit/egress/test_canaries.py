"""Nothing leaves a hospital but what `client.egress` has marked: looked for in the bytes."""

from __future__ import annotations

import base64
import datetime
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from canaries import Canaries, floats, forms, numbers_in, words
from hospitals import FEW, FILE_NAME, IDENTIFIER, PATIENTS, PLAN, Hospitals, WatchedNoise, hospitals
from node_stand_ins import RUN_KEY, SITES

from client import egress
from server import tls
from server.home import CoordinatorHome
from shared_model import canonical, protocol, protocol_open, signing
from shared_model.errors import DataFault
from shared_model.secure_sum.numbers import pack

NOW = datetime.datetime(2026, 11, 28, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    coordinator = CoordinatorHome(tmp_path_factory.mktemp("coordinator"))
    tls.make(coordinator, "127.0.0.1:8443", now=NOW)
    return coordinator.ca_certificate.read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, certificate: str) -> Iterator[Whole]:
    """Everything that a coordinator can ask, once."""
    with pytest.MonkeyPatch.context() as patch:
        made = hospitals(tmp_path_factory.mktemp("whole"), certificate, patch)
        started = int(time.time())
        whole_round(made)
        yield Whole(made, started, refusals(made))


@pytest.fixture
def made(tmp_path: Path, certificate: str, monkeypatch: pytest.MonkeyPatch) -> Hospitals:
    return hospitals(tmp_path, certificate, monkeypatch)


@dataclass
class Whole:
    made: Hospitals
    started: int
    refused: dict[str, str]


def leaks(made: Hospitals) -> set[str]:
    """Names of the canaries that are in anything that has left so far."""
    canaries = made.canaries()
    found: set[str] = set()
    for _, header, body, message in made.left:
        found |= canaries.found_in_header(header) | canaries.found_in(body)
        found |= canaries.found_in(message)
    return found


def whole_round(made: Hospitals) -> None:
    """Epoch, three trips (the first two asked twice), closing exchange."""
    made.begin_epoch(int(time.time()))
    played = made.submit()
    made.submit()  # the stored replies again
    played.agree()
    played.agree()
    total = played.open()
    request, body = played.close_request()
    answers = {site: made.ask(site, request, body)[0] for site in SITES}
    packed = pack(total, played.asked.sum.modulus_bits)
    verify, body = played.verify_request(played.statement, packed, answers)
    for site in SITES:
        made.ask(site, verify, body)


def faulty(made: Hospitals, fault: Exception) -> Any:
    """A trainer that reads recordings and then fails with a text that names a patient."""

    def train(request: object, weights: object, data: Any, *_: object) -> Any:
        data.segments(np.array([0]), 1, np.random.default_rng(0))
        raise fault

    return replace(made.nodes["alpha"], train=train)


def refusals(made: Hospitals) -> dict[str, str]:
    """Provoke every refusal that a coordinator can; reason -> what provoked it."""
    said: dict[str, str] = {}

    def ask(what: str, message: Any, body: bytes = b"") -> None:
        header, _ = made.ask("alpha", message, body)
        said[str(protocol_open.readable(header)["reason"])] = what

    later = {"round": 2}
    request, body = made.request(**later)
    ask("no message", b"\x00" * 100)
    broken = canonical.encode({"kind": "train-request", "version": 1})
    ask("another version", signing.sign(RUN_KEY, "train-request", broken) + broken)
    ask("policy", made.request(privacy=replace(PLAN, steps=9_974), **later)[0], body)
    ask("few", made.request(minimum_contributors=2, **later)[0], body)
    ask("no model", request, b"another body")
    dear = replace(PLAN, noise_multiplier=3.0)
    ask("waits for a yes", made.request(privacy=dear, run="dear", **later)[0], body)
    ruinous = replace(PLAN, noise_multiplier=0.3)
    ask("no budget", made.request(privacy=ruinous, run="ruinous", **later)[0], body)
    ask("another roster", made.request(sum={"roster_digest": "00" * 32}, **later)[0], body)
    ask("no keys", made.request(sum={"epoch_keys": ()}, **later)[0], body)
    ask("another request of round 1", made.request(deadline_s=61.0)[0], body)
    made.nodes["alpha"] = faulty(made, RuntimeError(f"{IDENTIFIER}-0 in {FILE_NAME}"))
    ask("training fails", request, body)
    ask("and is not begun again", request, body)
    unread = DataFault(f"{FILE_NAME}: {IDENTIFIER}", cause="truncated")
    made.nodes["alpha"] = faulty(made, unread)
    ask("a recording fails", made.request(round=3)[0], body)
    (made.homes["alpha"].store / "manifest.json").rename(made.homes["alpha"].root / "aside")
    made.nodes["alpha"] = made.watched("alpha")
    ask("no store", made.request(round=4)[0], body)
    (made.homes["alpha"].root / "aside").rename(made.homes["alpha"].store / "manifest.json")
    return said


def test_every_message_of_real_nodes_is_free_of_canaries(whole: Whole) -> None:
    """Recordings, identifiers, keys, file names, counts, updates and limits stay inside."""
    made = whole.made
    assert set(whole.refused) >= {
        *("signature", "version", "policy", "contributors", "model", "run-approval", "budget"),
        *("roster", "epoch", "conflict", "internal", "interrupted", "not-ready"),
    }
    kinds = {protocol_open.readable(header)["kind"] for _, header, _, _ in made.left}
    assert kinds == set(egress.ALLOWED)
    assert len(made.updates) == len(made.vectors) == 3
    assert any(count > FEW for count in made.drawn)
    assert leaks(made) == set()


def test_no_field_leaves_that_has_no_mark_and_times_are_those_of_bookings(whole: Whole) -> None:
    """Of what the entries of a ledger say, none tells when a training ended."""
    times = set()
    for _, header, body, _ in whole.made.left:
        plain = protocol_open.readable(header)
        allowed = egress.ALLOWED[plain["kind"]]
        assert egress.fields_of(plain) <= set(allowed)
        assert not body or "(body)" in allowed
        for line in plain.get("ledger", {}).get("entries", []):
            entry = json.loads(line)
            assert ("time_s" in entry) == (entry["kind"] in {"opened", "approved", "booked"})
            times.add(entry.pop("time_s", 0))
            day = (whole.started, whole.started + 86_400)
            assert not [n for n in numbers_in(entry) if day[0] <= n <= day[1]]
    assert len(times) > 1


def test_logs_of_the_node_name_no_patient_and_hold_no_signal(whole: Whole) -> None:
    """A text of our own may name a file to the operator; foreign texts are not kept at all."""
    canaries = whole.made.canaries()
    private = {"signal", "alpha: pseudonym", "alpha: pseudonym key"}
    canaries.patterns = {name: canaries.patterns[name] for name in private}
    text = (whole.made.homes["alpha"].logs / "rounds.log").read_bytes()
    assert b"RuntimeError" in text
    assert canaries.found_in(text) == set()
    foreign = [line for line in text.splitlines() if b"RuntimeError" in line]
    assert not [line for line in foreign if IDENTIFIER.encode() in line]


# ---------------------------------------------------------------- the search finds what it should


SECRET = bytes(range(100, 132))
VALUES = [0.73095703125, 1.1396484375, 0.8212890625]


@pytest.mark.parametrize(
    "leaked",
    [
        SECRET,
        SECRET.hex().encode(),
        SECRET.hex().upper().encode(),
        *(base64.b64encode(b"x" * shift + SECRET + b"yz") for shift in range(3)),
        base64.urlsafe_b64encode(b"\xff" + SECRET),
    ],
)
def test_bytes_are_found_in_every_form(leaked: bytes) -> None:
    canaries = Canaries({"key": forms(SECRET)})
    assert canaries.found_in(b"before" + leaked + b"after") == {"key"}
    assert canaries.found_in(b"before" + leaked[:-8] + b"after") == set()


@pytest.mark.parametrize(
    "leaked",
    [
        *(np.array(VALUES[1:], dtype=f"{order}f4").tobytes() for order in "<>"),
        *(np.array(VALUES[2:], dtype=f"{order}f8").tobytes() for order in "<>"),
        base64.b64encode(b"x" + np.array(VALUES, dtype="<f4").tobytes()),
        np.array(VALUES[:1], dtype="<f8").tobytes().hex().encode(),
        f'{{"loss":{VALUES[0]!r}}}'.encode(),
    ],
)
def test_signals_are_found_in_every_form(leaked: bytes) -> None:
    assert Canaries({"signal": floats(VALUES)}).found_in(b"\x00" + leaked + b"\x01") == {"signal"}


@pytest.mark.parametrize("leaked", [IDENTIFIER.encode(), IDENTIFIER.encode("utf-16-le")])
def test_words_are_found_in_every_form(leaked: bytes) -> None:
    canaries = Canaries({"patient": words(IDENTIFIER)})
    assert canaries.found_in(b"{" + base64.b64encode(leaked) + b"}") == {"patient"}
    assert canaries.found_in(b"{" + leaked + b"}") == {"patient"}


@pytest.mark.parametrize(
    "plain", [{"n": 613}, {"n": 613.0}, {"n": "trained on 613 patients"}, {"n": ['{"n":[613]}']}]
)
def test_counts_are_found_in_headers_and_not_in_digests(plain: dict[str, Any]) -> None:
    canaries = Canaries()
    canaries.number("patients", 613)
    assert canaries.found_in_header(bytes(64) + canonical.encode(plain)) == {"patients"}
    digest = {"n": "613" + "ab" * 20, "m": 6130, "k": "ab613"}
    assert canaries.found_in_header(bytes(64) + canonical.encode(digest)) == set()
    assert canaries.found_in((613).to_bytes(8, "big") + b"tail") == {"patients"}


def test_a_name_of_a_patient_in_a_real_field_is_found(made: Hospitals) -> None:
    """The seeded leak: a noise source that is called after a patient passes every type check."""
    made.nodes["alpha"] = replace(
        made.nodes["alpha"], noise=lambda request: WatchedNoise(made.drawn, IDENTIFIER)
    )
    made.begin_epoch(int(time.time()))
    made.submit(("alpha",))
    assert leaks(made) == {"patient identifier"}


def test_a_count_in_a_real_field_is_found(made: Hospitals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "software", lambda: f"fedprint {PATIENTS['alpha']}")
    made.begin_epoch(int(time.time()))
    made.submit(("alpha",))
    assert leaks(made) == {"number of patients"}


def test_an_update_without_masks_is_found(made: Hospitals) -> None:
    """The masks are why the search finds no vector: simulations can leave them off."""
    made.begin_epoch(int(time.time()))
    made.nodes["alpha"] = replace(made.nodes["alpha"], allow_unmasked=True)
    made.ask("alpha", *made.request(sum={"aggregation": "UnmaskedForSimulation"}))
    # without masks the body has runs of zero bytes, in which a count is found by chance
    chance = {"number of patients", "patients drawn 0"}
    assert leaks(made) - chance == {"vector without masks 0"}
