"""Count impressions and clicks of every key, by hour, over the contract's windows, and write the clock.

Events are counted by the time they became known, so a late click never changes an hour that was published. Tables
`counters_<key>` hold a row for each hour with an event or an expiry; `clock` one for each full hour that the log is known to have
passed. Counters are rebuilt from the first date that ingest has touched since the last run, each table in one commit, the clock
last; `--full` rebuilds everything, and ends in the same rows.

Cost: reads the events from the longest window before that date on; for each key one aggregation by key and hour and one shuffle
of its hours. No task gets more than a key's hours, however busy the key.

    spark-submit jobs/count.py --contract conf/contracts/demo.yaml
"""

import argparse
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from functools import cache

from pyspark import StorageLevel, inheritable_thread_target
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.contract import ALL_KEY, AS_OF, CLOCK, HOUR, SCOPE, Contract
from conf.errors import DataError
from jobs.admission import admitted
from jobs.attribution import counted_clicks, log_time, newest_known
from jobs.command import Context, job_parser, log, run_job
from jobs.counters import events_of, windowed_counters
from jobs.label import moment
from jobs.touched import known_hour_touched, seen_now
from jobs.warehouse import EVERYTHING, Warehouse


def count(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Write `counters_<key>` of every key and `clock`; counts of events read and of rows of each table."""
    warehouse, contract = context.warehouse, context.contract
    seen = seen_now(warehouse)  # before the events: what an ingest adds in between, the next run takes up
    impressions, clicks = admitted(warehouse, "impressions"), admitted(warehouse, "clicks")
    newest = newest_known(impressions, clicks)
    if newest is None:
        raise DataError("impressions: no row is admitted, expected at least one: see the table holds, and jobs/release.py")
    tables = {warehouse.tables.counters(key): key for key in contract.counted_keys}
    since = _since(warehouse, tables, full=getattr(args, "full", False))
    counts: dict[str, int] = {}
    if begin := min((day for day in since.values() if day is not None), default=None):
        log.info("count: %s", "all hours" if begin == EVERYTHING else f"from {begin} on")
        events = recent_events(impressions, clicks, contract, begin).persist(StorageLevel.MEMORY_AND_DISK)
        counts["events"] = events.count()

        def write(table: str) -> int:
            columns, start = contract.counted_keys[tables[table]], since[table] or begin
            rule = windowed_counters(columns, contract.window_hours, publication_delay=contract.publication_delay)
            rows = events.transform(rule).where(F.col("date") >= F.lit(start))
            rows = rows if columns else rows.withColumn(SCOPE, F.lit(ALL_KEY))
            written = warehouse.replace(table, rows, partition_by=["date"], since=start, note=seen)
            log.info("count: %s %d rows", table, written)
            return written

        # small keys leave cores idle while Delta commits: two at a time
        with ThreadPoolExecutor(max_workers=2) as pool:
            written = list(pool.map(inheritable_thread_target(warehouse.spark)(write), tables))
        events.unpersist()
        if begin == EVERYTHING:
            counts |= dict(zip(tables, written, strict=True))
    else:
        log.info("count: nothing new since the last run")
    _write_clock(context, args.as_of or log_time(newest, contract.label))
    return counts | {table: warehouse.count(table) for table in (*tables, CLOCK) if table not in counts}


def recent_events(impressions: DataFrame, clicks: DataFrame, contract: Contract, since: date) -> DataFrame:
    """Impressions and counted clicks that counters of `since` and later know of: known from the longest window before it on."""
    columns = list(dict.fromkeys(column for key in contract.keys.values() for column in key))
    rule = contract.label
    if since == EVERYTHING:
        return impressions.transform(events_of(impressions.transform(counted_clicks(clicks, rule)), columns))
    midnight = datetime(since.year, since.month, since.day, tzinfo=UTC)
    known_from = midnight - timedelta(hours=contract.window_hours[contract.longest_window] + 1)
    # an earlier impression may still get a click that becomes known later
    open_from = known_from - rule.attribution_window - rule.allowed_lateness
    recent = impressions.where((F.col("known_timestamp") >= F.lit(known_from)) | (F.col("event_timestamp") >= F.lit(open_from)))
    first = recent.agg(F.min("date")).collect()[0][0] or since
    theirs = clicks.where(F.col("date") >= F.lit(first - timedelta(days=1)))  # by the clocks' skew a click may come before
    events = recent.transform(events_of(recent.transform(counted_clicks(theirs, rule)), columns))
    return events.where(F.col("known_timestamp") >= F.lit(known_from))


def _since(warehouse: Warehouse, tables: Iterable[str], *, full: bool) -> dict[str, date | None]:
    """The first date to rebuild of each counter table, None for none."""

    @cache  # the tables have mostly seen the same
    def touched(batch: int, entry: int) -> date | None:
        hour = known_hour_touched(warehouse, {"batch": batch, "entry": entry})
        return hour.date() if hour else None

    notes = {table: {} if full else warehouse.note(table) for table in tables}
    return {table: touched(note["batch"], note["entry"]) if note else EVERYTHING for table, note in notes.items()}


def _write_clock(context: Context, as_of: datetime) -> None:
    """Rewrite the clock where it has gone on: from the first counted hour, which every event has a part in, to `as_of`."""
    warehouse = context.warehouse

    def seconds(table: str) -> tuple[int | None, int | None]:
        first, last = warehouse.read(table).agg(F.min(F.unix_seconds("hour")), F.max(F.unix_seconds("hour"))).collect()[0]
        return first, last

    first, _ = seconds(warehouse.tables.counters(ALL_KEY))
    if warehouse.exists(CLOCK) and seconds(CLOCK) == (first, int(as_of.timestamp()) // 3600 * 3600):
        return
    start = datetime.fromtimestamp(first, UTC) if first is not None else as_of
    clock = clock_rows(warehouse.spark, start, as_of, context.contract.publication_delay)
    warehouse.replace(CLOCK, clock, partition_by=[], note={"as_of": as_of.isoformat()})


def clock_rows(spark: SparkSession, oldest: datetime, as_of: datetime, delay: timedelta) -> DataFrame:
    """One row for each full hour from `oldest` to `as_of`: the hour, when it is published, and that time in microseconds."""
    newest = as_of.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    hours = spark.range(int(oldest <= newest)).select(
        F.explode(F.sequence(F.lit(oldest), F.lit(newest), F.lit(HOUR))).alias("hour")
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
    parser.add_argument("--full", action="store_true", help="rebuild all hours")
    return parser


if __name__ == "__main__":
    sys.exit(run_job("count", count, parser()))
