"""Training and promotion over a real training set, Spark, MLflow's database and all."""

import argparse
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyspark.sql import SparkSession
from sklearn.metrics import log_loss

from conf.contract import Contract
from conf.errors import BundleError, DataError
from conf.settings import load_settings
from conf.tables import Tables
from feature_repo.catalogue import LEVEL
from feature_repo.vectorize import vectorize
from jobs.command import Context
from jobs.promote import promote
from jobs.train import train
from jobs.warehouse import Warehouse
from models.bundle import load_bundle, save_bundle
from models.level import level_of
from models.promotion import checked, crown
from models.published import load_champion
from models.tracking import Registry, Version
from models.training import train_bundle
from tests.conftest import ID_KEY
from tests.training_rows import DAY_US, training_table

ARGS = argparse.Namespace()
RECIPE = {"seeds": 2, "max_rounds": 25, "early_stopping_rounds": 5, "ridge_strengths": (0.003,), "baseline_rows": 2_000}


@dataclass(frozen=True)
class Trained:
    context: Context
    raw: pa.Table
    counts: dict[str, int]

    @property
    def registry(self) -> Registry:
        return registry(self.context)

    @property
    def bundles(self) -> Path:
        return self.context.settings.bundles(self.context.contract.name)


def registry(context: Context) -> Registry:
    return Registry.of(context.settings, context.contract)


def make_context(spark: SparkSession, contract: Contract, folder: Path) -> Context:
    settings = load_settings()
    settings = settings.model_copy(
        update={
            "state": folder, "warehouse": str(folder / "warehouse"), "mlflow": f"sqlite:///{folder / 'mlflow.db'}",
            "train": settings.train.model_copy(update=RECIPE),
        }
    )  # fmt: skip
    return Context(settings, contract, Warehouse(spark, Tables(str(settings.warehouse), contract), ID_KEY), ID_KEY)


def write(context: Context, rows: pa.Table, *, files: int) -> None:
    frame = context.warehouse.spark.createDataFrame(rows).repartition(files)
    context.warehouse.replace("training_set", frame, partition_by=["date"])


