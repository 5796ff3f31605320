"""The hot route against the plain one: the same requests, the same Redis, the same bits."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import redis
from starlette.testclient import TestClient

from conf.contract import ALL_KEY, AS_OF, CLOCK, Contract
from conf.redis_server import free_port
from conf.settings import Serving
from feature_repo.catalogue import raw_schema
from feature_repo.redis_layout import hash_field, redis_key
from models.bundle import Bundle
from models.merging import merge
from models.published import Champion
from models.ridge import Ridge
from serving.app import PREDICT, create_app
from serving.fast_path import FastPath
from serving.features import OnlineFeatures, RawFeatures
from serving.freshness import Reason
from serving.hot import Served
from serving.metrics import Metrics
from serving.observer import observer
from serving.redis_link import RedisReader
from serving.served_log import LogLimits, ServedLog
from serving.served_raw import ServedRaw
from serving.state import InForce, ServingState
from tests.serving.parts import AS_OF as AS_OF_TIME
from tests.serving.parts import CONTRACTS, ID_KEY, make_bundle, make_fast_path, microseconds

Entities = dict[tuple[str, tuple[str, ...]], dict[str, int | None]]  # key and canonical values -> counters

HOT = {"content-type": "application/json"}
PLAIN = {"content-type": "application/json; charset=utf-8"}
NOW = (AS_OF_TIME + timedelta(minutes=30)).isoformat()


def exact_bundle(contract: Contract, *, ridge: bool = True) -> Bundle:
    """As training makes them: leaves on the grid, and a ridge part over the counters."""
    bundle = make_bundle(contract)
    names = bundle.fitted.names
    draw = np.random.default_rng(3)
    columns = tuple(n for n, feature in enumerate(bundle.fitted.features) if feature.key)
    weights = [tuple(draw.normal(0, 0.1, len(columns)).tolist()) for _ in range(3)]
    part = Ridge(columns, weights[0], tuple(draw.uniform(0.5, 2, len(columns)).tolist()), weights[1], weights[2], -0.25)
    trees = merge([bundle.booster], names=names, base_rate=0.05, share=0.5)
    return make_bundle(contract, trees=trees, ridge=part if ridge else None)


def encoded(number: int) -> bytes:
    """An int64 as Feast writes it."""
    number &= 2**64 - 1
    data = bytearray(b" ")
    while number >= 0x80:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])


def fill(address: str, contract: Contract, counters: Entities) -> None:
    """Counters by key and canonical values, and the clock."""
    host, _, port = address.partition(":")
    with redis.Redis(host=host, port=int(port)) as client:
        pipe: Any = client.pipeline(transaction=False)
        for (key, values), row in counters.items():
            entity = dict(zip(contract.counted_keys[key], values, strict=True))
            fields = {hash_field(key, name): b"" if value is None else encoded(value) for name, value in row.items()}
            pipe.hset(redis_key(contract.name, entity), mapping=fields)
        pipe.hset(redis_key(contract.name, {}), mapping={hash_field(CLOCK, AS_OF): encoded(microseconds(AS_OF_TIME))})
        pipe.execute()


def random_counters(contract: Contract, draw: np.random.Generator) -> dict[str, int | None]:
    """Of one entity: mostly small, sometimes zero, large or null."""
    row: dict[str, int | None] = {}
    for name in contract.counter_columns:
        kind = draw.integers(10)
        row[name] = None if kind == 0 else 0 if kind < 3 else int(draw.integers(1, 10 ** int(draw.integers(1, 8))))
    return row


def texts(name: str, contract: Contract) -> list[Any]:
    """Values that a request may bring for a column: some are in Redis, some are not."""
    column = contract.columns[name]
    if column.type == "number":
        low, high = column.min if column.min is not None else -5, column.max if column.max is not None else 5
        values: list[Any] = [low, high, (low + high) / 2, int((low + high) / 2)]
    else:
        values = [f"{name}-{n}" for n in range(1, 6)] + [7, "8", f"{name} ünï 🗝"]
    return [*values, None, ""][: None if column.type != "number" else -1] if column.optional else values


def random_request(contract: Contract, draw: np.random.Generator) -> dict[str, Any]:
    def some(of: Any) -> dict[str, Any]:
        made = {name: texts(name, contract)[draw.integers(len(texts(name, contract)))] for name in contract.columns_of(of)}
        return {name: value for name, value in made.items() if value is not None or draw.integers(2)}

    candidates = {tuple(str(c[name]) for name in contract.candidate): c for c in (some("candidate") for _ in range(30))}
    return {"request_id": "r", "time": NOW, "context": some("request"), "candidates": list(candidates.values())}


def every_entity(contract: Contract, draw: np.random.Generator) -> Entities:
    """Counters for about two of three combinations of the values that requests bring."""
    made: Entities = {(ALL_KEY, ()): {name: int(draw.integers(1000, 10**6)) for name in contract.counter_columns}}
    for key, columns in contract.keys.items():
        for _ in range(60):
            chosen = [texts(name, contract)[draw.integers(6)] for name in columns]
            told = [(str(value), column in contract.personal) for column, value in zip(columns, chosen, strict=True)]
            values = tuple(ID_KEY.digest(text) if personal else text for text, personal in told)
            made[key, values] = random_counters(contract, draw)
    return made


class Started(NamedTuple):
    """An application, what its hot route served, and what it works with."""

    client: TestClient
    served: list[Served]
    fast: FastPath
    in_force: InForce
    folder: Path
    log: ServedLog
    metrics: Metrics


Start = Callable[..., Started]


@pytest.fixture
def start(serving_settings: Serving, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def make(contract: Contract, bundle: Bundle, address: str, **changes: Any) -> Started:
            patient = {"redis_deadline_ms": 10_000.0, "residents": 1000}  # nobody is in a hurry, and the machine may be busy
            section = serving_settings.model_copy(update=patient | changes)
            metrics = Metrics()
            fast = make_fast_path(contract, address, section, metrics)
            served_log = ServedLog(tmp_path, raw_schema(contract), LogLimits(1.0, 1 << 20, 1 << 30, 60), metrics)
            served: list[Served] = []

            def watched(metrics: Metrics, log: ServedLog, raw: ServedRaw) -> Callable[[Served], None]:
                observe = observer(metrics, log, raw)

                def both(one: Served) -> None:
                    observe(one)
                    served.append(one)

                return both

            monkeypatch.setattr("serving.app.observer", watched)
            in_force = InForce(ServingState(contract.hash, ID_KEY.fingerprint, Champion("7", bundle)))
            app = create_app(
                contract=contract, in_force=in_force, fast=fast, settings=section, metrics=metrics, served_log=served_log
            )
            return Started(stack.enter_context(TestClient(app)), served, fast, in_force, tmp_path, served_log, metrics)

        yield make


@pytest.mark.parametrize("name", CONTRACTS)
@pytest.mark.parametrize("kind", ["masks", "booster"])
def test_both_routes_answer_alike(
    name: str, kind: str, contracts: dict[str, Contract], redis_address: str, start: Start
) -> None:
    contract, draw = contracts[name], np.random.default_rng(5)
    fill(redis_address, contract, every_entity(contract, draw))
    bundle = exact_bundle(contract) if kind == "masks" else make_bundle(contract)
    client, served, _, in_force, *_ = start(contract, bundle, redis_address)
    different: set[float] = set()
    for number in range(100):
        request = random_request(contract, draw)
        hot, plain = (client.post(PREDICT, json=request, headers=headers) for headers in (HOT, PLAIN))
        assert hot.status_code == plain.status_code == 200, hot.text
        assert len(served) == number + 1, "the hot route has answered one of the two"
        assert hot.json() == plain.json()
        assert served[-1].request_id == "r"
        different.update(p["ctr"] for p in hot.json()["predictions"])
    assert len(different) > 300
    expected = {"masks": "MaskScorer", "booster": "BoosterScorer"}[kind]
    assert in_force.state.engine is not None
    assert type(in_force.state.engine._rows.kept.scorer).__name__ == expected


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
            batch = fast.raw.taken(served[-1])()
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


def test_candidates_beyond_the_room_are_looked_up(demo: Contract, redis_address: str, start: Start) -> None:
    draw = np.random.default_rng(8)
    fill(redis_address, demo, every_entity(demo, draw))
    client, served, *_ = start(demo, exact_bundle(demo), redis_address, residents=4)
    for number in range(20):
        request = random_request(demo, draw)
        hot, plain = (client.post(PREDICT, json=request, headers=headers).json() for headers in (HOT, PLAIN))
        assert hot == plain
        assert len(served) == number + 1


def _eventually(what: Callable[[], bool], seconds: float = 20.0) -> float:
    """How long it took to be true."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < seconds, "it never was"
        time.sleep(0.01)
    return time.monotonic() - began


