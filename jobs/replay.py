"""End-to-end parity of a training set: its raw values against what serving would have found, counted again from the tables.

A value that knows more than its time, a table changed after it was joined, a join that crossed rows: all of them are a difference
here. The tables' rows are what `feast materialize` puts into Redis; that serving reads them alike, tests/system/test_parity.py
shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.command import Context
from jobs.features import raw_columns, with_counters
from jobs.touched import days_before


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
    usable_from = days_before(first, timedelta(hours=contract.window_hours[contract.longest_window]) + contract.publication_delay)
    usable = F.col("date").between(F.lit(usable_from), F.lit(last))
    features = with_counters(contract, lambda key: warehouse.read(warehouse.tables.counters(key)).where(usable))
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
    differing = [F.count_if(F.col("found") & ~F.col(n).eqNullSafe(F.col(f"served {n}"))).alias(n) for n in columns]
    found = both.agg(lost, *differing).collect()[0].asDict()
    chosen.unpersist()
    return Replay(count, {name: number for name, number in found.items() if number})
