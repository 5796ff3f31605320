"""A request as a caller would send it, taken from the log's own rows: ids as they stand there, so it is printed, never stored."""

from datetime import datetime
from typing import Any, Literal

from pyspark.sql import Row
from pyspark.sql import functions as F

from conf.contract import Contract
from jobs.command import Context
from jobs.events import needed_for_impressions
from jobs.parsing import number, raw, text, time
from jobs.reading import list_files, read_rows
from jobs.validation import column_reasons, first_reason, malformed

_ROWS_LOOKED_AT = 20_000
_NEWEST = 200
_CANDIDATES = 3
_EVENT = "__event"


def example_request(context: Context, data: str, at: datetime) -> dict[str, Any]:
    """A request of time `at`: the newest good row of the last file's first rows, with up to three candidates of rows near it."""
    contract, spark = context.contract, context.warehouse.spark
    last = list_files(spark, data, contract.impressions).orderBy(F.desc("source_file")).first()
    if last is None:
        return {}
    rows = read_rows(spark, data, contract.impressions, [last.path], needed_for_impressions(contract)).limit(_ROWS_LOOKED_AT)
    event = time(raw(contract.impressions.event_time.column), contract.impressions.event_time)
    values = [_value(contract, name) for name in contract.columns]
    good = rows.where(first_reason([malformed(), *column_reasons(contract)]).isNull()).select(event.alias(_EVENT), *values)
    newest = good.dropna(subset=[_EVENT]).orderBy(F.desc(_EVENT), *contract.columns).limit(_NEWEST).collect()
    if not newest:
        return {}
    candidates = list(dict.fromkeys(_said(row, contract, "candidate") for row in newest))
    named: dict[tuple[Any, ...], dict[str, Any]] = {}
    for candidate in map(dict, candidates):
        named.setdefault(tuple(candidate[name] for name in contract.candidate), candidate)
    return {
        "request_id": "example-1",
        "time": at.isoformat(),
        "context": dict(_said(newest[0], contract, "request")),
        "candidates": list(named.values())[:_CANDIDATES],
    }


def _value(contract: Contract, name: str) -> F.Column:  # type: ignore[name-defined]
    source = raw(contract.raw_name(name))
    return (number(source) if contract.columns[name].type == "number" else text(source)).alias(name)


def _said(row: Row, contract: Contract, of: Literal["request", "candidate"]) -> tuple[tuple[str, Any], ...]:
    return tuple((name, row[name]) for name in contract.columns_of(of) if row[name] is not None)
