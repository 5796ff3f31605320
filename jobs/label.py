"""Give every mature impression its label: 1 if a click counts for it, else 0.

An impression is mature once attribution window and allowed lateness have passed at `--as-of` (default: the newest known time in
the log, or the contract's `complete_through`). The whole table is made anew, in one commit; a rerun ends in the same rows.

Cost: one join of impressions and clicks on the impression's id.

    spark-submit jobs/label.py --contract conf/contracts/demo.yaml
"""

import argparse
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from pyspark.sql import functions as F

from conf.errors import DataError
from jobs.attribution import counted_clicks, is_mature, label_version, log_time, newest_known
from jobs.command import Context, job_parser, log, run_job


def label(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Write `labels`; counts of impressions, labels and clicks."""
    warehouse, rule = context.warehouse, context.contract.label
    impressions, clicks = warehouse.read("impressions"), warehouse.read("clicks")
    newest = newest_known(impressions, clicks)
    if newest is None:
        raise DataError("impressions: the table is empty, expected at least one impression")
    as_of = args.as_of or log_time(newest, rule)
    counted = impressions.transform(counted_clicks(clicks, rule)).select("impression_id", "click_timestamp")
    mature = impressions.where(is_mature(rule, as_of)).select("impression_id", "event_timestamp", "date")
    labels = mature.join(counted, "impression_id", "left").select(
        "impression_id",
        "event_timestamp",
        "click_timestamp",
        F.col("click_timestamp").isNotNull().cast("int").alias("label"),
        F.lit(label_version(rule)).alias("label_version"),
        "date",
    )
    written = warehouse.replace("labels", labels, partition_by=["date"])
    if not written:
        log.warning("label: no impression is mature at %s: wait for later rows, or declare label.complete_through", as_of)
    clicked = warehouse.read("labels").where("label = 1").count()
    return {"impressions": impressions.count(), "labels": written, "clicked": clicked}


def moment(text: str) -> datetime:
    """An ISO 8601 time, UTC where it names no zone."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def parser() -> argparse.ArgumentParser:
    parser = job_parser(__doc__)
    parser.add_argument("--as-of", type=moment, metavar="TIME", help="judge maturity at this time of the log (ISO 8601)")
    return parser


if __name__ == "__main__":
    sys.exit(run_job("label", label, parser()))
