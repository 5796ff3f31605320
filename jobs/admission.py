"""Which accepted events count: all but those that the breaker holds back.

The table `holds` has an entry for each batch, or date of a batch, that was held, and another when it was released; the newest
entry of the two holds. An entry is written before the rows that it holds, so no job ever sees them unmarked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from jobs.warehouse import Warehouse

HOLDS = "entry bigint, batch bigint, date date, reason string, state string"
HELD, RELEASED = "held", "released"


@dataclass(frozen=True)
class Hold:
    """A batch that is kept out of labels, counters and training, or one date of it, and why."""

    batch: int
    date: date | None  # None: all of them
    reason: str

    def __str__(self) -> str:
        return f"batch {self.batch}{f', {self.date}' if self.date else ''}: {self.reason}"


def admitted(warehouse: Warehouse, table: str) -> DataFrame:
    """The events of `impressions` or `clicks` that count."""
    events = warehouse.read_now(table)  # before the holds: rows that come later may be held by an entry that comes later
    return events.where(~_of_any(held(warehouse)))


def held_back(warehouse: Warehouse, table: str) -> DataFrame:
    """The events of `impressions` or `clicks` that do not."""
    return warehouse.read_now(table).where(_of_any(held(warehouse)))


def _of_any(holds: Sequence[Hold]) -> Column:
    condition = F.lit(False)
    for hold in holds:
        theirs = F.col("batch") == hold.batch
        condition = condition | (theirs & (F.col("date") == F.lit(hold.date)) if hold.date else theirs)
    return condition


def held(warehouse: Warehouse) -> list[Hold]:
    """What is held back now, by batch and date: a short list, each entry was somebody's alarm."""
    newest: dict[tuple[int, date | None], tuple[str, str]] = {}
    for entry in _entries(warehouse):
        newest[entry.batch, entry.date] = (entry.state, entry.reason)
    now = [Hold(batch, day, reason) for (batch, day), (state, reason) in newest.items() if state == HELD]
    return sorted(now, key=lambda hold: (hold.batch, hold.date or date.min))


def changed_batches(warehouse: Warehouse, after_entry: int) -> tuple[int, list[int]]:
    """The newest entry's number, and the batches of the entries after `after_entry`."""
    entries = _entries(warehouse)
    return max((e.entry for e in entries), default=0), sorted({e.batch for e in entries if e.entry > after_entry})


def write_holds(warehouse: Warehouse, holds: Sequence[Hold], state: str) -> None:
    """Add one entry for each hold. Makes the table, empty, where there is none yet. UnavailableError: another came first."""
    if not holds and warehouse.exists("holds"):
        return
    number = max((entry.entry for entry in _entries(warehouse)), default=0)
    rows = [(number + i, hold.batch, hold.date, hold.reason, state) for i, hold in enumerate(holds, start=1)]
    warehouse.add_entries("holds", rows, HOLDS, same="t.entry = s.entry")


def _entries(warehouse: Warehouse) -> list[Row]:
    return sorted(warehouse.few("holds"), key=lambda row: row.entry) if warehouse.exists("holds") else []
