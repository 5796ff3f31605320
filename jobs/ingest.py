"""Take the new files of a data folder into the tables impressions, clicks, quarantine and audit.

Every event once, however often it was delivered: what is in the tables already is a duplicate. A file is done when the audit
table has it, which is written last; a run that was killed is simply run again. Refused rows go to quarantine with their reason;
above the contract's `limits.refused` nothing is taken and the exit code is 65.

Cost: reads the new files twice at most, and the ids of the tables once.

    spark-submit jobs/ingest.py --contract conf/contracts/amexpert.yaml --data ../logs
"""

import argparse
import sys
from collections.abc import Mapping

from jobs.command import Context, job_parser, log, run_job
from jobs.ingestion import LogSource, click_source, impression_source, new_files, take


def ingest(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Ingest both logs; counts of raw, accepted, duplicate and refused rows."""
    sources: list[LogSource] = [impression_source(context.contract, context.id_key)]
    if context.contract.clicks.log is not None:
        sources.append(click_source(context.contract, context.id_key))
    totals: dict[str, int] = {}
    for source in sources:
        files = new_files(context.warehouse, args.data, source)
        log.info("ingest: %s: %d new file(s) of %s", source.table, len(files), source.files.files)
        for what, count in take(context.warehouse, args.data, source, files).items():
            totals[f"{source.table} {what}"] = count
    return totals


def parser() -> argparse.ArgumentParser:
    parser = job_parser(__doc__)
    parser.add_argument("--data", required=True, metavar="FOLDER", help="the folder with the log's files")
    return parser


if __name__ == "__main__":
    sys.exit(run_job("ingest", ingest, parser()))
