"""Tables at the terminal."""

from __future__ import annotations

import pytest

from shared_model import terminal


def test_column_that_the_first_row_lacks_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Whichever row is first: a table must not lose what later rows say."""
    terminal.show("Answers", [{"who": 1}, {"who": 2, "probability": 0.75}], as_json=False)
    shown = capsys.readouterr().out
    assert "probability" in shown
    assert "0.75" in shown
