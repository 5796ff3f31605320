"""The as-of join against a brute-force oracle: every left row once, the newest row that was there, never a later one."""

import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs import asof
from jobs.asof import History, as_of_join

START = datetime(2026, 3, 1, tzinfo=UTC)
TTL = timedelta(hours=30)
MICROSECOND = timedelta(microseconds=1)
CASES = 10_000
FUTURE = -1  # value of rows that begin a microsecond after a left row
EVERYTHING_SMALL, EVERYTHING_LARGE = 2**70, -1


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def case(number: int) -> tuple[list[Any], list[Any], list[Any]]:
    """Left rows and two histories of one case, its number inside the keys: ties, nulls, equal times, rows that share all.

    A row of the future stands right behind every left row that has none at that time.
    """
    rng = random.Random(number)
    key = f"k{number}"
    hours = [0, 0.5, 1, 1, 23, 24, 25, 48, 54, 54.5, 55]
    moments = [at(rng.choice(hours)) + rng.choice([0, 0, 1, -1]) * MICROSECOND for _ in range(rng.randrange(1, 4))]
    moments += moments[:1]
    left = [(f"{number}-{i}", rng.choice([key, key, None]), rng.choice(["x", "y", None]), m) for i, m in enumerate(moments)]
    made = [*range(5), None]
    rng.shuffle(made)
    single = [(rng.choice([key, key, None]), at(rng.choice(hours)), made_at(c), rng.choice([made_number(c), None])) for c in made]
    cross = [(key, rng.choice(["x", "y"]), at(rng.choice(hours)), made_at(c), made_number(c)) for c in made[:4]]
    single, cross = single[: rng.randrange(7)], cross[: rng.randrange(5)]
    future = [moment + MICROSECOND for moment in set(moments) if not {moment + MICROSECOND} & set(moments)]
    single += [(key, moment, made_at(9), FUTURE) for moment in future]
    cross += [(key, side, moment, made_at(9), FUTURE) for moment in future for side in "xy"]
    return left, single, cross


def made_at(number: int | None) -> datetime | None:
    return None if number is None else at(number)


def made_number(number: int | None) -> int:
    return 100 if number is None else number


def newest(moment: datetime, rows: list[tuple[datetime, datetime | None, Any]]) -> Any:
    """The value of the newest row (ties by created, null the oldest) at `moment`, None where none holds."""
    there = [row for row in rows if row[0] <= moment]
    if not there:
        return None
    time, _, value = max(there, key=lambda row: (row[0], row[1] or at(-1)))
    return value if moment < time + TTL else None


def history(rows: DataFrame, on: list[str], values: Mapping[str, str] | None = None) -> History:
    return History(rows, on, "since", "made", values or {"v": "v"}, TTL)


SINGLE = "key string, since timestamp, made timestamp, v int"
LEFT = "key string, moment timestamp"


@pytest.mark.parametrize("limit", [EVERYTHING_SMALL, EVERYTHING_LARGE])
def test_it_equals_the_oracle_on_generated_cases(spark: SparkSession, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(asof, "BROADCAST_BYTES", limit)
    cases = [case(number) for number in range(CASES)]
    left = [row for rows, _, _ in cases for row in rows]
    single = spark.createDataFrame([row for _, rows, _ in cases for row in rows], SINGLE)
    cross = spark.createDataFrame(
        [row for _, _, rows in cases for row in rows], "key string, side string, since timestamp, made timestamp, v int"
    )
    joined = as_of_join(
        spark.createDataFrame(left, "id string, key string, side string, moment timestamp"),
        [history(single, ["key"], {"v": "single"}), history(cross, ["key", "side"], {"v": "cross"})],
        time="moment",
    )
    found = sorted(joined.select("id", "single", "cross").collect())
    expected = []
    for rows, of_key, of_both in cases:
        for name, key, side, moment in rows:
            one = newest(moment, [r[1:] for r in of_key if r[0] == key]) if key else None
            both = newest(moment, [r[2:] for r in of_both if r[:2] == (key, side)]) if key and side else None
            expected.append((name, one, both))
    expected.sort()
    assert [tuple(row) for row in found] == expected
    assert any(one is not None and both is not None for _, one, both in expected)


def test_a_row_of_the_future_never_shows(spark: SparkSession) -> None:
    left = spark.createDataFrame([("k", at(2)), ("k", at(2) + MICROSECOND)], LEFT)
    planted = spark.createDataFrame([("k", at(1), at(1), 7), ("k", at(2) + MICROSECOND, at(0), FUTURE)], SINGLE)
    joined = as_of_join(left, [history(planted, ["key"])], time="moment")
    assert {row.moment.microsecond: row.v for row in joined.collect()} == {0: 7, 1: FUTURE}


def test_rows_that_share_everything_all_come_back(spark: SparkSession) -> None:
    left = spark.createDataFrame([("k", at(2))] * 3, LEFT)
    joined = as_of_join(left, [history(spark.createDataFrame([("k", at(1), at(1), 7)], SINGLE), ["key"])], time="moment")
    assert [row.v for row in joined.collect()] == [7, 7, 7]


@pytest.mark.parametrize("limit", [EVERYTHING_SMALL, EVERYTHING_LARGE])
@pytest.mark.parametrize("rows", [[], [(None, at(1), at(1), 7)]], ids=["no rows", "no key"])
def test_a_history_of_nothing_leaves_nulls(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, limit: int, rows: list[Any]
) -> None:
    monkeypatch.setattr(asof, "BROADCAST_BYTES", limit)
    left = spark.createDataFrame([("k", at(2)), (None, at(2)), ("k", None)], LEFT)
    joined = as_of_join(left, [history(spark.createDataFrame(rows, SINGLE), ["key"])], time="moment")
    assert [row.v for row in joined.collect()] == [None, None, None]


def test_the_empty_key_has_one_history_for_all(spark: SparkSession) -> None:
    left = spark.createDataFrame([("a", at(2)), (None, at(40)), ("b", None)], LEFT)
    rows = spark.createDataFrame([("x", at(1), at(1), 7), ("y", at(3), at(1), 8)], SINGLE)
    joined = as_of_join(left, [history(rows, [])], time="moment")
    assert {row.key: row.v for row in joined.collect()} == {"a": 7, None: None, "b": None}


def test_without_histories_nothing_changes(spark: SparkSession) -> None:
    left = spark.createDataFrame([("k", at(2))], LEFT)
    assert as_of_join(left, [], time="moment").collect() == left.collect()


@pytest.mark.parametrize(
    ("schema", "values", "says"),
    [
        (SINGLE.replace("key string", "key int"), {"v": "v"}, "key is string on the left, int in the history"),
        (SINGLE.replace("since timestamp", "since date"), {"v": "v"}, "since is date, expected timestamp"),
        (SINGLE, {"v": "moment"}, "has moment already"),
    ],
)
def test_columns_that_do_not_fit_are_refused(spark: SparkSession, schema: str, values: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        as_of_join(
            spark.createDataFrame([], LEFT), [history(spark.createDataFrame([], schema), ["key"], values)], time="moment"
        )
