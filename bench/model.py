"""Ours against baselines on a log's last day: same rows, nothing set by hand for any log. Intervals by users drawn again.

Builds the tables of each log first. Writes docs/model-quality.md; the last line is JSON.

    make bench-model
    make bench-model CONTRACT=mine.yaml DATA=../landing
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import SparkSession

from bench.report import machine, write_section
from conf.contract import Contract
from conf.contract_file import load_contract
from conf.personal import load_id_key
from conf.settings import CONF, ROOT, load_settings
from conf.tables import Tables
from feature_repo.catalogue import EVENT_TIMESTAMP
from jobs.command import Context
from jobs.pipeline import STEPS
from jobs.session import spark_session
from jobs.simulate import write_log
from jobs.simulation import Plan
from jobs.warehouse import Warehouse
from models.baselines import Rows
from models.comparison import compare
from models.intervals import GROUPS
from models.split import utc
from models.training import Training, train_bundle

PAGE = ROOT / "docs" / "model-quality.md"
_DAY_US = 86_400_000_000
_STEPS = ("ingest", "label", "count", "build_training_set")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contract", help="of a log of your own (default: the simulated one and the two shared logs)")
    parser.add_argument("--data", help="the folder with its files")
    parser.add_argument("--impressions", type=int, default=100_000, help="of the simulated log (%(default)s)")
    parser.add_argument("--no-page", action="store_true", help="leave docs/model-quality.md as it is")
    args = parser.parse_args()
    if (args.contract is None) != (args.data is None):
        parser.error("--contract and --data go together")
    result: dict[str, Any] = {"bench": "model"}
    with spark_session("bench") as spark, tempfile.TemporaryDirectory(prefix="bench-model-") as folder:
        for contract, data in _logs(args, spark, Path(folder)):
            result[contract.name] = _log(spark, contract, data, Path(folder) / contract.name)
            print(contract.name, json.dumps(result[contract.name]), file=sys.stderr, flush=True)
    if not args.no_page:
        write_section("model", _page(result), page=PAGE)
    print(json.dumps(result))
    return 0


def _logs(args: argparse.Namespace, spark: SparkSession, folder: Path) -> list[tuple[Contract, Path]]:
    if args.contract:
        return [(load_contract(args.contract), Path(args.data))]
    demo = load_contract(CONF / "contracts" / "demo.yaml")
    shared = Path(os.environ.get("CLICKODDS_REAL_LOGS", ROOT.parent / "shared/data"))
    write_log(spark, demo, Plan(impressions=args.impressions, days=14, seed=1), str(folder / "log"))
    real = [load_contract(CONF / "contracts" / f"{name}.yaml") for name in ("amexpert", "talkingdata")]
    return [(demo, folder / "log"), *((contract, shared / contract.name) for contract in real)]


def _log(spark: SparkSession, contract: Contract, data: Path, state: Path) -> dict[str, Any]:
    """Figures of one log's last day."""
    settings = load_settings().model_copy(update={"state": state, "warehouse": str(state / "warehouse")})
    state.mkdir(parents=True)
    key = load_id_key(settings, create=True)
    context = Context(settings, contract, Warehouse(spark, Tables(str(settings.warehouse), contract), key), key)
    for step in _STEPS:
        STEPS[step](context, argparse.Namespace(data=str(data), as_of=None))
    rows = context.warehouse.read("training_set")
    table = rows.toArrow().sort_by("impression_id")
    micros = np.asarray(table[EVENT_TIMESTAMP].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()))
    made = train_bundle(rows, contract, settings.train, key.fingerprint, test_from=utc(_last_day(micros)))
    return _figures(made, table, contract)


def _last_day(micros: npt.NDArray[np.int64]) -> int:
    """The last midnight (UTC) with a hundredth of the rows after it."""
    days, counts = np.unique(micros // _DAY_US, return_counts=True)
    whole = days[counts >= len(micros) / 100]
    return int(whole[-1]) * _DAY_US


def _figures(made: Training, table: pa.Table, contract: Contract) -> dict[str, Any]:
    found = compare(made.judged, Rows.of(table, made.judged.fitted), made.split, contract)
    counts = {"train_rows": found.train_rows, "rows": found.rows, "clicks": found.clicks}
    how = made.choice
    chosen = {"preset": how.preset, "rounds": how.rounds, "ridge": how.ridge, "calibrator": how.calibrator.kind}
    day = utc(made.split.test.from_us).isoformat()
    return {"test": found.figures, "difference": found.difference, **counts, "chosen": chosen, "test_from": day}


def _page(result: Mapping[str, Any]) -> str:
    sections = []
    for log, found in result.items():
        if log == "bench":
            continue
        lines = []
        for name, f in found["test"].items():
            low, high = f["calibration_interval"]
            against = found["difference"].get(f"ours-{name}")
            beaten = "" if against is None else f"{against[0]:+.4f} to {against[1]:+.4f}"
            lines.append(
                f"| {name} | {f['logloss']:.5f} | {f['ne']:.4f} | {f['auc']:.4f} "
                f"| {f['calibration_ratio']:.3f} [{low:.3f}, {high:.3f}] | {beaten} |"
            )
        table, chosen = "\n".join(lines), ", ".join(f"{name} {value}" for name, value in found["chosen"].items())
        sections.append(f"""### {log}

Trained on {found["train_rows"]:,} rows, tested on the {found["rows"]:,} from {found["test_from"]} on, {found["clicks"]:,} of them
clicked. Chosen: {chosen}.

| answers | logloss | NE | AUC | calibration ratio | NE of ours less theirs |
|---|---|---|---|---|---|
{table}
""")
    return f"""## Against baselines

`make bench-model` made this section, on {machine()}. Every model is fitted on the rows before the test day and on nothing after.
NE is logloss over the constant's. Intervals are of 95 %, from {GROUPS} groups of users drawn again.

""" + "\n".join(sections)


if __name__ == "__main__":
    sys.exit(main())
