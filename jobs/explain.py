"""Explain an impression from the tables as POST /v1/explain explains a request: the first thing to ask when two numbers differ.

Prints one JSON object: raw values at the impression's own time, the vector by feature, what trees, ridge and calibrator add, the
probability, and which model and clock they are of. Lay it beside the server's answer to the same request: the first line that
differs is the cause. The published champion answers, or the bundle that `--identity` names among the published ones.

    spark-submit jobs/explain.py --contract conf/contracts/demo.yaml i-123456
"""

import argparse
import json
import sys
from collections.abc import Mapping
from datetime import UTC
from typing import Any

import pyarrow as pa
from pyspark.sql import functions as F

from conf.contract import AS_OF, CLOCK
from conf.errors import DataError
from feature_repo.catalogue import EVENT_TIMESTAMP, raw_schema
from jobs.command import Context, job_parser, run_job
from jobs.features import counters_usable, with_counters
from models.explanation import explained
from models.published import Named, load_champion


def explain(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Print the explanation. Raises DataError where there is no such impression, or no model."""
    print(json.dumps(explanation(context, args.impression, args.identity), indent=1, ensure_ascii=False))  # noqa: T201
    return {"impressions": 1}


def explanation(context: Context, impression: str, identity: str | None = None) -> dict[str, Any]:
    """Of one impression by its id, in clear or as the tables have it."""
    warehouse, contract = context.warehouse, context.contract
    root = context.settings.bundles(contract.name)
    champion = load_champion(root) if identity is None else Named(identity[:12], identity).load(root)
    if champion is None:
        raise DataError("no model was promoted yet: run jobs/train.py, then jobs/promote.py")
    ids = {impression, context.id_key.digest(impression)} if contract.personal_id else {impression}
    row = warehouse.read("impressions").where(F.col("impression_id").isin(sorted(ids)))
    days = [day for (day,) in row.select(F.to_date(EVENT_TIMESTAMP)).collect()]
    if len(days) != 1:
        raise DataError(f"impressions: found {len(days)} of id {impression}, expected one")
    features = with_counters(contract, counters_usable(warehouse, contract, days[0], days[0]))
    schema = raw_schema(contract)
    table = row.select(EVENT_TIMESTAMP, *contract.columns).transform(features).select(*schema.names).toArrow()
    raw = table.cast(schema).combine_chunks().to_batches()[0]
    clock = _clock(context, raw)
    named = {name: raw.column(name)[0].as_py() for name in contract.candidate}
    return {
        "impression_id": impression,
        "model_version": champion.version,
        "model_identity": champion.bundle.identity,
        "contract_hash": contract.hash,
        "as_of": clock,
        "reasons": [],
        "candidates": [{**named, **row} for row in explained(champion.bundle, raw)],
    }


def _clock(context: Context, raw: pa.RecordBatch) -> str | None:
    """The newest publication by the impression's time."""
    at = raw.column(EVENT_TIMESTAMP)[0].value
    newest = context.warehouse.read(CLOCK).where(F.col(AS_OF) <= at).agg(F.timestamp_micros(F.max(AS_OF))).collect()[0][0]
    return newest.astimezone(UTC).isoformat() if newest else None


def parser() -> argparse.ArgumentParser:
    parser = job_parser(__doc__)
    parser.add_argument("impression", help="its id, as the log or the table has it")
    parser.add_argument("--identity", metavar="SHA256", help="of a published bundle (default: the champion)")
    return parser


if __name__ == "__main__":
    sys.exit(run_job("explain", explain, parser()))
