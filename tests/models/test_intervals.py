"""An interval covers the truth as often as it says, at 95 % and far out, where many slices are judged at once."""

from statistics import NormalDist

import numpy as np
import pytest

from models.intervals import GROUPS, ratio_interval

LOGS = 1_000


@pytest.mark.parametrize(("level", "clicks"), [(0.95, 250), (0.998, 250), (0.998, 2_000)])
def test_a_calibrated_ratio_is_covered_as_often_as_the_level_says(level: float, clicks: int) -> None:
    rng = np.random.default_rng(4)
    promised = np.full(GROUPS, clicks / GROUPS)
    covered, widths = 0, []
    for _ in range(LOGS):
        low, high = ratio_interval({"p": promised, "wy": rng.poisson(promised).astype(float)}, "p", "wy", level=level)
        covered += low <= 1 <= high
        widths.append(np.log(high / low))
    assert (1 - covered / LOGS) == pytest.approx(1 - level, abs=3 * np.sqrt((1 - level) * level / LOGS) + 0.002)
    assert np.median(widths) == pytest.approx(2 * NormalDist().inv_cdf((1 + level) / 2) / np.sqrt(clicks), rel=0.15)
