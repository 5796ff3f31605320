"""A fault run's log against its own books: everything recounted in plain Python from the truth that lies beside the files."""

import argparse
import json
import os
import random
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from conf.contract import Contract
from jobs.command import Context
from jobs.count import count
from jobs.ingest import ingest
from jobs.label import label
from tests.logs import changed

HOUR_US = 3_600_000_000
LOGS = ("impressions", "clicks")
Row = dict[str, Any]
Books = dict[str, Any]


def faulty_contract(demo: Contract, format_: str, *, refused: str) -> Contract:
    """The demo's log as JSON lines, or as CSV whose two logs tell their times in different ways."""
    limits = {"refused": refused, "candidates": 200}
    if format_ == "json":
        return changed(demo, name="faulty_json", limits=limits)
    shared = {"format": "csv", "options": {"sep": ";"}}
    impressions = {
        **shared, "files": "impressions*.csv*", "id": "impression_id",
        "event_time": {"column": "served_at", "unit": "ms"}, "known_time": {"column": "received_at", "unit": "us"},
    }  # fmt: skip
    clicks = {
        **shared, "files": "clicks*.csv", "impression_id": "impression_id",
        "event_time": {"column": "clicked_at"}, "known_time": {"column": "received_at", "unit": "s"},
    }  # fmt: skip
    return changed(demo, name="faulty_csv", limits=limits, impressions=impressions, clicks=clicks)


def read_books(log: Path) -> Books:
    return dict(json.loads((log / "truth" / "books.json").read_text()))


def read_truth(folder: Path) -> list[Row]:
    """The rows of one folder's Parquet files, times as microseconds."""
    table = pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])
    names = [name for name in table.column_names if name.endswith("_timestamp")]
    for name in names:
        in_us = table[name].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
        table = table.set_column(table.column_names.index(name), name, in_us)
    return list(table.to_pylist())


def groups_of_files(log: Path, number: int, rng: random.Random | None) -> list[list[Path]]:
    """The log's files in groups of any order, each with files of both logs; what was sent once more stands in the last one.

    A row that is known later the second time must not come before the first: the tables keep what they have.
    """
    groups: list[list[Path]] = [[] for _ in range(number)]
    for name in LOGS:
        files = sorted(log.glob(f"{name}*"))
        again = [path for path in files if "-again-" in path.name]
        first = [path for path in files if path not in again]
        if rng is not None:
            rng.shuffle(first)
        for turn, path in enumerate(first):
            groups[turn % number].append(path)
        groups[-1] += again
    return groups


def process(context: Context, groups: Iterable[Sequence[Path]], inbox: Path) -> dict[str, int]:
    """Ingest group after group, then label and count; ingest's counts over all groups, and label's."""
    totals: Counter[str] = Counter()
    args = argparse.Namespace(data=str(inbox), as_of=None)
    inbox.mkdir(parents=True)
    for group in groups:
        for path in group:
            os.link(path, inbox / path.name)
        totals.update(ingest(context, args))
    totals.update(label(context, args))
    count(context, args)
    return dict(totals)


def assert_books_hold(context: Context, found: dict[str, int], log: Path) -> None:
    """Every count of the jobs and every table equals the books, and the counters a recount of the truth."""
    books = read_books(log)
    warehouse = context.warehouse
    quarantined = warehouse.read("quarantine").groupBy("log", "reason").count().collect()
    refused = {name: {row.reason: row["count"] for row in quarantined if row.log == name} for name in LOGS}
    for name in LOGS:
        own = books[name]
        assert refused[name] == own["refused"]
        told = {"raw": own["rows"], "accepted": own["events"], "duplicates": own["duplicates"], "refused": own["corrupt"]}
        assert {what: found[f"{name} {what}"] for what in told} == told, name
        audit = warehouse.read("audit").where(f"log = '{name}'").groupBy().sum(*told).collect()[0]
        assert list(audit) == list(told.values()), name
        assert warehouse.read(name).count() == own["events"]
    assert {"mature": found["labels"], "clicked": found["clicked"]} == {
        what: books["labels"][what] for what in ("mature", "clicked")
    }
    impressions, clicks = read_truth(log / "truth"), read_truth(log / "truth" / "clicks")
    assert_truth_agrees(context.contract, impressions, clicks, books)
    labels = {row.impression_id: row.label for row in warehouse.read("labels").collect()}
    counted = {row["impression_id"] for row in impressions if row["counted_timestamp"] is not None}
    assert labels == {name: int(name in counted) for name in labels}
    for key in context.contract.counted_keys:
        assert stored_counters(context, key) == counters_of(context, key, impressions), key
    if "click_fates" in warehouse.tables.made_by:
        assert_fates(context, books)


