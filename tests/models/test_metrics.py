"""Metrics against scikit-learn and against a plain bootstrap; the plots that are made of the same histogram."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from models.metrics import BINS, LARGEST, SUMS, Float64, Histogram, Int64, bin_rows, summarize
from models.plots import deciles, gains, reliability_plot, wilson

CONSTANT = 0.06


def histogram(probabilities: Float64, labels: Int64, weights: Float64 | None = None, parts: int = 1) -> Histogram:
    """As Spark makes it, the rows scored in `parts` batches."""
    weights = np.ones(len(labels)) if weights is None else weights
    batches = np.array_split(np.arange(len(labels)), parts)
    binned = [bin_rows(probabilities[rows], labels[rows], weights[rows], CONSTANT) for rows in batches]
    bins, where = np.unique(np.concatenate([part["bin"] for part in binned]), return_inverse=True)
    sums = {name: np.zeros(len(bins), dtype=np.int64) for name in SUMS}
    for name in SUMS:
        np.add.at(sums[name], where, np.concatenate([part[name] for part in binned]))
    return Histogram(CONSTANT, bins, sums)


def scored(rows: int, seed: int = 0) -> tuple[Float64, Int64]:
    draw = np.random.default_rng(seed)
    log_odds = np.floor(draw.normal(-2.5, 1, rows) * 100) / 100 + 0.5 * LARGEST / BINS  # ties, none astride two bins
    probabilities = 1 / (1 + np.exp(-log_odds))
    return probabilities, (draw.uniform(size=rows) < probabilities).astype(np.int64)


@pytest.mark.parametrize("weighted", [False, True], ids=["every row counts once", "rows have weights"])
def test_it_equals_scikit_learn(weighted: bool) -> None:
    probabilities, labels = scored(20_000)
    weights = np.random.default_rng(1).uniform(0.1, 9, len(labels)) if weighted else np.ones(len(labels))
    found = summarize(histogram(probabilities, labels, weights))
    assert found["rows"] == 20_000
    assert found["clicks"] == labels.sum()
    assert found["logloss"] == pytest.approx(log_loss(labels, probabilities, sample_weight=weights), rel=1e-8)
    constant = log_loss(labels, np.full(len(labels), CONSTANT), sample_weight=weights)
    assert found["logloss_constant"] == pytest.approx(constant, rel=1e-8)
    assert found["ne"] == pytest.approx(found["logloss"] / constant, rel=1e-8)
    assert found["auc"] == pytest.approx(roc_auc_score(labels, probabilities, sample_weight=weights), rel=1e-8)
    assert found["calibration_ratio"] == pytest.approx((weights * probabilities).sum() / (weights * labels).sum(), rel=1e-8)


def test_the_interval_is_the_bootstraps() -> None:
    probabilities, labels = scored(2_000)
    losses = -np.where(labels == 1, np.log(probabilities), np.log1p(-probabilities))
    differences = losses + np.where(labels == 1, np.log(CONSTANT), np.log1p(-CONSTANT))
    draw = np.random.default_rng(2)
    means = [differences[draw.integers(0, len(labels), len(labels))].mean() for _ in range(2_000)]
    low, high = summarize(histogram(probabilities, labels))["difference"]
    assert [low, high] == pytest.approx(np.quantile(means, [0.025, 0.975]).tolist(), rel=0.1)
    assert (low + high) / 2 == pytest.approx(differences.mean(), rel=1e-6)


def test_the_interval_of_weighted_rows_far_from_the_constant() -> None:
    probabilities, labels = scored(2_000)
    probabilities, weights = probabilities**0.1, np.random.default_rng(5).uniform(0.1, 9, 2_000)
    losses = -np.where(labels == 1, np.log(probabilities), np.log1p(-probabilities))
    differences = losses + np.where(labels == 1, np.log(CONSTANT), np.log1p(-CONSTANT))
    mean = np.average(differences, weights=weights)
    half = 1.96 * np.sqrt(np.sum(weights**2 * (differences - mean) ** 2)) / weights.sum()
    assert abs(mean) > 3 * half
    low, high = summarize(histogram(probabilities, labels, weights))["difference"]
    assert [low, high] == pytest.approx([mean - half, mean + half], rel=1e-4)


def test_the_order_and_the_batches_change_no_bit() -> None:
    probabilities, labels = scored(5_000)
    other = np.random.default_rng(3).permutation(5_000)
    assert summarize(histogram(probabilities, labels)) == summarize(histogram(probabilities[other], labels[other], parts=7))


def test_without_clicks_what_is_undefined_is_none() -> None:
    found = summarize(histogram(np.full(10, 0.1), np.zeros(10, dtype=np.int64)))
    assert (found["auc"], found["calibration_ratio"], found["clicks"]) == (None, None, 0)
    assert found["logloss"] == pytest.approx(-np.log(0.9))
    assert summarize(histogram(np.full(1, 0.1), np.ones(1, dtype=np.int64)))["difference"] is None


def test_scores_at_the_ends_stay_in_the_histogram() -> None:
    found = histogram(np.array([1e-12, 1 - 1e-12]), np.array([0, 1]))
    assert found.bins.tolist() == [0, BINS - 1]


def test_a_model_of_shuffled_labels_is_refused_and_a_good_one_is_not() -> None:
    probabilities, labels = scored(20_000)
    good = {"test": summarize(histogram(probabilities, labels))}
    shuffled = {"test": summarize(histogram(np.random.default_rng(4).permutation(probabilities), labels))}
    assert good["test"]["difference"][1] < 0
    assert shuffled["test"]["difference"][0] > 0


def test_deciles_hold_a_tenth_each() -> None:
    probabilities, labels = scored(20_000)
    groups = deciles(histogram(probabilities, labels))
    assert groups.shape == (10, 4)
    assert np.all(np.diff(groups[:, 0]) > 0)
    tenth = np.argsort(probabilities, kind="stable")[-2_000:]
    assert groups[-1, 0] == pytest.approx(probabilities[tenth].mean(), rel=0.02)
    assert np.all((groups[:, 2] < groups[:, 1]) & (groups[:, 1] < groups[:, 3]))


def test_gains_are_the_share_of_clicks_in_the_highest_scores() -> None:
    probabilities, labels = scored(20_000)
    points = gains(histogram(probabilities, labels))
    best = np.argsort(-probabilities, kind="stable")
    for share in (0.01, 0.1, 0.5):
        at = points[np.isclose(points[:, 0], share)][0]
        assert at[1] == pytest.approx(labels[best[: int(share * 20_000)]].sum() / labels.sum(), abs=0.005)
    assert points[[0, -1]].tolist() == [[0, 0], [1, 1]]


def test_a_plot_of_one_score_and_no_clicks_is_still_a_plot() -> None:
    groups = deciles(histogram(np.full(5, 0.1), np.zeros(5, dtype=np.int64)))
    assert "nan" not in reliability_plot(groups)


def test_wilson_is_the_textbooks() -> None:
    low, high = wilson(np.array([10.0]), np.array([100.0]))
    assert [low[0], high[0]] == pytest.approx([0.0552, 0.1744], abs=1e-4)
