"""What every engine's result is held against: a bisection in plain Python for each row, which shares no code with any of them."""

from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bench.asof_data import ROWS, SOURCES, TIME, TTL, Source, result_columns

_TTL_US = TTL.days * 86_400_000_000


def expected(folder: Path, impressions: str) -> pa.Table:
    """The join of that table, of `result_columns`, by impression id."""
    left = pq.read_table(folder / impressions / ROWS).sort_by("impression_id")
    moments = _micros(left["event_timestamp"])
    columns = {"impression_id": left["impression_id"]}
    for source in SOURCES:
        history = pq.read_table(folder / source.table)
        found = pa.array(_newest(source, history, _keys(left, source), moments), pa.int64())
        columns |= {alias: history[name].take(found) for name, alias in source.values.items()}
    return pa.table(columns)


def is_right(result: Path, wanted: pa.Table) -> bool:
    """Whether the Parquet files below `result` hold the wanted rows, each once, and no other, to the last value."""
    found = pq.read_table(sorted(result.glob("*.parquet")), columns=result_columns()).sort_by("impression_id").cast(wanted.schema)
    return bool(found.equals(wanted))


def _newest(source: Source, history: pa.Table, keys: Iterable[object], moments: list[int]) -> list[int | None]:
    rows: dict[object, list[tuple[int, int]]] = {}
    times = _micros(history[TIME])
    for number, (key, time) in enumerate(zip(_keys(history, source), times, strict=True)):
        rows.setdefault(key, []).append((time, number))
    for of_key in rows.values():
        of_key.sort()
    found: list[int | None] = []
    for key, moment in zip(keys, moments, strict=True):
        of_key = rows.get(key, [])
        at = bisect_right(of_key, moment, key=lambda row: row[0]) - 1
        found.append(of_key[at][1] if at >= 0 and moment < of_key[at][0] + _TTL_US else None)
    return found


def _micros(times: pa.ChunkedArray) -> list[int]:
    micros: list[int] = times.cast(pa.timestamp("us", times.type.tz)).cast(pa.int64()).to_pylist()  # Spark's files read as "ns"
    return micros


def _keys(table: pa.Table, source: Source) -> Iterable[object]:
    return zip(*[table[name].to_pylist() for name in source.on], strict=True)
