"""Give every mature impression its label, 1 if a click counts for it, else 0, and say what became of every click.

An impression is mature once attribution window and allowed lateness have passed at `--as-of` (default: the newest known time in
the log, or the contract's `complete_through`). Rebuilt from the first date that ingest has touched or time has made mature since
the last run, in one commit; `--full` rebuilds everything, and ends in the same rows.

Cost: one join of impressions and clicks on the impression's id, over the dates that are rebuilt; for `click_fates` over so many
days more as a click may be late (limits.redelivered).

    spark-submit jobs/label.py --contract conf/contracts/demo.yaml
"""

import argparse
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime

from pyspark.sql import functions as F

from conf.errors import DataError
from jobs.admission import admitted
from jobs.attribution import counted_clicks, fates, is_mature, label_version, log_time, newest_known
from jobs.command import Context, job_parser, log, run_job
from jobs.touched import DAY, days_before, event_date_touched, seen_now
from jobs.warehouse import EVERYTHING, Note


def label(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Write `labels` and `click_fates`; counts of labels, and of the clicked ones."""
    warehouse, contract = context.warehouse, context.contract
    rule = contract.label
    seen = seen_now(warehouse)  # before the events: what an ingest adds in between, the next run takes up
    impressions, clicks = admitted(warehouse, "impressions"), admitted(warehouse, "clicks")
    newest = newest_known(impressions, clicks)
    if newest is None:
        raise DataError("impressions: no row is admitted, expected at least one: see the table holds, and jobs/release.py")
    as_of = args.as_of or log_time(newest, rule)
    note = {**seen, "as_of": as_of.isoformat(), "label_version": label_version(rule)}
    since = _since(context, note, full=getattr(args, "full", False))
    if since is None:
        log.info("label: nothing new since the last run")
    else:
        log.info("label: %s", "all dates" if since == EVERYTHING else f"from {since} on")
        near = impressions.where(F.col("date") >= F.lit(since))
        clicks_since = days_before(since, DAY)  # by the clocks' skew a click may be dated before its impression
        counted = near.transform(counted_clicks(clicks.where(F.col("date") >= F.lit(clicks_since)), rule))
        mature = near.where(is_mature(rule, as_of)).select("impression_id", "event_timestamp", "date")
        labels = mature.join(counted.select("impression_id", "click_timestamp"), "impression_id", "left").select(
            "impression_id",
            "event_timestamp",
            "click_timestamp",
            F.col("click_timestamp").isNotNull().cast("int").alias("label"),
            F.lit(label_version(rule)).alias("label_version"),
            "date",
        )
        told = fates(impressions, clicks, rule, within=contract.limits.redelivered, since=clicks_since)
        warehouse.replace("click_fates", told, partition_by=["date"], since=clicks_since)
        warehouse.replace("labels", labels, partition_by=["date"], since=since, note=note)
    made = warehouse.read("labels").agg(F.count("*"), F.count_if(F.col("label") == 1)).collect()[0]
    if not made[0]:
        log.warning("label: no impression is mature at %s: wait for later rows, or declare label.complete_through", as_of)
    return {"labels": made[0], "clicked": made[1]}


def _since(context: Context, note: Note, *, full: bool) -> date | None:
    """The first date to rebuild, None for none."""
    last = context.warehouse.note("labels")
    if full or not last or last["label_version"] != note["label_version"] or not context.warehouse.exists("click_fates"):
        return EVERYTHING
    before, now = datetime.fromisoformat(last["as_of"]), datetime.fromisoformat(note["as_of"])
    if now < before:  # labels must go again
        return EVERYTHING
    rule = context.contract.label
    dates = [event_date_touched(context.warehouse, context.contract, last)]
    if now > before:  # what was too young then
        dates.append((before - rule.attribution_window - rule.allowed_lateness).astimezone(UTC).date())
    return min((day for day in dates if day is not None), default=None)


def moment(text: str) -> datetime:
    """An ISO 8601 time, UTC where it names no zone."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def parser() -> argparse.ArgumentParser:
    parser = job_parser(__doc__)
    parser.add_argument("--as-of", type=moment, metavar="TIME", help="judge maturity at this time of the log (ISO 8601)")
    parser.add_argument("--full", action="store_true", help="rebuild all dates")
    return parser


if __name__ == "__main__":
    sys.exit(run_job("label", label, parser()))
