"""A prediction's cost: ours beside what most write, what an expert writes with the Feast SDK, and an empty FastAPI route.

All servers run at once, on the same Redis and the same model, and take turns. Closed loop: microseconds of the server's CPU
for a request. Open loop: Poisson arrivals at fixed rates, latency from when a request was due. Writes its section of
docs/benchmarks.md; the last line is JSON.

    make bench-serving
"""

import argparse
import json
import os
import re
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

from bench.report import machine, write_section
from bench.serving_load import GET, PERCENTILES, Client, as_post, closed_loop, open_loop, predictions, resident_mib, wait_for
from bench.serving_world import SHAPES, Shape, World, install, write_contract
from conf.environment import environment
from conf.redis_server import free_port, redis_server
from conf.settings import ROOT, load_settings

SIZES = (1, 10, 100, 200)
NAMES = {
    "naive": "FastAPI + Feast SDK + pandas + mlflow pyfunc",
    "feast_sdk": "FastAPI + Feast SDK used well + Booster",
    "ours": "ours",
    "route": "ours, plain route",
    "empty": "an empty FastAPI route",
}
_PLAIN_TYPE = "application/json; charset=utf-8"  # what the hot route leaves to the plain one
_DISTINCT = 500  # requests of each size


@dataclass
class Bed:
    """A shape's servers, running: name -> (process id, port)."""

    shape: Shape
    world: World
    servers: dict[str, tuple[int, int]]
    bundle: Any


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES), help="(%(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="candidates of a request (%(default)s)")
    parser.add_argument("--only", nargs="+", default=list(NAMES), choices=list(NAMES), help="servers (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2, help="of each server in each round (%(default)s)")
    parser.add_argument("--open", type=float, default=10, help="seconds at each rate of the open loop; 0: none (%(default)s)")
    parser.add_argument("--compared", type=int, default=20_000, help="candidates whose answers are compared (%(default)s)")
    parser.add_argument("--no-page", action="store_true", help="leave docs/benchmarks.md as it is")
    args = parser.parse_args()
    results: dict[str, Any] = {}
    for shape in (SHAPES[name] for name in args.shapes):
        with tempfile.TemporaryDirectory(prefix="bench-serving-") as folder, _bed(shape, Path(folder), args.only) as bed:
            results[shape.name] = _measured(bed, args)
            print(json.dumps({shape.name: results[shape.name]}), file=sys.stderr, flush=True)
    if not args.no_page:
        write_section("serving", _page(results))
    first = results[args.shapes[0]]
    print(json.dumps({"bench": "serving", **first, "shapes": results}))
    return 0


def _measured(bed: Bed, args: argparse.Namespace) -> dict[str, Any]:
    cpu: dict[str, dict[str, float]] = {}
    for size in args.sizes:
        bodies = bed.world.requests(size, _DISTINCT, seed=size)
        rounds = [{name: _closed(bed, name, bodies, args.seconds) for name in bed.servers} for _ in range(args.rounds)]
        cpu[str(size)] = {name: round(median(one[name] for one in rounds), 1) for name in bed.servers}
        print(bed.shape.name, size, cpu[str(size)], file=sys.stderr, flush=True)
    result: dict[str, Any] = {"cpu_us": cpu}
    if {"ours", "route"} <= set(bed.servers):
        result |= {"compared": args.compared, "mismatches": _mismatches(bed, args.compared)}
    if "ours" in bed.servers and args.open:
        pid, port = bed.servers["ours"]
        requests = [as_post(body) for body in bed.world.requests(100, _DISTINCT, seed=7)]
        saturation = 1e6 / cpu[str(100 if 100 in args.sizes else args.sizes[-1])]["ours"]
        result["open_loop"] = [open_loop(port, requests, share * saturation, args.open) for share in (0.1, 0.25, 0.5, 0.75)]
        result["resident_mib"] = round(resident_mib(pid))
    return result


def _closed(bed: Bed, name: str, bodies: Sequence[bytes], seconds: float) -> float:
    pid, port = bed.servers[name]
    client = Client(port)
    requests = [GET] if name == "empty" else [as_post(b, content_type=_type(name)) for b in bodies]
    for request in requests[:50]:
        client.ask(request)
    try:
        return closed_loop(client, pid, requests, seconds)
    finally:
        client.close()


def _type(name: str) -> str:
    return _PLAIN_TYPE if name == "route" else "application/json"


def _mismatches(bed: Bed, candidates: int) -> int:
    """Candidates whose answer by the hot route is not the plain route's, to the bit."""
    client, wrong = Client(bed.servers["ours"][1]), 0
    for body in bed.world.requests(100, candidates // 100, seed=99):
        hot, plain = (predictions(client.ask(as_post(body, content_type=_type(name)))) for name in ("ours", "route"))
        wrong += sum(a != b for a, b in zip(hot, plain, strict=True))
    client.close()
    return wrong


@contextmanager
def _bed(shape: Shape, folder: Path, only: Sequence[str]) -> Iterator[Bed]:
    contract = write_contract(shape, folder)
    world = World(contract)
    bundle = install(shape, world, folder)
    with ExitStack() as stack:
        address = stack.enter_context(redis_server(folder / "redis"))
        world.fill(address)
        servers = {}
        for name in ("naive", "feast_sdk", "empty"):
            if name in only:
                servers[name] = stack.enter_context(_other(name, folder, address))
        if {"ours", "route"} & set(only):
            ours = stack.enter_context(our_server(folder, address))
            servers |= {name: ours for name in ("ours", "route") if name in only}
        _agree(world, servers)
        yield Bed(shape, world, servers, bundle)


def _agree(world: World, servers: dict[str, tuple[int, int]]) -> None:
    """Ends the program where one server answers otherwise: then it would be no comparison."""
    body = world.requests(100, 1, seed=5)[0]
    asked = {name: port for name, (_, port) in servers.items() if name != "empty"}
    said = {n: predictions(Client(port).ask(as_post(body, content_type=_type(n)))) for n, port in asked.items()}
    first = next(iter(said.values()), [])
    for name, found in said.items():
        far = np.abs(np.array([p["ctr"] for p in found]) - np.array([p["ctr"] for p in first])).max()
        if far > 1e-5:  # the pyfunc's probabilities are of single precision
            raise SystemExit(f"{name} answers otherwise than {next(iter(said))}, by up to {far}")


@contextmanager
def _other(name: str, folder: Path, address: str) -> Iterator[tuple[int, int]]:
    port = free_port()
    command = [sys.executable, "-m", "bench.serving_servers", name, str(folder), f"{folder}/contract.yaml", address, str(port)]
    env = _environment(folder, address)
    with subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=sys.stderr) as server:
        try:
            wait_for(port)
            yield server.pid, port
        finally:
            server.kill()


@contextmanager
def our_server(folder: Path, address: str) -> Iterator[tuple[int, int]]:
    """The server's process id and port; state and contract.yaml lie in the folder."""
    command = [sys.executable, "-m", "serving", "--port", "0"]
    with subprocess.Popen(command, env=_environment(folder, address), cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            said = server.stdout.readline() if server.stdout else ""
            if (found := re.search(r":(\d+).*ready", said)) is None:
                raise SystemExit(f"the server said {said!r}")
            yield server.pid, int(found[1])
        finally:
            server.terminate()


def _environment(folder: Path, address: str) -> dict[str, str]:
    settings = load_settings().model_copy(update={"state": folder, "contract": folder / "contract.yaml", "redis": address})
    return os.environ | environment(settings) | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _page(results: dict[str, Any]) -> str:
    parts = []
    for name, result in results.items():
        shape, cpu = SHAPES[name], result["cpu_us"]
        sizes = list(cpu)
        rows = "\n".join(
            f"| {title} | " + " | ".join(f"{cpu[size][server]:,.0f}" for size in sizes) + " |"
            for server, title in NAMES.items()
            if server in cpu[sizes[0]]
        )
        kinds = "with crosses" if shape.crosses else "without crosses"
        ridge = " and a ridge part" if shape.ridge else ""
        parts.append(
            f"### {shape.trees:,} trees of depth {shape.depth}{ridge}, {kinds}\n\n"
            f"| server CPU, us a request | {' | '.join(f'N = {size}' for size in sizes)} |\n|---|{'---|' * len(sizes)}\n{rows}\n"
        )
        if "mismatches" in result:
            wrong, compared = result["mismatches"], result["compared"]
            parts.append(f"{wrong} of {compared:,} answers of the hot route differ from the plain route's.\n")
        if "open_loop" in result:
            lines = "\n".join(
                f"| {one['rate']:,} | {one['failed']} | " + " | ".join(str(one.get(p)) for p in PERCENTILES) + " |"
                for one in result["open_loop"]
            )
            parts.append(f"| requests/s | failed | p50 ms | p90 | p99 | p99.9 |\n|---|---|---|---|---|---|\n{lines}\n")
            parts.append(f"The process holds {result['resident_mib']:,} MiB.\n")
    about = f"""## Serving

The same model, Redis and requests for every server, one process each, on {machine()}; `make bench-serving` made this section.
Closed loop over one connection, N candidates a request: CPU of the server's process, user and system, median of the rounds, in
which the servers take turns. Redis' own CPU and the client's stay out. Open loop: Poisson arrivals, latency from when a request
was due, client and Redis on the same machine. Nine of ten users and ads are known to Redis.
"""
    return about + "\n" + "\n".join(parts)



if __name__ == "__main__":
    sys.exit(main())
