"""A log with every fault that was thought of: what the jobs count is what the log's own books say, to the last row."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from conf.contract import Contract
from conf.errors import DataError
from jobs.simulate import write_log
from jobs.simulation import Faults, Plan
from jobs.simulation_bad_rows import bad_rows
from jobs.simulation_rows import logs
from tests.conftest import another_size_of_machine, context_in
from tests.faulty import assert_books_hold, faulty_contract, groups_of_files, process, read_books
from tests.logs import changed

# more bad rows than a log of this size would have, so that every kind is there in both logs
PLAN = Plan(impressions=3_000, days=3, seed=11, duplicates=0.03, late=0.05, corrupt=0.08, faults=Faults())
KEYS = {"user": ["user_id"], "ad": ["ad_id"], "user_campaign": ["user_id", "campaign_id"]}


@pytest.fixture(scope="module", params=["json", "csv"])
def faulty(
    request: pytest.FixtureRequest, spark: SparkSession, demo_contract: Contract, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Contract, Path]:
    contract = changed(faulty_contract(demo_contract, request.param, refused="60%"), keys=KEYS)
    log = tmp_path_factory.mktemp(request.param) / "log"
    write_log(spark, contract, PLAN, str(log))
    return contract, log


@pytest.mark.parametrize(("faulty", "batches"), [("json", 1), ("json", 3), ("csv", 2)], indirect=["faulty"])
def test_every_count_is_the_books(spark: SparkSession, faulty: tuple[Contract, Path], tmp_path: Path, batches: int) -> None:
    contract, log = faulty
    context = context_in(tmp_path, spark, contract)
    groups = groups_of_files(log, batches, random.Random(batches))
    assert_books_hold(context, process(context, groups, tmp_path / "in"), log)


def test_the_books_know_every_fault(faulty: tuple[Contract, Path]) -> None:
    contract, log = faulty
    books = read_books(log)
    assert all(books["clicks"]["fates"].values())
    for name, files in logs(contract).items():
        kinds = bad_rows(contract, name, files)
        assert len(kinds) == 10
        expected = {reason for kind in kinds for reason in kind.reasons}
        assert expected == set(books[name]["refused"]) - {"rest of the file: unreadable"}
        assert books[name]["duplicates"] > 0.8 * books[name]["events"]


def test_the_same_arguments_give_the_same_bytes(spark: SparkSession, faulty: tuple[Contract, Path], tmp_path: Path) -> None:
    contract, log = faulty
    with another_size_of_machine(spark):
        write_log(spark, contract, PLAN, str(tmp_path / "log"))
    assert contents(tmp_path / "log") == contents(log)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("faults", "change", "said"),
    [
        (Faults(copies=4), {}, "--copies: found 4, expected 1 to 3"),
        (Faults(), {"clicks": {"flag": "hit", "event_time": {"column": "hit_at", "unit": "s"}}}, "a log of their own"),
        (Faults(), {"label": {"attribution_window": "1h", "complete_through": "2026-02-01"}}, "complete_through: expected none"),
    ],
)
def test_a_log_without_exact_books_is_refused(
    spark: SparkSession, demo_contract: Contract, tmp_path: Path, faults: Faults, change: dict[str, object], said: str
) -> None:
    raw = demo_contract.model_dump(mode="json", by_alias=True, exclude_defaults=True) | change
    with pytest.raises(DataError, match=said):
        write_log(spark, Contract.model_validate(raw), replace(PLAN, faults=faults), str(tmp_path / "log"))
