"""What the profile counts: transforms from a log's tables to small ones. Sums of integers, whatever the order of rows."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from math import log1p

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from conf.contract import Contract, Label
from jobs.attribution import in_time, in_window, is_mature
from jobs.parsing import later

Transform = Callable[[DataFrame], DataFrame]

EVERYTHING = ""  # stands for all rows where a column's name stands; no contract can name a column so
GROUPS = 1000  # of a number's values, on each side of zero
KINDS = ("counted", "repeated", "before", "after", "late", "orphan")


def summary(contract: Contract) -> Transform:
    """Impressions -> one row: rows, first_s, last_s (event time, Unix seconds), and for each column in `columns` how many rows
    give it, about how many values it has (by HyperLogLog), and the ends of a number."""

    def told(name: str) -> Column:
        given, values = F.count(name).alias("given"), F.approx_count_distinct(name).alias("values")
        number = F.col(name) if contract.columns[name].type == "number" else F.lit(None).cast("double")
        return F.struct(given, values, F.min(number).alias("low"), F.max(number).alias("high")).alias(name)

    def transform(impressions: DataFrame) -> DataFrame:
        seconds = F.unix_seconds("event_timestamp")
        ends = F.min(seconds).alias("first_s"), F.max(seconds).alias("last_s")
        return impressions.agg(F.count("*").alias("rows"), *ends, F.struct(*map(told, contract.columns)).alias("columns"))

    return transform


def start_of(unit: str, zone: str) -> Column:
    """The Unix second at which the event's `hour`, `day` or `month` began.

    Hours are UTC's, which no change of clocks doubles; days and months begin at midnight in `zone`.
    """
    event = F.col("event_timestamp")
    if unit == "hour":
        return F.unix_seconds(F.date_trunc(unit, event))
    return F.unix_seconds(F.to_utc_timestamp(F.date_trunc(unit, F.from_utc_timestamp(event, zone)), zone))


def hour_of_day(zone: str) -> Column:
    return F.hour(F.from_utc_timestamp(F.col("event_timestamp"), zone))


def counted_by(**keys: Column) -> Transform:
    """Rows -> (keys, n), by keys."""

    def transform(rows: DataFrame) -> DataFrame:
        columns = [column.alias(name) for name, column in keys.items()]
        return rows.groupBy(*columns).agg(F.count("*").alias("n")).orderBy(*keys)

    return transform


def click_fates(impressions: DataFrame, label: Label) -> Transform:
    """Clicks -> one row for each impression id that they name: event time (null where no such impression), how many of its
    clicks were of which kind, and two delays after the impression in microseconds.

    `click_delay_us`: until its first click, however late; `known_delay_us`: until a click within the window was known.
    """
    shown = impressions.select("impression_id", "event_timestamp")

    def transform(clicks: DataFrame) -> DataFrame:
        clicked = clicks.select("impression_id", "click_timestamp", F.col("known_timestamp").alias("click_known"))
        event, click, known = F.col("event_timestamp"), F.col("click_timestamp"), F.col("click_known")
        on_time = in_window(label) & in_time(label)
        since = F.unix_micros(event)
        return (
            clicked.join(shown, "impression_id", "left")
            .groupBy("impression_id")
            .agg(
                F.max(event).alias("event_timestamp"),
                F.count_if(event.isNull()).alias("orphan"),
                F.count_if(click < later(event, -label.skew)).alias("before"),
                F.count_if(click > later(event, label.attribution_window)).alias("after"),
                F.count_if(in_window(label) & ~in_time(label)).alias("late"),
                F.least(F.count_if(on_time), F.lit(1)).alias("counted"),
                F.greatest(F.count_if(on_time) - 1, F.lit(0)).alias("repeated"),
                F.min(F.when(click >= later(event, -label.skew), F.unix_micros(click) - since)).alias("click_delay_us"),
                F.min(F.when(in_window(label), F.unix_micros(known) - since)).alias("known_delay_us"),
            )
        )

    return transform


def clicks_by_kind(fates: DataFrame) -> DataFrame:
    """One row: clicks of each kind, and how many impression ids have any."""
    sums = [F.coalesce(F.sum(kind), F.lit(0)).alias(kind) for kind in KINDS]
    return fates.agg(*sums, F.count("*").alias("impressions"))


def delays(label: Label, as_of: datetime, within: Sequence[timedelta]) -> Transform:
    """Fates -> one row over mature impressions: those with a click (`clicked`), with one in the window (`in_window`), and of
    both how many came within each of `within` (arrays `click_within`, `known_within`)."""

    def share(delay: str) -> Column:
        return F.array(*[F.count_if(F.col(delay) <= int(limit / timedelta(microseconds=1))) for limit in within])

    def transform(fates: DataFrame) -> DataFrame:
        return fates.where(is_mature(label, as_of)).agg(
            F.count("click_delay_us").alias("clicked"),
            F.count("known_delay_us").alias("in_window"),
            share("click_delay_us").alias("click_within"),
            share("known_delay_us").alias("known_within"),
        )

    return transform


def grouping(low: float, high: float) -> float:
    """How finely `column_values` groups a number between `low` and `high`: at most GROUPS groups on each side of zero."""
    return GROUPS / log1p(max(abs(low), abs(high)))


def column_values(contract: Contract, start: Column, sampled: Mapping[str, int], grouped: Mapping[str, float]) -> Transform:
    """Impressions with `label` (null where there is none yet) -> one row for each column and value: rows, how many of them
    have a label, how many were clicked, the value's first `start`, and a number's ends. A null value is the missing one.

    sampled: column -> m: only values whose hash divides by m, all rows of these. grouped: number -> how finely its values go
    together, finest near zero; others stay apart. One row named EVERYTHING holds the sums.
    """

    def item(name: str) -> Column:
        number, value = F.lit(None).cast("double"), F.col(name)
        if contract.columns[name].type == "number":
            number = value + F.lit(0.0)  # -0 is 0
            value = number
            if name in grouped:
                value = (F.signum(number) * F.floor(F.log1p(F.abs(number)) * grouped[name])).cast("bigint")
        told = F.struct(F.lit(name).alias("column"), value.cast("string").alias("value"), number.alias("number"))
        if name not in sampled:
            return told
        return F.when(value.isNull() | (F.pmod(F.xxhash64(value), F.lit(sampled[name])) == 0), told)

    def transform(impressions: DataFrame) -> DataFrame:
        everything = F.struct(F.lit(EVERYTHING).alias("column"), F.lit(None).cast("string").alias("value"),
                              F.lit(None).cast("double").alias("number"))  # fmt: skip
        items = F.explode(F.array(everything, *map(item, contract.columns))).alias("item")
        rows = impressions.select("label", start.alias("start"), items).where(F.col("item").isNotNull())
        return rows.groupBy("item.column", "item.value").agg(
            F.count("*").alias("rows"),
            F.count("label").alias("labelled"),
            F.coalesce(F.sum("label"), F.lit(0)).alias("clicked"),
            F.min("item.number").alias("low"),
            F.max("item.number").alias("high"),
            F.min("start").alias("first_s"),
        )

    return transform


def most_frequent(n: int, *, named: int, hidden: Sequence[str]) -> Transform:
    """Values -> of each column the `n` with most rows, in order; `value` is null after rank `named` and for `hidden` columns."""

    def transform(values: DataFrame) -> DataFrame:
        order = Window.partitionBy("column").orderBy(F.desc("rows"), "value")
        ranked = values.where(F.col("value").isNotNull()).withColumn("rank", F.row_number().over(order))
        shown = (F.col("rank") <= named) & ~F.col("column").isin(*hidden)
        told = F.when(shown, F.col("value")).alias("value")
        frequent = ranked.where(F.col("rank") <= n).select("column", "rank", told, "rows", "labelled", "clicked")
        return frequent.orderBy("column", "rank")

    return transform


def value_totals(values: DataFrame) -> DataFrame:
    """Values -> one row for each column: values without the missing one, and the sums of given and of missing rows."""
    given = F.col("value").isNotNull()
    sums = [
        F.coalesce(F.sum(F.when(condition, F.col(what))), F.lit(0)).alias(f"{name}_{what}")
        for name, condition in (("given", given), ("missing", ~given))
        for what in ("rows", "labelled", "clicked")
    ]
    return values.groupBy("column").agg(F.count("value").alias("values"), *sums).orderBy("column")


def new_values(values: DataFrame) -> DataFrame:
    """Values -> (column, first_s, n): how many values each column had for the first time from `first_s` on."""
    return values.where(F.col("value").isNotNull()).transform(counted_by(column=F.col("column"), first_s=F.col("first_s")))
