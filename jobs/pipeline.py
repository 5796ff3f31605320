"""Run ingest, label, count, build_training_set, train and promote in one Spark session: the same functions, one after another.

A bundle that promote refuses does not end the pipeline: what served before serves on, or prior rates where nothing did, and the
reason is logged. Prints a summary as one JSON object, the last line of stdout.

    spark-submit jobs/pipeline.py --contract conf/contracts/amexpert.yaml --data ../logs
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pyspark.sql import functions as F

from conf.contract import ALL_KEY, CLOCK
from conf.errors import BundleError, HeldError
from jobs.build_training_set import build_training_set
from jobs.command import Context, Job, job_parser, log, run_job, timed
from jobs.count import count
from jobs.example import example_request
from jobs.ingest import ingest
from jobs.label import label, moment
from jobs.promote import promote
from jobs.train import train
from models.published import load_champion
from models.tracking import ROLLED_BACK, Registry

STEPS: dict[str, Job] = {
    "ingest": ingest,
    "label": label,
    "count": count,
    "build_training_set": build_training_set,
    "train": train,
    "promote": promote,
}


def pipeline(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Run every step and print the summary; counts of rows by table."""
    seconds: dict[str, float] = {}
    written: dict[str, int] = {}
    alarm: HeldError | None = None
    for name, job in STEPS.items():
        start = time.monotonic()
        try:
            counts = timed(name, job, context, args)
            written |= {table: counts[table] for table in context.warehouse.tables.made_by if table in counts}
            if name == "train":
                args.version = str(counts["version"])  # which an equal bundle may have had before others came
        except HeldError as held:
            alarm = held
            log.warning("pipeline: held back, the rest goes on\n%s", held)
        except BundleError as refusal:
            if name != "promote":
                raise
            log.warning("promote: refused: %s", refusal)
        seconds[name] = round(time.monotonic() - start, 1)
        if name == "train" and ROLLED_BACK in _registry(context).tags(args.version):
            log.warning("pipeline: version %s was rolled back: jobs/promote.py --version brings it back", args.version)
            break
    rows = {t: written[t] if t in written else context.warehouse.count(t) for t in context.warehouse.tables.made_by}
    summary = {"rows": rows, "seconds": seconds, **_outcome(context, args.version), **_next(context, args.data)}
    print(json.dumps(summary), flush=True)  # noqa: T201
    if alarm is not None:
        raise alarm
    return rows


def _registry(context: Context) -> Registry:
    return Registry.of(context.settings, context.contract)


def _outcome(context: Context, version: str) -> dict[str, Any]:
    """How the trained model did on its test slice, and which version serves now."""
    trained = _registry(context).version(version)
    champion = load_champion(context.settings.bundles(context.contract.name))
    return {"test": trained.bundle().metrics["test"], "model_version": champion.version if champion else None}


def _next(context: Context, data: str) -> dict[str, Any]:
    """The interval to materialize, in the log's time, and a request to ask then."""
    warehouse = context.warehouse
    oldest = warehouse.read(warehouse.tables.counters(ALL_KEY)).agg(_iso(F.min("published_at"))).first()
    newest = warehouse.read(CLOCK).agg(_iso(F.max("published_at"))).first()
    if oldest is None or newest is None:
        return {}
    interval = {"start": oldest[0], "end": newest[0]}
    return {"materialize": interval, "request": example_request(context, data, datetime.fromisoformat(newest[0]))}


def _iso(column: F.Column) -> F.Column:  # type: ignore[name-defined]
    return F.date_format(column, "yyyy-MM-dd'T'HH:mm:ssXXX")


def parser() -> argparse.ArgumentParser:
    parser = job_parser(__doc__)
    parser.add_argument("--data", required=True, metavar="FOLDER", help="the folder with the log's files")
    parser.add_argument("--as-of", type=moment, metavar="TIME", help="where the log's clock stands (ISO 8601)")
    return parser


if __name__ == "__main__":
    sys.exit(run_job("pipeline", pipeline, parser()))
