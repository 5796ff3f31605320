"""A training on a standalone cluster of two workers, its executors or its driver killed with -9: it ends in the same bytes."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from conf.contract import Contract
from conf.environment import environment
from conf.settings import ROOT, Settings
from models.boosting import SEGMENT
from models.bundle import MANIFEST
from models.tracking import Registry
from tests.conftest import ID_KEY_HEX, context_in
from tests.standalone import Cluster, standalone_cluster
from tests.training_rows import training_table

ROWS, ROUNDS, SEEDS = 20_000, 200, 2
# so slow that no fit is done early
SLOW = {"depth": 4, "learning_rate": 0.01, "l2": 1.0, "subsample": 0.8, "colsample": 0.6, "max_bins": 64}
RECIPE = {
    "num_workers": 2, "threads": 1, "seeds": SEEDS, "max_rounds": ROUNDS, "early_stopping_rounds": ROUNDS,
    "presets": json.dumps({"shallow": SLOW, "deep": SLOW}), "ridge_strengths": "[0.003]",
}  # fmt: skip
LIMIT_S = 600

Segments = dict[str, int]  # name -> when it was written, nanoseconds


@dataclass
class Job:
    """A training in a process of its own, and the segments that it was seen to leave; it removes them when it is done."""

    process: subprocess.Popen[bytes]
    state: Path
    said: Path
    seen: Segments = field(default_factory=dict)

    def until(self, segments: int) -> Segments:
        """What was seen until there were so many segments, or the job had ended."""
        deadline = time.monotonic() + LIMIT_S
        while self.process.poll() is None and len(self.seen) < segments:
            assert time.monotonic() < deadline, self.said.read_text()[-3_000:]
            time.sleep(0.02)
            for path in self.state.glob("training/*/*.ubj"):
                try:
                    self.seen[path.name] = path.stat().st_mtime_ns
                except FileNotFoundError:  # removed in between
                    continue
        return dict(self.seen)

    def to_the_end(self) -> Segments:
        """All that was seen of a job that ended well."""
        found = self.until(10**6)
        assert self.process.returncode == 0, self.said.read_text()[-3_000:]
        return found


@dataclass(frozen=True)
class Trial:
    """A cluster, and settings of which each training takes another state folder."""

    cluster: Cluster
    settings: Settings
    contract: Contract

    @contextmanager
    def training(self, name: str) -> Iterator[Job]:
        """The training of the state folder `name`, started, and killed at the block's end if it has not ended."""
        state = self.settings.state / name
        state.mkdir(exist_ok=True)
        said = state / "said.log"
        command = ["spark-submit", "--master", self.cluster.master, "--conf", "spark.executor.cores=1", "jobs/train.py"]
        with said.open("ab") as out:
            process = subprocess.Popen(
                command, cwd=ROOT, env=_env(self.settings, state), stdout=out, stderr=subprocess.STDOUT, process_group=0
            )
        try:
            yield Job(process, state, said)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def bundle(self, name: str) -> dict[str, bytes]:
        """The files of the one version that the training registered, but for where they came from."""
        state = self.settings.state / name
        version = Registry(f"sqlite:///{state / 'mlflow.db'}", state / "mlartifacts", self.contract.name).version()
        assert version.number == "1"
        return {path.name: path.read_bytes() for path in version.folder.iterdir() if path.name != MANIFEST}


@pytest.fixture(scope="module")
def trial(spark: SparkSession, demo_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    folder = tmp_path_factory.mktemp("chaos")
    context = context_in(folder, spark, demo_contract)
    rows = spark.createDataFrame(training_table(demo_contract, ROWS, days=7))
    context.warehouse.replace("training_set", rows, partition_by=["date"])
    with standalone_cluster(folder / "cluster", 2, _env(context.settings, folder)) as cluster:
        yield Trial(cluster, context.settings, demo_contract)


@pytest.fixture(scope="module")
def undisturbed(trial: Trial) -> tuple[Segments, dict[str, bytes]]:
    """The segments and the bundle of a training that nobody kills."""
    with trial.training("undisturbed") as job:
        segments = job.to_the_end()
    assert len(segments) > 2 * SEEDS, "fits of one segment cannot be resumed"
    assert any(name.endswith(f"-{2 * SEGMENT:05}.ubj") for name in segments)
    return segments, trial.bundle("undisturbed")


@pytest.mark.chaos
def test_executors_killed_in_the_middle_change_nothing(trial: Trial, undisturbed: tuple[Segments, dict[str, bytes]]) -> None:
    segments, bundle = undisturbed
    with trial.training("executors") as job:
        for number in (1, 1 + len(segments) // 2):  # both of the first executors, one after the other
            before = job.until(number)
            assert job.process.poll() is None, job.said.read_text()[-3_000:]
            assert len(before) < len(segments)
            os.kill(trial.cluster.oldest_executor(), signal.SIGKILL)
        after = job.to_the_end()
    said = job.said.read_text()
    assert "a worker was lost, attempt 2 of 4" in said, "killed in the middle of the workers' stage"
    assert before.items() <= after.items(), "what was kept was taken, not made again"
    assert after.keys() == segments.keys()
    assert trial.bundle("executors") == bundle


@pytest.mark.chaos
def test_a_driver_killed_in_the_middle_and_started_again_changes_nothing(
    trial: Trial, undisturbed: tuple[Segments, dict[str, bytes]]
) -> None:
    segments, bundle = undisturbed
    before: Segments = {}
    for number in (1, 1 + len(segments) // 2):
        with trial.training("driver") as job:
            seen = job.until(number)
            assert job.process.poll() is None
        assert before.items() <= seen.items(), "what was kept was taken, not made again"
        assert len(before) < len(seen) < len(segments)
        before = seen
    with trial.training("driver") as job:
        after = job.to_the_end()
    assert before.items() <= after.items()
    assert after.keys() == segments.keys()
    assert trial.bundle("driver") == bundle


def _env(settings: Settings, state: Path) -> dict[str, str]:
    own = {
        "CLICKODDS_STATE": str(state), "CLICKODDS_WAREHOUSE": str(settings.warehouse), "CLICKODDS_ID_KEY": ID_KEY_HEX,
        "PYTHONPATH": str(ROOT), "CLICKODDS_MLFLOW": f"sqlite:///{state / 'mlflow.db'}",
    }  # fmt: skip
    recipe = {f"CLICKODDS_TRAIN__{name.upper()}": str(value) for name, value in RECIPE.items()}
    return {**os.environ, **environment(settings), **own, **recipe}
