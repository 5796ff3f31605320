"""The as-of join: for each row the newest row of each history that was there at the row's time. docs/asof.md describes it.

A history that is too big to broadcast shares its tasks with the left rows of its keys, the small ones are handed to every task
whole, and jobs/newest.py finds the rows of all of them in one pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructField, StructType

from jobs.newest import BUCKET, PACKED, SOURCE, Lookup, look_up, pack

BROADCAST_BYTES = 8 << 20  # of a history's estimated size; that of files is their compressed size
BUCKET_BYTES = 8 << 20  # of the same of a history in one bucket, whose rows of both sides are held in memory together
_FEWEST, _MOST = 2, 64  # buckets a partition, whatever the estimate


@dataclass(frozen=True)
class History:
    """Rows that hold from `time` on until the next of their key, but no longer than `ttl`.

    on: key columns, the same in both frames. created: settles rows of equal time, the newest wins. values: column of the
    history -> its name in the result; null where no row holds, or the key is null.
    """

    rows: DataFrame
    on: Sequence[str]
    time: str
    created: str
    values: Mapping[str, str]
    ttl: timedelta


def as_of_join(left: DataFrame, histories: Sequence[History], *, time: str) -> DataFrame:
    """`left` with the values of each history's newest row with history time <= left time < history time + ttl.

    Every left row comes back once, in no order. Cost: one shuffle of `left` and one pass of it through Arrow, in which all small
    histories are looked up and one that is not; one more of each for every further one. ValueError where columns do not fit.
    """
    for history in histories:
        _check(left, history, time)
    small = [history for history in histories if _is_small(history)]
    large: list[History | None] = [history for history in histories if history not in small]
    joined = left
    for one in large or [None] * bool(small):
        joined, small = _joined(joined, one, small, time), []
    return joined.select(*left.columns, *[name for history in histories for name in history.values.values()])


def _check(left: DataFrame, history: History, time: str) -> None:
    found, own = dict(left.dtypes), dict(history.rows.dtypes)
    for name in history.on:
        if found[name] != own[name]:
            raise ValueError(f"as_of_join: key {name} is {found[name]} on the left, {own[name]} in the history: cast one")
    for name, kind in ((time, found[time]), (history.time, own[history.time])):
        if kind != "timestamp":
            raise ValueError(f"as_of_join: {name} is {kind}, expected timestamp")
    if taken := sorted(set(history.values.values()) & set(left.columns)):
        raise ValueError(f"as_of_join: the left has {', '.join(taken)} already: give the history's values other names")


def _is_small(history: History) -> bool:
    """Whether every task can hold the history whole, by the optimizer's estimate; always where no key could split it."""
    return not history.on or _estimated_bytes(history.rows) <= BROADCAST_BYTES


def _estimated_bytes(rows: Any) -> int:
    return int(rows._jdf.queryExecution().optimizedPlan().stats().sizeInBytes())


def _buckets(spark: SparkSession, large: History | None) -> int:
    partitions = int(spark.conf.get("spark.sql.shuffle.partitions") or 1)
    wanted = _estimated_bytes(large.rows) // (partitions * BUCKET_BYTES) + 1 if large else 1
    return partitions * min(max(wanted, _FEWEST), _MOST)


def _joined(left: DataFrame, large: History | None, small: Sequence[History], time: str) -> DataFrame:
    """One pass of `left`: each bucket has some of its rows, the rows of `large` for their keys, and all of each of `small`."""
    buckets = _buckets(left.sparkSession, large)
    rows = [_in_bucket(_rows(large), [f"key{number}" for number in range(len(large.on))], "time", buckets)] if large else []
    every = F.explode(F.sequence(F.lit(0), F.lit(buckets - 1))).alias(BUCKET)
    for number, history in enumerate(small):
        packed = _rows(history).repartition(1).mapInArrow(pack(len(history.on)), f"{PACKED} binary")
        rows.append(packed.select(every, F.lit(number).alias(SOURCE), PACKED))
    right = reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), rows)
    lookups: list[Lookup] = []
    fields = list(left.schema.fields)
    for history in [*([large] if large else []), *small]:
        values = [StructField(name, history.rows.schema[column].dataType) for column, name in history.values.items()]
        source = None if history is large else len(lookups) - bool(large)
        ttl_us = history.ttl // timedelta(microseconds=1)
        lookups.append(Lookup(source, list(history.on), to_arrow_schema(StructType(values)), ttl_us))
        fields += values
    task = look_up(lookups, time=time)
    here = _in_bucket(left, large.on if large else [], time, buckets)
    return here.groupBy(BUCKET).cogroup(right.groupBy(BUCKET)).applyInArrow(task, StructType(fields))


def _in_bucket(rows: DataFrame, keys: Sequence[str], time: str, buckets: int) -> DataFrame:
    """With the bucket of the key; rows without one are spread by their time."""
    known = reduce(lambda one, other: one & other, [F.col(name).isNotNull() for name in keys], F.lit(bool(keys)))
    place = F.when(known, F.xxhash64(*keys)).otherwise(F.xxhash64(time)) if keys else F.xxhash64(time)
    return rows.select(F.pmod(place, F.lit(buckets)).cast("int").alias(BUCKET), *rows.columns)


def _rows(history: History) -> DataFrame:
    """Key columns, time in microseconds, created, values, by number; without the rows that no left row can meet."""
    chosen = [
        *[F.col(name).alias(f"key{number}") for number, name in enumerate(history.on)],
        F.unix_micros(history.time).alias("time"),
        F.col(history.created).alias("created"),
        *[F.col(name).alias(f"value{number}") for number, name in enumerate(history.values)],
    ]
    return history.rows.dropna(subset=[*history.on, history.time]).select(*chosen)