def test_changes_in_redis_show_soon(demo: Contract, redis_address: str, start: Start) -> None:
    """A candidate's counters, a new candidate, and the prior with the clock: all without a request's looking."""
    draw = np.random.default_rng(9)
    entities = every_entity(demo, draw)
    fill(redis_address, demo, entities)
    started = start(demo, exact_bundle(demo), redis_address)
    client = started.client
    request = random_request(demo, draw)
    request["candidates"] = [{"ad_id": "ad_id-1", "campaign_id": "never"}, {"ad_id": "new one", "campaign_id": "never"}]

    def same() -> bool:
        hot, plain = (client.post(PREDICT, json=request, headers=headers).json() for headers in (HOT, PLAIN))
        return bool(hot == plain)

    assert same()
    before = client.post(PREDICT, json=request, headers=HOT).json()
    counters: dict[str, int | None] = dict.fromkeys(demo.counter_columns, 900_000)
    for entity in (("ad", ("ad_id-1",)), ("ad", ("new one",)), ("campaign", ("never",)), (ALL_KEY, ())):
        fill(redis_address, demo, {entity: counters})
        _eventually(same)
    assert client.post(PREDICT, json=request, headers=HOT).json() != before
    assert 0 < started.metrics.refresh_lag.newest < 20


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


