"""The hourly round, for any scheduler to call: ingest, label, count, feast materialize, the clock last.

Takes up what came since the last round that ended, be it an hour or a month; a round that has nothing to do writes nothing. What
Redis holds is checked against what that round left there: a Redis that lost its data is filled anew. Exit codes: 65 where
the breaker held something back (everything else was done), 75 where another round is at work or Redis does not answer.

    spark-submit jobs/hourly.py --contract conf/contracts/demo.yaml --data ../landing
"""

import argparse
import sys
from collections.abc import Mapping

from conf.errors import HeldError
from conf.lease import lease
from jobs.command import Context, job_parser, log, run_job, timed
from jobs.count import count
from jobs.ingest import ingest
from jobs.label import label, moment
from jobs.materialize import materialize


def hourly(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """One round; counts of what was ingested, of labels, and of the hours of the log that were materialized."""
    with lease(context.settings.state / "leases", f"hourly-{context.contract.name}"):
        alarm: HeldError | None = None
        counts: dict[str, int] = {}
        try:
            counts |= timed("ingest", ingest, context, args)
        except HeldError as error:
            alarm = error
            log.warning("hourly: held back, the rest goes on\n%s", error)
        for name, job in (("label", label), ("count", count), ("materialize", materialize)):
            counts |= timed(name, job, context, args)
    if alarm is not None:
        raise alarm
    return counts


def parser() -> argparse.ArgumentParser:
    parser = job_parser(__doc__)
    parser.add_argument("--data", required=True, metavar="FOLDER", help="the folder where the log's files arrive")
    parser.add_argument("--as-of", type=moment, metavar="TIME", help="how far the log's clock has come (ISO 8601)")
    return parser


if __name__ == "__main__":
    sys.exit(run_job("hourly", hourly, parser()))
