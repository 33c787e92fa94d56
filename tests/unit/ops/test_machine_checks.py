"""Each check of a machine: when all is well, and at each fault."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_model import machine_checks as checks
from shared_model.errors import OurMistake
from shared_model.findings import Finding, State, broken, exit_code, ok, printable, tried
from shared_model.machine_checks import GIB, Rights

HARD = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "PrivateTmp": "yes",
}
MINE = Rights("home", 0o700, 10)


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (checks.check_clock(0.4, "CET", None), "ok"),
        (checks.check_clock(-31.0, "CET", None), "attention"),
        (checks.check_clock(500.0, "CET", None), "broken"),
        (checks.check_clock(-500.0, "CET", None), "broken"),
        (checks.check_clock(None, "CET", None), "attention"),
        (checks.check_clock(0.0, "CET", "20:00-06:00"), "ok"),
        (checks.check_clock(0.0, "UTC", "20:00-06:00"), "attention"),
        (checks.check_disk("disk", 50 * GIB, enough=10 * GIB, least=GIB), "ok"),
        (checks.check_disk("disk", 5 * GIB, enough=10 * GIB, least=GIB), "attention"),
        (checks.check_disk("disk", GIB // 2, enough=10 * GIB, least=GIB), "broken"),
        (checks.check_memory(16 * GIB, 8 * GIB), "ok"),
        (checks.check_memory(16 * GIB, 8 * GIB, 32.0), "attention"),
        (checks.check_memory(16 * GIB, 3 * GIB), "attention"),
        (checks.check_memory(16 * GIB, GIB), "broken"),
        (checks.check_torch("2.13.0+cpu", 4, 4, 4), "ok"),
        (checks.check_torch("2.13.0+cpu", 4, 4, 8), "attention"),
        (checks.check_torch("1.13.0", 4, 4), "broken"),
        (checks.check_torch(None, 0, 4), "broken"),
        (checks.check_torch("?", 0, 4), "broken"),
        (checks.check_gpu(()), "ok"),
        (checks.check_gpu(("a card",)), "ok"),
        (checks.check_gpu(("a card", "another"), 1), "ok"),
        (checks.check_gpu(("a card",), 2), "broken"),
        (checks.check_gpu((), 1), "broken"),
        (checks.check_flower("1.41.0"), "ok"),
        (checks.check_flower("1.42.9"), "ok"),
        (checks.check_flower("1.43.0"), "broken"),
        (checks.check_flower("1.4.10"), "broken"),
        (checks.check_flower(None), "broken"),
        (checks.check_telemetry({}), "ok"),
        (checks.check_telemetry({"training": checks.QUIET}), "ok"),
        (checks.check_telemetry({"training": {}}), "broken"),
        (checks.check_telemetry({"a": {"FLWR_TELEMETRY_ENABLED": "1"}, "b": None}), "broken"),
        (checks.check_telemetry({"training": None}), "attention"),
        (checks.check_rights("/h", [MINE, Rights("keys/k", 0o600, 10)], 10), "ok"),
        (checks.check_rights("/h", [MINE, Rights("keys/k", 0o640, 10)], 10), "broken"),
        (checks.check_rights("/h", [Rights("home", 0o755, 10)], 10), "broken"),
        (checks.check_rights("/h", [MINE, Rights("keys/k", 0o600, 0)], 10), "broken"),
        (checks.check_rights("/h", [MINE], 0), "attention"),
        (checks.check_days("x", 90.0, soon=30, do="renew"), "ok"),
        (checks.check_days("x", 29.0, soon=30, do="renew"), "attention"),
        (checks.check_days("x", -1.0, soon=30, do="renew"), "broken"),
        (checks.check_days("x", None, soon=30, do="renew"), "broken"),
        (checks.check_versions("0.4.1", "0.4.0"), "ok"),
        (checks.check_versions("0.4.1", "0.5.0"), "attention"),
        (checks.check_versions("0.4.1", "0.3.9"), "attention"),
        (checks.check_versions("0.4.1", "0.6.0"), "broken"),
        (checks.check_versions("0.4.1", "1.4.1"), "broken"),
        (checks.check_versions("0.4.1", "nonsense"), "broken"),
        (checks.check_versions("0.4.1", None), "attention"),
        (checks.check_unit("systemd", False, None), "ok"),
        (checks.check_unit("systemd", True, None), "attention"),
        (checks.check_unit("systemd", True, {"LoadState": "not-found"}), "attention"),
        (checks.check_unit("systemd", True, {**HARD, "NoNewPrivileges": "no"}), "attention"),
        (checks.check_unit("systemd", True, HARD), "ok"),
    ],
)
def test_check_says_what_it_found_and_what_to_do(found: Finding, state: State) -> None:
    """Whatever is not well comes with something to do."""
    assert found.state == state, found
    assert found.found
    assert bool(found.do) == (state != "ok")


def test_something_broken_makes_the_exit_code_three_and_attention_does_not() -> None:
    """Attention is no failure."""
    fine, looked_at = ok("a", "b"), checks.check_clock(None, "CET", None)
    assert exit_code([fine, looked_at]) == 0
    assert exit_code([fine, broken("a", "b", "c"), looked_at]) == 3


def test_check_that_fails_itself_is_broken_and_tells_no_text_of_the_exception() -> None:
    """An exception's text could hold a path of a recording, or a key."""

    def explodes() -> Finding:
        raise RuntimeError("patient-4711")

    found = tried("store", explodes)
    assert (found.state, "RuntimeError" in found.found) == ("broken", True)
    assert "4711" not in str(found)


def test_fault_that_is_ours_is_told_with_its_own_advice() -> None:
    """They hold no secrets by rule, and know what to do."""

    def refuses() -> Finding:
        raise OurMistake("The file is damaged.", do="Put it back.")

    assert tried("x", refuses) == broken("x", "The file is damaged.", "Put it back.")


@given(st.text(max_size=300))
def test_text_of_a_peer_is_cut_to_plain_ascii(text: str) -> None:
    """No escape sequence, no line break, no markup, not endlessly."""
    shown = printable(text)
    assert len(shown) <= 83
    assert all(c.isascii() and c.isprintable() and c not in '[]<>\\"' for c in shown)


def test_version_that_a_peer_tells_moves_no_cursor() -> None:
    """It is the coordinator's text, on the terminal of the hospital's IT."""
    found = checks.check_versions("0.4.1", "0.4.0\x1b[2J\x1b]0;x\x07" + "9" * 60)
    assert "\x1b" not in found.found
    assert "\x07" not in found.found
