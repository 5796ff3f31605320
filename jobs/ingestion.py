"""How new files become table rows: read, judge, add what the tables do not have, and last the audit.

Each write is one Delta commit, and each can be repeated: events are told by their identity, quarantine and audit by their file.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import reduce
from typing import Any, NamedTuple

from py4j.protocol import Py4JJavaError
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.errors import DataError
from jobs.damage import damaged_paths, read_past_damage
from jobs.events import (
    ARRIVED_AT,
    CLICK_TIMESTAMP,
    POSITION_OF_ROW,
    REASON,
    SAID,
    first_of_each,
    inline_clicks,
)
from jobs.log_sources import LogFile, LogSource
from jobs.reading import read_rows
from jobs.warehouse import Warehouse

_REASONS_SHOWN = 8
_AUDIT = (
    "batch bigint, log string, source_file string, length bigint, modified timestamp, raw bigint, accepted bigint, "
    "duplicates bigint, refused bigint, event_dates array<date>, known_hours array<timestamp>"
)
_SAME_FILE = "t.log = s.log AND t.source_file = s.source_file AND t.modified = s.modified"
CLICK_IDENTITY = ("impression_id", CLICK_TIMESTAMP)


class Verdict(NamedTuple):
    """How many rows of a file met which fate, and the dates of their events; reason None is good."""

    source_file: str
    reason: str | None
    rows: int
    first: date | None
    last: date | None


@dataclass(frozen=True)
class Judged:
    """New files of a log with every row's verdict: `rows` hold the events, and a reason where a row is refused."""

    source: LogSource
    files: Sequence[LogFile]
    rows: DataFrame
    verdicts: Sequence[Verdict]

    @property
    def accepted(self) -> DataFrame:
        return self.rows.where(F.col(REASON).isNull())

    @property
    def dates(self) -> tuple[date, date] | None:
        """The first and the last date of its accepted events."""
        good = [v for v in self.verdicts if v.reason is None and v.first and v.last]
        return (min(v.first for v in good if v.first), max(v.last for v in good if v.last)) if good else None

    def impressions(self) -> DataFrame:
        """Distinct accepted impressions, as the table has them; of the clicks' own log none."""
        return self.accepted.select(*self.source.columns, "source_file").transform(first_of_each(*self.source.identity))

    def clicks(self) -> DataFrame | None:
        """Distinct accepted clicks, as the table has them; None where this log has none."""
        if self.source.table == "clicks":
            return self.impressions()
        if not self.source.with_clicks:
            return None
        return self.accepted.transform(inline_clicks).transform(first_of_each(*CLICK_IDENTITY))

    @property
    def refused_share(self) -> float:
        total = sum(v.rows for v in self.verdicts)
        return sum(v.rows for v in self.verdicts if v.reason is not None) / total if total else 0.0

    def reasons(self) -> str:
        """The most frequent reasons, a line each, with a file that shows it."""
        count: Counter[str] = Counter()
        example: dict[str, str] = {}
        for verdict in self.verdicts:
            if verdict.reason is not None:
                count[verdict.reason] += verdict.rows
                example.setdefault(verdict.reason, verdict.source_file)
        return "\n".join(f"  {n:,} x {reason} (as in {example[reason]})" for reason, n in count.most_common(_REASONS_SHOWN))


def judged(warehouse: Warehouse, folder: str, source: LogSource, files: Sequence[LogFile]) -> Judged:
    """Read and judge `files`. Raises DataError for what Spark cannot read at all, and where a log begins with nothing good.

    Later a delivery of refused rows only is the breaker's affair: it is stored, and the files after it are taken.
    """
    where = f"{folder}/{source.files.files}"
    there = [file for file in files if file.length] or files[:1]
    try:
        rows, verdicts = _read(warehouse.spark, folder, source, there)
    except (PySparkException, Py4JJavaError) as error:
        raise DataError(f"{where}: Spark cannot read it: {_told(error)}") from error
    found = Judged(source, files, rows, verdicts)
    if found.dates or warehouse.exists(source.table):
        return found
    if not found.verdicts:
        raise DataError(f"{where}: no row in any file, expected a log")
    raise DataError(f"{where}: every row refused, nothing was taken; is the contract right?\n{found.reasons()}")


