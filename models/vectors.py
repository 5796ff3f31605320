"""Vectors for training on Spark: `vectorize` over Arrow batches, where the rows lie."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from feature_repo.catalogue import EVENT_TIMESTAMP
from feature_repo.vectorize import Fitted, vectorize

FEATURES = "features"  # one array column: with a column each, xgboost.spark fails on an Arrow batch without early-stopping rows
_ID = "impression_id"
_SCHEMA = f"{_ID} string, {EVENT_TIMESTAMP} timestamp, label int, {FEATURES} array<float>"


def vectors(fitted: Fitted) -> Callable[[DataFrame], DataFrame]:
    """Raw rows with label to `impression_id`, `event_timestamp`, `label` and the float32 vector in `features`."""

    def batches(raw: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in raw:
            values = vectorize(batch, fitted)
            ends = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
            made = [pa.ListArray.from_arrays(pa.array(ends), pa.array(values.ravel()))]
            kept = [batch.column(name) for name in (_ID, EVENT_TIMESTAMP, "label")]
            yield pa.RecordBatch.from_arrays(kept + made, names=[_ID, EVENT_TIMESTAMP, "label", FEATURES])

    return lambda rows: rows.mapInArrow(batches, _SCHEMA)


@contextmanager
def training_frame(rows: DataFrame, fitted: Fitted, num_workers: int) -> Iterator[DataFrame]:
    """Vectors in the one order that a model may depend on, kept for the fits of the block.

    One partition for each XGBoost worker, chosen by the id's hash, sorted by id within it: the same rows give the same bytes of
    model, however the table's files lie.
    """
    frame = rows.transform(vectors(fitted)).repartition(num_workers, _ID).sortWithinPartitions(_ID).cache()
    try:
        yield frame
    finally:
        frame.unpersist()
