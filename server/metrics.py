"""The coordinator's metrics for Prometheus, from what the dashboard shows. Names: docs/operator.md.

Sites are labels; nothing of patients is here.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from server.dashboard_view import DAY_S, Overview

PREFIX = "fedprint_coordinator_"
STATES = ("running", "paused", "finished", "damaged")


def exposition(overview: Overview) -> bytes:
    """Prometheus text, version 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fixed(tuple(families(overview))))
    return generate_latest(registry)


def families(overview: Overview) -> Iterator[Metric]:
    """All metrics at this moment."""
    yield _gauge("registry_up", "1 if the registry runs.", float(overview.registry))
    yield _gauge("run_up", "1 if a process works on a run.", float(overview.running))
    yield _runs(overview)
    yield _rounds(overview)
    yield _sites(overview)
    current = overview.current
    is_open = current is not None and current.open is not None
    if current is not None and current.open is not None:
        age_s = current.open.age_s(overview.now_s)
        yield _gauge("open_round_age_seconds", "Since the open round was opened.", age_s)
        yield _gauge(
            "open_round_awaited_sites",
            "Sites whose answer the open round waits for.",
            float(len(current.open.awaited)),
        )
    yield _gauge("open_rounds", "Rounds that are open: 0 or 1.", float(is_open))
    incidents = sum(count for run in overview.runs for _, count in run.incidents)
    accusations = sum(count for run in overview.runs for _, count in run.accusations)
    unverified = sum(len(run.unverified) for run in overview.runs)
    yield _counter("incidents", "Messages that a correct site would not send.", incidents)
    yield _counter("accusations", "Shares that one site says it cannot use.", accusations)
    late = sum(len(one.late) for run in overview.runs for one in run.rounds)
    yield _counter("late_submissions", "Submissions that came too late and are void.", late)
    yield _gauge("unverified_sums", "Published sums that are not verified.", float(unverified))
    yield _gauge("releases", "Releases made here.", float(len(overview.releases)))
    yield from _ages(overview)


def _runs(overview: Overview) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}runs", "Runs by state.", labels=["state"])
    for state in STATES:
        family.add_metric([state], float(sum(run.state == state for run in overview.runs)))
    return family


def _rounds(overview: Overview) -> Metric:
    family = CounterMetricFamily(
        f"{PREFIX}rounds", "Rounds that ended, by outcome.", labels=["outcome"]
    )
    aggregated = sum(one.aggregated for run in overview.runs for one in run.rounds)
    family.add_metric(["aggregated"], float(aggregated))
    family.add_metric(["closed"], float(sum(run.closed for run in overview.runs)))
    return family


def _sites(overview: Overview) -> Metric:
    family = GaugeMetricFamily(
        f"{PREFIX}sites", "Enrolled sites by presence; unknown: no run goes on.", labels=["state"]
    )
    enrolled = [site for site in overview.sites if site.enrolled]
    for state, value in (("online", True), ("away", False), ("unknown", None)):
        family.add_metric([state], float(sum(site.online is value for site in enrolled)))
    return family


def _ages(overview: Overview) -> Iterator[Metric]:
    now_s = overview.now_s
    made = [run.rounds[-1].ended_s for run in overview.runs if run.rounds]
    if made:
        age_s = max(0.0, now_s - max(made))
        yield _gauge("last_round_age_seconds", "Since the last round of any run ended.", age_s)
    good = [one for one in overview.releases if not one.damaged]
    if good:
        age_s = max(0.0, now_s - max(one.created_s for one in good))
        yield _gauge("last_release_age_seconds", "Since the day of the last release.", age_s)
    for name, words, end_s in (
        (
            "server_certificate_days",
            "Days left of the TLS certificate.",
            overview.server_certificate_s,
        ),
        ("roster_days", "Days left of the roster.", overview.roster_ends_s),
    ):
        if end_s is not None:
            yield _gauge(name, words, (end_s - now_s) / DAY_S)
    family = GaugeMetricFamily(
        f"{PREFIX}site_certificate_days",
        "Days left of a site's registry certificate.",
        labels=["site"],
    )
    for site in overview.sites:
        if site.certificate_s is not None:
            family.add_metric([site.name], (site.certificate_s - now_s) / DAY_S)
    yield family


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, words, value=value)


def _counter(name: str, words: str, value: int) -> Metric:
    return CounterMetricFamily(PREFIX + name, words, value=float(value))


class _Fixed(Collector):
    def __init__(self, metrics: tuple[Metric, ...]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics
