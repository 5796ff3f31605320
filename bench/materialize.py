"""Feast's engines and ours, from one Delta table into Redis: rows a second, CPU, memory, and whether they left the same bytes.

Every engine is a process of its own, which moves the table twice: cold, with everything from its start on, and warm. Ours is warm
in a second one, whose Spark session was there, as the hourly round's is. Redis runs beside, and its cost is not counted.
Writes its section of docs/benchmarks.md; the last line is JSON.

    make bench-materialize
    make bench-materialize ARGS='--keys 100000'
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import redis

from bench.materialize_processes import GIVING_WAY, HOURLY, said_by
from bench.materialize_serving import beside_serving
from bench.report import machine, write_section
from conf.redis_server import redis_server

ENGINES = {"feast_local": "Feast, local", "feast_spark": "Feast, spark.engine", "ours": "ours"}
FLOOR = "redis_floor"
SERVED = 1_000_000  # keys from which on a table is also moved beside a server under load


@dataclass(frozen=True)
class Run:
    """One engine on one table; `rows` moved, by keys or by an increment."""

    engine: str
    what: str
    rows: int
    cold_s: float
    cold_cpu_s: float
    warm_s: float
    warm_cpu_s: float
    peak_gb: float
    redis_mb: float
    digest: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = [100_000, 1_000_000]
    parser.add_argument("--keys", type=int, nargs="+", default=sizes, metavar="N", help="tables, ascending (%(default)s)")
    parser.add_argument("--ours-alone", type=int, metavar="N", help="one more table for our engine only, such as 10000000")
    parser.add_argument("--no-page", action="store_true", help="leave docs/benchmarks.md as it is")
    args = parser.parse_args()
    runs: list[Run] = []
    serving: dict[str, Any] = {}
    for keys in args.keys:
        with _table(keys) as folder:
            runs += _runs(keys, list(ENGINES), folder)
            if keys >= SERVED:
                serving = beside_serving(folder)
                print(serving, file=sys.stderr, flush=True)
    if args.ours_alone:
        with _table(args.ours_alone) as folder:
            runs += _runs(args.ours_alone, ["ours"], folder)
    result = _result(runs) | {"serving": serving}
    if not args.no_page:
        write_section("materialize", _page(runs, result))
    print(json.dumps(result))
    return 0 if result["dump_equal"] else 1


@contextmanager
def _table(keys: int) -> Iterator[Path]:
    """A folder with the table, which goes away afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-materialize-") as name:
        said_by("data", Path(name), "127.0.0.1:1", str(keys))
        yield Path(name)


