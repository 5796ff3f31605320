"""Workers in a barrier stage of a real Spark: the same bytes on every rerun, on two workers too, and resumed from segments."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from conf.contract import Contract
from conf.settings import load_settings
from feature_repo.vectorize import Fitted
from models.boosting import SEGMENT, Kept, boost
from models.collective import total
from models.fitting import fit_state
from models.ridge import fit_ridge
from models.shards import Shard, sharded
from models.split import time_split
from models.workers import on_workers
from tests.training_rows import training_table

ROUNDS = SEGMENT + 10


@pytest.fixture(scope="module")
def rows(spark: SparkSession, demo_contract: Contract) -> DataFrame:
    return spark.createDataFrame(training_table(demo_contract, 3_000, days=3)).cache()


@pytest.fixture(scope="module")
def fitted(rows: DataFrame, demo_contract: Contract) -> Fitted:
    return fit_state(rows, demo_contract, load_settings().train, time_split(rows).everything)


def trained(rows: DataFrame, fitted: Fitted, workers: int, kept: Kept | None = None) -> dict[str, bytes]:
    preset = load_settings().train.presets["shallow"]

    def task(shard: Shard) -> Mapping[str, bytes]:
        booster = boost(shard, preset, rounds=ROUNDS, seed=1, threads=1, kept=kept)
        (ridge,) = fit_ridge(shard.vectors, shard.labels, range(len(fitted.names)), [0.01])
        counts = total(np.array([len(shard), shard.labels.sum()], dtype=np.float64))
        return {"trees": bytes(booster.save_raw("ubj")), "ridge": repr(ridge).encode(), "counts": counts.tobytes()}

    return on_workers(sharded(rows, fitted, workers), workers, 1, len(fitted.names), task)


def test_two_workers_know_all_rows_and_end_in_the_same_bytes_again(
    rows: DataFrame, fitted: Fitted, tmp_path: Path
) -> None:
    alone, once, again = (trained(rows, fitted, workers) for workers in (1, 2, 2))
    assert once == again
    assert once["counts"] == alone["counts"], "sums over all rows"
    assert once["trees"] != alone["trees"], "another number of workers is another model"

    kept = Kept(tmp_path / "segments", "a training")
    assert trained(rows, fitted, 2, kept) == once
    left = sorted((tmp_path / "segments").glob("*.ubj"))
    assert [path.stem[-5:] for path in left] == [f"{SEGMENT:05}", f"{ROUNDS:05}"]
    left[1].unlink()
    assert trained(rows, fitted, 2, kept) == once, "resumed after the first segment"
    assert trained(rows.orderBy("label").repartition(3), fitted, 2) == once, "however the rows lie"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_task_that_fails_by_itself_is_not_tried_again(
    rows: DataFrame, fitted: Fitted, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    def task(shard: Shard) -> Mapping[str, bytes]:
        raise ValueError(f"{total(np.array([float(len(shard))]))[0]:.0f} rows are too few")

    with pytest.raises(Exception, match="3000 rows are too few"):
        on_workers(sharded(rows, fitted, workers), workers, 1, len(fitted.names), task)
    assert "a worker was lost" not in caplog.text
