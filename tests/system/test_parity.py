"""What was trained is what is served: every HTTP answer equals, bit for bit, what the batch path computes for the same instant.

The whole path on real parts: a simulated log through the jobs, `feast apply` and `feast materialize` from the shell, a real
Redis, the server as a process of its own.
"""

import argparse
import hashlib
import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.contract import Contract
from conf.environment import environment
from conf.redis_server import redis_server
from conf.served import served_folder
from conf.settings import ROOT
from feature_repo.catalogue import raw_schema
from feature_repo.redis_layout import hash_field, redis_key
from jobs.command import Context
from jobs.explain import explanation
from jobs.features import raw_columns, with_counters
from jobs.ingest_predictions import ingest_predictions
from jobs.pipeline import STEPS
from jobs.replay import replay_served
from jobs.replay_predictions import replay_predictions
from jobs.simulate import write_log
from jobs.simulation import Plan
from models.published import Champion, load_champion
from tests.conftest import ID_KEY_HEX
from tests.logs import as_yaml, changed

PLAN = Plan(impressions=20_000, days=1, seed=11)
ASKED = 1_000
EXPLAIN_KEY = "of those who ask why"


@dataclass(frozen=True)
class Running:
    """The path, ready to be asked."""

    context: Context
    champion: Champion
    log: Path
    end: datetime  # of the materialization
    redis: str
    port: int
    env: dict[str, str]


@pytest.fixture(scope="module")
def contract(demo_contract: Contract) -> Contract:
    """The demo's log with short windows, so that keys fall silent, and a key with nulls."""
    keys = {name: list(demo_contract.keys[name]) for name in ("user", "ad", "user_campaign")} | {"device": ["device"]}
    simulate = demo_contract.model_dump(mode="json", by_alias=True)["simulate"]
    simulate["user_id"]["values"] = 3_000
    return changed(demo_contract, name="parity", windows=["1h", "3h", "6h"], keys=keys, simulate=simulate)


@pytest.fixture(scope="module")
def path(
    spark: SparkSession, make_module_context: Callable[[Contract], Context], contract: Contract, tmp_path_factory: Any
) -> Iterator[Running]:
    made = make_module_context(contract)
    recipe = made.settings.train.model_copy(update={"seeds": 2, "max_rounds": 80, "baseline_rows": 2_000})
    context = replace(made, settings=made.settings.model_copy(update={"train": recipe}))
    folder = context.settings.state
    log = folder / "log"
    write_log(spark, contract, PLAN, str(log))
    for job in STEPS.values():
        job(context, argparse.Namespace(data=str(log), as_of=None, version=None))
    champion = load_champion(context.settings.bundles(contract.name))
    assert champion is not None
    assert champion.bundle.kind == "trees"
    end = _busy_hour(context)
    contract_file = folder / "parity.yaml"
    contract_file.write_text(as_yaml(contract))
    with redis_server(folder / "redis") as address:
        settings = context.settings.model_copy(update={"contract": contract_file, "redis": address})
        own = {
            "CLICKODDS_WAREHOUSE": str(settings.warehouse), "CLICKODDS_ID_KEY": ID_KEY_HEX, "CLICKODDS_SERVING__LOG__SHARE": "1",
            "CLICKODDS_SERVING__LOG__EVERY": "1s", "CLICKODDS_SERVING__QUEUE_AGE_MS": "30000",
            "CLICKODDS_SERVING__REDIS_DEADLINE_MS": "5000",
            "CLICKODDS_SERVING__EXPLAIN_KEYS": json.dumps([hashlib.sha256(EXPLAIN_KEY.encode()).hexdigest()]),
        }  # fmt: skip
        env = {**os.environ, **environment(settings), **own}
        _feast(env, "apply")
        said = _feast(env, "materialize", (end - timedelta(days=9)).isoformat(), end.isoformat())
        views = re.findall(r"^materializing (\w+)$", said, re.MULTILINE)
        assert set(views) == {*contract.counted_keys, "clock"}
        assert views[-1] == "clock", "the clock vouches for the others, so it is written after them"
        with _server(env) as port:
            yield Running(context, champion, log, end, address, port, env)


def _busy_hour(context: Context) -> datetime:
    """The start of an hour with enough impressions, which is when its counters are published too."""
    hours = context.warehouse.read("impressions").groupBy(F.date_trunc("hour", "event_timestamp").alias("hour")).count()
    row = hours.where(F.col("count") > ASKED).orderBy(F.desc("hour")).first()
    assert row is not None, "the simulated log has too few impressions in every hour"
    return row["hour"].replace(tzinfo=UTC)  # type: ignore[no-any-return]


