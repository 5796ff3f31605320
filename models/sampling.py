"""A bounded sample of a log, looked at by one Spark task: what wants a table in memory gets one, and the driver gets figures."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from models.split import Slice

_PARTS = 1_000_000


def drawn(part: Slice, rows: int) -> Column:
    """True for about `rows` rows of the slice, all of them where it has no more: the same ones on every run."""
    share = min(1.0, rows / part.rows) if part.rows else 0.0
    draw = F.pmod(F.xxhash64(F.lit("sample"), "impression_id"), F.lit(_PARTS))
    return part.within() & (draw < F.lit(round(share * _PARTS)))


def in_one_task(rows: DataFrame, task: Callable[[pa.Table], dict[str, Any]]) -> dict[str, Any]:
    """What `task` makes of all rows, which must be few, in no order; as JSON holds it. Raises ValueError where there are none."""

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        if found := [batch for batch in batches if batch.num_rows]:
            yield pa.RecordBatch.from_pydict({"figures": [json.dumps(task(pa.Table.from_batches(found)))]})

    # not coalesce: the log itself is read by as many tasks as ever, only the sample comes to one
    collected = rows.repartition(1).mapInArrow(run, "figures string").collect()
    if not collected:
        raise ValueError("no rows in the sample")
    made: dict[str, Any] = json.loads(collected[0]["figures"])
    return made
