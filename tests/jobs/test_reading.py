"""Every shape of log that a contract can describe becomes the same events."""

import gzip
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession

from conf.canonical import canonical_text
from conf.contract import Contract
from conf.errors import DataError
from jobs.events import REASON, SAID, click_events, impression_events, inline_clicks, needed_for_clicks, needed_for_impressions
from jobs.log_sources import impression_source
from jobs.reading import list_files, read_rows
from tests.conftest import ID_KEY

EXPECTED = [
    ("7", datetime(2026, 3, 1, 10, 0, tzinfo=UTC), "42", "de", 1.5, "x"),
    ("8", datetime(2026, 3, 1, 10, 0, 1, 500_000, tzinfo=UTC), "43", None, None, "true"),
]
SECONDS = (1772359200, 1772359201.5)


def contract_of(**impressions: Any) -> Contract:
    return Contract.model_validate(
        {
            "name": "shapes",
            "impressions": {"id": "id", **impressions},
            "clicks": {"flag": "clicked", "known_time": {"after": "30m"}},
            "label": {"attribution_window": "1h"},
            "columns": {
                "visitor": {"of": "request", "type": "id", "from": "visitor no."},
                "country": {"of": "request", "type": "category", "missing": "allowed"},
                "price": {"of": "request", "type": "number", "missing": "allowed"},
                "creative": {"of": "candidate", "type": "category"},
            },
            "keys": {"visitor": ["visitor"]},
            "candidate": ["creative"],
        }
    )


def events(spark: SparkSession, folder: Path, contract: Contract) -> DataFrame:
    paths = [row.path for row in list_files(spark, str(folder), contract.impressions).collect()]
    rows = read_rows(spark, str(folder), contract.impressions, paths, needed_for_impressions(contract))
    return rows.transform(impression_events(contract, ID_KEY))


