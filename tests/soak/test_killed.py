"""The log's jobs killed with -9 at 20 random moments each: run again, each ends where an undisturbed one does."""

import random
import shutil
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from conf.contract import Contract
from jobs.command import Context
from jobs.simulate import write_log
from jobs.simulation import Plan
from tests.conftest import context_in
from tests.killing import ON_THE_LOG, PLAN, ended, killed, killed_contract, run, submitted, table_contents
from tests.logs import as_yaml

MOMENTS, SEED = 20, 1


@pytest.mark.soak
@pytest.mark.parametrize("job", ON_THE_LOG)
def test_a_job_killed_at_any_moment_and_run_again_ends_as_an_undisturbed_one(
    spark: SparkSession, demo_contract: Contract, tmp_path: Path, job: str
) -> None:
    contract, log = killed_contract(demo_contract), tmp_path / "log"
    write_log(spark, contract, Plan(**PLAN), str(log))
    (tmp_path / "killed.yaml").write_text(as_yaml(contract))
    undisturbed = context_in(tmp_path / "undisturbed", spark, contract)
    undisturbed.settings.state.mkdir()
    for earlier in ON_THE_LOG[: ON_THE_LOG.index(job)]:
        run(earlier, undisturbed, log)
    shutil.copytree(undisturbed.settings.state, tmp_path / "before")
    args = ["--data", str(log)] if job == "ingest" else []
    seconds = ended(job, args, _environment(undisturbed, tmp_path))  # as the killed ones start: cold
    expected = table_contents(undisturbed, {job})
    rng = random.Random(SEED)
    for number in range(MOMENTS):
        moment = rng.random()
        print(f"{job} killed after {moment:.2f} of {seconds:.1f} s")  # noqa: T201
        state = tmp_path / f"disturbed{number}"
        shutil.copytree(tmp_path / "before", state)
        context = context_in(state, spark, contract)
        killed(job, args, _environment(context, tmp_path), seconds * moment)
        run(job, context, log)
        assert table_contents(context, {job}) == expected
        shutil.rmtree(state)


def _environment(context: Context, folder: Path) -> dict[str, str]:
    return submitted(context.settings.model_copy(update={"contract": folder / "killed.yaml"}))
