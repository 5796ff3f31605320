"""The two real logs by contract alone: every row accounted for, every label as a plain reading of the CSV gives it."""

import argparse
import csv
import gzip
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from pyspark.sql import functions as F

from conf.contract import Contract
from conf.contract_file import load_contract
from conf.settings import CONF
from jobs.command import Context
from jobs.ingest import ingest
from jobs.label import label


def amexpert_clicks(row: dict[str, str]) -> int:
    return int(row["is_click"])


def talkingdata_clicks(row: dict[str, str]) -> int:
    """An install within a day; the log is whole, so none is too late."""
    if row["is_attributed"] == "0":
        return 0
    shown, installed = (datetime.fromisoformat(row[name]) for name in ("click_time", "attributed_time"))
    return int(timedelta(0) <= installed - shown <= timedelta(days=1))


@pytest.mark.parametrize(
    ("name", "file", "clicked"),
    [
        ("amexpert", "impressions.csv.gz", amexpert_clicks),
        ("talkingdata", "clicks.csv.gz", talkingdata_clicks),
    ],
)
def test_a_real_log_is_taken_whole_and_labelled_right(
    make_context: Callable[[Contract], Context],
    real_logs: Path,
    name: str,
    file: str,
    clicked: Callable[[dict[str, str]], int],
) -> None:
    with gzip.open(real_logs / name / file, "rt") as lines:
        rows = list(csv.DictReader(lines))
    context = make_context(load_contract(CONF / "contracts" / f"{name}.yaml"))
    args = argparse.Namespace(data=str(real_logs / name), as_of=None)
    taken = ingest(context, args)
    assert [taken[f"impressions {what}"] for what in ("raw", "accepted", "duplicates", "refused")] == [len(rows), len(rows), 0, 0]
    label(context, args)
    found = context.warehouse.read("labels").agg(F.count("*"), F.sum("label"), F.count_distinct("impression_id")).collect()[0]
    assert tuple(found) == (len(rows), sum(map(clicked, rows)), len(rows))
