"""A standalone Spark cluster of real processes on this machine: a master, and workers of one core each."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

_HOST = "127.0.0.1"
_DEPLOY = "org.apache.spark.deploy"
_PATIENCE_S = 120


@dataclass(frozen=True)
class Cluster:
    """master: for `spark-submit --master`. workers: process groups, executors included."""

    master: str
    workers: tuple[int, ...]

    def oldest_executor(self) -> int:
        """Its process."""
        groups = ",".join(map(str, self.workers))
        command = ["pgrep", "--oldest", "--pgroup", groups, "--full", "CoarseGrainedExecutorBackend"]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)


@contextmanager
def standalone_cluster(folder: Path, workers: int, env: Mapping[str, str]) -> Iterator[Cluster]:
    """A cluster whose processes end with the block, killed. folder: of their logs and the executors' working folders."""
    folder.mkdir()
    with ExitStack() as stack:
        port = _free_port()
        words = ["master.Master", "--host", _HOST, "--port", str(port), "--webui-port", "0"]
        stack.enter_context(_running("master", words, folder, env))
        _wait_for(port)
        groups = []
        for number in range(workers):
            name = f"worker-{number}"
            words = ["worker.Worker", "--host", _HOST, "--webui-port", "0", "--cores", "1", "--memory", "1g"]
            words += ["--work-dir", str(folder / name), f"spark://{_HOST}:{port}"]
            groups.append(stack.enter_context(_running(name, words, folder, env)))
        yield Cluster(f"spark://{_HOST}:{port}", tuple(groups))


@contextmanager
def _running(name: str, words: list[str], folder: Path, env: Mapping[str, str]) -> Iterator[int]:
    command = ["spark-class", f"{_DEPLOY}.{words[0]}", *words[1:]]
    with (folder / f"{name}.log").open("wb") as said:
        process = subprocess.Popen(command, env=env, stdout=said, stderr=subprocess.STDOUT, process_group=0)
        try:
            yield process.pid
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((_HOST, 0))
        return int(free.getsockname()[1])


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection((_HOST, port), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(f"no master at port {port} after {_PATIENCE_S} s")
