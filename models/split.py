"""The split in time: earlier and test, and folds within the earlier. A model is only ever judged on rows after its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.errors import DataError
from feature_repo.catalogue import EVENT_TIMESTAMP

FOLDS = 3  # each as large as the test: an eighth of all rows, so that the first trains on half
_EIGHTHS = 8
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
    """All before the test, and the test. cuts: times within `earlier`, its end last, at which what is trained is chosen."""

    earlier: Slice
    test: Slice
    cuts: tuple[int, ...]

    @property
    def everything(self) -> Slice:
        clicks, rows = self.earlier.clicks + self.test.clicks, self.earlier.rows + self.test.rows
        return Slice(self.earlier.from_us, self.test.until_us, rows, clicks)

    def described(self) -> dict[str, Any]:
        folds = [{"train_until": utc(cut).isoformat(), "until": utc(until).isoformat()} for cut, until in pairwise(self.cuts)]
        return {"earlier": self.earlier.described(), "test": self.test.described(), "folds": folds}


def utc(micros: int) -> datetime:
    """Microseconds since the epoch as a time."""
    return _EPOCH + timedelta(microseconds=micros)


def time_split(rows: DataFrame, test_from: datetime | None = None) -> Split:
    """The last eighth of the rows as test, or those from `test_from` on; before it the cuts of FOLDS folds, each as large.

    The cuts are the exact times of the rows of those ranks, truncated to the full hour: all rows of an hour share most of their
    counters, and a cut that reads as a time of day is easily found again. Where that leaves a part empty (a log of a few hours)
    they are truncated to the minute, then the second, then not at all. Only counts per hour come to the driver.
    Raises DataError for labels other than 0 and 1, for an empty or one-sided table, and for rows of too few different times.
    """
    test_from_us = None if test_from is None else int((test_from - _EPOCH) / timedelta(microseconds=1))
    # a cut that was given must not lie within a step
    for grain in (grain for grain in _GRAINS_US if not (test_from_us or 0) % grain):
        tally = _tally(rows, grain)
        _check(rows, tally)
        if split := split_tally(tally, grain, test_from_us):
            return split
    raise DataError(
        f"training set: {sum(n for _, n, _, _ in tally)} rows at {len(tally)} different times, expected enough for a test slice"
        + (f" from {test_from} on" if test_from else "") + ", and for a later one before it"
    )  # fmt: skip


def split_tally(tally: Sequence[tuple[int, int, int, int]], grain_us: int, test_from_us: int | None = None) -> Split | None:
    """The split from (time, rows, clicks, refused labels) by rising time, in steps of `grain_us`; None if a part is empty."""
    begin, end = tally[0][0], tally[-1][0] + grain_us
    test_from = _time_of_rank(tally, _all_rows(tally) * (_EIGHTHS - 1) // _EIGHTHS) if test_from_us is None else test_from_us
    earlier = [counts for counts in tally if counts[0] < test_from]
    if not earlier or not test_from < end:
        return None
    parts = _EIGHTHS - 1
    ranks = [_all_rows(earlier) * (parts - back) // parts for back in range(FOLDS, 0, -1)]
    cuts = sorted({*(_time_of_rank(earlier, rank) for rank in ranks), test_from} - {begin})
    if len(cuts) < 2:
        return None
    return Split(_slice(tally, begin, test_from), _slice(tally, test_from, end), tuple(cuts))


def _all_rows(tally: Sequence[tuple[int, int, int, int]]) -> int:
    return sum(rows for _, rows, _, _ in tally)


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