def write_csv(folder: Path, separator: str, times: tuple[Any, ...]) -> None:
    lines = [
        separator.join(["creative", "id", "when", "visitor no.", "country", "price", "clicked"]),
        separator.join(["x", "7", str(times[0]), "42", "de", "1.5", "1"]),
        separator.join(["true", "8", str(times[1]), "43", "", "", "0"]),
    ]
    (folder / "log.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))


def write_json(folder: Path, times: tuple[Any, ...]) -> None:
    (folder / "log.json").write_text(
        f'{{"id": 7, "when": {times[0]}, "visitor no.": 42, "country": "de", "price": 1.5, "creative": "x", "clicked": 1}}\n'
        f'{{"id": "8", "when": {times[1]}, "visitor no.": "43", "country": "", "creative": true, "clicked": false, "x": 1}}\n\n'
    )


def write_parquet(folder: Path, when: pa.Array) -> None:
    table = pa.table(
        {
            "id": pa.array([7, 8]), "when": when, "visitor no.": pa.array([42.0, 43.0]), "country": pa.array(["de", ""]),
            "price": pa.array([1.5, None]), "creative": pa.array(["x", "true"]), "clicked": pa.array([True, False]),
        }
    )  # fmt: skip
    pq.write_table(table, folder / "log.parquet")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


SHAPES: dict[str, tuple[dict[str, Any], Callable[[Path], None]]] = {
    "csv, comma, epoch seconds": (
        {"files": "*.csv*", "format": "csv", "event_time": {"column": "when", "unit": "s"}},
        lambda folder: write_csv(folder, ",", SECONDS),
    ),
    "csv, tab, formatted time in a zone": (
        {"files": "*.csv*", "format": "csv", "options": {"sep": "\t"},
         "event_time": {"column": "when", "format": "dd/MM/yyyy HH:mm:ss.SSS", "zone": "Europe/Berlin"}},
        lambda folder: write_csv(folder, "\t", ("01/03/2026 11:00:00.000", "01/03/2026 11:00:01.500")),
    ),
    "json, epoch milliseconds": (
        {"files": "*.json", "format": "json", "event_time": {"column": "when", "unit": "ms"}},
        lambda folder: write_json(folder, tuple(int(s * 1000) for s in SECONDS)),
    ),
    "json, ISO 8601": (
        {"files": "*.json", "format": "json", "event_time": {"column": "when"}},
        lambda folder: write_json(folder, ('"2026-03-01T11:00:00+01:00"', '"2026-03-01 10:00:01.5"')),
    ),
    "json, ISO 8601 in a zone, with and without an offset": (
        {"files": "*.json", "format": "json", "event_time": {"column": "when", "zone": "Asia/Tokyo"}},
        lambda folder: write_json(folder, ('"2026-03-01T11:00:00+01"', '"2026-03-01 19:00:01.5"')),
    ),
    "parquet, timestamps": (
        {"files": "*.parquet", "format": "parquet", "event_time": {"column": "when"}},
        lambda folder: write_parquet(folder, pa.array([row[1] for row in EXPECTED], pa.timestamp("us", tz="UTC"))),
    ),
    "parquet, nanoseconds as pandas writes them, in a folder of its own": (
        {"files": "day=*/*.parquet", "format": "parquet", "event_time": {"column": "when"}},
        lambda folder: write_parquet(
            _made(folder / "day=1 é"), pa.array([row[1] for row in EXPECTED], pa.timestamp("ns", tz="UTC"))
        ),
    ),
    "parquet, epoch microseconds": (
        {"files": "*.parquet", "format": "parquet", "event_time": {"column": "when", "unit": "us"}},
        lambda folder: write_parquet(folder, pa.array([int(s * 1_000_000) for s in SECONDS])),
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_log_gives_the_same_events(spark: SparkSession, tmp_path: Path, shape: str) -> None:
    impressions, write = SHAPES[shape]
    write(tmp_path)
    judged = events(spark, tmp_path, contract_of(**impressions))
    rows = judged.orderBy("impression_id").collect()
    assert [row[REASON] for row in rows] == [None, None]
    assert {row.source_file for row in rows} == {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("log.*")}
    found = [
        (r.impression_id, r.event_timestamp.replace(tzinfo=UTC), r.visitor, r.country, r.price, r.creative) for r in rows
    ]
    assert found == EXPECTED
    clicks = judged.transform(inline_clicks).collect()
    assert [(c.impression_id, c.known_timestamp.replace(tzinfo=UTC)) for c in clicks] == [
        ("7", datetime(2026, 3, 1, 10, 30, tzinfo=UTC))
    ]


def test_marks_of_patterns_in_names_are_plain_characters(spark: SparkSession, tmp_path: Path) -> None:
    impressions, write = SHAPES["json, epoch milliseconds"]
    folder = _made(tmp_path / "day [1]" / "{a,b}")
    write(folder)
    for data, files in ((folder, "*.json"), (tmp_path / "day [1]", "*/*.json")):
        judged = events(spark, data, contract_of(**(impressions | {"files": files})))
        assert [row.source_file for row in judged.collect()] == ["log.json" if data == folder else "{a,b}/log.json"] * 2


def test_batch_text_is_the_requests_canonical_text(spark: SparkSession, tmp_path: Path) -> None:
    values: list[Any] = ["plain", " spaced ", "007", 7, -3, 2**62, True, "é\u2028ü", "a\\b\"c"]
    contract = contract_of(files="*.json", format="json", event_time={"column": "when"})
    import json

    lines = [json.dumps({"id": i, "when": "2026-03-01T00:00:00Z", "visitor no.": "v", "creative": v, "clicked": 0})
             for i, v in enumerate(values)]  # fmt: skip
    (tmp_path / "log.json").write_text("\n".join(lines))
    found = {row.impression_id: row.creative for row in events(spark, tmp_path, contract).collect()}
    assert [found[str(i)] for i in range(len(values))] == [canonical_text(value) for value in values]


def test_a_refused_row_says_why_and_keeps_no_personal_value(spark: SparkSession, demo_contract: Contract, tmp_path: Path) -> None:
    from tests.logs import impression, write_lines

    bad: dict[str, Any] = {
        "malformed row": '{"impression_id": "cut',
        "impression id: missing": impression(1, 0, impression_id=""),
        "event time (served_at): unreadable": impression(2, 0, served_at="yesterday"),
        "known time (received_at): unreadable": impression(3, 0, received_at=None),
        "event time (served_at): not in 2000 to 2099, wrong unit?": impression(8, 0, served_at=1_772_323_200),
        "placement_id: missing": impression(4, 0, placement_id=None),
        "age: not a number": impression(5, 0, age="NaN"),
        "age: below 13": impression(6, 0, age=12),
        "age: above 120": impression(7, 0, age=1e300),
    }
    write_lines(tmp_path / "impressions-0.json", bad.values())
    judged = events(spark, tmp_path, demo_contract)
    rows = judged.collect()
    assert sorted(str(row[REASON]) for row in rows) == sorted(bad)
    whole = [row[SAID] for row in rows if row[REASON] != "malformed row"]
    assert [row[SAID] for row in rows if row[REASON] == "malformed row"] == [None]
    assert {said["user_id"] for said in whole} == {ID_KEY.digest("u1")}
    assert "u1" not in str(rows)


JSON_LINE = b'{"id": "1", "when": 1772359200, "visitor no.": "v", "creative": "x", "clicked": 0}'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param(JSON_LINE + JSON_LINE, "malformed row", id="two rows in a line: neither is dropped unsaid"),
        pytest.param(JSON_LINE + b" end", "malformed row", id="words behind the row"),
        pytest.param(JSON_LINE.replace(b"x", b"caf\xe9"), "malformed row", id="a byte of Latin-1: two such values look alike"),
        pytest.param(JSON_LINE.replace(b"x", b"a\0b"), "malformed row", id="a NUL"),
        pytest.param(b"[" + JSON_LINE + b"]", "malformed row", id="a row in an array"),
        pytest.param(JSON_LINE.replace(b"1772359200", b"1" + b"0" * 28), "event time (when): unreadable", id="a huge time"),
        pytest.param(JSON_LINE.replace(b"x", "é\u2028".encode()), None, id="text of any script is good"),
    ],
)
def test_a_line_of_json_is_one_row_of_text(spark: SparkSession, tmp_path: Path, line: bytes, reason: str | None) -> None:
    contract = contract_of(files="*.json", format="json", event_time={"column": "when", "unit": "s"})
    (tmp_path / "log.json").write_bytes(line + b"\n")
    assert [row[REASON] for row in events(spark, tmp_path, contract).collect()] == [reason]


def test_csv_takes_its_columns_from_the_first_file_that_has_some_and_refuses_what_is_no_text(
    spark: SparkSession, tmp_path: Path
) -> None:
    contract = contract_of(files="*.csv*", format="csv", event_time={"column": "when", "unit": "s"})
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b""))
    header, row = b"id,when,visitor no.,country,price,creative,clicked\n", b"%d,1772359200,v,,,%s,0\n"
    creatives = [b"x", b"caf\xe9", b"a\0b", "é".encode()]
    (tmp_path / "b.csv").write_bytes(header + b"".join(row % numbered for numbered in enumerate(creatives, start=1)))
    found = {row.impression_id: row[REASON] for row in events(spark, tmp_path, contract).collect()}
    assert found == {"1": None, "2": "malformed row", "3": "malformed row", "4": None}


