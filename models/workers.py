"""One function on all training workers at once: Spark's barrier gives them their rows, XGBoost's communicator joins them.

`xgboost.spark` does the same for one fit. A training is dozens of fits on the same rows, and each would read, shuffle and copy
them anew; here the rows are copied once, and whatever a worker does with them is plain NumPy and XGBoost (docs/adr).
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark import cloudpickle
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame

from models.hiding import hidden
from models.joined import joined
from models.shards import Shard, read_shard

log = logging.getLogger("clickodds")

ATTEMPTS = 4
_RESULT = "name string, value binary"

Task = Callable[[Shard], Mapping[str, bytes]]


def on_workers(shards: DataFrame, num_workers: int, threads: int, width: int, task: Task) -> dict[str, bytes]:
    """What `task` returns on the first worker, after all have run it, each on its partition of `shards`, in so many threads.

    Within the task `models.collective.total` sums over the workers, and XGBoost trains on the rows of all. A worker that is lost
    ends all: the others notice at once where its connections close, after PATIENCE_S where it is silent. The whole is tried
    again, ATTEMPTS times in all, and a task that keeps what it has done goes on from there.
    """
    # as Spark would do it; by hand, so that a worker imports XGBoost while its rows come in
    packed = cloudpickle.dumps((joined, task))  # type: ignore[no-untyped-call]

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with hidden(), ThreadPoolExecutor(1) as beside:  # of both threads: PyArrow looks for pandas at its first rows
            loading = beside.submit(cloudpickle.loads, packed)
            shard = read_shard(batches, width)
        join, work = loading.result()
        with join(num_workers, threads) as rank:
            found = work(shard)
        if rank == 0:
            yield pa.RecordBatch.from_pydict({"name": list(found), "value": list(found.values())})

    for attempt in range(1, ATTEMPTS + 1):
        try:
            rows = shards.mapInArrow(run, _RESULT, barrier=num_workers > 1).collect()
            return {row["name"]: bytes(row["value"]) for row in rows}
        except (PySparkException, Py4JJavaError) as error:  # a failed barrier stage comes as Java's own
            if attempt == ATTEMPTS or not _is_lost_worker(error):
                raise
            log.warning("train: a worker was lost, attempt %d of %d", attempt + 1, ATTEMPTS)
    raise AssertionError


# what Spark says of a lost executor, and the others' XGBoost, often sooner, of the connection to it
_SIGNS = ("ExecutorLostFailure", "executor lost", "ExecutorLost", "Worker lost", "FetchFailed", "collective/result.cc")


def _is_lost_worker(error: Exception) -> bool:
    """Whether a worker was lost, rather than the task having failed by itself."""
    return any(sign in str(error) for sign in _SIGNS)