def _read(spark: SparkSession, folder: str, source: LogSource, files: Sequence[LogFile]) -> tuple[DataFrame, list[Verdict]]:
    """The judged rows with their verdicts; of damaged files what can be read, and a refused row for the rest."""
    paths = [file.path for file in files]
    try:
        return _with_verdicts(read_rows(spark, folder, source.files, paths, source.needed), source)
    except (PySparkException, Py4JJavaError):
        spoiled = set(damaged_paths(spark, source.files, paths))
        if not spoiled:
            raise
    damaged = [(file.path, file.source_file, file.modified) for file in files if file.path in spoiled]
    return _with_verdicts(read_past_damage(spark, folder, source.files, paths, source.needed, damaged), source)


def _with_verdicts(rows: DataFrame, source: LogSource) -> tuple[DataFrame, list[Verdict]]:
    """The judged rows, kept in memory or on disk as long as anybody knows them, and an entry for each file and reason.

    Reads every row once. A checkpoint, because a merge plans its source anew: it would not know rows that are merely persisted,
    and parse them all twice more.
    """
    judged_rows = rows.transform(source.events).localCheckpoint(storageLevel=StorageLevel.MEMORY_AND_DISK)
    day = F.when(F.col(REASON).isNull(), F.to_date(source.dated_by))  # a refused row's may be beyond what Python can hold
    counted = judged_rows.groupBy("source_file", REASON).agg(F.count("*"), F.min(day), F.max(day)).collect()
    return judged_rows, [Verdict(*row) for row in counted]


def _told(error: Exception) -> str:
    """The file and the cause out of Spark's trace."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if "while reading file" in line or line.startswith("Caused by:")]
    return "; ".join(dict.fromkeys(telling)) or lines[0]


def store(warehouse: Warehouse, found: Judged, batch: int, redelivered: timedelta) -> None:
    """Add a batch's events, which bear its number, and its refused rows."""
    if found.dates:
        rows = [(found.source.table, found.impressions(), found.source.identity, found.source.dated_by, found.dates)]
        if found.source.with_clicks and (clicks := found.clicks()) is not None:
            day = F.to_date(CLICK_TIMESTAMP)  # a click's own: it may lie far from its impression's
            first, last = clicks.agg(F.min(day), F.max(day)).collect()[0]
            rows.append(("clicks", clicks, CLICK_IDENTITY, CLICK_TIMESTAMP, (first, last) if first else found.dates))
        for table, events, identity, dated_by, (first, last) in rows:
            apart = redelivered if dated_by not in identity else timedelta(0)  # how far from its copy an event may be dated
            near = f"t.date >= '{first - apart}' AND t.date <= '{last + apart}'"
            same = " AND ".join([near, *(f"t.{name} = s.{name}" for name in identity)])
            numbered = events.select("*", F.lit(batch).cast("bigint").alias("batch"), F.to_date(dated_by).alias("date"))
            warehouse.add_new(table, numbered, same=same, partition_by=["date"])
    if any(verdict.reason for verdict in found.verdicts) or not warehouse.exists("quarantine"):
        _store_refused(warehouse, found)


def _store_refused(warehouse: Warehouse, found: Judged) -> None:
    log = F.lit(found.source.table).alias("log")
    said = [F.col(POSITION_OF_ROW).alias("position"), F.col(REASON).alias("reason"), F.col(SAID).alias("row")]
    modified, day = F.col(ARRIVED_AT).alias("modified"), F.to_date(ARRIVED_AT).alias("date")
    rows = found.rows.where(F.col(REASON).isNotNull()).select(log, "source_file", modified, *said, day)
    warehouse.add_new("quarantine", rows, same=_SAME_FILE, partition_by=["date"])


