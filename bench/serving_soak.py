"""A server under load for an hour: does it keep its memory, its file descriptors and its tasks?

Poisson arrivals over 5,000 ads, half of the users never seen before, while ads' counters are written every second and the prior
moves every five minutes. Between two slices nobody asks: then memory, descriptors and tasks are counted. Exits with 1 where the
memory grew by more than 2 % after the first tenth, a descriptor, thread or task was left, or a request failed that was not shed.
The last line is JSON.

    make soak-serving ARGS='--minutes 2'
"""

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import redis

from bench.serving_load import Client, as_post, closed_loop, cpu_s, open_loop, resident_mib
from bench.serving_world import CROSSES, SHAPES, World, install, write_contract
from conf.contract import ALL_KEY
from conf.environment import environment
from conf.redis_server import redis_server
from conf.served import served_folder
from conf.settings import ROOT, load_settings
from feature_repo.redis_layout import encode_int64, hash_field, redis_key

GREW_AT_MOST = 1.02
_DISTINCT = 500
_ADS_A_SECOND = 20
_PRIOR_EVERY_S = 300.0


@dataclass(frozen=True)
class Sample:
    """Of the server's process between two slices: MiB, counts. What follows on tasks is of the slice before; milliseconds."""

    minute: float
    resident_mib: float
    descriptors: int
    threads: int
    tasks: int
    requests: int
    failed: int
    shed: int
    degraded: int
    p50: float
    p99: float


class Watched:
    """A server process that says on SIGUSR1 how many tasks its loop has."""

    def __init__(self, process: subprocess.Popen[str], said: IO[str], port: int) -> None:
        self.process, self.port, self._said = process, port, said
        self._counted = self._counts()

    @classmethod
    @contextmanager
    def started(cls, folder: Path, address: str) -> Iterator[Self]:
        settings = load_settings().model_copy(update={"state": folder, "contract": folder / "contract.yaml", "redis": address})
        env = os.environ | environment(settings) | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "bench.serving_soak", "--serve", "--port", "0"]
        with subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            try:
                said = process.stdout.readline() if process.stdout else ""
                if process.stdout is None or (found := re.search(r":(\d+).*ready", said)) is None:
                    raise SystemExit(f"the server said {said!r}")
                yield cls(process, process.stdout, int(found[1]))
            finally:
                process.terminate()

    def tasks(self) -> int:
        self.process.send_signal(signal.SIGUSR1)
        return int(self._said.readline())

    def _counts(self) -> tuple[int, int]:
        """Requests shed, and reasons of degraded answers, since the server began."""
        client = Client(self.port)
        page = client.ask(b"GET /metrics HTTP/1.1\r\nhost: soak\r\n\r\n").decode()
        client.close()
        names = "shed", "degraded"
        shed, degraded = (re.findall(rf"^clickodds_{name}_total\{{.*\}} (.*)$", page, re.MULTILINE) for name in names)
        return int(sum(map(float, shed))), int(sum(map(float, degraded)))

    def sample(self, began: float, load: dict[str, float]) -> Sample:
        pid = self.process.pid
        descriptors, threads = (len(os.listdir(f"/proc/{pid}/{what}")) for what in ("fd", "task"))
        minute, memory = (time.monotonic() - began) / 60, resident_mib(pid)
        before, self._counted = self._counted, self._counts()
        shed, degraded = (now - then for now, then in zip(self._counted, before, strict=True))
        counts = int(load["requests"]), int(load["failed"]) - shed, shed, degraded
        latencies = load.get("p50", np.nan), load.get("p99", np.nan)
        return Sample(round(minute, 2), round(memory, 1), descriptors, threads, self.tasks(), *counts, *latencies)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="(%(default)s)")
    parser.add_argument("--rate", type=float, help="requests a second; default: half of what the server could answer, measured")
    parser.add_argument("--candidates", type=int, default=100, help="of a request (%(default)s)")
    parser.add_argument("--shape", default=CROSSES.name, choices=list(SHAPES), help="of the model (%(default)s)")
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-serving-")))
        world = World(write_contract(shape, folder))
        bundle = install(shape, world, folder)
        address = stack.enter_context(redis_server(folder / "redis"))
        world.fill(address)
        server = stack.enter_context(Watched.started(folder, address))
        bodies = world.requests(args.candidates, _DISTINCT, seed=3)
        half = _half_load(server, bodies)
        rate = args.rate or half
        print(f"{rate:.0f} requests/s of {args.candidates} candidates; half of what one core answers is {half:.0f}", flush=True)
        stack.enter_context(_written(world, address))
        served = served_folder(folder, world.contract.name, world.contract.hash, bundle.id_key_fingerprint)
        pids = {"server": server.process.pid, "client": os.getpid()}
        began, cpu = time.monotonic(), {name: cpu_s(pid) for name, pid in pids.items()}
        samples: list[Sample] = []
        slice_s = min(60.0, args.minutes * 6)
        while (time.monotonic() - began) / 60 < args.minutes:
            load = open_loop(server.port, _unseen(bodies, rate * slice_s * 1.2, len(samples)), rate, slice_s, seed=len(samples))
            for path in served.glob("*.parquet"):  # as jobs/ingest_predictions.py does
                path.unlink()
            time.sleep(1)
            samples.append(server.sample(began, load))
            print(samples[-1], flush=True)
        cores = {name: round((cpu_s(pid) - cpu[name]) / (time.monotonic() - began), 3) for name, pid in pids.items()}
    verdict = _verdict(samples)
    about = {"candidates": args.candidates, "rate": round(rate, 1), "half_load": round(half, 1), "cores": cores}
    print(json.dumps({"bench": "soak_serving", **about, **verdict, "first": asdict(samples[0]), "last": asdict(samples[-1])}))
    return 0 if verdict["good"] else 1


