"""A model of a part of the negatives promises what comes among all rows: the correction, once, in every part of the margin."""

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from conf.contract import Contract
from conf.settings import load_settings
from feature_repo.vectorize import Fitted, vectorize
from models.assembly import assembled, counters_of, fit_model, with_absences, with_level
from models.bundle import Bundle
from models.calibration import Calibrator
from models.level import level_of
from models.masking import Masks, masked
from models.recalibration import scored_slices
from models.selection import Choice
from models.shards import Shard
from tests.training_rows import DAY_US, START_US, training_table

NEGATIVES = 0.25


@pytest.fixture(scope="module")
def rows(demo_contract: Contract) -> pa.Table:
    return training_table(demo_contract, 40_000, days=4)


def kept(rows: pa.Table) -> pa.Table:
    """The clicked rows and NEGATIVES of the others."""
    draw = np.random.default_rng(0).uniform(size=len(rows))
    return rows.filter(pa.array((rows["label"].to_numpy() == 1) | (draw < NEGATIVES)))


def fitted_on(rows: pa.Table, contract: Contract, ridge: float | None) -> Bundle:
    raw = rows.combine_chunks().to_batches()[0]
    labels = np.asarray(raw.column("label"), dtype=np.int8)
    clicks = float(labels.sum())
    fitted = Fitted.of(
        contract, base_rate=clicks / (clicks + (len(labels) - clicks) / NEGATIVES), strength=20.0,
        vocabularies={name: () for name, column in contract.columns.items() if column.type == "category"},
    )  # fmt: skip
    shard = Shard(vectorize(raw, fitted), labels, np.zeros(len(labels), np.int64), np.arange(len(labels), dtype=np.uint64))
    recipe = load_settings().train.model_copy(update={"seeds": 2})
    masks = Masks.of(fitted, recipe.masked)
    choice = Choice("shallow", 120, ridge, Calibrator(), 0, {})
    made = fit_model(masked(shard, masks), choice, recipe, counters_of(fitted.features))
    made = with_level(with_absences(made, shard, masks, NEGATIVES), shard, level_of(fitted.features))
    trees, part = assembled(made, fitted, NEGATIVES)
    return Bundle("trees", contract.hash, "key", fitted, Calibrator(), trees, part)


@pytest.mark.parametrize("ridge", [None, 0.03])
def test_all_rows_are_promised_their_clicks(rows: pa.Table, demo_contract: Contract, ridge: float | None) -> None:
    bundle = fitted_on(kept(rows), demo_contract, ridge)
    promised = bundle.probabilities(rows.combine_chunks().to_batches()[0]).sum()
    assert promised == pytest.approx(rows["label"].to_numpy().sum(), rel=0.06)


def test_a_recalibration_counts_the_rows_that_were_kept(spark: SparkSession, rows: pa.Table, demo_contract: Contract) -> None:
    some = kept(rows)
    bundle = fitted_on(some, demo_contract, None)
    weights = np.where(some["label"].to_numpy() == 1, 1.0, 1 / NEGATIVES)
    weighed = some.set_column(some.column_names.index("weight"), "weight", pa.array(weights))
    cuts = [START_US, START_US + 2 * DAY_US, START_US + 4 * DAY_US]
    slices = scored_slices(spark.createDataFrame(weighed), bundle, cuts, NEGATIVES)
    assert [of.negatives for of in slices] == [NEGATIVES] * 2
    assert sum(of.counts.sum() for of in slices) == pytest.approx(len(some))
    assert sum(of.weights.sum() for of in slices) == pytest.approx(weights.sum())
    assert sum(of.clicks for of in slices) == some["label"].to_numpy().sum()
