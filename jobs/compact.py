"""Keep a contract's tables small: many small files become few, and files that nothing has needed for a week are removed.

Every round of the log adds a file or more to each table, and leaves the ones that it replaced on disk; once a day is enough.
No row changes. It takes the leases of the round and of ingest: exit code 75 where one of them is at work.

Cost: reads and writes what lies in small files (OPTIMIZE), and lists all files (VACUUM).

    spark-submit jobs/compact.py --contract conf/contracts/demo.yaml
"""

import argparse
import sys
from collections.abc import Mapping

from conf.lease import lease
from conf.tables import MADE_OF_ANSWERS
from jobs.command import Context, job_parser, log, run_job


def compact(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Compact every table that there is; counts of files that the tables consisted of before and after."""
    warehouse, leases, name = context.warehouse, context.settings.state / "leases", context.contract.name
    before = after = 0
    with lease(leases, f"hourly-{name}"), lease(leases, f"ingest-{name}"):
        for table in filter(warehouse.exists, [*warehouse.tables.made_by, *MADE_OF_ANSWERS]):
            were, are = warehouse.compact(table)
            log.info("compact: %s: %d files, now %d", table, were, are)
            before, after = before + were, after + are
    return {"files before": before, "files after": after}


if __name__ == "__main__":
    sys.exit(run_job("compact", compact, job_parser(__doc__)))
