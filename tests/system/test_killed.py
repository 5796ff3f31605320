"""Killed with -9 in the middle and run again, every job ends where an undisturbed one does."""

import argparse
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from conf.contract import Contract
from conf.environment import environment
from conf.settings import ROOT, Settings, load_settings
from jobs.command import Context
from jobs.pipeline import STEPS
from jobs.simulate import BOOKS, write_log
from jobs.simulation import Plan
from models.published import load_champion
from models.tracking import Registry
from tests.conftest import ID_KEY_HEX, context_in
from tests.logs import as_yaml, changed

PLAN: dict[str, Any] = {"impressions": 4_000, "days": 2, "seed": 3, "duplicates": 0.05, "corrupt": 0.01}
RECIPE = {"seeds": 1, "max_rounds": 15}
KILLED_AT = 0.5  # of the time that the job took undisturbed, in a session that was warm: no process of its own ends as early


@pytest.fixture(scope="module")
def contract(demo_contract: Contract) -> Contract:
    return changed(demo_contract, name="killed", windows=["1h", "6h"], keys={"ad": ["ad_id"]})


@pytest.fixture(scope="module")
def log(spark: SparkSession, contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed") / "log"
    write_log(spark, contract, Plan(**PLAN), str(folder))
    return folder


def small(context: Context) -> Context:
    """The context with a recipe of few rounds."""
    train = context.settings.train.model_copy(update=RECIPE)
    return Context(
        context.settings.model_copy(update={"train": train}), context.contract, context.warehouse, context.id_key
    )


def run(job: str, context: Context, log: Path) -> float:
    """Seconds that the job took in the session at hand."""
    start = time.monotonic()
    STEPS[job](context, argparse.Namespace(data=str(log), as_of=None, version=None))
    return time.monotonic() - start


def contents(context: Context) -> dict[str, Any]:
    """What the tables hold, whatever the order of rows and files; the champion; how often anything was registered."""
    found: dict[str, Any] = {}
    for table in context.warehouse.tables.made_by:
        rows = context.warehouse.read(table)
        values = [F.to_json(name) if kind.startswith("map") else F.col(name) for name, kind in rows.dtypes]
        whole = rows.select(F.xxhash64(*values).cast("decimal(38,0)").alias("row"))
        found[table] = tuple(whole.agg(F.count("*"), F.sum("row"), F.count_distinct("row")).collect()[0])
    champion = load_champion(context.settings.bundles(context.contract.name))
    assert champion is not None
    registry = Registry(str(context.settings.mlflow), context.settings.state / "mlartifacts", context.contract.name)
    found["champion"], found["newest version"] = champion.bundle.identity, registry.version().number
    return found


def killed(job: str, arguments: list[str], env: dict[str, str], after_s: float) -> None:
    """Start a job, and kill its whole process group so long after it began its work."""
    command = ["spark-submit", str(ROOT / "jobs" / f"{job}.py"), *arguments]
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    ) as process:
        said = []
        for line in process.stdout or ():
            said.append(line)
            if f"{job}: started" in line:
                break
        assert any(f"{job}: started" in line for line in said), "".join(said[-20:])
        time.sleep(after_s)
        assert process.poll() is None, f"{job} ended within {after_s:.1f} s"
        os.killpg(process.pid, signal.SIGKILL)


def submitted(settings: Settings) -> dict[str, str]:
    """The environment of a job's own process."""
    train = {f"CLICKODDS_TRAIN__{name.upper()}": str(value) for name, value in RECIPE.items()}
    return {**os.environ, **environment(settings), "CLICKODDS_ID_KEY": ID_KEY_HEX, **train}


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
    for job in STEPS:
        killed(job, ["--data", str(log)] if job == "ingest" else [], env, seconds[job] * KILLED_AT)
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
