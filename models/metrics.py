"""How good probabilities are on rows that a model has not seen, from one aggregation where the rows lie.

What comes to the driver is a histogram over the score: at most 65,536 bins of sums. Sums are kept as integers of 2**-30, so that
they do not depend on the order in which Spark adds them.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from models.bundle import Bundle

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

BINS = 65_536
LARGEST = 16.0  # log odds; scores beyond fall into the outermost bins
UNIT = 2.0**-30
NORMAL_95 = 1.959963984540054  # quantile of the standard normal

# w: weight, y: label, p: probability, loss: -log of the probability given to what happened, d: loss minus the constant's loss
SUMS = ("rows", "clicks", "w", "wy", "ww", "wp", "wloss", "wwd", "wwdd")


@dataclass(frozen=True)
class Histogram:
    """Sums over the rows of each occupied bin, by rising score. constant: the probability that the model is measured against."""

    constant: float
    bins: Int64
    sums: dict[str, Int64]

    def floats(self, name: str) -> Float64:
        """One of the weighted sums, for each bin."""
        return np.asarray(self.sums[name] * UNIT, dtype=np.float64)

    def total(self, name: str) -> float:
        """A sum over all bins, added without rounding."""
        total = sum(int(value) for value in self.sums[name])
        return total if name in ("rows", "clicks") else total * UNIT


def bin_rows(probabilities: Float64, labels: Int64, weights: Float64, constant: float) -> dict[str, Int64]:
    """Sums by bin of a batch of rows: `bin` and each of SUMS, one entry for each occupied bin.

    Shapes (rows,). probabilities: in (0, 1). labels: 0 or 1. weights: >= 0. Squares go with squared weights, for the interval.
    """
    log_odds = np.log(probabilities) - np.log1p(-probabilities)
    number = np.clip(np.floor((log_odds + LARGEST) * (BINS / (2 * LARGEST))), 0, BINS - 1).astype(np.int64)
    clicked = labels == 1
    loss = -np.where(clicked, np.log(probabilities), np.log1p(-probabilities))
    d = loss - np.where(clicked, -math.log(constant), -math.log1p(-constant))
    w = weights
    exact = {
        "w": w, "wy": w * labels, "ww": w * w, "wp": w * probabilities,
        "wloss": w * loss, "wwd": w * w * d, "wwdd": w * w * d * d,
    }  # fmt: skip
    integers = {"rows": np.ones_like(labels), "clicks": labels}
    integers |= {name: np.rint(values / UNIT).astype(np.int64) for name, values in exact.items()}
    occupied, where = np.unique(number, return_inverse=True)
    sums = {name: np.zeros(len(occupied), dtype=np.int64) for name in SUMS}
    for name in SUMS:
        np.add.at(sums[name], where, integers[name])
    return {"bin": occupied, **sums}


def score_histogram(rows: DataFrame, bundle: Bundle, constant: float) -> Histogram:
    """Score raw rows with label and weight by the bundle, as serving would, and sum by bin. One Spark job."""

    def batches(raw: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in raw:
            labels = np.asarray(batch.column("label").to_numpy(zero_copy_only=False), dtype=np.int64)
            weights = np.asarray(batch.column("weight").to_numpy(zero_copy_only=False), dtype=np.float64)
            yield pa.RecordBatch.from_pydict(bin_rows(bundle.probabilities(batch), labels, weights, constant))

    schema = ", ".join(f"`{name}` bigint" for name in ("bin", *SUMS))
    summed = rows.mapInArrow(batches, schema).groupBy("bin").agg(*(F.sum(name).alias(name) for name in SUMS))
    table = summed.orderBy("bin").toArrow()
    return Histogram(constant, _integers(table, "bin"), {name: _integers(table, name) for name in SUMS})


def summarize(histogram: Histogram) -> dict[str, Any]:
    """Quality of the scored rows; losses in nats. None where a number does not exist (no clicks, one row).

    ne: logloss over the constant's. auc: weighted, ties at half, exact but for scores less than 0.0005 log odds apart.
    calibration_ratio: predicted over counted clicks. difference: 95 % interval of logloss minus the constant's, by the normal
    approximation over rows taken as independent; below 0 is better than the constant.
    """
    weight, clicked = histogram.total("w"), histogram.total("wy")
    if not weight:
        raise ValueError("no weight among the scored rows")
    constant = histogram.constant
    logloss = histogram.total("wloss") / weight
    logloss_constant = -(clicked * math.log(constant) + (weight - clicked) * math.log1p(-constant)) / weight
    return {
        "rows": int(histogram.total("rows")),
        "clicks": int(histogram.total("clicks")),
        "logloss": logloss,
        "logloss_constant": logloss_constant,
        "ne": logloss / logloss_constant,
        "auc": _auc(histogram),
        "calibration_ratio": histogram.total("wp") / clicked if clicked else None,
        "difference": _interval(histogram, logloss - logloss_constant),
    }


def _auc(histogram: Histogram) -> float | None:
    clicks = histogram.floats("wy")
    others = histogram.floats("w") - clicks
    if not clicks.sum() or not others.sum():
        return None
    below = np.cumsum(others) - others
    return float(np.sum(clicks * (below + others / 2)) / (clicks.sum() * others.sum()))


def _interval(histogram: Histogram, difference: float) -> list[float] | None:
    if histogram.total("rows") < 2:
        return None
    squares = histogram.total("wwdd") - 2 * difference * histogram.total("wwd") + difference**2 * histogram.total("ww")
    error = math.sqrt(max(0.0, squares)) / histogram.total("w")
    return [difference - NORMAL_95 * error, difference + NORMAL_95 * error]


def _integers(table: pa.Table, name: str) -> Int64:
    return np.asarray(table.column(name).to_numpy(), dtype=np.int64)