AuditRow = tuple[Any, ...]  # of _AUDIT


def audit_rows(warehouse: Warehouse, found: Sequence[Judged], batch: int) -> list[AuditRow]:
    """A row of `audit` for each file. Accepted ones are read back, so that a run which follows a killed one tells the same."""
    taken = _taken(warehouse, found)
    rows = []
    for one in found:
        raw, refused = Counter[str](), Counter[str]()
        for verdict in one.verdicts:
            raw[verdict.source_file] += verdict.rows
            refused[verdict.source_file] += verdict.rows if verdict.reason is not None else 0
        for file in one.files:
            name = file.source_file
            accepted, dates, hours = taken.get((one.source.table, name), (0, [], []))
            fates = (raw[name], accepted, raw[name] - refused[name] - accepted, refused[name])
            rows.append((batch, one.source.table, name, file.length, file.modified, *fates, dates, hours))
    return rows


def store_audit(warehouse: Warehouse, rows: Sequence[AuditRow]) -> None:
    """Say that the files are done, in one commit. UnavailableError: another machine's ingest has ended a batch of this number.

    Jobs below ask for batches after the one that they have seen: none may be added to behind their back.
    """
    warehouse.add_entries("audit", rows, _AUDIT, same="t.batch >= s.batch")


def counts_of(rows: Sequence[AuditRow], log: str) -> dict[str, int]:
    """Files, raw, accepted, duplicates and refused of one log."""
    mine = [row for row in rows if row[1] == log]
    sums = [sum(row[place] for row in mine) for place in range(5, 9)]
    return {"files": len(mine), **dict(zip(("raw", "accepted", "duplicates", "refused"), sums, strict=True))}


def _taken(warehouse: Warehouse, found: Sequence[Judged]) -> dict[tuple[str, str], tuple[int, list[date], list[datetime]]]:
    """By log and file: events in its table, dates of them and of clicks that they carry, hours in which they became known.

    A file's own are those of batches after the last one that the audit has for its name: a run that was killed, or lost against
    another machine's, stored rows under a number that may have ended without it.
    """
    parts = []
    for one in found:
        names = [file.source_file for file in one.files]
        before = _last_batches(warehouse, one.source.table, names)
        tables = [one.source.table, *(["clicks"] if one.source.with_clicks else [])] if one.dates else []
        for table in tables:
            mine = warehouse.read(table).where(F.col("source_file").isin(names))
            mine = mine.join(F.broadcast(before), "source_file", "left")
            mine = mine.where(F.col("batch") > F.coalesce("last_batch", F.lit(0)))
            if table == one.source.table and one.dates:
                mine = mine.where(F.col("date").between(*[F.lit(day) for day in one.dates]))
            own, hour = F.lit(table == one.source.table).alias("own"), F.date_trunc("hour", "known_timestamp").alias("hour")
            parts.append(mine.select(F.lit(one.source.table).alias("log"), "source_file", own, "date", hour))
    if not parts:
        return {}
    sums = reduce(DataFrame.union, parts).groupBy("log", "source_file").agg(
        F.count_if("own"), F.collect_set("date"), F.collect_set("hour")
    )  # fmt: skip
    return {(row[0], row[1]): (row[2], sorted(row[3]), sorted(row[4])) for row in sums.collect()}


def _last_batches(warehouse: Warehouse, log: str, names: Sequence[str]) -> DataFrame:
    """(source_file, last_batch) of those of the files that the audit has, as they were before."""
    if not warehouse.exists("audit"):
        return warehouse.spark.createDataFrame([], "source_file string, last_batch bigint")
    mine = warehouse.read("audit").where((F.col("log") == log) & F.col("source_file").isin(list(names)))
    return mine.groupBy("source_file").agg(F.max("batch").alias("last_batch"))
