"""Models, processes and disks come and go under load: no request fails, none is late, none is answered by two models."""

import http.client
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from conf.contract import Contract
from conf.contract_file import load_contract
from conf.redis_server import redis_server
from conf.served import served_folder
from conf.settings import CONF
from models.bundle import save_bundle
from models.calibration import Calibrator
from models.published import publish
from tests.chaos.under_load import asked, installation, tried_again
from tests.serving.both_routes import exact_bundle
from tests.serving.installation import Installation, Running
from tests.serving.open_load import answered
from tests.serving.parts import ID_KEY, FeastStore, fill

pytestmark = pytest.mark.chaos

RELOADS = 50
RELOADED_S = 120.0  # what they take, about


@pytest.fixture(scope="module")
def demo() -> Contract:
    return load_contract(CONF / "contracts" / "demo.yaml")


@pytest.fixture(scope="module")
def filled(demo: Contract, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Redis as it is to be."""
    folder = tmp_path_factory.mktemp("online")
    with redis_server(folder / "redis") as address:
        fill(FeastStore(demo, folder), address)
        yield address


def _until(true: Callable[[], bool], within_s: float = 60.0) -> None:
    until = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)


def _metric(server: Running, name: str) -> float:
    """Asked in the cheapest way: a client library would take the processors from the server."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", "/metrics")
    page = connection.getresponse().read().decode()
    connection.close()
    return float(next(line.rpartition(" ")[2] for line in page.splitlines() if line.startswith(name)))


def _resident_mb(server: Running) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def _made(installed: Installation, demo: Contract, count: int) -> list[Path]:
    """Models that answer differently, made before anybody asks."""
    folders = [installed.state / "made" / str(number) for number in range(count)]
    for number, folder in enumerate(folders):
        save_bundle(replace(exact_bundle(demo), calibrator=Calibrator("shift", (0.01 * (number + 1),))), folder, {})
    return folders


@tried_again
def test_a_model_reloaded_fifty_times(filled: str, demo: Contract, tmp_path: Path) -> None:
    installed = installation(tmp_path, filled, demo)
    made, root = _made(installed, demo, RELOADS), installed.state / "bundles" / demo.name
    with asked(installed, calm_s=RELOADED_S) as trial:
        memory = [_resident_mb(trial.server)]
        with trial.fault():
            for number, folder in enumerate(made, 1):
                publish(root, folder, str(number))
                _until(lambda n=number: _metric(trial.server, 'clickodds_reloads_total{outcome="loaded"}') == n)  # type: ignore[misc]
                memory.append(_resident_mb(trial.server))
        trial.judge(f"{RELOADS} reloads", set())
    versions = {answered(reply.body)[0] for reply in trial.load.replies}
    print("memory after 0, 10, ... reloads: " + ", ".join(f"{mb:.0f}" for mb in memory[::10]) + " MB")  # noqa: T201
    assert versions == {str(number) for number in range(RELOADS + 1)}
    assert memory[-1] < memory[10] * 1.02 + 2, "what a model took it gives back"


@tried_again
def test_a_bad_model_is_offered(filled: str, demo: Contract, tmp_path: Path) -> None:
    installed = installation(tmp_path, filled, demo)
    root = installed.state / "bundles" / demo.name
    damaged, *_ = _made(installed, demo, 1)
    (damaged / "trees.ubj").write_bytes((damaged / "trees.ubj").read_bytes()[:-3])
    save_bundle(replace(exact_bundle(demo), contract_hash="f" * 64), foreign := installed.state / "made" / "foreign", {})
    with asked(installed) as trial:
        with trial.fault():
            for count, (folder, version) in enumerate([(damaged, "damaged"), (foreign, "of another contract")], 1):
                publish(root, folder, version)
                _until(lambda n=count: _metric(trial.server, 'clickodds_reloads_total{outcome="refused"}') == n)  # type: ignore[misc]
        trial.judge("two bad models", set())
        assert {answered(reply.body)[0] for reply in trial.load.replies} == {"0"}


@tried_again
def test_one_of_two_workers_is_ended(filled: str, demo: Contract, tmp_path: Path) -> None:
    installed = installation(tmp_path, filled, demo)
    with asked(installed, "--workers", "2") as trial:
        first, second = trial.server.workers()
        with trial.fault():
            os.kill(first, signal.SIGTERM)
            _until(lambda: first not in trial.server.workers() and len(trial.server.workers()) == 2)
            time.sleep(5)  # in which the next one starts
        trial.judge("SIGTERM to one of two workers", set())
        assert second in trial.server.workers()


@contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    """A file system of a megabyte; skips where that may not be had."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a file system is for root; tests/serving/test_served_log.py has a limit on files instead")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def _fill_up(path: Path) -> None:
    """With bytes of no use, until there is no room."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


@tried_again
def test_the_disk_under_the_log_is_full(filled: str, demo: Contract, tmp_path: Path) -> None:
    installed = installation(tmp_path, filled, demo, log__share="0.05", log__every="1s")
    served = served_folder(installed.state, demo.name, demo.hash, ID_KEY.fingerprint)
    with _small_disk(served), asked(installed) as trial:
        rows, lost = "clickodds_served_log_rows_total", 'clickodds_served_log_dropped_total{full="disk"}'
        for path in served.iterdir():
            path.unlink()
        before = _metric(trial.server, rows)
        with trial.fault():
            _fill_up(served / "somebody else's")
            _until(lambda: _metric(trial.server, lost) > 0)
            time.sleep(2)
        (served / "somebody else's").unlink()
        written, dropped = _metric(trial.server, rows), _metric(trial.server, lost)
        _until(lambda: _metric(trial.server, rows) > written)
        said = trial.judge("a full disk under the log", set())
    assert before > 0, said
    assert dropped > 0, said
    assert "the served log is written again" in installed.log()
