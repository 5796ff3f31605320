"""Sums and maxima over the workers of a training. Light enough for serving to import, where there is one worker: itself."""

import numpy as np
import numpy.typing as npt

from models.lean import xgb

Float64 = npt.NDArray[np.float64]

def total(values: Float64) -> Float64:
    """The sum over all workers, the same bits on each of them and on every rerun with as many workers."""
    return _of_all(values, "SUM")


def largest(values: Float64) -> Float64:
    """The maximum over all workers."""
    return _of_all(values, "MAX")


def _of_all(values: Float64, operation: str) -> Float64:
    if not xgb.collective.is_distributed():
        return values
    found = xgb.collective.allreduce(np.ascontiguousarray(values).ravel(), xgb.collective.Op[operation])
    return np.asarray(found.reshape(values.shape), dtype=np.float64)