def _feast(env: dict[str, str], *arguments: str, code: int = 0) -> str:
    command = ["feast", "-c", str(ROOT / "feature_repo"), *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@contextmanager
def _server(env: dict[str, str]) -> Iterator[int]:
    command = [sys.executable, "-m", "serving", "--port", "0"]
    with subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            said = server.stdout.readline() if server.stdout else ""
            address = re.search(r"http://127\.0\.0\.1:(\d+).*ready", said)
            assert address is not None, said
            yield int(address[1])
        finally:
            server.terminate()


def _asked_rows(path: Running) -> DataFrame:
    """Impressions of the hour after the materialization, as the tables have them."""
    event = F.col("event_timestamp")
    until = path.end + timedelta(hours=1)
    return path.context.warehouse.read("impressions").where((event >= F.lit(path.end)) & (event < F.lit(until)))


def _batch(path: Running) -> tuple[list[str], pa.RecordBatch]:
    """Ids and raw values of the asked rows by the training set's builder."""
    warehouse, contract = path.context.warehouse, path.context.contract
    features = with_counters(contract, lambda key: warehouse.read(warehouse.tables.counters(key)))
    rows = _asked_rows(path).transform(features).select("impression_id", *raw_columns(contract)).orderBy("impression_id")
    table = rows.toArrow()
    batch = table.drop(["impression_id"]).cast(raw_schema(contract)).combine_chunks().to_batches()[0]
    return table.column("impression_id").to_pylist(), batch


def _requests(path: Running, ids: list[str]) -> dict[str, dict[str, Any]]:
    """A request for each impression, from the log's own lines: ids in clear, nulls left out or said, each with its own time."""
    import gzip

    contract, wanted, made = path.context.contract, set(ids), {}
    for file in sorted(path.log.glob("impressions*")):
        for line in gzip.open(file, "rt"):
            try:
                row = json.loads(line)
                at = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=row["served_at"])
            except (ValueError, KeyError, TypeError):
                continue  # a corrupt row
            name = row.get("impression_id")
            if name in wanted and name not in made and row.get("age") != 9999:
                said = {of: {c: row[c] for c in contract.columns_of(of) if c in row} for of in ("request", "candidate")}
                made[name] = {
                    "request_id": name, "time": at.isoformat(), "context": said["request"], "candidates": [said["candidate"]],
                }  # fmt: skip
    return made


