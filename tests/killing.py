"""Jobs that are killed with -9: the log that they work on, how they are started and killed, what must be there afterwards."""

import argparse
import os
import signal
import subprocess
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyspark.sql import functions as F

from conf.contract import Contract
from conf.environment import environment
from conf.settings import ROOT, Settings
from jobs.command import Context
from jobs.pipeline import STEPS
from models.published import load_champion
from models.tracking import Registry
from tests.conftest import ID_KEY_HEX
from tests.logs import changed

PLAN: dict[str, Any] = {"impressions": 4_000, "days": 2, "seed": 3, "duplicates": 0.05, "corrupt": 0.01}
RECIPE = {"seeds": 1, "max_rounds": 15, "baseline_rows": 0}
ON_THE_LOG = ("ingest", "label", "count", "build_training_set")


def killed_contract(demo: Contract) -> Contract:
    return changed(demo, name="killed", windows=["1h", "6h"], keys={"ad": ["ad_id"]})


def small(context: Context) -> Context:
    """The context with a recipe of few rounds."""
    train = context.settings.train.model_copy(update=RECIPE)
    return Context(context.settings.model_copy(update={"train": train}), context.contract, context.warehouse, context.id_key)


def run(job: str, context: Context, log: Path) -> float:
    """Seconds that the job took in the session at hand."""
    start = time.monotonic()
    STEPS[job](context, argparse.Namespace(data=str(log), as_of=None, version=None))
    return time.monotonic() - start


def table_contents(context: Context, jobs: Container[str]) -> dict[str, Any]:
    """What the tables of `jobs` hold, whatever the order of rows and files."""
    found: dict[str, Any] = {}
    for table, job in context.warehouse.tables.made_by.items():
        if job not in jobs:
            continue
        rows = context.warehouse.read(table)
        values = [F.to_json(name) if kind.startswith("map") else F.col(name) for name, kind in rows.dtypes]
        whole = rows.select(F.xxhash64(*values).cast("decimal(38,0)").alias("row"))
        found[table] = tuple(whole.agg(F.count("*"), F.sum("row"), F.count_distinct("row")).collect()[0])
    return found


def contents(context: Context) -> dict[str, Any]:
    """What all tables hold; the champion; how often anything was registered."""
    found = table_contents(context, STEPS)
    champion = load_champion(context.settings.bundles(context.contract.name))
    assert champion is not None
    registry = Registry.of(context.settings, context.contract)
    found["champion"], found["newest version"] = champion.bundle.identity, registry.version().number
    return found


def killed(job: str, arguments: list[str], env: dict[str, str], after_s: float) -> None:
    """Start a job, and kill its whole process group so long after it began; one that has ended by then must have ended well."""
    with _started(job, arguments, env) as process:
        time.sleep(after_s)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            assert process.returncode == 0, process.stdout.read() if process.stdout else ""


def ended(job: str, arguments: list[str], env: dict[str, str]) -> float:
    """Seconds that a job took in a process of its own, from when it said that it began."""
    with _started(job, arguments, env) as process:
        start = time.monotonic()
        said, _ = process.communicate()
        assert process.returncode == 0, said
    return time.monotonic() - start


@contextmanager
def _started(job: str, arguments: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
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
        yield process


def submitted(settings: Settings) -> dict[str, str]:
    """The environment of a job's own process."""
    train = {f"CLICKODDS_TRAIN__{name.upper()}": str(value) for name, value in RECIPE.items()}
    # a process that lives for seconds is done sooner with the compiler that warms up fast
    java = {"SPARK_SUBMIT_OPTS": "-XX:TieredStopAtLevel=1"}
    return {**os.environ, **environment(settings), "CLICKODDS_ID_KEY": ID_KEY_HEX, **train, **java}
