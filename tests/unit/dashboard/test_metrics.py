"""Numbers for a monitor: right, with the token only, and of no patient."""

from __future__ import annotations

import pytest
from dashboard_stand_ins import NOW, Visitor, lively_home
from prometheus_client.parser import text_string_to_metric_families

from server import dashboard, metrics
from server.dashboard_reads import Reader
from server.home import CoordinatorHome
from shared_model.errors import OurMistake
from shared_model.locks import locked


def numbers(text: str) -> dict[str, float]:
    return {
        one.name.removeprefix("fedprint_coordinator_")
        + "".join(f"[{value}]" for value in one.labels.values()): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def test_metrics_say_what_the_records_say(lively_root: CoordinatorHome) -> None:
    with locked(lively_root.lock):
        overview = Reader(lively_root).overview(NOW.timestamp())
    found = numbers(metrics.exposition(overview).decode())
    assert {name: value for name, value in found.items() if "runs[" in name} == {
        "runs[running]": 1.0,
        "runs[paused]": 1.0,
        "runs[finished]": 1.0,
        "runs[damaged]": 0.0,
    }
    assert (found["rounds_total[aggregated]"], found["rounds_total[closed]"]) == (16.0, 1.0)
    assert [found[f"sites[{one}]"] for one in ("online", "away", "unknown")] == [2.0, 1.0, 0.0]
    assert (found["incidents_total"], found["accusations_total"]) == (1.0, 1.0)
    assert found["late_submissions_total"] == 1.0
    assert (found["unverified_sums"], found["releases"]) == (1.0, 1.0)
    assert (found["registry_up"], found["run_up"], found["open_rounds"]) == (0.0, 1.0, 1.0)
    assert found["open_round_awaited_sites"] == 1.0
    assert round(found["site_certificate_days[alpha]"]) == 20
    assert found["last_release_age_seconds"] == 18 * 3600.0
    assert found["open_round_age_seconds"] == 120.0


def test_metrics_want_the_token_of_the_file(tmp_path) -> None:
    """Made once, for its owner only; another one, or none, gets nothing."""
    visitor = Visitor(lively_home(tmp_path / "coordinator"))
    token = dashboard.metrics_token(visitor.home)
    assert dashboard.metrics_token(visitor.home) == token
    assert visitor.home.metrics_token.stat().st_mode & 0o777 == 0o600
    for wrong in ("", "Bearer", "Bearer x", f"Basic {token}", f"Bearer {token}x"):
        extra = (("authorization", wrong),) if wrong else ()
        assert visitor.get("/metrics", extra=extra).status == 401
    assert visitor.log_in().get("/metrics").status == 401  # a session is no token
    answer = visitor.get("/metrics", extra=(("authorization", f"Bearer {token}"),))
    assert answer.status == 200
    assert "fedprint_coordinator_runs" in answer.text


@pytest.mark.parametrize("content", ["", "\n", "short"])
def test_a_token_file_without_a_secret_is_said_and_lets_nobody_in(tmp_path, content) -> None:
    """When the dashboard starts, with what to do; and nothing is a key to /metrics."""
    home = lively_home(tmp_path / "coordinator")
    home.metrics_token.write_text(content)
    with pytest.raises(OurMistake, match="a token has at least 32") as caught:
        dashboard.metrics_token(home)
    assert "Remove it" in caught.value.do
    given = (("authorization", f"Bearer {content.strip()}"),)
    assert Visitor(home).get("/metrics", extra=given).status == 500
    home.metrics_token.unlink()
    assert len(dashboard.metrics_token(home)) >= 32


def test_health_is_for_anybody_and_says_one_sentence(tmp_path) -> None:
    """Ready while the registry runs and what is unfinished is worked on."""
    home = lively_home(tmp_path / "coordinator")
    visitor = Visitor(home)
    assert visitor.get("/health").status == 503
    with locked(home.registry_lock):
        answer = visitor.get("/health")
        assert answer.status == 503
        assert b"a run is unfinished and nothing works on it" in answer.body
        with locked(home.lock):
            assert visitor.get("/health").status == 200