@pytest.fixture(scope="module")
def trained(spark: SparkSession, demo_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    context = make_context(spark, demo_contract, tmp_path_factory.mktemp("train"))
    raw = training_table(demo_contract, 4_000, days=9)
    write(context, raw, files=1)
    return Trained(context, raw, dict(train(context, ARGS)))


def test_a_bundle_is_registered_with_its_metrics(trained: Trained) -> None:
    assert trained.counts["rows"] == 4_000
    assert trained.counts["version"] == 1
    version = trained.registry.version()
    bundle = load_bundle(version.folder, identity=version.identity)
    test, slices = bundle.metrics["test"], bundle.metrics["split"]
    assert test["rows"] == slices["test"]["rows"] == pytest.approx(500, abs=30)
    assert test["clicks"] == slices["test"]["clicks"]
    assert 0.5 < test["auc"] < 1
    assert test["difference"][0] < test["logloss"] - test["logloss_constant"] < test["difference"][1]
    earlier, test_part, folds = (slices[name] for name in ("earlier", "test", "folds"))
    assert earlier["from"] < folds[0]["train_until"] < folds[-1]["until"] == earlier["until"] == test_part["from"]
    assert test_part["from"].endswith(":00:00+00:00")
    assert bundle.metrics["choice"]["folds"] == len(folds) == 3


def test_the_registered_model_knows_all_rows_the_judged_one_only_those_before_the_test(trained: Trained) -> None:
    version = trained.registry.version()
    bundle = load_bundle(version.folder)
    labels, places = trained.raw["label"].to_numpy(), trained.raw["placement_id"]
    assert bundle.fitted.base_rate == labels.sum() / 4_000
    counted = sorted((-pair["counts"], pair["values"]) for pair in pc.value_counts(places).to_pylist())
    assert bundle.fitted.vocabularies["placement_id"] == tuple(word for count, word in counted if -count >= 20)
    assert LEVEL in bundle.fitted.names
    assert bundle.ridge is not None
    assert bundle.fitted.names.index(LEVEL) in bundle.ridge.columns
    assert LEVEL not in bundle.booster.get_score(importance_type="weight"), "trees never see the level"
    slices = bundle.metrics["split"]
    rate = slices["earlier"]["clicks"] / slices["earlier"]["rows"]
    test, clicks = bundle.metrics["test"], slices["test"]["clicks"]
    constant = -(clicks * pc.ln(rate).as_py() + (test["rows"] - clicks) * pc.ln(1 - rate).as_py()) / test["rows"]
    assert test["logloss_constant"] == pytest.approx(constant, rel=1e-9)


def test_the_run_keeps_the_model_card(trained: Trained) -> None:
    artifacts = trained.registry.version().folder.parent
    html, markdown = ((artifacts / name).read_text("utf-8") for name in ("card.html", "card.md"))
    test = load_bundle(artifacts / "bundle").metrics["test"]
    assert f"<b>{test['ne']:.3f}</b>" in html
    assert "leaves + lr" in html
    assert "where this model had 3," in html  # the baselines are fitted on 2,000
    assert f"| this one |  | {test['ne']:.4f} |" in markdown
    (run,) = trained.registry.recent(10)
    assert (run.version, run.figures["test_ne"]) == ("1", test["ne"])


def test_provenance_is_sealed_in_the_manifest(trained: Trained) -> None:
    manifest = json.loads((trained.registry.version().folder / "manifest.json").read_bytes())
    origin = manifest["provenance"]
    assert origin["tables"]["training_set"] >= 0
    assert origin["contract_hash"] == trained.context.contract.hash
    assert len(origin["lock_sha256"]) == 64
    assert origin["recipe"]["rounds"] == trained.counts["rounds"]


def test_the_same_rows_in_other_files_are_the_same_bytes_and_no_new_version(trained: Trained) -> None:
    folder = trained.registry.version().folder
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write(trained.context, trained.raw, files=3)
    assert train(trained.context, ARGS) == trained.counts
    assert trained.registry.version().number == "1"
    runs = [path for path in (trained.context.settings.state / "mlartifacts").glob("*/*/artifacts/bundle") if path != folder]
    assert len(runs) == 1
    for name in before.keys() - {"manifest.json"}:
        assert (runs[0] / name).read_bytes() == before[name], name


@pytest.fixture
def second(trained: Trained, tmp_path: Path) -> Trained:
    """The same installation in a folder of its own, with no champion: its registry and bundles may be spoiled."""
    context = make_context(trained.context.warehouse.spark, trained.context.contract, tmp_path)
    return replace(trained, context=replace(context, warehouse=trained.context.warehouse))


def register(trained: Trained, source: Version, folder: Path, identity: str) -> None:
    shutil.copytree(source.folder, folder / "run" / "bundle")
    trained.registry.record(folder / "run", identity, params={}, metrics={}, tags={})


def test_a_tampered_bundle_is_refused_and_prior_rates_serve(trained: Trained, second: Trained, tmp_path: Path) -> None:
    good = trained.registry.version()
    register(second, good, tmp_path, good.identity)
    trees = second.registry.version().folder / "trees.ubj"
    trees.write_bytes(trees.read_bytes()[:-1] + b"!")
    with pytest.raises(BundleError, match=r"trees\.ubj: sha256 is .* changed after it was made"):
        promote(second.context, ARGS)
    assert second.registry.champion() is None
    champion = load_champion(second.bundles)
    assert champion is not None
    assert (champion.version, champion.bundle.kind) == ("prior", "prior")
    assert champion.bundle.fitted.base_rate == load_bundle(good.folder).fitted.base_rate


def test_a_bundle_of_another_key_or_contract_is_refused_and_the_champion_stays(
    trained: Trained, second: Trained, tmp_path: Path
) -> None:
    good = trained.registry.version()
    register(second, good, tmp_path / "good", good.identity)
    crown(second.registry, second.registry.version(), second.bundles)
    other = replace(load_bundle(good.folder), id_key_fingerprint="other")
    save_bundle(other, tmp_path / "other" / "bundle", {})
    second.registry.record(tmp_path / "other", other.identity, params={}, metrics={}, tags={})
    with pytest.raises(BundleError, match="version 2: ids were hashed with key other"):
        promote(second.context, ARGS)
    contract = second.context.contract.model_copy(update={"zone": "Asia/Tokyo"})
    contract.__dict__.pop("hash", None)  # a cached property, copied along
    with pytest.raises(BundleError, match="version 1: made with contract"):
        checked(second.registry.version("1"), contract, ID_KEY.fingerprint)
    champion = load_champion(second.bundles)
    assert champion is not None
    assert champion.version == second.registry.champion() == "1"


def test_without_a_training_set_both_say_which_job_makes_it(spark: SparkSession, demo_contract: Contract, tmp_path: Path) -> None:
    context = make_context(spark, demo_contract, tmp_path)
    with pytest.raises(DataError, match=r"no such table yet, expected the one that jobs/build_training_set\.py writes"):
        train(context, ARGS)
    with pytest.raises(BundleError, match=r"no registered model demo.*\n.*build_training_set\.py"):
        promote(context, ARGS)


def test_a_warm_start_adds_trees_to_the_champions_from_newer_rows(trained: Trained, second: Trained) -> None:
    champion = load_bundle(trained.registry.version().folder)
    later = training_table(trained.context.contract, 3_000, seed=5, days=3)
    at = pc.add(later["event_timestamp"], pa.scalar(4 * DAY_US, pa.duration("us")))
    later = later.set_column(later.column_names.index("event_timestamp"), "event_timestamp", at)
    rows = trained.context.warehouse.spark.createDataFrame(later)
    made = train_bundle(rows, trained.context.contract, trained.context.settings.train, ID_KEY.fingerprint, start=champion)
    raw = later.combine_chunks().to_batches()[0]
    vectors = vectorize(raw, champion.fitted)
    assert made.bundle.fitted == champion.fitted
    assert made.bundle.ridge is not None
    assert champion.ridge is not None
    level = level_of(champion.fitted.features)
    assert made.bundle.ridge.without(level) == champion.ridge.without(level)
    assert made.bundle.ridge != champion.ridge, "the level is the new rows'"
    added = made.bundle.booster.num_boosted_rounds() - champion.booster.num_boosted_rounds()
    assert added == made.choice.rounds * trained.context.settings.train.seeds
    assert made.bundle.metrics["warm_start"] == {"of": champion.identity, "choice": made.choice.to_dict()}
    assert made.bundle.metrics["choice"] == champion.metrics["choice"], "the recipe that a rival is fitted by"
    moved = np.abs(made.bundle.margins(vectors) - champion.margins(vectors))
    assert 0 < moved.mean() < 0.5
    labels = later["label"].to_numpy()
    assert log_loss(labels, made.bundle.probabilities(raw)) < log_loss(labels, champion.probabilities(raw))
    with pytest.raises(BundleError, match="no champion of this contract and id key to start from"):
        train(second.context, argparse.Namespace(warm_start=True))
