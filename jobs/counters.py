"""Windowed counters of a key, hourly, by the time at which an event became known.

An event's hour is floor(known time) + 1 h, the first full hour that knows of it. Its tile adds +n there and -n one window later,
so that one running sum a key gives every window as an exact integer. A row stands at every hour with an event or an expiry; the
last row of a key that fell silent holds zeros.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

_HOUR_US = 3_600_000_000
AT = "known_timestamp"
_IMPRESSION, _CLICK = "__impression", "__click"  # of an event 0 or 1, of a tile their sums


def first_hour() -> Column:
    """The first full hour that knows of an event, in hours since 1970."""
    return F.floor(F.unix_micros(AT) / F.lit(_HOUR_US)).cast("bigint") + 1


def events_of(counted: DataFrame, columns: Sequence[str]) -> Callable[[DataFrame], DataFrame]:
    """Impressions and their counted clicks -> one row an event: `columns`, when it became known, impression or click as 0 / 1."""

    def transform(impressions: DataFrame) -> DataFrame:
        shown = impressions.select("impression_id", *columns, AT)
        clicked = shown.drop(AT).join(counted.select("impression_id", F.col("counted_timestamp").alias(AT)), "impression_id")
        as_impression = shown.select(*columns, AT, F.lit(1).alias(_IMPRESSION), F.lit(0).alias(_CLICK))
        return as_impression.union(clicked.select(*columns, AT, F.lit(0).alias(_IMPRESSION), F.lit(1).alias(_CLICK)))

    return transform


def windowed_counters(
    key: Sequence[str], windows: Mapping[str, int], *, publication_delay: timedelta
) -> Callable[[DataFrame], DataFrame]:
    """Events -> the key's counter rows: key columns, hour, published_at, created, counts per window, last-seen times, date.

    windows: name -> hours. Counts at hour h are of events known in [h - window, h). `last_*_us`: newest known time, in
    microseconds, of an impression or click in the longest window, null where it holds none. Rows out are at most (1 + windows)
    times the key's hours with an event.
    """
    longest = max(windows, key=lambda name: windows[name])

    def transform(events: DataFrame) -> DataFrame:
        known = events.dropna(subset=list(key)) if key else events
        # summed before they are shuffled, or a busy key's events would all go to one task
        tiles = known.groupBy(*key, first_hour().alias("hour")).agg(
            F.sum(_IMPRESSION).alias(_IMPRESSION),
            F.sum(_CLICK).alias(_CLICK),
            F.max(F.when(F.col(_IMPRESSION) == 1, F.unix_micros(AT))).alias("last_impression_us"),
            F.max(F.when(F.col(_CLICK) == 1, F.unix_micros(AT))).alias("last_click_us"),
        )
        steps = F.array(_arrival(windows), *[_expiry(windows, name) for name in windows])
        deltas = (tiles.repartition(*key) if key else tiles.repartition(1)).select(*key, F.inline(steps))
        deltas = deltas.groupBy(*key, "hour").agg(
            *[F.sum(name).alias(name) for name in _counts(windows)],
            F.max("last_impression_us").alias("last_impression_us"),
            F.max("last_click_us").alias("last_click_us"),
        )
        so_far = Window.partitionBy(*key).orderBy("hour").rowsBetween(Window.unboundedPreceding, Window.currentRow)
        sums = deltas.select(
            *key,
            "hour",
            *[F.sum(name).over(so_far).alias(name) for name in _counts(windows)],
            F.max("last_impression_us").over(so_far).alias("last_impression_us"),
            F.max("last_click_us").over(so_far).alias("last_click_us"),
        )
        full_hour = F.timestamp_micros(F.col("hour") * F.lit(_HOUR_US))
        published = full_hour + F.make_dt_interval(secs=F.lit(publication_delay.total_seconds()))
        return sums.select(
            *key,
            full_hour.alias("hour"),
            published.alias("published_at"),
            published.alias("created"),
            *_counts(windows),
            F.when(F.col(f"impressions_{longest}") > 0, F.col("last_impression_us")).alias("last_impression_us"),
            F.when(F.col(f"clicks_{longest}") > 0, F.col("last_click_us")).alias("last_click_us"),
            F.to_date(full_hour).alias("date"),
        )

    return transform


def _counts(windows: Mapping[str, int]) -> list[str]:
    return [f"{what}_{name}" for name in windows for what in ("impressions", "clicks")]


def _step(windows: Mapping[str, int], after_hours: int, counted: Mapping[str, int], last: bool) -> Column:
    """One struct of the running sum's input: what changes `after_hours` behind the tile's hour, `counted` as sign by window."""
    changes = [
        (F.col(of) * counted.get(name, 0)).alias(f"{what}_{name}")
        for name in windows
        for what, of in (("impressions", _IMPRESSION), ("clicks", _CLICK))
    ]
    seen = [
        (F.col(name) if last else F.lit(None).cast("bigint")).alias(name) for name in ("last_impression_us", "last_click_us")
    ]
    return F.struct((F.col("hour") + after_hours).alias("hour"), *changes, *seen)


def _arrival(windows: Mapping[str, int]) -> Column:
    return _step(windows, 0, dict.fromkeys(windows, 1), last=True)


def _expiry(windows: Mapping[str, int], name: str) -> Column:
    return _step(windows, windows[name], {name: -1}, last=False)
