"""Write a click log whose true probabilities are known, for any contract that has a section `simulate`.

Beside the log's files comes a folder truth/: Parquet with each impression's true probability and whether it was clicked in time,
and books.json with exact counts. The same arguments write the same bytes of log and the same values of truth, on any number of
machines. A finished folder is left as it is; one made with other arguments is refused (65).

Cost: one pass to draw the events, which are kept in memory or on disk, about 150 bytes each, and one to write each kind of file.

With --faults the log is one that has seen every fault: each event is delivered up to --copies times over shuffled files, clicks
come of every kind and by a clock of their own, bad rows are of ten kinds, some files are empty and one is cut off. books.json
then says exactly what ingest and label must count, and truth/ holds all that the counters follow from.

    spark-submit jobs/simulate.py --out ../simulated --impressions 1000000 --days 30 --seed 7
    spark-submit jobs/simulate.py --out ../faulty --faults --copies 3 --late 5% --known-late 1% --skew 5 --corrupt 1%
"""

import argparse
import sys
from collections.abc import Mapping
from datetime import date
from fnmatch import fnmatchcase
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.contract import Contract
from conf.errors import DataError
from jobs.command import Context, job_parser, log, run_job
from jobs.landing import TRUTH, Landing, file_name
from jobs.simulation import Faults, Plan, base_log_odds, with_clicks, with_log_odds, with_ranks, with_times
from jobs.simulation_fault_log import FAULTS_CTR, write_fault_log
from jobs.simulation_faults import check_faults
from jobs.simulation_rows import check_simulatable, impression_id, lines, logs, with_faults

BOOKS = f"{TRUTH}/books.json"  # written last: a folder that has it is finished
EVENTS_A_FILE, MAX_FILES = 50_000, 512
BINS_A_UNIT = 50  # of log odds

Books = dict[str, dict[str, Any]]


