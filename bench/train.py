"""Our training against native `xgboost.train` on the same matrix, both from rows in memory to the model's bytes.

At one size ours with 1, 2 and 4 workers and native take turns, each run a process of its own; then ours alone on growing sizes.
Building the DMatrix counts on both sides. Writes its section of docs/benchmarks.md; the last line is JSON.

    make bench-train
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

import numpy as np

from bench.measure import peak_mib
from bench.report import machine, write_section
from bench.train_engines import FEATURES, PRESET
from conf.environment import environment
from conf.settings import ROOT, load_settings

_WORKERS = (1, 2, 4)


@dataclass(frozen=True)
class Run:
    """One training; of several alike, medians."""

    engine: str
    workers: int
    rows: int
    rounds: int
    wall_s: float
    cpu_s: float
    peak_mib: float
    logloss: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = [1_000_000, 3_000_000, 10_000_000]
    parser.add_argument("--rows", type=int, default=10**6, help="of the comparison, in 50,000s (%(default)s)")
    parser.add_argument("--rounds", type=int, default=100, help="of the comparison (%(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="of each, of which the median counts (%(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes, metavar="N", help="of the growth, ascending (%(default)s)")
    parser.add_argument("--growth-rounds", type=int, default=20, help="rounds at every size of the growth (%(default)s)")
    parser.add_argument("--no-page", action="store_true", help="leave docs/benchmarks.md as it is")
    args = parser.parse_args()
    engines = [("native", 1), *(("ours", workers) for workers in _WORKERS)]
    turns = [[_run(engine, args.rows, workers, args.rounds) for engine, workers in engines] for _ in range(args.runs)]
    compared = [_median(runs) for runs in zip(*turns, strict=True)]
    grown = [_run("ours", rows, 1, args.growth_rounds) for rows in args.sizes]
    native, ours = compared[0], compared[1]
    result = {
        "bench": "train",
        "wall_ratio": round(ours.wall_s / native.wall_s, 3),
        "cpu_ratio": round(ours.cpu_s / native.cpu_s, 3),
        "exponent": _exponent(grown, "cpu_s"),
        "exponent_wall": _exponent(grown, "wall_s"),
        "runs": [asdict(run) for run in (*compared, *grown)],
    }
    if not args.no_page:
        write_section("train", _page(compared, grown, args.runs))
    print(json.dumps(result))
    return 0


def _run(engine: str, rows: int, workers: int, rounds: int) -> Run:
    """One training in a process of its own; ends the program, with what was said last, where it fails."""
    command = [sys.executable, "-m", "bench.train_engines", engine, *map(str, (rows, workers, rounds))]
    env = os.environ | environment(load_settings()) | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        with peak_mib(run.pid) as peak:
            out, err = run.communicate()
    if run.returncode:
        raise SystemExit(f"{engine}: exit code {run.returncode}\n{err[-3_000:]}")
    done = Run(engine, workers, rows, rounds, peak_mib=round(peak[0]), **json.loads(out.splitlines()[-1]))
    print(done, file=sys.stderr, flush=True)
    return done


def _median(runs: Sequence[Run]) -> Run:
    figures = {name: median(getattr(run, name) for run in runs) for name in ("wall_s", "cpu_s", "peak_mib", "logloss")}
    return Run(**{**asdict(runs[0]), **figures})


def _exponent(runs: Sequence[Run], of: str) -> float | None:
    """Of time in rows: the slope of least squares through the logarithms. CPU seconds are steadier than wall time."""
    if len(runs) < 2:
        return None
    slope, _ = np.polyfit(np.log([run.rows for run in runs]), np.log([getattr(run, of) for run in runs]), 1)
    return round(float(slope), 3)


def _page(compared: Sequence[Run], grown: Sequence[Run], runs: int) -> str:
    native = compared[0]
    first = "\n".join(
        f"| {_named(run)} | {run.wall_s:.1f} | {run.wall_s / native.wall_s:.2f} | {run.cpu_s:.1f} "
        f"| {run.cpu_s / native.cpu_s:.2f} | {run.peak_mib:,.0f} | {run.logloss:.5f} |"
        for run in compared
    )
    second = "\n".join(f"| {run.rows:,} | {run.wall_s:.1f} | {run.cpu_s:.1f} | {run.peak_mib:,.0f} |" for run in grown)
    return f"""## Training

{native.rows:,} rows x {FEATURES} features, {native.rounds} rounds of the preset `{PRESET}`, from rows in memory to the model's
bytes: ours from Spark's cache through the workers' stage, native from NumPy, both through a QuantileDMatrix, which counts.
`make bench-train` made this section, on {machine()}. Each run is a process of its own; they take turns, {runs} of each, and the
medians stand here. CPU seconds are those of the whole process tree, JVM and Python workers included; peak memory is the largest
sum of PSS from start to end.

| engine | wall s | of native | CPU s | of native | peak MiB | logloss |
|---|---|---|---|---|---|---|
{first}

Ours with one worker of 2 threads, {grown[0].rounds} rounds at every size, one run each; exponents in rows (least squares
through the logarithms): {_exponent(grown, "cpu_s") or "one size only"} of CPU seconds, {_exponent(grown, "wall_s") or "none"} of
wall time.

| rows | wall s | CPU s | peak MiB |
|---|---|---|---|
{second}
"""


def _named(run: Run) -> str:
    threads = "2 threads" if run.workers == 1 else "1 thread each"
    return f"native `xgboost.train`, {threads}" if run.engine == "native" else f"ours, workers: {run.workers}, {threads}"


if __name__ == "__main__":
    sys.exit(main())
