"""A materialization is killed with -9, or Redis is: run again, Redis ends in the undisturbed state.

`make test` kills once each, `make soak-materialize` at 10 moments.
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from pyspark.sql import SparkSession

from conf.environment import environment
from conf.lease import lease
from conf.redis_server import find_redis, free_port
from conf.settings import ROOT, load_settings
from tests.feature_repo.stores import EVERYTHING, HOUR, OURS, START, View, client_of, dumps, feast_store, move, write_table
from tests.serving.parts import quiet

VIEW = View("simple", {"user": "String"}, {"clicks": "Int64", "seen": "Int64"})
SECONDS, PATIENCE_S = 4, 2
FEW, MANY = 12_000, 40_000  # keys; of few, Redis has none, half or all: workers send thousands at a time
END = START + 2 * HOUR
MOMENTS, SEED = 10, 1


@dataclass
class Running:
    """A Redis that can be killed, with a table to move there, and what a whole move leaves."""

    folder: Path
    address: str
    append_only: bool
    keys: int
    undisturbed: dict[bytes, bytes]
    process: subprocess.Popen[bytes]
    client: Any

    def kill_redis(self) -> None:
        self.process.kill()
        self.process.wait()

    def start_redis(self) -> None:
        self.process = _redis(self.folder, self.address, self.append_only)


def _redis(folder: Path, address: str, append_only: bool) -> subprocess.Popen[bytes]:
    """A server that keeps what it was given only in an append-only file, or not at all."""
    host, _, port = address.rpartition(":")
    words: list[Any] = [find_redis(), "--bind", host, "--port", port, "--dir", folder, "--save", ""]
    process = subprocess.Popen(
        [*words, "--appendonly", "yes" if append_only else "no"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with client_of(address) as client:
        while True:
            try:
                client.ping()
                return process
            except redis.RedisError:
                time.sleep(0.02)


@pytest.fixture
def make_running(spark: SparkSession, tmp_path: Path) -> Iterator[Any]:
    made: list[Running] = []

    def make(keys: int, *, append_only: bool) -> Running:
        rows = [(f"u{n}", n, None, START + hour * HOUR, START + hour * HOUR) for hour in (0, 1) for n in range(hour, keys)]
        write_table(spark, tmp_path, VIEW, rows)
        address = f"127.0.0.1:{free_port()}"
        running = Running(tmp_path, address, append_only, keys, {}, _redis(tmp_path, address, append_only), client_of(address))
        made.append(running)
        settings = {"max_rows_per_s": keys / SECONDS, "patience_s": PATIENCE_S}
        store = feast_store(tmp_path, address, [VIEW], OURS, **settings)
        move(spark, store, START, END)
        running.undisturbed = dumps(running.client)
        assert len(running.undisturbed) == keys
        config = {
            "project": "demo",
            "provider": "local",
            "registry": str(tmp_path / f"{OURS}.db"),
            "offline_store": {"type": "spark"},
            "online_store": {"type": "redis", "connection_string": f"{address},db=0"},
            "batch_engine": {"type": OURS, "leases": str(tmp_path / "leases"), **settings},
            "entity_key_serialization_version": 3,
        }
        (tmp_path / "feature_store.yaml").write_text(yaml.safe_dump(config))
        return running

    yield make
    for running in made:
        running.client.close()
        running.kill_redis()


@contextmanager
def materializing(running: Running, *, until: int) -> Iterator[subprocess.Popen[str]]:
    """`feast materialize` from the shell, once it has written so many keys."""
    own = {"FEAST_FS_YAML_FILE_PATH": str(running.folder / "feature_store.yaml"), "PYTHONPATH": str(ROOT)}
    java = {"SPARK_SUBMIT_OPTS": "-XX:TieredStopAtLevel=1"}  # warms up fast, which is all that such a process does
    env = {**os.environ, **environment(load_settings()), **own, **java}
    command = ["feast", "-c", str(running.folder), "materialize", START.isoformat(), END.isoformat()]
    with subprocess.Popen(
        command, env=env, cwd=running.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    ) as process:
        while process.poll() is None and running.client.dbsize() < until:
            time.sleep(0.01)
        yield process


def killed(running: Running, share: float) -> None:
    """The whole process group, once a share of the keys is there."""
    with materializing(running, until=round(share * running.keys)) as process:
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        os.killpg(process.pid, signal.SIGKILL)


def moments(number: int) -> list[float]:
    """Shares of the keys; not the last ones, which the workers write in one go."""
    rng = random.Random(SEED)
    return [rng.random() * 0.75 for _ in range(number)]


@pytest.mark.parametrize("number", [1, pytest.param(MOMENTS, marks=pytest.mark.soak)])
def test_a_killed_materialization_run_again_ends_undisturbed(spark: SparkSession, make_running: Any, number: int) -> None:
    running, done = make_running(MANY if number > 1 else FEW, append_only=False), 1
    for share in moments(number):
        running.client.flushall()
        killed(running, share)
        assert len(dumps(running.client)) < running.keys
        store = feast_store(running.folder, running.address, [VIEW], OURS)
        with quiet():
            assert len(store.get_feature_view(VIEW.name).materialization_intervals) == done, "the interval stays open"
        move(spark, store, START, END)
        done += 1
        assert dumps(running.client) == running.undisturbed


@pytest.mark.parametrize(
    ("number", "append_only"),
    [(1, False), pytest.param(MOMENTS, False, marks=pytest.mark.soak), pytest.param(MOMENTS, True, marks=pytest.mark.soak)],
)
def test_redis_killed_under_it_is_an_open_interval_and_the_next_run_ends_as_an_undisturbed_one(
    spark: SparkSession, make_running: Any, number: int, append_only: bool
) -> None:
    running = make_running(MANY if number > 1 else FEW, append_only=append_only)
    for share in moments(number):
        running.client.flushall()
        with materializing(running, until=round(share * running.keys)) as process:
            running.kill_redis()
            running.start_redis()
            said, _ = process.communicate(timeout=300)
        assert process.returncode == 75, said
        assert "was restarted meanwhile" in said
        assert "Traceback" not in said
        store = feast_store(running.folder, running.address, [VIEW], OURS)
        move(spark, store, START if append_only else EVERYTHING, END)  # what docs/materialize.md advises
        assert dumps(running.client) == running.undisturbed


@pytest.mark.soak
def test_another_run_and_a_redis_that_stays_away_end_the_command(make_running: Any) -> None:
    running = make_running(FEW, append_only=False)
    with lease(running.folder / "leases", f"materialize-demo-{VIEW.name}"), materializing(running, until=FEW + 1) as process:
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 75, said
    assert "is at it" in said
    running.client.flushall()
    with materializing(running, until=1_000) as process:
        running.kill_redis()
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 75, said
    assert "does not answer" in said
