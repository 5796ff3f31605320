"""What bench/serving.py writes into docs/benchmarks.md."""

from typing import Any

from bench.report import machine
from bench.serving_load import PERCENTILES
from bench.serving_world import ADS, SHAPES

NAMES = {
    "naive": "FastAPI + Feast SDK + pandas + mlflow pyfunc",
    "feast_sdk": "FastAPI + Feast SDK used well + Booster",
    "ours": "ours",
    "route": "ours, plain route",
    "empty": "an empty FastAPI route",
}

# connections that ask at the same time -> where a result has the CPU of it
CPU = {1: "cpu_us", 8: "cpu_us_of_8_connections"}


def page(results: dict[str, Any]) -> str:
    """The section. results: shape -> what was measured."""
    about = f"""## Serving

The same model, Redis and requests for every server, one process each, on {machine()}; `make bench-serving` made this section.
Closed loop, N candidates a request: CPU of the server's process, user and system, all threads, median of the rounds, in which the
servers take turns; over one connection, and over eight that ask at the same time, as an exchange does: then one look of the loop
finds several requests, and caches stay warm. Redis' own CPU and the client's stay out. Open loop: Poisson arrivals, latency from
when a request was due, 100 candidates, client and Redis on the same machine. Nine of ten users and ads are known to Redis.
Requests a second a core: 1,000,000 / CPU.
"""
    return about + "\n" + "\n".join(part for name, result in results.items() for part in _of_shape(name, result))


def _of_shape(name: str, result: dict[str, Any]) -> list[str]:
    shape = SHAPES[name]
    kinds = "with crosses" if shape.crosses else "without crosses"
    ridge = " and a ridge part" if shape.ridge else ""
    parts = [f"### {shape.trees:,} trees of depth {shape.depth}{ridge}, {kinds}\n"]
    parts += [_cpu(connections, result[where]) for connections, where in CPU.items() if where in result]
    if "mismatches" in result:
        wrong, compared = result["mismatches"], result["compared"]
        parts.append(f"{wrong} of {compared:,} answers of the hot route differ from the plain route's, which asks the Booster.\n")
    if "start_s" in result:
        parts.append(
            f"Start to ready on one core, {ADS:,} ads in Redis, machine code compiled before: {result['start_s']} s. A worker "
            f"holds {result['worker_mib']:,} MiB; 10,000 ads more add {result['mib_per_10000_ads']} MiB.\n"
        )
    if "open_loop" in result:
        parts += _open_loop(result)
    return parts


def _cpu(connections: int, cpu: dict[str, dict[str, float]]) -> str:
    """cpu: size -> server -> microseconds."""
    sizes = list(cpu)
    servers = [server for server in NAMES if server in cpu[sizes[0]]]
    rows = [_row(NAMES[server], [f"{cpu[size][server]:,.0f}" for size in sizes]) for server in servers]
    if "ours" in servers:
        rows.append(_row("ours, requests a second a core", [f"{1e6 / cpu[size]['ours']:,.0f}" for size in sizes]))
        for server in servers:
            if server != "ours":
                ratios = [cpu[size][server] / cpu[size]["ours"] for size in sizes]
                rows.append(_row(f"{NAMES[server]} / ours", [f"{ratio:,.3g}" for ratio in ratios]))
    over = "1 connection" if connections == 1 else f"{connections} connections"
    head = f"| server CPU, us a request, {over} | {' | '.join(f'N = {size}' for size in sizes)} |\n|---|{'---|' * len(sizes)}"
    return f"{head}\n" + "\n".join(rows) + "\n"


def _open_loop(result: dict[str, Any]) -> list[str]:
    head = f"| requests/s | failed | {' | '.join(PERCENTILES)} (ms) |\n|---|---|{'---|' * len(PERCENTILES)}\n"
    rates, updates = result["open_loop"]["rates"], dict(result["open_loop"]["updates"])
    per_s = updates.pop("ads_per_s")
    table = "\n".join(_row(f"{one['rate']:,}", [str(one["failed"]), *(str(one.get(p)) for p in PERCENTILES)]) for one in rates)
    calm, updated = updates["calm"], updates["updated"]
    said = (
        f"At {calm['rate']:,} requests/s, while {per_s:,} ads a second are written to Redis: p50 {updated['p50']} ms, p99 "
        f"{updated['p99']} ms; calm, in turns with it: p50 {calm['p50']} ms, p99 {calm['p99']} ms (the better of two runs "
        "each).\n"
    )
    seen = result["seen_after_s"]
    shown = f"A change of an ad's counters in Redis is in replies after {seen['median']} s (median), {seen['longest']} s at most."
    return [head + table + "\n", said, shown + "\n"]


def _row(title: str, cells: list[str]) -> str:
    return f"| {title} | {' | '.join(cells)} |"
