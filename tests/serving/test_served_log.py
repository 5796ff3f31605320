"""The served log: what it keeps, and that nothing it meets costs a request its answer."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.contract import Contract
from conf.served import served_folder, served_schema
from feature_repo.catalogue import raw_schema
from feature_repo.vectorize import vectorize
from serving.app import PREDICT
from serving.metrics import Metrics
from serving.served_log import LogLimits, Record, ServedLog
from tests.serving.both_routes import exact_bundle
from tests.serving.installation import Installation
from tests.serving.load import load
from tests.serving.parts import AS_OF, ID_KEY, microseconds
from tests.serving.test_change_under_load import BODY

EVERYTHING = LogLimits(share=1.0, waiting_rows=100, folder_bytes=1 << 30, every_s=60.0)
Log = Callable[..., tuple[ServedLog, Metrics]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "served"


@pytest.fixture
def make_log(folder: Path, demo: Contract) -> Log:
    def make(**limits: Any) -> tuple[ServedLog, Metrics]:
        metrics = Metrics()
        return ServedLog(folder, raw_schema(demo), replace(EVERYTHING, **limits), metrics), metrics

    return make


def _record(contract: Contract, rows: int = 2, request_id: str = "r-1") -> Record:
    schema = raw_schema(contract)
    columns = [[microseconds(AS_OF)] * rows if field.name == "event_timestamp" else [None] * rows for field in schema]
    raw = pa.record_batch([pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)], schema=schema)
    return Record(request_id, raw, 7, np.full(rows, -3.0), np.full(rows, 0.05), "7", "f" * 64, ["features_stale"])


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_a_row_is_a_candidate_as_it_was_answered(make_log: Log, demo: Contract, folder: Path) -> None:
    log, metrics = make_log()
    record = _record(demo)
    log.offer(record)
    log.offer(replace(record, request_id="r-2", raw=1, batch=lambda raw: record.raw.slice(0, 2 * sum(raw)), margins=None))
    log.flush()
    rows = _rows(folder)
    assert [(row["request_id"], row["candidate_number"], row["margin"]) for row in rows] == [
        ("r-1", 0, -3.0), ("r-1", 1, -3.0), ("r-2", 0, None), ("r-2", 1, None),
    ]  # fmt: skip
    assert {(row["as_of_us"], row["ctr"], tuple(row["reasons"])) for row in rows} == {(7, 0.05, ("features_stale",))}
    assert pq.read_schema(next(folder.iterdir())).equals(served_schema(raw_schema(demo)))
    assert metrics.logged.total == 4


def test_what_finds_no_room_is_let_go_and_counted(make_log: Log, demo: Contract, folder: Path) -> None:
    log, metrics = make_log(waiting_rows=5)
    for _ in range(4):
        log.offer(_record(demo))
    assert metrics.dropped["queue"].total == 4
    log.flush()
    log.offer(_record(demo))
    log.flush()
    assert len(_rows(folder)) == 6, "what was written has made room"


def test_long_bodies_of_few_candidates_take_more_room(make_log: Log, demo: Contract) -> None:
    log, metrics = make_log(waiting_rows=256)
    for _ in range(3):
        log.offer(replace(_record(demo), raw_bytes=64_000))
    assert metrics.dropped["queue"].total == 2, "the third: 125 candidates' worth each"
    log.flush()
    log.offer(replace(_record(demo), raw_bytes=64_000))
    assert metrics.dropped["queue"].total == 2, "what was written has made room"


def test_a_share_is_a_share_and_the_same_requests_again(make_log: Log) -> None:
    ids = [f"r-{number}" for number in range(10_000)]
    some, _ = make_log(share=0.1)
    chosen = [each for each in ids if some.wants(each)]
    assert 900 < len(chosen) < 1100
    assert all(some.wants(each) for each in chosen)
    assert not any(make_log(share=0.0)[0].wants(each) for each in ids)
    assert all(make_log(share=1.0)[0].wants(each) for each in ids)


def test_a_full_folder_and_one_that_cannot_be_written_lose_rows_and_nothing_else(
    make_log: Log, demo: Contract, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log, metrics = make_log(folder_bytes=1)
    log.offer(_record(demo))
    log.flush()
    for _ in range(2):
        log.offer(_record(demo))
        log.flush()
    assert (metrics.logged.total, metrics.dropped["disk"].total) == (2, 4)
    assert caplog.text.count("lets records go") == 1, "said once"
    assert "jobs/ingest_predictions.py" in caplog.text
    for path in folder.iterdir():
        path.unlink()
    log.offer(_record(demo))
    log.flush()
    assert "written again" in caplog.text
    blocked = ServedLog(folder / "not" / "a folder", raw_schema(demo), EVERYTHING, metrics)
    (folder / "not").write_text("a file")
    blocked.offer(_record(demo))
    blocked.flush()
    assert metrics.dropped["disk"].total == 6


def test_a_record_that_cannot_be_read_costs_its_file_and_no_later_one(make_log: Log, demo: Contract, folder: Path) -> None:
    def defect(_: Any) -> pa.RecordBatch:
        raise ValueError("a defect")

    log, metrics = make_log()
    for record in (_record(demo), replace(_record(demo), batch=defect)):
        log.offer(record)
    log.flush()
    assert (metrics.dropped["disk"].total, metrics.logged.total) == (4, 0)
    log.offer(_record(demo))
    log.flush()
    assert len(_rows(folder)) == metrics.logged.total == 2


def test_records_that_come_while_it_writes_are_all_kept(make_log: Log, demo: Contract, folder: Path) -> None:
    log, metrics = make_log(waiting_rows=1_000_000, every_s=0.001)
    log.start()
    for number in range(2_000):
        log.offer(_record(demo, rows=1, request_id=str(number)))
    log.close()
    assert threading.active_count() < 20
    assert sorted(int(row["request_id"]) for row in _rows(folder)) == list(range(2_000))
    assert metrics.logged.total == 2_000
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture
def installation(tmp_path: Path, filled_redis: str) -> Installation:
    settings = {"log__share": "1", "log__every": "1s", "drain": "1s"}
    return Installation.make(tmp_path, filled_redis, settings)


def test_a_server_s_rows_are_what_it_answered_with_persons_hashed(installation: Installation, demo: Contract) -> None:
    installation.publish(demo)
    with installation.started("--workers", "2") as server, httpx2.Client(base_url=server.address, trust_env=False) as client:
        answers = {f"r-{n}": client.post(PREDICT, json={**BODY, "request_id": f"r-{n}"}).json() for n in range(20)}
    rows = _rows(served_folder(installation.state, demo.name, demo.hash, ID_KEY.fingerprint))
    assert len(rows) == 20 * len(BODY["candidates"])
    bundle = exact_bundle(demo)
    for row in rows:
        answer = answers[row["request_id"]]["predictions"][row["candidate_number"]]
        assert (row["ctr"], row["ad_id"]) == (answer["ctr"], answer["ad_id"])
    raw = pa.Table.from_pylist(rows, schema=served_schema(raw_schema(demo))).combine_chunks().to_batches()[0]
    margins = bundle.margins(vectorize(raw, bundle.fitted))
    np.testing.assert_array_equal(margins, np.asarray(raw.column("margin")), "the raw values are those of the answer")
    assert {row["user_id"] for row in rows} == {ID_KEY.digest("known")}
    assert {row["as_of_us"] for row in rows} == {microseconds(AS_OF)}
    assert {row["model_identity"] for row in rows} == {bundle.identity}


def _dropped(address: str) -> float:
    """Rows that found no room on the disk."""
    page = httpx2.get(f"{address}/metrics", trust_env=False).text
    return float(page.partition('dropped_total{full="disk"}')[2].split()[0])


def test_a_full_disk_under_the_log_costs_no_answer(installation: Installation, demo: Contract) -> None:
    """The process may write no file longer than 100 bytes, as on a disk that is full."""
    installation.publish(demo)
    limited = (
        "import resource, runpy, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); runpy.run_module('serving', run_name='__main__', alter_sys=True)"
    )
    with installation.started(program=("-c", limited)) as server, load(server.port, BODY, callers=2) as found:
        found.wait(300, within_s=60)
        deadline = time.monotonic() + 60
        while not _dropped(server.address) and time.monotonic() < deadline:  # the log writes once a second
            time.sleep(0.1)
        dropped = _dropped(server.address)
    assert found.statuses.keys() == {200}
    assert dropped > 0
    assert os.listdir(served_folder(installation.state, demo.name, demo.hash, ID_KEY.fingerprint)) == []
