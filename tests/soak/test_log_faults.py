"""Long fault runs: logs of 300,000 impressions with every fault, in shuffled batches, against their own books."""

import random
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from conf.contract import Contract
from jobs.simulate import write_log
from jobs.simulation import Faults, Plan
from tests.conftest import context_in
from tests.faulty import assert_books_hold, faulty_contract, groups_of_files, process

IMPRESSIONS, BATCHES = 300_000, 6


@pytest.mark.soak
@pytest.mark.parametrize(("seed", "format_"), [(1, "json"), (2, "csv"), (3, "json")])
def test_a_long_log_with_every_fault_is_counted_exactly(
    spark: SparkSession, demo_contract: Contract, tmp_path: Path, seed: int, format_: str
) -> None:
    plan = Plan(impressions=IMPRESSIONS, days=14, seed=seed, duplicates=0.01, late=0.05, corrupt=0.01, faults=Faults())
    # a batch of few good rows and a file of bad ones may have more than the log has as a whole
    contract = faulty_contract(demo_contract, format_, refused="10%")
    log = tmp_path / "log"
    write_log(spark, contract, plan, str(log))
    context = context_in(tmp_path, spark, contract)
    groups = groups_of_files(log, BATCHES, random.Random(seed))
    assert_books_hold(context, process(context, groups, tmp_path / "in"), log)
