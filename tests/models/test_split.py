"""The split in time, and what no model can be trained from."""

import pytest
from pyspark.sql import SparkSession

from conf.contract import Contract
from conf.errors import DataError
from conf.settings import load_settings
from models.split import split_tally, time_split, utc
from models.training import train_bundle

HOUR_US = 3_600_000_000
SCHEMA = "event_timestamp timestamp, label int"


def test_the_cuts_are_full_hours_and_each_part_is_an_eighth() -> None:
    tally = [(hour * HOUR_US, 10, 1, 0) for hour in range(16)]
    split = split_tally(tally, HOUR_US)
    assert split is not None
    assert [split.earlier.rows, split.test.rows] == [140, 20]
    assert split.cuts == tuple(hour * HOUR_US for hour in (8, 10, 12, 14))
    assert (split.earlier.clicks, split.test.clicks) == (14, 2)
    assert (split.everything.rows, split.earlier.until_us) == (160, split.test.from_us)


def test_the_test_may_begin_where_it_is_told_to() -> None:
    tally = [(hour * HOUR_US, 10, 1, 0) for hour in range(21)]
    split = split_tally(tally, HOUR_US, 7 * HOUR_US)
    assert split is not None
    assert [split.earlier.rows, split.test.rows] == [70, 140]
    assert split.cuts == tuple(hour * HOUR_US for hour in (4, 5, 6, 7))
    assert split_tally(tally, HOUR_US, 0) is None
    assert split_tally(tally, HOUR_US, 21 * HOUR_US) is None


def test_a_slice_left_empty_by_the_full_hour_is_no_split() -> None:
    assert split_tally([(0, 100, 1, 0), (HOUR_US, 1, 0, 0)], HOUR_US) is None


def test_a_log_of_one_hour_is_cut_by_the_minute(spark: SparkSession) -> None:
    rows = spark.createDataFrame([(utc(minute * 60_000_000), minute % 2) for minute in range(60)], SCHEMA)
    split = time_split(rows)
    assert split.cuts == tuple(minute * 60_000_000 for minute in (29, 37, 44, 52))
    assert split.test.from_us == 52 * 60_000_000
    assert rows.where(split.test.within()).count() == split.test.rows == 8


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        pytest.param([], "no rows", id="empty table"),
        pytest.param([0] * 20, "no clicks at all among 20 rows", id="no clicks at all"),
        pytest.param([1] * 20, "clicks only", id="no non-clicks"),
        pytest.param([0, 1, 2, 2, -1, None], "label 2 in 2 rows, null in 1 rows, -1 in 1 rows", id="labels other than 0 and 1"),
        pytest.param([0, 1], "2 rows at 2 different times", id="fewer rows than slices"),
    ],
)
def test_refused_with_what_was_found(spark: SparkSession, demo_contract: Contract, labels: list[int | None], said: str) -> None:
    rows = spark.createDataFrame([(utc(row * HOUR_US), label) for row, label in enumerate(labels)], SCHEMA)
    with pytest.raises(DataError, match=said) as refused:
        train_bundle(rows, demo_contract, load_settings().train, "0" * 16)
    assert refused.value.exit_code == 65


def test_clicks_in_the_test_slice_alone_cannot_be_tested(spark: SparkSession, demo_contract: Contract) -> None:
    rows = spark.createDataFrame([(utc(row * HOUR_US), int(row == 39)) for row in range(40)], SCHEMA)
    with pytest.raises(DataError, match="0 clicks in the 35 rows before the test slice"):
        train_bundle(rows, demo_contract, load_settings().train, "0" * 16)
