"""Progressive validation on a real training set: each day by a model that ends before it, and the page that says so."""

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from conf.contract import Contract
from conf.settings import load_settings
from conf.tables import Tables
from feature_repo.catalogue import EVENT_TIMESTAMP
from jobs.command import Context
from jobs.evaluate import evaluate
from jobs.warehouse import Warehouse
from models.tracking import Registry
from tests.conftest import ID_KEY
from tests.training_rows import DAY_US, START_US, training_table

RECIPE = {"seeds": 1, "max_rounds": 20, "early_stopping_rounds": 5, "ridge_strengths": (0.003,)}
DAYS = 5


@pytest.fixture(scope="module")
def folder(spark: SparkSession, demo_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an evaluation of two days."""
    folder = tmp_path_factory.mktemp("evaluate")
    settings = load_settings()
    recipe = {**RECIPE, "presets": {"shallow": settings.train.presets["shallow"]}}
    settings = settings.model_copy(
        update={
            "state": folder, "warehouse": str(folder / "warehouse"), "mlflow": f"sqlite:///{folder / 'mlflow.db'}",
            "train": settings.train.model_copy(update=recipe),
        }
    )  # fmt: skip
    context = Context(settings, demo_contract, Warehouse(spark, Tables(str(settings.warehouse), demo_contract), ID_KEY), ID_KEY)
    table = training_table(demo_contract, 12_000, days=DAYS)
    context.warehouse.replace("training_set", spark.createDataFrame(table), partition_by=["date"])
    truth = pa.table({"impression_id": table["impression_id"], "probability": pa.array(np.full(len(table), 0.06))})
    spark.createDataFrame(truth).write.parquet(str(folder / "truth"))
    (folder / "truth" / "books.json").write_text("{}")
    counts = evaluate(context, argparse.Namespace(days=2, truth=str(folder / "truth")))
    at = table[EVENT_TIMESTAMP].cast(pa.int64()).to_numpy()
    recent = at >= START_US + (DAYS - 2) * DAY_US
    assert counts == {"days": 2, "rows": int(recent.sum()), "clicks": int(table["label"].to_numpy()[recent].sum())}
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> dict:  # type: ignore[type-arg]
    return dict(json.loads((folder / "evaluation" / "demo" / "evaluation.json").read_text()))


def test_each_day_is_judged_by_what_came_before_it(found: dict, demo_contract: Contract) -> None:  # type: ignore[type-arg]
    at = training_table(demo_contract, 12_000, days=DAYS)[EVENT_TIMESTAMP].cast(pa.int64()).to_numpy()
    for day, number in zip(found["days"], (DAYS - 2, DAYS - 1), strict=True):
        begin = START_US + number * DAY_US
        assert day["train_rows"] == int((at < begin).sum())
        assert day["rows"] == int(((at >= begin) & (at < begin + DAY_US)).sum())
        for name in ("ne", "logloss", "auc", "gauc", "average_precision", "calibration_ratio", "ece", "lift"):
            value, low, high = day[name]
            assert low <= high, name
            assert name == "ece" or low <= value <= high, name
    assert 0.5 < found["days"][0]["auc"][0] < 1


def test_pooled_days_ages_variants_and_withheld_keys_are_there(found: dict, demo_contract: Contract) -> None:  # type: ignore[type-arg]
    assert found["overall"]["rows"] == sum(day["rows"] for day in found["days"])
    assert [(age["days"], age["models"]) for age in found["age"]] == [(0, 2), (1, 1)]
    assert found["age"][0]["ne"][0] == pytest.approx(found["overall"]["ne"][0])
    groups = {of["group"]: of for of in found["ablation"]}
    assert set(groups) == {"context", "time of day and week", *demo_contract.keys}
    assert groups["user"]["redis_bytes"] > 0 == groups["context"]["redis_bytes"]
    assert all(of["vector_us"] > 0 for of in groups.values())
    assert found["curve"][-1]["lost"] == [0.0, 0.0, 0.0]
    assert {of["key"] for of in found["withheld"]} == {*demo_contract.keys, "all keys"}
    assert found["overall"]["over_truth"][0] < 1, "a constant is no truth"
    assert {of["slice"] for of in found["slices"]} >= {"all", "placement_id", "device", "user history", "hour (UTC)", "score"}


def test_the_page_is_whole_and_kept_in_mlflow(folder: Path, found: dict) -> None:  # type: ignore[type-arg]
    html = (folder / "evaluation" / "demo" / "evaluation.html").read_text()
    assert "<script" not in html
    for day in found["days"]:
        assert day["until"][:10] in html
    kept = list((folder / "mlartifacts").glob("demo/*/artifacts/evaluation.md"))
    assert len(kept) == 1
    assert Registry(f"sqlite:///{folder / 'mlflow.db'}", folder / "mlartifacts", "demo").champion() is None
