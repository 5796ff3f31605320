"""A request's raw values: its own columns, and the counters of all its keys from Redis in one round trip."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from conf.canonical import canonical_text
from conf.contract import AS_OF, CLOCK, Contract
from conf.errors import ClickoddsError
from conf.personal import IdKey
from feature_repo.catalogue import EVENT_TIMESTAMP, raw_counter, raw_schema
from serving.feast_layout import LayoutError, decode_int64, hash_field, redis_key
from serving.freshness import Freshness, Reason, judge_clock

_LAST_SEEN = ("last_impression_us", "last_click_us")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

RequestValue = str | int | float | bool | None
RawValue = str | float | None  # a column of a row: canonical text, digest or number
Counters = tuple[int | None, ...]  # in the order of contract.counter_columns
Lookup = tuple[str, tuple[str, ...]]  # a key's name and the values of its columns

log = logging.getLogger("clickodds.serving")


@dataclass(frozen=True)
class RawFeatures:
    """Raw values of a request, a batch of `raw_schema` with a row for each candidate in order, and how good they are."""

    batch: pa.RecordBatch
    freshness: Freshness


class OnlineFeatures:
    """Reads what `feast materialize` wrote for a contract. Never raises for what Redis does or holds: it says why instead.

    timeout: of a whole request's reading. max_age: of the clock; see serving/freshness.py.
    """

    def __init__(self, contract: Contract, id_key: IdKey, redis: Redis, *, timeout: timedelta, max_age: timedelta) -> None:
        self._contract = contract
        self._id_key = id_key
        self._redis = redis
        self._timeout_s = timeout.total_seconds()
        self._max_age = max_age
        self._fields = {key: [hash_field(key, c) for c in contract.counter_columns] for key in contract.counted_keys}
        self._clock = (redis_key(contract.name, {}), [hash_field(CLOCK, AS_OF)])
        self._unavailable: Counters = (None,) * len(contract.counter_columns)
        self._new: Counters = tuple(None if c in _LAST_SEEN else 0 for c in contract.counter_columns)
        self._trouble: Reason | None = None

    async def read(
        self, time: datetime, context: Mapping[str, RequestValue], candidates: Sequence[Mapping[str, RequestValue]]
    ) -> RawFeatures:
        """Raw values at `time` (aware) of a checked request; a column that is not there is missing."""
        time_us = (time - _EPOCH) // _MICROSECOND
        shared = self._canonical(context)
        rows = [shared | self._canonical(candidate) for candidate in candidates]
        wanted = [[self._lookup(key, row) for key in self._contract.counted_keys] for row in rows]
        found: dict[Lookup, Counters] = {}
        try:
            as_of_us, found = await self._fetch(dict.fromkeys(lookup for row in wanted for lookup in row if lookup is not None))
            freshness = judge_clock(as_of_us, time_us, max_age=self._max_age)
            self._log_change(None)
        except LayoutError as error:
            freshness = Freshness(False, Reason.FEATURES_UNREADABLE)
            self._log_change(freshness.reason, str(error))
        except (RedisError, OSError) as error:  # the builtin TimeoutError is an OSError
            freshness = Freshness(False, Reason.REDIS_UNAVAILABLE)
            self._log_change(freshness.reason, str(error) or type(error).__name__)
        if not freshness.usable:
            found = {}
        counters = [[self._unavailable if x is None else found.get(x, self._unavailable) for x in row] for row in wanted]
        return RawFeatures(self._batch(time_us, rows, counters), freshness)

    async def close(self) -> None:
        await self._redis.aclose()

    def _canonical(self, values: Mapping[str, RequestValue]) -> dict[str, RawValue]:
        return {name: self._raw_value(name, value) for name, value in values.items()}

    def _raw_value(self, name: str, value: RequestValue) -> RawValue:
        column = self._contract.columns[name]
        if column.type == "number":
            return None if value is None else float(value)
        if isinstance(value, float):
            raise TypeError(f"{name}: found a float, expected text, an integer or a boolean")
        text = canonical_text(value)
        return self._id_key.digest(text) if text is not None and column.personal else text

    def _lookup(self, key: str, row: Mapping[str, RawValue]) -> Lookup | None:
        """What to look up for a row's key; None where one of its columns is missing, so that there is no such key."""
        values = [row.get(column) for column in self._contract.counted_keys[key]]
        texts = tuple(value for value in values if isinstance(value, str))
        return (key, texts) if len(texts) == len(values) else None

    async def _fetch(self, lookups: Mapping[Lookup, None]) -> tuple[int | None, dict[Lookup, Counters]]:
        """The clock and each lookup's counters. Raises RedisError, OSError or LayoutError."""
        async with asyncio.timeout(self._timeout_s), self._redis.pipeline(transaction=False) as typed_pipe:
            pipe: Any = typed_pipe  # redis-py's types know no binary keys
            # The clock is written last, so it is read first: counters read after it are at least as new as it says.
            pipe.hmget(*self._clock)
            for key, values in lookups:
                entity = dict(zip(self._contract.counted_keys[key], values, strict=True))
                pipe.hmget(redis_key(self._contract.name, entity), self._fields[key])
            (as_of,), *rows = await pipe.execute()
        found = {lookup: self._counters(row) for lookup, row in zip(lookups, rows, strict=True)}
        return decode_int64(as_of), found

    def _counters(self, fields: Sequence[bytes | None]) -> Counters:
        if all(field is None for field in fields):
            return self._new
        return tuple(decode_int64(field) for field in fields)

    def _batch(
        self, time_us: int, rows: Sequence[Mapping[str, RawValue]], counters: Sequence[Sequence[Counters]]
    ) -> pa.RecordBatch:
        columns: dict[str, list[int | RawValue]] = {EVENT_TIMESTAMP: [time_us] * len(rows)}
        for name in self._contract.columns:
            columns[name] = [row.get(name) for row in rows]
        for k, key in enumerate(self._contract.counted_keys):
            for c, counter in enumerate(self._contract.counter_columns):
                columns[raw_counter(key, counter)] = [row[k][c] for row in counters]
        schema = raw_schema(self._contract)
        return pa.record_batch([pa.array(columns[field.name], field.type) for field in schema], schema=schema)

    def _log_change(self, trouble: Reason | None, why: str = "") -> None:
        """Say it once: when Redis is away every request finds out."""
        if trouble != self._trouble:
            log.warning("%s", f"{trouble}: {why}" if trouble else "online features are back")
        self._trouble = trouble


def connect_redis(address: str, *, timeout: timedelta) -> Redis:
    """A client of `host:port`; it connects when first asked, and never retries: an answer without counters comes sooner."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ClickoddsError(f"settings: redis: found {address!r}, expected host:port")
    seconds = timeout.total_seconds()
    retry = Retry(NoBackoff(), 0)
    return Redis(host=host, port=int(port), socket_timeout=seconds, socket_connect_timeout=seconds, retry=retry)
