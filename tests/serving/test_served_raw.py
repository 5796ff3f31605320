"""What is written down of the hot route's answers is what they were made from, however they were planned, whatever came since."""

import json
import time
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.contract import Contract
from feature_repo.redis_layout import encode_int64
from feature_repo.vectorize import vectorize
from models.bundle import Bundle
from serving.app import PREDICT
from serving.engine import Scored
from serving.freshness import Reason
from serving.hot import Served
from serving.key_reader import used_counters
from serving.served_raw import Taken
from tests.serving.both_routes import (
    HOT,
    NOW,
    PLAIN,
    Start,
    Started,
    every_entity,
    exact_bundle,
    fill,
    random_request,
    without_crosses,
)
from tests.serving.parts import AS_OF


@pytest.fixture
def contract(demo: Contract) -> Contract:
    """Without crosses: its candidates may be known by their text."""
    return without_crosses(demo)


@pytest.fixture
def bundle(contract: Contract) -> Bundle:
    return exact_bundle(contract)


@pytest.fixture
def started(contract: Contract, bundle: Bundle, redis_address: str, start: Start) -> Started:
    fill(redis_address, contract, every_entity(contract, np.random.default_rng(5)))
    return start(contract, bundle, redis_address)


def _request(contract: Contract, draw: np.random.Generator, **changes: Any) -> dict[str, Any]:
    """Of candidates that stand in the body as they are: what is escaped is never known."""
    request = random_request(contract, draw) | changes
    request["candidates"] = [one for one in request["candidates"] if json.dumps(one).count("\\") == 0]
    return request


def _one(ad: str) -> dict[str, Any]:
    """A request of one candidate."""
    context = {"user_id": "user_id-1", "placement_id": "placement_id-1", "device": "device-1"}
    return {"request_id": "r", "time": NOW, "context": context, "candidates": [{"ad_id": ad, "campaign_id": "campaign_id-1"}]}


def _replayed(batch: pa.RecordBatch, bundle: Bundle, margins: Any) -> None:
    found = bundle.margins(vectorize(batch, bundle.fitted))
    np.testing.assert_array_equal(found, np.asarray(margins), "the raw values are those of the answer")


def _written(started: Started, bundle: Bundle) -> pa.RecordBatch:
    """All that was written down, in one file, with margins that follow from the raw values beside them."""
    started.log.flush()
    (path,) = started.folder.glob("*.parquet")
    batch = pq.read_table(path).combine_chunks().to_batches()[0]
    _replayed(batch, bundle, batch.column("margin"))
    return batch


