"""How new files become table rows: read, judge, deduplicate against the table, append, and last the audit.

Each write is one Delta commit, and each can be repeated: events by their identity, quarantine and audit by their file.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from py4j.protocol import Py4JJavaError
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.contract import Contract, Files
from conf.errors import DataError
from conf.personal import IdKey
from jobs.damage import damaged_paths, read_past_damage
from jobs.events import (
    ARRIVED_ON,
    CLICK_COLUMNS,
    CLICK_TIMESTAMP,
    IMPRESSION_COLUMNS,
    POSITION_OF_ROW,
    REASON,
    SAID,
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
_AUDIT = (
    "log string, source_file string, length bigint, modified timestamp, "
    "raw bigint, accepted bigint, duplicates bigint, refused bigint"
)


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
    judged, verdicts = _judged(warehouse, folder, source, [file for file in files if file.length] or files[:1])
    try:
        if not verdicts and not warehouse.exists(source.table):
            raise DataError(f"{folder}/{source.files.files}: no row in any file, expected a log")
        _refuse_above_limit(verdicts, folder, source)
        _append_events(warehouse, judged.where(F.col(REASON).isNull()), source)
        if any(verdict.reason for verdict in verdicts) or not warehouse.exists("quarantine"):
            _append_quarantine(warehouse, judged.where(F.col(REASON).isNotNull()), source)
        return _append_audit(warehouse, verdicts, source, files)
    finally:
        judged.unpersist()


class _Verdict(NamedTuple):
    """How many rows of a file met which fate; reason None is good."""

    source_file: str
    reason: str | None
    rows: int


def _judged(warehouse: Warehouse, folder: str, source: LogSource, files: Sequence[LogFile]) -> tuple[DataFrame, list[_Verdict]]:
    """Every row with its reason, kept in memory or on disk, and the verdicts on them."""
    spark, paths = warehouse.spark, [file.path for file in files]
    try:
        try:
            return _with_verdicts(read_rows(spark, folder, source.files, paths, source.needed), source)
        except (PySparkException, Py4JJavaError):
            spoiled = set(damaged_paths(spark, paths))
            if not spoiled:
                raise
            damaged = [(file.path, file.source_file, file.modified) for file in files if file.path in spoiled]
            return _with_verdicts(read_past_damage(spark, folder, source.files, paths, source.needed, damaged), source)
    except (PySparkException, Py4JJavaError) as error:
        raise DataError(f"{folder}/{source.files.files}: Spark cannot read it: {_told(error)}") from error


def _with_verdicts(rows: DataFrame, source: LogSource) -> tuple[DataFrame, list[_Verdict]]:
    """The judged rows, and one entry for each file and reason, no more: reads every row once."""
    judged = rows.transform(source.events).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        return judged, [_Verdict(*row) for row in judged.groupBy("source_file", REASON).count().collect()]
    except Exception:
        judged.unpersist()
        raise


def _refuse_above_limit(verdicts: Sequence[_Verdict], folder: str, source: LogSource) -> None:
    where, total = f"{folder}/{source.files.files}", sum(verdict.rows for verdict in verdicts)
    if total == 0:
        return
    by_reason: Counter[str] = Counter()
    for verdict in verdicts:
        if verdict.reason is not None:
            by_reason[verdict.reason] += verdict.rows
    share = by_reason.total() / total
    if share > source.refused_limit:
        example = {verdict.reason: verdict.source_file for verdict in verdicts}
        said = "\n".join(f"  {n:,} x {reason} (as in {example[reason]})" for reason, n in by_reason.most_common(_REASONS_SHOWN))
        raise DataError(
            f"{where}: {share:.1%} of {total:,} rows refused, "
            f"expected at most {source.refused_limit:.1%} (limits.refused); nothing of this log was taken:\n{said}"
        )


def _told(error: Exception) -> str:
    """The file and the cause out of Spark's trace."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if "while reading file" in line or line.startswith("Caused by:")]
    return "; ".join(dict.fromkeys(telling)) or lines[0]


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
    log, date = F.lit(source.table).alias("log"), F.col(ARRIVED_ON).alias("date")
    said = [F.col(POSITION_OF_ROW).alias("position"), F.col(REASON).alias("reason"), F.col(SAID).alias("row")]
    rows = refused.select(log, "source_file", *said, date)
    if warehouse.exists("quarantine"):  # a killed run may have written them: one commit holds all of a file's
        there = warehouse.read("quarantine").select("log", "source_file").distinct()
        rows = rows.join(there, ["log", "source_file"], "left_anti").select(*rows.columns)
    warehouse.append("quarantine", rows, partition_by=["date"])


def _append_audit(
    warehouse: Warehouse, verdicts: Sequence[_Verdict], source: LogSource, files: Sequence[LogFile]
) -> Mapping[str, int]:
    """Accepted rows are read back from the table, so that a run which follows a killed one tells the same."""
    names = [file.source_file for file in files]
    there = warehouse.read(source.table).where(F.col("source_file").isin(names))
    accepted = {row.source_file: row["count"] for row in there.groupBy("source_file").count().collect()}
    raw, refused = Counter[str](), Counter[str]()
    for verdict in verdicts:
        raw[verdict.source_file] += verdict.rows
        refused[verdict.source_file] += verdict.rows if verdict.reason is not None else 0
    rows = []
    for file in files:
        name = file.source_file
        taken = accepted.get(name, 0)
        fates = (raw[name], taken, raw[name] - refused[name] - taken, refused[name])
        rows.append((source.table, name, file.length, file.modified, *fates))
    warehouse.append("audit", warehouse.spark.createDataFrame(rows, _AUDIT), partition_by=[])
    sums = [sum(fate) for fate in zip(*[row[4:] for row in rows], strict=True)]
    return {"files": len(files), **dict(zip(("raw", "accepted", "duplicates", "refused"), sums, strict=True))}
