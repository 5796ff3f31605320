"""The numbers of a server, added up over its workers, and what one costs."""

import math
import tempfile
import time

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.cells import WIDTH, Cells, Counter, Gauge, Histogram
from serving.freshness import Reason
from serving.metrics import Metrics
from serving.state import ServingState

NOTHING = ServingState("", "", None)

_STAGES_S = 0.001, 0.002, 0.003


def _samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    page = metrics.text(NOTHING).decode()
    return {(s.name, tuple(sorted(s.labels.values()))): s.value for f in text_string_to_metric_families(page) for s in f.samples}


def test_workers_are_added_up_and_a_new_one_goes_on_where_the_dead_one_was() -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(Cells.size_of(3))
        first, second = (Metrics(Cells(file, workers=3, slot=slot)) for slot in (0, 2))
        for metrics, times in ((first, 2), (second, 3)):
            for _ in range(times):
                metrics.took(0.0007, 200)
                metrics.answered(_STAGES_S, reasons=[Reason.NO_MODEL], feature_age_us=times * 1_000_000, scores=np.full(10, 0.02))
        again = Metrics(Cells(file, workers=3, slot=0))
        again.took(0.1, 503)
        found = _samples(again)
    assert found["clickodds_request_seconds_count", ("200",)] == 5
    assert found["clickodds_request_seconds_bucket", ("0.0005", "200")] == 0
    assert found["clickodds_request_seconds_bucket", ("0.00075", "200")] == 5
    assert found["clickodds_request_seconds_sum", ("200",)] == pytest.approx(5 * 0.0007)
    assert found["clickodds_request_seconds_count", ("503",)] == 1
    assert found["clickodds_degraded_total", ("no_model",)] == 5
    assert found["clickodds_candidates_sum", ()] == 50
    assert found["clickodds_ctr_bucket", ("0.02",)] == 20, "of one answer in 32 of each worker"


def test_a_gauge_is_what_was_seen_last_by_any_worker() -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(Cells.size_of(2))
        one, other = (Gauge(Cells(file, workers=2, slot=slot)) for slot in (0, 1))
        assert math.isnan(one.newest)
        one.set(5.0)
        assert other.newest == 5.0
        other.set(-1.0)
        assert one.newest == -1.0


def test_buckets_hold_their_upper_bound_and_many_at_once_are_the_same() -> None:
    cells = Cells()
    one_by_one, at_once = Histogram(cells, [1, 2, 4]), Histogram(cells, [1, 2, 4])
    values = [0.5, 1.0, 1.5, 2.0, 4.0, 4.1, 100.0]
    for value in values:
        one_by_one.observe(value)
    at_once.observe_all(np.array(values))
    assert one_by_one.buckets == at_once.buckets == [("1.0", 2), ("2.0", 4), ("4.0", 5), ("+Inf", 7)]
    assert one_by_one.sum == at_once.sum == sum(values)


def test_more_numbers_than_there_is_room_for_are_refused() -> None:
    cells = Cells()
    cells.take(WIDTH)
    with pytest.raises(ValueError, match="raise WIDTH"):
        Counter(cells)


def test_observing_a_request_costs_microseconds() -> None:
    metrics, scores = Metrics(), np.full(100, 0.02)

    def one_request() -> None:
        for stage in metrics.stages.values():
            stage.observe(0.0001)
        metrics.answered(_STAGES_S, reasons=[], feature_age_us=1, scores=scores)
        metrics.took(0.0003, 200)

    best = math.inf
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(320):
            one_request()
        best = min(best, (time.perf_counter() - start) / 320)
    print(f"\n{best * 1e6:.2f} us for a request's six observations")  # noqa: T201
    assert best < 50e-6, "on any machine"
