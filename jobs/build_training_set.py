"""Build the training set: each labelled impression with the raw values that serving would have had at its time.

Of each key the newest counter row with published_at <= event time; nothing that became known later can enter. Rows in = rows out
is checked. The whole table is made anew, in one commit; a rerun ends in the same rows.

Cost: one shuffle of the impressions for each key whose counters are not small, at least one (docs/asof.md).

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
    """Write `training_set`; counts of rows and clicks. Raises DataError where a row was lost or doubled."""
    warehouse, contract = context.warehouse, context.contract
    impressions = warehouse.read("impressions").select("impression_id", "event_timestamp", *contract.columns, "date")
    labels = warehouse.read("labels").select("impression_id", "label")
    features = with_counters(contract, lambda key: warehouse.read(warehouse.tables.counters(key)))
    rows = impressions.join(labels, "impression_id").transform(features)
    rows = rows.select("impression_id", *raw_columns(contract), "label", F.lit(1.0).alias("weight"), "date")
    warehouse.replace("training_set", rows, partition_by=["date"])
    written = warehouse.read("training_set").agg(F.count("*").alias("rows"), F.sum("label").alias("clicked")).first()
    counts = written.asDict() if written else {}
    if counts["rows"] != (labelled := warehouse.count("labels")):
        raise DataError(f"training_set: {counts['rows']:,} rows, expected the {labelled:,} of labels: run jobs/label.py again")
    return {"rows": counts["rows"], "clicked": counts["clicked"] or 0}


def parser() -> argparse.ArgumentParser:
    return job_parser(__doc__)


if __name__ == "__main__":
    sys.exit(run_job("build_training_set", build_training_set, parser()))
