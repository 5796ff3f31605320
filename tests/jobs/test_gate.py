"""The gate on real trainings: what it must refuse, and that it lets a genuine retrain pass. Then the way back."""

import argparse
import math
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyspark.sql import DataFrame, SparkSession
from sklearn.metrics import log_loss

from conf.contract import Contract
from conf.errors import BundleError
from conf.settings import ROOT, load_settings
from conf.tables import Tables
from feature_repo.catalogue import EVENT_TIMESTAMP
from feature_repo.vectorize import Fitted, vectorize
from jobs.command import Context
from jobs.judging import verdict_on
from jobs.promote import parser, promote
from jobs.recalibrate import recalibrate
from jobs.replay import replay
from jobs.warehouse import Warehouse
from models.assembly import assembled, counters_of, fit_model
from models.bundle import Bundle, save_bundle
from models.calibration import Calibrator
from models.published import load_champion
from models.selection import Choice
from models.shards import Shard
from models.tracking import BUNDLE, JUDGED, Registry
from tests.conftest import ID_KEY, ID_KEY_HEX
from tests.training_rows import DAY_US, source_tables, training_table

ROWS = 48_000
CHOICE = Choice("shallow", 150, 0.003, Calibrator(), 3, {})


def batch(table: pa.Table) -> pa.RecordBatch:
    return table.combine_chunks().to_batches()[0]


def many_users(table: pa.Table) -> pa.Table:
    """The rows dealt to 9,000 users: of a few dozen, drawing users again would say little."""
    users = pa.array([f"user_id-{row % 9_000}" for row in range(len(table))])
    return table.set_column(table.column_names.index("user_id"), "user_id", users)


class InMemory(Warehouse):
    """Tables as frames in memory: what Delta does with tables is the subject of other tests, and takes a second each."""

    def put(self, name: str, table: pa.Table) -> None:
        self.spark.createDataFrame(table).persist().createOrReplaceTempView(f"gate_{name}")

    def read(self, table: str) -> DataFrame:
        return self.spark.table(f"gate_{table}")

    def pinned(self, table: str) -> tuple[int, DataFrame]:
        return self.version(table), self.read(table)

    def version(self, table: str) -> int:
        return 0


@dataclass(frozen=True)
class Installation:
    context: Context
    warehouse: InMemory
    table: pa.Table
    folder: Path

    @property
    def registry(self) -> Registry:
        settings = self.context.settings
        return Registry.of(settings, self.context.contract)

    @property
    def champion(self) -> str | None:
        found = load_champion(self.context.settings.bundles(self.context.contract.name))
        return found.version if found else None

    def write(self, table: pa.Table) -> None:
        self.warehouse.put("training_set", table)

    def frame(self, table: pa.Table) -> DataFrame:
        return self.context.warehouse.spark.createDataFrame(table)

    def trained(self, table: pa.Table) -> tuple[Bundle, Bundle]:
        """A bundle made from these rows, and its judged one, which ends before the last eighth: as training makes them, but here
        and by a choice that is made already."""
        cut = len(table) * 7 // 8
        begin, last = (table[EVENT_TIMESTAMP][row].as_py() for row in (cut, len(table) - 1))
        until = (last + timedelta(microseconds=1)).isoformat()
        recipe = self.context.settings.train
        metrics = {
            "split": {"test": {"from": begin.isoformat(), "until": until}}, "trees_until": until,
            "choice": CHOICE.to_dict(), "recipe": recipe.model_dump(mode="json"), "test": {},
        }  # fmt: skip
        judged = self.fitted(table.slice(0, cut))
        return replace(self.fitted(table).with_golden(batch(table.slice(0, 64))), metrics=metrics), judged

    def fitted(self, table: pa.Table) -> Bundle:
        contract, recipe = self.context.contract, self.context.settings.train
        labels, raw = table["label"].to_numpy().astype(np.int8), batch(table)
        categories = [name for name, column in contract.columns.items() if column.type == "category"]
        words = {name: Counter(table[name].drop_null().to_pylist()) for name in categories}
        vocabularies = {name: tuple(sorted(n for n in of if of[n] >= recipe.rare_below)) for name, of in words.items()}
        rate = float(labels.mean())
        fitted = Fitted.of(contract, base_rate=rate, strength=recipe.prior_impressions, vocabularies=vocabularies)
        rows = len(labels)
        shard = Shard(vectorize(raw, fitted), labels, np.zeros(rows, np.int64), np.arange(rows, dtype=np.uint64))
        trees, ridge = assembled(fit_model(shard, CHOICE, recipe, counters_of(fitted.features)), fitted, 1.0)
        return Bundle("trees", contract.hash, ID_KEY.fingerprint, fitted, Calibrator(), trees, ridge)

    def register(self, bundle: Bundle, judged: Bundle) -> str:
        folder = self.folder / bundle.identity
        save_bundle(bundle, folder / BUNDLE, {})
        save_bundle(judged, folder / JUDGED, {})
        return self.registry.record(folder, bundle.identity, params={}, metrics={}, tags={})[0]


