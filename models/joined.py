"""The workers of a stage joined by XGBoost's communicator, at an address that Spark's barrier passes on."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from pyspark import BarrierTaskContext

from models.lean import xgb

PATIENCE_S = 300  # that a worker waits for another at one step of theirs


@contextmanager
def joined(num_workers: int, threads: int) -> Iterator[int]:
    """This worker's rank among those of the stage. Within, sums are over all of them, and XGBoost has so many threads."""
    # Spark sets OMP_NUM_THREADS to a task's cores, which are one, and XGBoost takes no more than that
    with xgb.config_context(nthread=threads):
        if num_workers == 1:
            yield 0
            return
        context = BarrierTaskContext.get()
        said = ""
        if context.partitionId() == 0:
            host = context.getTaskInfos()[0].address.rsplit(":", 1)[0]
            tracker = xgb.tracker.RabitTracker(n_workers=num_workers, host_ip=host, sortby="task")
            tracker.start()
            Thread(target=tracker.wait_for, daemon=True).start()
            said = json.dumps(tracker.worker_args())
        place = json.loads(context.allGather(said)[0])
        with xgb.collective.CommunicatorContext(**place, dmlc_task_id=f"{context.partitionId():06}", dmlc_timeout=PATIENCE_S):
            yield int(xgb.collective.get_rank())
