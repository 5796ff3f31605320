"""Ingest into tables: every event once, refusals counted, nothing taken above the limit, no other contract's table."""

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

from conf.contract import Contract
from conf.errors import DataError, HeldError
from conf.personal import IdKey
from jobs.command import Context
from jobs.ingest import ingest
from jobs.label import label
from jobs.warehouse import Warehouse
from tests.logs import changed, click, deliver, impression, write_lines

Make = Callable[[Contract], Context]
HOUR_MS = 3_600_000


def arguments(folder: Path) -> argparse.Namespace:
    return argparse.Namespace(data=str(folder), as_of=None)


def test_every_event_once_however_often_it_was_delivered(make_context: Make, demo_contract: Contract, tmp_path: Path) -> None:
    contract = changed(demo_contract, limits={"refused": "40%"})
    context = make_context(contract)
    folder = tmp_path / "log"
    again = impression(1, 0, received_at=9_000)
    deliver(folder, [impression(1, 0), impression(1, 0), again, impression(2, 5), "{cut"], [click(1, 10), click(1, 10)])
    first = ingest(context, arguments(folder))
    assert [first[f"impressions {what}"] for what in ("raw", "accepted", "duplicates", "refused")] == [5, 2, 2, 1]
    assert [first[f"clicks {what}"] for what in ("raw", "accepted", "duplicates", "refused")] == [2, 1, 1, 0]

    write_lines(folder / "impressions-1.json", [impression(2, 5), impression(3, 6)])
    second = ingest(context, arguments(folder))
    assert [second[f"impressions {what}"] for what in ("files", "raw", "accepted", "duplicates")] == [1, 2, 1, 1]
    rows = context.warehouse.read("impressions").collect()
    assert sorted((row.impression_id, row.known_timestamp.second) for row in rows) == [("i1", 1), ("i2", 1), ("i3", 1)]
    audit = context.warehouse.read("audit").collect()
    assert sorted((r.source_file, r.raw, r.accepted, r.duplicates, r.refused) for r in audit) == [
        ("clicks-0.json", 2, 1, 1, 0), ("impressions-0.json.gz", 5, 2, 2, 1), ("impressions-1.json", 2, 1, 1, 0),
    ]  # fmt: skip
    assert context.warehouse.read("quarantine").count() == 1
    assert {row.user_id for row in rows} == {context.id_key.digest("u1")}, "personal ids are hashed in the table"


def test_above_the_limit_the_batch_is_held_and_the_reasons_are_told(
    make_context: Make, demo_contract: Contract, tmp_path: Path
) -> None:
    context = make_context(demo_contract)
    deliver(tmp_path / "log", [impression(n, 0, served_at="noon") for n in range(3)] + [impression(9, 0)], [click(9, 1)])
    with pytest.raises(HeldError) as refused:
        ingest(context, arguments(tmp_path / "log"))
    said = str(refused.value)
    assert "75.0% of the rows refused, expected at most 3.0%" in said
    assert "3 x event time (served_at): unreadable (as in impressions-0.json.gz)" in said
    assert context.warehouse.count("impressions") == 1, "the good row is stored"
    with pytest.raises(DataError, match=r"no row is admitted.*jobs/release\.py"):
        label(context, arguments(tmp_path))


def test_a_log_of_which_every_row_is_refused_is_not_taken(make_context: Make, demo_contract: Contract, tmp_path: Path) -> None:
    context = make_context(demo_contract)
    deliver(tmp_path / "log", [impression(n, 0, served_at="noon") for n in range(3)], [click(9, 1)])
    with pytest.raises(DataError, match=r"every row refused, nothing was taken(.|\n)*3 x event time \(served_at\): unreadable"):
        ingest(context, arguments(tmp_path / "log"))
    assert not context.warehouse.exists("impressions")

    deliver(tmp_path / "log", [impression(1, 0)], [click(1, 1)])
    ingest(context, arguments(tmp_path / "log"))
    write_lines(tmp_path / "log" / "impressions-1.json", [impression(n, 0, served_at="noon") for n in range(3)])
    with pytest.raises(HeldError, match=r"batch 2: impressions: 100\.0% of the rows refused"):
        ingest(context, arguments(tmp_path / "log"))
    refused = context.warehouse.read("audit").where("batch = 2").select("raw", "accepted", "refused").collect()
    assert [tuple(row) for row in refused] == [(3, 0, 3)], "a log that has begun goes on after it"


