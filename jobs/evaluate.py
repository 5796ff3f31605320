"""Judge the recipe on later days only: train to day d, score day d + 1, roll on. Writes a page, kept in MLflow too.

Every figure has a 95 % interval by users drawn again; those by slice or day allow for their number (Bonferroni). For each day:
NE, logloss, AUC, gAUC by user, average precision, calibration ratio, ECE, lift. Over all days: calibration by slice. By age: what
a model is worth days after its training ended. On the last day: what each group of features is worth and costs, what fewer rows
would have cost, and how true the answers are with each key withheld. With `--truth FOLDER` (of a simulated log): against the true
probabilities. Exit code 65: no training set, or no day that can be judged.

Cost: for each day one training as jobs/train.py's judged one and three passes over the later rows; one fit for each group of
features.

    spark-submit jobs/evaluate.py --contract conf/contracts/demo.yaml --days 5
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from jobs.command import Context, job_parser, log, run_job
from models.evaluation_page import page
from models.progressive import evaluate_days
from models.tracking import Registry

JSON, HTML, MARKDOWN = "evaluation.json", "evaluation.html", "evaluation.md"


def evaluate(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Write and keep the evaluation; counts of days, rows and clicks. Raises DataError, see the module."""
    contract, settings = context.contract, context.settings
    warehouse = context.warehouse
    version, rows = warehouse.pinned("training_set")
    parts = warehouse.spark.read.option("pathGlobFilter", "*.parquet")  # jobs/simulate.py puts its books beside them
    truth = parts.parquet(args.truth).select("impression_id", "probability") if args.truth else None
    found = evaluate_days(rows, contract, settings.train, days=args.days, truth=truth)
    found |= {"training_set": version, "contract": contract.name, "contract_hash": contract.hash}
    folder = settings.state / "evaluation" / contract.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JSON).write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for name, text in zip((HTML, MARKDOWN), page(found), strict=True):
        (folder / name).write_text(text, encoding="utf-8")
    registry = Registry.of(settings, contract)
    registry.keep(folder, "evaluation", {f"{day['until'][:10]} NE": day["ne"][0] for day in found["days"]})
    log.info("evaluate: see %s", folder / HTML)
    overall = found["overall"]
    log.info("evaluate: NE %.4f, calibration ratio %.3f [%.3f, %.3f]", *overall["ne"][:1], *overall["calibration_ratio"])
    return {"days": len(found["days"]), "rows": overall["rows"], "clicks": overall["clicks"]}


def parser() -> argparse.ArgumentParser:
    made = job_parser(__doc__)
    made.add_argument("--days", type=int, default=5, metavar="N", help="the last days to judge; default: %(default)s")
    made.add_argument("--truth", metavar="FOLDER", type=_folder, help="truth/ of a simulated log")
    return made


def _folder(text: str) -> str:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text}: no such folder, expected truth/ of a log that jobs/simulate.py wrote")
    return text


if __name__ == "__main__":
    sys.exit(run_job("evaluate", evaluate, parser()))
