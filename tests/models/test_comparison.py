"""Ours against baselines: figures as scikit-learn has them, weights, and what cannot be fitted."""

from math import isnan

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from conf.contract import Contract, Sampling
from models.baselines import Rows
from models.bundle import Bundle
from models.comparison import Comparison, compare
from tests.small_models import eighths, small_bundle
from tests.training_rows import training_table

CHEAP = ["constant", "trailing", "ad rate"]
FITTED = ["lr", "ftrl", "xgb", "leaves + lr"]


@pytest.fixture(scope="module")
def table(demo_contract: Contract) -> pa.Table:
    return training_table(demo_contract, 4_000)


@pytest.fixture(scope="module")
def bundle(demo_contract: Contract, table: pa.Table) -> Bundle:
    return small_bundle(demo_contract, table.slice(0, 3_500))


def changed(table: pa.Table, column: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(column), table.schema.field(column), values)


def compared(bundle: Bundle, table: pa.Table, contract: Contract) -> Comparison:
    return compare(bundle, Rows.of(table, bundle.fitted), eighths(table), contract)


def test_figures_are_scikit_learns_with_weights(bundle: Bundle, table: pa.Table, demo_contract: Contract) -> None:
    weights = np.random.default_rng(1).uniform(0.5, 5, 4_000)
    weighted = changed(table, "weight", pa.array(weights))
    found = compared(bundle, weighted, demo_contract)
    assert list(found.figures) == ["ours", *CHEAP, *FITTED, "xgb + ftrl"]
    assert (found.train_rows, found.rows, found.left_out) == (3_500, 500, {})
    test = weighted.slice(3_500).combine_chunks().to_batches()[0]
    p, labels, w = bundle.probabilities(test), np.asarray(test.column("label")), weights[3_500:]
    ours = found.figures["ours"]
    loss = log_loss(labels, p, sample_weight=w)
    assert ours["logloss"] == pytest.approx(loss)
    assert ours["ne"] == pytest.approx(loss / log_loss(labels, np.full(500, bundle.fitted.base_rate), sample_weight=w))
    assert ours["auc"] == pytest.approx(roc_auc_score(labels, p, sample_weight=w))
    assert ours["calibration_ratio"] == pytest.approx((w * p).sum() / (w * labels).sum())
    assert ours["ne_interval"][0] < ours["ne"] < ours["ne_interval"][1]
    assert ours["calibration_interval"][0] < ours["calibration_ratio"] < ours["calibration_interval"][1]
    low, high = found.difference["ours-constant"]
    assert low < ours["ne"] - 1 < high


def test_the_order_of_the_rows_changes_nothing(bundle: Bundle, table: pa.Table, demo_contract: Contract) -> None:
    shuffled = table.take(pa.array(np.random.default_rng(2).permutation(4_000)))
    split, of = eighths(table), Rows.of(shuffled, bundle.fitted)
    assert compare(bundle, of, split, demo_contract) == compared(bundle, table, demo_contract)


def test_where_negatives_were_dropped_fitted_answers_are_corrected(
    bundle: Bundle, table: pa.Table, demo_contract: Contract
) -> None:
    labels = np.asarray(table.column("label"))
    kept = (labels == 1) | (np.random.default_rng(3).uniform(size=4_000) < 0.25)
    sampled = changed(table, "weight", pa.array(np.where(labels == 1, 1.0, 4.0))).filter(pa.array(kept))
    found = compared(bundle, sampled, demo_contract.model_copy(update={"sampling": Sampling(negatives=0.25)}))
    ratios = {name: of["calibration_ratio"] for name, of in found.figures.items() if name in FITTED}
    assert ratios == {name: pytest.approx(1.0, abs=0.35) for name in ratios}  # 3 and more where it is not corrected


def test_rows_without_a_click_fit_nothing_and_say_so(bundle: Bundle, table: pa.Table, demo_contract: Contract) -> None:
    labels = np.asarray(table.column("label")).copy()
    labels[:3_500] = 0
    found = compared(bundle, changed(table, "label", pa.array(labels)), demo_contract)
    assert list(found.figures) == ["ours", *CHEAP]
    assert found.left_out == dict.fromkeys(FITTED, "the rows to fit it to are all clicked, or none of them is")


def test_a_test_without_a_click_has_no_auc_and_no_ratio(bundle: Bundle, table: pa.Table, demo_contract: Contract) -> None:
    labels = np.asarray(table.column("label")).copy()
    labels[3_500:] = 0
    found = compared(bundle, changed(table, "label", pa.array(labels)), demo_contract)
    ours = found.figures["ours"]
    assert found.clicks == 0
    assert isnan(ours["auc"])
    assert isnan(ours["calibration_ratio"])
    assert isnan(ours["calibration_interval"][0])
    assert ours["logloss"] > 0


def test_columns_without_a_value_are_no_fault(bundle: Bundle, table: pa.Table, demo_contract: Contract) -> None:
    for column in ("device", "age", "user_id"):
        table = changed(table, column, pa.nulls(4_000, table.schema.field(column).type))
    found = compared(bundle, table, demo_contract)
    assert found.left_out == {}
    assert found.figures["ours"]["ne_interval"][0] < found.figures["ours"]["ne_interval"][1]  # users of their own, no one group


def test_the_simplest_is_the_cheapest_that_is_not_shown_to_be_worse(
    bundle: Bundle, table: pa.Table, demo_contract: Contract
) -> None:
    draw = np.random.default_rng(4)
    noise = changed(table, "label", pa.array((draw.uniform(size=4_000) < bundle.fitted.base_rate).astype(np.int32)))
    assert compared(bundle, noise, demo_contract).simplest in CHEAP
    longer = training_table(demo_contract, 16_000)
    found = compared(small_bundle(demo_contract, longer.slice(0, 14_000)), longer, demo_contract)
    assert found.best == min(found.figures, key=lambda name: found.figures[name]["logloss"])
    assert found.simplest not in CHEAP
