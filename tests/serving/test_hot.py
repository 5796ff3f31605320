"""The hot route against the plain one: the same requests, the same Redis, the same bits."""

import json
import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from conf.contract import Contract
from conf.redis_server import free_port
from serving.app import PREDICT
from serving.features import OnlineFeatures, RawFeatures
from serving.freshness import Reason
from serving.redis_link import RedisReader
from tests.serving.both_routes import (
    HOT,
    PLAIN,
    Start,
    every_entity,
    exact_bundle,
    fill,
    random_request,
)
from tests.serving.parts import AS_OF as AS_OF_TIME
from tests.serving.parts import CONTRACTS, make_bundle, microseconds


@pytest.mark.parametrize("name", CONTRACTS)
@pytest.mark.parametrize("kind", ["masks", "booster"])
def test_both_routes_answer_alike(
    name: str, kind: str, contracts: dict[str, Contract], redis_address: str, start: Start
) -> None:
    contract, draw = contracts[name], np.random.default_rng(5)
    fill(redis_address, contract, every_entity(contract, draw))
    bundle = exact_bundle(contract) if kind == "masks" else make_bundle(contract)
    client, served, _, in_force, *_, metrics = start(contract, bundle, redis_address)
    different: set[float] = set()
    for number in range(100):
        request = random_request(contract, draw)
        hot, plain = (client.post(PREDICT, json=request, headers=headers) for headers in (HOT, PLAIN))
        assert hot.status_code == plain.status_code == 200, hot.text
        assert len(served) == number + 1, "the hot route has answered one of the two"
        assert hot.json() == plain.json()
        assert served[-1].asked.request_id == "r"
        different.update(p["ctr"] for p in hot.json()["predictions"])
    assert len(different) > 300
    assert metrics.plain.total == 100
    expected = {"masks": "MaskScorer", "booster": "BoosterScorer"}[kind]
    assert in_force.state.engine is not None
    assert type(in_force.state.engine._rows.kept.scorer).__name__ == expected
    assert f"clickodds_model_compiled {float(kind == 'masks')}\n" in metrics.text(in_force.state).decode()


