"""The ridge regression: the textbook's solution, and margins that no order of adding changes."""

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LogisticRegression

from models.merging import GRID
from models.ridge import Ridge, fit_ridge

Float32 = npt.NDArray[np.float32]
COLUMNS = (0, 2, 3)


def rows(count: int = 3_000) -> tuple[Float32, npt.NDArray[np.int8]]:
    draw = np.random.default_rng(0)
    values = (draw.normal(size=(count, 5)) * [1, 1, 30, 0.01, 1] + [0, 0, 100, 0, 0]).astype(np.float32)
    odds = np.exp(-2.5 + values[:, 0] + (values[:, 2] - 100) / 60)
    labels = (draw.uniform(size=count) < odds / (1 + odds)).astype(np.int8)
    values[draw.uniform(size=values.shape) < 0.1] = np.nan
    return values, labels


def design(values: Float32) -> npt.NDArray[np.float64]:
    some = values[:, COLUMNS].astype(np.float64)
    missing = np.isnan(some)
    return np.hstack([np.where(missing, 0.0, (some - np.nanmean(some, axis=0)) / np.nanstd(some, axis=0)), missing])


@pytest.mark.parametrize("strength", [0.0003, 0.03, 10.0])
def test_it_is_scikit_learns(strength: float) -> None:
    values, labels = rows()
    (ours,) = fit_ridge(values, labels, COLUMNS, [strength])
    theirs = LogisticRegression(C=strength, tol=1e-10, max_iter=1_000).fit(design(values), labels)
    assert [*ours.weights, *ours.weights_missing] == pytest.approx(theirs.coef_[0].tolist(), abs=2e-5)
    assert ours.log_odds(values) == pytest.approx(theirs.decision_function(design(values)), abs=1e-4)


def test_several_strengths_at_once_are_those_of_each_alone() -> None:
    values, labels = rows()
    together = fit_ridge(values, labels, COLUMNS, [0.003, 0.3])
    alone = [fit_ridge(values, labels, COLUMNS, [strength])[0] for strength in (0.003, 0.3)]
    for one, other in zip(together, alone, strict=True):
        assert one.weights == pytest.approx(other.weights, abs=1e-6)


def test_terms_lie_on_the_grid_and_a_row_alone_has_the_same_bits() -> None:
    values, labels = rows()
    (ridge,) = fit_ridge(values, labels, COLUMNS, [0.03])
    margins = ridge.margins(values)
    assert margins.dtype == np.int64
    assert np.array_equal(ridge.log_odds(values), margins * GRID)
    assert [ridge.margins(values[n : n + 1])[0] for n in range(50)] == margins[:50].tolist()
    assert Ridge.from_dict(ridge.to_dict()) == ridge


def test_a_constant_an_empty_and_a_wild_column_do_no_harm() -> None:
    values, labels = rows()
    values[:, 2], values[:, 3] = np.nan, 7.0
    (ridge,) = fit_ridge(values, labels, COLUMNS, [0.03])
    assert ridge.weights[1:] == pytest.approx([0.0, 0.0], abs=1e-9)
    values[0, 0] = 1e30
    assert abs(ridge.log_odds(values[:1])[0]) < 20


def test_half_of_it_and_a_shift() -> None:
    values, labels = rows()
    (ridge,) = fit_ridge(values, labels, COLUMNS, [0.03])
    assert ridge.scaled(0.5, -1.0).log_odds(values) == pytest.approx(0.5 * ridge.log_odds(values) - 1.0, abs=10 * GRID)


def test_rare_clicks_far_from_the_start_do_not_throw_it_off() -> None:
    """Full steps of Newton's method diverge here: from the click rate they overshoot by dozens of log odds."""
    draw = np.random.default_rng(3)
    vectors = draw.normal(size=(20_000, 2)).astype(np.float32)
    vectors[:, 0] = np.where(draw.uniform(size=20_000) < 0.002, 8.0, 0.0)
    labels = ((vectors[:, 0] > 0) & (draw.uniform(size=20_000) < 0.98)).astype(np.int8)
    for strength in (0.3, 100.0):
        ridge = fit_ridge(vectors, labels, [0, 1], [strength])[0]
        predicted = 1 / (1 + np.exp(-ridge.log_odds(vectors)))
        assert predicted.sum() == pytest.approx(labels.sum(), rel=0.001), "the intercept is free, so the sums agree"
