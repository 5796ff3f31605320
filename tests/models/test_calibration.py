"""Calibrators: what each one is, that it rises, and that it must earn its place on later rows."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from models.calibration import FARTHEST, Calibrator, Kind, Scored, choose_calibrator, fit_calibrator


def scored(rows: int, seed: int, *, slope: float = 1.0, shift: float = 0.0, level: float = -2.5) -> Scored:
    """Margins of a model, and labels whose true log odds are slope * margin + shift."""
    draw = np.random.default_rng(seed)
    margins = draw.normal(level, 1.0, rows)
    p = 1 / (1 + np.exp(-(slope * margins + shift)))
    return Scored(margins, (draw.uniform(size=rows) < p).astype(np.int8), np.ones(rows))


def test_none_leaves_the_margin_as_it_is() -> None:
    margins = np.linspace(-10, 10, 50)
    assert Calibrator().log_odds(margins).tolist() == margins.tolist()
    assert Calibrator().probabilities(margins) == pytest.approx(1 / (1 + np.exp(-margins)))


@pytest.mark.parametrize(
    ("kind", "parameters", "slope", "shift"), [("shift", 1, 1.0, 0.5), ("platt", 2, 0.6, 0.3), ("beta", 3, 0.6, 0.3)]
)
def test_each_finds_the_truth_that_it_can_say(kind: Kind, parameters: int, slope: float, shift: float) -> None:
    rows = scored(200_000, 1, slope=slope, shift=shift)
    found = fit_calibrator(kind, rows)
    assert len(found.parameters) == parameters
    margins = np.linspace(-4.5, -0.5, 20)
    assert found.log_odds(margins) == pytest.approx(slope * margins + shift, abs=0.05)
    assert found.probabilities(rows.margins).sum() == pytest.approx(rows.labels.sum(), rel=0.002 if kind != "shift" else 0.01)


def test_a_shift_of_few_clicks_is_shrunk_towards_zero() -> None:
    few, many = (fit_calibrator("shift", scored(rows, 2, shift=0.5)).parameters[0] for rows in (300, 100_000))
    assert 0 < few < 0.35
    assert many == pytest.approx(0.5, abs=0.03)


def test_isotonic_is_scikit_learns_but_for_its_bins() -> None:
    rows = scored(200_000, 3, slope=0.7)
    found = fit_calibrator("isotonic", rows)
    assert (np.diff(found.to) >= 0).all()
    theirs = IsotonicRegression(out_of_bounds="clip").fit(rows.margins, rows.labels)
    margins = np.linspace(-4.5, 0, 30)
    assert found.probabilities(margins) == pytest.approx(theirs.predict(margins), abs=0.02)


@pytest.mark.parametrize("kind", ["none", "shift", "platt", "beta", "isotonic"])
def test_it_rises_and_stays_away_from_0_and_1(kind: Kind) -> None:
    found = fit_calibrator(kind, scored(50_000, 4, slope=0.8, shift=-0.2))
    odds = found.log_odds(np.linspace(-200, 200, 500))
    assert (np.diff(odds) >= 0).all()
    assert np.abs(odds).max() <= FARTHEST
    assert Calibrator.from_dict(found.to_dict()) == found


def test_a_falling_calibrator_is_none() -> None:
    assert fit_calibrator("platt", scored(50_000, 5, slope=-0.5)).kind == "none"


def with_few_negatives(rows: Scored, negatives: float) -> Scored:
    """The rows with so many of those without a click."""
    kept = (rows.labels == 1) | (np.random.default_rng(0).uniform(size=len(rows.labels)) < negatives)
    return Scored(rows.margins[kept], rows.labels[kept], rows.counts[kept], negatives)


@pytest.mark.parametrize("kind", ["shift", "platt", "beta", "isotonic"])
def test_dropped_negatives_leave_a_calibrator_of_all_rows(kind: Kind) -> None:
    rows = scored(200_000, 6, shift=0.4)
    found = fit_calibrator(kind, with_few_negatives(rows, 0.25))
    assert found.probabilities(rows.margins).sum() == pytest.approx(rows.labels.sum(), rel=0.03)
    whole = fit_calibrator(kind, rows)
    margins = np.linspace(-4.0, -1.0, 10)
    assert found.log_odds(margins) == pytest.approx(whole.log_odds(margins), abs=0.15)


def test_a_row_that_stands_for_twenty_is_evidence_of_one() -> None:
    taken = 0
    for seed in range(40):
        slices = [with_few_negatives(scored(12_000, 100 * seed + part), 0.05) for part in range(3)]
        taken += choose_calibrator(slices).kind != "none"
    assert taken <= 9, "a calibrated model needs none, however few negatives were kept"


def test_the_one_that_wins_on_the_last_slice_is_chosen() -> None:
    assert choose_calibrator([scored(20_000, seed) for seed in range(3)]).kind == "none", "a calibrated model needs none"
    assert choose_calibrator([scored(20_000, seed, shift=0.5) for seed in range(3)]).kind == "shift"
    assert choose_calibrator([scored(40_000, seed, slope=0.5) for seed in range(3)]).kind in ("platt", "beta")
    drifting = [scored(20_000, seed, shift=shift) for seed, shift in enumerate([0.5, 0.5, -0.5])]
    assert choose_calibrator(drifting).kind == "none", "what does not hold later is not taken"
    assert choose_calibrator([scored(20_000, 1, shift=0.5)]).kind == "none", "one slice cannot judge"
    assert choose_calibrator([scored(200, seed, shift=0.5) for seed in range(3)]).kind == "none", "too few clicks to try"
