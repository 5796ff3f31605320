"""Take the new files of a data folder into the tables impressions, clicks, quarantine, audit and holds.

Every event once, however often it was delivered, and whoever else ingests at the same time: what is in the tables already is a
duplicate. A file is done when the audit has it, which is written last; a run that was killed is simply run again. Refused rows go
to quarantine with their reason. A batch above the contract's limits is stored, but held back from labels and counters until
jobs/release.py lets it go: exit code 65. Another ingest of the contract at work: exit code 75.

Cost: reads the new files once, a batch with a damaged file three times; and the ids of the tables' days around theirs
(limits.redelivered) once.

    spark-submit jobs/ingest.py --contract conf/contracts/amexpert.yaml --data ../logs
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence

from pyspark.sql import functions as F

from conf.durations import parse_duration
from conf.errors import HeldError
from conf.lease import lease
from jobs.admission import HELD, Hold, held, write_holds
from jobs.alarms import holds_of
from jobs.command import Context, job_parser, log, run_job, timed
from jobs.ingestion import Judged, audit_rows, counts_of, judged, store, store_audit
from jobs.log_sources import log_sources, new_files
from jobs.warehouse import Warehouse


def ingest(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Ingest both logs as one batch; counts of raw, accepted, duplicate and refused rows.

    Raises HeldError, when all is stored, where the breaker holds the batch or dates of it back.
    """
    with lease(context.settings.state / "leases", f"ingest-{context.contract.name}"):
        totals, holds = _ingest(context, args.data)
    if holds:
        raise HeldError(
            "\n".join(str(hold) for hold in holds) + "\nstored, but kept out of labels, counters and training; look at the data, "
            f"then: spark-submit jobs/release.py --batch {holds[0].batch} --reason '...'"
        )
    return totals


def continuously(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Ingest, and again every so often where the arguments say so, until it is interrupted or refused; what is held is said."""
    if args.every is None:
        return ingest(context, args)
    while True:
        try:
            timed("ingest", ingest, context, args)
        except HeldError as error:
            log.error("ingest: held back\n%s", error)
        time.sleep(args.every.total_seconds())


def _ingest(context: Context, folder: str) -> tuple[Mapping[str, int], Sequence[Hold]]:
    warehouse, contract = context.warehouse, context.contract
    batch = _next_batch(warehouse)
    sources = log_sources(contract, context.id_key)
    found: list[Judged] = []
    for source in sources:
        files = new_files(warehouse, folder, source)
        log.info("ingest: %s: %d new file(s) of %s", source.table, len(files), source.files.files)
        if files:
            found.append(judged(warehouse, folder, source, files))
    # before the rows, so that nobody ever sees them unmarked
    there = {(hold.batch, hold.date) for hold in held(warehouse)}  # by a run of this number that was killed: it saw more
    alarms = [hold for hold in holds_of(warehouse, contract, found, batch) if (hold.batch, hold.date) not in there]
    write_holds(warehouse, alarms, HELD)
    for one in found:
        store(warehouse, one, batch, contract.limits.redelivered)
    audit = audit_rows(warehouse, found, batch)
    if audit:
        store_audit(warehouse, audit)
    totals = {f"{log} {what}": n for log in (source.table for source in sources) for what, n in counts_of(audit, log).items()}
    return totals, [hold for hold in held(warehouse) if hold.batch >= batch]


def _next_batch(warehouse: Warehouse) -> int:
    """The number after the newest batch that ended. What a killed run left bears it already, its holds too."""
    newest = warehouse.read("audit").agg(F.max("batch")).collect()[0][0] if warehouse.exists("audit") else None
    return (newest or 0) + 1


def parser() -> argparse.ArgumentParser:
    parser = job_parser(__doc__)
    parser.add_argument("--data", required=True, metavar="FOLDER", help="the folder with the log's files")
    parser.add_argument("--every", type=parse_duration, metavar="DURATION", help="go on: look for new files so often, such as 5m")
    return parser


if __name__ == "__main__":
    sys.exit(run_job("ingest", continuously, parser()))