def test_a_flag_other_than_0_and_1_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    contract = contract_of(files="*.csv", format="csv", event_time={"column": "when", "unit": "s"})
    (tmp_path / "log.csv").write_text(
        "id,when,visitor no.,country,price,creative,clicked\n1,1772359200,v,,,x,2\n"
        "2,1772359200,v,,,x,\n3,1772359200,v,,,x,1.0\n4,1772359200,v,,,x\n"
    )
    found = {row.impression_id: row[REASON] for row in events(spark, tmp_path, contract).collect()}
    refused = "click flag (clicked): not 0 or 1"
    assert found == {"1": refused, "2": refused, "3": None, "4": "malformed row"}


def test_a_click_time_in_the_row_is_judged_where_the_flag_is_1(spark: SparkSession, tmp_path: Path) -> None:
    given = contract_of(files="*.csv", format="csv", event_time={"column": "when", "unit": "s"})
    clicks = {"flag": "clicked", "event_time": {"column": "at", "unit": "s"}}
    contract = Contract.model_validate(given.model_dump(by_alias=True, exclude_defaults=True) | {"clicks": clicks})
    ahead = round(datetime.now(UTC).timestamp()) + 86_400
    times = {"1": "", "2": "9999999999", "3": str(ahead), "4": "1772359300"}
    header = "id,when,visitor no.,country,price,creative,clicked,at"
    rows = [f"{name},1772359200,v,,,x,1,{at}\n{name}0,1772359200,v,,,x,0,{at}\n" for name, at in times.items()]
    (tmp_path / "log.csv").write_text(f"{header}\n{''.join(rows)}")
    found = {row.impression_id: row[REASON] for row in events(spark, tmp_path, contract).collect()}
    what = "click time where the flag is 1"
    reasons = {"1": "unreadable", "2": "not in 2000 to 2099, wrong unit?", "3": "later than now, wrong zone?"}
    assert {name: reason for name, reason in found.items() if reason} == {n: f"{what}: {said}" for n, said in reasons.items()}