def test_answers_of_both_routes_and_of_every_plan_stand_in_one_file_in_order(
    started: Started, contract: Contract, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.served_log._TOGETHER", 40)  # candidates: several batches
    draw, expected = np.random.default_rng(6), []
    for number in range(60):
        late = timedelta(hours=9) if number % 7 == 0 else timedelta(minutes=30)
        request = _request(contract, draw, request_id=f"r-{number}", time=(AS_OF + late).isoformat())
        answer = started.client.post(PREDICT, json=request, headers=HOT if number % 3 else PLAIN).json()
        for place, one in enumerate(answer["predictions"]):
            expected.append((f"r-{number}", place, str(one["ad_id"]), one["ctr"], answer["reasons"]))
    known = [one.asked.plan.known is not None for one in started.served]
    assert 5 < sum(known) < len(known) == 40
    batch = _written(started, bundle)
    columns = (batch.column(name).to_pylist() for name in ("request_id", "candidate_number", "ad_id", "ctr", "reasons"))
    assert list(zip(*columns, strict=True)) == expected
    assert started.metrics.logged.total == len(expected)


@pytest.mark.parametrize("late", [timedelta(minutes=30), timedelta(hours=9)])
def test_a_known_plan_is_written_down_as_the_unknown_one_is(started: Started, contract: Contract, late: timedelta) -> None:
    """Usable counters or not."""
    draw, raw = np.random.default_rng(7), started.fast.raw
    for _ in range(5):
        request = _request(contract, draw)
        started.client.post(PREDICT, json=request, headers=HOT)  # what is not in memory is looked up
        started.in_force.state.engine.known.forget()  # type: ignore[union-attr]
        for _ in range(2):
            started.client.post(PREDICT, json=request | {"time": (AS_OF + late).isoformat()}, headers=HOT)
        first, last = started.served[-2:]
        assert (first.asked.plan.known is None, last.asked.plan.known is None) == (True, False)
        batch = raw.batch([raw.taken(last)])
        assert batch.equals(raw.batch([raw.taken(first)]))
        assert raw.batch([raw.taken(one) for one in (first, last)]).slice(batch.num_rows).equals(batch)
        nulls = batch.column("all__impressions_1d").null_count
        assert nulls == (batch.num_rows if late > timedelta(hours=3) else 0)


def test_a_counter_that_changes_before_the_flush_changes_no_record(
    started: Started, contract: Contract, bundle: Bundle, redis_address: str
) -> None:
    table = started.fast.residents.keys["ad"]

    def counted(value: int) -> None:
        """In Redis, and soon in memory."""
        fill(redis_address, contract, {("ad", ("ad_id-1",)): dict.fromkeys(contract.counter_columns, value)})
        until = time.monotonic() + 20
        while not (table.counters[2 : table.count] == value).all(axis=1).any():
            assert time.monotonic() < until
            time.sleep(0.01)

    for value in (40, 900, 7):
        counted(value)
        for _ in range(2):
            started.client.post(PREDICT, json=_one("ad_id-1"), headers=HOT)
    assert [one.asked.plan.known is not None for one in started.served] == [False] + [True] * 5
    counted(1)
    assert _written(started, bundle).column("ad__impressions_1d").to_pylist() == [40, 40, 900, 900, 7, 7]


@pytest.mark.parametrize(("answered", "expected"), [(True, 77), (False, None)])
def test_a_candidate_that_came_into_memory_after_its_request_was_planned(
    started: Started, contract: Contract, bundle: Bundle, answered: bool, expected: int | None
) -> None:
    """The answer is made with what is in memory, where Redis has answered; and with nothing, where it has not."""
    engine, fast = started.in_force.state.engine, started.fast
    assert engine is not None
    taken: list[tuple[Taken, Scored]] = []

    def observe(served: Served) -> None:
        taken.append((fast.raw.taken(served), served.scored))

    hot = fast.route(started.client.app, PREDICT, lambda: engine, observe)

    async def meanwhile() -> None:
        body = json.dumps(_one("an ad to come")).encode()
        prepared = hot.prepared(engine, body)
        replies = await hot.reader.ask(prepared.plan.commands, 10)
        (redis_key, _), table = prepared.plan.residents[0].asked["an ad to come"], fast.residents.keys["ad"]
        rows = table.put([redis_key], [[encode_int64(77)] * len(used_counters(contract))])
        for listener in fast.residents.listeners:
            listener.changed("ad", rows)
        assert hot.prepared(engine, body).plan.residents[0].rows == rows, "another request finds it"
        hot.finished(prepared, replies if answered else Reason.REDIS_LATE)

    assert started.client.portal is not None
    started.client.portal.call(meanwhile)
    ((one, scored),) = taken
    batch = fast.raw.batch([one])
    assert batch.column("ad__impressions_1d").to_pylist() == [expected]
    _replayed(batch, bundle, scored.margins)


def test_candidates_beyond_the_room_are_written_down_and_never_known(
    contract: Contract, bundle: Bundle, redis_address: str, start: Start
) -> None:
    fill(redis_address, contract, every_entity(contract, np.random.default_rng(5)))
    started = start(contract, bundle, redis_address, residents=4)
    draw, beside = np.random.default_rng(8), 0
    for _ in range(15):
        request = _request(contract, draw)
        for _ in range(2):
            hot, plain = (started.client.post(PREDICT, json=request, headers=headers).json() for headers in (HOT, PLAIN))
            assert hot == plain
        beside += len(started.fast.raw.taken(started.served[-1]).beside["ad"])
    assert beside > 15
    _written(started, bundle)
