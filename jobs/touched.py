"""From which date on a table below ingest must be rebuilt, and what it was built from.

Every commit of such a table notes what it had seen (jobs/warehouse.py, `note`): ingest's newest batch and hold, or the versions
of the tables that it is made from. The next run rebuilds from the first date that anything later touched, in one commit.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.contract import Contract
from jobs.admission import changed_batches
from jobs.warehouse import EVERYTHING, Note, Warehouse

DAY = timedelta(days=1)


def days_before(day: date, span: timedelta) -> date:
    """The date of `span`, in days begun, before `day`; no earlier than EVERYTHING."""
    return max(day - -(-span // DAY) * DAY, EVERYTHING)


def seen_now(warehouse: Warehouse) -> dict[str, int]:
    """Ingest's newest finished batch and newest hold entry: take it before the events are read."""
    warehouse.read("impressions")  # says that ingest must run first
    newest = warehouse.read("audit").agg(F.max("batch")).collect()[0][0]
    return {"batch": newest or 0, "entry": changed_batches(warehouse, 0)[0]}


def _touching(warehouse: Warehouse, note: Note) -> DataFrame:
    """Audit rows of the batches that came, were held or were released after `note`, and maybe of more.

    Rows of a run that lost against another machine's are audited under a later number than they bear, so from the first changed
    batch on all count.
    """
    _, batches = changed_batches(warehouse, note["entry"])
    return warehouse.read("audit").where(F.col("batch") >= min([note["batch"] + 1, *batches]))


def event_date_touched(warehouse: Warehouse, contract: Contract, note: Note) -> date | None:
    """The first date of an impression that may have another label since `note`; None where there is none."""
    earliest = F.min(F.array_min("event_dates"))
    by_log: dict[str, date | None] = dict(_touching(warehouse, note).groupBy("log").agg(earliest).collect())
    carries_clicks = {"clicks"} if contract.clicks.flag is None else {"impressions"}
    window = contract.label.attribution_window  # a click's impression lies so far before it
    dates = [days_before(day, window) if log in carries_clicks else day for log, day in by_log.items() if day is not None]
    return min(dates, default=None)


def known_hour_touched(warehouse: Warehouse, note: Note) -> datetime | None:
    """The first full hour whose counters may be others since `note`; None where there is none."""
    earliest = F.unix_micros(F.min(F.array_min("known_hours")))
    micros = _touching(warehouse, note).agg(earliest).collect()[0][0]
    return None if micros is None else datetime.fromtimestamp(micros // 1_000_000, UTC) + timedelta(hours=1)


def date_rebuilt(warehouse: Warehouse, tables: Sequence[str], versions: Mapping[str, Any]) -> date | None:
    """The first date of any of `tables` that was rebuilt after its version in `versions`; None where nothing was."""
    since: list[date] = []
    for table in tables:
        notes = warehouse.notes_after(table, versions.get(table, -1))
        if notes is None:
            return EVERYTHING
        since += [date.fromisoformat(note["since"]) if note else EVERYTHING for note in notes]
    return min(since, default=None)
