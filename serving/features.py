"""A request's raw values for the plain route: its own columns, and the counters of all its keys in one round trip to Redis."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from conf.contract import AS_OF, CLOCK, LAST_SEEN, Contract
from conf.personal import IdKey
from feature_repo.catalogue import EVENT_TIMESTAMP, raw_counter, raw_schema
from feature_repo.redis_layout import LayoutError, decode_int64, hash_field, redis_key
from serving.canonical import RawValue, RequestValue, raw_text
from serving.freshness import Freshness, Reason, judge_clock
from serving.key_reader import clock_command, decode_clock
from serving.logs import Seldom
from serving.redis_link import RedisReader, command

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

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

    max_age: of the clock; see serving/freshness.py.
    """

    def __init__(self, contract: Contract, id_key: IdKey, reader: RedisReader, *, max_age: timedelta) -> None:
        self._contract = contract
        self._texts = {name: raw_text(contract, id_key, name) for name, c in contract.columns.items() if c.type != "number"}
        self._reader = reader
        self._max_age = max_age
        self._fields = {key: [hash_field(key, c) for c in contract.counter_columns] for key in contract.counted_keys}
        self._used = [n for n, c in enumerate(contract.counter_columns) if c not in LAST_SEEN]
        self._clock = clock_command(contract.name, CLOCK, AS_OF)
        self._unavailable: Counters = (None,) * len(contract.counter_columns)
        self._new: Counters = tuple(None if c in LAST_SEEN else 0 for c in contract.counter_columns)
        self._unreadable = Seldom(log)

    async def read(
        self,
        time: datetime,
        context: Mapping[str, RequestValue],
        candidates: Sequence[Mapping[str, RequestValue]],
        seconds: float = math.inf,
    ) -> RawFeatures:
        """Raw values at `time` (aware) of a checked request; a column that is not there is missing.

        seconds: what Redis has for its answer, if less than what it has for everybody's.
        """
        time_us = (time - _EPOCH) // _MICROSECOND
        shared = self._canonical(context)
        rows = [shared | self._canonical(candidate) for candidate in candidates]
        wanted = [[self._lookup(key, row) for key in self._contract.counted_keys] for row in rows]
        lookups = list(dict.fromkeys(lookup for row in wanted for lookup in row if lookup is not None))
        found: dict[Lookup, Counters] = {}
        # The clock is written last, so it is read first: counters read after it are at least as new as it says.
        replies = await self._reader.ask([self._clock, *map(self._command, lookups)], seconds)
        if isinstance(replies, Reason):
            freshness = Freshness(False, replies)
        else:
            try:
                freshness = judge_clock(decode_clock(replies[0]), time_us, max_age=self._max_age)
                found = {lookup: self._counters(reply) for lookup, reply in zip(lookups, replies[1:], strict=True)}
            except LayoutError as error:
                freshness = Freshness(False, Reason.FEATURES_UNREADABLE)
                self._unreadable.warning("%s: %s", freshness.reason, error)
        if not freshness.usable:
            found = {}
        counters = [[self._unavailable if x is None else found.get(x, self._unavailable) for x in row] for row in wanted]
        return RawFeatures(self._batch(time_us, rows, counters), freshness)

    def _canonical(self, values: Mapping[str, RequestValue]) -> dict[str, RawValue]:
        return {name: self._raw_value(name, value) for name, value in values.items()}

    def _raw_value(self, name: str, value: RequestValue) -> RawValue:
        if (text := self._texts.get(name)) is None:
            return None if value is None else float(value)
        if isinstance(value, float):
            raise TypeError(f"{name}: found a float, expected text, an integer or a boolean")
        return text(value)

    def _lookup(self, key: str, row: Mapping[str, RawValue]) -> Lookup | None:
        """What to look up for a row's key; None where one of its columns is missing, so that there is no such key."""
        values = [row.get(column) for column in self._contract.counted_keys[key]]
        texts = tuple(value for value in values if isinstance(value, str))
        return (key, texts) if len(texts) == len(values) else None

    def _command(self, lookup: Lookup) -> bytes:
        key, values = lookup
        entity = dict(zip(self._contract.counted_keys[key], values, strict=True))
        return command("HMGET", redis_key(self._contract.name, entity), *self._fields[key])

    def _counters(self, reply: Any) -> Counters:
        if type(reply) is not list:
            raise LayoutError(f"found {reply}, expected a hash")
        if all(reply[place] is None for place in self._used):
            return self._new
        return tuple(decode_int64(field) for field in reply)

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
