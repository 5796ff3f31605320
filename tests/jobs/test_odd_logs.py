"""Training on training sets that nobody would wish for: hardly a click, none where one is needed, columns that say nothing."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from conf.contract import Contract
from jobs.train import train
from models.bundle import Bundle, load_bundle
from models.fitting import MAX_VOCABULARY
from models.tracking import Registry
from tests.conftest import context_in
from tests.training_rows import training_table

ARGS = argparse.Namespace()
RECIPE = {"max_rounds": 40, "early_stopping_rounds": 5, "seeds": 1, "ridge_strengths": (0.003,)}


@dataclass(frozen=True)
class Trained:
    bundle: Bundle
    said: str

    @property
    def test(self) -> dict[str, Any]:
        return dict(self.bundle.metrics["test"])


Train = Callable[[pa.Table], Trained]


@pytest.fixture
def trained(spark: SparkSession, demo_contract: Contract, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Train:
    """Trains on a table; the bundle as it is read back from where it was registered, and what the log said."""

    def run(rows: pa.Table) -> Trained:
        context = context_in(tmp_path, spark, demo_contract)
        recipe = context.settings.train.model_copy(update=RECIPE)
        settings = context.settings.model_copy(update={"train": recipe})
        context = replace(context, settings=settings)
        context.warehouse.replace("training_set", spark.createDataFrame(rows), partition_by=["date"])
        with caplog.at_level("INFO", "clickodds"):
            train(context, ARGS)
        version = Registry.of(settings, demo_contract).version()
        return Trained(load_bundle(version.folder, identity=version.identity), caplog.text)

    return run


def with_column(rows: pa.Table, name: str, values: Any) -> pa.Table:
    field = rows.schema.field(name)
    return rows.set_column(rows.schema.get_field_index(name), field, pa.array(values, type=field.type))


def with_labels(rows: pa.Table, clicked: np.ndarray[Any, Any]) -> pa.Table:
    return with_column(rows, "label", clicked.astype(np.int32))


def answers(bundle: Bundle, rows: pa.Table) -> np.ndarray[Any, Any]:
    """Probabilities of a table's rows."""
    batches = rows.combine_chunks().to_batches()
    return np.concatenate([bundle.probabilities(batch) for batch in batches])


def test_twenty_clicks_make_a_model_that_is_no_worse_than_none_and_figures_that_say_how_little_they_know(
    trained: Train, demo_contract: Contract
) -> None:
    rows = training_table(demo_contract, 2_000, days=4)
    made = trained(with_labels(rows, np.isin(np.arange(2_000), np.arange(50, 2_000, 100))))
    assert sum(made.bundle.metrics["split"][part]["clicks"] for part in ("earlier", "test")) == 20
    low, high = made.test["difference"]
    assert low < 0 < high, "no worse than the constant, and not surely better"
    assert made.test["ne"] < 1.05
    assert answers(made.bundle, rows).sum() == pytest.approx(20, rel=0.25), "as many clicks as there were"
    (overall,) = (part for part in made.bundle.metrics["slices"] if part["slice"] == "all")
    assert overall["ratio_interval"][1] - overall["ratio_interval"][0] > 0.5
    assert made.bundle.calibrator.kind == "none"


@pytest.mark.parametrize(("from_share", "until_share"), [(6 / 8, 7 / 8), (7 / 8, 1.0)], ids=["last fold", "test slice"])
def test_without_a_click_in_a_part_the_rest_decides_and_the_log_warns(
    trained: Train, demo_contract: Contract, from_share: float, until_share: float
) -> None:
    rows = training_table(demo_contract, 3_000, days=4)
    place = np.arange(3_000) / 3_000
    # an hour wider, because cuts are on the hour
    none = (place >= from_share - 1 / 96) & (place < until_share + 1 / 96)
    made = trained(with_labels(rows, np.where(none, 0, rows["label"].to_numpy())))
    assert np.isfinite(answers(made.bundle, rows)).all()
    if until_share == 1.0:
        assert made.test["clicks"] == 0
        assert made.test["auc"] is None
        assert made.test["calibration_ratio"] is None
        assert "no clicks in the" in made.said
    else:
        assert made.bundle.metrics["choice"]["folds"] == 2
        assert "1 of 3 folds without clicks on both sides of a cut" in made.said


@pytest.mark.soak
def test_columns_that_say_nothing_or_far_too_much_break_nothing(trained: Train, demo_contract: Contract) -> None:
    many = 110_000
    rows = training_table(demo_contract, many, days=4)
    rows = with_column(rows, "placement_id", ["everywhere"] * many)
    rows = with_column(rows, "age", [None] * many)
    rows = with_column(rows, "campaign_id", [f"campaign-{min(row, 100_000)}" for row in range(many)])
    made = trained(rows)
    assert made.bundle.fitted.vocabularies["placement_id"] == ("everywhere",)
    assert made.bundle.fitted.vocabularies["campaign_id"] == ("campaign-100000",), "the others are rare ones"
    assert MAX_VOCABULARY < 100_000
    asked = rows.slice(0, 1_000)
    first = answers(made.bundle, asked)
    assert ((first > 0) & (first < 1)).all()
    assert first.tobytes() == answers(made.bundle, asked).tobytes()
    aged = answers(made.bundle, with_column(asked, "age", [40.0] * 1_000))
    assert np.isfinite(aged).all(), "a value where training saw none"