def assert_fates(context: Context, books: Books) -> None:
    """The table `click_fates` (date, fate, known_after_h, clicks) tells as many clicks of each fate as the books."""
    rows = context.warehouse.read("click_fates").groupBy("fate").sum("clicks").collect()
    assert {row.fate: row["sum(clicks)"] for row in rows} == {f: n for f, n in books["clicks"]["fates"].items() if n}


def assert_truth_agrees(contract: Contract, impressions: list[Row], clicks: list[Row], books: Books) -> None:
    """The simulator's fates and counted times follow from the times by the rule, read plainly."""
    rule, us = contract.label, timedelta(microseconds=1)
    skew, window = rule.skew // us, rule.attribution_window // us
    shown = {row["impression_id"]: row for row in impressions}
    good = defaultdict(list)
    fates = []
    for click in clicks:
        row = shown.get(click["impression_id"])
        if row is None:
            fates.append("orphan")
        elif click["click_timestamp"] < row["event_timestamp"] - skew:
            fates.append("before")
        elif click["click_timestamp"] > row["event_timestamp"] + window:
            fates.append("after")
        elif click["known_timestamp"] > row["event_timestamp"] + window + rule.allowed_lateness // us:
            fates.append("late")
        else:
            fates.append("")
            good[click["impression_id"]].append((click["known_timestamp"], click["click_timestamp"]))
    for number, click in enumerate(clicks):
        if not fates[number]:
            at = (click["known_timestamp"], click["click_timestamp"])
            fates[number] = "counted" if at == min(good[click["impression_id"]]) else "repeated"
    assert fates == [click["fate"] for click in clicks]
    assert {**dict.fromkeys(books["clicks"]["fates"], 0), **Counter(fates)} == books["clicks"]["fates"]
    for name, row in shown.items():
        expected = max(row["known_timestamp"], min(good[name])[0]) if name in good else None
        assert row["counted_timestamp"] == expected, name


def stored_counters(context: Context, key: str) -> dict[Any, tuple[Any, ...]]:
    contract = context.contract
    found = {}
    for row in context.warehouse.read(f"counters_{key}").collect():
        hour = int(row.hour.replace(tzinfo=UTC).timestamp()) * 1_000_000
        values = tuple(row[column] for column in contract.counted_keys[key])
        found[values, hour] = tuple(row[column] for column in contract.counter_columns)
    return found


def counters_of(context: Context, key: str, impressions: list[Row]) -> dict[Any, tuple[Any, ...]]:
    """(key, hour) -> the counter columns, counted from the truth at each hour with an event or an expiry."""
    contract = context.contract
    columns, windows = contract.counted_keys[key], list(contract.window_hours.values())
    values: list[Callable[[Row], Any]] = [_value_of(context, name) for name in columns]
    events: dict[Any, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for row in impressions:
        if any(row[name] is None for name in columns):
            continue
        shown, clicked = events[tuple(value(row) for value in values)]
        shown.append(row["known_timestamp"])
        if row["counted_timestamp"] is not None:
            clicked.append(row["counted_timestamp"])
    found = {}
    for name, both in events.items():
        for times in both:
            times.sort()
        first = {(at // HOUR_US + 1) * HOUR_US for times in both for at in times}
        for hour in {at + after * HOUR_US for at in first for after in (0, *windows)}:
            inside = [bisect_left(times, hour) - bisect_left(times, hour - w * HOUR_US) for w in windows for times in both]
            upto = [bisect_left(times, hour) for times in both]
            last = [times[n - 1] if counted else None for times, n, counted in zip(both, upto, inside[-2:], strict=True)]
            found[name, hour] = (*inside, *last)
    return found


def _value_of(context: Context, name: str) -> Callable[[Row], Any]:
    if context.contract.columns[name].personal:
        return lambda row: context.id_key.digest(row[name])
    return lambda row: row[name]
