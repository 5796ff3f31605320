"""What the server tells Prometheus. Observing costs additions (serving/cells.py); the page is made when it is asked for.

prometheus_client's own counters take a lock and a method or two each, a few microseconds a request, and its multiprocess mode a
file each; here only its text format is used.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from serving.cells import Cells, Counter, Float64, Gauge, Histogram
from serving.freshness import Reason
from serving.state import ServingState

_SECONDS = (
    0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25,
    1.0,
)  # fmt: skip
_CANDIDATES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_CTR = (0.0001, 0.0003, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5)
STATUSES = (200, 400, 401, 403, 408, 413, 415, 422, 431, 500, 503)
STAGES = ("features", "score", "encode")
SHED = ("in_flight", "queue_age", "connections")
DROPPED = ("queue", "disk")
_SCORED_EVERY = 32  # answers: the distribution of scores wants thousands of them, not every one

Family = HistogramMetricFamily | CounterMetricFamily | GaugeMetricFamily | InfoMetricFamily


class Metrics(Collector):
    """The numbers of one application; `text` is the page for /metrics, of all workers that share its cells."""

    def __init__(self, cells: Cells | None = None) -> None:
        cells = cells or Cells()
        self._seconds = {status: Histogram(cells, _SECONDS) for status in (*STATUSES, 0)}  # 0: any other
        self.stages = {stage: Histogram(cells, _SECONDS) for stage in STAGES}
        self._candidates = Histogram(cells, _CANDIDATES)
        self._of_answer = [*self.stages.values(), self._candidates]
        self._scores = Histogram(cells, _CTR)
        self._degraded = {reason: Counter(cells) for reason in Reason}
        self.shed = {why: Counter(cells) for why in SHED}
        self.reloads = {outcome: Counter(cells) for outcome in ("loaded", "refused")}
        self.plain = Counter(cells)
        self.logged = Counter(cells)
        self.dropped = {why: Counter(cells) for why in DROPPED}
        self._age = Gauge(cells)
        self.refresh_lag = Gauge(cells)
        self._answers = 0
        self._state: ServingState | None = None

    def answered(
        self, stages_s: Sequence[float], *, reasons: Sequence[Reason], feature_age_us: int | None, scores: Float64
    ) -> None:
        """Count one answer. stages_s: what each of STAGES took. scores: the probabilities, shape (candidates,)."""
        Histogram.observe_each(self._of_answer, (*stages_s, len(scores)))
        for reason in reasons:
            self._degraded[reason].add()
        self._age.set(np.nan if feature_age_us is None else feature_age_us / 1e6)
        self._answers += 1
        if self._answers % _SCORED_EVERY == 1:
            self._scores.observe_all(scores)

    def took(self, seconds: float, status: int) -> None:
        """Time from a request's arrival to the end of its answer."""
        self._seconds.get(status, self._seconds[0]).observe(seconds)

    def text(self, state: ServingState) -> bytes:
        """All metrics in Prometheus' text format; the model is the asked worker's."""
        self._state = state
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator[Family]:
        """Every family, as prometheus_client wants them."""
        seconds = {"other" if not status else str(status): each for status, each in self._seconds.items()}
        name, said = "clickodds_request_seconds", "Time from a prediction request's arrival to its answer, by HTTP status."
        yield _histograms(name, said, "status", seconds)
        name, said = "clickodds_stage_seconds", "The parts of it: reading features, scoring, encoding the answer."
        yield _histograms(name, said, "stage", self.stages)
        yield _histogram("clickodds_candidates", "Candidates of an answered request.", self._candidates)
        yield _histogram("clickodds_ctr", f"Answered probabilities, of one answer in {_SCORED_EVERY}.", self._scores)
        yield _counters("clickodds_degraded", "Degraded answers, by reason.", "reason", self._degraded)
        yield _counters("clickodds_shed", "Requests or connections refused to keep the others in time.", "reason", self.shed)
        yield _counters("clickodds_reloads", "New champions that were published, by outcome.", "outcome", self.reloads)
        said = "Answers of the plain route, which costs several times the hot one."
        yield CounterMetricFamily("clickodds_plain_answers", said, self.plain.total)
        said = "Candidates that the served log has written."
        yield CounterMetricFamily("clickodds_served_log_rows", said, self.logged.total)
        said = "Candidates that the served log has let go, by what was full."
        yield _counters("clickodds_served_log_dropped", said, "full", self.dropped)
        said = "The last request's time minus the features' clock; NaN where it was not read."
        yield GaugeMetricFamily("clickodds_feature_age_seconds", said, self._age.newest)
        said = "From Redis' word of the last changes to their being in memory; NaN until there are some."
        yield GaugeMetricFamily("clickodds_refresh_lag_seconds", said, self.refresh_lag.newest)
        said = "1 where the compiled trees answer, 0 where the Booster does, at several times the price, or no model."
        yield GaugeMetricFamily("clickodds_model_compiled", said, float(self._state is not None and self._state.compiled))
        champion = self._state.champion if self._state else None
        about = (champion.version, champion.bundle.identity, champion.bundle.kind) if champion else ("", "", "")
        labels = dict(zip(("version", "identity", "kind"), about, strict=True))
        yield InfoMetricFamily("clickodds_model", "The champion that serves.", labels)


def _histogram(name: str, said: str, histogram: Histogram) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, said, buckets=histogram.buckets, sum_value=histogram.sum)


def _histograms(name: str, said: str, label: str, by: Mapping[str, Histogram]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, said, labels=[label])
    for value, histogram in by.items():
        family.add_metric([value], buckets=histogram.buckets, sum_value=histogram.sum)
    return family


def _counters(name: str, said: str, label: str, by: Mapping[Any, Counter]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, said, labels=[label])
    for value, counter in by.items():
        family.add_metric([str(value)], counter.total)
    return family
