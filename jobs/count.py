"""Count impressions and clicks of every key, by hour, over the contract's windows, and write the clock.

Events are counted by the time they became known, so a late click never changes an hour that was published. Tables
`counters_<key>` hold a row for each hour with an event or an expiry; `clock` one for each full hour that the log is known to have
passed. Both are made anew, each in one commit, the clock last.

Cost: for each key one shuffle of the events by that key.

    spark-submit jobs/count.py --contract conf/contracts/demo.yaml
"""

import argparse
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from pyspark import StorageLevel, inheritable_thread_target
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.contract import ALL_KEY, AS_OF, CLOCK, HOUR, SCOPE
from conf.errors import DataError
from jobs.attribution import counted_clicks, log_time, newest_known
from jobs.command import Context, job_parser, log, run_job
from jobs.counters import events_of, first_hour, windowed_counters
from jobs.label import moment


def count(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Write `counters_<key>` of every key and `clock`; counts of events and of rows of each table."""
    warehouse, contract = context.warehouse, context.contract
    impressions, clicks = warehouse.read("impressions"), warehouse.read("clicks")
    newest = newest_known(impressions, clicks)
    if newest is None:
        raise DataError("impressions: the table is empty, expected at least one impression")
    columns = list(dict.fromkeys(column for key in contract.keys.values() for column in key))
    counted = impressions.transform(counted_clicks(clicks, contract.label))
    events = impressions.transform(events_of(counted, columns)).persist(StorageLevel.MEMORY_AND_DISK)
    said = events.agg(F.count("*"), F.min(first_hour())).first()
    n_events, oldest = said if said else (0, None)

    def write(key: str) -> int:
        table, key_columns = warehouse.tables.counters(key), contract.counted_keys[key]
        rule = windowed_counters(key_columns, contract.window_hours, publication_delay=contract.publication_delay)
        rows = events.transform(rule)
        written = warehouse.replace(
            table, rows if key_columns else rows.withColumn(SCOPE, F.lit(ALL_KEY)), partition_by=["date"]
        )
        log.info("count: %s %d rows", table, written)
        return written

    # small keys leave cores idle while Delta commits: two at a time
    with ThreadPoolExecutor(max_workers=2) as pool:
        written = list(pool.map(inheritable_thread_target(warehouse.spark)(write), contract.counted_keys))
    events.unpersist()
    last = args.as_of or log_time(newest, contract.label)
    start = datetime.fromtimestamp(oldest * 3600, UTC) if oldest else last
    clock = clock_rows(warehouse.spark, start, last, contract.publication_delay)
    tables = dict(zip(map(warehouse.tables.counters, contract.counted_keys), written, strict=True))
    return {"events": n_events, **tables, CLOCK: warehouse.replace(CLOCK, clock, partition_by=[])}


def clock_rows(spark: SparkSession, oldest: datetime, as_of: datetime, delay: timedelta) -> DataFrame:
    """One row for each full hour from `oldest` to `as_of`: the hour, when it is published, and that time in microseconds."""
    hours = spark.range(1).select(
        F.explode(F.sequence(F.lit(oldest), F.date_trunc("hour", F.lit(as_of)), F.lit(HOUR))).alias("hour")
    )
    published = F.col("hour") + F.lit(delay)
    return hours.select(
        "hour",
        published.alias("published_at"),
        published.alias("created"),
        F.unix_micros(published).alias(AS_OF),
        F.lit(ALL_KEY).alias(SCOPE),
    )


def parser() -> argparse.ArgumentParser:
    parser = job_parser(__doc__)
    parser.add_argument("--as-of", type=moment, metavar="TIME", help="how far the log's clock has come (ISO 8601)")
    return parser


if __name__ == "__main__":
    sys.exit(run_job("count", count, parser()))