def test_an_empty_folder_and_empty_files_are_refused(make_context: Make, demo_contract: Contract, tmp_path: Path) -> None:
    context = make_context(demo_contract)
    (tmp_path / "log").mkdir()
    with pytest.raises(DataError, match=r"no file matches impressions\*\.json\*"):
        ingest(context, arguments(tmp_path / "log"))
    with pytest.raises(DataError, match=r"cannot be read|no file matches"):
        ingest(context, arguments(tmp_path / "nowhere"))
    deliver(tmp_path / "log", [], [])
    with pytest.raises(DataError, match="no row in any file"):
        ingest(context, arguments(tmp_path / "log"))


def test_a_table_that_is_not_there_or_is_anothers_is_refused(make_context: Make, demo_contract: Contract, tmp_path: Path) -> None:
    context = make_context(demo_contract)
    with pytest.raises(DataError, match=r"impressions: no such table yet, expected the one that jobs/ingest\.py writes"):
        label(context, arguments(tmp_path))
    deliver(tmp_path / "log", [impression(1, 0)], [click(1, 10)])
    ingest(context, arguments(tmp_path / "log"))
    other = make_context(changed(demo_contract, windows=["1h"]))
    with pytest.raises(DataError, match="made with contract"):
        label(other, arguments(tmp_path))
    key = IdKey(b"another key of sixteen bytes")
    stranger = Context(
        context.settings, demo_contract, Warehouse(context.warehouse.spark, context.warehouse.tables, key), key
    )
    with pytest.raises(DataError, match="ids were hashed with key"):
        label(stranger, arguments(tmp_path))


def test_a_redelivered_flag_that_turned_to_1_is_a_click(make_context: Make, tmp_path: Path) -> None:
    contract = Contract.model_validate(
        {
            "name": "flags",
            "impressions": {"files": "log*", "format": "csv", "id": "id", "event_time": {"column": "at", "unit": "s"}},
            "clicks": {"flag": "clicked"},
            "label": {"attribution_window": "1h", "complete_through": "2026-12-01"},
            "columns": {"ad": {"of": "candidate", "type": "id"}},
            "keys": {"ad": ["ad"]},
            "candidate": ["ad"],
        }
    )
    context = make_context(contract)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "log-1").write_text("id,at,ad,clicked\n1,1772359200,a,0\n2,1772359200,a,0\n")
    ingest(context, arguments(tmp_path / "in"))
    (tmp_path / "in" / "log-2").write_text("id,at,ad,clicked\n1,1772359200,a,1\n1,1772359200,a,1\n")
    ingest(context, arguments(tmp_path / "in"))
    label(context, arguments(tmp_path))
    assert {row.impression_id: row.label for row in context.warehouse.read("labels").collect()} == {"1": 1, "2": 0}


def test_a_csv_file_with_another_header_is_an_error_not_a_shift(make_context: Make, tmp_path: Path) -> None:
    contract = Contract.model_validate(
        {
            "name": "headers",
            "impressions": {"files": "log*", "format": "csv", "id": "id", "event_time": {"column": "at", "unit": "s"}},
            "clicks": {"flag": "clicked"},
            "label": {"attribution_window": "1h"},
            "columns": {"ad": {"of": "candidate", "type": "id"}},
            "keys": {"ad": ["ad"]},
            "candidate": ["ad"],
        }
    )
    (tmp_path / "log-1").write_text("id,at,ad,clicked\n1,1772359200,a,0\n")
    (tmp_path / "log-2").write_text("at,id,ad,clicked\n1772359200,2,a,0\n")
    with pytest.raises(DataError, match=r"Spark cannot read it: .*log-2.*CSV header"):
        ingest(make_context(contract), arguments(tmp_path))