def _runs(keys: int, engines: list[str], folder: Path) -> list[Run]:
    """Every engine on one table."""
    runs = [_run(engine, folder, "full", keys) for engine in engines]
    if len(engines) > 1:
        runs += [_run(engine, folder, "increment", keys // 100) for engine in ("feast_local", "ours")]
        runs.append(_run(FLOOR, folder, str(keys), keys))
    return runs


def _run(engine: str, folder: Path, what: str, rows: int) -> Run:
    with redis_server(folder / "redis" / engine / what) as address:
        host, _, port = address.rpartition(":")
        client: Any = redis.Redis(host=host, port=int(port))
        client.config_set("save", "")  # no snapshots beside a measurement
        said, peak = said_by("floor" if engine == FLOOR else engine, folder, address, what)
        if engine == "ours":
            client.flushall()
            hourly, more = said_by(HOURLY, folder, address, what)
            said, peak = said | {"warm": hourly["warm"]}, max(peak, more)
        memory = client.info("memory")
        client.flushall()
    cold, warm = said.get("cold", {"wall_s": 0.0, "cpu_s": 0.0}), said["warm"]
    figures = (cold["wall_s"], cold["cpu_s"], warm["wall_s"], warm["cpu_s"], round(peak / 1024, 2))
    run = Run(engine, what, rows, *figures, redis_mb=round(memory["used_memory"] / 2**20, 1), digest=said.get("digest", ""))
    print(run, file=sys.stderr, flush=True)
    return run


def _result(runs: list[Run]) -> dict[str, Any]:
    rates: dict[str, dict[str, int]] = {}
    for run in runs:
        if run.what == "increment":
            continue
        found = rates.setdefault(str(run.rows), {})
        found[run.engine] = round(run.rows / run.warm_s)
        if run.engine != FLOOR:
            found[f"{run.engine}_cold"] = round(run.rows / run.cold_s)
    full = [run for run in runs if run.what == "full"]
    increments = [run for run in runs if run.what == "increment"]
    digests = {rows: {run.digest for run in full if run.rows == rows} for rows in {run.rows for run in full}}
    return {
        "bench": "materialize",
        "rows_per_s": rates,
        "peak_gb": {engine: {str(run.rows): run.peak_gb for run in full if run.engine == engine} for engine in ENGINES},
        "cpu_s": {engine: {str(run.rows): run.warm_cpu_s for run in full if run.engine == engine} for engine in ENGINES},
        "increment_s": {f"{run.engine}_{run.rows}": {"cold": run.cold_s, "warm": run.warm_s} for run in increments},
        "dump_equal": all(len(found) == 1 for found in digests.values()),
        "runs": [asdict(run) for run in runs],
    }


def _page(runs: list[Run], result: dict[str, Any]) -> str:
    lines = []
    for run in runs:
        if run.engine == FLOOR:
            lines.append(f"| Redis alone | {run.rows:,} | | | {run.warm_s:.1f} | | {run.rows / run.warm_s:,.0f} | | |")
            continue
        what = f"{run.rows:,}" if run.what == "full" else f"{run.rows:,} of {100 * run.rows:,}"
        lines.append(
            f"| {ENGINES[run.engine]} | {what} | {run.cold_s:.1f} | {run.cold_cpu_s:.1f} | {run.warm_s:.1f} "
            f"| {run.warm_cpu_s:.1f} | {run.rows / run.warm_s:,.0f} | {run.peak_gb:.1f} | {run.redis_mb:,.0f} |"
        )
    table = "\n".join(lines)
    same = "The same bytes in Redis" if result["dump_equal"] else "NOT the same bytes in Redis"
    return f"""## Materialization

One view of ten features (four Int64, four Float64, two Float32, a twentieth null), a text key, 1.3 rows a key in a Delta table.
`make bench-materialize` made this section, on {machine()}, with {_server()}.

| engine | keys | cold s | cold CPU s | warm s | warm CPU s | warm keys / s | peak GiB | Redis MiB |
|---|---|---|---|---|---|---|---|---|
{table}

Cold: from the start of a process, imports and Spark's start included; warm: once more in that process, into an emptied Redis
(an increment: into the same); ours once more in a process whose Spark session was there before, as `jobs/hourly.py` has one.
CPU seconds and memory (largest sum of PSS) are of the process tree, JVM and Python workers included, without Redis.
"Redis alone" takes the commands that our workers send, made beforehand, on one connection that never
waits. Ours runs without its rate limit. {same} (DUMP of every key) at every size. Load average of the machine at
the end: {os.getloadavg()[0]:.1f}; above 3 others worked beside it, and wall times say little.
{_served(result["serving"]) if result["serving"] else ""}"""


def _server() -> str:
    """The Redis that is measured with."""
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as address:
        host, _, port = address.rpartition(":")
        client: Any = redis.Redis(host=host, port=int(port))
        server, memory = client.info("server"), client.info("memory")
    version = f"Valkey {server['valkey_version']}" if "valkey_version" in server else f"Redis {server['redis_version']}"
    return f"{version} on {memory['mem_allocator']}"


def _served(found: dict[str, Any]) -> str:
    calm, beside = found["calm"], found["beside"]
    rows = "\n".join(
        f"| {name} | {one['rate']:,} | {one['requests']:,} | {one['failed']} | {one['degraded']} | {one['p50']} | {one['p99']} |"
        for name, one in (("calm", calm), ("while rows are written", beside))
    )
    return f"""
One server at half of what its process can answer (100 candidates a request, open loop), and {SERVED:,} keys written into its
Redis at the default rate limit in {found["write_s"]:.0f} s, by a Spark that runs already, with `{" ".join(GIVING_WAY)}`:

| | requests/s | requests | failed | degraded | p50 ms | p99 ms |
|---|---|---|---|---|---|---|
{rows}
"""


if __name__ == "__main__":
    sys.exit(main())
