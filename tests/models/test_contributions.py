"""What features contribute adds up to the margin; a curve answers what the bundle answers."""

import numpy as np
import pytest

from conf.contract import Contract
from feature_repo.vectorize import Float32, vectorize
from models.bundle import Bundle
from models.contributions import Float64, contributions, summarized
from tests.small_models import small_bundle
from tests.training_rows import training_table


@pytest.fixture(scope="module")
def small(demo_contract: Contract) -> tuple[Bundle, Float32]:
    table = training_table(demo_contract, 3_000)
    bundle = small_bundle(demo_contract, table)
    return bundle, vectorize(table.combine_chunks().to_batches()[0], bundle.fitted)


def equal_weights(vectors: Float32) -> Float64:
    return np.ones(len(vectors))


def test_contributions_of_trees_and_ridge_add_up_to_the_margin(small: tuple[Bundle, Float32]) -> None:
    bundle, vectors = small
    parts, base = contributions(bundle, vectors)
    assert parts.shape == vectors.shape
    assert parts.sum(axis=1) + base == pytest.approx(bundle.margins(vectors), abs=1e-4)
    assert bundle.ridge is not None
    trees, _ = contributions(Bundle("trees", "", "", bundle.fitted, trees=bundle.trees), vectors)
    assert (parts - trees)[:, list(bundle.ridge.columns)].mean(axis=0) == pytest.approx(0.0, abs=1e-9)


def test_a_feature_that_says_nothing_contributes_nothing(small: tuple[Bundle, Float32]) -> None:
    bundle, vectors = small
    constant = vectors.copy()
    constant[:] = vectors[0]
    parts, _ = contributions(bundle, constant)
    assert np.abs(parts - parts[0]).max() == 0
    means = summarized(bundle, vectors, equal_weights(vectors)).mean_absolute
    assert sorted(means, key=lambda name: -means[name]) == list(means)
    assert set(means) == set(bundle.fitted.names)


def test_a_curve_is_the_mean_answer_with_one_rate_changed(small: tuple[Bundle, Float32]) -> None:
    bundle, vectors = small
    weights = np.random.default_rng(0).uniform(0.5, 2, len(vectors))
    found = summarized(bundle, vectors, weights)
    assert 1 <= len(found.dependence) <= 6
    curve = found.dependence[0]
    changed = vectors.copy()
    changed[:, bundle.fitted.names.index(curve.feature)] = np.float32(np.log(curve.values[-1]))
    answers = bundle.calibrator.probabilities(bundle.margins(changed))
    assert curve.probabilities[-1] == pytest.approx(np.average(answers, weights=weights), rel=1e-4)
    assert curve.probabilities[-1] > curve.probabilities[0]  # clicks follow the rates
    assert found.average == pytest.approx(np.average(bundle.calibrator.probabilities(bundle.margins(vectors)), weights=weights))


def test_where_no_rate_is_known_there_is_no_curve(small: tuple[Bundle, Float32]) -> None:
    bundle, vectors = small
    unknown = vectors.copy()
    unknown[:, [feature.kind == "log_ratio" for feature in bundle.fitted.features]] = np.nan
    assert summarized(bundle, unknown, equal_weights(unknown)).dependence == []
