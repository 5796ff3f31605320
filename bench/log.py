"""The jobs of the log on simulated logs of growing size: simulate, ingest, label, count, training set, each its own spark-submit.

Users grow with the log, so that keys and counters do too. Of every job: seconds, CPU seconds of the whole process tree, peak
memory, spill, bytes written, and the exponent of its time in the log's rows. Writes its section of docs/benchmarks.md; the last
line is JSON.

    make bench-log
    make bench-log ARGS='--impressions 1000000 30000000'
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import yaml

from bench.measure import cost, peak_mib
from bench.report import machine, write_section
from conf.contract import Contract
from conf.contract_file import load_contract
from conf.environment import environment
from conf.settings import CONF, ROOT, load_settings
from conf.tables import Tables

JOBS = ("ingest", "label", "count", "build_training_set")
_IMPRESSIONS_A_USER = 10
_DAYS = 14


@dataclass(frozen=True)
class Run:
    """One job on one log."""

    job: str
    impressions: int
    wall_s: float
    cpu_s: float
    peak_gb: float
    spilled_gb: float
    written_gb: float
    slowest_task: float

    @property
    def rows_per_s_core(self) -> float:
        return self.impressions / self.cpu_s


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = [1_000_000, 3_000_000, 10_000_000]
    parser.add_argument("--impressions", type=int, nargs="+", default=sizes, metavar="N", help="sizes, ascending (%(default)s)")
    parser.add_argument("--no-page", action="store_true", help="leave docs/benchmarks.md as it is")
    args = parser.parse_args()
    runs = [run for size in args.impressions for run in _runs(size)]
    smallest, largest = args.impressions[0], args.impressions[-1]
    at = {(run.job, run.impressions): run for run in runs}
    exponents = {
        job: round(math.log(at[job, largest].wall_s / at[job, smallest].wall_s) / math.log(largest / smallest), 2)
        for job in JOBS if largest > smallest
    }  # fmt: skip
    result = {
        "bench": "log",
        "exponent": exponents,
        "rows_per_s_core": {job: round(at[job, largest].rows_per_s_core) for job in JOBS},
        "peak_gb": max(run.peak_gb for run in runs),
        "runs": [asdict(run) for run in runs],
    }
    if not args.no_page:
        write_section("log", _page(runs, exponents))
    print(json.dumps(result))
    return 0


def _runs(impressions: int) -> list[Run]:
    """Every job on a log of one size, in a folder that goes away afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-log-") as name:
        folder = Path(name)
        contract = _contract(folder, impressions)
        settings = load_settings().model_copy(
            update={"state": folder / "state", "warehouse": str(folder / "warehouse"), "contract": folder / "contract.yaml"}
        )
        env = os.environ | environment(settings) | {"CLICKODDS_WAREHOUSE": str(settings.warehouse), "PYTHONPATH": str(ROOT)}
        size = ["--impressions", str(impressions), "--days", str(_DAYS)]
        _run("simulate", ["--out", str(folder / "log"), *size], impressions, folder, env, [folder / "log"])
        tables, runs = Tables(str(settings.warehouse), contract), []
        for job in JOBS:
            mine = [Path(tables.path(table)) for table, maker in tables.made_by.items() if maker == job]
            arguments = ["--data", str(folder / "log")] if job == "ingest" else []
            runs.append(_run(job, arguments, impressions, folder, env, mine))
        return runs


def _contract(folder: Path, impressions: int) -> Contract:
    """The demo's contract, with as many users as the log has impressions for."""
    raw = yaml.safe_load((CONF / "contracts" / "demo.yaml").read_text())
    most = max(raw["simulate"], key=lambda column: raw["simulate"][column]["values"])
    raw["simulate"][most]["values"] = max(1, impressions // _IMPRESSIONS_A_USER)
    (folder / "contract.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    return load_contract(folder / "contract.yaml")


def _run(job: str, arguments: list[str], impressions: int, folder: Path, env: dict[str, str], writes: list[Path]) -> Run:
    """Run one job; ends the program, with what the job said last, where it fails."""
    events = folder / "events" / job
    events.mkdir(parents=True)
    told = {"spark.eventLog.enabled": "true", "spark.eventLog.dir": events.as_uri(), "spark.eventLog.compress": "false",
            "spark.eventLog.rolling.enabled": "false", "spark.local.dir": str(folder / "spark")}  # fmt: skip
    settings = [word for name, value in told.items() for word in ("--conf", f"{name}={value}")]
    command = ["spark-submit", *settings, f"jobs/{job}.py", *arguments]
    with cost() as spent, (folder / f"{job}.log").open("wb") as said:
        run = subprocess.Popen(command, env=env, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT)
        with peak_mib(run.pid) as peak:
            code = run.wait()
    if code:
        raise SystemExit(f"{job}: exit code {code}\n{(folder / f'{job}.log').read_text()[-3_000:]}")
    written = sum(path.stat().st_size for root in writes for path in root.rglob("*") if path.is_file())
    spilled_gb, slowest = _tasks(events)
    figures = (spent.wall_s, spent.cpu_s, peak[0] / 1024, spilled_gb, written / 2**30, slowest)
    done = Run(job, impressions, *[round(figure, 2) for figure in figures])
    print(done, file=sys.stderr, flush=True)
    return done


def _tasks(events: Path) -> tuple[float, float]:
    """By Spark's event log: GiB that tasks spilled; of the stage that took longest, the slowest task over the median one."""
    spilled = 0
    seconds: dict[int, list[float]] = defaultdict(list)
    for path in events.iterdir():
        with path.open() as lines:
            for line in lines:
                if line.startswith('{"Event":"SparkListenerTaskEnd"'):
                    event = json.loads(line)
                    spilled += event.get("Task Metrics", {}).get("Disk Bytes Spilled", 0)
                    info = event["Task Info"]
                    seconds[event["Stage ID"]].append((info["Finish Time"] - info["Launch Time"]) / 1000)
    heaviest = max(seconds.values(), key=sum)
    return spilled / 2**30, max(heaviest) / median(heaviest)


def _page(runs: list[Run], exponents: dict[str, float]) -> str:
    lines = [
        f"| {run.job} | {run.impressions:,} | {run.wall_s:,.0f} | {run.cpu_s:,.0f} | {run.rows_per_s_core:,.0f} "
        f"| {run.peak_gb:.1f} | {run.spilled_gb:.2f} | {run.written_gb * 2**30 / run.impressions:,.0f} | {run.slowest_task:.1f} |"
        for job in JOBS for run in runs if run.job == job
    ]  # fmt: skip
    table = "\n".join(lines)
    growth = ", ".join(f"{job} {exponent:.2f}" for job, exponent in exponents.items())
    return f"""## The log's jobs

Simulated logs of {_DAYS} days by the demo's contract, with a user for every {_IMPRESSIONS_A_USER} impressions. `make bench-log`
made this section, on {machine()}; every job is a `spark-submit` of its own, its start included.

| job | impressions | wall s | CPU s | impressions / CPU s | peak GiB | spilled GiB | bytes written / impression | slowest task |
|---|---|---|---|---|---|---|---|---|
{table}

Exponent of wall time in impressions, smallest to largest: {growth or "one size only"}. Peak: the largest sum of PSS of the job's
process tree, Python workers included. Slowest task: over the median one, in the stage whose tasks took longest together; one ad
has 13 % of the log.
"""


if __name__ == "__main__":
    sys.exit(main())
