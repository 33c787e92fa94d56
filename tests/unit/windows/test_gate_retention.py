"""Windows are classed by their annotations; the table says what the gate loses."""

from __future__ import annotations

import pytest

from client.records import Event
from shared_model.errors import OurMistake
from simulations.gate_retention import Judged, rhythm_of, table

SINUS = (Event(0.1, "rhythm:N"), *(Event(0.5 + second, "beat:N") for second in range(60)))


def with_events(*more: Event) -> tuple[Event, ...]:
    return tuple(sorted((*SINUS, *more), key=lambda event: event.time_s))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ((), "sinus"),
        ((Event(22.2, "beat:V"),), "other"),
        ((Event(22.2, "beat:V"), Event(25.2, "beat:V")), "PVC"),
        ((Event(22.2, "beat:A"),), "other"),
        ((Event(22.2, "rhythm:AFIB"),), "AF"),
        ((Event(12.2, "rhythm:AFIB"),), "AF"),
        ((Event(12.2, "rhythm:AFIB"), Event(15.0, "rhythm:N")), "sinus"),
        ((Event(12.2, "rhythm:AFL"), Event(29.9, "rhythm:N")), "AF"),
        ((Event(22.2, "rhythm:B"), Event(23.0, "beat:V"), Event(24.0, "beat:V")), "bigeminy"),
        ((Event(22.2, "rhythm:VT"), Event(26.2, "rhythm:AFIB")), "VT"),
        ((Event(12.2, "rhythm:P"),), "paced"),
        ((Event(30.0, "rhythm:VT"),), "sinus"),
    ],
)
def test_a_window_is_classed_by_rhythm_and_beats(more: tuple[Event, ...], expected: str) -> None:
    """The window from 20 to 30 s; a rhythm holds until the next."""
    assert rhythm_of(with_events(*more), 20.0) == expected


def test_retention_is_relative_to_sinus() -> None:
    """Half of AF kept where 80 % of sinus is: 0.625."""
    judged = [Judged("a", "sinus", True, number < 8) for number in range(10)]
    judged += [Judged("b", "AF", True, number < 5) for number in range(10)]
    rows = {row["class"]: row for row in table(judged)}
    assert rows["AF"]["ecg kept / sinus"] == 0.625
    assert rows["AF"]["any channel kept"] == 1.0
    with pytest.raises(OurMistake):
        table(judged[10:])
