"""Build the training set: each labelled impression with the raw values that serving would have had at its time.

Of each key the newest counter row with published_at <= event time; nothing that became known later can enter. Rows in = rows out
is checked. The whole table is made anew, in one commit; a rerun ends in the same rows.

Cost: for each key one join of the impressions with that key's counters, on key and day.

    spark-submit jobs/build_training_set.py --contract conf/contracts/demo.yaml
"""

import argparse
import sys
from collections.abc import Mapping

from pyspark.sql import functions as F

from conf.errors import DataError
from jobs.command import Context, job_parser, run_job
from jobs.features import raw_columns, with_counters


def build_training_set(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Write `training_set`; counts of its rows and clicks. Raises DataError where a row was lost or doubled."""
    warehouse, contract = context.warehouse, context.contract
    impressions = warehouse.read("impressions").select("impression_id", "event_timestamp", *contract.columns, "date")
    labels = warehouse.read("labels").select("impression_id", "label")
    features = with_counters(contract, lambda key: warehouse.read(warehouse.tables.counters(key)))
    rows = impressions.join(labels, "impression_id").transform(features)
    rows = rows.select("impression_id", *raw_columns(contract), "label", F.lit(1.0).alias("weight"), "date")
    written = warehouse.replace("training_set", rows, partition_by=["date"])
    if written != (labelled := labels.count()):
        raise DataError(f"training_set: {written:,} rows, expected the {labelled:,} of labels: run jobs/label.py again")
    return {"training_set": written, "clicked": labels.where("label = 1").count()}


def parser() -> argparse.ArgumentParser:
    return job_parser(__doc__)


if __name__ == "__main__":
    sys.exit(run_job("build_training_set", build_training_set, parser()))
