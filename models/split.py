"""The split in time: train, early stopping, test, later rows each. A model is only ever judged on rows after its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.errors import DataError
from feature_repo.catalogue import EVENT_TIMESTAMP

STOP_SHARE, TEST_SHARE = (6, 8), (7, 8)  # of all rows lie before the early-stopping and the test slice: 75 and 87.5 %
_GRAINS_US = (3_600_000_000, 60_000_000, 1_000_000, 1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Slice:
    """Rows with from_us <= event time < until_us (microseconds since the epoch), and how many of them are clicks."""

    from_us: int
    until_us: int
    rows: int
    clicks: int

    @property
    def learnable(self) -> bool:
        """Whether both labels are there."""
        return 0 < self.clicks < self.rows

    def click_rate(self, negatives_kept: float) -> float:
        """Clicks per impression before negatives were dropped to the share given."""
        return self.clicks / (self.clicks + (self.rows - self.clicks) / negatives_kept)

    def within(self) -> Column:
        """True for the slice's rows."""
        micros = F.unix_micros(EVENT_TIMESTAMP)
        return (micros >= F.lit(self.from_us)) & (micros < F.lit(self.until_us))

    def described(self) -> dict[str, str | int]:
        """As kept in the bundle: UTC times in ISO 8601, rows, clicks."""
        times = {name: utc(at).isoformat() for name, at in (("from", self.from_us), ("until", self.until_us))}
        return {**times, "rows": self.rows, "clicks": self.clicks}


@dataclass(frozen=True)
class Split:
    train: Slice
    stop: Slice
    test: Slice

    @property
    def earlier(self) -> Slice:
        """All before the test."""
        return _joined(self.train, self.stop)

    @property
    def everything(self) -> Slice:
        return _joined(self.earlier, self.test)

    def described(self) -> dict[str, dict[str, str | int]]:
        return {"train": self.train.described(), "early_stopping": self.stop.described(), "test": self.test.described()}


def utc(micros: int) -> datetime:
    """Microseconds since the epoch as a time."""
    return _EPOCH + timedelta(microseconds=micros)


def time_split(rows: DataFrame) -> Split:
    """Train, early stopping and test, about 75, 12.5 and 12.5 % of the rows.

    The cuts are the exact times of the rows of those ranks, truncated to the full hour: all rows of an hour share most of their
    counters, and a cut that reads as a time of day is easily found again. Where that leaves a slice empty (a log of a few hours)
    they are truncated to the minute, then the second, then not at all. Only counts per hour come to the driver.
    Raises DataError for labels other than 0 and 1, for an empty or one-sided table, and for rows of too few different times.
    """
    for grain in _GRAINS_US:
        tally = _tally(rows, grain)
        if grain == _GRAINS_US[0]:
            _check(rows, tally)
        if split := split_tally(tally, grain):
            return split
    raise DataError(
        f"training set: {sum(n for _, n, _, _ in tally)} rows at {len(tally)} different times, expected enough for a train, "
        "an early-stopping and a test slice, later ones each"
    )


def split_tally(tally: Sequence[tuple[int, int, int, int]], grain_us: int) -> Split | None:
    """The split from (time, rows, clicks, refused labels) by rising time, in steps of `grain_us`; None if a slice is empty."""
    total = sum(rows for _, rows, _, _ in tally)
    stop_from = _time_of_rank(tally, total * STOP_SHARE[0] // STOP_SHARE[1])
    test_from = _time_of_rank(tally, total * TEST_SHARE[0] // TEST_SHARE[1])
    borders = (tally[0][0], stop_from, test_from, tally[-1][0] + grain_us)
    if sorted(set(borders)) != list(borders):
        return None
    return Split(*(_slice(tally, *ends) for ends in pairwise(borders)))


def _tally(rows: DataFrame, grain_us: int) -> list[tuple[int, int, int, int]]:
    micros = F.unix_micros(EVENT_TIMESTAMP)
    good = F.coalesce(F.col("label").isin(0, 1), F.lit(False))
    counted = rows.groupBy((micros - F.pmod(micros, F.lit(grain_us))).alias("at")).agg(
        F.count("*"), F.count_if(good & (F.col("label") == 1)), F.count_if(~good)
    )
    return [(row[0], row[1], row[2], row[3]) for row in counted.orderBy("at").collect()]


def _check(rows: DataFrame, tally: Sequence[tuple[int, int, int, int]]) -> None:
    total, clicks, refused = (sum(counts[index] for counts in tally) for index in (1, 2, 3))
    if total == 0:
        raise DataError("training set: no rows, expected mature impressions with labels")
    if refused:
        bad = rows.where(~F.coalesce(F.col("label").isin(0, 1), F.lit(False))).groupBy("label").count()
        found = bad.orderBy(F.desc("count"), "label").limit(5).collect()
        said = ", ".join(f"{'null' if row[0] is None else row[0]} in {row[1]:,} rows" for row in found)
        raise DataError(f"training set: found label {said}; expected 0 or 1 in every row")
    if clicks in (0, total):
        kind = "no clicks at all" if clicks == 0 else "clicks only"
        raise DataError(f"training set: found {kind} among {total:,} rows, expected both labels: there is nothing to learn from")


def _time_of_rank(tally: Sequence[tuple[int, int, int, int]], rank: int) -> int:
    for at, rows, _, _ in tally:
        if rank < rows:
            return at
        rank -= rows
    return tally[-1][0]


def _slice(tally: Sequence[tuple[int, int, int, int]], from_us: int, until_us: int) -> Slice:
    inside = [counts for counts in tally if from_us <= counts[0] < until_us]
    return Slice(from_us, until_us, sum(counts[1] for counts in inside), sum(counts[2] for counts in inside))


def _joined(first: Slice, second: Slice) -> Slice:
    return Slice(first.from_us, second.until_us, first.rows + second.rows, first.clicks + second.clicks)
