"""The simulated log: the same arguments give the same bytes, and the truth is the truth of these files."""

import csv
import gzip
import hashlib
import json
import shutil
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from conf.contract import Contract
from conf.contract_file import load_contract
from conf.errors import DataError
from conf.settings import CONF
from jobs.simulate import parser, write_log
from jobs.simulation import Plan, base_log_odds
from tests.conftest import another_size_of_machine

PLAN = Plan(impressions=20_000, days=3, seed=5, duplicates=0.02, late=0.1, corrupt=0.01)
FEW = Plan(impressions=2_000, days=2)


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load_contract(CONF / "contracts" / "demo.yaml")


@pytest.fixture(scope="module")
def simulated(spark: SparkSession, contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "log"
    write_log(spark, contract, PLAN, str(out))
    return out


@pytest.fixture(scope="module")
def few(spark: SparkSession, contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("few") / "log"
    write_log(spark, contract, FEW, str(out))
    return out


def hashes(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def text_lines(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def good_rows(folder: Path, pattern: str) -> list[dict[str, Any]]:
    """Every line that is JSON with numbers for times, an age within bounds, of first deliveries."""
    rows = []
    for path in sorted(folder.glob(pattern)):
        if "again" in path.name:
            continue
        for line in text_lines(path):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row.get("served_at", row.get("clicked_at")), int) and row.get("age", 50) <= 120:
                rows.append(row)
    return rows


def line_count(folder: Path, pattern: str) -> int:
    return sum(len(text_lines(path)) for path in folder.glob(pattern))


def books(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "truth" / "books.json").read_text()))


def truth(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted((folder / "truth").glob("*.parquet"))])


def test_the_same_arguments_give_the_same_bytes(spark: SparkSession, contract: Contract, few: Path, tmp_path: Path) -> None:
    with another_size_of_machine(spark):
        write_log(spark, contract, FEW, str(tmp_path / "log"))
    assert hashes(few) == hashes(tmp_path / "log")
    assert {"impressions-00000.json.gz", "impressions-again-00000.json.gz", "clicks-00000.json.gz"} <= set(hashes(few))


def test_another_seed_gives_another_log(spark: SparkSession, contract: Contract, few: Path, tmp_path: Path) -> None:
    write_log(spark, contract, replace(FEW, seed=2), str(tmp_path / "log"))
    mine, theirs = hashes(few), hashes(tmp_path / "log")
    assert all(mine[name] != theirs[name] for name in mine if "again" not in name)  # so few that nothing may be delivered twice


def test_the_books_count_what_the_files_hold(simulated: Path) -> None:
    found = books(simulated)
    for log, pattern in (("impressions", "impressions*.json*"), ("clicks", "clicks*.json*")):
        rows = good_rows(simulated, pattern)
        assert found[log]["events"] == len(rows)
        assert found[log]["duplicates"] == line_count(simulated, pattern.replace("*", "-again*", 1))
        assert found[log]["rows"] == line_count(simulated, pattern)
        assert found[log]["rows"] == found[log]["events"] + found[log]["duplicates"] + found[log]["corrupt"]
    assert len({row["impression_id"] for row in good_rows(simulated, "impressions*")}) == PLAN.impressions


def test_shares_are_as_asked(simulated: Path) -> None:
    found = books(simulated)
    assert 0.04 < found["clicks"]["events"] / PLAN.impressions < 0.06
    assert found["impressions"]["duplicates"] / PLAN.impressions == pytest.approx(0.02, abs=0.004)
    assert found["impressions"]["corrupt"] / PLAN.impressions == pytest.approx(0.01, abs=0.003)
    assert found["clicks"]["late"] / found["clicks"]["events"] == pytest.approx(0.1, abs=0.04)


def test_the_truth_agrees_with_the_files(simulated: Path, contract: Contract) -> None:
    known = {row["impression_id"]: row for row in truth(simulated).to_pylist()}
    served = {row["impression_id"]: row["served_at"] for row in good_rows(simulated, "impressions*")}
    window = contract.label.attribution_window / timedelta(milliseconds=1)
    lateness = contract.label.allowed_lateness / timedelta(milliseconds=1)
    in_time: set[str] = set()
    late: set[str] = set()
    for click in good_rows(simulated, "clicks*"):
        impression = served[click["impression_id"]]
        assert impression <= click["clicked_at"] <= click["received_at"]
        counts = click["clicked_at"] <= impression + window and click["received_at"] <= impression + window + lateness
        (in_time if counts else late).add(click["impression_id"])
    assert set(known) == set(served)
    assert in_time == {name for name, row in known.items() if row["clicked"]}
    assert late == {name for name, row in known.items() if row["late"]}
    assert {int(row["event_timestamp"].timestamp() * 1000) - served[name] for name, row in known.items()} <= {0}


