"""A calibrator's probabilities for one request, equal to its own to the bit, without what NumPy does around its loops."""

from collections.abc import Callable

import numpy as np

from feature_repo.vectorize import Float64
from models.calibration import Calibrator

Probabilities = Callable[[Float64], Float64]


def probabilities_of(calibrator: Calibrator) -> Probabilities:
    """From margins to click probabilities, (candidates,) both; through points by a compiled loop, where numba is there."""
    if calibrator.kind != "isotonic" or len(calibrator.at) < 2:
        return calibrator.probabilities
    try:
        from serving import kernels
    except ImportError:
        return calibrator.probabilities
    at, to = np.array(calibrator.at), np.array(calibrator.to)

    def probabilities(margins: Float64) -> Float64:
        odds = margins.copy()
        kernels.interpolate(odds, at, to)
        np.negative(odds, out=odds)
        np.exp(odds, out=odds)
        np.add(odds, 1.0, out=odds)
        return np.divide(1.0, odds, out=odds)

    probabilities(np.zeros(1))
    return probabilities
