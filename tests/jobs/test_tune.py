"""A tuning over a real training set: Spark, Optuna's and MLflow's databases and all; killed once, then gone on with."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

import conf.settings
from conf.contract import Contract
from conf.environment import environment
from conf.errors import DataError, UnavailableError
from conf.lease import lease
from conf.settings import CONF, ROOT, TreePreset, load_settings
from jobs.command import Context
from jobs.tune import parser, tune
from models.fitting import fit_state
from models.masking import Masks
from models.selection import choose
from models.shards import Shard, sharded
from models.split import time_split
from models.study import Tried, all_tried, opened
from models.tracking import Registry
from models.tuned_file import best_of
from models.workers import on_workers
from tests.conftest import ID_KEY_HEX, context_in
from tests.training_rows import training_table

SLOW = TreePreset(depth=1, learning_rate=0.02, l2=100.0, subsample=0.8, colsample=0.6, max_bins=64)  # easily beaten in 25 rounds
RECIPE = {"max_rounds": 25, "early_stopping_rounds": 5, "seeds": 1}
PRESETS = {"shallow": SLOW, "deep": SLOW.model_copy(update={"depth": 2})}
TRIALS = 9

pytestmark = pytest.mark.soak  # it starts, and kills, trainings by the dozen


@dataclass(frozen=True)
class Tuned:
    """A tuning that was killed, and what it came to when it was started again."""

    context: Context
    killed_at: int
    counts: Mapping[str, int]
    tried: list[Tried]

    @property
    def file(self) -> Path:
        return self.context.settings.state / "tuning" / "demo.yaml"


def args(*given: str) -> argparse.Namespace:
    return parser().parse_args(given)


def write(context: Context, rows: int) -> None:
    frame = context.warehouse.spark.createDataFrame(training_table(context.contract, rows, days=4))
    context.warehouse.replace("training_set", frame, partition_by=["date"])


def killed_at(context: Context, trial: int) -> int:
    """Tune in a process of its own and kill it, its workers too, soon after this trial has ended; the trials in its log."""
    recipe = {f"CLICKODDS_TRAIN__{name.upper()}": str(value) for name, value in RECIPE.items()}
    recipe["CLICKODDS_TRAIN__PRESETS"] = json.dumps({name: preset.model_dump() for name, preset in PRESETS.items()})
    java = {"SPARK_SUBMIT_OPTS": "-XX:TieredStopAtLevel=1"}
    env = {**os.environ, **environment(context.settings), "CLICKODDS_ID_KEY": ID_KEY_HEX, **recipe, **java}
    command = ["spark-submit", str(ROOT / "jobs" / "tune.py"), "--trials", "30"]
    said: list[str] = []
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    ) as process:
        try:
            for line in process.stdout or ():
                said.append(line)
                if f"tune: trial {trial}:" in line:
                    time.sleep(0.7)  # into the next trial
                    break
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    trials = sum("tune: trial " in line for line in said)
    assert trials == trial + 1, "".join(said[-20:])
    return trials


@pytest.fixture(scope="module")
def tuned(spark: SparkSession, demo_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    context = context_in(tmp_path_factory.mktemp("tune"), spark, demo_contract)
    recipe = context.settings.train.model_copy(update={**RECIPE, "presets": PRESETS})
    context = replace(context, settings=context.settings.model_copy(update={"train": recipe}))
    write(context, 4_000)
    before = killed_at(context, 3)
    counts = tune(context, args("--trials", str(TRIALS)))
    return Tuned(context, before, counts, trials_of(context))


def trials_of(context: Context) -> list[Tried]:
    """All trials of the one study there is."""
    registry = Registry.of(context.settings, context.contract)
    (parent,) = registry.client.search_runs([registry.experiment()], "tags.study LIKE 'demo%'")
    with opened(context.settings.state / "tuning" / "demo.db", parent.data.tags["study"]) as study:
        return all_tried(study)


def test_a_killed_tuning_goes_on_and_ends_with_as_many_trials_as_asked(tuned: Tuned) -> None:
    assert [trial.number for trial in tuned.tried] == list(range(TRIALS))
    assert [trial.preset for trial in tuned.tried[:2]] == ["shallow", "deep"]
    assert {trial.state for trial in tuned.tried[: tuned.killed_at]} <= {"complete", "pruned"}
    assert [trial.number for trial in tuned.tried if trial.state == "fail"] in ([], [tuned.killed_at])
    assert tuned.counts["trials"] == TRIALS


def test_every_trial_is_a_child_run_of_the_tunings_own(tuned: Tuned) -> None:
    registry = Registry.of(tuned.context.settings, tuned.context.contract)
    runs = registry.client.search_runs([registry.experiment()])
    (parent,) = (run for run in runs if "trial" not in run.data.tags)
    children = {int(run.data.tags["trial"]): run for run in runs if run is not parent}
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}
    assert parent.info.status == "FINISHED"
    assert [file.path for file in registry.client.list_artifacts(parent.info.run_id)] == ["demo.yaml"]
    assert len(runs) == TRIALS + 1
    for trial in tuned.tried:
        run = children[trial.number]
        assert run.info.status == ("FAILED" if trial.state == "fail" else "FINISHED")
        assert run.data.tags["state"] == trial.state
        assert run.data.metrics.get("logloss") == trial.logloss
        if trial.parameters:
            assert run.data.params == {name: str(value) for name, value in trial.parameters.model_dump().items()}
    assert parent.data.metrics["logloss"] <= parent.data.metrics["logloss_preset"]


def test_what_is_found_is_no_worse_than_the_presets(tuned: Tuned) -> None:
    found, preset = best_of(tuned.tried)
    presets = [trial.logloss for trial in tuned.tried if trial.preset]
    assert found.logloss is not None
    assert len(presets) == 2
    assert all(logloss is not None and found.logloss <= logloss for logloss in presets)
    assert preset.logloss == min(logloss for logloss in presets if logloss is not None)
    assert tuned.counts["best_trial"] == found.number


def test_a_presets_figure_is_the_one_that_training_chooses_by(tuned: Tuned) -> None:
    context, recipe = tuned.context, tuned.context.settings.train
    rows = context.warehouse.read("training_set")
    split = time_split(rows)
    fitted = fit_state(rows, context.contract, recipe, split.earlier)

    def task(shard: Shard) -> Mapping[str, bytes]:
        losses = choose(shard, recipe, split.cuts, Masks.of(fitted, recipe.masked), [0], 1.0).losses
        return {name: repr(loss).encode() for name, loss in losses.items()}

    losses = on_workers(sharded(rows.where(split.earlier.within()), fitted, 1), 1, 1, len(fitted.names), task)
    for trial in tuned.tried[:2]:
        assert trial.logloss == pytest.approx(float(losses[str(trial.preset)]), rel=1e-6)


def test_the_file_is_one_that_settings_read_beside_the_presets(
    tuned: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(CONF / "base.yaml", tmp_path)
    shutil.copy(tuned.file, tmp_path / "tuned.yaml")
    monkeypatch.setattr(conf.settings, "CONF", tmp_path)
    monkeypatch.setenv("CLICKODDS_ENV", "base")  # so that what load_settings sets is undone
    before = load_settings()
    after = load_settings("tuned")
    found, _ = best_of(tuned.tried)
    assert after.train.presets == {**before.train.presets, "tuned": found.parameters}
    assert isinstance(found.parameters, TreePreset)
    assert after.train.model_copy(update={"presets": before.train.presets}) == before.train
    header = [line for line in tuned.file.read_text().splitlines() if line.startswith("# ")]
    for said in ("found", "shallow", "deep"):
        assert any(line.split()[1] == said for line in header), "\n".join(header)
    assert sum("T" in line and line.endswith(" rows") for line in header) == 3, "the folds' dates"


def test_with_the_budget_spent_nothing_is_searched_and_another_table_is_another_study(
    tuned: Tuned, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "clickodds"):
        assert tune(tuned.context, args("--minutes", "0", "--out", str(tmp_path / "again.yaml"))) == tuned.counts
    assert (tmp_path / "again.yaml").read_bytes() == tuned.file.read_bytes()
    write(tuned.context, 2_000)
    out = tmp_path / "none.yaml"
    with caplog.at_level("INFO", "clickodds"):
        counts = tune(tuned.context, args("--minutes", "0", "--out", str(out)))
    assert counts["trials"] == 2, "the presets, whatever the budget"
    assert "nothing better than the preset" in caplog.text
    assert not out.exists()


def test_two_at_once_and_wrong_budgets_are_refused(tuned: Tuned, demo_contract: Contract, tmp_path: Path) -> None:
    with lease(tuned.context.settings.state / "tuning", "demo"), pytest.raises(UnavailableError, match="is at it"):
        tune(tuned.context, args())
    for wrong in (["--minutes", "-1"], ["--minutes", "nan"], ["--trials", "0"]):
        with pytest.raises(SystemExit, match="2"):
            args(*wrong)
    nothing = context_in(tmp_path, tuned.context.warehouse.spark, demo_contract)
    with pytest.raises(DataError, match=r"no such table yet, expected the one that jobs/build_training_set\.py writes"):
        tune(nothing, args())
