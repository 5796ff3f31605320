"""What a group of features costs: bytes of a key's row in Redis, and microseconds of a request's vector."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from conf.contract import Contract
from feature_repo.catalogue import raw_counter, raw_schema
from feature_repo.vectorize import Fitted, vectorize

_ROWS, _RUNS = 100, 200
_FIELD_BYTES = 4  # of the hash that Feast names a value by
_TAG_BYTES = 1  # of the one field of a Feast value that is written; its number is below 16


def costs(
    rows: DataFrame, fitted: Fitted, groups: Mapping[str, Sequence[int]], contract: Contract
) -> dict[str, dict[str, float]]:
    """Group -> `redis_bytes`, the mean of a few rows' encoded counters, and `vector_us`, the median for one row alone.

    groups: name -> positions in the vector. Bytes are 0 for what no lookup brings.
    """
    schema = raw_schema(contract)
    sample = rows.select(*schema.names).limit(_ROWS).toArrow().cast(schema).combine_chunks().to_batches()[0]
    return {
        name: {
            "redis_bytes": _bytes(sample, name, contract) if name in contract.keys else 0.0,
            "vector_us": _microseconds(sample.slice(0, 1), replace(fitted, features=tuple(fitted.features[n] for n in columns))),
        }
        for name, columns in groups.items()
    }


def _bytes(sample: pa.RecordBatch, key: str, contract: Contract) -> float:
    total = 0.0
    for counter in contract.counter_columns:
        for value in sample.column(raw_counter(key, counter)).to_pylist():
            total += _FIELD_BYTES + (_TAG_BYTES + _varint_bytes(value) if value is not None else 0)
    return float(total / sample.num_rows)


def _varint_bytes(value: int) -> int:
    """Of a number, not below 0, in protobuf: seven bits a byte."""
    return max(1, -(-value.bit_length() // 7))


def _microseconds(row: pa.RecordBatch, fitted: Fitted) -> float:
    taken = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        vectorize(row, fitted)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken) * 1e6)