def test_counters_of_different_hours_are_written_down_without_a_clock(demo: Contract, redis_address: str, start: Start) -> None:
    """As in the moment when an hour's publication has reached Redis and not yet the memory: no replay could count them again."""
    draw = np.random.default_rng(13)
    fill(redis_address, demo, every_entity(demo, draw))
    client, served, _, in_force, *_ = start(demo, exact_bundle(demo), redis_address)
    assert in_force.state.engine is not None
    rows = in_force.state.engine._rows
    rows.kept = replace(rows.kept, as_of_us=microseconds(AS_OF_TIME - timedelta(hours=1)))
    client.post(PREDICT, json=random_request(demo, draw), headers=HOT)
    assert (served[0].scored.as_of_us, served[0].scored.reasons) == (None, ["features_stale"])
    assert served[0].scored.freshness.usable


def test_a_replaced_model_is_followed_no_longer_once_no_answer_needs_it(
    demo: Contract, redis_address: str, start: Start
) -> None:
    client, _, fast, in_force, *_ = start(demo, exact_bundle(demo), redis_address)
    before = in_force.state
    assert client.portal is not None
    in_force.state = client.portal.call(fast.ready, replace(before, champion=Champion("8", make_bundle(demo)), engine=None))
    assert len(fast.residents.listeners) == 2  # somebody may be answered by the old one still
    del before
    (left,) = fast.residents.listeners
    assert in_force.state.engine is not None
    assert left is in_force.state.engine._rows
