"""What of a new batch the breaker holds back: counts from Spark, limits from the contract, judgement from jobs/breaker.py."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.contract import Contract
from jobs.admission import Hold, admitted, held, held_back
from jobs.breaker import TRAILING, HourCounts, alarms
from jobs.ingestion import CLICK_IDENTITY, Judged
from jobs.warehouse import Warehouse


def holds_of(warehouse: Warehouse, contract: Contract, found: Sequence[Judged], batch: int) -> list[Hold]:
    """The batch, or dates of it, with the reasons.

    Cost: where the contract limits volume, click rate or new categories, a count by hour of the tables' last four weeks and
    of the batch; the driver gets a row an hour.
    """
    limits = contract.limits
    holds = [
        Hold(batch, None, f"{one.source.table}: {one.refused_share:.1%} of the rows refused, "
             f"expected at most {limits.refused:.1%} (limits.refused):\n{one.reasons()}")
        for one in found if one.refused_share > limits.refused
    ]  # fmt: skip
    reasons: dict[date, list[str]] = {}
    spans = [span for one in found if (span := one.dates)]
    if spans and (limits.volume or limits.click_rate):
        first, last = min(span[0] for span in spans), max(span[1] for span in spans)
        hours, passed, days = _hour_counts(warehouse, found, (first, last), limits.redelivered)
        unknown = _held_hours(warehouse, first - TRAILING, last)
        reasons = alarms(hours, days, limits, passed=passed, unknown=unknown)
    if limits.new_category is not None:
        for day, said in _new_categories(warehouse, contract, found, limits.new_category):
            reasons.setdefault(day, []).append(said)
    return holds + [Hold(batch, day, "; ".join(said)) for day, said in sorted(reasons.items())]


def _hour_counts(
    warehouse: Warehouse, found: Sequence[Judged], span: tuple[date, date], redelivered: timedelta
) -> tuple[dict[datetime, HourCounts], datetime, set[date]]:
    """Counts of every hour of the tables and the batch together, how far the log has come, and the dates of its new events.

    span: the batch's first and last date; the tables count from the trailing days on.
    """
    first, last = span
    parts, known = [], []
    for table, time, identity in (
        ("impressions", "event_timestamp", ("impression_id",)),
        ("clicks", "click_timestamp", CLICK_IDENTITY),
    ):
        old = admitted(warehouse, table) if warehouse.exists(table) else None
        fresh = [rows for one in found if (rows := _events(one, table)) is not None]
        near = None if old is None else old.where(F.col("date").between(F.lit(first - TRAILING), F.lit(last)))
        for new, rows in [(False, near), *((True, rows) for rows in fresh)]:
            if rows is None:
                continue
            if new and old is not None:
                copies = F.col("date").between(F.lit(first - redelivered), F.lit(last + redelivered))
                rows = rows.join(warehouse.read(table).where(copies).select(*identity), list(identity), "left_anti")
            hour = F.date_trunc("hour", time)
            counted = rows.groupBy(hour.alias("hour")).agg(F.count("*").alias("n"), F.max("known_timestamp").alias("known"))
            parts.append(counted.select(F.unix_micros("hour").alias("hour"), F.lit(table).alias("table"), F.lit(new).alias("new"),
                                        "n", F.unix_micros("known").alias("known")))  # fmt: skip
    counts: dict[datetime, dict[str, int]] = {}
    days: set[date] = set()
    for part in parts:
        for row in part.collect():
            at = _utc(row.hour)
            of_hour = counts.setdefault(at, {"impressions": 0, "clicks": 0})
            of_hour[row.table] += row.n
            known.append(row.known)
            if row.new:
                days.add(at.date())
    passed = _utc(max(known, default=0))
    return {at: HourCounts(**n) for at, n in counts.items()}, passed - timedelta(microseconds=passed.microsecond), days


def _held_hours(warehouse: Warehouse, first: date, last: date) -> set[datetime]:
    if not warehouse.exists("impressions") or not held(warehouse):
        return set()
    rows = held_back(warehouse, "impressions").where(F.col("date").between(F.lit(first), F.lit(last)))
    hours = rows.select(F.unix_micros(F.date_trunc("hour", "event_timestamp")).alias("hour")).distinct()
    return {_utc(row.hour) for row in hours.collect()}


def _events(one: Judged, table: str) -> DataFrame | None:
    if table == "clicks":
        return one.clicks()
    return one.impressions() if one.source.table == "impressions" else None


def _new_categories(
    warehouse: Warehouse, contract: Contract, found: Sequence[Judged], limit: float
) -> list[tuple[date, str]]:
    """(date, reason) of each value of a category that no row had before that date and that takes more than `limit` of it.

    Admitted rows of the date itself count as before, so that a day that comes in parts is told once.
    """
    columns = [n for n, c in contract.columns.items() if c.type == "category" and not c.personal]
    ours = next((one for one in found if one.source.table == "impressions" and one.dates), None)
    if ours is None or not columns or not warehouse.exists("impressions"):
        return []
    first, last = ours.dates or (date.max, date.min)
    before = admitted(warehouse, "impressions").where(F.col("date").between(F.lit(first - TRAILING), F.lit(last)))
    if before.isEmpty():
        return []
    rows = ours.impressions().withColumn("date", F.to_date("event_timestamp"))
    of_day = rows.groupBy("date").agg(F.count("*").alias("of_day"))
    said = []
    for name in columns:
        value = F.col(name).alias("value")
        counted = rows.where(F.col(name).isNotNull()).groupBy("date", value).agg(F.count("*").alias("n")).join(of_day, "date")
        here = rows.groupBy(value).agg(F.min("date").alias("first_here"))
        there = before.groupBy(value).agg(F.min("date").alias("first_there"))
        large = counted.where(F.col("n") > limit * F.col("of_day")).join(here, "value").join(there, "value", "left")
        began = (F.col("date") == F.col("first_here")) & F.coalesce(F.col("first_there") > F.col("date"), F.lit(True))
        said += [
            (row.date, f"{name}: {row.value!r}, never seen before, takes {row.n / row.of_day:.0%}, "
             f"expected at most {limit:.0%} (limits.new_category)")
            for row in large.where(began).collect()
        ]  # fmt: skip
    return said


def _utc(micros: int) -> datetime:
    return datetime.fromtimestamp(micros // 1_000_000, UTC)


