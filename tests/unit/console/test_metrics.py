"""What a monitor reads: names and numbers, never a count of patients, never a secret."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from console_stand_ins import HOST, Browser, Hospital, add_data, words
from prometheus_client.parser import text_string_to_metric_families

from client import console_app, state
from client.console_facts import Facts
from client.metrics import NodeMetrics, Tail

DOCUMENTED = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"


def read(hospital: Hospital, metrics: NodeMetrics | None = None) -> dict[tuple[str, ...], float]:
    """(name, label values in the order of names) -> value."""
    text = (metrics or NodeMetrics(Facts(hospital.home))).text().decode()
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def give_token(hospital: Hospital, content: bytes) -> None:
    path = console_app.bearer_path(hospital.home)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def log(hospital: Hospital, name: str, *lines: object) -> None:
    path = hospital.home.logs / name
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)


def test_the_node_s_phase_and_its_processes_are_told(hospital):
    """One phase is 1; restarts by process."""
    with hospital.running(time.time(), phase="outside-hours"):
        found = read(hospital)
    phases = {key[1]: value for key, value in found.items() if key[0] == "fedprint_node_phase"}
    assert [name for name, value in phases.items() if value == 1] == ["outside-hours"]
    assert found["fedprint_node_process_restarts_total", "training"] == 2
    assert found["fedprint_node_ready",] == 1
    assert read(hospital)["fedprint_node_phase", "stopped"] == 1


def test_epsilon_is_told_with_delta_unit_and_trust_model(hospital):
    """As labels; the numbers are the ledger's."""
    found = read(hospital)
    labels = ("1e-05", "local", "one patient at one hospital")
    spending = Facts(hospital.home).spending()
    assert found["fedprint_node_epsilon_spent", *labels] == pytest.approx(spending.epsilon)
    assert found["fedprint_node_epsilon_left", *labels] == pytest.approx(spending.left)
    assert found["fedprint_node_epsilon_limit", *labels] == 8.0
    assert found["fedprint_node_rounds_booked_total",] == 2
    assert found["fedprint_node_rounds_answered_total",] == 2
    assert found["fedprint_node_ledger_current",] == 1


def test_a_broken_ledger_is_told_and_the_rest_stays(hospital):
    """A monitor that gets nothing learns nothing."""
    hospital.home.ledger.write_bytes(b"gone")
    found = read(hospital)
    assert found["fedprint_node_ledger_current",] == 0
    assert not any(key[0].startswith("fedprint_node_epsilon") for key in found)
    assert found["fedprint_node_disk_free_bytes",] > 0


def test_messages_are_counted_by_outcome_and_reason(hospital):
    """Each line once, also over the renaming of the log; reasons are of the closed list."""
    metrics = NodeMetrics(Facts(hospital.home))
    log(hospital, "rounds.log", {"outcome": "replied"}, {"outcome": "refused", "reason": "budget"},
        {"outcome": "refused", "reason": "<odd>"}, {"outcome": "late"}, ["no object"])  # fmt: skip
    assert read(hospital, metrics)["fedprint_node_messages_total", "replied", ""] == 1
    log(hospital, "rounds.log", {"outcome": "replied"})
    path = hospital.home.logs / "rounds.log"
    path.replace(path.with_name("rounds.log.1"))
    log(hospital, "rounds.log", {"outcome": "replied"})
    for _ in range(2):
        found = read(hospital, metrics)
        assert found["fedprint_node_messages_total", "replied", ""] == 3
        assert found["fedprint_node_messages_total", "refused", "budget"] == 1
        assert found["fedprint_node_messages_total", "refused", "other"] == 1


def test_bytes_that_left_are_counted(hospital):
    """And when the last message was handed over."""
    sent = {"id": "a", "handed_over_s": 1000.5, "header_bytes": 20, "body_bytes": 3000}
    log(hospital, "sent.log", sent, {"id": "a", "outcome": "delivered", "delivered_s": 1001.0},
        {**sent, "handed_over_s": 900.0, "body_bytes": "many"})  # fmt: skip
    found = read(hospital)
    assert found["fedprint_node_sent_bytes_total",] == 3040
    assert found["fedprint_node_sent_messages_total", "delivered"] == 1
    assert found["fedprint_node_last_reply_timestamp_seconds",] == 1000.5


def test_half_a_line_waits_for_its_other_half(tmp_path):
    """A log is read while it is written."""
    path = tmp_path / "x.log"
    tail = Tail(path)
    assert list(tail.lines()) == []
    path.write_text('{"a": 1}\n{"b"')
    assert list(tail.lines()) == [{"a": 1}]
    with path.open("a") as stream:
        stream.write(": 2}\nno json\n")
    assert list(tail.lines()) == [{"b": 2}]


def test_what_waits_for_the_operator_is_counted(hospital):
    """Runs and a roster."""
    hospital.rosters()
    found = read(hospital)
    assert found["fedprint_node_waiting", "run"] == 1
    assert found["fedprint_node_waiting", "roster"] == 1
    state.pause(hospital.home)
    assert read(hospital)["fedprint_node_paused",] == 1


def test_no_count_of_patients_and_no_secret_is_among_them(hospital, tmp_path):
    """Neither here nor in the health, whatever is enrolled."""
    add_data(hospital.home, tmp_path / "ward")
    browser = Browser(hospital)
    give_token(hospital, b"t" * 43)
    page = browser.get("/metrics", ("authorization", f"Bearer {'t' * 43}"))
    assert page.status == 200
    for word in ("patients", "window", "recording", "ward", "CANARY", "t" * 43):
        assert word not in page.text.replace("one patient at one hospital", "")
    health = browser.get("/health")
    assert (health.status, health.text) == (
        503, '{"live": true, "ready": false, "why": "stopped"}'
    )  # fmt: skip
    with hospital.running(time.time()):
        assert browser.get("/health").status == 200


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 50])
def test_a_token_that_is_no_secret_opens_nothing(hospital, content):
    """Too short, not ASCII, empty."""
    give_token(hospital, content)
    given = content.decode("latin-1").strip()
    assert Browser(hospital).get("/metrics", ("authorization", f"Bearer {given}")).status == 401


def test_a_monitor_gets_no_page(hospital):
    """Its token opens /metrics alone."""
    give_token(hospital, b"t" * 43)
    page = Browser(hospital).get("/", ("authorization", f"Bearer {'t' * 43}"))
    assert page.status == 401
    assert "fedprint-node console" in words(page)
    assert HOST not in page.text


def test_every_metric_is_documented_and_no_other(hospital):
    """docs/metrics.md is what a monitor is set up by."""
    log(hospital, "rounds.log", {"outcome": "replied"})
    with hospital.running(time.time()):
        found = {key[0] for key in read(hospital)}
    table = DOCUMENTED.read_text().partition("| metric |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(fedprint_node_[a-z_]+)`", table)) == found
