"""What vectors need beyond raw values, learned from rows."""

import pytest
from pyspark.sql import SparkSession

from conf.contract import Contract
from conf.settings import load_settings
from feature_repo.catalogue import LEVEL
from models.fitting import WEEKS, fit_state
from models.split import Slice
from tests.training_rows import DAY_US, START_US, training_table


@pytest.mark.parametrize(("days", "followed"), [(6, False), (7, True)])
def test_the_level_waits_for_its_window(spark: SparkSession, demo_contract: Contract, days: int, followed: bool) -> None:
    rows = spark.createDataFrame(training_table(demo_contract, 200))
    part = Slice(START_US, START_US + days * DAY_US, rows=200, clicks=12)
    names = fit_state(rows, demo_contract, load_settings().train, part).names
    assert (LEVEL in names) is followed


@pytest.mark.parametrize(("days", "seen"), [(7 * WEEKS - 1, False), (7 * WEEKS, True)])
def test_the_day_of_the_week_waits_for_weeks_of_log(spark: SparkSession, demo_contract: Contract, days: int, seen: bool) -> None:
    rows = spark.createDataFrame(training_table(demo_contract, 200))
    part = Slice(START_US, START_US + days * DAY_US, rows=200, clicks=12)
    names = fit_state(rows, demo_contract, load_settings().train, part).names
    assert ("day_of_week" in names) is seen
    assert "hour_of_day" in names