def _ask(path: Running, requests: list[dict[str, Any]], route: str = "/v1/predict") -> list[dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", path.port, timeout=30)
    headers = {"content-type": "application/json", "authorization": f"Bearer {EXPLAIN_KEY}"}
    answers = []
    for request in requests:
        connection.request("POST", route, json.dumps(request), headers)
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, body
        answers.append(json.loads(body))
    connection.close()
    return answers


def _metric(path: Running, name: str) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", path.port, timeout=30)
    connection.request("GET", "/metrics")
    page = connection.getresponse().read().decode()
    connection.close()
    return float(next(line.rpartition(" ")[2] for line in page.splitlines() if line.startswith(name)))


def test_every_answer_equals_the_batch_path_to_the_bit(path: Running) -> None:
    ids, raw = _batch(path)
    requests = _requests(path, ids)
    assert len(ids) >= ASKED
    assert set(requests) == set(ids)
    answers = _ask(path, [requests[name] for name in ids])
    assert {(a["degraded"], a["model_version"]) for a in answers} == {(False, path.champion.version)}
    assert _metric(path, "clickodds_plain_answers_total") == 0, "the hot route has answered all of it"
    served = np.array([answer["predictions"][0]["ctr"] for answer in answers])
    expected = path.champion.bundle.probabilities(raw)
    np.testing.assert_array_equal(served, expected)
    assert len(np.unique(expected)) > 200, "a model that says the same of everything proves nothing"

    counters = raw.select([name for name in raw.schema.names if "__" in name])
    zero = np.asarray(counters.column("user__impressions_6h")) == 0
    assert zero.sum() > 50, "users that are new"
    crossed = np.asarray(counters.column("user_campaign__impressions_6h"))
    assert min((crossed == 0).sum(), (crossed > 0).sum()) > 50, "crosses that are new, and such as are known"
    assert _fell_silent(path, ids), "users that were counted once and have expired"
    assert counters.column("device__impressions_6h").null_count > 20, "a key whose column is null"
    assert raw.column("age").null_count > 50, "numbers that are missing"


def _fell_silent(path: Running, ids: list[str]) -> int:
    """How many of the asked rows are of a user whose newest published row is all zeros."""
    rows = path.context.warehouse.read("counters_user").where(F.col("published_at") <= F.lit(path.end))
    newest = rows.groupBy("user_id").agg(F.max_by("impressions_6h", "published_at").alias("now")).where("now = 0")
    return _asked_rows(path).join(newest, "user_id").count()


def test_the_served_log_replays_to_the_bit(path: Running) -> None:
    """Runs second: what the test above has asked was logged, and the batch path builds the same of it; a change is seen."""
    context, contract = path.context, path.context.contract
    arguments = argparse.Namespace(data=None, rows=ASKED, since=None)
    until = time.monotonic() + 30
    taken = 0
    while taken < ASKED and time.monotonic() < until:
        taken += ingest_predictions(context, arguments)["new"]
        time.sleep(1)
    rows = context.warehouse.read("predictions")
    assert rows.count() == taken == rows.select("request_id").distinct().count() >= ASKED
    assert ingest_predictions(context, arguments)["files"] == 0, "what was taken is gone"
    assert replay_predictions(context, arguments) == {"rows": ASKED, "answered again": ASKED}
    column = f"user__impressions_{contract.longest_window}"
    found, _ = replay_served(context, rows.withColumn(column, F.col(column) + 1), ASKED)
    assert list(found.different) == [column]


def test_a_file_of_the_served_log_is_taken_once(path: Running) -> None:
    """A run that was killed between its commit and the removal of the files finds them again."""
    context, arguments = path.context, argparse.Namespace(data=None)
    contract = context.contract
    folder = served_folder(context.settings.state, contract.name, contract.hash, context.id_key.fingerprint)
    _ask(path, list(_requests(path, _batch(path)[0][:3]).values()))
    until = time.monotonic() + 30
    while not (files := list(folder.glob("*.parquet"))):
        assert time.monotonic() < until
        time.sleep(0.2)
    kept = [(file, file.read_bytes()) for file in files]
    assert ingest_predictions(context, arguments)["new"] > 0
    for file, content in kept:
        file.write_bytes(content)
    again = ingest_predictions(context, arguments)
    assert (again["new"], list(folder.glob("*.parquet"))) == (0, [])
    assert again["rows"] > 0


def test_both_sides_explain_alike(path: Running) -> None:
    ids, _ = _batch(path)
    requests = _requests(path, ids[:2])
    served = _ask(path, [requests[name] for name in ids[:2]], "/v1/explain")
    for name, found in zip(ids[:2], served, strict=True):
        expected = explanation(path.context, name)
        same = {field for field in expected if found.get(field) == expected[field]}
        assert same == set(expected) - {"impression_id"}, "all but the name that each side has for it"


def test_changed_counters_in_redis_are_seen(path: Running) -> None:
    """The comparison above can fail: change the counters of one request's keys online, and its answer moves."""
    contract = path.context.contract
    ids, raw = _batch(path)
    index = int(np.argmax(np.asarray(raw.column("user__impressions_6h"))))
    request = _requests(path, ids)[ids[index]]
    host, _, port = path.redis.partition(":")
    client: Any = redis.Redis(host=host, port=int(port))  # its types know no binary keys
    before = {}
    for name in ("user", "ad"):
        key = redis_key(contract.name, {column: raw.column(column)[index].as_py() for column in contract.keys[name]})
        fields = [hash_field(name, f"{what}_{window}") for what in ("impressions", "clicks") for window in ("1h", "3h", "6h")]
        values = client.hmget(key, fields)
        if not all(values):  # a new key
            continue
        before[key] = dict(zip(fields, values, strict=True))
        client.hset(key, mapping=dict.fromkeys(fields, b"\x20\x32"))  # 50 of everything
    assert before, "the test looks where serving looks"
    try:
        served = _ask(path, [request])[0]["predictions"][0]["ctr"]
    finally:
        for key, fields_before in before.items():
            client.hset(key, mapping=fields_before)
    assert served != path.champion.bundle.probabilities(raw)[index]


def test_a_future_click_changes_nothing(path: Running) -> None:
    """Planted counter rows that became known after an impression do not show in its as-of values."""
    warehouse, contract = path.context.warehouse, path.context.contract

    def with_future(key: str) -> DataFrame:
        rows = warehouse.read(warehouse.tables.counters(key))
        later = path.end + timedelta(hours=1)
        counts = [c for c in contract.counter_columns if not c.startswith("last_")]
        planted = rows.where(F.col("published_at") >= F.lit(later)).withColumns({c: F.lit(10**6).cast("bigint") for c in counts})
        return rows.where(F.col("published_at") < F.lit(later)).unionByName(planted)

    asked = _asked_rows(path)
    columns = ["impression_id", *raw_columns(contract)]
    honest = asked.transform(with_counters(contract, lambda key: warehouse.read(warehouse.tables.counters(key))))
    planted = asked.transform(with_counters(contract, with_future))
    assert honest.select(columns).exceptAll(planted.select(columns)).isEmpty()


def test_materializing_into_a_redis_that_is_away_says_so(path: Running) -> None:
    away = {**path.env, "CLICKODDS_REDIS": "127.0.0.1:1"}
    said = _feast(away, "materialize", path.end.isoformat(), path.end.isoformat(), code=75)
    assert "redis at 127.0.0.1:1 does not answer" in said
    assert "Traceback" not in said


def test_an_hour_later_materialize_incremental_moves_the_clock(path: Running) -> None:
    """Runs last: it brings Redis an hour on, and a request of that hour is answered fresh and as the batch path says."""
    later = path.end + timedelta(hours=1)
    _feast(path.env, "materialize-incremental", later.isoformat())
    next_hour = replace(path, end=later)
    ids, raw = _batch(next_hour)
    requests = _requests(next_hour, ids)
    answers = _ask(next_hour, [requests[name] for name in ids])
    served = np.array([answer["predictions"][0]["ctr"] for answer in answers])
    np.testing.assert_array_equal(served, path.champion.bundle.probabilities(raw))
    too_early = {**requests[ids[0]], "time": (later - timedelta(minutes=1)).isoformat()}
    assert _ask(path, [too_early])[0]["reasons"] == ["features_newer_than_request"]
