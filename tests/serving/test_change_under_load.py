"""Models and processes come and go while requests are answered: none fails, none is answered by two models at once."""

import errno
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from conf.contract import Contract
from models.calibration import Calibrator
from serving.workers import Workers
from tests.serving.installation import Installation, Running
from tests.serving.load import REFUSED, Load, load

BODY: dict[str, Any] = {
    "request_id": "r-1",
    "time": "2026-03-01T10:30:00Z",
    "context": {"user_id": "known", "placement_id": "placement_id-1"},
    "candidates": [{"ad_id": ad, "campaign_id": "c1"} for ad in ("a7", *(f"never seen {number}" for number in range(9)))],
}


@pytest.fixture
def installation(tmp_path: Path, filled_redis: str) -> Installation:
    return Installation.make(tmp_path, filled_redis, {"reload_every": "1s", "drain": "2s"})


def _until(true: Callable[[], bool], within_s: float = 30.0) -> None:
    until = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


def _serves(server: Running) -> str:
    return str(httpx2.get(f"{server.address}/v1/model", trust_env=False).json()["version"])


def _metric(server: Running, name: str) -> float:
    page = httpx2.get(f"{server.address}/metrics", trust_env=False).text
    return float(next(line.rpartition(" ")[2] for line in page.splitlines() if line.startswith(name)))


def _answers_by_version(found: Load) -> dict[str, set[tuple[float, ...]]]:
    """Of fresh ones: on a busy machine Redis may be late for one, which then says so."""
    by_version: dict[str, set[tuple[float, ...]]] = {}
    for answer in (reply.json for reply in found.replies if not reply.json["degraded"]):
        by_version.setdefault(answer["model_version"], set()).add(tuple(p["ctr"] for p in answer["predictions"]))
    return by_version


def test_a_new_champion_takes_over_with_no_failed_and_no_mixed_request(installation: Installation, demo: Contract) -> None:
    reloads = int(os.environ.get("CLICKODDS_TEST_RELOADS", "4"))
    installation.publish(demo, "0")
    with installation.started() as server, load(server.port, BODY) as found:
        found.wait(50)
        for number in range(1, reloads + 1):
            installation.publish(demo, str(number), calibrator=Calibrator("shift", (0.01 * number,)))
            _until(lambda n=number: _serves(server) == str(n))  # type: ignore[misc]
            found.wait(20)
        assert _metric(server, 'clickodds_reloads_total{outcome="loaded"}') == reloads
    assert set(found.statuses) == {200}
    answers = _answers_by_version(found)
    assert set(answers) == {str(number) for number in range(reloads + 1)}
    assert all(len(ctrs) == 1 for ctrs in answers.values()), "a model answers one request in one way"
    assert len(set.union(*answers.values())) == reloads + 1, "and each in another"
    print(f"\n{len(found.replies)} requests over {reloads} reloads: 0 failed, 0 mixed")  # noqa: T201


def test_a_bad_champion_is_refused_and_the_old_one_stays(installation: Installation, demo: Contract) -> None:
    installation.publish(demo, "1")
    with installation.started() as server, load(server.port, BODY) as found:
        folder = installation.publish(demo, "2", calibrator=Calibrator("shift", (0.1,)))
        data = (folder / "trees.ubj").read_bytes()
        (folder / "trees.ubj").write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
        _until(lambda: _metric(server, 'clickodds_reloads_total{outcome="refused"}') == 1)
        installation.publish(demo, "3", contract_hash="f" * 64)
        _until(lambda: _metric(server, 'clickodds_reloads_total{outcome="refused"}') == 2)
        found.wait(20)
        assert _serves(server) == "1"
        assert httpx2.get(f"{server.address}/readyz", trust_env=False).status_code == 200
    assert set(found.statuses) == {200}
    assert set(_answers_by_version(found)) == {"1"}
    assert "trees.ubj: sha256 is" in installation.log()
    assert "model 1 stays" in installation.log()


def test_a_server_without_a_model_takes_up_the_first_one(installation: Installation, demo: Contract) -> None:
    with installation.started() as server:
        assert httpx2.get(f"{server.address}/readyz", trust_env=False).status_code == 503
        installation.publish(demo, "1")
        _until(lambda: httpx2.get(f"{server.address}/readyz", trust_env=False).status_code == 200)


def test_sigterm_answers_what_is_asked_and_refuses_what_is_new(installation: Installation, demo: Contract) -> None:
    installation.publish(demo, "1")
    with installation.started() as server, load(server.port, BODY) as found:
        found.wait(20)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))
    assert found.statuses.keys() == {200, REFUSED}
    goodbyes = [reply for reply in found.replies if reply.headers.get("connection") == "close"]
    assert len(goodbyes) == 4, "each caller was told to go elsewhere, in an answer"


def test_a_worker_that_is_ended_or_killed_costs_no_request_its_answer(installation: Installation, demo: Contract) -> None:
    installation.publish(demo, "1")
    with installation.started("--workers", "2") as server, load(server.port, BODY, callers=8) as found:
        found.wait(50)
        first, second = server.workers()
        os.kill(first, signal.SIGTERM)
        _until(lambda: first not in server.workers() and len(server.workers()) == 2)
        found.wait(50)
        assert found.statuses.keys() == {200}, "ended politely"
        asked = _metric(server, 'clickodds_request_seconds_count{status="200"}')
        os.kill(second, signal.SIGKILL)
        _until(lambda: second not in server.workers() and len(server.workers()) == 2)
        found.wait(50)
        assert found.statuses[200] >= len(found.replies) - 8, "a killed one's own connections alone"
        assert _metric(server, 'clickodds_request_seconds_count{status="200"}') > asked, "counters outlive their process"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
    assert "worker 1 ended with -9" in installation.log() or "worker 0 ended with -9" in installation.log()


def test_a_worker_that_cannot_be_started_does_not_end_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_memory(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("serving.workers.subprocess.Popen", no_memory)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        workers = Workers(["nothing"], 2, listener, stopped_within_s=1)
        one = workers._workers[1]
        for _ in range(3):
            workers._look_at(1, one)
    workers._cells.close()
    for end in (workers._lifeline, workers._held):
        os.close(end)
    assert (one.process, one.died) == (None, 1), "tried again later, not at once"
    assert one.next_start > time.monotonic() + 1
    assert "worker 1 cannot be started: [Errno 12] Cannot allocate memory; tried again in" in caplog.text


def test_workers_end_when_their_parent_is_killed(installation: Installation, demo: Contract) -> None:
    installation.publish(demo, "1")
    with installation.started("--workers", "2", code=-signal.SIGKILL) as server:
        workers = server.workers()
        server.process.kill()
        _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_an_installation_that_no_worker_can_serve_ends_with_its_code(installation: Installation) -> None:
    (installation.state / "id.key").unlink()
    with pytest.raises(AssertionError, match="no address"), installation.started("--workers", "2") as server:
        raise AssertionError(server.said)
    assert "no id key yet" in installation.log()
