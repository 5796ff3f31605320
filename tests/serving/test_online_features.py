"""Online features against a real Redis that Feast's own code filled."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import redis

from conf.contract import AS_OF as AS_OF_COLUMN
from conf.contract import CLOCK, Contract
from conf.redis_address import parse_address
from conf.redis_server import free_port, redis_server
from feature_repo.catalogue import raw_schema
from feature_repo.redis_layout import hash_field, redis_key
from serving.canonical import RequestValue
from serving.features import OnlineFeatures, RawFeatures
from serving.freshness import Reason
from serving.redis_cluster import connect
from serving.redis_link import RedisLink, RedisReader
from tests.serving.parts import AS_OF, ID_KEY, FeastStore, microseconds

HOUR = timedelta(hours=1)
CONTEXT = {"user_id": "known", "placement_id": "home", "device": None, "age": 33}
CANDIDATES = ({"ad_id": "a7", "campaign_id": "c1"}, {"ad_id": "never seen", "campaign_id": "c2"})

Candidates = Sequence[Mapping[str, RequestValue]]


def _reading[T](contract: Contract, address: str, use: Callable[[OnlineFeatures], Awaitable[T]]) -> T:
    async def run() -> T:
        reader = RedisReader(parse_address(address), deadline_s=0.5, connect=connect)
        await reader.start()
        try:
            return await use(OnlineFeatures(contract, ID_KEY, reader, max_age=3 * HOUR))
        finally:
            await reader.close()

    return asyncio.run(run())


def _read(
    contract: Contract,
    address: str,
    *,
    at: datetime = AS_OF,
    context: Mapping[str, Any] = CONTEXT,
    candidates: Candidates = CANDIDATES,
) -> RawFeatures:
    return _reading(contract, address, lambda features: features.read(at, context, candidates))


def _counters(contract: Contract, read: RawFeatures, row: int, key: str) -> dict[str, int | None]:
    values = read.batch.slice(row, 1).to_pylist()[0]
    return {counter: values[f"{key}__{counter}"] for counter in contract.counter_columns}


def _new(contract: Contract) -> dict[str, int | None]:
    return {name: None if name.endswith("_us") else 0 for name in contract.counter_columns}


def _all_unavailable(contract: Contract, read: RawFeatures) -> bool:
    names = [f"{key}__{counter}" for key in contract.counted_keys for counter in contract.counter_columns]
    return all(read.batch.column(name).null_count == read.batch.num_rows for name in names)


def _direct(address: str) -> redis.Redis:
    host, _, port = address.partition(":")
    return redis.Redis(host=host, port=int(port))


def test_the_batch_has_the_raw_schema_and_a_row_for_each_candidate(demo: Contract, filled_redis: str) -> None:
    read = _read(demo, filled_redis, at=AS_OF + timedelta(microseconds=7))
    assert read.batch.schema.equals(raw_schema(demo))
    assert read.batch.column("ad_id").to_pylist() == ["a7", "never seen"]
    assert read.batch.column("event_timestamp").cast(pa.int64()).to_pylist() == [microseconds(AS_OF) + 7] * 2
    assert read.batch.column("age").to_pylist() == [33.0, 33.0]
    assert read.batch.column("device").to_pylist() == [None, None]


def test_known_keys_bring_their_counters_and_new_ones_zeros(demo: Contract, filled_redis: str) -> None:
    read = _read(demo, filled_redis)
    assert (read.freshness.usable, read.freshness.reason) == (True, None)
    known = {
        "impressions_1h": 3,
        "clicks_1h": 1,
        "impressions_7d": 30,
        "clicks_7d": 4,
        "last_impression_us": 1_772_323_200_000_001,
    }
    assert _counters(demo, read, 0, "user") == _new(demo) | known
    assert _counters(demo, read, 0, "ad")["clicks_7d"] == 50
    assert _counters(demo, read, 1, "ad") == _new(demo)
    assert _counters(demo, read, 0, "user_campaign")["clicks_7d"] == 2
    assert _counters(demo, read, 1, "user_campaign") == _new(demo)
    assert [_counters(demo, read, row, "all")["clicks_7d"] for row in (0, 1)] == [3000, 3000]


def test_a_personal_id_is_looked_up_and_kept_as_its_digest_only(demo: Contract, filled_redis: str) -> None:
    read = _read(demo, filled_redis, context=CONTEXT | {"user_id": 42})
    assert read.batch.column("user_id").to_pylist() == [ID_KEY.digest("42")] * 2
    assert _counters(demo, read, 0, "user")["impressions_7d"] == 80


@pytest.mark.parametrize("missing", [None, ""])
def test_a_key_with_a_missing_part_has_no_counters(demo: Contract, filled_redis: str, missing: str | None) -> None:
    read = _read(demo, filled_redis, context=CONTEXT | {"user_id": missing})
    unknown = dict.fromkeys(demo.counter_columns)
    assert _counters(demo, read, 0, "user") == unknown
    assert _counters(demo, read, 0, "user_campaign") == unknown
    assert _counters(demo, read, 0, "ad")["clicks_7d"] == 50
    assert read.batch.column("user_id").null_count == 2


@pytest.mark.parametrize("contract_name", ["demo", "talkingdata"])
def test_every_value_is_the_one_feast_reads(
    contract_name: str, contracts: dict[str, Contract], feast_stores: dict[str, FeastStore], redis_address: str
) -> None:
    contract, store = contracts[contract_name], feast_stores[contract_name]
    texts = {name: f"{name} ünï" for name in contract.columns}
    keyed = {name: ID_KEY.digest(text) if name in contract.personal else text for name, text in texts.items()}
    expected: dict[str, int | None] = {}
    for k, (key, columns) in enumerate(contract.counted_keys.items()):
        counters = {c: 1000 * k + i - 1 if i % 5 else None for i, c in enumerate(contract.counter_columns)}
        counters["last_click_us"] = 1_772_323_200_000_001 + k
        store.write(redis_address, key, {c: keyed[c] for c in columns}, counters, AS_OF)
        expected |= {f"{key}__{counter}": value for counter, value in counters.items()}
    store.clock(redis_address)

    context = {
        name: texts[name] for name, column in contract.columns.items() if column.of == "request" and column.type != "number"
    }
    candidate = {name: texts[name] for name in contract.columns_of("candidate")}
    read = _read(contract, redis_address, context=context, candidates=[candidate])
    found = read.batch.to_pylist()[0]
    entity = {column: keyed[column] for columns in contract.keys.values() for column in columns}
    by_feast = store.read(redis_address, entity)
    assert {name: found[name] for name in expected} == expected
    assert {name: by_feast[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("age", "reason", "usable"),
    [
        (-timedelta(microseconds=1), Reason.FEATURES_NEWER, False),
        (HOUR - timedelta(microseconds=1), None, True),
        (HOUR, Reason.FEATURES_STALE, True),
        (3 * HOUR, Reason.FEATURES_STALE, True),
        (3 * HOUR + timedelta(microseconds=1), Reason.FEATURES_TOO_OLD, False),
    ],
)
def test_the_clock_in_redis_decides(
    demo: Contract, filled_redis: str, age: timedelta, reason: Reason | None, usable: bool
) -> None:
    read = _read(demo, filled_redis, at=AS_OF + age)
    assert read.freshness.reason == reason
    assert _all_unavailable(demo, read) != usable
    assert (_counters(demo, read, 0, "ad")["clicks_7d"] == 50) == usable


def test_an_empty_redis_is_not_a_world_of_new_users(demo: Contract, redis_address: str) -> None:
    read = _read(demo, redis_address)
    assert read.freshness.reason == Reason.FEATURES_MISSING
    assert _all_unavailable(demo, read)


def test_counters_without_their_clock_are_not_used(
    demo: Contract, redis_address: str, feast_stores: dict[str, FeastStore]
) -> None:
    feast_stores["demo"].counters(redis_address, "ad", {"ad_id": "a7"}, clicks_7d=50)
    read = _read(demo, redis_address)
    assert read.freshness.reason == Reason.FEATURES_MISSING
    assert _all_unavailable(demo, read)


def test_a_redis_that_is_not_there_is_said(demo: Contract) -> None:
    read = _read(demo, f"127.0.0.1:{free_port()}")
    assert read.freshness.reason == Reason.REDIS_UNAVAILABLE
    assert _all_unavailable(demo, read)
    assert read.batch.column("ad_id").to_pylist() == ["a7", "never seen"]


@pytest.mark.parametrize("broken", ["a value of another type", "a hash of another kind"])
def test_a_redis_that_holds_something_else_is_said(demo: Contract, filled_redis: str, broken: str) -> None:
    key = redis_key("demo", {"ad_id": "a7"})
    with _direct(filled_redis) as client:
        if broken == "a value of another type":
            client.hset(key, hash_field("ad", "clicks_7d"), b"\x12\x0150")  # a string_val
        else:
            client.set(key, "text")
    read = _read(demo, filled_redis)
    assert read.freshness.reason == Reason.FEATURES_UNREADABLE
    assert _all_unavailable(demo, read)


def test_a_slow_redis_costs_the_timeout_and_never_another_request_s_values(
    demo: Contract, tmp_path: Path, feast_stores: dict[str, FeastStore]
) -> None:
    with redis_server(tmp_path) as address:
        feast_stores["demo"].clock(address)
        for ad in range(5):
            feast_stores["demo"].counters(address, "ad", {"ad_id": f"a{ad}"}, clicks_7d=ad)
        with _direct(address) as client:
            process = int(client.info("server")["process_id"])

        async def use(features: OnlineFeatures) -> list[tuple[Reason | None, int | None]]:
            def asked(ad: int) -> Awaitable[RawFeatures]:
                return features.read(AS_OF, CONTEXT, [{"ad_id": f"a{ad}", "campaign_id": "c1"}])

            reads = [await asked(1)]
            os.kill(process, signal.SIGSTOP)
            try:
                reads.append(await asked(2))
            finally:
                os.kill(process, signal.SIGCONT)
            reads += [await asked(3), await asked(4)]
            return [(read.freshness.reason, _counters(demo, read, 0, "ad")["clicks_7d"]) for read in reads]

        assert _reading(demo, address, use) == [(None, 1), (Reason.REDIS_LATE, None), (None, 3), (None, 4)]


def test_a_redis_that_dies_and_returns(
    demo: Contract, tmp_path: Path, feast_stores: dict[str, FeastStore]
) -> None:
    port = free_port()

    async def back(features: OnlineFeatures) -> RawFeatures:
        async with asyncio.timeout(20):
            while (read := await features.read(AS_OF, CONTEXT, CANDIDATES)).freshness.reason:
                await asyncio.sleep(0.02)
            return read

    async def use(features: OnlineFeatures) -> list[tuple[Reason | None, int | None]]:
        reads = []
        with redis_server(tmp_path, port) as address:
            feast_stores["demo"].counters(address, "ad", {"ad_id": "a7"}, clicks_7d=50)
            feast_stores["demo"].clock(address)
            reads.append(await back(features))
        reads += [await features.read(AS_OF, CONTEXT, CANDIDATES) for _ in range(2)]
        with redis_server(tmp_path, port):
            reads.append(await back(features))
        return [(read.freshness.reason, _counters(demo, read, 0, "ad")["clicks_7d"]) for read in reads]

    away = (Reason.REDIS_UNAVAILABLE, None)
    assert _reading(demo, f"127.0.0.1:{port}", use) == [(None, 50), away, away, (None, 50)]


def test_one_round_trip_reads_each_key_once_and_the_clock_first(
    demo: Contract, filled_redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    ask_then = RedisLink.ask_then

    def spied(self: RedisLink, commands: Sequence[bytes], told: Any) -> None:
        sent.append(b"".join(commands))
        ask_then(self, commands, told)

    monkeypatch.setattr(RedisLink, "ask_then", spied)
    candidates = [{"ad_id": f"a{n % 50}", "campaign_id": f"c{n % 4}"} for n in range(200)]

    async def use(features: OnlineFeatures) -> None:
        sent.clear()
        await features.read(AS_OF, CONTEXT, candidates)

    _reading(demo, filled_redis, use)
    assert len(sent) == 1
    assert sent[0].count(b"HMGET") == 1 + 1 + 1 + 1 + 50 + 4 + 4  # clock, all, user, placement, ads, campaigns, user x campaign
    assert sent[0].split(b"HMGET")[1].endswith(hash_field(CLOCK, AS_OF_COLUMN) + b"\r\n*10\r\n$5\r\n")
