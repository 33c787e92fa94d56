"""Every seeded bug is found by the self-test that is meant to find it, and not by all of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from print_matrix import CHECKS, verdicts
from seeded_bugs import BUGS, Bug
from typer.testing import CliRunner

from auditor import cli, cli_selftest
from auditor.selftest import FALSE_ALARM, Check, Seen, chosen, judged
from shared_model.errors import OurMistake, Refused

BY_NAME = {bug.name: bug for bug in BUGS}
LONG = (
    "one tensor without noise",
    "noise of the first step again",
    "generator shared by forks",
    "normalised over the batch",
    "patients who come in pairs",
    "accountant reset every run",
)
"""Seconds each, and another bug shows that the same check finds something."""
NAMES = [check.name for check in CHECKS]


def selftest(*only: str) -> tuple[int, dict[str, Any]]:
    """Exit status and JSON of the command, quick, in this process."""
    arguments = ["selftest", "--quick", "--json"]
    for name in only:
        arguments += ["--only", name]
    done = CliRunner().invoke(cli.app, arguments)
    if isinstance(done.exception, Refused):
        return done.exception.exit_code, json.loads(done.stdout)
    return done.exit_code, json.loads(done.stdout)


def test_this_installation_passes_every_check() -> None:
    """Exit status 0; fails by chance with probability below 1e-6 for each check."""
    status, report = selftest()
    found = {item["check"]: (item["verdict"], item["detail"]) for item in report["findings"]}
    assert {name: verdict for name, (verdict, _) in found.items()} == dict.fromkeys(NAMES, "OK"), (
        found
    )
    assert (status, report["verdict"]) == (0, "OK")
    assert report["all_checks"]
    assert "never prove privacy" in report["in_words"]
    for item in report["findings"]:
        assert 0.0 <= item["false_alarm"] < 1e-6
        assert item["shows"]
        assert item["statistic"]
        assert item["finds"]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in BY_NAME],
)
def test_a_seeded_bug_is_found_by_its_check_and_not_by_every_check(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit status 3; each named check fails, and each that measures something else passes."""
    bug = BY_NAME[name]
    bug.seed(monkeypatch)
    status, report = selftest(*bug.found_by, *bug.not_by)
    found = {item["check"]: item["verdict"] for item in report["findings"]}
    expected = dict.fromkeys(bug.found_by, "FAILED") | dict.fromkeys(bug.not_by, "OK")
    assert found == expected, report["findings"]
    assert (status, report["verdict"]) == (3, "FAILED")
    assert not report["all_checks"]


def test_every_check_is_shown_to_find_something() -> None:
    """By bugs that are not left to the long run."""
    assert set(LONG) < set(BY_NAME)
    fast = [bug for bug in BUGS if bug.name not in LONG]
    assert {name for bug in fast for name in bug.found_by} == set(NAMES)


@pytest.mark.long
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_whole_matrix_has_a_pass_and_a_failure_in_every_row(bug: Bug) -> None:
    """All checks against each bug, as docs/auditor.md prints it."""
    row = verdicts(bug)
    assert {row[name] for name in bug.found_by} == {"FAILED"}
    assert {row[name] for name in bug.not_by} == {"OK"}


@pytest.mark.long
def test_a_full_run_passes() -> None:
    """With all steps, new processes and hostile patients."""
    done = CliRunner().invoke(cli.app, ["selftest"])
    assert done.exit_code == 0, done.output


def test_a_check_that_the_product_refuses_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that does not train is not a node that trains privately."""

    def refuse(*_: object) -> None:
        raise OurMistake("No.")

    monkeypatch.setattr("simulations.mechanism.train_round", refuse)
    status, report = selftest("empty-batch")
    assert status == 3
    assert "The product refused: No." in report["findings"][0]["detail"]


def test_a_check_that_crashes_fails_and_the_others_still_have_their_verdicts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A traceback is no verdict: exit status 3, and one JSON document as ever."""

    def crash(*_: object) -> None:
        raise TypeError("unexpected keyword 'bookings'")

    monkeypatch.setattr("simulations.mechanism.take_round", crash)
    status, report = selftest("empty-batch", "ledger")
    assert (status, report["verdict"]) == (3, "FAILED")
    by_name = {item["check"]: item for item in report["findings"]}
    assert by_name["empty-batch"]["verdict"] == "FAILED"
    told = "broke off with TypeError: unexpected keyword 'bookings'"
    assert told in by_name["empty-batch"]["detail"]
    assert by_name["ledger"]["verdict"] == "OK"


def test_a_probe_that_measured_nothing_is_incomplete_and_never_ok(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gradients of nothing say nothing about clipping: exit status 6."""
    monkeypatch.setattr(
        "shared_model.privacy.clipped_sum",
        lambda unit, weights, *_, **__: __import__("numpy").zeros(
            sum(value.numel() for value in weights.values())
        ),
    )
    status, report = selftest("clipping", "noise-shape")
    assert (status, report["verdict"]) == (cli_selftest.INCOMPLETE_EXIT, "INCOMPLETE")


def test_an_unknown_check_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(OurMistake, match="sampling-coins"):
        chosen(CHECKS, ["noise"])


@pytest.mark.parametrize(
    ("p", "verdict"),
    [
        (FALSE_ALARM / 2, "OK"),
        (FALSE_ALARM / 2.001, "FAILED"),
        (0.0, "FAILED"),
        (float("nan"), "FAILED"),
    ],
)
def test_the_false_alarm_is_shared_among_the_parts_of_a_check(p: float, verdict: str) -> None:
    """Two parts: each may have half; what is not a number fails."""
    check = Check("name", "shows", "statistic", lambda quick: Seen())
    assert judged(check, Seen(p_values={"a": p, "b": 0.5})).verdict == verdict
