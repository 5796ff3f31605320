"""Ridge logistic regression on the counters, the part of the model that varies smoothly.

Serving sums whole numbers: each term is rounded to a multiple of 2**-20 (models/merging.py's grid), so every order of adding and
every machine gives the same bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from feature_repo.vectorize import Float32
from models.collective import total
from models.merging import GRID

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_ITERATIONS, _HALVINGS = 50, 30
_CLOSE = 1e-7  # of the largest step: far below the grid
_CHUNK = 65_536  # rows of the design matrix that stand in memory at once
FARTHEST = 8.0  # standard deviations: one odd value must not carry a margin away


@dataclass(frozen=True)
class Ridge:
    """margin = intercept + sum over columns of weight * standardized value, or, where it is missing, weight_missing.

    columns: positions in the vector. means, scales: of the training rows' values.
    """

    columns: tuple[int, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    weights_missing: tuple[float, ...]
    intercept: float

    def terms(self, vectors: Float32) -> Int64:
        """(rows, columns) what each column adds to the log odds, in units of 2**-20."""
        standard, missing = _standardized(vectors, self.columns, np.asarray(self.means), np.asarray(self.scales))
        terms = np.where(missing, np.asarray(self.weights_missing), standard * np.asarray(self.weights))
        return np.asarray(np.rint(terms / GRID), dtype=np.int64)

    def margins(self, vectors: Float32) -> Int64:
        """(rows,) log odds in units of 2**-20."""
        return np.asarray(self.terms(vectors).sum(axis=1) + round(self.intercept / GRID), dtype=np.int64)

    def log_odds(self, vectors: Float32) -> Float64:
        """(rows,) margins as doubles, exactly."""
        return np.asarray(self.margins(vectors) * GRID, dtype=np.float64)

    def scaled(self, share: float, shift: float) -> Self:
        """share * margin + shift."""
        weights, missing = (tuple(share * w for w in some) for some in (self.weights, self.weights_missing))
        intercept = share * self.intercept + shift
        return type(self)(self.columns, self.means, self.scales, weights, missing, intercept)

    def plus(self, other: Self) -> Self:
        """The sum of two regressions that share no column."""
        return type(self)(**{name: mine + getattr(other, name) for name, mine in vars(self).items()})

    def without(self, columns: Sequence[int]) -> Self:
        """The sum over the other columns."""
        kept = [n for n, column in enumerate(self.columns) if column not in columns]
        parts = {name: tuple(value[n] for n in kept) for name, value in vars(self).items() if isinstance(value, tuple)}
        return type(self)(**parts, intercept=self.intercept)

    def to_dict(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        parts: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**parts)


def fit_ridge(vectors: Float32, labels: npt.NDArray[np.int8], columns: Sequence[int], strengths: Sequence[float]) -> list[Ridge]:
    """A regression for each C of `strengths` (inverse penalty, as scikit-learn has it), on the rows of all workers.

    Newton's method; sums over rows are of doubles, in an order that a machine's BLAS fixes. Missing values are the mean, and an
    indicator. Both labels must be there.
    """
    means, scales = _moments(vectors, columns)
    sums = np.array([len(labels), labels.sum()], dtype=np.float64)
    rows, clicks = total(sums)
    start = np.zeros(2 * len(columns) + 1)
    start[0] = np.log(clicks / (rows - clicks))
    fitted = []
    for strength in strengths:
        start = _newton(vectors, labels, columns, means, scales, strength, start)  # from the last one's end
        width = len(columns)
        intercept, weights, missing = start[0], start[1 : width + 1], start[width + 1 :]
        of_values, of_terms = (_floats(means), _floats(scales)), (_floats(weights), _floats(missing))
        fitted.append(Ridge(tuple(columns), *of_values, *of_terms, float(intercept)))
    return fitted


def _floats(values: Float64) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _moments(vectors: Float32, columns: Sequence[int]) -> tuple[Float64, Float64]:
    """Mean and standard deviation of the values that are there; 0 and 1 where they say nothing."""
    values = vectors[:, columns].astype(np.float64)
    there = ~np.isnan(values)
    count, summed = total(np.stack([there.sum(axis=0), np.nansum(values, axis=0)]))
    means = np.divide(summed, count, out=np.zeros_like(summed), where=count > 0)
    squares = total(np.nansum((values - means) ** 2, axis=0))
    scales = np.sqrt(np.divide(squares, count, out=np.zeros_like(squares), where=count > 0))
    return means, np.where(scales > 1e-9, scales, 1.0)


def _standardized(
    vectors: Float32, columns: Sequence[int], means: Float64, scales: Float64
) -> tuple[Float64, npt.NDArray[np.bool_]]:
    standard = (vectors[:, list(columns)].astype(np.float64) - means) / scales
    missing = np.isnan(standard)
    return np.clip(np.where(missing, 0.0, standard), -FARTHEST, FARTHEST), missing


def _newton(
    vectors: Float32, labels: npt.NDArray[np.int8], columns: Sequence[int], means: Float64, scales: Float64, strength: float,
    start: Float64,
) -> Float64:  # fmt: skip
    """Minimizes the sum of logloss plus |weights|^2 / (2 * strength); the intercept is free.

    A full step overshoots where clicks are rare and p is far off, and then never comes back: it is halved until it gains.
    """
    penalty = np.full(len(start), 1 / strength)
    penalty[0] = 0.0
    weights = start
    loss, gradient, hessian = _objective(vectors, labels, columns, means, scales, penalty, weights)
    for _ in range(_ITERATIONS):
        step = np.linalg.solve(hessian, gradient)
        for _ in range(_HALVINGS):
            ahead = _objective(vectors, labels, columns, means, scales, penalty, weights - step)
            if ahead[0] <= loss:
                break
            step = step / 2
        else:
            break  # no step gains: the minimum, as far as doubles tell
        weights = weights - step
        loss, gradient, hessian = ahead
        if np.abs(step).max() < _CLOSE:
            break
    return np.asarray(weights)


def _objective(
    vectors: Float32, labels: npt.NDArray[np.int8], columns: Sequence[int], means: Float64, scales: Float64, penalty: Float64,
    weights: Float64,
) -> tuple[float, Float64, Float64]:  # fmt: skip
    """Penalized logloss of all workers' rows, in nats, with its gradient and its Hessian."""
    sums = np.zeros((len(weights) + 2, len(weights)))  # loss, gradient, Hessian
    for begin in range(0, len(labels), _CHUNK):
        rows = slice(begin, begin + _CHUNK)
        standard, missing = _standardized(vectors[rows], columns, means, scales)
        design = np.hstack([np.ones((len(standard), 1)), standard, missing])
        margins = design @ weights
        p = 1 / (1 + np.exp(-np.clip(margins, -500, 500)))
        sums[0, 0] += np.sum(np.logaddexp(0.0, margins) - labels[rows] * margins)
        sums[1] += design.T @ (p - labels[rows])
        sums[2:] += design.T @ (design * (p * (1 - p))[:, None])
    summed = total(sums)
    loss = float(summed[0, 0] + 0.5 * penalty @ weights**2)
    return loss, summed[1] + penalty * weights, summed[2:] + np.diag(penalty + 1e-9)
