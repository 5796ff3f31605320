"""A prediction's cost: ours beside what most write, what an expert writes with the Feast SDK, and an empty FastAPI route.

All servers run at once, on the same Redis and the same model, and take turns. Closed loop: microseconds of the server's CPU
for a request. Open loop: Poisson arrivals at fixed rates, latency from when a request was due. Writes its section of
docs/benchmarks.md; the last line is JSON.

    make bench-serving
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.report import write_section
from bench.serving_costs import ours, seen_after, start_and_memory, under_updates
from bench.serving_load import GET, Client, as_post, closed_loop, fresh, open_loop, wait_for
from bench.serving_page import CPU, NAMES, page
from bench.serving_world import SHAPES, Shape, World, install, write_contract
from conf.environment import environment
from conf.redis_server import free_port, redis_server
from conf.settings import ROOT, load_settings

SIZES = (1, 10, 100, 200)
_PLAIN_TYPE = "application/json; charset=utf-8"  # what the hot route leaves to the plain one
_DISTINCT = 500  # requests of each size
_COMPARED_SIZES = (1, 10, 10, 100)
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)  # of the rate at which the server's core is full, by its CPU in the closed loop


@dataclass
class Bed:
    """A shape's servers, running: name -> (process id, port)."""

    shape: Shape
    world: World
    servers: dict[str, tuple[int, int]]
    folder: Path
    redis: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES), help="(%(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="candidates of a request (%(default)s)")
    parser.add_argument("--only", nargs="+", default=list(NAMES), choices=list(NAMES), help="servers (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1, help="of each server in each round (%(default)s)")
    parser.add_argument("--open", type=float, default=10, help="seconds at each rate of the open loop; 0: none (%(default)s)")
    parser.add_argument("--compared", type=int, default=20_000, help="requests whose answers are compared (%(default)s)")
    parser.add_argument("--add", action="store_true", help="keep what earlier runs measured of other shapes")
    parser.add_argument("--no-page", action="store_true", help="leave docs/benchmarks.md as it is")
    args = parser.parse_args()
    kept = load_settings().state / "bench" / "serving.json"
    results: dict[str, Any] = json.loads(kept.read_text()) if args.add and kept.exists() else {}
    for shape in (SHAPES[name] for name in args.shapes):
        with tempfile.TemporaryDirectory(prefix="bench-serving-") as folder, _bed(shape, Path(folder), args.only) as bed:
            results[shape.name] = _measured(bed, args)
            print(json.dumps({shape.name: results[shape.name]}), file=sys.stderr, flush=True)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(results))
    if not args.no_page:
        write_section("serving", page(results))
    first = results[args.shapes[0]]
    print(json.dumps({"bench": "serving", **first, "shapes": results}))
    return 0


