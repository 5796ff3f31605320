"""Train on the training set and register the bundle in MLflow.

What to train (trees' preset, rounds, the ridge regression's share, a calibrator) is chosen on later slices of the rows before the
last eighth, the test. The metrics are of a model that ends before the test; registered, with that one beside it, is the same
recipe on all rows. With `--warm-start` the champion's trees and ridge stay, and trees are added from the rows that came after its
training: cheaper to make, longer to answer; train whole now and then. The same input gives the same bytes, and an equal bundle
keeps the version it has. A killed training goes on from its last 50 rounds. Exit code 65: labels other than 0 and 1, no clicks,
too few rows, or no training set yet.

A model card, card.html and card.md, lies beside the bundle in every run (docs/model-card.md).

Cost: the rows go to the workers twice and stay there in memory, 9 bytes a feature with their bins; on them run a fit for each
preset and fold (on at most `selection_rows`), and two for each seed. A model card costs a few seconds more, for baselines on
`baseline_rows`. Workers on several machines need the state folder on a shared disk: segments lie there.

    spark-submit jobs/train.py --contract conf/contracts/demo.yaml
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from pyspark.sql import functions as F

from conf.errors import BundleError
from conf.lease import lease
from conf.settings import ROOT
from feature_repo.catalogue import EVENT_TIMESTAMP
from jobs.command import Context, job_parser, log, run_job
from jobs.warehouse import Warehouse
from models.boosting import Kept
from models.bundle import Bundle, save_bundle
from models.card import glance, write_card
from models.card_facts import RECENT, gather
from models.provenance import provenance
from models.published import load_champion
from models.tracking import BUNDLE, JUDGED, NOTE, Registry
from models.training import Training, train_bundle


def train(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Train, log and register; counts of rows, clicks, rounds and the version. Raises DataError, see the module."""
    folder = context.settings.state / "training"
    with lease(folder, context.contract.name):  # two would remove each other's segments
        return _train(context, args, folder / context.contract.name)


def _train(context: Context, args: argparse.Namespace, kept: Path) -> Mapping[str, int]:
    contract, settings = context.contract, context.settings
    read, rows = context.warehouse.pinned("training_set")
    versions = _versions(context.warehouse) | {"training_set": read}
    start = None
    if getattr(args, "warm_start", False):
        start = _champion(context)
        rows = rows.where(F.col(EVENT_TIMESTAMP) >= F.lit(datetime.fromisoformat(start.metrics["trees_until"])))
    origin = provenance(ROOT, contract, versions, settings.train.model_dump(mode="json"))
    segments = Kept(kept, json.dumps(origin, sort_keys=True))  # made by other code or settings they are of another model
    made = train_bundle(rows, contract, settings.train, context.id_key.fingerprint, kept=segments, start=start)
    chosen = {"preset": made.choice.preset, "rounds": made.choice.rounds, "ridge": made.choice.ridge}
    recipe = {**settings.train.model_dump(), **chosen}
    origin = {**origin, "recipe": recipe}
    with tempfile.TemporaryDirectory() as folder:
        save_bundle(made.bundle, Path(folder) / BUNDLE, origin)
        save_bundle(made.judged, Path(folder) / JUDGED, origin)
        registry = Registry.of(settings, contract)
        facts = gather(rows, made, contract, settings.train, origin, registry.recent(RECENT))
        write_card(Path(folder), facts)
        version, new = registry.record(
            Path(folder), made.bundle.identity, params=recipe, metrics=_figures(made),
            tags={f"table.{table}": str(number) for table, number in versions.items()}
            | {name: str(origin[name]) for name in ("contract_hash", "commit", "lock_sha256")} | {NOTE: glance(facts)},
        )  # fmt: skip
    shutil.rmtree(segments.folder, ignore_errors=True)
    if not new:
        log.info("train: equal to version %s to the byte, not registered again", version)
    test = made.bundle.metrics["test"]
    log.info("train: test logloss %.5f, constant %.5f, NE %.4f", test["logloss"], test["logloss_constant"], test["ne"])
    everything = made.split.everything
    return {"rows": everything.rows, "clicks": everything.clicks, "rounds": made.choice.rounds, "version": int(version)}


def _champion(context: Context) -> Bundle:
    contract = context.contract
    champion = load_champion(context.settings.bundles(contract.name))
    wanted = ("trees", contract.hash, context.id_key.fingerprint)
    of = champion.bundle if champion else None
    if of is None or (of.kind, of.contract_hash, of.id_key_fingerprint) != wanted:
        raise BundleError(f"{contract.name}: found no champion of this contract and id key to start from, expected one of trees")
    return of


def _versions(warehouse: Warehouse) -> dict[str, int]:
    """Delta version of every table there is."""
    return {table: warehouse.version(table) for table in warehouse.tables.made_by if warehouse.exists(table)}


def _figures(made: Training) -> dict[str, float]:
    test = dict(made.bundle.metrics["test"])
    low, high = test.pop("difference") or (None, None)
    figures = {**test, "difference_low": low, "difference_high": high}
    return {f"test_{name}": value for name, value in figures.items() if value is not None}


def parser() -> argparse.ArgumentParser:
    made = job_parser(__doc__)
    made.add_argument("--warm-start", action="store_true", help="add trees to the champion's, from rows that it has not seen")
    return made


if __name__ == "__main__":
    sys.exit(run_job("train", train, parser()))
