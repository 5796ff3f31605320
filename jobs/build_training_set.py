"""Build the training set: each labelled impression with the raw values that serving would have had at its time.

Of each key the newest counter row with published_at <= event time; nothing that became known later can enter. Of impressions that
were not clicked the contract's share is kept (sampling.negatives), told by a hash of the id, with its inverse as the weight.
Before anything is written each label is found to have its one impression. Rebuilt from the first date whose labels or counters
were since the last run, in one commit; `--full` rebuilds everything, and ends in the same rows.

Cost: over the dates that are rebuilt, one shuffle of the impressions for each key whose counters are not small, at least one
(docs/asof.md).

    spark-submit jobs/build_training_set.py --contract conf/contracts/demo.yaml
"""

import argparse
import sys
from collections.abc import Mapping
from datetime import date

from pyspark.sql import functions as F

from conf.errors import DataError
from jobs.command import Context, job_parser, log, run_job
from jobs.features import counters_usable, raw_columns, with_counters
from jobs.sampling import sampled
from jobs.touched import date_rebuilt
from jobs.warehouse import EVERYTHING

TABLE = "training_set"


def build_training_set(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Write `training_set`; counts of its rows and clicks. Raises DataError where labels and impressions do not agree."""
    warehouse, contract = context.warehouse, context.contract
    sources = ["labels", *(warehouse.tables.counters(key) for key in contract.counted_keys)]
    versions = {table: warehouse.version(table) for table in sources}
    since = _since(context, sources, full=getattr(args, "full", False))
    if since is None:
        log.info("build_training_set: nothing new since the last run")
    else:
        log.info("build_training_set: %s", "all dates" if since == EVERYTHING else f"from {since} on")
        recent = F.col("date") >= F.lit(since)
        labels = warehouse.read("labels").where(recent).transform(sampled(contract.sampling)).persist()
        features = with_counters(contract, counters_usable(warehouse, contract, since))
        impressions = warehouse.read("impressions").where(recent).select("impression_id", *contract.columns, "date")
        kept = labels.select("impression_id", "event_timestamp", "label", "weight", "date")
        labelled = impressions.join(kept, ["impression_id", "date"])
        found, expected = labelled.count(), labels.count()
        if found != expected:
            raise DataError(f"{TABLE}: {found:,} impressions have labels, expected {expected:,}: run jobs/label.py again")
        rows = labelled.transform(features).select("impression_id", *raw_columns(contract), "label", "weight", "date")
        warehouse.replace(TABLE, rows, partition_by=["date"], since=since, note={"versions": versions})
        labels.unpersist()
    made = warehouse.read(TABLE).agg(F.count("*"), F.count_if(F.col("label") == 1)).collect()[0]
    return {TABLE: made[0], "clicked": made[1]}


def _since(context: Context, sources: list[str], *, full: bool) -> date | None:
    """The first date to rebuild, None for none."""
    for table in sources:
        context.warehouse.read(table)  # says which job makes it where it is not there
    last = context.warehouse.note(TABLE)
    return EVERYTHING if full or not last else date_rebuilt(context.warehouse, sources, last["versions"])


def parser() -> argparse.ArgumentParser:
    parser = job_parser(__doc__)
    parser.add_argument("--full", action="store_true", help="rebuild all dates")
    return parser


if __name__ == "__main__":
    sys.exit(run_job("build_training_set", build_training_set, parser()))