@pytest.mark.parametrize("name", CONTRACTS)
def test_its_raw_values_are_the_plain_route_s(
    name: str, contracts: dict[str, Contract], redis_address: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for last-seen times, which no feature asks for."""
    contract, draw = contracts[name], np.random.default_rng(11)
    fill(redis_address, contract, every_entity(contract, draw))
    read: list[RawFeatures] = []
    plainly = OnlineFeatures.read

    async def watched(*args: Any) -> RawFeatures:
        read.append(await plainly(*args))
        return read[-1]

    monkeypatch.setattr(OnlineFeatures, "read", watched)
    client, served, fast, *_ = start(contract, exact_bundle(contract), redis_address)
    for late in (timedelta(minutes=30), timedelta(hours=9)):
        for _ in range(5):
            request = random_request(contract, draw) | {"time": (AS_OF_TIME + late).isoformat()}
            for headers in (HOT, PLAIN):
                client.post(PREDICT, json=request, headers=headers)
            batch = fast.raw.batch([fast.raw.taken(served[-1])])
            assert batch.schema == read[-1].batch.schema
            for column in batch.schema.names:
                if not column.endswith("_us"):
                    assert batch.column(column).to_pylist() == read[-1].batch.column(column).to_pylist(), column


@pytest.mark.parametrize("name", CONTRACTS)
@pytest.mark.parametrize(
    ("age", "reasons"),
    [(timedelta(minutes=-1), ["features_newer_than_request"]), (timedelta(hours=2), ["features_stale"]),
     (timedelta(hours=4), ["features_too_old"])],
)  # fmt: skip
def test_the_clock_decides_alike(
    name: str, age: timedelta, reasons: list[str], contracts: dict[str, Contract], redis_address: str, start: Start
) -> None:
    contract, draw = contracts[name], np.random.default_rng(6)
    fill(redis_address, contract, every_entity(contract, draw))
    client, served, *_ = start(contract, exact_bundle(contract), redis_address)
    request = random_request(contract, draw) | {"time": (AS_OF_TIME + age).isoformat()}
    hot, plain = (client.post(PREDICT, json=request, headers=headers).json() for headers in (HOT, PLAIN))
    assert hot == plain
    assert (hot["reasons"], len(served)) == (reasons, 1)


def test_an_empty_redis_is_not_a_world_of_new_users(demo: Contract, redis_address: str, start: Start) -> None:
    client, served, *_ = start(demo, exact_bundle(demo), redis_address)
    request = random_request(demo, np.random.default_rng(7))
    hot, plain = (client.post(PREDICT, json=request, headers=headers).json() for headers in (HOT, PLAIN))
    assert hot == plain
    assert (hot["reasons"], len(served)) == (["features_missing"], 1)


def test_a_redis_that_was_never_there(demo: Contract, start: Start) -> None:
    client, served, *_ = start(demo, exact_bundle(demo), f"127.0.0.1:{free_port()}")
    request = random_request(demo, np.random.default_rng(7))
    hot, plain = (client.post(PREDICT, json=request, headers=headers).json() for headers in (HOT, PLAIN))
    assert hot == plain
    assert (hot["reasons"], len(served)) == (["redis_unavailable"], 1)


@pytest.mark.parametrize("headers", [HOT, PLAIN])
def test_a_request_may_give_redis_less_time(
    demo: Contract, start: Start, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    async def late(reader: RedisReader, commands: Sequence[bytes], seconds: float = math.inf) -> Reason:
        given.append(seconds)
        return Reason.REDIS_LATE

    monkeypatch.setattr(RedisReader, "ask", late)
    draw, client = np.random.default_rng(14), start(demo, exact_bundle(demo), f"127.0.0.1:{free_port()}").client
    for ms in ("5", "9000"):
        answer = client.post(PREDICT, json=random_request(demo, draw), headers=headers | {"x-deadline-ms": ms})
        assert answer.json()["reasons"] == ["redis_late"]
    assert given[0] <= 0.005 < 1 < given[1]
    refused = client.post(PREDICT, json=random_request(demo, draw), headers=headers | {"x-deadline-ms": "soon"})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "header.x-deadline-ms")


@pytest.mark.parametrize(
    ("headers", "change"),
    [
        (PLAIN, {}), ({"content-type": "text/plain"}, {}), (HOT, {"request_id": ""}), (HOT, {"time": "yesterday"}),
        (HOT, {"candidates": [{"ad_id": True, "campaign_id": "c"}]}), (HOT, {"more": 1}), (HOT | {"x-deadline-ms": "soon"}, {}),
    ],
)  # fmt: skip
def test_what_it_does_not_take_goes_to_the_plain_route(
    demo: Contract, start: Start, headers: dict[str, str], change: dict[str, Any]
) -> None:
    client, served, *_ = start(demo, exact_bundle(demo), f"127.0.0.1:{free_port()}")
    body = json.dumps(random_request(demo, np.random.default_rng(7)) | change)
    response = client.post(PREDICT, content=body, headers=headers)
    assert served == []
    assert response.status_code in (200, 400, 422)


def test_an_error_of_its_own_is_no_failed_request(demo: Contract, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    client, served, *_ = start(demo, exact_bundle(demo), f"127.0.0.1:{free_port()}")
    monkeypatch.setattr("serving.engine.Engine.score", lambda *_: 1 / 0)
    response = client.post(PREDICT, json=random_request(demo, np.random.default_rng(7)), headers=HOT)
    assert (response.status_code, served) == (200, [])


def test_both_routes_are_written_down_alike(demo: Contract, redis_address: str, start: Start) -> None:
    """But for last-seen times, which no feature asks for."""
    draw = np.random.default_rng(12)
    fill(redis_address, demo, every_entity(demo, draw))
    started = start(demo, exact_bundle(demo), redis_address)
    for late in (timedelta(minutes=30), timedelta(hours=2), timedelta(hours=9)):  # fresh, stale, too old
        request = random_request(demo, draw) | {"time": (AS_OF_TIME + late).isoformat()}
        for headers in (HOT, PLAIN):
            assert started.client.post(PREDICT, json=request, headers=headers).status_code == 200
        started.log.flush()
        rows = next(started.folder.glob("*.parquet"))
        written = pq.read_table(rows).to_pylist()
        rows.unlink()
        hot, plain = written[: len(written) // 2], written[len(written) // 2 :]
        seen = {name for name in hot[0] if name.endswith(("last_impression_us", "last_click_us"))}
        assert [{k: v for k, v in row.items() if k not in seen} for row in hot] == [
            {k: v for k, v in row.items() if k not in seen} for row in plain
        ]
        assert {row["as_of_us"] for row in hot} == {microseconds(AS_OF_TIME) if late < timedelta(hours=9) else None}
