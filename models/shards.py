"""What one training worker holds of the training set: its rows' vectors, labels and times, in an order that never changes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from feature_repo.catalogue import EVENT_TIMESTAMP
from feature_repo.vectorize import Fitted, Float32, vectorize

_ID, _AT, _DRAW, _LABEL, _FEATURES = "impression_id", "at_us", "draw", "label", "features"
# a vector is its float32 bytes: as an array of floats Spark would write each value to Arrow by itself
SCHEMA = f"{_AT} bigint, {_DRAW} bigint, {_LABEL} tinyint, {_FEATURES} binary"

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Shard:
    """Rows of one worker, by impression id.

    vectors: (rows, features) float32, NaN where a value is missing. labels: (rows,) 0 or 1. at_us: event times, microseconds
    since the epoch. draws: a hash of the id, evenly spread over 64 bits, from which every choice of rows is made.
    """

    vectors: Float32
    labels: npt.NDArray[np.int8]
    at_us: Int64
    draws: UInt64

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, rows: Bool) -> "Shard":
        """Its rows for which `rows` (rows,) is true."""
        return Shard(self.vectors[rows], self.labels[rows], self.at_us[rows], self.draws[rows])

    def between(self, from_us: int, until_us: int) -> "Shard":
        """Its rows with from_us <= event time < until_us."""
        return self.where((self.at_us >= from_us) & (self.at_us < until_us))

    def with_vectors(self, vectors: Float32) -> "Shard":
        return replace(self, vectors=vectors)

    def uniform(self, purpose: str) -> npt.NDArray[np.float64]:
        """(rows,) numbers in [0, 1) that depend on row and purpose alone, whoever holds the row."""
        seed = np.uint64(int.from_bytes(purpose.encode()[:8].ljust(8, b"\0"), "little"))
        return (_mixed(self.draws ^ _mixed(seed)) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def sharded(rows: DataFrame, fitted: Fitted, num_workers: int) -> DataFrame:
    """Training rows as the workers take them: one partition each, chosen by the id's hash, sorted by id within it.

    So the same rows give the same bytes of model, however the table's files lie.
    """
    draw = F.xxhash64(F.lit("training"), _ID).alias(_DRAW)
    return (
        rows.select("*", draw)
        .mapInArrow(_vectors(fitted), f"{_ID} string, {SCHEMA}")
        .repartition(num_workers, _ID)
        .sortWithinPartitions(_ID)
        .drop(_ID)
    )


def _vectors(fitted: Fitted) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def batches(raw: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in raw:
            columns = shard_columns(
                Shard(
                    vectorize(batch, fitted),
                    np.asarray(batch.column("label").cast(pa.int8())),
                    np.asarray(batch.column(EVENT_TIMESTAMP).cast(pa.int64())),
                    np.asarray(batch.column(_DRAW)).view(np.uint64),
                )
            )
            yield pa.RecordBatch.from_pydict({_ID: batch.column(_ID), **columns})

    return batches


def shard_columns(rows: Shard) -> dict[str, pa.Array]:
    """The rows as columns of SCHEMA, which `read_shard` reads; the vectors are not copied."""
    size = rows.vectors.shape[1] * rows.vectors.itemsize
    ends = np.arange(0, (len(rows) + 1) * size, size, dtype=np.int32)
    vectors = np.ascontiguousarray(rows.vectors, dtype=np.float32)
    return {
        _AT: pa.array(rows.at_us),
        _DRAW: pa.array(rows.draws.view(np.int64)),
        _LABEL: pa.array(rows.labels),
        _FEATURES: pa.Array.from_buffers(pa.binary(), len(rows), [None, pa.py_buffer(ends), pa.py_buffer(vectors)]),
    }


def read_shard(batches: Iterable[pa.RecordBatch], width: int) -> Shard:
    """The shard from a partition of `sharded`. width: how many features a vector has."""
    parts = [
        Shard(
            _rows_of(batch.column(_FEATURES), width),
            np.asarray(batch.column(_LABEL), dtype=np.int8),
            np.asarray(batch.column(_AT), dtype=np.int64),
            np.asarray(batch.column(_DRAW), dtype=np.int64).view(np.uint64),
        )
        for batch in batches
        if batch.num_rows  # without rows it may have no buffers
    ]
    empty = Shard(np.empty((0, width), np.float32), np.empty(0, np.int8), np.empty(0, np.int64), np.empty(0, np.uint64))
    columns = [np.concatenate(column) for column in zip(*(vars(part).values() for part in [empty, *parts]), strict=True)]
    return Shard(*columns)


def _rows_of(vectors: pa.BinaryArray, width: int) -> Float32:
    _, ends, values = vectors.buffers()
    first = np.frombuffer(ends, np.int32)[vectors.offset]
    return np.frombuffer(values, np.float32, len(vectors) * width, first).reshape(-1, width)


def _mixed(values: UInt64 | np.uint64) -> UInt64:
    """splitmix64's finalizer. Source: Steele, Lea, Flood 2014."""
    with np.errstate(over="ignore"):
        mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), dtype=np.uint64)
