"""Redis stalls, dies, comes back empty, is slow: every request is answered in time, and says what it lacks."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from conf.contract_file import load_contract
from conf.redis_server import redis_server
from conf.settings import CONF, load_settings
from tests.serving.installation import Installation
from tests.serving.load import Load, Reply, load
from tests.serving.parts import FeastStore, fill
from tests.serving.proxy import proxy
from tests.serving.test_change_under_load import BODY

pytestmark = pytest.mark.chaos

WITHIN_S = load_settings().serving.redis_deadline_ms / 1e3  # what Redis has not answered by then is unavailable
RECOVERED_S = 2.0
FAULT_S = 4.0
REPLIES = 300


@dataclass
class Online:
    """A Redis that can be hurt."""

    folder: Path
    port: int
    stack: ExitStack
    store: FeastStore

    @property
    def pid(self) -> int:
        with redis.Redis(port=self.port, socket_timeout=5) as client:
            about: Any = client.info("server")
            return int(about["process_id"])

    def kill(self) -> None:
        pid = self.pid
        with redis.Redis(port=self.port, socket_timeout=5) as client:
            client.save()
        os.kill(pid, signal.SIGKILL)

    def start(self, *, empty: bool) -> None:
        folder = self.folder / "empty" if empty else self.folder
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
def restarted_empty(online: Online) -> Iterator[None]:
    online.kill()
    online.start(empty=True)
    yield
    fill(online.store, f"127.0.0.1:{online.port}")


FAULTS: list[tuple[Callable[[Online], AbstractContextManager[None]], str]] = [
    (frozen, "redis_unavailable"), (killed, "redis_unavailable"), (restarted_empty, "features_missing"),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "reason"), FAULTS)
def test_a_fault_of_redis_costs_features_and_no_answer(
    fault: Callable[[Online], AbstractContextManager[None]], reason: str, online: Online, tmp_path: Path
) -> None:
    with _asked(online, tmp_path / "state", online.port) as found:
        calm = found.replies[-REPLIES:]
        with fault(online):
            begun = len(found.replies)
            time.sleep(FAULT_S)
            hurt = found.replies[begun:]
        ended = time.monotonic()
        _until_fresh(found)
        recovered_s = time.monotonic() - ended
    _judge(fault.__name__, found, calm, hurt, recovered_s)
    assert reason in _reasons(hurt)


def test_a_slow_redis_costs_features_and_no_answer(online: Online, tmp_path: Path) -> None:
    with proxy(online.port) as front, _asked(online, tmp_path / "state", front.port) as found:
        calm = found.replies[-REPLIES:]
        front.delay_s = 0.05
        begun = len(found.replies)
        time.sleep(FAULT_S)
        hurt = found.replies[begun:]
        front.delay_s, ended = 0.0, time.monotonic()
        _until_fresh(found)
        recovered_s = time.monotonic() - ended
    _judge("slow", found, calm, hurt, recovered_s)


@contextmanager
def _asked(online: Online, state: Path, port: int) -> Iterator[Load]:
    demo = online.store.contract
    settings = {"drain": "1s", "queue_age_ms": "30000", "redis_deadline_ms": f"{WITHIN_S * 1e3}"}
    installation = Installation.make(state, f"127.0.0.1:{port}", settings)
    installation.publish(demo)
    with installation.started() as server, load(server.port, BODY, callers=4, pause_s=0.02) as found:
        found.wait(2 * REPLIES, within_s=60)
        yield found


def _reasons(replies: list[Reply]) -> Counter[str]:
    return Counter(reason for reply in replies if reply.status == 200 for reason in reply.json["reasons"] or ["fresh"])


def _until_fresh(found: Load) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        begun = len(found.replies)
        found.wait(1)
        if _reasons(found.replies[begun:]).keys() == {"fresh"}:
            return
    raise AssertionError("it did not recover")


def _judge(fault: str, found: Load, calm: list[Reply], hurt: list[Reply], recovered_s: float) -> None:
    """Nothing failed; nothing was later than the deadline, by what the same machine shows at rest."""
    at_rest = max(reply.seconds for reply in calm)
    latest = max(reply.seconds for reply in hurt)
    said = ", ".join(f"{reason} {count}" for reason, count in sorted(_reasons(hurt).items()))
    print(  # noqa: T201
        f"\n{fault}: {len(found.replies)} requests, {len(hurt)} in the fault ({said}), 0 failed; latest {latest * 1e3:.1f} ms, "
        f"at rest {at_rest * 1e3:.1f} ms; fresh {recovered_s:.2f} s after the end"
    )
    assert found.statuses.keys() == {200}
    assert latest <= WITHIN_S + at_rest + 0.005
    assert recovered_s <= RECOVERED_S