def _measured(bed: Bed, args: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {CPU[connections]: {} for connections in CPU}
    for size in args.sizes:
        bodies = bed.world.requests(size, _DISTINCT, seed=size)
        for connections, name_of in CPU.items():
            rounds = [{n: _closed(bed, n, bodies, args.seconds, connections) for n in bed.servers} for _ in range(args.rounds)]
            result[name_of][str(size)] = {n: round(median(one[n] for one in rounds), 1) for n in bed.servers}
            print(bed.shape.name, size, connections, result[name_of][str(size)], file=sys.stderr, flush=True)
    cpu = result["cpu_us"]
    if {"ours", "route"} <= set(bed.servers):
        result |= {"compared": args.compared, "mismatches": _mismatches(bed, args.compared)}
    if "ours" in bed.servers and args.open:
        _, port = bed.servers["ours"]
        requests = [as_post(body) for body in bed.world.requests(100, _DISTINCT, seed=7)]
        full = 1e6 / cpu[str(100 if 100 in args.sizes else args.sizes[-1])]["ours"]
        result["open_loop"] = {
            "rates": [open_loop(port, requests, share * full, args.open) for share in SHARES],
            "updates": under_updates(port, bed.redis, bed.world, requests, 0.25 * full, args.open),
        }
        seen = seen_after(port, bed.redis, bed.world, bed.world.requests(10, 1, seed=8)[0])
        result["seen_after_s"] = {"median": round(median(seen), 3), "longest": round(max(seen), 3)}
    if "ours" in bed.servers:
        env = environment_of(bed.folder, bed.redis)
        result |= start_and_memory(env, bed.redis, bed.world, bed.world.requests(100, 1, seed=9)[0])
    return result


def _closed(bed: Bed, name: str, bodies: Sequence[bytes], seconds: float, connections: int) -> float:
    pid, port = bed.servers[name]
    clients = [Client(port) for _ in range(connections)]
    requests = [GET] if name == "empty" else [as_post(b, content_type=_type(name)) for b in bodies]
    for request in requests[: _DISTINCT if name in ("ours", "empty") else 20]:
        clients[0].ask(request)
    try:
        return closed_loop(clients, pid, requests, seconds)
    finally:
        for client in clients:
            client.close()


def _type(name: str) -> str:
    return _PLAIN_TYPE if name == "route" else "application/json"


def _mismatches(bed: Bed, requests: int) -> int:
    """Requests of which an answer by the hot route is not the plain route's, so the bundle's own, to the bit."""
    client, wrong = Client(bed.servers["ours"][1]), 0
    for place, size in enumerate(_COMPARED_SIZES):
        for body in bed.world.requests(size, requests // len(_COMPARED_SIZES), seed=99 + place):
            hot, plain = (fresh(client, as_post(body, content_type=_type(name))) for name in ("ours", "route"))
            wrong += hot != plain
    client.close()
    return wrong


@contextmanager
def _bed(shape: Shape, folder: Path, only: Sequence[str]) -> Iterator[Bed]:
    contract = write_contract(shape, folder)
    world = World(contract)
    install(shape, world, folder)
    with ExitStack() as stack:
        address = stack.enter_context(redis_server(folder / "redis"))
        world.fill(address)
        servers = {}
        for name in ("naive", "feast_sdk", "empty"):
            if name in only:
                servers[name] = stack.enter_context(_other(name, folder, address))
        for name in ("ours", "route"):
            if name in only:
                # eight who wait for the plain route wait longer than a server lets anybody
                patient = {"CLICKODDS_SERVING__QUEUE_AGE_MS": "10000"} if name == "route" else {}
                servers[name] = stack.enter_context(ours(environment_of(folder, address) | patient))[:2]
        _agree(world, servers)
        yield Bed(shape, world, servers, folder, address)


def _agree(world: World, servers: dict[str, tuple[int, int]]) -> None:
    """Ends the program where one server answers otherwise: then it would be no comparison."""
    body = world.requests(100, 1, seed=5)[0]
    asked = {name: port for name, (_, port) in servers.items() if name != "empty"}
    said = {n: fresh(Client(port), as_post(body, content_type=_type(n))) for n, port in asked.items()}
    first = next(iter(said.values()), [])
    for name, found in said.items():
        far = np.abs(np.array([p["ctr"] for p in found]) - np.array([p["ctr"] for p in first])).max()
        if far > 1e-5:  # the pyfunc's probabilities are of single precision
            raise SystemExit(f"{name} answers otherwise than {next(iter(said))}, by up to {far}")


@contextmanager
def _other(name: str, folder: Path, address: str) -> Iterator[tuple[int, int]]:
    port = free_port()
    command = [sys.executable, "-m", "bench.serving_servers", name, str(folder), f"{folder}/contract.yaml", address, str(port)]
    env = environment_of(folder, address)
    with subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=sys.stderr) as server:
        try:
            wait_for(port)
            yield server.pid, port
        finally:
            server.kill()


def environment_of(folder: Path, address: str) -> dict[str, str]:
    """Of a server whose state and contract.yaml lie in the folder."""
    settings = load_settings().model_copy(update={"state": folder, "contract": folder / "contract.yaml", "redis": address})
    return os.environ | environment(settings) | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    sys.exit(main())
