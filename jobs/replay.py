"""End-to-end parity of a training set: its raw values against what serving would have found, counted again from the tables.

A value that knows more than its time, a table changed after it was joined, a join that crossed rows: all of them are a difference
here. The tables' rows are what `feast materialize` puts into Redis; that serving reads them alike, tests/system/test_parity.py
shows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.contract import AS_OF, LAST_SEEN
from feature_repo.catalogue import EVENT_TIMESTAMP, raw_counter
from jobs.command import Context
from jobs.features import counters_usable, raw_columns, with_counters


@dataclass(frozen=True)
class Replay:
    """rows: how many were replayed. different: column -> how many of them had another value; impressions that are not there."""

    rows: int
    different: Mapping[str, int]


def replay(context: Context, rows: DataFrame, sample: int) -> Replay:
    """Build the raw values of `sample` rows of a training set again, chosen by the id's hash, and compare each to the bit.

    Cost: one as-of join of the sample with the counters of its days and the longest window before.
    """
    warehouse, contract = context.warehouse, context.contract
    chosen = rows.orderBy(F.xxhash64(F.lit("replay"), "impression_id"), "impression_id").limit(sample).persist()
    count, first, last = chosen.agg(F.count("*"), F.min("date"), F.max("date")).collect()[0]
    if not count:
        chosen.unpersist()
        return Replay(0, {})
    features = with_counters(contract, counters_usable(warehouse, contract, first, last))
    ids = chosen.select("impression_id", "date", F.lit(True).alias("found"))
    impressions = warehouse.read("impressions").where(F.col("date").between(F.lit(first), F.lit(last)))
    again = impressions.join(F.broadcast(ids), ["impression_id", "date"]).select(
        "impression_id", "found", "event_timestamp", *contract.columns
    )
    columns = raw_columns(contract)
    renamed = [F.col(name).alias(f"served {name}") for name in columns]
    served = again.transform(features).select("impression_id", "found", *renamed)
    both = chosen.join(served, "impression_id", "left")
    lost = F.count_if(F.col("found").isNull()).alias("impressions")
    found = both.agg(lost, *_differing(columns, where=F.col("found"))).collect()[0].asDict()
    chosen.unpersist()
    return Replay(count, {name: number for name, number in found.items() if number})


def replay_served(context: Context, rows: DataFrame, sample: int) -> tuple[Replay, DataFrame]:
    """The same of rows of `predictions`, against the counters as published by the clock that each was answered with.

    Also returns the rows as the batch path builds them, persisted: `margin`, `model_identity` and raw values. Left out are rows
    that were answered without counters, and last-seen times: no feature asks for them, so a server need not read them.
    """
    warehouse, contract = context.warehouse, context.contract
    order = F.xxhash64(F.lit("replay"), "source_file", "request_id", "candidate_number")
    chosen = rows.where(F.col(AS_OF).isNotNull()).orderBy(order, "source_file", "request_id", "candidate_number").limit(sample)
    columns = raw_columns(contract)
    own = [F.col(name).alias(f"served {name}") for name in columns]
    clock = F.timestamp_micros(AS_OF)
    asked = chosen.select("margin", "model_identity", *own, clock.alias(EVENT_TIMESTAMP), *contract.columns).persist()
    day = F.to_date(EVENT_TIMESTAMP)
    count, first, last = asked.agg(F.count("*"), F.min(day), F.max(day)).collect()[0]
    if not count:
        return Replay(0, {}), asked
    features = with_counters(contract, counters_usable(warehouse, contract, first, last))
    again = asked.transform(features).withColumn(EVENT_TIMESTAMP, F.col(f"served {EVENT_TIMESTAMP}")).persist()
    last_seen = {raw_counter(key, name) for key in contract.counted_keys for name in LAST_SEEN}
    found = again.agg(*_differing([name for name in columns if name not in last_seen])).collect()[0].asDict()
    asked.unpersist()
    return Replay(count, {name: number for name, number in found.items() if number}), again


def _differing(columns: Sequence[str], where: Column | None = None) -> list[Column]:
    """Of each column the number of rows in which it is not what was served."""
    different = {name: ~F.col(name).eqNullSafe(F.col(f"served {name}")) for name in columns}
    return [F.count_if(one if where is None else where & one).alias(name) for name, one in different.items()]
