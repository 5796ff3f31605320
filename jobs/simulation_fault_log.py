"""Writes a fault run's files, its truth, and the books: what must be counted in them, told from the draws alone."""

import gzip
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.contract import Contract
from jobs.landing import TRUTH, Landing, file_name
from jobs.reading import REST_UNREADABLE
from jobs.simulation import Faults, Plan, Transform, microseconds
from jobs.simulation_bad_rows import reasons
from jobs.simulation_faults import (
    FATES,
    MIN_FILES,
    clicks_of,
    delivered_lines,
    good_lines,
    second_lines,
    with_deliveries,
    with_fault_clicks,
)
from jobs.simulation_rows import column_value, has_header, impression_id, logs

FAULTS_CTR = 0.2  # so that a short log has clicks of every fate
CLICKS = f"{TRUTH}/clicks"
EVENTS_A_FILE, MAX_FILES = 20_000, 512
_IN_THE_CUT_FILE = 2_000


def write_fault_log(
    landing: Landing, drawn: DataFrame, contract: Contract, plan: Plan, faults: Faults, *, base: float
) -> dict[str, dict[str, Any]]:
    """Write both logs and the truth; the books of each log, and of labels.

    Beside the shuffled files come one with nothing in it, an empty one, and where names end in .gz one cut in half. Files named
    -again- hold what was sent once more and known later: they are meant to be read with the others or after them.
    """
    events = drawn.transform(with_fault_clicks(contract, plan, faults, base=base)).persist(StorageLevel.MEMORY_AND_DISK)
    rows = {"impressions": events, "clicks": events.transform(clicks_of)}
    books: dict[str, dict[str, Any]] = {}
    for log, kind in logs(contract).items():
        zipped = file_name(kind.files, "").endswith(".gz")
        own = rows[log].transform(with_deliveries(contract, plan, faults, log))
        number = max(MIN_FILES, min(plan.impressions // EVENTS_A_FILE, MAX_FILES))
        landing.write_text(own.transform(delivered_lines(contract, plan, log, files=number)), kind.files, "")
        if plan.duplicates:
            landing.write_text(own.transform(second_lines(contract, plan, log)), kind.files, "again-")
        landing.write_bytes(b"", file_name(kind.files, "empty"))
        # first by name, so that no reader may take its columns for the log's
        landing.write_bytes(gzip.compress(b"", mtime=0) if zipped else b"\n", file_name(kind.files, "000-nothing"))
        found = own.agg(F.count("*").alias("events"), F.sum("copies").alias("copies"), F.count_if("again").alias("again"))
        counted = found.collect()[0]
        bad = {int(row["bad"]): int(row["count"]) for row in own.where("bad > 0").groupBy("bad").count().collect()}
        refused = reasons(contract, log, kind, bad)
        duplicates = int(counted["copies"]) - int(counted["events"]) + int(counted["again"])
        if zipped:
            first = own.where(F.col("id") < F.lit(_IN_THE_CUT_FILE)).transform(good_lines(contract, log))
            landing.write_text(first, kind.files, "cut-")
            duplicates += landing.cut_gzip(file_name(kind.files, "cut-00000")) - int(has_header(kind))
            refused[REST_UNREADABLE] = 1
        books[log] = {
            "rows": int(counted["events"]) + duplicates + sum(refused.values()), "events": int(counted["events"]),
            "duplicates": duplicates, "corrupt": sum(refused.values()), "refused": refused,
        }  # fmt: skip
    landing.write_parquet(events.transform(_impressions_truth(contract)), TRUTH)
    landing.write_parquet(rows["clicks"].transform(_clicks_truth(contract)), CLICKS)
    fates = {row["fate"]: int(row["count"]) for row in rows["clicks"].groupBy("fate").count().collect()}
    late = fates.get("after", 0) + fates.get("late", 0)
    books["clicks"] |= {"fates": {name: fates.get(name, 0) for name in FATES}, "late": late}
    books["labels"] = _labels(events, rows["clicks"], contract)
    events.unpersist()
    return books


def _labels(events: DataFrame, clicks: DataFrame, contract: Contract) -> dict[str, int]:
    """How many impressions are mature at the log's newest known time, and how many of those have a click that counts."""
    known = events.select("known_us").union(clicks.select("click_known_us")).agg(F.max("known_us")).collect()[0][0]
    waited = microseconds(contract.label.attribution_window) + microseconds(contract.label.allowed_lateness)
    mature = events.where(F.col("event_us") + F.lit(waited) <= F.lit(known))
    found = mature.agg(F.count("*").alias("mature"), F.count("counted_us").alias("clicked")).collect()[0]
    return {"as_of_us": int(known), "mature": int(found["mature"]), "clicked": int(found["clicked"])}


def _impressions_truth(contract: Contract) -> Transform:
    """An impression's id and times, what its columns say, and from when on its click counts."""
    times = {"event_timestamp": "event_us", "known_timestamp": "known_us", "counted_timestamp": "counted_us"}
    values = [column_value(contract, name).alias(name) for name in contract.columns]
    moments = [F.timestamp_micros(column).alias(name) for name, column in times.items()]
    return lambda events: events.select(impression_id(contract).alias("impression_id"), *moments, *values)


def _clicks_truth(contract: Contract) -> Transform:
    times = {"click_timestamp": "click_us", "known_timestamp": "click_known_us"}
    moments = [F.timestamp_micros(column).alias(name) for name, column in times.items()]
    return lambda clicks: clicks.select(impression_id(contract).alias("impression_id"), *moments, "fate")
