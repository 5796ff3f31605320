"""What moves the model's answers: each feature's share of the log odds, and the answer as one rate is set to other values."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame

from feature_repo.vectorize import Float32, vectorize
from models.bundle import Bundle
from models.explanation import tree_contributions
from models.merging import GRID
from models.sampling import drawn, in_one_task
from models.split import Slice

Float64 = npt.NDArray[np.float64]

ROWS = 2_000  # of the sample: the mean of so many absolute values is known to a few percent, and deep trees are slow here
_CURVES = 6  # rates for which other values are tried
_POINTS = 9


@dataclass(frozen=True)
class Dependence:
    """Mean click probability of the sample when every row has this value of one `log_ratio` feature.

    values: the rate as a multiple of the overall one, rising. probabilities: of the same length.
    """

    feature: str
    values: Sequence[float]
    probabilities: Sequence[float]


@dataclass(frozen=True)
class Contributions:
    """mean_absolute: feature -> mean absolute contribution in log odds before calibration, largest first. average: mean click
    probability of the sample. rows: of the sample."""

    mean_absolute: dict[str, float]
    dependence: Sequence[Dependence]
    average: float
    rows: int


def contributions_of_sample(rows: DataFrame, bundle: Bundle, part: Slice) -> Contributions:
    """On about ROWS rows of `part`: raw values with weight and impression_id. One Spark job."""

    def task(sample: pa.Table) -> dict[str, Any]:
        raw = sample.sort_by("impression_id").combine_chunks().to_batches()[0]
        return asdict(summarized(bundle, vectorize(raw, bundle.fitted), np.asarray(raw.column("weight"), dtype=np.float64)))

    found = in_one_task(rows.where(drawn(part, ROWS)), task)
    return Contributions(**{**found, "dependence": [Dependence(**curve) for curve in found["dependence"]]})


def summarized(bundle: Bundle, vectors: Float32, weights: Float64) -> Contributions:
    """vectors: (rows, features). weights: (rows,)."""
    parts, _ = contributions(bundle, vectors)
    means = np.average(np.abs(parts), axis=0, weights=weights)
    order = np.argsort(-means, kind="stable").tolist()
    rates = [n for n in order if bundle.fitted.features[n].kind == "log_ratio" and means[n] > 0][:_CURVES]
    curves = [curve for n in rates if len((curve := _dependence(bundle, vectors, weights, n)).values) > 1]
    names = bundle.fitted.names
    average = float(np.average(_probabilities(bundle, vectors), weights=weights))
    return Contributions({names[n]: float(means[n]) for n in order}, curves, average, len(vectors))


def contributions(bundle: Bundle, vectors: Float32) -> tuple[Float64, float]:
    """(rows, features) log odds that each feature adds, and the log odds to which they are added: together the margins.

    Of the trees against the mean over the training rows; of the ridge regression its terms, against their mean over these rows.
    """
    parts, base = tree_contributions(bundle, vectors)
    if ridge := bundle.ridge:
        terms = ridge.terms(vectors) * GRID
        parts[:, list(ridge.columns)] += terms - terms.mean(axis=0)
        base += ridge.intercept + float(terms.mean(axis=0).sum())
    return parts, base


def _dependence(bundle: Bundle, vectors: Float32, weights: Float64, number: int) -> Dependence:
    known = vectors[~np.isnan(vectors[:, number]), number]
    if not len(known):
        return Dependence(bundle.fitted.names[number], [], [])
    values = np.unique(np.quantile(known, np.linspace(0.02, 0.98, _POINTS)).astype(np.float32))
    means = []
    for value in values:
        changed = vectors.copy()
        changed[:, number] = value
        means.append(float(np.average(_probabilities(bundle, changed), weights=weights)))
    return Dependence(bundle.fitted.names[number], np.exp(values.astype(np.float64)).tolist(), means)


def _probabilities(bundle: Bundle, vectors: Float32) -> Float64:
    return bundle.calibrator.probabilities(bundle.margins(vectors))
