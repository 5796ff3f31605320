"""Serving at half of what it can, while a table is materialized into its Redis at the engine's default rate limit.

A part of `make bench-materialize`, which has the table in `folder`. The engine's Spark runs already when the clock starts, as in
the hourly round; latencies are those of an open loop, from when a request was due.
"""

import re
import subprocess
from pathlib import Path
from typing import Any

import httpx2

from bench.materialize_processes import PACED, started
from bench.serving import environment_of
from bench.serving_costs import ours
from bench.serving_load import Client, as_post, closed_loop, open_loop
from bench.serving_world import PLAIN, World, install, write_contract
from conf.redis_server import redis_server

_CANDIDATES = 100
_DISTINCT = 500  # requests
_LOAD = 0.5  # of what one server process can answer
_SECONDS = 30.0  # a row limit of 25,000 a second takes 40 s for 10**6 rows


def beside_serving(folder: Path) -> dict[str, Any]:
    """Open-loop latencies calm and while rows are written, each with the number of degraded answers; seconds of the writing."""
    state = folder / "serving"
    state.mkdir()
    world = World(write_contract(PLAIN, state))
    install(PLAIN, world, state)
    requests = [as_post(body) for body in world.requests(_CANDIDATES, _DISTINCT, seed=7)]
    with redis_server(state / "redis") as address:
        world.fill(address)
        with ours(environment_of(state, address)) as (pid, port, _), started(PACED, folder, address, "full") as engine:
            _line_of(engine, "warm")
            rate = _LOAD * 1e6 / closed_loop([Client(port)], pid, requests, seconds=5)
            calm = _load(port, requests, rate)
            engine.stdin.write("go\n")  # type: ignore[union-attr]  # it is a pipe
            engine.stdin.flush()  # type: ignore[union-attr]
            beside = _load(port, requests, rate)
            busy = engine.poll() is None
            seconds = float(_line_of(engine, "wrote").split()[1])
    if not busy:
        raise SystemExit(f"serving: the rows were written in {seconds} s, expected more than {_SECONDS} s: a table too small")
    return {"calm": calm, "beside": beside, "write_s": seconds}


def _load(port: int, requests: list[bytes], rate: float) -> dict[str, Any]:
    before = _degraded(port)
    found: dict[str, Any] = open_loop(port, requests, rate, _SECONDS)
    return found | {"degraded": _degraded(port) - before}


def _degraded(port: int) -> int:
    """Degraded answers so far."""
    said = httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    return sum(int(float(number)) for number in re.findall(r"^clickodds_degraded\S* (\S+)$", said, re.MULTILINE))


def _line_of(engine: subprocess.Popen[str], word: str) -> str:
    """The next line that begins with the word; ends the program where the engine ends before."""
    for line in engine.stdout or ():
        if line.startswith(word):
            return line
    raise SystemExit(f"serving: the engine ended with {engine.wait()} and did not say {word!r}")
