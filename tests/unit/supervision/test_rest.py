"""Outside the hours, or paused: nothing new begins, what was begun is finished."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path

import pytest

from client import rest, state
from client.home import NodeHome
from client.settings import Hours, TrainingSettings, as_toml
from shared_model.errors import Refused

NIGHT = TrainingSettings(hours=Hours.of("20:00-06:00"))


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    place = NodeHome(tmp_path)
    place.config.write_text(as_toml("alpha", 100))
    return place


def test_hours_and_pause_are_rest() -> None:
    noon, night = datetime.time(12), datetime.time(23)
    assert rest.rest_of(NIGHT, None, noon) == "outside-hours"
    assert rest.rest_of(NIGHT, None, night) == ""
    assert rest.rest_of(NIGHT, state.Paused(since_s=1.0), night) == "paused"
    assert rest.rest_of(TrainingSettings(), None, noon) == ""


def test_a_paused_node_refuses_what_is_new(home: NodeHome) -> None:
    rest.check_awake(home)
    state.pause(home, "maintenance")
    with pytest.raises(Refused) as refused:
        rest.check_awake(home)
    assert refused.value.reason == "not-ready"
    state.resume(home)
    rest.check_awake(home)


def test_a_request_that_began_to_arrive_before_the_pause_is_no_new_one(home: NodeHome) -> None:
    """Its round was opened with this site: refusing it would cost the others a round."""
    before_s = time.time()
    state.pause(home)
    with rest.asked(before_s - 1.0):
        rest.check_awake(home)
    with rest.asked(before_s - rest.LINGER_S - 1.0), pytest.raises(Refused):
        rest.check_awake(home)  # nobody sends a request for hours
    with rest.asked(time.time()), pytest.raises(Refused):
        rest.check_awake(home)


def test_a_pause_that_cannot_be_read_holds(home: NodeHome) -> None:
    home.state.mkdir()
    (home.state / "paused.json").write_text("{")
    with pytest.raises(Refused):
        rest.check_awake(home)


def begun(outbox: Path, *more: str, age_s: float = 0.0) -> float:
    """A masked round that was begun `age_s` ago; the time now."""
    folder = outbox / "spring" / "0000001"
    folder.mkdir(parents=True, exist_ok=True)
    now_s = 1_000_000.0
    for name in ("round.json", "request", *more):
        (folder / name).write_bytes(b"x")
    for item in folder.iterdir():
        os.utime(item, (now_s - age_s, now_s - age_s))
    return now_s


def test_a_round_is_unfinished_until_its_shares_are_opened(tmp_path: Path) -> None:
    now_s = begun(tmp_path)
    assert rest.unfinished(tmp_path, now_s)
    begun(tmp_path, "reply.header", "agreement.header")
    assert rest.unfinished(tmp_path, now_s)
    begun(tmp_path, "opened")
    assert not rest.unfinished(tmp_path, now_s)


def test_a_round_that_nobody_speaks_of_is_not_waited_for(tmp_path: Path) -> None:
    now_s = begun(tmp_path, age_s=rest.LINGER_S + 1.0)
    assert not rest.unfinished(tmp_path, now_s)
    os.utime(tmp_path / "spring" / "0000001" / "request", (now_s, now_s))
    assert rest.unfinished(tmp_path, now_s)


def test_an_empty_outbox_has_nothing_unfinished(tmp_path: Path) -> None:
    assert not rest.unfinished(tmp_path / "nowhere", 0.0)


def test_a_pause_holds_when_the_clock_is_put_back(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was said, whatever the machine now believes that the time is."""
    state.pause(home)
    earlier_s = time.time() - 3600.0
    monkeypatch.setattr("client.rest.time.time", lambda: earlier_s)
    assert rest.why_at_rest(home) == "paused"
    with pytest.raises(Refused):
        rest.check_awake(home)


def test_a_pause_holds_for_what_arrives_after_the_clock_is_put_back(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that came after the pause is not one of before it because the clock says so."""
    state.pause(home)
    earlier_s = time.time() - 600.0
    monkeypatch.setattr("client.rest.time.time", lambda: earlier_s)
    with rest.asked(earlier_s - 1.0), pytest.raises(Refused):
        rest.check_awake(home)


def test_a_round_of_the_future_is_not_waited_for(tmp_path: Path) -> None:
    """The clock was a year ahead and was put right: the node still comes to rest."""
    now_s = begun(tmp_path, age_s=-365 * 86_400.0)
    assert not rest.unfinished(tmp_path, now_s)
    begun(tmp_path, age_s=-5.0)  # another machine's disk is some seconds ahead
    assert rest.unfinished(tmp_path, now_s)
