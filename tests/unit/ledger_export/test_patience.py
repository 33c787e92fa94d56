"""The accountants in a process of their own."""

from __future__ import annotations

import pytest

from auditor.patience import Patience
from shared_model import accounting
from shared_model.config import PrivacyPlan

PLAN = PrivacyPlan(0.1, 2.0, 1.0, 10)


def test_the_accountants_are_those_of_the_package_and_a_bad_question_has_no_answer() -> None:
    with Patience(300.0, print) as patience:
        pld, prv = patience.accountants
        assert pld([PLAN, PLAN], 1e-5) == accounting.epsilon_pld([PLAN, PLAN], 1e-5)
        assert prv([PLAN, PLAN], 1e-5) == accounting.epsilon_prv([PLAN, PLAN], 1e-5)
        assert pld([PLAN], 2.0) is None


def test_who_is_not_in_time_is_ended_and_never_asked_again() -> None:
    said: list[str] = []
    with Patience(1e-3, said.append) as patience:
        pld, prv = patience.accountants
        assert pld([PLAN], 1e-5) is None
        assert prv([PLAN], 1e-5) is None
    assert said == ["PLD of 1 different mechanisms: given up"]


def test_an_accountant_that_dies_gives_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with Patience(60.0, said.append) as patience:
        pld, _ = patience.accountants
        patience._connected()
        assert patience._process is not None
        patience._process.kill()
        patience._process.join()
        assert pld([PLAN], 1e-5) is None
    assert "ended without an answer" in said[0]
