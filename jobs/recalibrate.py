"""Register the champion with a new calibrator, fitted on mature rows that its trees have not seen. Its trees stay as they are.

Of the newest `--hours` the first seven eighths choose a calibrator (none, shift, Platt, beta, isotonic: it must earn its place on
a later slice) and the last eighth tests it, as in training; then it is fitted on all. `jobs/promote.py` puts the new version
before the gate, where the champion itself is its rival. Where no calibrator earns its place nothing is registered. Exit code 65:
no champion with trees, no newer rows, or none of them clicked.

Cost: one pass over the rows of those hours.

    spark-submit jobs/recalibrate.py --contract conf/contracts/demo.yaml --hours 24
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.errors import BundleError, DataError
from conf.settings import ROOT
from feature_repo.catalogue import EVENT_TIMESTAMP
from jobs.command import Context, job_parser, log, run_job
from models.bundle import Bundle, save_bundle
from models.calibration import Scored, choose_calibrator, fit_calibrator
from models.metrics import score_histogram, summarize
from models.provenance import provenance
from models.published import load_champion
from models.recalibration import scored_slices
from models.split import Split, time_split
from models.tracking import BUNDLE, JUDGED, Registry
from models.training import golden_rows


def recalibrate(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Register; counts of rows and clicks, and the version. Raises BundleError and DataError, see the module."""
    contract, settings = context.contract, context.settings
    champion = load_champion(settings.bundles(contract.name))
    if champion is None or champion.bundle.kind != "trees" or "trees_until" not in champion.bundle.metrics:
        raise BundleError(f"{contract.name}: found no champion with trees, expected one: run jobs/train.py and jobs/promote.py")
    bundle = champion.bundle
    seen_until = datetime.fromisoformat(bundle.metrics["trees_until"])
    version, rows = context.warehouse.pinned("training_set")
    rows = rows.where(F.col(EVENT_TIMESTAMP) >= F.lit(seen_until))
    newest = rows.agg(F.max(EVENT_TIMESTAMP)).collect()[0][0]
    if newest is None:
        raise DataError(f"training set: no rows after {seen_until}, which the champion's trees have seen; expected newer ones")
    rows = rows.where(F.col(EVENT_TIMESTAMP) >= F.lit(newest - timedelta(hours=args.hours)))
    split = time_split(rows)
    cuts = [split.earlier.from_us, *split.cuts, split.test.until_us]
    slices = scored_slices(rows, bundle, cuts, contract.sampling.negatives)
    chosen = choose_calibrator(slices[:-1], instead_of=bundle.calibrator)
    counts = {"rows": split.everything.rows, "clicks": split.everything.clicks}
    if chosen == bundle.calibrator:
        log.info("recalibrate: no calibrator earns its place on %d clicks; the champion stays as it is", counts["clicks"])
        return {**counts, "version": int(champion.version)}
    judged = replace(bundle, calibrator=chosen, golden=None, metrics={})
    test = rows.where(split.test.within())
    calibrator = fit_calibrator(chosen.kind, Scored.joined(slices))
    made = replace(bundle, calibrator=calibrator, metrics=_metrics(bundle, judged, split, test))
    made = made.with_golden(golden_rows(test, contract))
    log.info("recalibrate: %s %s", made.calibrator.kind, ", ".join(f"{value:+.4f}" for value in made.calibrator.parameters))
    return {**counts, "version": _register(context, made, judged, version)}


def _metrics(bundle: Bundle, judged: Bundle, split: Split, test: DataFrame) -> dict[str, Any]:
    found = summarize(score_histogram(test, judged, constant=bundle.fitted.base_rate))
    return {**bundle.metrics, "test": found, "split": split.described(), "recalibrated": bundle.identity, "slices": []}


def _register(context: Context, made: Bundle, judged: Bundle, training_set: int) -> int:
    contract, settings = context.contract, context.settings
    recipe = {"recalibrated": made.metrics["recalibrated"], "calibrator": made.calibrator.kind}
    origin = provenance(ROOT, contract, {"training_set": training_set}, recipe)
    with tempfile.TemporaryDirectory() as folder:
        save_bundle(made, Path(folder) / BUNDLE, origin)
        save_bundle(judged, Path(folder) / JUDGED, origin)
        registry = Registry.of(settings, contract)
        test = {f"recalibrated_{name}": v for name, v in made.metrics["test"].items() if isinstance(v, int | float)}
        version, _ = registry.record(
            Path(folder), made.identity, params=recipe, metrics=test, tags={"kind": "recalibration"}
        )
    return int(version)


def parser() -> argparse.ArgumentParser:
    made = job_parser(__doc__)
    made.add_argument("--hours", type=float, default=24.0, metavar="N", help="the newest hours to use; default: %(default)s")
    return made


if __name__ == "__main__":
    sys.exit(run_job("recalibrate", recalibrate, parser()))
