"""Train on the training set and register the bundle in MLflow.

Splits in time (75 % train, 12.5 % early stopping, 12.5 % test, later rows each), takes the metrics from a model that ends before
the test, and registers one of the same recipe that does not. The same input gives the same bytes, and an equal bundle keeps the
version it has. Exit code 65: labels other than 0 and 1, no clicks, too few rows, or no training set yet.

Cost: one early-stopped fit and two for each seed; every fit copies the rows to its XGBoost workers.

    spark-submit jobs/train.py --contract conf/contracts/demo.yaml
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from conf.settings import ROOT
from jobs.command import Context, job_parser, log, run_job
from jobs.warehouse import Warehouse
from models.bundle import save_bundle
from models.plots import reliability_png
from models.provenance import provenance
from models.tracking import BUNDLE, Registry
from models.training import Training, train_bundle


def train(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Train, log and register; counts of rows, clicks, rounds and the version. Raises DataError, see the module."""
    contract, settings = context.contract, context.settings
    versions = _versions(context.warehouse)
    made = train_bundle(context.warehouse.read("training_set"), contract, settings.train, context.id_key.fingerprint)
    recipe = {**settings.train.model_dump(), "rounds": made.rounds}
    origin = provenance(ROOT, contract, versions, recipe)
    with tempfile.TemporaryDirectory() as folder:
        save_bundle(made.bundle, Path(folder) / BUNDLE, origin)
        Path(folder, "reliability.png").write_bytes(reliability_png(made.histogram, f"{contract.name}: test slice"))
        registry = Registry(str(settings.mlflow), settings.state / "mlartifacts", contract.name)
        version, new = registry.record(
            Path(folder), made.bundle.identity, params=recipe, metrics=_figures(made),
            tags={f"table.{table}": str(number) for table, number in versions.items()}
            | {name: str(origin[name]) for name in ("contract_hash", "commit", "lock_sha256")},
        )  # fmt: skip
    if not new:
        log.info("train: equal to version %s to the byte, not registered again", version)
    test = made.bundle.metrics["test"]
    log.info("train: test logloss %.5f, constant %.5f, NE %.4f", test["logloss"], test["logloss_constant"], test["ne"])
    everything = made.split.everything
    return {"rows": everything.rows, "clicks": everything.clicks, "rounds": made.rounds, "version": int(version)}


def _versions(warehouse: Warehouse) -> dict[str, int]:
    """Delta version of every table there is, taken before the first read."""
    return {table: warehouse.version(table) for table in warehouse.tables.made_by if warehouse.exists(table)}


def _figures(made: Training) -> dict[str, float]:
    test = dict(made.bundle.metrics["test"])
    low, high = test.pop("difference") or (None, None)
    figures = {**test, "difference_low": low, "difference_high": high}
    return {f"test_{name}": value for name, value in figures.items() if value is not None}


def parser() -> argparse.ArgumentParser:
    return job_parser(__doc__)


if __name__ == "__main__":
    sys.exit(run_job("train", train, parser()))
