"""A hostile file of many entries takes time that grows with its entries, not with their square."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from export_stand_ins import DELTA, Consortium, public

from auditor.ledger import Ledger
from auditor.ledger_counting import MOST_DIFFERENT, Counting
from auditor.ledger_examine import examine
from auditor.ledger_limits import MOST_POINTS, charges, limits, stated
from shared_model.ledger import MOST_KEYS, LedgerFault


class Asked:
    """An accountant that counts its questions."""

    def __init__(self) -> None:
        self.questions = 0

    def __call__(self, mechanisms: object, delta: float) -> float:
        self.questions += 1
        return 1.0


class Watched(tuple[Any, ...]):
    """Counts how often one of its entries was looked at."""

    looks = 0

    def __iter__(self) -> Iterator[Any]:
        for one in super().__iter__():
            self.looks += 1
            yield one


def judged(count: int, **of: object) -> tuple[int, int, list[str]]:
    """Questions, looks and details for so many bookings, each under a limit of its own."""
    made = Consortium.after(rounds=1)
    ledger, _ = examine("alpha", made.file("alpha"), public("root"))
    assert isinstance(ledger, Ledger)
    first = ledger.chain.bookings[0]
    bookings = []
    for number in range(1, count + 1):
        changes = {"sequence": number, "round": number, "limit_lifetime": 10.0 + number}
        if of.get("different"):
            changes["noise_multiplier"] = 2.0 + number * 1e-6
        bookings.append(first.model_copy(update=changes))
    watched = Watched(bookings)
    object.__setattr__(ledger, "chain", SimpleNamespace(bookings=watched))
    ledger.__dict__["losses"] = ()
    asked = Asked()
    counting = Counting(DELTA, (asked, asked))
    found = [
        *charges(ledger, watched, counting),
        *stated(ledger, watched, counting),
        *limits(ledger, watched, {first.run: watched}, counting),
    ]
    return asked.questions, watched.looks, [item.detail for item in found]


def test_neither_questions_nor_looks_grow_with_the_square_of_the_entries() -> None:
    """Four times as many entries: as many questions, and four times as many looks."""
    few, short, _ = judged(1000)
    many, long, told = judged(4000)
    assert 0 < few <= 3 * MOST_POINTS
    assert 0 < many <= 3 * MOST_POINTS
    assert 4000 <= long <= 4 * short
    assert any(f"more than {MOST_POINTS} different limits" in text for text in told)


def test_a_ledger_of_too_many_mechanisms_is_not_counted() -> None:
    _, _, told = judged(MOST_DIFFERENT + 1, different=True)
    assert f"there are more than {MOST_DIFFERENT} different mechanisms" in told


def test_looking_up_heads_and_rounds_is_no_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain's own look-ups walk over all entries; no check of a file may use them."""
    made = Consortium.after(rounds=2)
    files = made.files()
    for name in ("head_at", "booking", "answer"):
        monkeypatch.setattr(f"shared_model.ledger.Chain.{name}", None)
    from test_ledger_audit import audit

    assert audit(files).verdict == "OK"


def test_a_line_of_the_report_is_short_however_many_runs_are_wrong() -> None:
    """A PDF of one line with 4,000 names took 25 s."""
    made = Consortium.after(rounds=1)
    for number in range(12):
        made.book("alpha", f"wild-{number}", 1)
    _, found = examine("alpha", made.file("alpha"), public("root"))
    (told,) = [item for item in found if item.check == "alpha: approvals"]
    assert told.verdict == "FAILED"
    assert "and 2 more" in told.detail


def test_looking_up_the_key_of_an_entry_is_no_walk() -> None:
    """It is asked for every booking of a file."""
    made = Consortium.after(rounds=1)
    made.rotate("alpha", "alpha-2")
    chain = made.hospitals["alpha"].chain
    watched = Watched(chain.links)
    object.__setattr__(chain, "links", watched)
    for length in range(200):
        chain.key_at(length)
    assert watched.looks <= len(watched)


def test_a_ledger_whose_key_changes_without_end_is_refused() -> None:
    """Each head of an unknown length is tried with all keys."""
    made = Consortium.after(rounds=1)
    for number in range(MOST_KEYS - 1):
        made.rotate("alpha", f"alpha-{number}")
    with pytest.raises(LedgerFault, match=f"changed {MOST_KEYS} times"):
        made.rotate("alpha", "alpha-last")
