"""How new files become table rows: read, judge, deduplicate against the table, append, and last the audit.

Each write is one Delta commit, and each can be repeated: events by their identity, quarantine and audit by their file.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.contract import Contract, Files
from conf.errors import DataError
from conf.personal import IdKey
from jobs.events import (
    CLICK_COLUMNS,
    CLICK_TIMESTAMP,
    IMPRESSION_COLUMNS,
    REASON,
    click_events,
    first_of_each,
    impression_events,
    inline_clicks,
    needed_for_clicks,
    needed_for_impressions,
)
from jobs.reading import list_files, read_rows
from jobs.warehouse import Warehouse

_REASONS_SHOWN = 8


@dataclass(frozen=True)
class LogSource:
    """One of a contract's logs: its files, the table it feeds, and how its rows become events."""

    table: str
    files: Files
    needed: Sequence[str]
    events: Callable[[DataFrame], DataFrame]
    identity: tuple[str, ...]
    columns: tuple[str, ...]
    dated_by: str
    with_clicks: bool  # rows carry in-line clicks
    refused_limit: float


@dataclass(frozen=True)
class LogFile:
    path: str
    source_file: str
    length: int
    modified: datetime


def impression_source(contract: Contract, key: IdKey) -> LogSource:
    return LogSource(
        table="impressions",
        files=contract.impressions,
        needed=needed_for_impressions(contract),
        events=impression_events(contract, key),
        identity=("impression_id",),
        columns=(*IMPRESSION_COLUMNS, *contract.columns),
        dated_by="event_timestamp",
        with_clicks=contract.clicks.flag is not None,
        refused_limit=contract.limits.refused,
    )


def click_source(contract: Contract, key: IdKey) -> LogSource:
    files = contract.clicks.log
    if files is None:
        raise DataError(f"{contract.name}: its clicks are in-line, expected a click log")
    return LogSource(
        table="clicks",
        files=files,
        needed=needed_for_clicks(contract),
        events=click_events(contract, key),
        identity=("impression_id", CLICK_TIMESTAMP),
        columns=CLICK_COLUMNS,
        dated_by=CLICK_TIMESTAMP,
        with_clicks=False,
        refused_limit=contract.limits.refused,
    )


def new_files(warehouse: Warehouse, folder: str, source: LogSource) -> list[LogFile]:
    """Files that the audit does not have yet, by name. Raises DataError where there is no file at all."""
    there = list_files(warehouse.spark, folder, source.files)
    if there.isEmpty():
        raise DataError(f"{folder}: no file matches {source.files.files}, expected the {source.table} log")
    if warehouse.exists("audit"):
        done = warehouse.read("audit").where(F.col("log") == source.table)
        there = there.join(done, ["source_file", "length", "modified"], "left_anti")
    rows = there.select("path", "source_file", "length", "modified").orderBy("source_file").collect()
    return [LogFile(row.path, row.source_file, row.length, row.modified) for row in rows]


def take(warehouse: Warehouse, folder: str, source: LogSource, files: Sequence[LogFile]) -> Mapping[str, int]:
    """Ingest `files`; counts of files, raw, accepted, duplicates and refused. Raises DataError above the limit of refusals."""
    if not files:
        return {"files": 0, "raw": 0, "accepted": 0, "duplicates": 0, "refused": 0}
    rows = read_rows(warehouse.spark, folder, source.files, [file.path for file in files], source.needed)
    judged = rows.transform(source.events).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        _refuse_above_limit(judged, folder, source)
        _append_events(warehouse, judged.where(F.col(REASON).isNull()), source)
        _append_quarantine(warehouse, judged.where(F.col(REASON).isNotNull()), source)
        return _append_audit(warehouse, judged, source, files)
    finally:
        judged.unpersist()


def _refuse_above_limit(judged: DataFrame, folder: str, source: LogSource) -> None:
    by_reason = judged.groupBy(REASON).agg(F.count("*").alias("rows"), F.min("source_file").alias("example"))
    try:
        counts = by_reason.orderBy(F.desc("rows")).collect()  # one row a reason
    except PySparkException as error:
        raise DataError(f"{folder}/{source.files.files}: Spark cannot read it: {_first_line(error)}") from error
    total = sum(row.rows for row in counts)
    refused = [row for row in counts if row[REASON] is not None]
    if total == 0:
        raise DataError(f"{folder}/{source.files.files}: no row in any file, expected a log")
    share = sum(row.rows for row in refused) / total
    if share > source.refused_limit:
        said = "\n".join(f"  {row.rows:,} x {row[REASON]} (as in {row.example})" for row in refused[:_REASONS_SHOWN])
        raise DataError(
            f"{folder}/{source.files.files}: {share:.1%} of {total:,} rows refused, "
            f"expected at most {source.refused_limit:.1%} (limits.refused); nothing was taken:\n{said}"
        )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "does not conform" in line or "Header" in line]
    return (lines or str(error).splitlines() or [type(error).__name__])[0]


def _append_events(warehouse: Warehouse, accepted: DataFrame, source: LogSource) -> None:
    events = accepted.select(*source.columns, "source_file")
    _append_new(warehouse, source.table, events, source.identity, source.dated_by)
    if source.with_clicks:
        clicks = accepted.transform(inline_clicks)
        _append_new(warehouse, "clicks", clicks, ("impression_id", CLICK_TIMESTAMP), CLICK_TIMESTAMP)


def _append_new(warehouse: Warehouse, table: str, events: DataFrame, identity: tuple[str, ...], dated_by: str) -> None:
    fresh = events.transform(first_of_each(*identity))
    if warehouse.exists(table):
        fresh = fresh.join(warehouse.read(table).select(*identity), list(identity), "left_anti")
    columns = [F.col(name) for name in events.columns]
    warehouse.append(table, fresh.select(*columns, F.to_date(dated_by).alias("date")), partition_by=["date"])


def _append_quarantine(warehouse: Warehouse, refused: DataFrame, source: LogSource) -> None:
    rows = refused.select(F.lit(source.table).alias("log"), "source_file", "position", REASON, "row", F.col("arrived").alias("date"))
    if warehouse.exists("quarantine"):  # a killed run may have written them: one commit holds all of a file's
        there = warehouse.read("quarantine").select("log", "source_file").distinct()
        rows = rows.join(there, ["log", "source_file"], "left_anti").select(*rows.columns)
    warehouse.append("quarantine", rows, partition_by=["date"])


def _append_audit(
    warehouse: Warehouse, judged: DataFrame, source: LogSource, files: Sequence[LogFile]
) -> Mapping[str, int]:
    counted = judged.groupBy("source_file").agg(
        F.count("*").alias("raw"), F.count(REASON).alias("refused")
    )
    accepted = warehouse.read(source.table).groupBy("source_file").agg(F.count("*").alias("accepted"))
    listed = warehouse.spark.createDataFrame(
        [(file.source_file, file.length, file.modified) for file in files],
        "source_file string, length bigint, modified timestamp",
    )
    zero = {"raw": 0, "refused": 0, "accepted": 0}
    audit = listed.join(counted, "source_file", "left").join(accepted, "source_file", "left").fillna(zero)
    audit = audit.withColumn("duplicates", F.expr("raw - refused - accepted")).withColumn("log", F.lit(source.table))
    columns = ("log", "source_file", "length", "modified", "raw", "accepted", "duplicates", "refused")
    audit = audit.select(*columns).localCheckpoint()
    warehouse.append("audit", audit, partition_by=[])
    sums = audit.agg(*[F.sum(name).alias(name) for name in columns[4:]]).first()
    return {"files": len(files), **(sums.asDict() if sums else {})}
