"""A contract's logs: their files, the table that each feeds, how rows become events; and which files are new."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.contract import Contract, Files
from conf.errors import DataError
from conf.personal import IdKey
from jobs.events import (
    CLICK_COLUMNS,
    CLICK_TIMESTAMP,
    IMPRESSION_COLUMNS,
    click_events,
    impression_events,
    needed_for_clicks,
    needed_for_impressions,
)
from jobs.reading import list_files
from jobs.warehouse import Warehouse


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


@dataclass(frozen=True)
class LogFile:
    path: str
    source_file: str
    length: int
    modified: datetime


def log_sources(contract: Contract, key: IdKey) -> list[LogSource]:
    """The impressions' log, and the clicks' own where there is one."""
    impressions = impression_source(contract, key)
    return [impressions] if contract.clicks.log is None else [impressions, click_source(contract, key)]


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
    )


def new_files(warehouse: Warehouse, folder: str, source: LogSource) -> list[LogFile]:
    """Files that the audit does not have yet, by name. Raises DataError where there is none to begin a log with."""
    there = list_files(warehouse.spark, folder, source.files)
    if not warehouse.exists(source.table) and there.isEmpty():
        raise DataError(f"{folder}: no file matches {source.files.files}, expected the {source.table} log")
    if warehouse.exists("audit"):
        done = warehouse.read("audit").where(F.col("log") == source.table)
        there = there.join(done, ["source_file", "length", "modified"], "left_anti")
    rows = there.select("path", "source_file", "length", "modified").orderBy("source_file").collect()
    return [LogFile(row.path, row.source_file, row.length, row.modified) for row in rows]
