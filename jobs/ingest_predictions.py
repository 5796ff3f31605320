"""Take the files that servers have written of their answers into the table predictions, and remove them.

Every file once: all its rows come in with one commit, under its name, and a file whose name the table holds adds nothing: a run
that was killed is simply run again. Another run of the contract at work: exit code 75.

Cost: reads the new files once, and the names in the table's dates of theirs.

    spark-submit jobs/ingest_predictions.py --contract conf/contracts/demo.yaml
"""

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from conf.contract import Files
from conf.lease import lease
from conf.served import SUFFIX, served_folder, served_schema
from feature_repo.catalogue import EVENT_TIMESTAMP, raw_schema
from jobs.command import Context, job_parser, run_job
from jobs.reading import list_files

TABLE = "predictions"
_FILES = Files(files=f"*{SUFFIX}", format="parquet")


def ingest_predictions(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Write `predictions`; counts of files, of their rows, and of those that are new."""
    warehouse, contract, state = context.warehouse, context.contract, context.settings.state
    spark = warehouse.spark
    default = served_folder(state, contract.name, contract.hash, context.id_key.fingerprint)
    if args.data is None:
        default.mkdir(parents=True, exist_ok=True)  # no server has answered yet
    with lease(state / "leases", f"predictions-{contract.name}"):
        paths = [row.path for row in list_files(spark, args.data or str(default), _FILES).collect()]
        if not paths:
            return {"files": 0, "rows": 0, "new": 0}
        schema = from_arrow_schema(served_schema(raw_schema(contract)))
        rows = spark.read.schema(schema).parquet(*paths).withColumns(
            {"source_file": F.col("_metadata.file_name"), "date": F.to_date(EVENT_TIMESTAMP)}
        )  # fmt: skip
        count, first, last = rows.agg(F.count("*"), F.min("date"), F.max("date")).collect()[0]
        same = f"t.date >= '{first}' AND t.date <= '{last}' AND t.source_file = s.source_file"
        new = warehouse.add_new(TABLE, rows, same=same, partition_by=["date"])
        _remove(spark, paths)
    return {"files": len(paths), "rows": count, "new": new}


def _remove(spark: SparkSession, paths: list[str]) -> None:
    """What is committed. A run killed here finds the files again, and nothing new in them."""
    jvm: Any = spark._jvm
    for name in paths:
        path = jvm.org.apache.hadoop.fs.Path(name)
        path.getFileSystem(spark._jsc.hadoopConfiguration()).delete(path, False)


def parser() -> argparse.ArgumentParser:
    parser = job_parser(__doc__)
    parser.add_argument("--data", metavar="FOLDER", help="where servers have written (default: below the setting `state`)")
    return parser


if __name__ == "__main__":
    sys.exit(run_job("ingest_predictions", ingest_predictions, parser()))
