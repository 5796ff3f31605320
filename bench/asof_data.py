"""What the as-of engines are measured on: impressions and three sparse hourly histories, the same rows on every machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

START = datetime(2026, 3, 2, tzinfo=UTC)
HOURS = 14 * 24
TTL = timedelta(days=7)
ROWS = "rows"  # below a table of impressions, beside its results
TIME, CREATED = "published_at", "created"
VALUES = ("impressions_1h", "clicks_1h", "impressions_1d", "clicks_1d", "impressions_7d", "clicks_7d", "last_click_us")
_USERS, _ADS, _PLACEMENTS = 200_000, 400, 10
_HOUR_US = 3_600_000_000


@dataclass(frozen=True)
class Source:
    """A history: its table, its key, and how many (key, hour) are drawn; those drawn twice are one row."""

    table: str
    on: tuple[str, ...]
    drawn: int

    @property
    def values(self) -> dict[str, str]:
        return {name: f"{self.table}__{name}" for name in VALUES}


SOURCES = (
    Source("user", ("user_id",), 2_010_000),
    Source("pair", ("ad_id", "placement_id"), 625_000),
    Source("ad", ("ad_id",), 79_500),
)


def result_columns() -> list[str]:
    return ["impression_id", *[name for source in SOURCES for name in source.values.values()]]


def write_data(spark: SparkSession, folder: Path, impressions: Mapping[str, int]) -> None:
    """Parquet tables `user`, `pair`, `ad`, and impressions by name and count: fewer are the first ones of more."""
    for name, count in impressions.items():
        _impressions(spark, count).write.parquet(str(folder / name / ROWS))
    for source in SOURCES:
        _history(spark, source).write.parquet(str(folder / source.table))


def _impressions(spark: SparkSession, count: int) -> DataFrame:
    """One user in fifty is null, one impression in ten is of the ad a0. No time is a full hour: nothing ends exactly at a ttl."""
    micros = F.lit(round(START.timestamp() * 1_000_000)) + _draw("time", HOURS * 3_600_000) * 1_000 + 137
    return spark.range(count).select(
        F.format_string("i%09d", "id").alias("impression_id"),
        F.when(_draw("known", 50) > 0, _user()).alias("user_id"),
        F.when(_draw("busy", 10) > 0, _ad()).otherwise("a0").alias("ad_id"),
        _placement().alias("placement_id"),
        F.timestamp_micros(micros).alias("event_timestamp"),
    )


def _history(spark: SparkSession, source: Source) -> DataFrame:
    """Rows lie by key and time, as jobs/count.py leaves them."""
    makers = {"user_id": _user, "ad_id": _ad, "placement_id": _placement}
    hour = F.lit(round(START.timestamp() * 1_000_000)) + _draw("hour", HOURS) * _HOUR_US
    cells = spark.range(source.drawn).select(*[makers[name]().alias(name) for name in source.on], hour.alias("us"))
    rows = cells.repartition(4, *source.on).distinct().withColumn("id", F.xxhash64(*source.on, "us"))
    return rows.select(
        *source.on,
        F.timestamp_micros("us").alias(TIME),
        F.timestamp_micros("us").alias(CREATED),
        *[_draw(name, 40 if name.startswith("impressions") else 4).alias(name) for name in VALUES[:-1]],
        F.when(_draw("clicked", 2) > 0, F.col("us") - _draw("last", _HOUR_US)).alias(VALUES[-1]),
    ).sortWithinPartitions(*source.on, TIME)


def _draw(what: str, below: int) -> Column:
    """A whole number from 0 to `below` - 1 that depends on `id` and `what` alone."""
    return F.pmod(F.xxhash64("id", F.lit(what)), F.lit(below))


def _user() -> Column:
    """64 hex digits, as personal ids are stored; a few users are seen often."""
    return F.sha2(F.floor(F.pow(_draw("user", 1 << 30) / F.lit(1 << 30), 2) * _USERS).cast("string"), 256)


def _ad() -> Column:
    return F.concat(F.lit("a"), _draw("ad", _ADS))


def _placement() -> Column:
    return F.concat(F.lit("p"), _draw("placement", _PLACEMENTS))
