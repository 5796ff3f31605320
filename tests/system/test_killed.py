"""Killed with -9 in the middle of each job and run again, the pipeline ends where an undisturbed one does."""

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
from conf.settings import ROOT
from jobs.command import Context
from jobs.pipeline import STEPS
from jobs.simulate import write_log
from jobs.simulation import Plan
from models.published import load_champion
from models.tracking import Registry
from tests.conftest import ID_KEY_HEX, context_in
from tests.logs import as_yaml, changed

# job -> how long it may run before it is killed: into the middle of its work on a machine of any speed
KILLED_AFTER_S = {"ingest": 6.0, "label": 1.0, "count": 4.0, "build_training_set": 2.0, "train": 6.0}


@pytest.fixture(scope="module")
def contract(demo_contract: Contract) -> Contract:
    return changed(demo_contract, name="killed", windows=["1h", "6h"], keys={"ad": ["ad_id"], "user": ["user_id"]})


@pytest.fixture(scope="module")
def log(spark: SparkSession, contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed") / "log"
    write_log(spark, contract, Plan(impressions=4_000, days=2, seed=3, duplicates=0.05, corrupt=0.01), str(folder))
    return folder


def small(context: Context) -> Context:
    """The context with a recipe of few rounds."""
    train = context.settings.train.model_copy(update={"seeds": 2, "max_rounds": 15})
    return Context(
        context.settings.model_copy(update={"train": train}), context.contract, context.warehouse, context.id_key
    )


def run(context: Context, log: Path) -> None:
    for job in STEPS.values():
        job(context, argparse.Namespace(data=str(log), as_of=None, version=None))


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


def killed_in(job: str, env: dict[str, str], log: Path) -> None:
    """Run the pipeline until `job` is at work, then kill its whole process group."""
    command = ["spark-submit", str(ROOT / "jobs" / "pipeline.py"), "--data", str(log)]
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    ) as pipeline:
        said = []
        for line in pipeline.stdout or ():
            said.append(line)
            if f"{job}: started" in line:
                break
        assert any(f"{job}: started" in line for line in said), "".join(said[-20:])
        time.sleep(KILLED_AFTER_S[job])
        assert pipeline.poll() is None
        os.killpg(pipeline.pid, signal.SIGKILL)


def test_a_pipeline_killed_in_every_job_ends_as_an_undisturbed_one(
    spark: SparkSession, make_context: Callable[[Contract], Context], contract: Contract, log: Path, tmp_path: Path
) -> None:
    undisturbed = small(make_context(contract))
    run(undisturbed, log)
    expected = contents(undisturbed)
    run(undisturbed, log)
    assert contents(undisturbed) == expected, "a second run on the same input changes nothing"

    disturbed = small(context_in(tmp_path / "disturbed", spark, contract))
    contract_file = tmp_path / "killed.yaml"
    contract_file.write_text(as_yaml(contract))
    settings = disturbed.settings.model_copy(update={"contract": contract_file})
    env = {
        **os.environ, **environment(settings), "CLICKODDS_ID_KEY": ID_KEY_HEX, "CLICKODDS_TRAIN__SEEDS": "2",
        "CLICKODDS_TRAIN__MAX_ROUNDS": "15",
    }  # fmt: skip
    for job in KILLED_AFTER_S:
        killed_in(job, env, log)
    run(disturbed, log)
    assert contents(disturbed) == expected
