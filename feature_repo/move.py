"""Move one view: the newest rows of an interval from its Delta table into Redis, by Spark's workers."""

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from feast import FeatureView
from pyspark.sql import DataFrame, SparkSession

from feature_repo import redis_writer as writer
from feature_repo.redis_layout import REDIS_KEY
from feature_repo.redis_writer import HELD_SCHEMA, KEY_SCHEMA, TALLY, TALLY_SCHEMA, Plan, Tally
from feature_repo.view_source import distinct_keys, newest, source_rows

EVERYTHING = datetime(1970, 1, 1, tzinfo=UTC)  # an interval from here on is full: keys without a row leave Redis


def move(spark: SparkSession, view: FeatureView, plan: Plan, start: datetime, end: datetime) -> Tally:
    """Write the newest rows; of a full interval remove the keys that have none."""
    shared = replace(plan, rows_per_s=plan.rows_per_s / spark.sparkContext.defaultParallelism)
    rows = source_rows(spark, view, start, end)
    done = _sum(rows.transform(newest(view, plan.layout)).mapInArrow(partial(writer.write_rows, shared), TALLY_SCHEMA))
    if start <= EVERYTHING:
        keys = rows.transform(distinct_keys(plan.layout)).mapInArrow(partial(writer.encode_keys, plan.layout), KEY_SCHEMA)
        held = spark.range(0, 1, 1, 1).mapInArrow(partial(writer.scan_keys, shared), HELD_SCHEMA).distinct()
        orphans = held.join(keys, REDIS_KEY, "left_anti")
        done.removed += _sum(orphans.mapInArrow(partial(writer.remove_keys, shared), TALLY_SCHEMA)).removed
    return done


def _sum(tallies: DataFrame) -> Tally:
    """What the workers did together. Raises what stopped one of them."""
    total = Tally()
    for tally in (Tally.read(row[TALLY]) for row in tallies.collect()):
        if tally.error:
            raise tally.as_error()
        total.written += tally.written
        total.removed += tally.removed
        total.newer += tally.newer
    return total
