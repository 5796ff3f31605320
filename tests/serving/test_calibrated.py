"""A request's probabilities are the calibrator's own, to the bit."""

from typing import Any

import numpy as np
import pytest

from models.calibration import Calibrator
from serving.calibrated import probabilities_of


@pytest.mark.parametrize("points", [2, 3, 40, 300])
def test_probabilities_through_points(points: int) -> None:
    draw = np.random.default_rng(points)
    for size in (1, 7, 100, 1000):
        at = np.unique(draw.normal(-3, 2, points).round(draw.integers(1, 9)))
        to = np.sort(draw.normal(-3, 2, len(at)).round(2))  # some are equal
        calibrator = Calibrator("isotonic", at=tuple(at.tolist()), to=tuple(to.tolist()))
        margins: Any = draw.integers(-8 << 20, 3 << 20, size) * 2.0**-20
        margins[: size // 3] = draw.choice(at, size // 3)
        before = margins.copy()
        found = probabilities_of(calibrator)(margins)
        np.testing.assert_array_equal(found, calibrator.probabilities(margins))
        np.testing.assert_array_equal(margins, before)


def test_other_calibrators_are_asked_themselves() -> None:
    calibrator = Calibrator("shift", parameters=(0.1,))
    assert probabilities_of(calibrator) == calibrator.probabilities
