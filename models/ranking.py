"""How well scores order later rows, and how true they are along the score: AUC, gAUC, average precision, ECE, lift and gain.

From sums by group of users and by score bin, so that each comes with an interval by users drawn again (models/intervals.py).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from conf.contract import Contract
from models.evaluation import GROUP, UNIT, Answer, with_user_group
from models.intervals import GROUPS, drawn, spread_of

Float64 = npt.NDArray[np.float64]

BINS = 1_024
_LARGEST = 16.0  # log odds
_PARTS = 20  # of about equal weight, for ECE
TOP = 0.1  # share of rows whose lift is told


@dataclass(frozen=True)
class Ranked:
    """Of each group and score bin, by rising score: weight, clicked weight, predicted clicks. Shapes (GROUPS, BINS)."""

    weight: Float64
    clicked: Float64
    predicted: Float64


def ranked(rows: DataFrame, answer: Answer, contract: Contract) -> Ranked:
    """Sums over rows with raw values, label and weight. One Spark job; at most GROUPS x BINS sums come to the driver."""

    def batches(raw: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in raw:
            p = answer(batch)
            weights = np.asarray(batch.column("weight").to_numpy(zero_copy_only=False), dtype=np.float64)
            labels = np.asarray(batch.column("label").to_numpy(zero_copy_only=False), dtype=np.float64)
            log_odds = np.log(p) - np.log1p(-p)
            bins = np.clip(((log_odds + _LARGEST) * (BINS / (2 * _LARGEST))).astype(np.int64), 0, BINS - 1)
            cells, where = np.unique(np.asarray(batch.column(GROUP), dtype=np.int64) * BINS + bins, return_inverse=True)
            sums = [np.zeros(len(cells), dtype=np.int64) for _ in range(3)]
            for summed, column in zip(sums, (weights, weights * labels, weights * p), strict=True):
                np.add.at(summed, where, np.rint(column / UNIT).astype(np.int64))
            yield pa.RecordBatch.from_arrays([pa.array(column) for column in (cells, *sums)], names=["cell", "w", "wy", "wp"])

    grouped = rows.transform(with_user_group(contract)).mapInArrow(batches, "cell bigint, w bigint, wy bigint, wp bigint")
    table = grouped.groupBy("cell").agg(*(F.sum(name).alias(name) for name in ("w", "wy", "wp"))).toArrow()
    cells = np.asarray(table["cell"].to_numpy())
    found = []
    for name in ("w", "wy", "wp"):
        sums = np.zeros(GROUPS * BINS)
        sums[cells] = np.asarray(table[name].to_numpy(), dtype=np.float64) * UNIT
        found.append(sums.reshape(GROUPS, BINS))
    return Ranked(*found)


def order_figures(found: Ranked, level: float = 0.95) -> dict[str, tuple[float, float, float]]:
    """Figure -> value, low and high of its interval: auc, average_precision, ece, lift (of the top TOP of the rows)."""
    whole = np.ones((1, GROUPS))
    values, spread = _figures(found, whole), _figures(found, drawn(GROUPS))
    figures = {}
    for name, value in values.items():
        figures[name] = (float(value[0]), *spread_of(spread[name], level))
    return figures


def gain(found: Ranked) -> Float64:
    """The share of clicks in the top share of rows by score: columns share of rows, share of clicks, from the highest on."""
    weight, clicked = found.weight.sum(axis=0)[::-1], found.clicked.sum(axis=0)[::-1]
    return np.column_stack([np.cumsum(weight) / weight.sum(), np.cumsum(clicked) / clicked.sum()])


def _figures(found: Ranked, draws: Float64) -> Mapping[str, Float64]:
    """Of each draw of groups. draws: (draws, GROUPS)."""
    weight, clicked, predicted = draws @ found.weight, draws @ found.clicked, draws @ found.predicted
    others = weight - clicked
    clicks, all_others, rows = clicked.sum(axis=1), others.sum(axis=1), weight.sum(axis=1)
    below = np.cumsum(others, axis=1) - others
    with np.errstate(divide="ignore", invalid="ignore"):
        auc = (clicked * (below + others / 2)).sum(axis=1) / (clicks * all_others)
        from_top, clicks_from_top = _from_top(weight), _from_top(clicked)
        precision = np.divide(clicks_from_top, from_top, out=np.zeros_like(from_top), where=from_top > 0)
        average_precision = (clicked * precision).sum(axis=1) / clicks
        ece = np.abs(_by_part(predicted, found) - _by_part(clicked, found)).sum(axis=1) / rows
        # within the bin that the border falls into, its clicks are spread evenly
        inside = np.clip((TOP * rows[:, None] - (from_top - weight)) / np.where(weight > 0, weight, 1), 0, 1)
        lift = (clicked * inside).sum(axis=1) / clicks / TOP
    return {"auc": auc, "average_precision": average_precision, "ece": ece, "lift": lift}


def _from_top(sums: Float64) -> Float64:
    return np.cumsum(sums[:, ::-1], axis=1)[:, ::-1]


def _by_part(sums: Float64, found: Ranked) -> Float64:
    """Sums of about equally heavy parts by rising score; bins are not divided."""
    weight = found.weight.sum(axis=0)
    part = np.minimum((np.cumsum(weight) - weight / 2) / weight.sum() * _PARTS, _PARTS - 1).astype(int)
    return np.stack([sums[:, part == n].sum(axis=1) for n in range(_PARTS)], axis=1)


def gauc(rows: DataFrame, answer: Answer, contract: Contract, level: float = 0.95) -> tuple[float, float, float] | None:
    """AUC within each user who has both labels, averaged by the user's rows; value and interval. None without users.

    Column expressions over one shuffle by user. Rows count alike, whatever their weight.
    """
    if contract.user is None:
        return None

    def batches(raw: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in raw:
            columns = [batch.column(name) for name in ("user", GROUP, "label")]
            yield pa.RecordBatch.from_arrays([*columns, pa.array(answer(batch))], names=["user", GROUP, "label", "p"])

    known = rows.where(F.col(contract.user).isNotNull()).withColumn("user", F.col(contract.user).cast("string"))
    grouped = known.withColumn("label", F.col("label").cast("int")).transform(with_user_group(contract))
    scored = grouped.mapInArrow(batches, f"user string, {GROUP} bigint, label int, p double")
    user = Window.partitionBy("user")
    both = scored.withColumn("clicks", F.sum("label").over(user)).withColumn("many", F.count("*").over(user))
    both = both.where((F.col("clicks") > 0) & (F.col("clicks") < F.col("many")))
    ties = F.count("*").over(Window.partitionBy("user", "p"))
    place = both.withColumn("rank", F.rank().over(user.orderBy("p")) + (ties - 1) / 2)
    ranks = F.sum(F.when(F.col("label") == 1, F.col("rank")))
    clicks, many = F.first("clicks"), F.first("many")
    area = (ranks - clicks * (clicks + 1) / 2) / (clicks * (many - clicks))
    users = place.groupBy("user", GROUP).agg(area.alias("auc"), many.alias("many"))
    areas_of = F.sum(F.col("auc") * F.col("many")).alias("areas")
    table = users.groupBy(GROUP).agg(areas_of, F.sum("many").alias("many")).toArrow()
    if not table.num_rows:
        return None
    areas, of = np.zeros(GROUPS), np.zeros(GROUPS)
    place_of = np.asarray(table[GROUP].to_numpy())
    areas[place_of], of[place_of] = np.asarray(table["areas"].to_numpy()), np.asarray(table["many"].to_numpy())
    draws = drawn(GROUPS)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(areas.sum() / of.sum()), *spread_of((draws @ areas) / (draws @ of), level)
