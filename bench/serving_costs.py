"""What a server of ours costs beside its requests, and how soon it knows: start, memory, a change in Redis, many under load."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import redis

from bench.serving_load import Client, as_post, fresh, open_loop, resident_mib
from bench.serving_world import ADS, World
from conf.settings import ROOT
from feature_repo.redis_layout import encode_int64, hash_field, redis_key

MORE_ADS = 10_000
UPDATES = 1_000  # ads a second
_CHANGES = 20


@contextmanager
def ours(env: Mapping[str, str], *, core: int | None = None) -> Iterator[tuple[int, int, float]]:
    """A server: process id, port, seconds from its start until it was ready. core: the one processor that it may use."""
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    began = time.monotonic()
    command = [*pinned, sys.executable, "-m", "serving", "--port", "0"]
    with subprocess.Popen(command, env=dict(env), cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            said = server.stdout.readline() if server.stdout else ""
            if (found := re.search(r":(\d+).*ready", said)) is None:
                raise SystemExit(f"the server said {said!r}")
            yield server.pid, int(found[1]), time.monotonic() - began
        finally:
            server.terminate()


def start_and_memory(env: Mapping[str, str], address: str, world: World, body: bytes) -> dict[str, float]:
    """start_s: on one core, machine code at hand. MiB of a worker that has answered, and what MORE_ADS add to it."""
    core = min(os.sched_getaffinity(0))
    starts, sizes = [], []
    for more in (False, False, True):
        if more:
            world.fill_more_ads(address, MORE_ADS)
        with ours(env, core=core) as (pid, port, seconds):
            client = Client(port)
            for _ in range(100):
                client.ask(as_post(body))
            client.close()
            starts.append(seconds)
            sizes.append(resident_mib(pid))
    worker, larger = sizes[1:]
    return {"start_s": round(min(starts[:2]), 2), "worker_mib": round(worker), "mib_per_10000_ads": round(larger - worker, 1)}


def seen_after(port: int, address: str, world: World, body: bytes) -> list[float]:
    """Seconds from a change of an ad's counters in Redis to the first reply that shows it, of _CHANGES changes."""
    client, took = Client(port), []
    ad = _first_ad(body)
    with _redis(address) as store:
        store.hset(_key(world, ad), mapping=_counters(world, 1_000, 0))
        time.sleep(1)  # so that the first change is one, whatever stood there
        for number in range(_CHANGES):
            before = fresh(client, as_post(body))[0]
            began = time.monotonic()
            store.hset(_key(world, ad), mapping=_counters(world, 1_000 + number, 300 * ((number + 1) % 2)))
            while fresh(client, as_post(body))[0] == before:
                if time.monotonic() - began > 10:
                    raise SystemExit(f"a change of ad {ad} is not seen after 10 s")
                time.sleep(0.001)
            took.append(time.monotonic() - began)
    client.close()
    return took


def under_updates(
    port: int, address: str, world: World, requests: Sequence[bytes], rate: float, seconds: float
) -> dict[str, Any]:
    """The open loop, calm and while UPDATES ads a second are written; calm and not take turns."""
    found: dict[str, list[dict[str, float]]] = {"calm": [], "updated": []}
    for turn in range(4):
        with _updates(address, world) if turn % 2 else _nothing() as written:
            began = time.monotonic()
            found["updated" if turn % 2 else "calm"].append(open_loop(port, requests, rate, seconds, seed=turn // 2 + 1))
            wrote = written() / (time.monotonic() - began)
    best = {name: min(runs, key=lambda run: run["p99"]) for name, runs in found.items()}
    return best | {"ads_per_s": round(wrote)}


@contextmanager
def _nothing() -> Iterator[Any]:
    yield lambda: 0


@contextmanager
def _updates(address: str, world: World) -> Iterator[Any]:
    """Writes of 50 ads every 50 ms from a thread, as `feast materialize` writes them; yields how many so far."""
    ended, count = threading.Event(), 0

    def write() -> None:
        nonlocal count
        each = UPDATES // 20
        with _redis(address) as store:
            due = time.monotonic()
            while not ended.wait(max(0.0, due - time.monotonic())):
                due += each / UPDATES
                pipe = store.pipeline(transaction=False)
                for _ in range(each):
                    pipe.hset(_key(world, count % ADS), mapping=_counters(world, 1_000 + count, 10 + count % 50))
                    count += 1
                pipe.execute()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield lambda: count
    finally:
        ended.set()
        writer.join()


def _redis(address: str) -> Any:
    host, _, port = address.partition(":")
    return redis.Redis(host=host, port=int(port))


def _key(world: World, ad: int) -> bytes:
    return redis_key(world.contract.name, {"ad_id": f"a{ad}"})


def _counters(world: World, impressions: int, clicks: int) -> dict[bytes, bytes]:
    """An ad's fields, the same in each window."""
    values = [impressions if name.startswith("impressions") else clicks for name in world.counted]
    return {hash_field("ad", name): encode_int64(value) for name, value in zip(world.counted, values, strict=True)}


def _first_ad(body: bytes) -> int:
    found = re.search(rb'"ad_id": "a(\d+)"', body)
    return int(found[1]) if found else 0
