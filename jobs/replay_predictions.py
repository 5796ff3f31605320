"""Build served answers again by the batch path: the same raw values, the same vectors, the same margins, to the bit; else 65.

A sample of the table predictions, chosen by hash. A raw value that differs means that the tables have changed since (a backfill),
or that serving read something else than they hold; a margin alone, that the scorer or the bundle is not what it was.

Cost: one as-of join of the sample with the counters of its days and the longest window before.

    spark-submit jobs/replay_predictions.py --contract conf/contracts/demo.yaml --rows 1000
"""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F

from conf.errors import BundleError, DataError
from feature_repo.catalogue import raw_schema
from feature_repo.vectorize import vectorize
from jobs.command import Context, job_parser, log, run_job
from jobs.replay import replay_served
from models.bundle import load_bundle

MOST = 100_000  # rows, whose vectors are made in this process


def replay_predictions(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Counts of rows replayed, and of those whose model is there to answer again. Raises DataError where anything differs."""
    rows = context.warehouse.read_now("predictions")
    if args.since is not None:
        rows = rows.where(F.col("date") >= F.lit(args.since))
    found, again = replay_served(context, rows, min(args.rows, MOST))
    columns = raw_schema(context.contract).names
    served = [F.col(f"served {name}").alias(f"served {name}") for name in columns]
    table = again.select("margin", "model_identity", *columns, *served).toArrow()
    again.unpersist()
    different = Counter(found.different)
    answered = 0
    for identity in pc.unique(table.column("model_identity")).to_pylist():
        part = table.filter(pc.equal(table.column("model_identity"), identity))
        try:
            bundle = load_bundle(context.settings.bundles(context.contract.name) / identity, identity=identity)
        except BundleError as error:
            log.warning("replay_predictions: %d rows cannot be answered again: %s", part.num_rows, error)
            continue
        answered += part.num_rows
        batch, was = (_raw(part, context, prefix) for prefix in ("", "served "))
        vectors = vectorize(batch, bundle.fitted)
        moved = np.any(vectors.view(np.uint32) != vectorize(was, bundle.fitted).view(np.uint32), axis=1)
        different["vectors"] += int(moved.sum())
        if bundle.kind == "trees":
            margins = part.column("margin").to_numpy()
            different["margins"] += int(np.sum(bundle.margins(vectors) != margins))
    if wrong := {name: count for name, count in sorted(different.items()) if count}:
        said = ", ".join(f"{name} in {count}" for name, count in wrong.items())
        raise DataError(f"predictions: of {found.rows} rows the batch path builds otherwise: {said}; expected no difference")
    return {"rows": found.rows, "answered again": answered}


def _raw(part: pa.Table, context: Context, prefix: str) -> pa.RecordBatch:
    schema = raw_schema(context.contract)
    table = pa.table({name: part.column(prefix + name) for name in schema.names}).cast(schema)
    return table.combine_chunks().to_batches()[0]


def parser() -> argparse.ArgumentParser:
    parser = job_parser(__doc__)
    parser.add_argument("--rows", type=int, default=1000, metavar="N", help=f"how many, at most {MOST:,} (default: 1000)")
    parser.add_argument("--since", metavar="DATE", help="of requests from this date on (default: all)")
    return parser


if __name__ == "__main__":
    sys.exit(run_job("replay_predictions", replay_predictions, parser()))
