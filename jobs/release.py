"""Let a batch go that the breaker held back: its rows count from the next run of label, count and build_training_set on.

The reason is stored beside the alarm, in the table `holds`. Without --batch: list what is held.

    spark-submit jobs/release.py --batch 7 --date 2026-03-01 --reason "a campaign began, checked with sales"
"""

import argparse
import sys
from collections.abc import Mapping
from datetime import date

from conf.errors import DataError
from conf.lease import lease
from jobs.admission import RELEASED, Hold, held, write_holds
from jobs.command import Context, job_parser, log, run_job


def release(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Release what the arguments name; counts of holds released and left. Raises DataError where nothing such is held."""
    with lease(context.settings.state / "leases", f"ingest-{context.contract.name}"):
        there = held(context.warehouse)
        named = [hold for hold in there if hold.batch == args.batch and args.date in (None, hold.date)]
        if args.batch is not None and not named:
            listed = "\n".join(f"  {hold}" for hold in there) or "  nothing"
            day = f", {args.date}" if args.date else ""
            raise DataError(f"batch {args.batch}{day}: not held, expected one of\n{listed}")
        for hold in there:
            log.info("release: %s %s", "released" if hold in named else "held", hold)
        write_holds(context.warehouse, [Hold(h.batch, h.date, args.reason) for h in named], RELEASED)
    return {"released": len(named), "held": len(there) - len(named)}


def parser() -> argparse.ArgumentParser:
    parser = job_parser(__doc__)
    parser.add_argument("--batch", type=int, metavar="N", help="the batch to release (default: list what is held)")
    parser.add_argument("--date", type=date.fromisoformat, metavar="DATE", help="only its rows of this date")
    parser.add_argument("--reason", default="", metavar="TEXT", help="why, for those who ask later; wanted with --batch")
    return parser


if __name__ == "__main__":
    arguments = parser().parse_args()
    if arguments.batch is not None and not arguments.reason:
        parser().error("--batch wants a --reason")
    sys.exit(run_job("release", release, parser()))
