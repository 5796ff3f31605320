"""Order of scores: sums by Spark against scikit-learn on the same rows, and per user by hand."""

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from sklearn.metrics import average_precision_score, roc_auc_score

from conf.contract import Contract
from models.ranking import Float64, gain, gauc, order_figures, ranked
from tests.training_rows import training_table

ROWS = 6_000


def score(batch: pa.RecordBatch) -> Float64:
    """Some probability that knows a little, with ties, in bins of their own."""
    clicks = np.asarray(batch.column("user__clicks_7d").to_numpy(zero_copy_only=False), dtype=np.float64)
    return np.asarray(1 / (1 + np.exp(3 - np.minimum(clicks, 6) / 4)), dtype=np.float64)


@pytest.fixture(scope="module")
def table(demo_contract: Contract) -> pa.Table:
    return training_table(demo_contract, ROWS)


def test_figures_are_scikit_learns(spark: SparkSession, demo_contract: Contract, table: pa.Table) -> None:
    labels, p = table["label"].to_numpy(), score(table.combine_chunks().to_batches()[0])
    found = ranked(spark.createDataFrame(table).repartition(3), score, demo_contract)
    figures = order_figures(found)
    expected = {"auc": roc_auc_score(labels, p), "average_precision": average_precision_score(labels, p)}
    for name, value in expected.items():
        assert figures[name][0] == pytest.approx(value, abs=1e-9), name
        assert figures[name][1] < value < figures[name][2], name
    assert figures["ece"][0] >= abs(p.mean() - labels.mean()) - 1e-9
    top = np.argsort(-p, kind="stable")[: ROWS // 10]
    assert figures["lift"][0] == pytest.approx(labels[top].mean() / labels.mean(), rel=0.1), "but for ties at the border"
    curve = gain(found)
    assert curve[-1] == pytest.approx([1.0, 1.0])
    assert np.all(np.diff(curve, axis=0) >= 0)


def test_gauc_is_the_mean_of_the_users_by_their_rows(spark: SparkSession, demo_contract: Contract, table: pa.Table) -> None:
    labels, p = table["label"].to_numpy(), score(table.combine_chunks().to_batches()[0])
    users = np.array(table["user_id"].to_pylist())
    areas, rows = 0.0, 0
    for user in np.unique(users):
        of = users == user
        if 0 < labels[of].sum() < of.sum():
            areas += of.sum() * roc_auc_score(labels[of], p[of])
            rows += int(of.sum())
    found = gauc(spark.createDataFrame(table).repartition(3), score, demo_contract)
    assert found is not None
    assert found[0] == pytest.approx(areas / rows, abs=1e-12)
    assert found[1] < found[0] < found[2]


def test_weights_count_as_rows(spark: SparkSession, demo_contract: Contract, table: pa.Table) -> None:
    clicked = table.filter(pa.array(table["label"].to_numpy() == 1))
    twice = pa.concat_tables([table, clicked])
    heavy = table.set_column(table.column_names.index("weight"), "weight", pa.array(1.0 + table["label"].to_numpy()))
    one, other = (order_figures(ranked(spark.createDataFrame(rows), score, demo_contract)) for rows in (twice, heavy))
    assert {name: value[0] for name, value in one.items()} == pytest.approx({name: value[0] for name, value in other.items()})
