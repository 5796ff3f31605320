"""How true probabilities are on later rows, overall and by slice, from sums by group of users that Spark adds where the rows lie.

The driver gets GROUPS rows for each value of a slice, whatever the size of the log. Sums are integers of 2**-30, so that they do
not depend on the order in which they are added.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.contract import Contract
from models.intervals import GROUPS, Sums, interval, ratio_interval, ratio_of
from models.slicing import VALUES, Cells, Slicer, in_tenths, slices

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Answer = Callable[[pa.RecordBatch], Float64]

UNIT = 2.0**-30
LARGE = 200  # clicks that a slice needs for its calibration to be judged
OURS, CONSTANT = "ours", "constant"
_NO_CLICK = 0.5  # that a slice without one counts as having
GROUP = "user_group"


@dataclass(frozen=True)
class Quality:
    """Of one slice: logloss in nats, NE over the constant, calibration ratio (predicted over clicked) with its interval.

    A slice without a click counts as one with half a click, and its interval is that of a Poisson count of none.
    """

    slice: str
    value: str
    rows: int
    clicks: int
    predicted: float
    share: float
    logloss: float
    ne: float
    ratio: float
    ratio_interval: tuple[float, float]

    def calibrated(self, low: float, high: float) -> bool:
        """Within the bounds, or of an interval that covers 1."""
        return low <= self.ratio <= high or self.ratio_interval[0] <= 1 <= self.ratio_interval[1]

    def large(self, clicks: float) -> bool:
        """Whether there are so many clicks, or were promised: a slice that promises clicks that do not come is large, too."""
        return max(self.clicks, self.predicted) >= clicks

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def slice_sums(
    rows: DataFrame, answers: Mapping[str, Answer], contract: Contract, values: dict[str, tuple[str, ...]], by: Slicer = slices
) -> Cells:
    """(slice, value) -> name -> (groups,) sums: rows, clicks, w, wy, and of each answer `p NAME` and `loss NAME`. One Spark job.

    answers: OURS among them. rows: raw values with label, weight and impression_id. values, by: see models/slicing.py.
    """
    names = ["rows", "clicks", "w", "wy", *(f"{what} {name}" for name in answers for what in ("p", "loss"))]
    places = [f"sum{n}" for n in range(len(names))]

    def batches(raw: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in raw:
            scores = {name: answer(batch) for name, answer in answers.items()}
            columns = _row_sums(batch, scores)
            group = np.asarray(batch.column(GROUP), dtype=np.int64)
            for name, found, place in by(batch, scores[OURS], contract, values):
                cells, where = np.unique(place * GROUPS + group, return_inverse=True)
                sums = [np.zeros(len(cells), dtype=np.int64) for _ in columns]
                for summed, column in zip(sums, columns, strict=True):
                    np.add.at(summed, where, column)
                words = pa.array(found, pa.string()).take(pa.array(cells // GROUPS))
                yield pa.RecordBatch.from_arrays(
                    [pa.array([name] * len(cells)), words, pa.array(cells % GROUPS), *map(pa.array, sums)],
                    names=["slice", "value", GROUP, *places],
                )

    schema = ", ".join(["slice string", "value string", f"{GROUP} bigint", *(f"{place} bigint" for place in places)])
    grouped = rows.transform(with_user_group(contract))
    summed = grouped.mapInArrow(batches, schema).groupBy("slice", "value", GROUP).agg(*(F.sum(p).alias(p) for p in places))
    table = summed.toArrow()
    found: Cells = {}
    numbers = [np.asarray(table[place].to_numpy(), dtype=np.float64) for place in places]
    for n, (name, value, group) in enumerate(zip(*(table[c].to_pylist() for c in ("slice", "value", GROUP)), strict=True)):
        cell = found.setdefault((name, value), {of: np.zeros(GROUPS) for of in names})
        for of, column in zip(names, numbers, strict=True):
            cell[of][group] = column[n] * (1 if of in ("rows", "clicks") else UNIT)
    return dict(sorted(in_tenths(found).items()))


def with_user_group(contract: Contract) -> Callable[[DataFrame], DataFrame]:
    """Add `user_group`: which of GROUPS the row's user is dealt to, or the row itself where it has none."""
    user = F.coalesce(F.col(contract.user), F.col("impression_id")) if contract.user else F.col("impression_id")
    return lambda rows: rows.withColumn(GROUP, F.pmod(F.xxhash64(F.lit("groups"), user), F.lit(GROUPS)))


def _row_sums(batch: pa.RecordBatch, scores: Mapping[str, Float64]) -> list[Int64]:
    labels = np.asarray(batch.column("label").to_numpy(zero_copy_only=False), dtype=np.int64)
    weights = np.asarray(batch.column("weight").to_numpy(zero_copy_only=False), dtype=np.float64)
    floats = [weights, weights * labels]
    for p in scores.values():
        floats += [weights * p, -weights * np.where(labels == 1, np.log(p), np.log1p(-p))]
    return [np.ones_like(labels), labels, *(np.rint(column / UNIT).astype(np.int64) for column in floats)]


def qualities(sums: Mapping[tuple[str, str], Sums], answer: str = OURS, *, large: float = LARGE) -> list[Quality]:
    """Of every slice. Intervals of slices allow for as many comparisons as slices are large (Bonferroni)."""
    everything = sums["all", "all"]["w"].sum()
    many = sum(1 for of in sums.values() if max(of["clicks"].sum(), of[f"p {answer}"].sum()) >= large)
    found = []
    for (name, value), of in sums.items():
        total = {what: float(column.sum()) for what, column in of.items()}
        level = 0.95 if (name, value) == ("all", "all") else 1 - 0.05 / max(1, many)
        predicted = total[f"p {answer}"]
        found.append(
            Quality(
                name, value, int(total["rows"]), int(total["clicks"]), predicted, total["w"] / everything,
                logloss=total[f"loss {answer}"] / total["w"], ne=total[f"loss {answer}"] / total[f"loss {CONSTANT}"],
                ratio=predicted / (total["wy"] or _NO_CLICK), ratio_interval=_ratio_interval(of, answer, level),
            )
        )  # fmt: skip
    return found


def _ratio_interval(of: Sums, answer: str, level: float) -> tuple[float, float]:
    if of["wy"].sum():
        return ratio_interval(of, f"p {answer}", "wy", level=level)
    predicted = float(of[f"p {answer}"].sum())
    return predicted / -math.log((1 - level) / 2), predicted / -math.log((1 + level) / 2)


def difference(sums: Sums, answer: str, rival: str) -> tuple[float, float]:
    """95 % interval of the NE of one answer less another's on the same rows; below 0 is better."""
    return interval(sums, ratio_of(f"loss {answer}", f"loss {CONSTANT}", less=f"loss {rival}"))


def constant(rate: float) -> Answer:
    return lambda batch: np.full(batch.num_rows, rate)


def frequent(rows: DataFrame, contract: Contract) -> dict[str, tuple[str, ...]]:
    """The values of the slice columns by falling count, then text: what `slices` tells apart."""
    found = {}
    for column in contract.slices:
        counted = rows.where(F.col(column).isNotNull()).groupBy(F.col(column).cast("string").alias("value")).count()
        top = counted.orderBy(F.desc("count"), "value").limit(VALUES).collect()
        found[column] = tuple(row["value"] for row in top)
    return found