def test_a_known_time_that_is_declared_may_lie_ahead_an_event_may_not(spark: SparkSession, tmp_path: Path) -> None:
    event = {"column": "when", "unit": "s"}
    contract = contract_of(files="*.csv", format="csv", event_time=event, known_time={"after": "1h"})
    now = round(datetime.now(UTC).timestamp())
    header = "id,when,visitor no.,country,price,creative,clicked"
    (tmp_path / "log.csv").write_text(f"{header}\n1,{now - 60},v,,,x,0\n2,{now + 3600},v,,,x,0\n")
    found = {row.impression_id: row[REASON] for row in events(spark, tmp_path, contract).collect()}
    assert found == {"1": None, "2": "event time (when): later than now, wrong zone?"}


def test_a_log_without_ids_knows_a_redelivered_file_again(spark: SparkSession, tmp_path: Path) -> None:
    contract = contract_of(files="*.csv", format="csv", event_time={"column": "when", "unit": "s"}, id="content")
    header, row, other = "id,when,visitor no.,country,price,creative,clicked", "1,1772359200,v,,,x,0", "2,1772359200,v,,,x,0"
    (tmp_path / "a.csv").write_text("\n".join([header, row, row, other]))
    (tmp_path / "b.csv").write_text("\n".join([header, row, row, row]))
    rows = events(spark, tmp_path, contract).collect()
    assert len(rows) == 6
    assert len({r.impression_id for r in rows}) == 4, "three times the one row, at most in any file, and once the other"


def test_a_missing_column_is_named_before_anything_is_read(spark: SparkSession, tmp_path: Path) -> None:
    contract = contract_of(files="*.csv", format="csv", event_time={"column": "when", "unit": "s"})
    (tmp_path / "log.csv").write_text("id,when,visitor no.,country,price,clicked\n")
    with pytest.raises(DataError, match=r"lacks the column\(s\) creative.*found id, when"):
        events(spark, tmp_path, contract)


def test_click_log_rows_become_clicks(spark: SparkSession, demo_contract: Contract, tmp_path: Path) -> None:
    from tests.logs import click, write_lines

    write_lines(tmp_path / "clicks-0.json", [click(1, 5_000, 7_000), click(2, 0) | {"impression_id": None}])
    log = demo_contract.clicks.log
    assert log is not None
    paths = [row.path for row in list_files(spark, str(tmp_path), log).collect()]
    rows = read_rows(spark, str(tmp_path), log, paths, needed_for_clicks(demo_contract))
    judged = rows.transform(click_events(demo_contract, ID_KEY)).orderBy("impression_id").collect()
    assert [(r.impression_id, r[REASON]) for r in judged] == [(None, "impression id: missing"), ("i1", None)]
    assert judged[1].click_timestamp.replace(tzinfo=UTC) == datetime(2026, 3, 1, 0, 0, 5, tzinfo=UTC)


def test_the_hash_in_spark_is_the_keys_digest(spark: SparkSession) -> None:
    from jobs.parsing import hashed

    texts = ["", "u1", "ü\u2028", "x" * 500, None]
    frame = spark.createDataFrame([(t,) for t in texts], "t string").select("t", hashed(spark_column("t"), ID_KEY).alias("h"))
    assert {row.t: row.h for row in frame.collect()} == {t: None if t is None else ID_KEY.digest(t) for t in texts}


def spark_column(name: str) -> Any:
    from pyspark.sql import functions as F

    return F.col(name)


def test_the_source_of_impressions_names_every_column_of_the_contract(demo_contract: Contract) -> None:
    source = impression_source(demo_contract, ID_KEY)
    assert set(demo_contract.columns) < set(source.columns)
