"""What servers wrote becomes a table once, and is built again by the batch path; a tampered value is found by its name."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from conf.contract import Contract
from conf.errors import DataError
from conf.served import served_folder
from feature_repo.catalogue import EVENT_TIMESTAMP, raw_schema
from feature_repo.vectorize import vectorize
from jobs.command import Context
from jobs.count import count
from jobs.explain import explanation
from jobs.features import with_counters
from jobs.ingest import ingest
from jobs.ingest_predictions import ingest_predictions
from jobs.replay_predictions import replay_predictions
from models.bundle import Bundle, save_bundle
from models.explanation import explained
from models.published import publish
from serving.metrics import Metrics
from serving.served_log import LogLimits, Record, ServedLog
from tests.increments import arguments, days_of_log
from tests.logs import changed, deliver
from tests.serving.parts import make_bundle

NOTHING = argparse.Namespace(data=None)
HOUR = timedelta(hours=1)
LIMITS = LogLimits(share=1.0, waiting_rows=10_000, folder_bytes=1 << 30, every_s=60.0)


@dataclass(frozen=True)
class Served:
    """An installation whose server has logged: the folder of its files, the rows as they were, their impressions' ids."""

    context: Context
    bundle: Bundle
    folder: Path
    raw: pa.RecordBatch
    ids: list[str]


@pytest.fixture(scope="module")
def served(make_module_context: Callable[[Contract], Context], demo_contract: Contract) -> Served:
    context = make_module_context(changed(demo_contract, name="served", windows=["1h", "6h"], keys={"ad": ["ad_id"]}))
    contract = context.contract
    shown, clicked = days_of_log(1, seed=5)
    ingest(context, arguments(data=str(deliver(context.settings.state / "log", shown, clicked))))
    count(context, arguments())
    bundle = make_bundle(contract, id_key_fingerprint=context.id_key.fingerprint)
    save_bundle(bundle, context.settings.state / "made", {})
    publish(context.settings.bundles(contract.name), context.settings.state / "made", "7")
    read = context.warehouse.read
    features = with_counters(contract, lambda key: read(context.warehouse.tables.counters(key)))
    columns = raw_schema(contract).names
    table = read("impressions").transform(features).select("impression_id", *columns).orderBy("impression_id").limit(20).toArrow()
    raw = table.drop_columns(["impression_id"]).cast(raw_schema(contract)).combine_chunks().to_batches()[0]
    folder = served_folder(context.settings.state, contract.name, contract.hash, context.id_key.fingerprint)
    return Served(context, bundle, folder, raw, table.column("impression_id").to_pylist())


def _log(served: Served, raw: pa.RecordBatch, name: str) -> None:
    """Write a file as a server does: a request for each row, whose clock is the full hour before it."""
    log = ServedLog(served.folder, raw_schema(served.context.contract), LIMITS, Metrics())
    hour_us = HOUR // timedelta(microseconds=1)
    for number in range(raw.num_rows):
        row = raw.slice(number, 1)
        at = row.column(EVENT_TIMESTAMP)[0].value
        margins = served.bundle.margins(vectorize(row, served.bundle.fitted))
        scores = served.bundle.calibrator.probabilities(margins)
        as_of_us = at - at % hour_us if number else None  # the first one was answered without counters
        log.offer(Record(f"{name}-{number}", row, as_of_us, margins, scores, "7", served.bundle.identity, []))
    log.flush()


def _ask(rows: int = 100) -> argparse.Namespace:
    return argparse.Namespace(rows=rows, since=None)


def test_a_file_comes_in_once_and_is_built_again_to_the_bit(served: Served) -> None:
    context = served.context
    assert ingest_predictions(context, NOTHING) == {"files": 0, "rows": 0, "new": 0}
    _log(served, served.raw, "first")
    (path,) = served.folder.glob("*.parquet")
    content = path.read_bytes()
    assert ingest_predictions(context, NOTHING) == {"files": 1, "rows": 20, "new": 20}
    assert list(served.folder.glob("*.parquet")) == []
    path.write_bytes(content)  # as a run finds it that follows one killed after its commit
    assert ingest_predictions(context, NOTHING) == {"files": 1, "rows": 20, "new": 0}
    assert replay_predictions(context, _ask()) == {"rows": 19, "answered again": 19}
    counters = np.asarray(served.raw.column("ad__impressions_6h").fill_null(0))
    assert len(np.unique(counters)) > 3, "rows that are all alike prove nothing"


def test_a_value_that_serving_had_otherwise_is_named(served: Served) -> None:
    """Runs second: what it adds stays."""
    position = served.raw.schema.get_field_index("ad__impressions_6h")
    wrong = pc.add(served.raw.column(position), 1)
    _log(served, served.raw.set_column(position, served.raw.schema.field(position), wrong), "second")
    ingest_predictions(served.context, NOTHING)
    with pytest.raises(DataError, match=r"ad__impressions_6h in 19, .*vectors in 19; expected no difference"):
        replay_predictions(served.context, _ask())


def test_an_impression_is_explained_as_its_request_would_be(served: Served) -> None:
    found = explanation(served.context, served.ids[3])
    (expected,) = explained(served.bundle, served.raw.slice(3, 1))
    (candidate,) = found["candidates"]
    assert candidate == {"ad_id": served.raw.column("ad_id")[3].as_py(), **expected}
    assert (found["model_version"], found["model_identity"]) == ("7", served.bundle.identity)
    with pytest.raises(DataError, match="found 0 of id nobody"):
        explanation(served.context, "nobody")


def test_a_file_of_another_contract_is_not_seen(served: Served, demo_contract: Contract) -> None:
    other = served_folder(served.context.settings.state, "served", demo_contract.hash, served.context.id_key.fingerprint)
    other.mkdir(parents=True)
    pq.write_table(pa.table({"x": [1]}), other / "a.parquet")
    before: Any = served.context.warehouse.read("predictions").agg(F.count("*")).collect()
    assert ingest_predictions(served.context, NOTHING)["files"] == 0
    assert served.context.warehouse.read("predictions").agg(F.count("*")).collect() == before
