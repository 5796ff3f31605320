"""Calibration on a simulated log, by progressive validation: days, slices, keys withheld, negatives kept at 1, 0.25 and 0.05.

Builds the tables of a log whose truth depends on nothing but what the model may see (latent share 0), from users who come often
enough for a week to tell their rates, then evaluates it as jobs/evaluate.py does. Writes its section of docs/model-quality.md;
the last line is JSON.

    make bench-calibration ARGS='--impressions 300000'
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.report import machine, write_section
from conf.contract import Contract, Sampling
from conf.contract_file import load_contract
from conf.personal import IdKey
from conf.settings import CONF, ROOT, load_settings
from conf.tables import Tables
from jobs.command import Context, say_on_stderr
from jobs.pipeline import STEPS
from jobs.sampling import sampled
from jobs.session import spark_session
from jobs.simulate import write_log
from jobs.simulation import Plan
from jobs.warehouse import Warehouse
from models.evaluation import LARGE, Quality
from models.progressive import evaluate_days

PAGE = ROOT / "docs" / "model-quality.md"
NEGATIVES = (1.0, 0.25, 0.05)
_STEPS = ("ingest", "label", "count", "build_training_set")
_USERS = 500  # of 300,000 impressions the demo's 8,000 have 19 each in a week, which tells little of their rates
_DAY, _SLICE = (0.98, 1.02), (0.9, 1.1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, default=300_000, help="%(default)s")
    parser.add_argument("--users", type=int, default=_USERS, help="%(default)s")
    parser.add_argument("--days", type=int, default=3, help="progressive days; %(default)s")
    parser.add_argument("--no-page", action="store_true", help="leave docs/model-quality.md as it is")
    args = parser.parse_args()
    say_on_stderr()
    contract = _with_users(load_contract(CONF / "contracts" / "demo.yaml"), args.users)
    result: dict[str, Any] = {"bench": "calibration", "impressions": args.impressions, "users": args.users, "days": args.days}
    with spark_session("bench") as spark, tempfile.TemporaryDirectory(prefix="bench-calibration-") as folder:
        log = f"{folder}/log"
        write_log(spark, contract, Plan(impressions=args.impressions, days=14, seed=3, latent=0.0), log)
        settings = load_settings().model_copy(update={"state": Path(folder), "warehouse": f"{folder}/warehouse"})
        key = IdKey(b"users are dealt to groups by this")  # the same ones on every run
        context = Context(settings, contract, Warehouse(spark, Tables(str(settings.warehouse), contract), key), key)
        for step in _STEPS:
            STEPS[step](context, argparse.Namespace(data=log, as_of=None))
        rows = context.warehouse.read("training_set").drop("weight")
        whole = rows.transform(sampled(Sampling()))
        truth = spark.read.parquet(f"{log}/truth/*.parquet").select("impression_id", "probability")
        for kept in NEGATIVES:
            sampling = Sampling(negatives=kept)
            kept_contract = contract.model_copy(update={"sampling": sampling})
            some = rows.transform(sampled(sampling)).persist()
            found = evaluate_days(
                some, kept_contract, settings.train, days=args.days, truth=truth, whole=whole, variants=False
            )  # fmt: skip
            some.unpersist()
            result[f"negatives {kept:g}"] = _summary(found)
            print(json.dumps(result[f"negatives {kept:g}"]), file=sys.stderr, flush=True)
    if not args.no_page:
        write_section("calibration", _page(result), page=PAGE)
    print(json.dumps(result))
    return 0


def _with_users(contract: Contract, users: int) -> Contract:
    """The contract with a simulated log of fewer users."""
    drawn = contract.simulate["user_id"].model_copy(update={"values": users})
    return contract.model_copy(update={"simulate": {**contract.simulate, "user_id": drawn}})


def _summary(found: Mapping[str, Any]) -> dict[str, Any]:
    every = [Quality(**of) for of in found["slices"]]
    large = [of for of in every if of.large(LARGE) and (of.slice, of.value) != ("all", "all")]
    off = [of for of in large if not of.calibrated(*_SLICE)]
    names = ("until", "rows", "clicks", "ne", "calibration_ratio", "over_truth")
    days = [{name: day[name] for name in names} | {"true": _true(day["calibration_ratio"], _DAY)} for day in found["days"]]
    return {
        "days": days,
        "overall": {name: found["overall"][name] for name in ("rows", "clicks", "ne", "calibration_ratio", "over_truth")},
        "ne_of_truth": found["overall"]["ne_of_truth"],
        "slices": len(large),
        "off": [f"{of.slice} {of.value}: {of.ratio:.3f}" for of in off],
        "withheld": {of["key"]: of["calibration_ratio"] for of in found["withheld"]},
    }


def _true(ratio: tuple[float, float, float], bounds: tuple[float, float]) -> bool:
    """Within the bounds, or of an interval that covers 1."""
    value, low, high = ratio
    return bounds[0] <= value <= bounds[1] or low <= 1 <= high


def _page(result: Mapping[str, Any]) -> str:
    sections = []
    for name, found in result.items():
        if not name.startswith("negatives"):
            continue
        days = "\n".join(
            f"| {day['until'][:10]} | {day['clicks']:,} | {day['ne'][0]:.4f} | {_span(day['calibration_ratio'])} "
            f"| {_span(day['over_truth'])} |"
            for day in found["days"]
        )
        keys = "\n".join(f"| {key} | {_span(ratio)} |" for key, ratio in found["withheld"].items())
        off, every = ", ".join(found["off"]) or "none", found["overall"]
        sections.append(f"""### {name.capitalize()}

Slices of {LARGE} clicks and more: {found["slices"]}; beyond {_SLICE[0]} to {_SLICE[1]}, their interval leaving out 1: {off}.

| day | clicks | NE | calibration ratio | logloss over the truth's |
|---|---|---|---|---|
{days}
| together | {every["clicks"]:,} | {every["ne"][0]:.4f} | {_span(every["calibration_ratio"])} | {_span(every["over_truth"])} |

| key withheld, last day | calibration ratio |
|---|---|
{keys}
""")
    asked = " ".join(f"--{name} {result[name]}" for name in ("impressions", "users", "days"))
    return f"""## Calibration on a simulated log

`make bench-calibration ARGS='{asked}'` made this section, on {machine()}. Simulated, contract demo
with {result["users"]:,} users, 14 days, latent share 0: the true probabilities depend on columns of the row alone. Progressive
days; "negatives" is the share of rows without a click that is trained on; a day is judged by all of its rows. Intervals are of
95 %: of a day for the number of days, of a withheld key for the number of keys.

""" + "\n".join(sections)


def _span(figure: tuple[float, float, float]) -> str:
    value, low, high = figure
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    sys.exit(main())
