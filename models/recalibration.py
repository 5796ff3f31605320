"""A new calibrator for trees that stay as they are, from rows that they have not seen.

The driver gets a histogram over the margin, a thousand bins a unit of log odds, whatever the number of rows.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from feature_repo.catalogue import EVENT_TIMESTAMP
from feature_repo.vectorize import vectorize
from models.bundle import Bundle
from models.calibration import FARTHEST, Scored
from models.evaluation import UNIT

_BINS = 1 << 15
_WIDTH = 2 * FARTHEST / _BINS


def scored_slices(rows: DataFrame, bundle: Bundle, cuts: Sequence[int], negatives: float) -> list[Scored]:
    """Uncalibrated margins of the rows between each two cuts (event times, microseconds), oldest first. One Spark job.

    Each bin is two rows, one clicked and one not, that count as many as fell into it. negatives: the share of the rows without a
    click that were kept.
    """
    edges = np.asarray(cuts, dtype=np.int64)

    def batches(raw: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in raw:
            at = np.asarray(batch.column(EVENT_TIMESTAMP).cast(pa.int64()), dtype=np.int64)
            place = np.searchsorted(edges, at, side="right").astype(np.int64) - 1
            margins = bundle.margins(vectorize(batch, bundle.fitted))
            bins = np.clip(((margins + FARTHEST) / _WIDTH).astype(np.int64), 0, _BINS - 1)
            columns = {"slice": place, "bin": bins}
            yield pa.RecordBatch.from_pydict(
                {**{name: pa.array(column) for name, column in columns.items()}, "label": batch.column("label").cast(pa.int8()),
                 "weight": pa.array(_units(batch.column("weight")))}
            )  # fmt: skip

    binned = rows.mapInArrow(batches, "slice bigint, bin bigint, label tinyint, weight bigint")
    cell = ("slice", "bin", "label")
    table = binned.groupBy(*cell).agg(F.sum("weight").alias("weight")).orderBy(*cell).toArrow()
    place, bins, labels, weights = (np.asarray(table[name].to_numpy()) for name in (*cell, "weight"))
    margins = (bins + 0.5) * _WIDTH - FARTHEST
    counts = weights * UNIT * np.where(labels == 1, 1.0, negatives)
    return [
        Scored(margins[here], labels[here].astype(np.int8), counts[here], negatives)
        for here in (place == n for n in range(len(cuts) - 1))
    ]


def _units(weights: pa.Array) -> npt.NDArray[np.int64]:
    """Whole numbers of UNIT, whose sums no order of adding changes."""
    return np.rint(np.asarray(weights.to_numpy(zero_copy_only=False), dtype=np.float64) / UNIT).astype(np.int64)