@pytest.fixture(scope="module")
def installed(spark: SparkSession, demo_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """With a champion trained on the first nine tenths of the rows."""
    folder = tmp_path_factory.mktemp("gate")
    settings = load_settings()
    settings = settings.model_copy(
        update={
            "state": folder, "warehouse": str(folder / "warehouse"), "mlflow": f"sqlite:///{folder / 'mlflow.db'}",
            "train": settings.train.model_copy(update={"seeds": 1}), "gate": settings.gate.model_copy(update={"replayed": 200}),
        }
    )  # fmt: skip
    warehouse = InMemory(spark, Tables(str(settings.warehouse), demo_contract), ID_KEY)
    context = Context(settings, demo_contract, warehouse, ID_KEY)
    made = Installation(context, warehouse, many_users(training_table(demo_contract, ROWS, days=4)), folder)
    for name, table in source_tables(demo_contract, made.table).items():
        warehouse.put(name, table)
    early = made.table.slice(0, ROWS * 9 // 10)
    made.write(early)
    made.register(*made.trained(early))
    assert promote(context, argparse.Namespace()) == {"version": 1}
    made.write(made.table)
    return made


@pytest.fixture(scope="module")
def retrained(installed: Installation) -> tuple[Bundle, Bundle]:
    """A genuine retrain on all rows."""
    return installed.trained(installed.table)


def refused(installed: Installation, bundle: Bundle, judged: Bundle) -> str:
    """Why the gate refuses a candidate; the champion stays."""
    champion, version = installed.champion, installed.register(bundle, judged)
    with pytest.raises(BundleError, match=f"version {version}: not promoted") as raised:
        promote(installed.context, argparse.Namespace(version=version))
    assert installed.champion == installed.registry.champion() == champion
    return str(raised.value)


def with_labels(table: pa.Table, labels: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index("label"), "label", labels.cast(pa.int32()))


def test_one_trained_on_shuffled_labels(installed: Installation, retrained: tuple[Bundle, Bundle]) -> None:
    shuffled = np.random.default_rng(0).permutation(installed.table["label"].to_numpy())
    bundle, judged = installed.trained(with_labels(installed.table, pa.array(shuffled)))
    assert "NE against the champion's recipe" in refused(installed, bundle, judged)
    said = refused(installed, replace(bundle, calibrator=Calibrator("shift", (1e-9,)), golden=None), retrained[1])
    assert "NE against" not in said, "the judged one is good"
    assert "NE of the bundle that would serve, against the judged one" in said


def test_one_that_is_good_overall_and_broken_in_a_slice(installed: Installation) -> None:
    """It learned from labels of which half the slice's clicks were moved to rows elsewhere."""
    clicked = installed.table["label"].to_numpy() == 1
    here = pc.equal(installed.table["placement_id"], "placement_id-1").fill_null(False).to_numpy()
    draw = np.random.default_rng(0).uniform(size=ROWS)
    moved = here & clicked & (draw < 0.5)
    elsewhere = ~here & ~clicked
    labels = clicked & ~moved | elsewhere & (draw < moved.sum() / elsewhere.sum())
    said = refused(installed, *installed.trained(with_labels(installed.table, pa.array(labels))))
    assert "calibration in placement_id placement_id-1" in said
    assert "calibration overall" not in said


@pytest.mark.parametrize(("who", "by"), [("both", 1.2), ("the one that would serve", 1.21)])
def test_one_scaled_by_a_fifth(installed: Installation, retrained: tuple[Bundle, Bundle], who: str, by: float) -> None:
    bundle, judged = retrained
    calibrator = Calibrator("shift", (math.log(by),))
    scaled = replace(bundle, calibrator=calibrator, golden=None)
    said = refused(installed, scaled, replace(judged, calibrator=calibrator) if who == "both" else judged)
    assert "calibration of the bundle that would serve, overall: found 1." in said
    assert ("calibration overall: found 1." in said) == (who == "both")


def test_one_with_a_leaked_future_feature(installed: Installation, retrained: tuple[Bundle, Bundle]) -> None:
    """The user's last hour knows the click of the row itself, in the table; serving will not have it."""
    name = "user__clicks_1h"
    leaked = pc.add(installed.table[name], installed.table["label"].cast(pa.int64()))
    table = installed.table.set_column(installed.table.column_names.index(name), name, leaked)
    installed.write(table)
    bundle, judged = installed.trained(table)
    assert logloss(judged, table) < logloss(retrained[1], installed.table) - 0.02, "figures alone would have let it pass"
    said = refused(installed, bundle, judged)
    installed.write(installed.table)
    assert f"replay: found {name} in " in said
    assert "of 200 rows, expected the values that serving would have had" in said


def test_rows_that_are_not_in_the_log_are_found_by_the_replay(installed: Installation) -> None:
    assert replay(installed.context, installed.frame(installed.table), 50).different == {}
    forged = installed.table.slice(0, 10)
    ids = pa.array([f"forged {row}" for row in range(10)])
    forged = forged.set_column(forged.column_names.index("impression_id"), "impression_id", ids)
    assert replay(installed.context, installed.frame(forged), 50).different == {"impressions": 10}


def test_the_gate_says_and_keeps_why(installed: Installation, retrained: tuple[Bundle, Bundle]) -> None:
    version = installed.register(*retrained)
    assert promote(installed.context, argparse.Namespace(version=version)) == {"version": int(version)}
    kept = installed.registry.tags(version)
    assert kept["gate"] == "passed"
    with pytest.raises(BundleError, match="changed after it was made"):
        replace(installed.registry.version(version), seals={BUNDLE: "0", JUDGED: "0"}).bundle()
    assert installed.champion == installed.registry.champion() == version
    bundles = installed.context.settings.bundles(installed.context.contract.name)
    before = {path: path.stat().st_mtime_ns for path in bundles.rglob("*")}
    promote(installed.context, argparse.Namespace(version=version))
    assert {path: path.stat().st_mtime_ns for path in bundles.rglob("*")} == before, "again changes nothing"
    with pytest.raises(BundleError, match="has no version 77, expected one of 1, 2"):
        promote(installed.context, argparse.Namespace(version="77"))
    said = installed.registry.noted(version, "gate")
    assert [check["name"] for check in said["checks"]][:3] == [
        "replay", "NE against the constant", "NE against the champion's recipe",
    ]  # fmt: skip


def test_force_needs_a_reason_and_keeps_it_and_one_command_goes_back(
    installed: Installation, retrained: tuple[Bundle, Bundle], capsys: pytest.CaptureFixture[str]
) -> None:
    before = installed.champion
    scaled = replace(retrained[0], calibrator=Calibrator("shift", (0.3,)), golden=None)
    version = installed.register(scaled, retrained[1])
    for missing in (["--force"], ["--force", " "]):
        with pytest.raises(SystemExit):
            parser().parse_args(missing)
    assert "expected" in capsys.readouterr().err
    promote(installed.context, argparse.Namespace(version=version, force="the ratio is known, the campaign ends today"))
    assert installed.champion == version
    assert installed.registry.tags(version)["forced"] == "the ratio is known, the campaign ends today"
    environment = {
        "CLICKODDS_STATE": str(installed.context.settings.state), "CLICKODDS_MLFLOW": str(installed.context.settings.mlflow),
        "PYTHONPATH": str(ROOT), "CLICKODDS_ID_KEY": ID_KEY_HEX,
    }  # fmt: skip
    command = [sys.executable, "jobs/rollback.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert installed.champion == installed.registry.champion() == before
    assert f"version {before} is published" in done.stderr
    assert installed.registry.tags(version)["rolled_back"] == before
    assert installed.registry.version().number != version, "no default any more"
    installed.registry.crown(version)
    assert "rolled_back" not in installed.registry.tags(version), "brought back"
    installed.registry.roll_back(version, before)


def test_newer_rows_judge_too(installed: Installation, retrained: tuple[Bundle, Bundle]) -> None:
    """What came after the training is in the gate's rows."""
    version = installed.registry.version(installed.register(*retrained))
    half = pc.greater_equal(installed.table[EVENT_TIMESTAMP], installed.table[EVENT_TIMESTAMP][ROWS * 19 // 20])
    newer = with_labels(installed.table, pc.or_(pc.equal(installed.table["label"], 1), half))
    installed.write(newer)
    verdict = verdict_on(installed.context, version, retrained[0], None)
    installed.write(installed.table)
    assert not verdict.passed, "all of the last twentieth were clicked"


def test_a_recalibrated_champion_follows_the_newest_rows_and_passes(installed: Installation) -> None:
    """Its trees stay; a day on which clicks became half as many again moves every answer by as much."""
    champion = load_champion(installed.context.settings.bundles(installed.context.contract.name))
    assert champion is not None
    newer = many_users(training_table(installed.context.contract, 16_000, seed=1, days=1))
    later = pc.add(newer[EVENT_TIMESTAMP], pa.scalar(4 * DAY_US, pa.duration("us")))
    newer = newer.set_column(newer.column_names.index(EVENT_TIMESTAMP), EVENT_TIMESTAMP, later)
    newer = newer.set_column(newer.column_names.index("date"), "date", later.cast(pa.date32()))
    more = np.random.default_rng(2).uniform(size=len(newer)) < 0.04
    newer = with_labels(newer, pc.or_(pc.equal(newer["label"], 1), pa.array(more))).cast(installed.table.schema)
    table = pa.concat_tables([installed.table, newer])
    for name, rows in source_tables(installed.context.contract, table).items():
        installed.warehouse.put(name, rows)
    installed.write(table)
    counts = recalibrate(installed.context, argparse.Namespace(hours=24))
    made = installed.registry.version(str(counts["version"])).bundle()
    assert counts["rows"] == pytest.approx(16_000, abs=20)
    assert made.trees == champion.bundle.trees
    before, after = (np.mean(bundle.probabilities(batch(newer))) for bundle in (champion.bundle, made))
    clicked = newer["label"].to_numpy().mean()
    assert before < 0.85 * clicked
    assert after == pytest.approx(clicked, rel=0.05)
    assert promote(installed.context, argparse.Namespace(version=None)) == {"version": counts["version"]}
    assert recalibrate(installed.context, argparse.Namespace(hours=24))["version"] == counts["version"], "nothing new"


def logloss(bundle: Bundle, table: pa.Table) -> float:
    later = table.slice(len(table) * 7 // 8)
    return float(log_loss(later["label"].to_numpy(), bundle.probabilities(batch(later))))
