"""From the tables to the profile's JSON: runs the aggregates and joins their few rows. What each part means: docs/profile.md."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from math import ceil, log2
from typing import Any, cast

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from conf.contract import Contract
from conf.durations import format_duration, parse_duration
from conf.errors import DataError
from jobs import profile_aggregates as aggregates
from jobs.association import Association, Level, holm, of_categories, of_numbers
from jobs.attribution import log_time, newest_known
from jobs.command import Context

FORMAT = 1
BINS = 1500  # hours, or days, on one axis: a longer log is drawn by days, or by months
EXACT_VALUES = 1_000_000  # of a column that are told apart; of a column with more, those of a sample by hash
EXACT_NUMBERS = 1000  # values of a number that are told apart; more go together
TESTED, NAMED = 500, 8  # most frequent values of a column: with a level of their own in the test; by name on the page
FILES, REASONS = 40, 100
NUMBER_GROUPS = 10
WITHIN = [parse_duration(text) for text in
          "0s 1s 2s 5s 10s 20s 30s 1m 2m 5m 10m 20m 30m 1h 2h 3h 6h 12h 1d 2d 3d 7d 14d 30d".split()]  # fmt: skip


def events(context: Context, table: str) -> DataFrame:
    """The accepted events of `impressions` or `clicks`: every read of them goes through here."""
    return context.warehouse.read(table)


def report(context: Context, *, exact_values: int = EXACT_VALUES) -> dict[str, Any]:
    """The whole profile, JSON-ready: equal tables give an equal one. Raises DataError where no impression was accepted."""
    contract = context.contract
    impressions, clicks = events(context, "impressions"), events(context, "clicks")
    newest = newest_known(impressions, clicks)
    summary = impressions.transform(aggregates.summary(contract)).first()
    if newest is None or summary is None or not summary["rows"]:
        raise DataError("impressions: the table is empty, expected at least one impression")
    as_of = log_time(newest, contract.label)
    fates = clicks.transform(aggregates.click_fates(impressions, contract.label)).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        about = _about(contract, as_of, summary)
        volumes = _volumes(impressions, fates, about["unit"], contract.zone)
        columns = _columns(context, summary, about["unit"], exact_values)
        return about | _landing(context) | volumes | _clicks(fates, contract, as_of) | columns
    finally:
        fates.unpersist()


def _about(contract: Contract, as_of: datetime, summary: Row) -> dict[str, Any]:
    span, rule, clicks = summary["last_s"] - summary["first_s"], contract.label, contract.clicks
    mature_until = as_of - rule.attribution_window - rule.allowed_lateness
    if rule.complete_through:
        mature_until = max(mature_until, rule.complete_through)
    return {
        "format": FORMAT,
        "contract": {"name": contract.name, "hash": contract.hash, "zone": contract.zone},
        "rule": {
            "attribution_window": format_duration(rule.attribution_window),
            "allowed_lateness": format_duration(rule.allowed_lateness),
            "skew": format_duration(rule.skew),
            "clicks": "log" if clicks.flag is None else "in-line with a time" if clicks.event_time else "in-line without a time",
        },
        "as_of": _iso(as_of),
        "mature_until": _iso(mature_until),
        "first_event": _iso_s(summary["first_s"]),
        "last_event": _iso_s(summary["last_s"]),
        "unit": "hour" if span <= BINS * 3600 else "day" if span <= BINS * 86_400 else "month",
        "impressions": summary["rows"],
    }


def _landing(context: Context) -> dict[str, Any]:
    """Files and refusals, and whether the tables hold what the audit says."""
    audit, quarantine = context.warehouse.read("audit"), context.warehouse.read("quarantine")
    fates = ("raw", "accepted", "duplicates", "refused")
    of_log = {"files": F.count("*"), **{fate: F.sum(fate) for fate in fates}, "unbalanced": F.count_if(~_balanced())}
    logs = [row.asDict() for row in audit.groupBy("log").agg(*[c.alias(n) for n, c in of_log.items()]).orderBy("log").collect()]
    reasons = quarantine.transform(aggregates.counted_by(log=F.col("log"), reason=F.col("reason")))
    refused = {row["log"]: row["n"] for row in quarantine.transform(aggregates.counted_by(log=F.col("log"))).collect()}
    for log in logs:
        log["in_table"] = events(context, log["log"]).count()
        log["in_quarantine"] = refused.get(log["log"], 0)
    first = audit.orderBy(_balanced(), F.desc("refused"), F.desc("duplicates"), "log", "source_file").limit(FILES)
    return {
        "logs": logs,
        "files": [row.asDict() for row in first.select("log", "source_file", *fates).collect()],
        "refusals": [_renamed(row, n="rows") for row in reasons.orderBy(F.desc("n"), "log", "reason").limit(REASONS).collect()],
    }


def _balanced() -> F.Column:  # type: ignore[name-defined]
    adds_up = F.col("raw") == F.col("accepted") + F.col("duplicates") + F.col("refused")
    return adds_up & (F.least("accepted", "duplicates", "refused") >= 0)


def _volumes(impressions: DataFrame, fates: DataFrame, unit: str, zone: str) -> dict[str, Any]:
    counted = fates.where(F.col("counted") > 0)

    def series(name: str, column: F.Column) -> list[dict[str, int]]:  # type: ignore[name-defined]
        by = aggregates.counted_by(**{name: column})
        clicked = {row[name]: row["n"] for row in counted.transform(by).collect()}
        shown = impressions.transform(by).collect()
        return [{name: row[name], "impressions": row["n"], "clicked": clicked.get(row[name], 0)} for row in shown]

    bins = series("start", aggregates.start_of(unit, zone))
    return {
        "by_time": [row | {"start": _iso_s(row["start"])} for row in bins],
        "by_hour_of_day": series("hour", aggregates.hour_of_day(zone)),
    }


def _clicks(fates: DataFrame, contract: Contract, as_of: datetime) -> dict[str, Any]:
    rule = contract.label
    waits = [rule.attribution_window, rule.attribution_window + rule.allowed_lateness]
    within = sorted({*WITHIN, *waits})
    kinds = cast(Row, fates.transform(aggregates.clicks_by_kind).first()).asDict()
    delay = cast(Row, fates.transform(aggregates.delays(rule, as_of, within)).first()).asDict()
    delay |= {"within_s": _seconds(within), "waits_s": _seconds(waits)}
    by_kind = {kind: kinds[kind] for kind in aggregates.KINDS}
    return {"clicks": {"kinds": by_kind, "impressions": kinds["impressions"]}, "delay": delay}


def _seconds(spans: Sequence[timedelta]) -> list[int]:
    return [int(span.total_seconds()) for span in spans]


def _columns(context: Context, summary: Row, unit: str, exact_values: int) -> dict[str, Any]:
    contract, seen = context.contract, {name: summary["columns"][name] for name in context.contract.columns}
    texts = [name for name, column in contract.columns.items() if column.type != "number"]
    wide = {name: seen[name]["values"] / exact_values for name in texts if seen[name]["values"] > exact_values}
    sampled = {name: 2 ** ceil(log2(times)) for name, times in wide.items()}
    numbers = {name: told for name, told in seen.items() if name not in texts and told["values"] > EXACT_NUMBERS}
    grouped = {name: aggregates.grouping(told["low"], told["high"]) for name, told in numbers.items()}
    start = aggregates.start_of("month" if unit == "month" else "day", contract.zone)
    rule = aggregates.column_values(contract, start, sampled, grouped)
    values = _with_labels(context).transform(rule).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        totals = {row["column"]: row for row in values.transform(aggregates.value_totals).collect()}
        top = aggregates.most_frequent(TESTED, named=NAMED, hidden=sorted(contract.personal))
        frequent = _by_column(values.where(F.col("column").isin(texts)).transform(top))
        new = _by_column(values.where(F.col("column").isin(texts)).transform(aggregates.new_values))
        groups = _by_column(values.where(~F.col("column").isin(aggregates.EVERYTHING, *texts)).orderBy("column", "low"))
    finally:
        values.unpersist()
    columns, found = [], {}
    for name, column in contract.columns.items():
        total, one_in = totals[name], sampled.get(name, 1)
        told: dict[str, Any] = {"name": name, "of": column.of, "type": column.type, "personal": column.personal}
        told |= {"missing": {what: total[f"missing_{what}"] for what in ("rows", "labelled", "clicked")}, "one_in": one_in}
        if column.type == "number":
            present = [row for row in groups.get(name, []) if row["value"] is not None]
            told |= {"values": seen[name]["values"] if name in grouped else len(present), "about": name in grouped}
            told |= {"low": seen[name]["low"], "high": seen[name]["high"], "groups": _equal_groups(present)}
            found[name] = of_numbers([Level(row["labelled"], row["clicked"]) for row in present])
        else:
            told |= {"values": total["values"] * one_in, "about": one_in > 1}
            told["new"] = [{"start": _iso_s(row["first_s"]), "values": row["n"] * one_in} for row in new.get(name, [])]
            named = [row for row in frequent.get(name, []) if row["value"] is not None]
            told["frequent"] = [{what: row[what] for what in ("value", "rows", "labelled", "clicked")} for row in named]
            found[name] = _of_values(total, frequent.get(name, []), missing_too=one_in == 1)
        columns.append(told)
    everything = totals[aggregates.EVERYTHING]
    labels = {"rows": everything["missing_labelled"], "clicked": everything["missing_clicked"]}
    return {"labels": labels, "columns": columns, "associations": _associations(found)}


def _with_labels(context: Context) -> DataFrame:
    """Impressions with `label`, null where it has none yet."""
    impressions = events(context, "impressions").select("impression_id", "event_timestamp", *context.contract.columns)
    if not context.warehouse.exists("labels"):
        return impressions.withColumn("label", F.lit(None).cast("int"))
    return impressions.join(context.warehouse.read("labels").select("impression_id", "label"), "impression_id", "left")


def _of_values(total: Row, frequent: list[Row], *, missing_too: bool) -> Association | None:
    levels = [Level(row["labelled"], row["clicked"]) for row in frequent]
    rest = Level(*(total[f"given_{what}"] - sum(row[what] for row in frequent) for what in ("labelled", "clicked")))
    if missing_too and total["missing_labelled"]:
        levels.append(Level(total["missing_labelled"], total["missing_clicked"]))
    return of_categories(levels, rest)


def _associations(found: Mapping[str, Association | None]) -> list[dict[str, Any]]:
    """Of each column its test, strongest first; those that could not be tested last."""
    tested = {name: test for name, test in found.items() if test is not None}
    adjusted = dict(zip(tested, holm([test.p for test in tested.values()]), strict=True))
    told = []
    for name in sorted(found, key=lambda name: -abs(tested[name].effect) if name in tested else 1):
        test = asdict(tested[name]) | {"p_adjusted": adjusted[name]} if name in tested else {"test": None}
        told.append({"column": name} | {what: _rounded(value) for what, value in test.items()})
    return told


def _equal_groups(rows: list[Row]) -> list[dict[str, Any]]:
    """About NUMBER_GROUPS groups of equally many rows, by rising value; a value is never divided."""
    groups: dict[int, dict[str, Any]] = {}
    n, before = sum(row["rows"] for row in rows), 0
    for row in rows:
        at = min(NUMBER_GROUPS - 1, (2 * before + row["rows"]) * NUMBER_GROUPS // (2 * n))
        group = groups.setdefault(at, {"low": row["low"], "rows": 0, "labelled": 0, "clicked": 0})
        group["high"] = row["high"]
        for what in ("rows", "labelled", "clicked"):
            group[what] += row[what]
        before += row["rows"]
    return list(groups.values())


def _by_column(rows: DataFrame) -> dict[str, list[Row]]:
    """Few rows: their transforms bound how many."""
    found: dict[str, list[Row]] = {}
    for row in rows.collect():
        found.setdefault(row["column"], []).append(row)
    return found


def _renamed(row: Row, **names: str) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in row.asDict().items()}


def _rounded(value: Any) -> Any:
    """Six digits: what a page shows, and no more than a sum in another order could change."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _iso_s(seconds: int) -> str:
    return _iso(datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds))