def simulate(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Write the log; counts of the books."""
    faults = Faults(args.copies, args.known_late, args.skew) if args.faults else None
    plan = Plan(**{name: getattr(args, name) for name in Plan.__dataclass_fields__ if name != "faults"}, faults=faults)
    return write_log(context.warehouse.spark, context.contract, plan, args.out)


def write_log(spark: SparkSession, contract: Contract, plan: Plan, out: str) -> dict[str, int]:
    """Write a simulated log into a new or empty folder; counts of rows. Raises DataError where there is something else."""
    check_simulatable(contract, plan)
    if plan.faults is not None:
        check_faults(contract, plan.faults)
    patterns = {name: files.files for name, files in logs(contract).items()}
    _check_patterns(patterns)
    asked = plan.to_dict() | {"contract": contract.name, "simulate": contract.model_dump(mode="json")["simulate"]}
    landing = Landing(spark, out)
    if (books := landing.read_json(BOOKS)) is not None:
        if books["asked"] != asked:
            differing = ", ".join(f"{k} {books['asked'].get(k)}" for k in asked if books["asked"].get(k) != asked[k])
            raise DataError(f"{out}: holds a log simulated with {differing}: choose another --out, or remove the folder")
        log.info("simulate: %s is finished, left as it is", out)
        landing.end()
        return _counts(books)

    landing.begin((*patterns.values(), TRUTH))
    drawn = drawn_events(spark, contract, plan).persist()
    if plan.faults is not None:
        base = base_log_odds(_histogram(drawn), bins_a_unit=BINS_A_UNIT, ctr=FAULTS_CTR)
        books = {"asked": asked, **write_fault_log(landing, drawn, contract, plan, plan.faults, base=base)}
    else:
        base = base_log_odds(_histogram(drawn), bins_a_unit=BINS_A_UNIT)
        books = {"asked": asked, **_write_plain_log(landing, drawn, contract, plan, base=base)}
    drawn.unpersist()
    landing.write_json(books, BOOKS)
    landing.end()
    return _counts(books)


def _write_plain_log(landing: Landing, drawn: DataFrame, contract: Contract, plan: Plan, *, base: float) -> Books:
    events = drawn.transform(with_clicks(contract, plan, base=base)).transform(with_faults(plan))
    for name, files in logs(contract).items():
        landing.write_text(events.transform(lines(contract, plan, name, again=False)), files.files, "")
        if plan.duplicates:
            landing.write_text(events.transform(lines(contract, plan, name, again=True)), files.files, "again-")
    truth = (impression_id(contract).alias("impression_id"), F.timestamp_micros("event_us").alias("event_timestamp"))
    landing.write_parquet(events.select(*truth, "probability", "clicked", "late"), TRUTH)
    return _books(events, contract)


def drawn_events(spark: SparkSession, contract: Contract, plan: Plan) -> DataFrame:
    """One row for each impression: when, which values, which log odds but for their level."""
    # by the size of the log alone: the machine's number of cores must not settle which row stands in which file
    files = max(1, min(plan.impressions // EVENTS_A_FILE, MAX_FILES))
    ids = spark.range(0, plan.impressions, 1, files)
    return ids.transform(with_times(plan)).transform(with_ranks(contract, plan)).transform(with_log_odds(contract, plan))


def _histogram(drawn: DataFrame) -> dict[int, int]:
    counted = drawn.groupBy(F.floor(F.col("log_odds") * BINS_A_UNIT).alias("bin")).count()
    return {int(row["bin"]): int(row["count"]) for row in counted.collect()}  # some hundred rows, however long the log


def _books(events: DataFrame, contract: Contract) -> Books:
    clicked = F.col("click_us").isNotNull()
    flags = {"again": F.col("again"), "bad": F.col("bad"), "clicks": clicked, "late": F.col("late")}
    flags |= {"click_again": F.col("click_again"), "click_bad": F.col("click_bad")}
    sums = [F.count_if(flag).alias(name) for name, flag in flags.items()]
    found = events.agg(F.count("*").alias("events"), *sums, F.avg("probability").alias("probability")).collect()[0].asDict()
    own_log = contract.clicks.log is not None
    again, bad = (found["click_again"], found["click_bad"]) if own_log else (0, 0)
    return {
        "impressions": {
            "rows": found["events"] + found["again"] + found["bad"],
            "events": found["events"], "duplicates": found["again"], "corrupt": found["bad"],
        },
        "clicks": {
            "rows": found["clicks"] + again + bad if own_log else 0,
            "events": found["clicks"], "late": found["late"], "duplicates": again, "corrupt": bad,
        },
        "truth": {"probability": found["probability"]},
    }  # fmt: skip


def _counts(books: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    impressions, clicks = books["impressions"], books["clicks"]
    said = {"impressions": impressions["events"], "clicks": clicks["events"], "late clicks": clicks["late"]}
    return said | {what: impressions[what] + clicks[what] for what in ("duplicates", "corrupt")}


def _check_patterns(patterns: Mapping[str, str]) -> None:
    """No file of one log, and none of the truth, may be taken for one of another."""
    for name, pattern in patterns.items():
        made = {other: file_name(p, tag) for other, p in patterns.items() if other != name for tag in ("00000", "again-00000")}
        for theirs in [*made.values(), "part-00000.parquet", "books.json"]:
            if fnmatchcase(theirs, pattern):
                raise DataError(f"{name}.files: found {pattern}, which matches {theirs} too, expected a pattern of its own")


def _share(text: str) -> float:
    value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    if not 0 <= value <= 1:
        raise ValueError(text)
    return value


def _natural(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError(text)
    return value


def _whole(text: str) -> int:
    if (value := int(text)) < 0:
        raise ValueError(text)
    return value


_whole.__name__ = "whole number from 0"
_share.__name__, _natural.__name__ = "share in [0, 1]", "whole number from 1"  # argparse puts them into its messages


def parser() -> argparse.ArgumentParser:
    parser, default = job_parser(__doc__), Plan()
    add = parser.add_argument
    add("--out", required=True, metavar="FOLDER", help="a new or empty folder")
    add("--impressions", type=_natural, default=default.impressions, metavar="N", help="default: %(default)s")
    add("--days", type=_natural, default=default.days, metavar="D", help="default: %(default)s")
    add("--start", type=date.fromisoformat, default=default.start, metavar="DATE", help="first day, UTC; default: %(default)s")
    add("--seed", type=int, default=default.seed, metavar="S", help="default: %(default)s")
    shares = {"duplicates": "rows delivered twice", "late": "clicks that come too late", "corrupt": "extra bad rows"}
    for name, what in shares.items():
        add(f"--{name}", type=_share, default=getattr(default, name), metavar="SHARE", help=f"{what}; default: %(default)s")
    add("--latent", type=float, default=default.latent, metavar="SD", help="noise in the log odds; default: %(default)s")
    faults = parser.add_argument_group("a log with faults, whose books say what must be counted")
    add, of = faults.add_argument, Faults()
    add("--faults", action="store_true", help="write one; --late is then the share of clicks after the window, and these hold:")
    add("--copies", type=_natural, default=of.copies, metavar="N", help="deliveries of an event, 1 to 3; default: %(default)s")
    text = "share of clicks in the window that become known after the lateness; default: %(default)s"
    add("--known-late", type=_share, default=of.known_late, metavar="SHARE", help=text)
    text = "between the clocks of clicks and impressions, at most, either way; default: %(default)s"
    add("--skew", type=_whole, default=of.skew, metavar="MINUTES", help=text)
    return parser


if __name__ == "__main__":
    sys.exit(run_job("simulate", simulate, parser()))
