"""Killed with -9 in the middle and run again, every job ends where an undisturbed one does."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from conf.contract import Contract
from conf.settings import load_settings
from jobs.command import Context
from jobs.pipeline import STEPS
from jobs.simulate import BOOKS, write_log
from jobs.simulation import Plan
from tests.conftest import context_in
from tests.killing import PLAN, contents, killed, killed_contract, run, small, submitted
from tests.logs import as_yaml

KILLED = 3  # jobs a run, others each time; `make soak-log` kills those of the log at twenty moments each


@pytest.fixture(scope="module")
def contract(demo_contract: Contract) -> Contract:
    return killed_contract(demo_contract)


@pytest.fixture(scope="module")
def log(spark: SparkSession, contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed") / "log"
    write_log(spark, contract, Plan(**PLAN), str(folder))
    return folder


def test_jobs_killed_in_the_middle_and_run_again_end_as_undisturbed_ones(
    spark: SparkSession, make_context: Callable[[Contract], Context], contract: Contract, log: Path, tmp_path: Path
) -> None:
    undisturbed = small(make_context(contract))
    seconds = {job: run(job, undisturbed, log) for job in STEPS}
    expected = contents(undisturbed)
    for job in STEPS:
        run(job, undisturbed, log)
    assert contents(undisturbed) == expected, "a second run on the same input changes nothing"

    disturbed = small(context_in(tmp_path / "disturbed", spark, contract))
    contract_file = tmp_path / "killed.yaml"
    contract_file.write_text(as_yaml(contract))
    env = submitted(disturbed.settings.model_copy(update={"contract": contract_file}))
    rng = random.Random()  # another moment each time, told where the test fails
    doomed = rng.sample(list(STEPS), KILLED)
    for job in STEPS:
        if job in doomed:
            # up to more than was timed, in a warm session: a process of its own takes longer
            moment = rng.uniform(0, 1.6)
            print(f"{job} killed after {moment:.2f} of {seconds[job]:.1f} s")  # noqa: T201
            killed(job, ["--data", str(log)] if job == "ingest" else [], env, seconds[job] * moment)
        run(job, disturbed, log)
    assert contents(disturbed) == expected


def test_a_simulation_killed_and_run_again_writes_the_same_bytes(
    spark: SparkSession, contract: Contract, log: Path, tmp_path: Path
) -> None:
    settings = load_settings().model_copy(update={"state": tmp_path / "state", "contract": tmp_path / "killed.yaml"})
    (tmp_path / "killed.yaml").write_text(as_yaml(contract))
    again = tmp_path / "log"
    arguments = [f"--{name}={value}" for name, value in PLAN.items()]
    killed("simulate", [*arguments, "--out", str(again)], submitted(settings), 3.0)
    assert not (again / BOOKS).exists()
    write_log(spark, contract, Plan(**PLAN), str(again))
    assert files_below(again) == files_below(log)


def files_below(folder: Path) -> dict[str, bytes]:
    """The log's files; those of the truth are Parquet, whose values are the same but not their names."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
