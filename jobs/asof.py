"""The as-of join: for each row the newest row of each history that was there at the row's time.

Every left row comes back exactly once, whatever it shares with others: a history is first cut into intervals that do not
overlap, so an equi-join on key and day with the interval as its condition finds at most one of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import reduce

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

_DAY_US = 86_400_000_000


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

    Cost: for each history one sort of it by key, and one join of `left` on key and day; a history row is repeated for every
    day it holds, at most ttl in days + 1 times.
    """
    return reduce(lambda rows, history: _join_one(rows, history, time), histories, left)


def _join_one(left: DataFrame, history: History, time: str) -> DataFrame:
    intervals = _intervals(history)
    moment = F.unix_micros(time)
    on = F.floor(moment / F.lit(_DAY_US)) == F.col("__day")
    for column in history.on:
        on = on & (left[column] == intervals[f"__{column}"])
    on = on & (moment >= F.col("__from")) & (moment < F.col("__to"))
    values = [F.col(f"__value_{name}").alias(name) for name in history.values.values()]
    return left.join(intervals, on, "left").select(*[left[name] for name in left.columns], *values)


def _intervals(history: History) -> DataFrame:
    """Non-overlapping intervals [__from, __to) in microseconds, one row for each day that an interval touches."""
    ttl_us = history.ttl // timedelta(microseconds=1)
    rows = history.rows.dropna(subset=list(history.on)) if history.on else history.rows
    by_key = Window.partitionBy(*history.on).orderBy(history.time, history.created)
    start, following = F.unix_micros(history.time), F.unix_micros(F.lead(history.time).over(by_key))
    cut = rows.select(
        *[F.col(name).alias(f"__{name}") for name in history.on],
        start.alias("__from"),
        F.least(following, start + F.lit(ttl_us)).alias("__to"),  # least skips the null after the last row
        *[F.col(source).alias(f"__value_{name}") for source, name in history.values.items()],
    )
    # of equal times all but the last end where they begin: nothing to join
    held = cut.where(F.col("__from") < F.col("__to"))
    first, last = F.floor(F.col("__from") / F.lit(_DAY_US)), F.floor((F.col("__to") - 1) / F.lit(_DAY_US))
    return held.withColumn("__day", F.explode(F.sequence(first, last)))
