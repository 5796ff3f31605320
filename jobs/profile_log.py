"""Profile the ingested log: one page to look at, profile.html, drawn from profile.json beside it.

Volumes and click rate over time, files and refusals, missing shares, cardinalities and new values, the fate and the delay of
clicks, and how strongly each column goes together with the label (where jobs/label.py has run). Personal columns are counted
only. Equal tables give equal bytes; times are the log's. docs/profile.md tells how to read it.

Cost: one join of clicks with impressions and one of impressions with labels, each on the impression's id; one shuffle of the
distinct values of all columns (a sample by hash of a column's values above a million); four passes over single columns of the
impressions. The driver gets sums only: at most 1,500 bins of time, 2,000 groups of a number, 500 values of a category.

    spark-submit jobs/profile_log.py --contract conf/contracts/demo.yaml --out profile
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from conf.errors import DataError
from conf.files import write_whole
from jobs.command import Context, job_parser, run_job
from jobs.profile_page import page
from jobs.profile_report import report

# Not `profile`: Python looks into a job's own folder first, and pyspark imports the standard library's module of that name.


def profile_log(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Write profile.json and profile.html into `args.out`; counts of impressions, labels and bytes of the page."""
    profile = report(context)
    folder, html = Path(args.out), page(profile)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "profile.json", json.dumps(profile, indent=1) + "\n")
        write_whole(folder / "profile.html", html)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written, expected a folder of this machine ({error.strerror})") from None
    return {"impressions": profile["impressions"], "labels": profile["labels"]["rows"], "bytes": len(html.encode())}


def parser() -> argparse.ArgumentParser:
    parser = job_parser(__doc__)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="for profile.html and profile.json")
    return parser


if __name__ == "__main__":
    sys.exit(run_job("profile_log", profile_log, parser()))
