"""Which clicks count, from when on, and which impressions are mature: the one predicate behind labels and counters alike."""

from collections.abc import Callable
from datetime import date, datetime, timedelta

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from conf.contract import Label
from conf.durations import format_duration
from jobs.parsing import later
from jobs.touched import days_before

COUNTED = "counted_timestamp"
_RULE_VERSION = 1  # of `counted_clicks` itself


def label_version(label: Label) -> str:
    """What a label depends on besides the data: window, lateness, skew and the version of the rule."""
    parts = (label.attribution_window, label.allowed_lateness, label.skew)
    return "-".join([*(format_duration(part) for part in parts), f"r{_RULE_VERSION}"])


def in_window(label: Label) -> Column:
    """Whether a click, joined to its impression, fell into [impression - skew, impression + window]."""
    event, click = F.col("event_timestamp"), F.col("click_timestamp")
    return click.between(later(event, -label.skew), later(event, label.attribution_window))


def in_time(label: Label) -> Column:
    """Whether a click, joined to its impression, became known (`click_known`) before the lateness after the window was over."""
    return F.col("click_known") <= later(F.col("event_timestamp"), label.attribution_window + label.allowed_lateness)


def counted_clicks(clicks: DataFrame, label: Label) -> Callable[[DataFrame], DataFrame]:
    """Impressions -> (impression_id, click_timestamp, counted_timestamp) of those with a click that counts, one row each.

    A click counts if it fell into [impression - skew, impression + window] and became known before the lateness after the
    window was over. Of several the first to become known counts: a click that is known later, though it happened earlier,
    cannot move an hour that was counted already. It counts from the later of the two known times on.
    """

    def transform(impressions: DataFrame) -> DataFrame:
        shown = impressions.select("impression_id", "event_timestamp", F.col("known_timestamp").alias("shown_known"))
        clicked = clicks.select("impression_id", "click_timestamp", F.col("known_timestamp").alias("click_known"))
        first = F.min(F.struct("click_known", "click_timestamp", "shown_known")).alias("first")
        return (
            shown.join(clicked, "impression_id")
            .where(in_window(label) & in_time(label))
            .groupBy("impression_id")
            .agg(first)
            .select(
                "impression_id",
                F.col("first.click_timestamp"),
                F.greatest("first.click_known", "first.shown_known").alias(COUNTED),
            )
        )

    return transform


def fates(impressions: DataFrame, clicks: DataFrame, label: Label, *, within: timedelta, since: date) -> DataFrame:
    """What became of the clicks dated `since` or later: (date, fate, known_after_h, clicks), one row for each kind and delay.

    fate: counted; repeated (another click of the impression was known first); before or after the attribution window; late
    (in the window, known after the lateness); orphan (no impression within the days `within` around it has its id).
    known_after_h: full hours from the impression until the click was known, null for orphans.
    """
    # earlier clicks of the same impressions may have been first
    mine = clicks.where(F.col("date") >= F.lit(days_before(since, label.attribution_window + label.skew)))
    shown = impressions.where(F.col("date") >= F.lit(since - within))
    shown = shown.select("impression_id", "event_timestamp", F.col("date").alias("shown_on"))
    clicked = mine.select("impression_id", "click_timestamp", F.col("known_timestamp").alias("click_known"), "date")
    days = F.lit(within.days)
    near = (clicked.impression_id == shown.impression_id) & (F.abs(F.datediff("date", "shown_on")) <= days)
    event, click = F.col("event_timestamp"), F.col("click_timestamp")
    good = in_window(label) & in_time(label)
    of_impression = Window.partitionBy(clicked.impression_id, "event_timestamp")
    first = F.min(F.when(good, F.struct("click_known", "click_timestamp"))).over(of_impression)
    fate = (
        F.when(event.isNull(), "orphan")
        .when(click < later(event, -label.skew), "before")
        .when(click > later(event, label.attribution_window), "after")
        .when(~good, "late")
        .when(first == F.struct("click_known", "click_timestamp"), "counted")
        .otherwise("repeated")
    )
    hours = F.floor((F.unix_micros("click_known") - F.unix_micros("event_timestamp")) / F.lit(3_600_000_000))
    told = clicked.join(shown, near, "left").select("date", fate.alias("fate"), hours.alias("known_after_h"))
    return told.where(F.col("date") >= F.lit(since)).groupBy("fate", "known_after_h", "date").agg(F.count("*").alias("clicks"))


def newest_known(impressions: DataFrame, clicks: DataFrame) -> datetime | None:
    """The newest known time of the log, which is where its clock stands; None for an empty log."""
    known = impressions.select("known_timestamp").union(clicks.select("known_timestamp"))
    row = known.agg(F.date_format(F.max("known_timestamp"), "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX")).first()
    return datetime.fromisoformat(row[0]) if row and row[0] else None


def is_mature(label: Label, as_of: datetime) -> Column:
    """Whether no click that could count for an impression can still become known at `as_of`."""
    waited = later(F.col("event_timestamp"), label.attribution_window + label.allowed_lateness) <= F.lit(as_of)
    if label.complete_through is None:
        return waited
    return waited | (F.col("event_timestamp") < F.lit(label.complete_through))


def log_time(newest: datetime, label: Label) -> datetime:
    """Where the log's clock stands: its newest known time, or the time through which it is declared whole, if later."""
    return max(newest, label.complete_through) if label.complete_through else newest
