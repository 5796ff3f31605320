"""The as-of join against Feast's Spark store and DuckDB's ASOF JOIN: same files, same machine, one after the other.

Every engine runs in a process of its own, warms up and is measured after that. Each result is compared to the last value
with a plain bisection. Writes its section of docs/benchmarks.md; the last line is JSON.

    make bench-asof
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from bench.asof_engines import WARM_UPS
from bench.asof_oracle import expected, is_right
from bench.measure import peak_mib
from bench.report import machine, write_section
from conf.environment import environment
from conf.settings import ROOT, load_settings

FULL, FEW = "impressions", "few"
_FEAST_LIMIT_S = 1_500


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, default=1_000_000, help="of our join and DuckDB (%(default)s)")
    parser.add_argument("--feast-impressions", type=int, default=100_000, help="of Feast and our join (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="measured runs, of which the median counts (%(default)s)")
    parser.add_argument("--no-page", action="store_true", help="leave docs/benchmarks.md as it is")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-asof-") as name:
        folder = Path(name)
        _engine("data", folder, FULL, args.impressions, args.feast_impressions)
        rows = {
            **_measured("ours", folder, FULL, args.rounds),
            **_measured("duckdb", folder, FULL, args.rounds),
            **{f"{name}_few": cost for name, cost in _measured("ours", folder, FEW, args.rounds).items()},
            **_measured("feast_spark", folder, FEW, 1),
        }
    result = {
        "bench": "asof", "impressions": args.impressions, "feast_impressions": args.feast_impressions, "rounds": args.rounds,
        **{what: {name: row[what] for name, row in rows.items()} for what in ("cpu_s", "wall_s", "peak_mib", "right")},
    }  # fmt: skip
    if not args.no_page:
        write_section("asof", _page(result))
    print(json.dumps(result))
    return 0 if all(result["right"].values()) else 1


def _measured(engine: str, folder: Path, impressions: str, rounds: int) -> dict[str, dict[str, Any]]:
    """Of each way that the engine was measured in: cpu_s, wall_s, peak_mib, right; None where it did not end in time."""
    said, peak = _engine(engine, folder, impressions, rounds)
    if said is None:
        return {engine: {"cpu_s": None, "wall_s": None, "peak_mib": peak, "right": None}}
    wanted = expected(folder, impressions)
    measured = {}
    for name, costs in json.loads(said).items():
        result = folder / impressions / f"result_{name}"
        measured[name] = {
            "cpu_s": round(median(cost["cpu_s"] for cost in costs), 2),
            "wall_s": round(median(cost["wall_s"] for cost in costs), 2),
            "peak_mib": peak,
            "right": is_right(result, wanted),
        }
    print(engine, impressions, measured, file=sys.stderr)
    return measured


def _engine(engine: str, folder: Path, impressions: str, *numbers: int) -> tuple[str | None, int]:
    """The engine's last line, None where it took too long, and the peak memory of its processes in MiB."""
    command = [sys.executable, "-m", "bench.asof_engines", engine, str(folder), impressions, *map(str, numbers)]
    env = os.environ | environment(load_settings()) | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        with peak_mib(run.pid) as peak:
            try:
                out, err = run.communicate(timeout=_FEAST_LIMIT_S)
            except subprocess.TimeoutExpired:
                run.kill()
                run.communicate()
                return None, round(peak[0])
    if run.returncode:
        raise SystemExit(f"{engine}: exit code {run.returncode}\n{err[-3_000:]}")
    return out.splitlines()[-1], round(peak[0])


def _page(result: dict[str, Any]) -> str:
    few, full = result["feast_impressions"], result["impressions"]
    lines = []
    for name, cpu_s in result["cpu_s"].items():
        count = few if name.endswith("_few") or name.startswith("feast") else full
        figures = [cpu_s, result["wall_s"][name], result["peak_mib"][name]]
        said = [f"{figure:,}" if figure is not None else "not ended" for figure in figures]
        right = {True: "yes", False: "no", None: "-"}[result["right"][name]]
        lines.append(f"| {_NAMES[name]} | {count:,} | {' | '.join(said)} | {right} |")
    table = "\n".join(lines)
    return f"""## As-of join

Impressions with three sparse hourly histories of 1.9, 0.5 and 0.06 million rows (user; ad and placement; ad), each of seven
integer columns, ttl 7 days. `make bench-asof` made this section, on {machine()}.
CPU seconds are those of the whole process tree; peak memory is the largest sum of PSS from start to end, warm-up and checks of
the engine included.

| engine | impressions | CPU s | wall s | peak MiB | right |
|---|---|---|---|---|---|
{table}

{1 + WARM_UPS} runs warm up, the next {result["rounds"]} count (median; of Feast, the second run). "Unwritten" goes to Spark's
noop sink, DuckDB's into an Arrow table in memory, on 2 threads. Right: equal in every row and value to a bisection in plain
Python. Feast counts a row in that is as old as its ttl to the microsecond, and DuckDB knows no `created`; the rows have neither
case, so that the results can be equal.
"""


_NAMES = {
    "ours": "as_of_join, unwritten",
    "ours_written": "as_of_join, written as Delta",
    "duckdb": "DuckDB ASOF LEFT JOIN",
    "ours_few": "as_of_join, unwritten",
    "ours_written_few": "as_of_join, written as Delta",
    "feast_spark": "Feast, Spark store, unwritten",
}


if __name__ == "__main__":
    sys.exit(main())
