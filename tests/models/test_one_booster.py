"""One bundle in this process, in Spark, and read from its files by a fresh process: the same bits of 10^5 rows."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from conf.contract import Contract
from conf.environment import environment
from conf.settings import ROOT, load_settings
from feature_repo.catalogue import raw_schema
from feature_repo.vectorize import Fitted, vectorize
from models.boosting import parameters_of
from models.bundle import Bundle, save_bundle
from models.calibration import Calibrator
from models.lean import xgb
from models.merging import merge
from models.ridge import fit_ridge
from tests.training_rows import training_table

ROWS = 100_000

Answers = npt.NDArray[np.float64]  # (rows, 2): margins and probabilities

_FRESH = """
import sys
from pathlib import Path
import pyarrow as pa
from models.bundle import load_bundle
from tests.models.test_one_booster import answers
batch = pa.ipc.open_file(sys.argv[2]).get_batch(0)
Path(sys.argv[3]).write_bytes(answers(load_bundle(Path(sys.argv[1])), batch).tobytes())
"""


def answers(bundle: Bundle, raw: pa.RecordBatch) -> Answers:
    """What the bundle's Booster and the bundle say of rows of raw values."""
    margins = bundle.booster.inplace_predict(vectorize(raw, bundle.fitted), predict_type="margin")
    return np.column_stack([margins.astype(np.float64), bundle.probabilities(raw)])


@pytest.fixture(scope="module")
def table(demo_contract: Contract) -> pa.Table:
    return training_table(demo_contract, ROWS)


@pytest.fixture(scope="module")
def raw(table: pa.Table, demo_contract: Contract) -> pa.RecordBatch:
    return table.select(raw_schema(demo_contract).names).combine_chunks().to_batches()[0]


@pytest.fixture(scope="module")
def bundle(table: pa.Table, raw: pa.RecordBatch, demo_contract: Contract) -> Bundle:
    """Two seeds of deep trees, a ridge, a calibrator: every part that an answer may have."""
    columns = [name for name in demo_contract.columns if demo_contract.columns[name].type == "category"]
    words = {name: tuple(sorted(set(raw.column(name).drop_null().to_pylist()))) for name in columns}
    fitted = Fitted.of(demo_contract, base_rate=0.06, strength=20.0, vocabularies=words)
    few, labels = vectorize(raw.slice(0, ROWS // 5), fitted), table["label"].to_numpy()[: ROWS // 5].astype(np.int8)
    preset = load_settings().train.presets["deep"]
    matrix = xgb.QuantileDMatrix(few, labels)
    boosters = [xgb.train(parameters_of(preset, seed, 1, len(few), float(labels.sum())), matrix, 40) for seed in range(2)]
    trees = merge(boosters, base_rate=0.06, names=fitted.names, share=0.5)
    ridge = fit_ridge(few, labels, range(len(fitted.names)), [0.01])[0].scaled(0.5, 0.0)
    return Bundle("trees", demo_contract.hash, "fingerprint", fitted, Calibrator("platt", (0.9, -0.1)), trees, ridge)


def test_native_spark_and_the_reloaded_bundle_answer_alike_to_the_bit(
    spark: SparkSession, table: pa.Table, raw: pa.RecordBatch, bundle: Bundle, tmp_path: Path
) -> None:
    native = answers(bundle, raw)
    assert len(np.unique(native[:, 1])) > ROWS // 2, "a model that says the same of everything proves nothing"

    def answered(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            found = answers(bundle, batch)
            yield pa.RecordBatch.from_arrays([batch.column("row"), *(pa.array(a) for a in found.T)], ["row", "margin", "ctr"])

    numbered = spark.createDataFrame(table.append_column("row", pa.array(range(ROWS)))).repartition(5)
    in_spark = numbered.mapInArrow(answered, "row bigint, margin double, ctr double").toArrow().sort_by("row")
    assert np.column_stack([in_spark["margin"], in_spark["ctr"]]).tobytes() == native.tobytes()

    save_bundle(bundle, tmp_path / "bundle", {})
    with pa.ipc.new_file(str(tmp_path / "rows.arrow"), raw.schema) as file:
        file.write_batch(raw)
    command = [sys.executable, "-c", _FRESH, str(tmp_path / "bundle"), str(tmp_path / "rows.arrow"), str(tmp_path / "answers")]
    subprocess.run(command, env=environment(load_settings()) | {"PYTHONPATH": str(ROOT)}, check=True, timeout=120)
    assert (tmp_path / "answers").read_bytes() == native.tobytes()