def test_probabilities_mean_what_they_say(simulated: Path) -> None:
    table = truth(simulated)
    for low, high in ((0.0, 0.03), (0.03, 0.1), (0.1, 1.0)):
        rows = table.filter((pc.field("probability") > low) & (pc.field("probability") <= high))
        expected, clicked = (pc.sum(pc.cast(rows[name], pa.float64())).as_py() for name in ("probability", "clicked"))
        assert abs(clicked - expected) < 4 * expected**0.5


def test_times_lie_within_the_days_and_evenings_are_busy(simulated: Path) -> None:
    times = [datetime.fromtimestamp(row["served_at"] / 1000, UTC) for row in good_rows(simulated, "impressions*")]
    assert {time.date() for time in times} == {date(2026, 1, 5) + timedelta(days=day) for day in range(PLAN.days)}
    hours = Counter(time.hour for time in times)
    assert sum(hours[hour] for hour in (17, 18)) > 3 * sum(hours[hour] for hour in (5, 6))
    assert times == sorted(times)


def test_a_finished_folder_is_left_and_another_plan_refused(spark: SparkSession, contract: Contract, few: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in few.rglob("*")}
    assert write_log(spark, contract, FEW, str(few))["impressions"] == FEW.impressions
    with pytest.raises(DataError, match="simulated with seed 1: choose another --out"):
        write_log(spark, contract, replace(FEW, seed=2), str(few))
    assert {path: path.stat().st_mtime_ns for path in few.rglob("*")} == before


def test_an_unfinished_folder_is_begun_anew(spark: SparkSession, contract: Contract, few: Path, tmp_path: Path) -> None:
    shutil.copytree(few, tmp_path / "log")
    (tmp_path / "log" / "truth" / "books.json").unlink()
    (tmp_path / "log" / "impressions-00077.json.gz").write_bytes(b"of the run that was killed")
    (tmp_path / "log" / ".staging").mkdir()
    write_log(spark, contract, FEW, str(tmp_path / "log"))
    assert hashes(tmp_path / "log") == hashes(few)


def test_a_folder_of_something_else_is_refused(spark: SparkSession, contract: Contract, tmp_path: Path) -> None:
    (tmp_path / "impressions-1.json").write_text("somebody's log")
    with pytest.raises(DataError, match="expected a new or empty folder"):
        write_log(spark, contract, FEW, str(tmp_path))


def test_other_names_formats_and_an_inline_flag(spark: SparkSession, contract: Contract, tmp_path: Path) -> None:
    raw = contract.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    raw |= {
        "name": "tabs",
        "impressions": {
            "files": "*.tsv", "format": "csv", "options": {"sep": "\t"}, "id": "view",
            "event_time": {"column": "at", "format": "dd/MM/yyyy HH:mm:ss", "zone": "Europe/Berlin"},
        },
        "clicks": {"flag": "hit", "event_time": {"column": "hit_at", "unit": "s"}},
    }  # fmt: skip
    write_log(spark, Contract.model_validate(raw), FEW, str(tmp_path / "log"))
    rows = list(csv.DictReader((tmp_path / "log" / "00000.tsv").read_text().splitlines(), delimiter="\t"))
    found = books(tmp_path / "log")
    good = [row for row in rows if row["hit"] in ("0", "1") and row["at"] != "not a time" and float(row["age"] or 50) <= 120]
    assert len(good) == found["impressions"]["events"] == FEW.impressions
    assert len(rows) - len(good) == found["impressions"]["corrupt"] > 0
    assert sum(row["hit"] == "1" for row in good) == found["clicks"]["events"]
    assert all((row["hit"] == "1") == (row["hit_at"] not in (None, "", '""')) for row in good)
    assert good[0]["at"].startswith("05/01/2026 01:00")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"simulate": {}}, "no section simulate"),
        ({"simulate": {"user_id": {"missing": 0.1}}}, "columns.user_id refuses missing values"),
        ({"simulate": {"age": {"values": 500}}}, "no more than fit below columns.age.max"),
        ({"simulate": {"ad_id": {"parent": "campaign_id"}, "campaign_id": {"parent": "ad_id"}}}, "without a circle"),
        ({"clicks": {"flag": "hit"}}, "expected --late 0"),
    ],
)
def test_what_cannot_be_simulated_is_refused(
    spark: SparkSession, contract: Contract, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    raw = contract.model_dump(mode="json", by_alias=True, exclude_defaults=True) | change
    with pytest.raises(DataError, match=said):
        write_log(spark, Contract.model_validate(raw), FEW, str(tmp_path / "log"))


def test_the_level_of_the_probabilities_is_found() -> None:
    assert base_log_odds({-1: 500, 0: 500}, bins_a_unit=50) == pytest.approx(-2.944, abs=0.001)


def test_shares_are_read_as_people_write_them() -> None:
    args = parser().parse_args(["--out", "x", "--late", "2%", "--corrupt", "0.5"])
    assert (args.late, args.corrupt) == (0.02, 0.5)
    with pytest.raises(SystemExit):
        parser().parse_args(["--out", "x", "--late", "3"])
