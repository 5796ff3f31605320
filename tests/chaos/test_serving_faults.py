"""Redis stalls, dies, refuses, comes back empty, is slow: every request is answered in time, and says what it lacks."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import redis

from conf.contract_file import load_contract
from conf.redis_server import free_port, redis_server
from conf.settings import CONF
from feature_repo.redis_layout import redis_key
from tests.chaos.under_load import FAULT_S, asked, installation, tried_again
from tests.serving.cluster import redis_cluster, until
from tests.serving.parts import FeastStore, fill
from tests.serving.proxy import proxy

pytestmark = pytest.mark.chaos


@dataclass
class Online:
    """A Redis that can be hurt."""

    folder: Path
    port: int
    stack: ExitStack
    store: FeastStore

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=5)

    @property
    def pid(self) -> int:
        with self.client() as client:
            about: Any = client.info("server")
            return int(about["process_id"])

    def kill(self) -> None:
        pid = self.pid
        with self.client() as client:
            client.save()
        os.kill(pid, signal.SIGKILL)

    def start(self, *, empty: bool) -> None:
        folder = Path(mkdtemp(dir=self.folder)) if empty else self.folder
        self.stack.enter_context(redis_server(folder, self.port))


@pytest.fixture
def online(tmp_path: Path) -> Iterator[Online]:
    demo = load_contract(CONF / "contracts" / "demo.yaml")
    with ExitStack() as stack:
        address = stack.enter_context(redis_server(tmp_path / "redis"))
        port = int(address.rpartition(":")[2])
        store = FeastStore(demo, tmp_path)
        fill(store, address)
        yield Online(tmp_path / "redis", port, stack, store)


@contextmanager
def frozen(online: Online) -> Iterator[None]:
    pid = online.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def killed(online: Online) -> Iterator[None]:
    online.kill()
    yield
    online.start(empty=False)


@contextmanager
def refusing(online: Online) -> Iterator[None]:
    """It lives, ends every connection, and takes none where it is looked for."""
    with online.client() as client:
        client.config_set("port", free_port())
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        yield
        client.config_set("port", online.port)


@contextmanager
def restarted_empty(online: Online) -> Iterator[None]:
    online.kill()
    online.start(empty=True)
    yield
    fill(online.store, f"127.0.0.1:{online.port}")


FAULTS: list[tuple[Callable[[Online], AbstractContextManager[None]], str]] = [
    (frozen, "redis_unavailable"), (killed, "redis_unavailable"), (refusing, "redis_unavailable"),
    (restarted_empty, "features_missing"),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "reason"), FAULTS)
@tried_again
def test_a_fault_of_redis_costs_features_and_no_answer(
    fault: Callable[[Online], AbstractContextManager[None]], reason: str, online: Online, tmp_path: Path
) -> None:
    installed = installation(tmp_path, f"127.0.0.1:{online.port}", online.store.contract)
    with asked(installed) as trial:
        with trial.fault(), fault(online):
            time.sleep(FAULT_S)
        trial.judge(fault.__name__, {reason})


@tried_again
def test_a_slow_redis_costs_features_and_no_answer(online: Online, tmp_path: Path) -> None:
    with proxy(online.port) as front:
        installed = installation(tmp_path, f"127.0.0.1:{front.port}", online.store.contract)
        with asked(installed) as trial:
            with trial.fault():
                front.delay_s = 0.05
                time.sleep(FAULT_S)
                front.delay_s = 0.0
            trial.judge("slow by 50 ms", {"redis_unavailable"})


@tried_again
def test_a_primary_of_a_cluster_dies_and_its_replica_takes_over(tmp_path: Path) -> None:
    """The fault ends when the cluster says that all is well; the primary is the clock's, without which nothing is fresh."""
    demo = load_contract(CONF / "contracts" / "demo.yaml")
    with redis_cluster(Path(mkdtemp(dir=tmp_path)), replicas=3) as cluster:
        fill(FeastStore(demo, Path(mkdtemp(dir=tmp_path))), cluster.address)
        installed = installation(tmp_path, cluster.address, demo)
        lost = cluster.owner(redis_key(demo.name, {}))
        others = [node for node in cluster.nodes if node is not lost]
        with asked(installed) as trial:
            with trial.fault():
                lost.process.kill()
                until(lambda: not others[0].says("CLUSTER", "cluster_state:ok"))
                for node in others:
                    until(partial(node.says, "CLUSTER", "cluster_state:ok"))
            trial.judge("a primary dies", {"redis_unavailable"})