def _verdict(samples: list[Sample]) -> dict[str, Any]:
    settled = samples[len(samples) // 10 + 1 :]
    grew = max(sample.resident_mib for sample in settled) / settled[0].resident_mib
    tenth = -(-len(settled) // 10)  # a task may be there or not at any moment: what is left is there in all of the last ones
    least = {name: min(getattr(sample, name) for sample in settled[-tenth:]) for name in ("descriptors", "threads", "tasks")}
    left = {name: number - max(getattr(sample, name) for sample in settled[:tenth]) for name, number in least.items()}
    total = {name: sum(getattr(sample, name) for sample in samples) for name in ("requests", "failed", "shed", "degraded")}
    good = grew <= GREW_AT_MOST and total["failed"] == 0 and max(left.values()) <= 0
    return {"good": good, "minutes": samples[-1].minute, **total, "grew": round(grew, 4), "left": left}


def _half_load(server: Watched, bodies: list[bytes]) -> float:
    client, requests = Client(server.port), [as_post(body) for body in bodies]
    for request in requests[:50]:
        client.ask(request)
    cost_us = closed_loop([client], server.process.pid, requests, 2.0)
    client.close()
    return 0.5e6 / cost_us


def _unseen(bodies: list[bytes], count: float, slice_number: int) -> list[bytes]:
    """Requests, every other one of a user who was never seen."""
    made = []
    for number in range(int(count)):
        body = bodies[number % len(bodies)]
        if number % 2:
            body = re.sub(rb'"user_id": "[^"]*"', b'"user_id": "new-%d-%d"' % (slice_number, number), body, count=1)
        made.append(as_post(body))
    return made


@contextmanager
def _written(world: World, address: str) -> Iterator[None]:
    """Ads' counters grow all the time, and now and then those of everything, on which all rates rest."""
    host, _, port = address.partition(":")
    over, contract, ads = threading.Event(), world.contract, world.counters["ad"]

    def write() -> None:
        draw, prior_s = np.random.default_rng(6), time.monotonic()
        with redis.Redis(host=host, port=int(port)) as client:
            while not over.wait(1.0):
                for ad in draw.integers(len(ads), size=_ADS_A_SECOND):
                    ads[ad, ::2] += 1
                    fields = {hash_field("ad", n): encode_int64(int(v)) for n, v in zip(world.counted, ads[ad], strict=True)}
                    client.hset(redis_key(contract.name, {"ad_id": f"a{ad}"}), mapping=fields)
                if time.monotonic() - prior_s > _PRIOR_EVERY_S:
                    world.everything[::2] += 100
                    numbers = zip(world.counted, world.everything, strict=True)
                    scope = {hash_field(ALL_KEY, name): encode_int64(int(value)) for name, value in numbers}
                    client.hset(redis_key(contract.name, {}), mapping=scope)
                    prior_s = time.monotonic()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _serve() -> int:
    """`python -m serving` that tells on SIGUSR1, in its loop, how many tasks there are."""
    import serving.server
    from serving.__main__ import main as serve

    class Telling(serving.server.Server):
        async def startup(self, *args: Any, **named: Any) -> None:
            await super().startup(*args, **named)
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, lambda: print(len(asyncio.all_tasks()), flush=True))

    serving.server.Server = Telling  # type: ignore[misc]
    return serve()


if __name__ == "__main__":
    if "--serve" in sys.argv:
        sys.argv.remove("--serve")
        sys.exit(_serve())
    sys.exit(main())
